"""What goes on in a pool: jobs are submitted and cancelled, workers come and go, time is over, and it ends.

    submit ─▶ lock ─▶ dispatcher ─▶ lane                    any thread
    reader ─▶ drain ─▶ lock ─▶ dispatcher ─▶ futures        one thread at a time has this role (`reader`, `settling`)
    collector: timers; reads when nobody else does          its own thread
    news ("it died", "it was started") ─▶ reader            from the control thread and the keeper

Races, and where they are closed:
* a task is cancelled, or its time is over, while its worker finishes it: what lies behind it in the lane is taken back
  first, then the kill is sent only if it is still in hand. So a kill hits nobody else's task (`_kill`);
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
import threading
import time
from typing import Any, Final

from spworkers.errors import ResourceError, ShutdownError, SPError
from spworkers.ring import ring_bell
from spworkers.workers.pool.crew import Worker
from spworkers.workers.pool.jobs import GIVEN, OVER, Job
from spworkers.workers.pool.reader import FOREVER
from spworkers.workers.pool.settling import Settling
from spworkers.workers.pool.values import Values
from spworkers.workers.quantities import size_text

__all__ = ["Engine", "engines"]

FINAL_EXIT: Final = sys.version_info >= (3, 12)
"""An interpreter that exits starts no threads or processes any more, so a program that submits and ends at once would
lose its tasks: it has one worker before it goes on. (A coroutine does not wait: its program does not end before it.)"""
IDLE_LOOK: Final = 0.01
"""Seconds at least between two looks for idle workers."""


engines: set[Engine] = set()
"""All of this process that have not ended."""


class Engine(Settling):
    """A pool without its handle.

    Args:
        name: of the pool.
        limit: workers at most.
        max_tasks: tasks of one worker before it is replaced; 0: no end.
        idle_timeout: seconds after which a worker that has nothing to do leaves; infinity: never.
        values: how arguments and results are packed.
        setup: the first record of each worker, in parts.
        keeper: starts and ends processes.
    """

    def __init__(
        self,
        name: str,
        limit: int,
        max_tasks: int,
        idle_timeout: float,
        values: Values,
        setup: list[Any],
        keeper: Any,
    ) -> None:
        super().__init__(name, limit, max_tasks, values, keeper)
        self.idle_timeout = idle_timeout
        self._setup = setup
        engines.add(self)

    # --- From any thread

    def submit(self, job: Job) -> None:
        """A new job.

        Raises:
            RuntimeError: the pool is shut down, or so is the interpreter.
            RemoteError: its workers cannot be started, as their initializer raises.
        """
        if self.forked:
            self.refuse()
        with self.lock:
            if self.closing or self.failure is not None:
                self.refuse()
            first = not self._begun
            if first:
                self._keeper.prepare(self)
            self.counts["submitted"] += job.count
            dispatcher = self.dispatcher
            dispatcher.add(job)
            if first:
                interrupt = self._start_threads()
                if interrupt is not None:  # nobody will ask for its result
                    self.cancel(job)
                    raise interrupt
            if dispatcher.broken or self.functions.forgotten:
                self._tidy()
            waiting = len(dispatcher.queue)
        if waiting:
            self.visit()
        if first and FINAL_EXIT and not _in_a_coroutine():
            self._keeper.await_first()

    def _start_threads(self) -> BaseException | None:
        """With the first job, whose worker the keeper is to start: that takes longest, so it begins with that.

        Returns:
            What Ctrl-C has raised meanwhile.
        """
        try:
            interrupt: BaseException | None = self._keeper.begin()
            interrupt = self._begin() or interrupt
        except RuntimeError as error:  # then it ends, in what threads there are
            self.failure = ResourceError(f"cannot start the threads of pool {self.name}: {error}")
            self.shutdown(kill=True)
            if not self._keeper.do(self._collect):
                for worker in self.dispatcher.workers:
                    self.died(worker, "there was nobody who would have started it", None)
                self._collect()
            raise
        if self.idle_timeout != FOREVER:
            self.at(time.monotonic() + self.idle_timeout, self._dismiss_idle)
        return interrupt

    def refuse(self) -> None:
        """Raise why no more jobs are taken."""
        from copy import copy

        self.check_fork()
        if self.failure is not None:
            own = copy(self.failure)  # its traceback will have the frames of who gets it
            own.__cause__ = self.failure.__cause__
            raise own
        raise ShutdownError(f"cannot schedule new futures after shutdown: pool {self.name} was shut down")

    def cancel(self, job: Job) -> bool:
        """Take a job out of the world, whatever stage it is in. False: it is over."""
        with self.lock:
            if job.state == OVER:
                return False
            if (job.state != GIVEN or not job.worker.began(job)) and self.dispatcher.withdraw(job):
                self.counts["cancelled"] += job.count
                self._look_for_end()
                return True
            worker: Worker = job.worker
            if not self._kill(worker, job, "cancelled"):
                return False
            job.state = OVER
            self.dispatcher.jobs.pop(job.serial, None)
            self.counts["cancelled"] += job.count
            self._look_for_end()
            return True

    def cancel_for(self, job: Job, fates: dict[str, Any], fate: Any) -> bool:
        """`cancel`, and put down what has become of its future, so that no Ctrl-C comes between the two."""
        if not self.cancel(job):
            return False
        fates.setdefault("_fate", fate)
        return True

    def withdraw(self, job: Job) -> bool:
        """Take a job out of the world if nobody has begun it."""
        with self.lock:
            if job.state == OVER or not self.dispatcher.withdraw(job):
                return False
            self.counts["cancelled"] += job.count
            self._look_for_end()
            return True

    def began(self, job: Job) -> bool:
        """Whether a worker has it in hand."""
        with self.lock:
            return job.state == GIVEN and job.worker is not None and job.worker.began(job)

    def resize(self, limit: int) -> None:
        """So many workers at most from now on; those too many end after what they have in hand."""
        with self.lock:
            dispatcher = self.dispatcher
            dispatcher.limit = limit
            extra = dispatcher.active - limit
            by_load = sorted(dispatcher.workers, key=lambda worker: len(worker.jobs))
            for worker in [worker for worker in by_load if not worker.retiring][: max(extra, 0)]:
                self._retire(worker)
            dispatcher.pump()

    # --- Workers

    def _start_worker(self) -> Worker | None:
        """One more worker; None: not now."""
        if self.failure is not None or self.over or not self._segments or time.monotonic() < self._starts.after:
            return None
        taken = {worker.number for worker in self.dispatcher.workers if not worker.retiring}
        number = next(number for number in itertools.count() if number not in taken)
        segment = self._segments.popleft()
        row = self.ledger.row(segment)
        for word in range(len(row)):
            row[word] = 0
        try:
            worker = Worker(self.region, segment, row, number, f"{self.name}-{number + 1}")
            if not worker.setup(self._setup):
                raise SPError("what the workers are to share does not fit into their memory")
        except (OSError, MemoryError, SPError) as problem:
            self._segments.append(segment)
            if not self.dispatcher.workers:
                self._tell(functools.partial(self._cannot_start, problem))
            return None
        self._by_segment[segment] = worker
        self._keeper.launch(worker)
        return worker

    def _cannot_start(self, error: BaseException) -> None:
        """There is no worker, and none can be made: what waits fails of it."""
        with self.lock:
            failed = [job for job in self.dispatcher.jobs.values() if job.state != GIVEN]
            for job in failed:
                self.dispatcher.withdraw(job)
            self.counts["failed"] += sum(job.count for job in failed)
            self._look_for_end()
        for job in failed:
            job.owner.fail(job, error)

    def _retire(self, worker: Worker) -> None:
        """No more work for it; it ends after what it has in hand."""
        self.dispatcher.retire(worker)
        for job in list(worker.jobs.values()):
            if worker.take_back(job):
                job.attempts -= 1
                self.dispatcher.again(job, front=True)
        self._let_go(worker)

    def _let_go(self, worker: Worker) -> None:
        """Have a worker end that retires and has nothing left to do."""
        if worker.retiring and not worker.jobs and not worker.stopped and worker.verdict is None:
            if worker.resting:
                worker.resting = False
                self.dispatcher.idle.remove(worker)
            worker.stop()

    def _dismiss_idle(self) -> None:
        now = time.monotonic()
        with self.lock:
            if self.closing:
                return
            soonest = now + self.idle_timeout
            for worker in list(self.dispatcher.idle):
                if worker.since + self.idle_timeout <= now:
                    self._retire(worker)
                else:
                    soonest = min(soonest, worker.since + self.idle_timeout)
        self.at(max(soonest, now + IDLE_LOOK), self._dismiss_idle)

    def _kill(self, worker: Worker, job: Job, why: str) -> bool:
        """Kill a worker for the job that it has in hand. False: that is finished. The lock is held."""
        for other in list(worker.jobs.values()):
            if other is not job and worker.take_back(other):  # else it would be next, and hit in its place
                other.attempts -= 1
                self.dispatcher.again(other, front=True)
        if worker.gone or not worker.began(job) or any(other is not job for other in worker.jobs.values()):
            self.dispatcher.pump()
            return False
        worker.verdict = (why, job)
        self.dispatcher.retire(worker)
        self._keeper.kill(worker)
        self.dispatcher.pump()
        return True

    def exceeds(self, worker: Worker, used: int, limit: int) -> None:
        """A worker uses more memory than it may: it is replaced, at once if it works. From the keeper."""
        with self.lock:
            if worker.gone or worker.verdict is not None or worker.stopped:
                return
            why = f"it used {size_text(used)} of memory, and memory_limit allows {size_text(limit)}"
            for job in list(worker.jobs.values()):
                if worker.began(job) and self._kill(worker, job, why):
                    return
            # One that has done nothing yet has grown by nothing: the next would be as large, and nobody ever do a task.
            if not worker.retiring and worker.done:
                self.counts["replaced"] += 1
                self._retire(worker)
                self.dispatcher.pump()

    # --- News, from the keeper and the control thread

    def launched(self, worker: Worker, pid: int, handle: Any) -> None:
        """A worker has a process. It may have died already."""
        with self.lock:
            worker.pid, worker.handle, worker.launched = pid, handle, True
            if worker.gone:
                self._keeper.forget(worker)
            elif worker.verdict is not None:  # it was to be killed before there was anything to kill
                self._keeper.kill(worker)

    def died(self, worker: Worker, reason: str, status: int | None) -> None:
        """A worker's process has ended."""
        self._tell(lambda: self._bury(worker, reason, status))

    def bereft(self) -> None:
        """All processes that came from the supervisor have ended, with it."""
        for worker in list(self._by_segment.values()):
            if worker.launched:  # else it is being asked for still, and will be of the next one
                self.died(worker, "killed together with its supervisor", None)
            else:
                self.at(time.monotonic() + 1.0, lambda worker=worker: self._look_after(worker))  # type: ignore[misc]

    def _look_after(self, worker: Worker) -> None:
        """A worker that was started in the moment in which the supervisor died, perhaps by the one that died."""
        if worker.launched and not worker.gone and not self._keeper.lives(worker):
            self.died(worker, "killed together with its supervisor", None)

    # --- Time

    def _watch(self, job: Job) -> None:
        """A job with a time limit has a worker now."""
        attempts = job.attempts
        self.at(time.monotonic() + job.terms.timeout, lambda: self._check_time(job, attempts))

    def _check_time(self, job: Job, attempts: int) -> None:
        with self.lock:
            if job.state != GIVEN or job.attempts != attempts:
                return
            worker: Worker = job.worker
            now = time.monotonic()
            timeout = job.terms.timeout
            since = worker.running_since(job)
            if not since:  # it lies behind another
                when = now + min(max(timeout / 4, 0.01), timeout)
            else:
                when = since / 1e9 + timeout
                if when <= now:
                    if self._kill(worker, job, "timeout"):
                        return
                    when = now + timeout
        self.at(when, lambda: self._check_time(job, attempts))

    # --- The end

    def shutdown(self, *, cancel: bool = False, kill: bool = False) -> None:
        """Take no more jobs; end when those at hand are over.

        Args:
            cancel: those that nobody has begun are cancelled.
            kill: those that somebody has begun, too.
        """
        if self.forked:
            return
        cancelled: list[Job] = []
        with self.lock:
            ended = self.over
            self.closing = True
            if cancel or kill:
                for job in list(self.dispatcher.jobs.values()):
                    begun = job.state == GIVEN and job.worker is not None and job.worker.began(job)
                    if not begun and self.dispatcher.withdraw(job):
                        cancelled.append(job)
                    elif kill and job.state == GIVEN and self._kill(job.worker, job, "cancelled"):
                        job.state = OVER
                        self.dispatcher.jobs.pop(job.serial, None)
                        cancelled.append(job)
            self.counts["cancelled"] += sum(job.count for job in cancelled)
            if kill:
                for worker in self.dispatcher.workers:
                    self.dispatcher.retire(worker)
                    worker.stopped = True
                    worker.verdict = worker.verdict or ("cancelled", None)
                    self._keeper.kill(worker)
            self._look_for_end()
            unused = self.over and not ended and not self._begun
        if unused:  # nobody else would do it
            self._keeper.end(self)
        for job in cancelled:
            job.owner.cancelled_by_pool(job)
        self.call_up()
        self.run_callbacks()

    def _look_for_end(self) -> None:
        """If it is shut down and nothing is left to do, the workers go, then the threads. The lock is held."""
        if not self.closing or self.dispatcher.jobs:
            return
        for worker in list(self.dispatcher.workers):
            self.dispatcher.retire(worker)
            self._let_go(worker)
        if not self._by_segment and not self.over:
            self.over = True
            engines.discard(self)
            ring_bell(self.call)

    def _at_end(self) -> None:
        self._keeper.end(self)

    def release(self) -> None:
        """Close what belongs to the pool alone; the memory goes with its last user, at once and not with the garbage:
        futures and their jobs know each other, and the pool."""
        with self._reading:  # nobody looks into it
            del self.region, self.ledger
        for fd in (self.bell, self.call, self.ledger_fd):
            os.close(fd)
        self.ended.set()


def _in_a_coroutine() -> bool:
    asyncio: Any = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


def _forget_in_child() -> None:
    """In a forked child every pool is the parent's, and its locks are held by threads that are not here."""
    for engine in list(engines):
        engine.forked = True
        engine.lock = threading.RLock()
    engines.clear()


os.register_at_fork(after_in_child=_forget_in_child)
