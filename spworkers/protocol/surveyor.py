"""SURVEYOR: one survey at a time per context, to all respondents, for a limited time.

    send   header = 1|survey id; the body is the program's
    wire   header ‖ body
    recv   header = the survey's id; answers to no survey of ours are dropped

```
            context_message
   (none) ─────────────────▶ running ──▶ answers, as many as come in time
      ▲                        │
      └── SURVEY-TIME, context_closed
```
A new message of a context ends its former survey: what was answered to that and not taken yet is taken back. When the
time is over the receiver gets RecvTimeoutError behind the answers. An answer that finds the queue full (READQ-LEN) is
dropped; with SURVEY-TIME 0 a survey ends only with the next one.

A survey's message stays claimed as long as it runs. So a successor of this I/O process finds it, and asks again
everybody who connects before the time, counted anew, is over; some may answer twice.
"""

from __future__ import annotations

from typing import Any, Final

from spworkers.chance import random_bits
from spworkers.protocol.alarms import Alarm, Alarms
from spworkers.protocol.fanout import Fanout
from spworkers.protocol.machine import (
    CANCELED,
    CONGESTED,
    DATA,
    GARBLED,
    NO_PEERS,
    UNEXPECTED,
    UNKNOWN_REPLY,
    Actions,
    Outgoing,
)
from spworkers.protocol.peers import Peer
from spworkers.protocol.shelf import Shelf

__all__ = ["Surveyor"]

# SURVEY-TIME's default, in seconds; mangos, nng and nanomsg have the same (the RFC says 60).
_TIME: Final = 1.0

# READQ-LEN's default, for one survey; mangos has the same.
_READQ: Final = 128


class _Survey:
    """A survey that runs."""

    def __init__(self, asker: _Asker, message: Outgoing, key: bytes) -> None:
        self.asker: Final = asker
        self.message: Final = message
        self.serial: Final = message.serial
        self.key: Final = key
        self.again = b""  # what newcomers are asked too, if a predecessor had begun


class _Asker:
    """A context, with the one survey that it may have."""

    def __init__(self, out: Actions, context: int, time: float, readq: int) -> None:
        self.id: Final = context
        self.time = time
        self.readq = readq
        self.own_time = False  # the option is its own, not the socket's
        self.own_readq = False
        self.alarm: Final = Alarm(context)
        self.shelf: Final = Shelf(out, context)
        self.survey: _Survey | None = None


class Surveyor(Fanout):
    """The machine of a SURVEYOR socket.

    Args:
        out: the driver's actions.
        seed: the number before the first survey id; None: a random one.
    """

    def __init__(self, out: Actions, *, seed: int | None = None) -> None:
        super().__init__(out)
        self._last_id: int = random_bits(31) if seed is None else seed
        self._time: float = _TIME
        self._askers: dict[int, _Asker] = {}
        self._surveys: dict[bytes, _Survey] = {}  # by the id as it is on the wire
        self._alarms = Alarms()

    # --- contexts and what they ask

    def context_opened(self, context: int) -> None:
        self._askers[context] = _Asker(self.out, context, self._time, self._readq)
        self.out.set_window(context, self._readq)

    def context_closed(self, context: int) -> None:
        asker = self._askers.pop(context, None)
        if asker is not None:
            self._end(asker)

    def context_message(self, context: int, message: Outgoing) -> None:
        asker = self._askers.get(context)
        if asker is None or message.kind != DATA:
            self.discard(message, UNEXPECTED, 0)
            return
        self._end(asker)
        taken = asker.shelf.take_all()
        if taken > 0:
            self.out.count(CANCELED, 0, taken)
        begun = message.begun
        if message.claim():
            self._begin(asker, message, begun)

    def _begin(self, asker: _Asker, message: Outgoing, begun: bool) -> None:
        survey = _Survey(asker, message, self._new_key())
        asker.survey = survey
        self._surveys[survey.key] = survey
        if asker.time != 0.0:
            self._alarms.set(asker.alarm, self.now + max(asker.time, 0.0))
            self.deadline = self._alarms.first
        question = survey.key + message.payload_bytes()
        if begun:
            survey.again = question
        if self.broadcast(question, 0) == 0 and not begun:
            self.out.count(NO_PEERS)

    def _end(self, asker: _Asker) -> None:
        """Take no more answers."""
        survey = asker.survey
        if survey is not None:
            asker.survey = None
            asker.alarm.cancel()
            del self._surveys[survey.key]
            survey.message.release()

    def _new_key(self) -> bytes:
        """The next survey id, as it is on the wire: the top bit marks the end of the backtrace."""
        while True:
            self._last_id = (self._last_id + 1) & 0x7FFFFFFF
            key = (self._last_id | 0x80000000).to_bytes(4, "big")
            if key not in self._surveys:
                return key

    def timer_due(self) -> None:
        alarm = self._alarms.ring(self.now)
        while alarm is not None:
            asker = self._askers.get(alarm.owner)
            survey = None if asker is None else asker.survey
            if asker is not None and survey is not None:
                self._end(asker)
                self.out.fail(asker.id, survey.serial, "RecvTimeoutError")
            alarm = self._alarms.ring(self.now)
        self.deadline = self._alarms.first

    # --- pipes and their answers

    def peer_joined(self, peer: Peer) -> None:
        for survey in list(self._surveys.values()):
            if len(survey.again) > 0 and peer.id in self.peers:
                self.give(peer, survey.again)

    def pipe_message(self, pipe: int, payload: bytes) -> bool:
        if len(payload) < 4 or payload[0] < 0x80:
            self.out.count(GARBLED, pipe)
            return True
        survey = self._surveys.get(payload[:4])
        if survey is None:
            self.out.count(UNKNOWN_REPLY, pipe)
            return True
        asker = survey.asker
        ticket = self.out.deliver(asker.id, pipe, payload, 4, survey.serial, b"")
        if ticket == 0:
            self.out.count(CONGESTED, pipe)
        else:
            asker.shelf.put(ticket)
        return True

    # --- options

    def configure(self, context: int | None, name: str, value: Any) -> None:
        if name == "SURVEY-TIME":
            self._set_time(context, float(value))
        elif name == "READQ-LEN":
            self._set_readq(context, int(value))
        else:
            super().configure(context, name, value)

    def _set_time(self, context: int | None, seconds: float) -> None:
        if context is None:
            self._time = seconds
        for asker in self._askers.values():
            if asker.id == context or (context is None and not asker.own_time):
                asker.time = seconds
                asker.own_time = context is not None

    def _set_readq(self, context: int | None, length: int) -> None:
        if context is None:
            self._readq = length
        for asker in self._askers.values():
            if asker.id == context or (context is None and not asker.own_readq):
                asker.readq = length
                asker.own_readq = context is not None
                self.out.set_window(asker.id, length)

    def context_wants(self, context: int) -> None:
        """Nothing waits here: an answer that finds no room is dropped."""
