"""How long a dispatcher's requests may take, and how one that runs is stopped.

It is stopped because its asker gave it up or stopped waiting, or because its time is over:

* it is CONCURRENT: its worker is told (`Actions.cancel`) and cancels it; what it answers then goes nowhere. Of a
  request whose time was over that is a death: it is tried again, or answered with an error, at once.
* it is EXCLUSIVE and its time is over: its worker is killed.
* it is EXCLUSIVE and given up: its worker is told, and raises an exception in the handler.

Who was told and has not confirmed within GRACE seconds is killed.
"""

from __future__ import annotations

from typing import Any, Final

from spworkers import callhead
from spworkers.protocol.assigning import Assigning
from spworkers.protocol.crew import CONCURRENT, EXCLUSIVE, Job, Worker
from spworkers.protocol.errorformat import ErrorFormat, overdue
from spworkers.protocol.machine import EXPIRED, NEVER, TIMEOUT, Actions

__all__ = ["Timekeeping"]

# RETRIES' default.
_RETRIES: Final = 1

# GRACE's default: seconds that a worker gets to stop what it was told to stop.
_GRACE: Final = 2.0

# Kinds of requests that have an id.
_WITH_ID: Final = (callhead.CALL, callhead.NEXT)


class Timekeeping(Assigning):
    """The part of a dispatcher that knows how long requests may take."""

    def __init__(self, out: Actions, errors: ErrorFormat | None) -> None:
        super().__init__(out)
        self._errors: Final = errors
        self._retries: int = _RETRIES
        self._timeout = 0.0
        self._grace: float = _GRACE
        self._access_log = False  # requests that no worker has answered are reported

    def _fail(self, job: Job, kind: str, detail: dict[str, Any]) -> None:
        """Answer a request with an error."""
        raise NotImplementedError

    def _time_of(self, job: Job) -> float:
        """How long a request may run, in seconds; 0: as long as it takes."""
        return self._timeout if job.timeout < 0.0 else job.timeout

    def _begin(self, worker: Worker, job: Job) -> None:
        """It runs, or is to stop, from now on; or would if its worker had taken it already."""
        if job.stopping:
            due = job.due
        else:
            limit = self._time_of(job)
            due = min(job.expires, self.now + limit if limit > 0.0 else NEVER)
            job.due = due
        if due < worker.alarm.due and worker.overdue is None:
            self._alarms.set(worker.alarm, due)
            self.deadline = self._alarms.first

    def _watch(self, worker: Worker) -> None:
        """Set its alarm to the first moment at which something is due."""
        worker.alarm.cancel()
        job = worker.jobs.head
        while job is not None:
            if job.due < worker.alarm.due:
                self._alarms.set(worker.alarm, job.due)
            job = worker.jobs.following(job) if worker.crew == CONCURRENT else None
        self.deadline = self._alarms.first

    def _look_at(self, worker: Worker) -> None:
        """Something of what it runs is due."""
        job = worker.jobs.head
        while job is not None:
            following = worker.jobs.following(job) if worker.crew == CONCURRENT else None
            if job.due <= self.now:
                self._overdue(worker, job)
                if worker.overdue is not None:
                    return
            job = following
        self._watch(worker)

    def _overdue(self, worker: Worker, job: Job) -> None:
        if job.stopping:
            self._kill(worker, job, "it did not stop a request that it was told to stop")
        elif job.expires <= self.now:
            if job.wanted:
                self.out.count(EXPIRED, job.peer.id)
                self._report(EXPIRED, job)
                self.finish(job)
            self._stop(worker, job)
        elif worker.crew == EXCLUSIVE:
            self._kill(worker, job, f"its request ran longer than {self._time_of(job):g} s")
        else:
            self._cut_short(worker, job)

    def _kill(self, worker: Worker, job: Job, reason: str) -> None:
        worker.overdue = job
        worker.alarm.cancel()
        self._crews[worker.crew].place(worker)
        self.out.kill(worker.id, reason)

    def _cut_short(self, worker: Worker, job: Job) -> None:
        """The time of a concurrent request is over: it is stopped, and tried again or answered meanwhile."""
        if job.wanted:
            again = Job(job.peer, job.payload, job.header)
            again.call, again.crew, again.stream = job.call, job.crew, job.stream
            again.timeout, again.retries, again.expires = job.timeout, job.retries, job.expires
            again.deaths, again.arrived = job.deaths, job.arrived
            self.finish(job)
            self._forget(job)
            self.accept(again)
            again.deaths += 1
            if again.stream is not None or again.deaths > self._retries_of(again):
                self._fail(again, TIMEOUT, overdue(again.deaths, self._time_of(job)))
            else:
                if len(again.call) > 0:
                    self._calls[again.call] = again
                self._backlogs[again.crew].appendleft(again)
        self._stop(worker, job)

    def _stop(self, worker: Worker, job: Job) -> None:
        """Have a worker stop what nobody waits for, unless it has not taken it yet."""
        self._forget(job)
        if self.out.revoke(worker.id, job.ticket):
            worker.full = False
            self._take_from(worker, job)
        elif not job.stopping:
            job.stopping = True
            job.due = self.now + self._grace
            self.out.cancel(worker.id, job.serial)
            if worker.crew == CONCURRENT or worker.jobs.head is job:
                self._begin(worker, job)  # an alarm for what was due before is a look too many

    def _expire(self, job: Job) -> None:
        """Drop a queued request: who asked for it has stopped waiting."""
        self.out.count(EXPIRED, job.peer.id)
        self._report(EXPIRED, job)
        self.finish(job)
        self._leave_queue(job)
        self._forget(job)

    def _sweep(self) -> None:
        """Drop the queued requests that nobody waits for any more."""
        for backlog in self._backlogs:
            job = backlog.head
            while job is not None:
                following = backlog.following(job)
                if job.expires <= self.now:
                    self._expire(job)
                job = following

    def _retries_of(self, job: Job) -> int:
        return self._retries if job.retries < 0 else job.retries

    def _report(self, cause: str, job: Job) -> None:
        """No worker has answered it."""
        if self._access_log:
            self._tell(cause, job.payload, job.begin, self.now - job.arrived, "")

    def _tell(self, cause: str, payload: bytes, begin: int, seconds: float, text: str) -> None:
        handler = "" if self._errors is None else self._errors.handler_of(payload, begin)
        call = callhead.id_at(payload, begin) if callhead.kind_at(payload, begin) in _WITH_ID else b""
        self.out.report(cause, handler, call, seconds, text)
