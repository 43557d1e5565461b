"""Which worker gets which job. Every method is called with the pool's lock held; nothing here waits.

* A worker that is free gets a job at once; none free and room for one more: another worker is started for it.
* Else the job waits, unless tasks of its kind are so short that a worker would be idle before the parent could hand it
  the next: then a worker has as many in its lane as it can do in `AHEAD`. One that lies behind a long task after all is
  taken back and given to whoever is free first.
* What a dead worker had not begun goes back to the queue's front.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

from spworkers.errors import SPError
from spworkers.workers.pool.crew import Worker
from spworkers.workers.pool.jobs import GIVEN, OVER, QUEUED, Job

__all__ = ["AHEAD", "Dispatcher"]

AHEAD: Final = 500_000
"""Nanoseconds of work that lie in a worker's lane at most, beside the task in hand."""
DEEPEST: Final = 128
"""Jobs of one worker, at most."""


class Dispatcher:
    """Jobs that wait, and workers.

    Args:
        limit: workers at most.
        max_tasks: tasks of one worker before it is replaced; 0: no end.
        start: makes one more worker, or returns None if that cannot be now.
        watch: told each job with a time limit that was given to a worker.
    """

    def __init__(
        self, limit: int, max_tasks: int, start: Callable[[], Worker | None], watch: Callable[[Job], None]
    ) -> None:
        self.limit = limit
        self.max_tasks = max_tasks
        self._start = start
        self._watch = watch
        self.queue: deque[Job] = deque()
        self.jobs: dict[int, Job] = {}
        """All that are not over, by serial."""
        self.workers: list[Worker] = []
        self.idle: list[Worker] = []
        """Those with nothing to do, who became so last at the end: caches are warm."""
        self.pace = 0
        """Nanoseconds that a task takes, a moving average; 0: nobody knows yet."""
        self._serial = 0
        self._leaving = 0  # workers that retire
        self.broken: list[tuple[Job, BaseException]] = []
        """Jobs that no lane takes; the engine tells their owners."""

    def add(self, job: Job) -> None:
        """A new job: to a worker, or into the queue."""
        self.adopt(job)
        if self.queue or not self.place(job):
            self.queue.append(job)

    def adopt(self, job: Job) -> None:
        """Number a job; it is of this pool now."""
        self._serial += 1
        job.serial = self._serial
        self.jobs[job.serial] = job

    def again(self, job: Job, *, front: bool = False) -> None:
        """A job that had a worker before."""
        job.state = QUEUED
        job.worker = None
        if front:
            self.queue.appendleft(job)
        else:
            self.queue.append(job)

    def place(self, job: Job) -> bool:
        """Give a job to the worker that is free, or the least loaded of those that may have one more."""
        while self.idle:
            worker = self.idle.pop()
            worker.resting = False
            if worker.retiring or worker.gone:
                continue
            if self._give(worker, job):
                return True
            if worker.jobs:
                break
            return job.state == OVER
        if len(self.workers) - self._leaving < self.limit:
            started = self._start()
            if started is not None:
                self.workers.append(started)
                if self._give(started, job):
                    return True
        return self._least_loaded(job)

    @property
    def active(self) -> int:
        """Workers that take jobs, or will."""
        return len(self.workers) - self._leaving

    def retire(self, worker: Worker) -> None:
        """It gets no more jobs."""
        if not worker.retiring:
            worker.retiring = True
            if worker in self.workers:
                self._leaving += 1

    def _least_loaded(self, job: Job) -> bool:
        depth = self.depth
        best: Worker | None = None
        least = depth
        for worker in self.workers:
            load = len(worker.jobs)
            if load < least and worker.ready and not worker.retiring:
                best, least = worker, load
        return best is not None and self._give(best, job)

    @property
    def depth(self) -> int:
        """Jobs that a worker may have: the one in hand, one more, and short ones as many as it does in `AHEAD`."""
        pace = self.pace
        if pace <= 0:
            return 2
        return min(2 + AHEAD // pace, DEEPEST)

    def _give(self, worker: Worker, job: Job) -> bool:
        try:
            given = worker.give(job)
        except (SPError, MemoryError, BufferError) as error:  # too long for any lane, or its array is gone
            job.state = OVER
            self.jobs.pop(job.serial, None)
            self.broken.append((job, error))
            if not worker.jobs:
                self.rest(worker)
            return True
        if not given:
            if not worker.jobs:
                self.rest(worker)
            return False
        job.attempts += 1
        if job.terms.timeout:
            self._watch(job)
        if self.max_tasks and worker.given >= self.max_tasks:
            worker.worn = True
            self.retire(worker)
        return True

    def refill(self, worker: Worker) -> None:
        """A worker has answered something: give it more of what waits; else of what lies behind another's work."""
        queue = self.queue
        if queue:
            depth = self.depth if worker.ready else 1
            while queue and not worker.retiring and len(worker.jobs) < depth:
                job = queue.popleft()
                if job.state != QUEUED:
                    continue
                if not self._give(worker, job):
                    queue.appendleft(job)
                    break
        if not worker.jobs and not worker.retiring and not worker.gone and not self._steal(worker):
            self.rest(worker)

    def _steal(self, worker: Worker) -> bool:
        """Take what another has not begun."""
        best: Worker | None = None
        most = 1
        for other in self.workers:
            load = len(other.jobs) + (not other.ready)  # who is not ready has none in hand
            if load > most and other is not worker:
                best, most = other, load
        if best is None:
            return False
        wanted = most // 2
        taken = 0
        for job in list(best.jobs.values())[::-1]:  # the newest first; the oldest is in hand, as a rule
            if taken >= wanted:
                break
            if best.take_back(job):
                job.attempts -= 1
                job.state = QUEUED
                if not self._give(worker, job):
                    self.again(job, front=True)
                    break
                taken += 1
        return bool(worker.jobs)

    def rest(self, worker: Worker) -> None:
        """It has nothing to do."""
        if not worker.resting and not worker.retiring and not worker.gone:
            worker.resting = True
            worker.since = time.monotonic()
            self.idle.append(worker)

    def pump(self) -> None:
        """Give out what waits, as far as anybody may have it."""
        queue = self.queue
        while queue:
            job = queue.popleft()
            if job.state != QUEUED:
                continue
            if not self.place(job):
                queue.appendleft(job)
                return

    def answered(self, worker: Worker, job: Job, nanoseconds: int) -> None:
        """A worker is done with a job, which took it so long."""
        worker.jobs.pop(job.serial, None)
        self.jobs.pop(job.serial, None)
        job.state = OVER
        job.worker = None
        worker.done += job.count
        self.learn(nanoseconds)

    def learn(self, nanoseconds: int) -> None:
        """A job took that long. Longer ones count at once, shorter ones by and by."""
        pace = self.pace
        if nanoseconds > pace:
            self.pace = (pace + nanoseconds) // 2 if pace else nanoseconds + 1
        else:
            self.pace = pace - ((pace - nanoseconds) >> 3)

    def withdraw(self, job: Job) -> bool:
        """Take a job out of the world that nobody has begun. False: somebody has."""
        if job.state == GIVEN:
            worker: Worker = job.worker
            if not worker.take_back(job):
                return False
            self.refill(worker)
        self.jobs.pop(job.serial, None)
        job.state = OVER  # wherever it stands in the queue, it is passed over
        return True

    def bury(self, worker: Worker) -> list[Job]:
        """A worker is dead: forget it. What it had begun is returned; the rest goes back to the queue."""
        worker.gone = True
        if worker in self.workers:
            self.workers.remove(worker)
            self._leaving -= worker.retiring
        if worker.resting:
            worker.resting = False
            self.idle.remove(worker)
        begun: list[Job] = []
        waiting: list[Job] = []
        for job in worker.jobs.values():
            (begun if not worker.inlet.revoke(job.ticket) else waiting).append(job)
        worker.jobs.clear()
        for job in reversed(waiting):
            job.attempts -= 1
            self.again(job, front=True)
        return begun

    def load(self) -> dict[str, int]:
        """How many wait, how many workers have."""
        # One that was cancelled while it ran stays in its worker's hands until that is dead; it counts no more.
        given = sum(job.state == GIVEN for worker in list(self.workers) for job in list(worker.jobs.values()))
        return {"queued": len(self.jobs) - given, "given": given}

    def __repr__(self) -> str:
        return f"<Dispatcher: {len(self.queue)} waiting, {len(self.workers)} workers, {len(self.idle)} idle>"
