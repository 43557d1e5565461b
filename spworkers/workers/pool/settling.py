"""What the records of a pool's workers mean, and what becomes of jobs whose worker has died.

    lane ─▶ drain ─▶ decode ─▶ lock ─▶ settle ─▶ dispatcher, futures
    "it died" ─▶ what it had published counts ─▶ what it had begun is lost, or tried again

Races, and where they are closed:
* a worker dies after it has published results: they are read before what it had begun is counted as dead (`_bury`);
* Ctrl-C comes while a guest unpickles results: what is not delivered yet is left to the collector (`_deliver`);
* a result comes for a job that was cancelled: nobody is told (`_settle`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from spworkers.errors import BadValueError, QuarantinedError, SPError
from spworkers.ring import drain, ring_bell
from spworkers.waiting import let_go
from spworkers.workers.pool.crew import Worker
from spworkers.workers.pool.deaths import Starts, error_of_death
from spworkers.workers.pool.dispatch import Dispatcher
from spworkers.workers.pool.functions import Functions
from spworkers.workers.pool.jobs import OVER, PAUSED, Job
from spworkers.workers.pool.kinds import BATCH, KIND, LOST, MEMORY, PART, RAISED, READY, RESULT, UNFIT
from spworkers.workers.pool.ledger import ITEM, Ledger
from spworkers.workers.pool.reader import Reader
from spworkers.workers.pool.unpacking import decode
from spworkers.workers.pool.values import Values, error_of

__all__ = ["Settling"]

_BATCH: Final = 256  # records between two looks at who else wants something


class Settling(Reader):
    """The part of a pool that reads what its workers say, and buries those that died.

    Args:
        name: of the pool.
        limit: workers at most.
        max_tasks: tasks of one worker before it is replaced; 0: no end.
        values: how arguments and results are packed.
        keeper: starts and ends processes.
    """

    __deletable__ = ("ledger",)  # for the compiler

    def __init__(self, name: str, limit: int, max_tasks: int, values: Values, keeper: Any) -> None:
        super().__init__(name)
        self.values = values
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
        self._by_segment: dict[int, Worker] = {}
        self._segments: deque[int] = deque(range(1, 1024))
        self._starts = Starts()

    # --- What the pool adds

    def _start_worker(self) -> Worker | None:
        """One more worker; None: not now."""
        raise NotImplementedError

    def _cannot_start(self, error: BaseException) -> None:
        """There is no worker, and none can be made: what waits fails of it."""
        raise NotImplementedError

    def _let_go(self, worker: Worker) -> None:
        """A worker that retires goes if it has nothing to do."""
        raise NotImplementedError

    def _watch(self, job: Job) -> None:
        """A job with a time limit has a worker now."""
        raise NotImplementedError

    def _look_for_end(self) -> None:
        """The pool ends, if it is shut down and nothing is left to do. The lock is held."""
        raise NotImplementedError

    # --- Records

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


def _failing(job: Job, error: BaseException) -> Callable[[], None]:
    return lambda: job.owner.fail(job, error)


def _is_one_of(error: BaseException, kinds: tuple[Any, ...]) -> bool:
    return bool(kinds) and isinstance(error, kinds)
