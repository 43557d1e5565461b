"""The dispatcher: REP on the wire, a crew of workers behind it.

```
              backlog full, draining,                       its pipe is congested
              quarantined: error                       ┌─────────────────────────▶ held
                 ▲                                     │                             │
   pipe_message ─┴─▶ backlog ─────────▶ with a worker ─┴─────────────────────────▶ answered
                        ▲                    │
                        └── worker died ─────┴─ too often: error
```
Every context is a worker. A request is kept until its answer is sent; it goes to the available worker with the fewest
requests (PREFETCH: how many one may have at once, 0 is as many as it waits for). A worker's answer names the request by
its serial. What happens when

* **a worker dies**: what it had not taken is handed out again; what it had taken may have run, which counts as a death
  of that request. More than RETRIES deaths, and it is answered with an error.
* **a request runs longer than TIMEOUT**: its worker is killed, which is a death. The time is counted from when the
  request became its worker's oldest, so that one that was only prefetched is not blamed. A handler may have a time and
  retries of its own (LIMITS: a map of its name to the two).
* **a request kills QUARANTINE workers in a row**, whoever asks: it is not handed out any more, until that is set anew.
* **a pipe goes**: its requests are forgotten, and answers to those that run already are dropped.
* **a request comes again by the same way while it is in progress** (a REQ that sends again): it joins that. If its body
  is another one it takes the first one's place.
* **the backlog is full** (BACKLOG), **or the server drains** (DRAINING): the request is answered busy. If its format
  has no such answer it waits in its pipe.

A worker that sends `CANCEL` gives a request back that it did not run. What becomes of answers is in `answers.py`.
"""

from __future__ import annotations

from random import SystemRandom
from typing import Any, Final

from spworkers.protocol.alarms import Alarms
from spworkers.protocol.answers import Answering
from spworkers.protocol.crew import Crew, Job, Worker
from spworkers.protocol.errorformat import DRAINING, FULL, ErrorFormat, died, overdue, quarantined
from spworkers.protocol.fifo import Fifo
from spworkers.protocol.machine import (
    BUSY,
    CONGESTED,
    DATA,
    DIED,
    DUPLICATE,
    LATE,
    NO_PIPE,
    QUARANTINED,
    SUPERSEDED,
    TIMEOUT,
    Actions,
    Outgoing,
)
from spworkers.protocol.peers import Peer
from spworkers.protocol.quarantine import Quarantine

__all__ = ["Dispatcher", "ErrorFormat"]

# Defaults of PREFETCH, BACKLOG and RETRIES.
_PREFETCH: Final = 1
_BACKLOG: Final = 1024
_RETRIES: Final = 1


class Dispatcher(Answering):
    """The machine of a REP socket whose requests are dealt to workers.

    Args:
        out: the driver's actions, `kill` among them.
        errors: the format of requests and of error answers; None: there are none, and failed requests are dropped.

    `draining` says whether new requests are turned away, `idle` whether all requests were answered.
    """

    def __init__(self, out: Actions, errors: ErrorFormat | None = None) -> None:
        super().__init__(out)
        self._errors: Final = errors
        self._crew = Crew()
        self._quarantine = Quarantine()
        self._alarms = Alarms()
        self._backlog: Fifo[Job] = Fifo()
        self._running: dict[int, Job] = {}  # those that a worker has, by serial
        self._last_serial: int = SystemRandom().getrandbits(61)
        self._prefetch: int = _PREFETCH
        self._backlog_limit: int = _BACKLOG
        self._retries: int = _RETRIES
        self._timeout = 0.0
        self._limits: dict[str, tuple[float, int]] = {}  # time and retries of handlers that have their own, by name
        self.draining = False

    # --- requests

    def received(self, peer: Peer, payload: bytes) -> bool:
        length = self.header_length(peer, payload)
        if length == 0:
            return True
        header = payload[:length]
        former = self.jobs[peer.id].get(header)
        if former is not None:
            if former.payload == payload:
                self.out.count(DUPLICATE, peer.id)
                return True
            self._supersede(former)
        deaths = self._deaths(payload, length)
        if deaths > 0:
            self._turn_away(peer, payload, header, QUARANTINED, quarantined(deaths))
            return True
        if self.draining:
            return self._turn_away(peer, payload, header, BUSY, DRAINING)
        job = Job(peer, payload, header)
        if len(self._limits) > 0:
            self._limit(job)
        self.accept(job)
        self._backlog.append(job)
        self._hand_out()
        if job.home is self._backlog and self._backlog.length > self._backlog_limit:
            self._backlog.remove(job)
            self.finish(job)
            return self._turn_away(peer, payload, header, BUSY, FULL)
        return True

    def _limit(self, job: Job) -> None:
        """Give a request the limits of its handler, if that has its own."""
        if self._errors is not None:
            own = self._limits.get(self._errors.handler_of(job.payload, len(job.header)))
            if own is not None:
                job.timeout, job.retries = own

    def _turn_away(self, peer: Peer, payload: bytes, header: bytes, kind: str, detail: dict[str, Any]) -> bool:
        """Answer a request with an error without accepting it. False: its format has no such answer."""
        reply = None if self._errors is None else self._errors.error_reply(payload, len(header), kind, detail)
        if reply is None and kind == BUSY:
            return False
        self.out.count(kind, peer.id)
        if reply is None:
            return False
        if peer.congested:
            self.out.count(CONGESTED, peer.id)
        else:
            self.out.transmit_bytes(peer.id, header + reply)
        return True

    def _supersede(self, job: Job) -> None:
        """Its peer asks for something else under the same id."""
        self.out.count(SUPERSEDED, job.peer.id)
        self.finish(job)
        if job.home is self._backlog:
            self._backlog.remove(job)
        elif job.worker is not None:
            self._recall(job.worker, job)
        self._hand_out()

    def peer_lost(self, peer: Peer) -> None:
        for job in self.jobs_lost(peer):
            if job.home is self._backlog:
                self._backlog.remove(job)
            elif job.worker is not None:
                self._recall(job.worker, job)
        self._hand_out()

    def _recall(self, worker: Worker, job: Job) -> None:
        """Take back what nobody waits for, unless its worker has begun with it."""
        if self.out.revoke(worker.id, job.ticket):
            worker.full = False
            self._take_from(worker, job)

    # --- workers

    def _hand_out(self) -> None:
        """Give requests to workers as long as there are both; then let in who waits, if there is room."""
        while True:
            job = self._backlog.head
            if job is None:
                break
            worker = self._crew.least_loaded()
            if worker is None:
                break
            serial = self._new_serial()
            ticket = self.out.deliver(worker.id, job.peer.id, job.payload, len(job.header), serial, b"")
            if ticket == 0:
                worker.full = True
            else:
                self._backlog.remove(job)
                job.worker = worker
                job.serial = serial
                job.ticket = ticket
                self._running[serial] = job
                worker.jobs.append(job)
                if worker.jobs.length == 1:
                    self._watch(worker)
            self._crew.place(worker)
        if len(self.turnstile) > 0 and (
            self._backlog.length < self._backlog_limit or (self._backlog.length == 0 and self._crew.available > 0)
        ):
            self.turnstile.advance()

    def _new_serial(self) -> int:
        """A number for a hand-out that no other one has, nor had with a predecessor of this process.

        A worker may still run what our predecessor handed to it. Its answer must not be taken for another request's.
        """
        self._last_serial += 1
        return self._last_serial

    def _take_from(self, worker: Worker, job: Job) -> None:
        """A worker does not have this request any more."""
        oldest = worker.jobs.head is job
        worker.jobs.remove(job)
        del self._running[job.serial]
        job.worker = None
        if oldest:
            self._watch(worker)
        self._crew.place(worker)

    def _watch(self, worker: Worker) -> None:
        """Time its oldest request, which has just become that."""
        job = worker.jobs.head
        seconds = 0.0 if job is None or worker.overdue is not None else self._time_of(job)
        if seconds > 0.0:
            self._alarms.set(worker.alarm, self.now + seconds)
            self.deadline = self._alarms.first
        else:
            worker.alarm.cancel()

    def _time_of(self, job: Job) -> float:
        """How long a request may run, in seconds; 0: as long as it takes."""
        return self._timeout if job.timeout < 0.0 else job.timeout

    def timer_due(self) -> None:
        alarm = self._alarms.ring(self.now)
        while alarm is not None:
            worker = self._crew.workers.get(alarm.owner)
            job = worker.jobs.head if worker is not None and worker.alarm is alarm else None
            if worker is not None and job is not None:
                worker.overdue = job
                self._crew.place(worker)
                self.out.kill(worker.id, f"its request ran longer than {self._time_of(job):g} s")
            alarm = self._alarms.ring(self.now)
        self.deadline = self._alarms.first

    def context_opened(self, context: int) -> None:
        self.out.set_window(context, self._prefetch)
        self._crew.add(Worker(context, self._prefetch))
        self._hand_out()

    def context_wants(self, context: int) -> None:
        worker = self._crew.workers.get(context)
        if worker is not None and worker.full:
            worker.full = False
            self._crew.place(worker)
            self._hand_out()

    def context_closed(self, context: int) -> None:
        worker = self._crew.remove(context)
        if worker is None:
            return
        worker.alarm.cancel()
        again: list[Job] = []
        condemned: list[Job] = []
        job = worker.jobs.popleft()
        while job is not None:
            del self._running[job.serial]
            job.worker = None
            fatal = not self.out.revoke(context, job.ticket) and self._died_of(job)
            if job.wanted:
                (condemned if fatal else again).append(job)
            job = worker.jobs.popleft()
        for job in reversed(again):
            self._backlog.appendleft(job)
        for job in condemned:
            if job.wanted:  # its pipe may go while the others are answered
                self._give_up(job, job is worker.overdue)
        self._hand_out()

    def _died_of(self, job: Job) -> bool:
        """Whether a request is not to be tried again after the death that it has just caused."""
        job.deaths += 1
        self._quarantine.died(job.payload, self._content_at(job.payload, len(job.header)))
        retries = self._retries if job.retries < 0 else job.retries
        return job.deaths > retries or self._deaths(job.payload, len(job.header)) > 0

    def _give_up(self, job: Job, killed: bool) -> None:
        """Answer a request that its workers died of."""
        deaths = self._deaths(job.payload, len(job.header))
        if deaths > 0:
            self._fail(job, QUARANTINED, quarantined(deaths))
        elif killed:
            self._fail(job, TIMEOUT, overdue(job.deaths, self._time_of(job)))
        else:
            self._fail(job, DIED, died(job.deaths))

    def _deaths(self, payload: bytes, length: int) -> int:
        """How many workers in a row this request killed, if that is enough to turn it away; else 0."""
        return 0 if self._quarantine.empty else self._quarantine.deaths(payload, self._content_at(payload, length))

    def _content_at(self, payload: bytes, length: int) -> int:
        return length if self._errors is None else self._errors.content_at(payload, length)

    def _fail(self, job: Job, kind: str, detail: dict[str, Any]) -> None:
        """Answer a request with an error."""
        self.out.count(kind, job.peer.id)
        if self._errors is not None:
            job.error = self._errors.error_reply(job.payload, len(job.header), kind, detail)
        if job.error is None:
            self.finish(job)
        else:
            self.answer(job, None)

    def context_message(self, context: int, message: Outgoing) -> None:
        worker = self._crew.workers.get(context)
        job = self._running.get(message.serial)
        if worker is None or job is None or job.worker is not worker:
            self.discard(message, LATE, 0)
            return
        if message.kind != DATA:
            self._give_back(worker, job, message)
        else:
            self._take_from(worker, job)
            if job.wanted:
                if not self._quarantine.empty:
                    self._quarantine.survived(job.payload, self._content_at(job.payload, len(job.header)))
                job.answer = message
                self.answer(job, worker)
            else:
                self.discard(message, LATE if job.peer.id in self.peers else NO_PIPE, job.peer.id)
        self._hand_out()

    def _give_back(self, worker: Worker, job: Job, message: Outgoing) -> None:
        """A worker will not run this request."""
        if message.claim():
            message.release()
            self._take_from(worker, job)
            if job.wanted:
                self._backlog.appendleft(job)

    # --- options

    def configure(self, context: int | None, name: str, value: Any) -> None:
        if name == "PREFETCH":
            self._set_prefetch(context, int(value))
        elif name == "BACKLOG":
            self._backlog_limit = int(value)
        elif name == "RETRIES":
            self._retries = int(value)
        elif name == "QUARANTINE":
            self._quarantine.set_limit(int(value))
        elif name == "DRAINING":
            self.draining = bool(value)
        elif name == "LIMITS":
            self._limits = {handler: (float(own[0]), int(own[1])) for handler, own in value.items()}
        elif name == "TIMEOUT":
            self._timeout = float(value)
            for worker in self._crew.workers.values():
                self._watch(worker)
        else:
            super().configure(context, name, value)
        self._hand_out()

    def _set_prefetch(self, context: int | None, requests: int) -> None:
        if context is None:
            self._prefetch = requests
        for worker in self._crew.workers.values():
            if worker.id == context or (context is None and not worker.own_prefetch):
                worker.prefetch = requests
                worker.own_prefetch = context is not None
                worker.full = False
                self.out.set_window(worker.id, requests)
                self._crew.place(worker)
