"""Which worker gets which request, and what a quick one has ahead of time (PREFETCH).

    backlog ──▶ the available worker with the fewest ──▶ running
      ▲                        │
      └── taken back: not begun yet, and its worker is busy for long, or another one has nothing to do

The event loop of a worker (CONCURRENT) is a worker of its own here, with a backlog of its own. What only one worker can
do, since it has the stream, is *pinned* to it.
"""

from __future__ import annotations

from typing import Final, cast

from spworkers.chance import random_bits
from spworkers.protocol.alarms import Alarms
from spworkers.protocol.answers import Answering
from spworkers.protocol.crew import CONCURRENT, EXCLUSIVE, Crew, Job, Worker
from spworkers.protocol.fifo import Fifo
from spworkers.protocol.hearing import Hearing
from spworkers.protocol.machine import NEVER, Actions

__all__ = ["AUTO", "Assigning"]

# PREFETCH: how many requests a worker has ahead is up to the dispatcher.
AUTO: Final = -1

# With AUTO a worker has as many requests as it answers in this time, in seconds, and no more than so many: enough to do
# while its answers are on their way to us, and no more than another worker can take over.
_AHEAD_TIME: Final = 0.002
_AHEAD: Final = 8

# Whose request runs longer than this, in seconds, has not what stands behind that any more. The same every time
# between two looks for such workers.
_STALE: Final = 0.005

# Defaults of PREFETCH, CONCURRENT and BACKLOG.
_PREFETCH: Final = 1
_CONCURRENT: Final = 0
_BACKLOG: Final = 1024


class Assigning(Answering):
    """The part of a dispatcher that hands requests out, and takes them back."""

    def __init__(self, out: Actions) -> None:
        super().__init__(out)
        self._crews: Final = (Crew(), Crew())
        self._backlog: Final[Fifo[Job]] = Fifo()
        self._beside: Final[Fifo[Job]] = Fifo()
        self._backlogs: Final = (self._backlog, self._beside)
        self._alarms: Final = Alarms()
        self._running: dict[int, Job] = {}  # those that a worker has, by serial
        self._calls: dict[bytes, Job] = {}  # those in progress that have an id, by it; also such as nobody waits for
        self._summoned: dict[Worker, None] = {}  # who has pinned requests
        self._last_serial: int = random_bits(60) * 2
        self._prefetch: int = _PREFETCH
        self._concurrent: int = _CONCURRENT
        self._backlog_limit: int = _BACKLOG
        self._hearing: Final = Hearing(self._crews, self._alarms, self._take_back)
        self._ahead = 0  # requests that workers have ahead because of it
        self._next_look = 0.0

    @property
    def waiting(self) -> int:
        """Requests that no worker has yet, or has ahead of time."""
        return self._backlogs[EXCLUSIVE].length + self._backlogs[CONCURRENT].length + self._ahead

    def _begin(self, worker: Worker, job: Job) -> None:
        """It is the oldest that its worker has, or runs beside others."""
        raise NotImplementedError

    def _expire(self, job: Job) -> None:
        """Drop a queued request: who asked for it has stopped waiting."""
        raise NotImplementedError

    # --- handing out

    def _hand_out(self) -> None:
        """Give requests to workers as long as there are both; then let in who waits, if there is room."""
        if len(self._summoned) > 0:
            self._hand_out_pinned()
        if self._ahead > 0 and self.now >= self._next_look:
            self._take_back_stale()
        self._deal(EXCLUSIVE)
        if self._ahead > 0:
            self._spread()
        if self._concurrent > 0:
            self._deal(CONCURRENT)
        if len(self.turnstile) > 0 and (
            self.waiting < self._backlog_limit or (self.waiting == 0 and self._crews[EXCLUSIVE].available > 0)
        ):
            self.turnstile.advance()

    def _deal(self, kind: int) -> None:
        backlog = self._backlogs[kind]
        crew = self._crews[kind]
        while True:
            job = backlog.head
            if job is None:
                return
            if job.expires <= self.now:
                self._expire(job)
                continue
            worker = crew.least_loaded()
            if worker is None or (worker.auto and worker.jobs.length > 0 and self._ahead >= self._backlog_limit):
                return
            self._give(worker, job)

    # --- ahead of time (AUTO)

    def _window(self, prefetch: int) -> int:
        """The places in a worker's lane."""
        if prefetch == AUTO:
            prefetch = _AHEAD
        return prefetch if prefetch == 0 else prefetch + self._concurrent

    def _take_back_stale(self) -> None:
        """Whoever is busy with one request for long gives back what stands behind it: that is the next to be dealt."""
        self._next_look = self.now + _STALE
        again: list[Job] = []
        for worker in self._crews[EXCLUSIVE].workers.values():
            if worker.auto and worker.jobs.length > 1 and worker.began + _STALE <= self.now:
                self._set_pace(worker, self.now - worker.began)
                job = worker.jobs.tail
                while job is not None and job is not worker.jobs.head:
                    before = cast("Job | None", job.before)
                    self._take_back(worker, job, again)
                    job = before
        self._deal_first(again)

    def _spread(self) -> None:
        """Who has nothing to do gets what others have ahead, if nothing else is to be done."""
        crew = self._crews[EXCLUSIVE]
        while self._backlog.length == 0:
            idle = crew.least_loaded()
            if idle is None or not idle.auto or idle.jobs.length > 0:
                return
            job = self._spare()
            if job is None:
                return
            self._backlog.append(job)
            self._give(idle, job)

    def _spare(self) -> Job | None:
        """A request that no worker has begun, taken back from who has most of them; the oldest one of those."""
        victim: Worker | None = None
        for worker in self._crews[EXCLUSIVE].workers.values():
            if worker.auto and worker.jobs.length > 1 and (victim is None or worker.jobs.length > victim.jobs.length):
                victim = worker
        found: list[Job] = []
        if victim is not None:
            head = victim.jobs.head
            job = None if head is None else victim.jobs.following(head)
            while job is not None and not found:
                following = victim.jobs.following(job)
                self._take_back(victim, job, found)
                job = following
        return found[0] if found else None

    def _take_back(self, worker: Worker, job: Job, again: list[Job]) -> None:
        """Take from a worker what it has not begun; `again` gets it."""
        if job.stream is None and job.wanted and self.out.revoke(worker.id, job.ticket):
            self._take_from(worker, job)
            if len(job.call) > 0:
                self._calls[job.call] = job
            again.append(job)

    def _deal_first(self, again: list[Job]) -> None:
        """What was taken back is the next to be dealt, in the order in which it was dealt before."""
        again.sort(key=_serial_of)
        while again:
            job = again.pop()
            self._backlogs[job.crew].appendleft(job)

    def _set_pace(self, worker: Worker, seconds: float) -> None:
        """It has needed that long for a request. Long times are believed at once."""
        pace = worker.pace
        worker.pace = pace = seconds if seconds >= _AHEAD_TIME or pace == NEVER else pace + (seconds - pace) * 0.125
        worker.prefetch = max(min(_AHEAD, int(_AHEAD_TIME / pace)) if pace > 0.0 else _AHEAD, 1)

    def _hand_out_pinned(self) -> None:
        for worker in list(self._summoned):
            job = worker.pinned.head
            while job is not None and worker.has_room:
                if job.expires <= self.now:
                    self._expire(job)
                else:
                    self._give(worker, job)
                job = worker.pinned.head
            if job is None:
                self._summoned.pop(worker, None)

    def _give(self, worker: Worker, job: Job) -> None:
        """Put a request into a worker's lane, if that takes it."""
        # No other hand-out has this number, nor had with a predecessor of this process; the last bit is for the worker.
        self._last_serial += 2
        serial = self._last_serial | worker.crew
        ticket = self.out.deliver(worker.id, job.peer.id, job.payload, job.begin, serial, b"")
        if ticket == 0:
            worker.full = True
        else:
            self._leave_queue(job)
            job.worker = worker
            job.serial = serial
            job.ticket = ticket
            self._running[serial] = job
            worker.jobs.append(job)
            if self._concurrent > 0:
                self._hearing.given(job, self.now)
                self.deadline = self._alarms.first
            if worker.crew == CONCURRENT or worker.jobs.length == 1:
                worker.began = self.now
                self._begin(worker, job)
            elif worker.auto:
                self._ahead += 1
        self._crews[worker.crew].place(worker)

    def _leave_queue(self, job: Job) -> None:
        """Take a request out of the backlog, or from among those that only one worker can run."""
        if job.stream is not None:
            job.stream.worker.pinned.remove(job)
        else:
            self._backlogs[job.crew].remove(job)

    def _is_queued(self, job: Job) -> bool:
        return job.worker is None and job.home is not None and job.answer is None and job.error is None

    def _take_from(self, worker: Worker, job: Job) -> None:
        """A worker does not have this request any more."""
        oldest = worker.jobs.head is job
        if worker.auto and worker.jobs.length > 1:
            self._ahead -= 1
        worker.jobs.remove(job)
        del self._running[job.serial]
        job.worker = None
        self._forget(job)
        head = worker.jobs.head
        if worker.crew == CONCURRENT:
            if head is None:
                worker.alarm.cancel()
        elif oldest:
            worker.alarm.cancel()
            if worker.auto:
                self._set_pace(worker, self.now - worker.began)
            worker.began = self.now
            if head is not None:
                self._begin(worker, head)
        self._crews[worker.crew].place(worker)

    def _forget(self, job: Job) -> None:
        """It is no longer in progress: whoever asks for the same call has it run anew."""
        if len(job.call) > 0 and self._calls.get(job.call) is job:
            del self._calls[job.call]
        stream = job.stream
        if stream is not None and stream.job is job:
            stream.job = None
            stream.idle_since = self.now


def _serial_of(job: Job) -> int:
    """The order in which requests were handed out."""
    return job.serial
