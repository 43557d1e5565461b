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
requests (PREFETCH: how many one may have at once, 0 is as many as it waits for, AUTO as many as it answers in 2 ms;
CONCURRENT: how many that run beside each other). A worker's answer names the request by its serial. What happens when

* **a worker dies**: what it had not taken is handed out again; what it had taken may have run, which counts as a death
  of that request. More than RETRIES deaths, and it is answered with an error.
* **a request runs longer than TIMEOUT**: its worker is killed, which is a death; a concurrent one is cancelled. The
  time is counted from when the request became its worker's oldest, so that one that was only prefetched is not blamed.
  A handler may have a time and retries of its own (LIMITS: name → time, retries, whether it runs concurrently).
* **its asker stops waiting** (a call carries how long it waits) **or gives it up** (a cancellation): it is taken from
  the backlog, or its worker is told to stop. `timekeeping.py` says how.
* **a request kills QUARANTINE workers in a row**, whoever asks: it is not handed out any more, until that is set anew.
* **a pipe goes**: its requests are forgotten, and answers to those that run already are dropped; unless
* **a request comes again while it is in progress** (a REQ that sends again, by the same way or by another): it joins
  that. If it comes by the same way with another body, it takes the first one's place.
* **the backlog is full** (BACKLOG), **or the server drains** (DRAINING): the request is answered busy. If its format
  has no such answer it waits in its pipe.

An answer of kind MORE opens a **stream**: the requests for its next parts go to the worker that has it, and only by the
pipe that it was opened by. It ends with its worker, its pipe, a cancellation, or when nobody asked for STREAM-TIMEOUT.

A worker that sends `CANCEL` gives a request back that it did not run, or confirms that it has stopped it; one that
sends `LEAVE` gets no more. What becomes of answers is in `answers.py`, what workers do in `staffing.py`.
"""

from __future__ import annotations

from typing import Any, Final

from spworkers import callhead
from spworkers.protocol.crew import CONCURRENT, EXCLUSIVE, Job, OpenStream
from spworkers.protocol.errorformat import DRAINING, FULL, NO_STREAM, ErrorFormat, quarantined
from spworkers.protocol.machine import (
    BUSY,
    CANCELED,
    CONGESTED,
    DUPLICATE,
    QUARANTINED,
    STREAM_LOST,
    SUPERSEDED,
    Actions,
)
from spworkers.protocol.peers import Peer
from spworkers.protocol.staffing import AUTO, Staffing

__all__ = ["Dispatcher", "ErrorFormat"]

# How often, in seconds, a full backlog is searched for requests that nobody waits for any more.
_SWEEPS: Final = 0.1


class Dispatcher(Staffing):
    """The machine of a REP socket whose requests are dealt to workers.

    Args:
        out: the driver's actions, `kill` and `cancel` among them.
        errors: the format of error answers, and of handlers' names; None: there are none, and failed requests are
            dropped.

    `draining` says whether new requests are turned away, `idle` whether all requests were answered.
    """

    def __init__(self, out: Actions, errors: ErrorFormat | None = None) -> None:
        super().__init__(out, errors)
        # Time, retries and crew of handlers that have their own, by name.
        self._limits: dict[str, tuple[float, int, int]] = {}
        self._next_sweep = 0.0
        self.draining = False

    # --- requests

    def received(self, peer: Peer, payload: bytes) -> bool:
        length = self.header_length(peer, payload)
        if length == 0:
            return True
        header = payload[:length]
        kind = callhead.kind_at(payload, length)
        former = self.jobs[peer.id].get(header)
        if kind == callhead.CANCEL:
            self._canceled(peer, former, callhead.id_at(payload, length))
            return True
        if former is not None:
            if former.payload[former.begin :] == payload[length:]:
                self.out.count(DUPLICATE, peer.id)
                return True
            self._supersede(former)
        if kind == callhead.NEXT:
            self._next_part(peer, payload, header)
            return True
        call = callhead.id_at(payload, length) if kind == callhead.CALL else b""
        if len(call) > 0 and self._joins(peer, payload, header, call):
            return True
        deaths = self._deaths(payload, length)
        if deaths > 0:
            self._turn_away(peer, payload, header, QUARANTINED, quarantined(deaths))
            return True
        if self.draining:
            return self._turn_away(peer, payload, header, BUSY, DRAINING)
        return self._queue(peer, payload, header, call)

    def _queue(self, peer: Peer, payload: bytes, header: bytes, call: bytes) -> bool:
        """A new request. False: there is no room for it, and no way to say so."""
        job = Job(peer, payload, header)
        job.arrived = self.now
        if len(call) > 0:
            job.call = call
            self._calls[call] = job
            self._set_patience(job)
        if len(self._limits) > 0:
            self._limit(job)
        self.accept(job)
        self._backlogs[job.crew].append(job)
        self._hand_out()
        if self._is_queued(job) and self.waiting > self._backlog_limit:
            if self.now >= self._next_sweep:
                self._next_sweep = self.now + _SWEEPS
                self._sweep()
                if self.waiting <= self._backlog_limit:
                    return True
            self._leave_queue(job)
            self._forget(job)
            self.finish(job)
            return self._turn_away(peer, payload, header, BUSY, FULL)
        return True

    def _set_patience(self, job: Job) -> None:
        patience = callhead.patience_at(job.payload, job.begin)
        if patience > 0.0:
            job.expires = self.now + patience

    def _limit(self, job: Job) -> None:
        """Give a request the limits of its handler, if that has its own."""
        if self._errors is not None:
            own = self._limits.get(self._errors.handler_of(job.payload, job.begin))
            if own is not None:
                job.timeout, job.retries, job.crew = own
                if self._concurrent == 0:
                    job.crew = EXCLUSIVE

    def _joins(self, peer: Peer, payload: bytes, header: bytes, call: bytes) -> bool:
        """Whether it is a call that is in progress already, asked for by another way than this: then this counts."""
        job = self._calls.get(call)
        if job is None or job.payload[job.begin :] != payload[len(header) :] or job.held is not None:
            return False
        self.out.count(DUPLICATE, peer.id)
        if job.wanted:
            self.finish(job)
        job.wanted = True
        job.peer = peer
        job.header = header
        self.accept(job)
        return True

    def _turn_away(self, peer: Peer, payload: bytes, header: bytes, kind: str, detail: dict[str, Any]) -> bool:
        """Answer a request with an error without accepting it. False: its format has no such answer."""
        reply = None if self._errors is None else self._errors.error_reply(payload, len(header), kind, detail)
        if reply is None and kind == BUSY:
            return False
        self.out.count(kind, peer.id)
        if self._access_log:
            self._tell(kind, payload, len(header), 0.0, "")
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
        self._drop_request(job)
        self._hand_out()

    def _canceled(self, peer: Peer, job: Job | None, call: bytes) -> None:
        """A client gives up a call, or a stream: that of the same way, or the one of that id that came by this pipe."""
        if job is None or (job.call != call and (job.stream is None or job.stream.call != call)):
            job = self._calls.get(call)
            if job is not None and job.peer is not peer:
                job = None
        stream = self._stream_of(peer, call)
        if stream is not None:
            self.out.count(CANCELED, peer.id)
            self._close_stream(stream)
        elif job is not None and job.wanted:
            self.out.count(CANCELED, peer.id)
            self._report(CANCELED, job)
            self._drop_request(job)
        self._hand_out()

    def _drop_request(self, job: Job) -> None:
        """Nobody waits for it any more: it is not run, or its worker is told to stop."""
        if job.held is not None or (job.worker is None and not self._is_queued(job)):
            return  # its answer is on its way
        self.finish(job)
        if job.worker is not None:
            self._stop(job.worker, job)
        else:
            self._leave_queue(job)
            self._forget(job)

    # --- streams

    def _stream_of(self, peer: Peer, call: bytes) -> OpenStream | None:
        of_pipe = self._streams.get(peer.id)
        return None if of_pipe is None else of_pipe.get(call)

    def _next_part(self, peer: Peer, payload: bytes, header: bytes) -> None:
        stream = self._stream_of(peer, callhead.id_at(payload, len(header)))
        if stream is None:
            self._turn_away(peer, payload, header, STREAM_LOST, NO_STREAM)
            return
        if stream.job is not None:  # asked again in other words, since its asker had given the first ones up
            self._turn_away(peer, payload, header, STREAM_LOST, NO_STREAM)
            return
        job = Job(peer, payload, header)
        job.arrived = self.now
        job.stream = stream
        job.crew = stream.worker.crew
        job.timeout = stream.timeout
        stream.job = job
        self._set_patience(job)
        self.accept(job)
        stream.worker.pinned.append(job)
        self._summoned[stream.worker] = None
        self._hand_out()

    # --- options

    def configure(self, context: int | None, name: str, value: Any) -> None:
        if name == "PREFETCH":
            self._set_prefetch(context, int(value))
        elif name == "CONCURRENT":
            self._set_concurrent(int(value))
        elif name == "BACKLOG":
            self._backlog_limit = int(value)
        elif name == "RETRIES":
            self._retries = int(value)
        elif name == "QUARANTINE":
            self._quarantine.set_limit(int(value))
        elif name == "DRAINING":
            self.draining = bool(value)
        elif name == "STREAM-TIMEOUT":
            self._stream_timeout = float(value)
        elif name == "ACCESS-LOG":
            self._access_log = bool(value)
        elif name == "GRACE":
            self._grace = float(value)
        elif name == "LIMITS":
            self._limits = {handler: _limits(own) for handler, own in value.items()}
        elif name == "TIMEOUT":
            self._set_timeout(float(value))
        else:
            super().configure(context, name, value)
        self._hand_out()

    def _set_timeout(self, seconds: float) -> None:
        self._timeout = seconds
        for crew in self._crews:
            for worker in crew.workers.values():
                job = worker.jobs.head
                while job is not None:
                    if job.timeout < 0.0:
                        job.due = self.now + seconds if seconds > 0.0 else job.expires
                    job = worker.jobs.following(job) if worker.crew == CONCURRENT else None
                if worker.overdue is None:
                    self._watch(worker)

    def _set_prefetch(self, context: int | None, requests: int) -> None:
        auto = requests == AUTO
        if context is None:
            self._prefetch = requests
        for worker in self._crews[EXCLUSIVE].workers.values():
            if worker.id == context or (context is None and not worker.own_prefetch):
                if worker.auto != auto and worker.jobs.length > 1:
                    self._ahead += worker.jobs.length - 1 if auto else 1 - worker.jobs.length
                worker.auto = auto
                worker.prefetch = 1 if requests == AUTO else requests
                worker.own_prefetch = context is not None
                worker.full = False
                self.out.set_window(worker.id, self._window(requests))
                self._crews[EXCLUSIVE].place(worker)

    def _set_concurrent(self, requests: int) -> None:
        """How many requests that run beside each other a worker may have. To be set before there are workers."""
        self._concurrent = requests


def _limits(own: Any) -> tuple[float, int, int]:
    return float(own[0]), int(own[1]), CONCURRENT if len(own) > 2 and own[2] else EXCLUSIVE
