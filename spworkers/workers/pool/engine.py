"""What goes on in a pool: what a result means, what happens when a worker dies, when time is over, and at the end.

    submit ─▶ lock ─▶ dispatcher ─▶ lane                    any thread
    reader ─▶ drain ─▶ lock ─▶ dispatcher ─▶ futures        one thread at a time has this role (`reader`)
    collector: timers; reads when nobody else does          its own thread
    news ("it died", "it was started") ─▶ reader            from the control thread and the keeper

Races, and where they are closed:
* a task is cancelled, or its time is over, while its worker finishes it: what lies behind it in the lane is taken back
  first, then the kill is sent only if it is still in hand. So a kill hits nobody else's task (`_kill`);
* a worker dies after it has published results: they are read before what it had begun is counted as dead (`_bury`);
* Ctrl-C comes while a guest unpickles results: what is not delivered yet is left to the collector (`_deliver`);
* a result comes for a job that was cancelled: nobody is told (`_settle`).
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from spworkers.errors import (
    BadValueError,
    QuarantinedError,
    ResourceError,
    ShutdownError,
    SPError,
)
from spworkers.ring import drain, ring_bell
from spworkers.waiting import let_go
from spworkers.workers.pool.crew import Worker
from spworkers.workers.pool.deaths import Starts, error_of_death
from spworkers.workers.pool.dispatch import Dispatcher
from spworkers.workers.pool.functions import Functions
from spworkers.workers.pool.jobs import GIVEN, OVER, PAUSED, Job
from spworkers.workers.pool.kinds import BATCH, KIND, LOST, MEMORY, PART, RAISED, READY, RESULT, UNFIT
from spworkers.workers.pool.ledger import ITEM, Ledger
from spworkers.workers.pool.reader import FOREVER, Reader
from spworkers.workers.pool.unpacking import decode
from spworkers.workers.pool.values import Values, error_of
from spworkers.workers.quantities import size_text

__all__ = ["Engine", "engines"]

FINAL_EXIT: Final = sys.version_info >= (3, 12)
"""An interpreter that exits starts no threads or processes any more, so a program that submits and ends at once would
lose its tasks: it has one worker before it goes on. (A coroutine does not wait: its program does not end before it.)"""
IDLE_LOOK: Final = 0.01
"""Seconds at least between two looks for idle workers."""
_BATCH: Final = 256  # records between two looks at who else wants something


engines: set[Engine] = set()
"""All of this process that have not ended."""


class Engine(Reader):
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

    __deletable__ = ("ledger",)  # for the compiler

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
        super().__init__(name)
        self.values = values
        self.idle_timeout = idle_timeout
        self.ledger_fd = Ledger.memory()
        self.ledger = Ledger(self.ledger_fd)
        self.functions = Functions()
        self.dispatcher = Dispatcher(limit, max_tasks, self._start_worker, self._watch)
        self.closing = False
        self.counts: dict[str, int] = dict.fromkeys(
            ("submitted", "done", "failed", "cancelled", "retried", "died", "timed_out", "quarantined", "replaced"), 0
        )
        self.failure: BaseException | None = None
        """Why no worker can be started: what its initializer raised."""
        self._keeper = keeper
        self._setup = setup
        self._by_segment: dict[int, Worker] = {}
        self._segments: deque[int] = deque(range(1, 1024))
        self._starts = Starts()
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

    # --- The reader's part

    def _read_lanes(self) -> bool:
        """Read everything that is there. Whether there was anything."""
        found = False
        if self.over:  # the memory may be gone
            return found
        for segment in self.region.collect():
            worker_of = self._by_segment.get(segment)
            if worker_of is not None:
                found = True
                self._read(worker_of)
        return found

    def _read(self, worker: Worker) -> None:
        while True:
            batch: list[Any] = []
            try:
                count = drain(worker.outlet, batch, _BATCH)
            finally:
                self._deliver(worker, batch)
            if count < _BATCH:
                return

    def _deliver(self, worker: Worker, batch: list[Any]) -> None:
        """Unpack results, tell the dispatcher, complete the futures."""
        decoded: list[Any] = []
        told: list[Any] = []
        try:
            decode(self.values, batch, decoded)
        except BaseException:  # Ctrl-C in this thread, which is a guest
            rest = batch[len(decoded) :]
            self._news.appendleft(lambda: self._deliver(worker, rest))
            ring_bell(self.call)
            raise
        finally:
            with self.lock:
                for kind, pipe, serial, value in decoded:
                    self._settle(worker, kind, pipe, serial, value, told)
                dispatcher = self.dispatcher
                dispatcher.refill(worker)
                if worker.retiring:
                    self._let_go(worker)
                if dispatcher.broken:
                    self._tidy()
                if self.closing:
                    self._look_for_end()
            for job, failed, value in told:
                if failed:
                    job.owner.fail(job, value)
                else:
                    job.owner.resolve(job, value)

    def _settle(self, worker: Worker, kind: int, pipe: int, serial: int, value: Any, told: list[Any]) -> None:
        """One record of a worker, with the lock held; who is to be told is added to `told`."""
        job = worker.jobs.get(serial)
        if job is None:
            if kind == READY:
                worker.ready, worker.pid = True, pipe  # the launcher's answer may come later than the first result
                self._starts.ready()
            elif kind == UNFIT:
                self._unfit(value)
            return
        if job.state == OVER:  # cancelled; its worker was a little faster than the kill
            if kind != PART:
                worker.jobs.pop(serial, None)
            return
        counts = self.counts
        if kind == RESULT:
            self.dispatcher.answered(worker, job, pipe * 100)
            job.function.nanoseconds = pipe * 100
            counts["done"] += 1
            told.append((job, False, value))
        elif kind == PART:
            self._settle_part(worker, job, pipe, value, told)
        else:
            error = value if kind == RAISED and isinstance(value, BaseException) else error_of(kind != LOST, value)
            self.dispatcher.answered(worker, job, pipe * 100)
            if job.attempts <= job.terms.retries and _is_one_of(error, job.terms.retry_on):
                self._again_later(job)
            else:
                counts["failed"] += job.count
                told.append((job, True, error))

    def _settle_part(self, worker: Worker, job: Job, first: int, value: Any, told: list[Any]) -> None:
        results, errors, nanoseconds = value
        count = len(results)
        job.done = first + count
        failed: dict[int, BaseException] = {}
        again: list[Job] = []
        if errors:
            for index, (whole, body) in errors.items():
                error = error_of(whole, body)
                if job.attempts <= job.terms.retries and _is_one_of(error, job.terms.retry_on):
                    again.append(job.owner.piece(job, first + index, first + index + 1))
                else:
                    failed[index] = error
        if job.done >= job.count:
            self.dispatcher.answered(worker, job, nanoseconds)
        self.counts["done"] += count - len(failed) - len(again)
        self.counts["failed"] += len(failed)
        if count:
            job.function.nanoseconds = nanoseconds // count or 1
        told.append((job, False, (first, results, failed, again)))
        for each in again:
            each.attempts = job.attempts
            self.dispatcher.adopt(each)
            self._again_later(each)

    def _again_later(self, job: Job) -> None:
        """Another attempt, after a pause. The lock is held."""
        job.state = PAUSED
        job.worker = None
        self.dispatcher.jobs[job.serial] = job
        self.counts["retried"] += job.count

        def again() -> None:
            with self.lock:
                if job.state == PAUSED:
                    self.dispatcher.again(job)
                    self.dispatcher.pump()

        self.at(time.monotonic() + job.terms.backoff.pause(job.attempts), again)

    def _unfit(self, body: bytes) -> None:
        """A worker's initializer has raised, or it is too large from its start: nobody can work. The lock is held."""
        from spworkers.errors import RemoteError

        what, kind, message, text = self.values_of_setup(body)
        error: SPError = RemoteError(kind, f"the pool's {what} failed: {message}", text)
        if what == MEMORY:
            error = BadValueError(message)
        former, self.failure = self.failure, error
        self._tell(lambda: self._cannot_start(error))
        let_go(former)

    @staticmethod
    def values_of_setup(body: bytes) -> tuple[str, str, str, str]:
        """What an UNFIT record says: what failed, the exception's type, its text, its traceback."""
        import pickle

        what, kind, message, text = pickle.loads(body)
        return what, kind, message, text

    def _tidy(self) -> None:
        """Jobs that no lane takes; functions that are forgotten. The lock is held."""
        dispatcher = self.dispatcher
        while dispatcher.broken:
            job, error = dispatcher.broken.pop()
            self.counts["failed"] += job.count
            self._tell(_failing(job, error))
        while self.functions.forgotten:
            number = self.functions.forgotten.pop()
            for worker in dispatcher.workers:
                worker.forget(number)

    # --- Death

    def _bury(self, worker: Worker, reason: str, status: int | None) -> None:
        """A worker is dead: what it has published counts, what it had begun is lost, others do the rest."""
        if worker.gone:
            return
        self._read(worker)
        told: list[Any] = []
        with self.lock:
            worker.gone = True
            self._keeper.forget(worker)
            begun = self.dispatcher.bury(worker)
            expected = worker.stopped and not begun
            if not expected and worker.verdict is None:
                self.counts["died"] += 1
            for job in begun:
                if job.state != OVER:
                    self._lost(worker, job, reason, status, told)
            if not worker.ready and not expected:
                self._died_at_start(worker, reason, status)
            elif not expected or worker.worn:
                self.counts["replaced"] += 1
            del self._by_segment[worker.segment]
            worker.close()
            self.region.punch(worker.segment)
            self._segments.append(worker.segment)
            self.dispatcher.pump()
            self._look_for_end()
        for job, error in told:
            job.owner.fail(job, error)

    def _died_at_start(self, worker: Worker, reason: str, status: int | None) -> None:
        """Whoever dies before it is ready died of its start; unless others were ready before, then perhaps of bad luck.
        The lock is held."""
        failure = self.failure
        if failure is not None:
            self._tell(lambda: self._cannot_start(failure))
            return
        starts = self._starts
        starts.died()
        if starts.hopeless and not any(each.ready for each in self.dispatcher.workers):
            error = starts.error(self.name, worker, reason, status)
            self._tell(lambda: self._cannot_start(error))
        if starts.slowed:
            self.at(starts.after, self._pump)

    def _pump(self) -> None:
        with self.lock:
            self.dispatcher.pump()

    def _lost(self, worker: Worker, job: Job, reason: str, status: int | None, told: list[Any]) -> None:
        """A job died with its worker. The lock is held."""
        if job.kind & KIND == BATCH:
            job = self._cut_out(worker, job)
        verdict = worker.verdict
        mine = verdict is not None and (verdict[1] is None or verdict[1].serial in {job.serial, job.owner_serial})
        why = verdict[0] if mine else ""
        terms = job.terms
        job.deaths += 1
        if why == "timeout":
            self.counts["timed_out"] += 1
        if job.attempts <= terms.retries:
            self._again_later(job)
            return
        self.dispatcher.jobs.pop(job.serial, None)
        job.state = OVER
        self.counts["failed"] += job.count
        error = error_of_death(worker, job, why, reason, status)
        if isinstance(error, QuarantinedError):
            self.counts["quarantined"] += 1
        told.append((job, error))

    def _cut_out(self, worker: Worker, job: Job) -> Job:
        """The task of a batch that a dead worker had in hand; the others go back to the queue."""
        from spworkers.workers.pool.ledger import SERIAL

        row = worker.row
        item = int(row[ITEM]) if row[SERIAL] == job.serial else job.done
        item = min(max(item, job.done), job.count - 1)
        dispatcher = self.dispatcher
        dispatcher.jobs.pop(job.serial, None)
        job.state = OVER
        for begin, end in ((item + 1, job.count), (job.done, item)):
            if begin < end:
                other = job.owner.piece(job, begin, end)
                other.attempts = job.attempts - 1
                dispatcher.adopt(other)
                dispatcher.again(other, front=True)
        culprit: Job = job.owner.piece(job, item, item + 1)
        culprit.attempts = job.attempts
        culprit.deaths = job.deaths
        culprit.owner_serial = job.serial
        dispatcher.adopt(culprit)
        return culprit

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


def _failing(job: Job, error: BaseException) -> Callable[[], None]:
    return lambda: job.owner.fail(job, error)


def _is_one_of(error: BaseException, kinds: tuple[Any, ...]) -> bool:
    return bool(kinds) and isinstance(error, kinds)


def _forget_in_child() -> None:
    """In a forked child every pool is the parent's, and its locks are held by threads that are not here."""
    for engine in list(engines):
        engine.forked = True
        engine.lock = threading.RLock()
    engines.clear()


os.register_at_fork(after_in_child=_forget_in_child)
