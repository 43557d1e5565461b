"""REQ: one request at a time per context, sent again until it is answered.

    send   header = 1|request id; the body is the program's
    wire   header ‖ body
    recv   header = the request id; anything else is dropped

```
            context_message                 a ready pipe               reply
   (none) ─────────────────▶ queued ───────────────────────▶ sent ───────────────▶ (none)
                               ▲                               │
                               └── RETRY-TIME, or pipe lost ───┘
```
A new message of a context, `CANCEL` and the context's end lead from anywhere to (none). With RETRY-TIME 0 a lost pipe
does so too, and the receiver gets CanceledError; with FAIL-NO-PEERS the loss of the last pipe does, with NoPeersError.

A request that names a pipe is **pinned**: it is sent by that pipe once, and fails with CanceledError when that is gone.
A `CANCEL` with a body has that sent, under the request's id, by the pipe that has the request: what the peer makes of
it is a matter of the format above. If that was answered in this moment, its pipe is not known any more, and the body
goes by all of them. If it names a pipe, the body goes there, and has no answer.

A connection that is lost within a second of a request's being sent may be lost because of it: a peer closes it on what
is over its MAX-RCV-SIZE. So the largest request that such a connection had fails with ConnResetError when that has
happened to it five times in a row, IN-FLIGHT only; of a plain REQ it is for the program to give up.

With IN-FLIGHT above 0 the socket's own context, number 0, is no conversation but a counter for many: each message is a
request of its own, named by its serial in the answer, in `CANCEL` and to its successor. So who has many calls on their
way at once needs one pair of lanes for them, and one wake-up for all that has come.

A queued request is unclaimed, so that its sender can take it back; a sent one stays claimed until it is answered, so
that it can be sent again without a copy, by this process or its successor. Only the first reply counts, from whatever
pipe.
"""

from __future__ import annotations

from typing import Any, Final, cast

from spworkers.chance import random_bits
from spworkers.protocol.alarms import Alarm, Alarms
from spworkers.protocol.fifo import Fifo, Node
from spworkers.protocol.machine import (
    CANCEL,
    CANCELED,
    CONGESTED,
    DATA,
    GARBLED,
    NO_PIPE,
    UNEXPECTED,
    UNKNOWN_REPLY,
    Actions,
    Outgoing,
)
from spworkers.protocol.peers import Peer
from spworkers.protocol.sharing import Sharing

__all__ = ["Req"]

# RETRY-TIME's default, in seconds; mangos, nng and nanomsg have the same.
_RETRY: Final = 60.0

# Retries of one request are at least this far apart, in seconds: a RETRY-TIME of 1 ns must not occupy the process.
_RETRY_FLOOR: Final = 0.001

# A driver that sends requests itself tells of them after so many seconds at the latest.
_PATIENCE: Final = 60.0

# A connection that is lost so soon, in seconds, may be lost because of what was sent; and how often in a row that is
# enough to say so.
_SOON: Final = 1.0
_LOSSES: Final = 5

# The least serial of one request among many: contexts' numbers are below it.
_MANY: Final = 1 << 32

# What a context's receive lane takes: a reply, and an older one that was not fetched before a new request was sent. A
# third one waits here.
_WINDOW: Final = 2


class _Request(Node):
    """A request. As a node it stands in the queue to be sent, or among those sent by one pipe."""

    def __init__(self, asker: _Asker, message: Outgoing, serial: int, key: bytes) -> None:
        super().__init__()
        self.asker: Final = asker
        self.message: Final = message
        self.serial: Final = serial
        self.key: Final = key
        self.retry: float = 0.0  # the retry time when it was sent
        self.claimed = False
        self.pinned: Final = message.pipe  # the only pipe for it; 0: any will do
        self.pipe = 0  # the last one that it was sent by; in the end the one that its reply came by
        self.reply = b""
        self.sent: float = 0.0  # when
        self.losses = 0  # connections in a row that were lost soon after it was sent


class _Asker:
    """Who asks: a context, with the one request that it may have; or one request of the context that has many."""

    def __init__(self, context: int, retry: float, fail_no_peers: bool) -> None:
        self.id: Final = context
        self.key: int = context  # what it is known by: the context, or its request's serial
        self.retry = retry
        self.fail_no_peers = fail_no_peers
        self.own_retry = False  # the option is its own, not the socket's
        self.own_fail_no_peers = False
        self.alarm: Final = Alarm(context)  # set while the request is sent and may be sent again
        self.request: _Request | None = None  # queued or sent
        self.answered: _Request | None = None  # its reply found no room yet


class Req(Sharing):
    """The machine of a REQ socket.

    Args:
        out: the driver's actions.
        seed: the number before the first request id; None: a random one.
    """

    def __init__(self, out: Actions, *, seed: int | None = None) -> None:
        super().__init__(out)
        self._last_id: int = random_bits(31) if seed is None else seed
        self._retry: float = _RETRY
        self._fail_no_peers = False
        self._askers: dict[int, _Asker] = {}
        self._contexts = 0
        self._in_flight = 0
        self._patience: float = _PATIENCE
        self._unfetched = 0  # askers whose replies found no room yet
        self._spare: list[_Asker] = []  # of requests that are over; with their alarms, whose entries are in the heap
        self._late: dict[int, _Asker] = {}  # those of many whose replies found no room yet
        self._requests: dict[bytes, _Request] = {}  # queued and sent ones, by the id as it is on the wire
        self._queue: Fifo[_Request] = Fifo()
        self._sent: dict[int, Fifo[_Request]] = {}  # by pipe
        self._pinned: dict[int, Fifo[_Request]] = {}  # those that wait for a certain pipe, by it; no empty ones
        self._alarms = Alarms()

    # --- contexts and what they send

    def context_opened(self, context: int) -> None:
        self._askers[context] = _Asker(context, self._retry, self._fail_no_peers)
        self._contexts += 1
        self.out.set_window(context, max(self._in_flight, _WINDOW) if context == 0 else _WINDOW)

    def context_closed(self, context: int) -> None:
        asker = self._askers.pop(context, None)
        if asker is not None:
            self._contexts -= 1
            self._cancel(asker)
        if self._in_flight > 0 and context == 0:
            for each in list(self._askers.values()):
                if each.key >= _MANY:
                    self._cancel(each)

    # What a message says of itself is asked for once: each answer is a call from one compiled world into the other.

    def _one_of_many(self, kind: int, key: int) -> _Asker | None:
        """Who stands for a message of the context that has many requests, by its kind and serial."""
        if kind != DATA or key < _MANY:
            return self._askers.get(key) if key >= _MANY else None
        if len(self._spare) > 0:
            asker = self._spare.pop()
            asker.retry = self._retry
            asker.fail_no_peers = self._fail_no_peers
        else:
            asker = _Asker(0, self._retry, self._fail_no_peers)
        asker.key = asker.alarm.owner = key
        self._askers[key] = asker
        return asker

    def _over(self, asker: _Asker) -> None:
        """It has no request any more; one of many then is done with."""
        if asker.key >= _MANY and asker.key in self._askers:
            del self._askers[asker.key]
            asker.key = asker.alarm.owner = 0
            self._spare.append(asker)

    def context_message(self, context: int, message: Outgoing) -> None:
        kind = message.kind
        serial = message.serial
        many = self._in_flight > 0 and context == 0
        asker = self._one_of_many(kind, serial) if many else self._askers.get(context)
        if asker is None or kind != DATA:
            self._control(asker, message)
            return
        if asker.request is not None or asker.answered is not None:
            self._cancel(asker)
        if asker.fail_no_peers and len(self.peers) == 0:
            self.out.fail(context, serial, "NoPeersError")
            if message.claim():
                message.release()
            self._over(asker)
            return
        request = _Request(asker, message, serial, self._new_key())
        asker.request = request
        self._requests[request.key] = request
        if request.pinned:
            self._pin(request)
        else:
            self._queue.append(request)
            self.pump()

    def _pin(self, request: _Request) -> None:
        """Send a request by its pipe, now or as soon as that takes it."""
        waiting = self._pinned.get(request.pinned)
        if waiting is None:
            waiting = self._pinned[request.pinned] = Fifo()
        waiting.append(request)
        peer = self.peers.get(request.pinned)
        if peer is None:
            self._fail(request, "CanceledError")
            self._unpin(request.pinned, waiting)
        else:
            self._pump_pinned(peer)

    def _pump_pinned(self, peer: Peer) -> None:
        waiting = self._pinned.get(peer.id)
        if waiting is None:
            return
        while not peer.congested:
            request = waiting.popleft()
            if request is None:
                break
            if request.claimed or request.message.claim():
                self._transmit(request, peer)
            else:
                self._taken_back(request)
        self._unpin(peer.id, waiting)

    def _taken_back(self, request: _Request) -> None:
        """Its sender did so, before any pipe had it."""
        request.asker.request = None
        del self._requests[request.key]
        self._over(request.asker)

    def _unpin(self, pipe: int, waiting: Fifo[_Request]) -> None:
        if waiting.length == 0:
            self._pinned.pop(pipe, None)

    def _control(self, asker: _Asker | None, message: Outgoing) -> None:
        """Deal with what is no request."""
        if message.kind != CANCEL or (asker is None and self._in_flight == 0):
            self.discard(message, UNEXPECTED, 0)
        elif message.claim():
            current: _Request | None = None
            if asker is not None:
                current = asker.request if asker.answered is None else asker.answered
            if message.pipe:
                self._send_once(message, message.pipe)
            if asker is not None and current is not None and current.serial == message.serial:
                self._say_farewell(current, message)
                self._cancel(asker)
            elif message.size > 0 and message.pipe == 0:
                for pipe in list(self.peers):
                    self._send_once(message, pipe)
            message.release()

    def _send_once(self, message: Outgoing, pipe: int) -> None:
        """Send what has no answer by a certain pipe, if that takes it now."""
        peer = self.peers.get(pipe)
        if peer is None:
            self.out.count(NO_PIPE, 0)
        elif peer.congested:
            self.out.count(CONGESTED, peer.id)
        else:
            self.out.transmit(peer.id, self._new_key(), message, 0)

    def _say_farewell(self, request: _Request, message: Outgoing) -> None:
        """Tell the peer that has a request, in the words of who gives it up, if they have any."""
        peer = self.peers.get(request.pipe) if request.claimed else None
        if message.size == 0 or peer is None:
            return
        if len(request.reply) == 0 and request.home is not self._sent.get(peer.id):
            return
        if peer.congested:
            self.out.count(CONGESTED, peer.id)
        else:
            self.out.transmit(peer.id, request.key, message, 0)

    def _cancel(self, asker: _Asker) -> None:
        """Forget a context's request, or the reply that found no room."""
        answered = asker.answered
        if answered is not None:
            asker.answered = None
            self._unfetched -= 1
            self._late.pop(asker.key, None)
            self.out.count(CANCELED, answered.pipe)
            answered.message.release()
        request = asker.request
        if request is not None:
            self._forget(request)
            if request.claimed:
                request.message.release()
            else:
                self.discard(request.message, CANCELED, 0)
        self._over(asker)

    def _fail(self, request: _Request, error: str) -> None:
        """End a request with an error."""
        self._forget(request)
        self.out.fail(request.asker.id, request.serial, error)
        if request.claimed or request.message.claim():
            request.message.release()
        self._over(request.asker)

    def _forget(self, request: _Request) -> None:
        """Take a request out of all tables; its message remains to be dealt with."""
        request.asker.request = None
        request.asker.alarm.cancel()
        del self._requests[request.key]
        home = cast("Fifo[_Request]", request.home)
        home.remove(request)
        if request.pinned and request.pipe == 0:
            self._unpin(request.pinned, home)

    def _new_key(self) -> bytes:
        """The next request id, as it is on the wire: the top bit marks the end of the backtrace."""
        while True:
            self._last_id = (self._last_id + 1) & 0x7FFFFFFF
            key = (self._last_id | 0x80000000).to_bytes(4, "big")
            if key not in self._requests:
                return key

    # --- pipes and what is sent by them

    def pump(self) -> None:
        while self._queue.length > 0:
            peer = self.ready.head
            if peer is None:
                return
            request = self._queue.popleft()
            if request is None:
                return
            if request.claimed or request.message.claim():
                self._send(request, peer)
            else:
                self._taken_back(request)

    def _send(self, request: _Request, peer: Peer) -> None:
        """Send a claimed request by this pipe, or by the next ready one if this is where it was sent before."""
        if request.pipe == peer.id:
            other = self.ready.following(peer)
            if other is not None:
                peer = other
        self.ready.rotate(peer)
        self._transmit(request, peer)

    def _transmit(self, request: _Request, peer: Peer) -> None:
        self._sent_by(request, peer.id, self.now)
        self.out.transmit(peer.id, request.key, request.message, 0)

    def _sent_by(self, request: _Request, pipe: int, when: float) -> None:
        """Note that a request, which is claimed, is sent."""
        request.claimed = True
        request.pipe = pipe
        request.sent = when
        request.retry = 0.0 if request.pinned else request.asker.retry
        self._sent[pipe].append(request)
        if request.retry > 0.0:
            self._alarms.set(request.asker.alarm, when + max(request.retry, _RETRY_FLOOR))
            self.deadline = self._alarms.first

    def _send_again(self, request: _Request) -> None:
        """Queue a request that was sent."""
        request.asker.alarm.cancel()
        cast("Fifo[_Request]", request.home).remove(request)
        self._queue.append(request)

    def timer_due(self) -> None:
        alarm = self._alarms.ring(self.now)
        while alarm is not None:
            asker = self._askers.get(alarm.owner)
            if asker is not None and asker.request is not None:
                self._send_again(asker.request)
            alarm = self._alarms.ring(self.now)
        self.pump()
        self.deadline = self._alarms.first

    def peer_joined(self, peer: Peer) -> None:
        self._sent[peer.id] = Fifo()

    def peer_ready(self, peer: Peer) -> None:
        self._pump_pinned(peer)
        if not peer.congested:
            super().peer_ready(peer)

    def peer_lost(self, peer: Peer) -> None:
        super().peer_lost(peer)
        waiting = self._pinned.get(peer.id)
        while waiting is not None and waiting.head is not None:
            self._fail(waiting.head, "CanceledError")
        if len(self.peers) == 0:
            self._nobody_left()
        sent = self._sent[peer.id]
        if self._in_flight > 0:
            self._blame(sent)
        request = sent.head
        while request is not None:
            if request.retry > 0.0:
                self._send_again(request)
            else:
                self._fail(request, "CanceledError")
            request = sent.head
        del self._sent[peer.id]
        self.pump()

    def _blame(self, sent: Fifo[_Request]) -> None:
        """Their connection is lost: give up what it has been lost by again and again."""
        largest: _Request | None = None
        request = sent.head
        while request is not None:
            if largest is None or request.message.size > largest.message.size:
                largest = request
            request = sent.following(request)
        if largest is None or largest.retry <= 0.0:
            return
        largest.losses = largest.losses + 1 if self.now - largest.sent <= _SOON else 0
        if largest.losses >= _LOSSES:
            self._fail(largest, "ConnResetError")

    def _nobody_left(self) -> None:
        """Fail what may not wait for a peer."""
        for asker in list(self._askers.values()):
            if asker.fail_no_peers and asker.request is not None:
                self._fail(asker.request, "NoPeersError")

    # --- replies

    def pipe_message(self, pipe: int, payload: bytes) -> bool:
        if len(payload) < 4 or payload[0] < 0x80:
            self.out.count(GARBLED, pipe)
            return True
        request = self._requests.get(payload[:4])
        if request is None or request.pipe == 0:
            self.out.count(UNKNOWN_REPLY, pipe)
            return True
        self._forget(request)
        request.pipe = pipe
        request.reply = payload
        self._deliver_reply(request)
        return True

    def _deliver_reply(self, request: _Request) -> None:
        """Give the context its reply, now or as soon as there is room; until then its successor can ask again."""
        asker = request.asker
        if self.out.deliver(asker.id, request.pipe, request.reply, 4, request.serial, b"") != 0:
            if asker.answered is not None:
                asker.answered = None
                self._unfetched -= 1
            request.message.release()
            self._over(asker)
        elif asker.answered is None:
            asker.answered = request
            self._unfetched += 1
            if asker.key >= _MANY:
                self._late[asker.key] = asker

    def context_wants(self, context: int) -> None:
        if context == 0 and len(self._late) > 0:
            for key, each in list(self._late.items()):
                if each.answered is not None:
                    self._deliver_reply(each.answered)
                if each.answered is not None:
                    return
                self._late.pop(key, None)
            return
        asker = self._askers.get(context)
        if asker is not None and asker.answered is not None:
            self._deliver_reply(asker.answered)

    # --- what the driver may do without us

    def sole_route(self) -> int:
        peer = self.ready.head
        if (
            peer is None
            or len(self.peers) != 1
            or self._queue.length > 0
            or len(self._pinned) > 0
            or self._unfetched > 0
        ):
            return 0
        # A context's new request takes the place of its former one, which we would have to be asked about.
        if len(self._requests) > 0 and (self._in_flight == 0 or self._contexts > 1):
            return 0
        return peer.id

    def many_requests(self) -> bool:
        return self._in_flight > 0

    def patience(self) -> float:
        return self._patience

    def numbers(self, count: int) -> int:
        while True:
            before = self._last_id
            self._last_id = (before + count) & 0x7FFFFFFF
            for key in self._requests:
                if 0 < (int.from_bytes(key, "big") - before) & 0x7FFFFFFF <= count:
                    break
            else:
                return before

    def adopt(self, context: int, message: Outgoing, key: bytes, pipe: int, sent: float) -> None:
        serial = message.serial
        many = self._in_flight > 0 and context == 0
        asker = self._one_of_many(DATA, serial) if many else self._askers.get(context)
        assert asker is not None, "a driver tells of its requests before their context is closed"
        request = _Request(asker, message, serial, key)
        asker.request = request
        self._requests[key] = request
        self._sent_by(request, pipe, sent)

    # --- options

    def configure(self, context: int | None, name: str, value: Any) -> None:
        if name == "RETRY-TIME":
            self._set_retry(context, float(value))
        elif name == "FAIL-NO-PEERS":
            self._set_fail_no_peers(context, bool(value))
        elif name == "IN-FLIGHT":
            self._in_flight = int(value)
            if 0 in self._askers:
                self.out.set_window(0, max(self._in_flight, _WINDOW))

    def _set_retry(self, context: int | None, seconds: float) -> None:
        if 0.0 < seconds < self._patience:  # whose it is does not matter: being told early is no harm
            self._patience = max(seconds, _RETRY_FLOOR)
        if context is None:
            self._retry = seconds
        for asker in self._askers.values():
            if asker.id == context or (context is None and not asker.own_retry):
                asker.retry = seconds
                asker.own_retry = context is not None

    def _set_fail_no_peers(self, context: int | None, on: bool) -> None:
        if context is None:
            self._fail_no_peers = on
        for asker in self._askers.values():
            if asker.id == context or (context is None and not asker.own_fail_no_peers):
                asker.fail_no_peers = on
                asker.own_fail_no_peers = context is not None
        if len(self.peers) == 0:
            self._nobody_left()
