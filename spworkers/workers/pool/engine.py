"""What goes on in a pool: who reads results, what happens when a worker dies, when time is over, and at the end.

    submit ─▶ lock ─▶ dispatcher ─▶ lane                    any thread
    reader ─▶ drain ─▶ lock ─▶ dispatcher ─▶ futures        one thread at a time has this role
    collector: timers; reads when nobody else does          its own thread
    news ("it died", "it was started") ─▶ reader            from the control thread and the keeper

**The reader's role** belongs to whoever waits. A thread in `result()` takes it, reads what comes, and completes other
threads' futures too; so a result costs it one wake-up, its own. While such guests come and go the collector sleeps, but
for a look once a millisecond; it is called up by whoever waits in another way (`as_completed`, callbacks, asyncio).

Races, and where they are closed:
* a task is cancelled, or its time is over, while its worker finishes it: what lies behind it in the lane is taken back
  first, then the kill is sent only if it is still in hand. So a kill hits nobody else's task (`_kill`);
* a worker dies after it has published results: they are read before what it had begun is counted as dead (`_bury`);
* Ctrl-C comes while a guest unpickles results: what is not delivered yet is left to the collector (`_deliver`);
* two sleep on the pool's bell, a guest and the collector that it relieved, and who wakes first silences it: only the
  reader does that (`_read_once`), and a guest that leaves wakes a collector that sleeps there still (`wait`);
* a result comes for a job that was cancelled: nobody is told (`_settle`).
"""

from __future__ import annotations

import functools
import heapq
import itertools
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from spworkers.errors import (
    ForkedError,
    QuarantinedError,
    SerializationError,
    ShutdownError,
    SPError,
    TaskTimeoutError,
    WorkerDiedError,
)
from spworkers.ring import Record, Region, drain, hush_bell, make_bell, ring_bell, spin_board, wait_readable
from spworkers.workers.pool.crew import Worker
from spworkers.workers.pool.dispatch import Dispatcher
from spworkers.workers.pool.functions import Functions
from spworkers.workers.pool.jobs import GIVEN, OVER, PAUSED, Job
from spworkers.workers.pool.kinds import BATCH, KIND, LOST, PART, RAISED, READY, RESULT, UNFIT
from spworkers.workers.pool.ledger import ITEM, Ledger
from spworkers.workers.pool.room import roomy
from spworkers.workers.pool.values import Values, error_of

__all__ = ["Engine", "Target", "engines"]

FOREVER: Final = float("inf")
FINAL_EXIT: Final = sys.version_info >= (3, 12)
"""An interpreter that exits starts no threads or processes any more, so a program that submits and ends at once would
lose its tasks: it has one worker before it goes on. (A coroutine does not wait: its program does not end before it.)"""
TICK: Final = 0.001
"""Seconds between two looks of the collector while guests read."""
PATIENCE: Final = 5
"""So many looks without a guest in between, and the collector sleeps on the bell again."""
SPIN: Final = 50e-6
"""Seconds for which a guest looks around before it sleeps: about what a wake-up costs."""
START_DEATHS: Final = 3
"""So many workers in a row that die before they are ready, and tasks fail of it, if none was ever ready."""
START_DEATHS_LATER: Final = 20
"""The same, once one was."""
_BATCH: Final = 256  # records between two looks at who else wants something


engines: set[Engine] = set()
"""All of this process that have not ended."""


class Target(Protocol):
    """What a thread can wait for."""

    def ready(self) -> bool:
        """It is there."""

    def block(self, timeout: float) -> None:
        """Wait for it without reading, at most so many seconds."""


class Engine:
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
        self.name = name
        self.pid = os.getpid()
        self.forked = False
        """This is a copy in a child that the user forked."""
        self.values = values
        self.idle_timeout = idle_timeout
        self.lock = threading.RLock()
        self.region = Region.create()
        self.bell = make_bell()
        self.call = make_bell()
        self.ledger_fd = Ledger.memory()
        self.ledger = Ledger(self.ledger_fd)
        self.functions = Functions()
        self.dispatcher = Dispatcher(limit, max_tasks, self._start_worker, self._watch)
        self.closing = False
        self.over = False
        self.ended = threading.Event()
        self.counts: dict[str, int] = dict.fromkeys(
            ("submitted", "done", "failed", "cancelled", "retried", "died", "timed_out", "quarantined", "replaced"), 0
        )
        self.failure: BaseException | None = None
        """Why no worker can be started: what its initializer raised."""
        self.callbacks: deque[Any] = deque()
        """Futures whose callbacks are to be called by whoever has the time."""
        self._keeper = keeper
        self._setup = setup
        self._by_segment: dict[int, Worker] = {}
        self._segments: deque[int] = deque(range(1, 1024))
        self._news: deque[Callable[[], None]] = deque()
        self._left_over: deque[tuple[Worker, list[Any]]] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_numbers = itertools.count()
        self._wake_at = FOREVER
        self._start_deaths = 0
        self._worked = False
        self._start_after = 0.0
        self._reading = threading.Lock()
        self._visits = 0  # of guests
        self._hooks = 0  # of threads that wait for the collector
        self._blocked = 0
        self._parked = False
        self._napping = False
        self._watching = False
        self._rung = False
        self._spins = keeper.processors > 1
        self._luck = 1
        self._collector: threading.Thread | None = None
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
            first = self._collector is None
            if first:
                self._begin()
            self.counts["submitted"] += job.count
            dispatcher = self.dispatcher
            dispatcher.add(job)
            if dispatcher.broken or self.functions.forgotten:
                self._tidy()
            waiting = len(dispatcher.queue)
        if waiting:
            self._visits += 1
            if self._reading.acquire(False):
                try:
                    self._read_once()
                finally:
                    self._reading.release()
                self.run_callbacks()
        if first and FINAL_EXIT and not _in_a_coroutine():
            self._keeper.await_first()

    def refuse(self) -> None:
        """Raise why no more jobs are taken."""
        self.check_fork()
        if self.failure is not None:
            raise self.failure
        raise ShutdownError(f"cannot schedule new futures after shutdown: pool {self.name} was shut down")

    def _begin(self) -> None:
        self._collector = threading.Thread(target=self._collect, name=f"{self.name}-collector", daemon=True)
        self._collector.start()
        self._keeper.begin(self)
        if self.idle_timeout != FOREVER:
            self.at(time.monotonic() + self.idle_timeout, self._dismiss_idle)

    def check_fork(self) -> None:
        """Raise ForkedError in a child that the user forked."""
        if self.forked:
            raise ForkedError(
                f"pool {self.name} belongs to process {self.pid}, its workers answer there; a forked child makes a pool"
                " of its own"
            )

    def wait(self, target: Target, timeout: float) -> bool:
        """Wait for something, reading results meanwhile if nobody else does. False: the time is over."""
        deadline = FOREVER if timeout == FOREVER else time.monotonic() + timeout
        while not target.ready():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.check_fork()
            if self._reading.acquire(False):
                try:
                    self._visit(target, deadline)
                finally:
                    self._visits += 1
                    self._reading.release()
                    if self._blocked:
                        self._hooks += 1
                    if self._blocked or self._napping or self._watching:
                        ring_bell(self.call)
                self.run_callbacks()
            else:
                self._blocked += 1
                try:
                    target.block(left)
                finally:
                    self._blocked -= 1
        return True

    def _visit(self, target: Target, deadline: float) -> None:
        """Read until the target is there, the time is over, or somebody's callbacks want to be called."""
        while True:
            self._read_once()
            if target.ready() or self.callbacks:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                return
            if self._spins and self._look_around():
                continue
            if not self.region.rearm() and not self._news and wait_readable(self.bell, left):
                self._rung = True

    def _look_around(self) -> bool:
        """Whether a result comes within the time that a wake-up would cost; tried as long as that pays."""
        if self._luck <= 0:
            self._luck -= 1
            if self._luck > -8:  # now and then, times may have changed
                return False
            self._luck = 1
        if not roomy():
            return False
        found = spin_board(self.region, SPIN)
        self._luck = min(self._luck + 1, 4) if found else self._luck - 1
        return found

    def glance(self) -> None:
        """Read what is there, if nobody else does."""
        if self._reading.acquire(False):
            try:
                self._read_once()
            finally:
                self._reading.release()
            self.run_callbacks()

    def call_up(self) -> None:
        """Somebody waits who does not read: the collector has to."""
        self._hooks += 1
        if self._parked:
            ring_bell(self.call)

    def run_callbacks(self) -> None:
        """Call the callbacks of futures that are done; not while reading, for they may wait for other futures."""
        while self.callbacks:
            try:
                future = self.callbacks.popleft()
            except IndexError:  # another thread was faster
                return
            future._invoke_callbacks()

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
        if self.failure is not None or self.over or not self._segments or time.monotonic() < self._start_after:
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
        self.at(soonest, self._dismiss_idle)

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
            why = f"it used {used / 1048576:.0f} MiB of memory, and memory_limit allows {limit / 1048576:.0f} MiB"
            for job in list(worker.jobs.values()):
                if worker.began(job) and self._kill(worker, job, why):
                    return
            if not worker.retiring:
                self.counts["replaced"] += 1
                self._retire(worker)
                self.dispatcher.pump()

    # --- News, from the keeper and the control thread

    def _tell(self, news: Callable[[], None]) -> None:
        """Have the reader do something; any thread may."""
        self._news.append(news)
        ring_bell(self.bell)
        ring_bell(self.call)

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

    def _read_once(self) -> bool:
        """Read everything that is there. Whether there was anything."""
        if self._rung:  # silenced by the reader alone: another sleeper's poll would look again, and sleep on
            self._rung = False
            hush_bell(self.bell)
        while self._left_over:
            worker, rest = self._left_over.popleft()
            self._deliver(worker, rest)
        while self._news:
            self._news.popleft()()
        found = False
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
        values = self.values
        decoded: list[Any] = []
        told: list[Any] = []
        try:
            for record in batch:
                kind, pipe, serial, body = record
                value: Any
                try:
                    if kind == RESULT:
                        value = values.unpack(body) if type(body) is bytes else _unpack_record(values, body)
                    elif kind == PART:
                        value = _unpack_part(values, body)
                    else:
                        value = _whole(body)
                except Exception as error:
                    kind = RAISED
                    value = SerializationError(
                        f"the result cannot be read here: {type(error).__name__}: {error}; let it be made of what this"
                        " process can import, too"
                    )
                    value.__cause__ = error
                decoded.append((kind, pipe, serial, value))
        except BaseException:  # Ctrl-C in this thread, which is a guest
            self._left_over.append((worker, batch[len(decoded) :]))
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
                worker.ready = self._worked = True
                self._start_deaths = 0
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
        """A worker's initializer has raised: nobody can work here. The lock is held."""
        from spworkers.errors import RemoteError

        whole, kind, message, text = self.values_of_setup(body)
        error = RemoteError(kind, f"the pool's {whole} failed: {message}", text)
        self.failure = error
        self._tell(lambda: self._cannot_start(error))

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
            elif not expected:
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
        self._start_deaths += 1
        if self._start_deaths >= (START_DEATHS_LATER if self._worked else START_DEATHS):
            error = WorkerDiedError(
                f"{self._start_deaths} workers of pool {self.name} in a row died at their start, the last one (pid"
                f" {worker.pid}): {reason}",
                f"start of {worker.name}",
                worker.pid,
                status,
            )
            if not any(each.ready for each in self.dispatcher.workers):
                self._tell(lambda: self._cannot_start(error))
        if self._start_deaths >= START_DEATHS:
            self._start_after = time.monotonic() + min(0.01 * 2.0 ** (self._start_deaths - START_DEATHS), 2.0)
            self.at(self._start_after, self._pump)

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
        told.append((job, self._error_of_death(worker, job, why, reason, status)))

    def _error_of_death(self, worker: Worker, job: Job, why: str, reason: str, status: int | None) -> SPError:
        task = job.owner.describe(job)
        if why == "timeout":
            seconds = job.terms.timeout
            times = f", for the {_ordinal(job.attempts)} time" if job.attempts > 1 else ""
            return TaskTimeoutError(
                f"{task} ran longer than its timeout of {seconds:g} s{times}; its worker {worker.name} (pid"
                f" {worker.pid}) was killed",
                task,
                seconds,
            )
        how = why or reason
        died = WorkerDiedError(
            f"worker {worker.name} (pid {worker.pid}) died while it ran {task}: {how}", task, worker.pid, status
        )
        if job.attempts <= 1:
            return died
        self.counts["quarantined"] += 1
        error = QuarantinedError(
            f"{task} killed {job.deaths} workers in {job.attempts} attempts and is not tried again; the last one,"
            f" {worker.name} (pid {worker.pid}): {how}",
            task,
            job.deaths,
        )
        error.__cause__ = died
        return error

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

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Have the collector call something at that moment of `time.monotonic`."""
        with self.lock:
            heapq.heappush(self._timers, (when, next(self._timer_numbers), call))
            early = when < self._wake_at
        if early:
            ring_bell(self.call)

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

    def _run_timers(self) -> float:
        """Call what is due; returns the seconds until the next."""
        while True:
            with self.lock:
                now = time.monotonic()
                if not self._timers:
                    self._wake_at = FOREVER
                    return FOREVER
                when, _, call = self._timers[0]
                if when > now:
                    self._wake_at = when
                    return when - now
                heapq.heappop(self._timers)
            call()

    # --- The collector

    def _collect(self) -> None:
        seen_visits = seen_hooks = patience = 0
        nap = TICK
        while not self.over:
            left = self._run_timers()
            mine = self._reading.acquire(False)
            if mine:
                try:
                    while self._read_once():
                        pass
                finally:
                    self._reading.release()
            self.run_callbacks()
            if self.over:
                break
            visits, hooks = self._visits, self._hooks
            if hooks != seen_hooks:
                patience = 0
            elif not mine or visits != seen_visits:
                patience = PATIENCE
            elif patience:
                patience -= 1
            seen_visits, seen_hooks = visits, hooks
            if not mine:
                nap = min(nap * 2, 0.05)
                self._nap(min(nap, left))
            elif patience:
                nap = TICK
                self._nap(min(nap, left))
            else:
                self._watching = True
                if not self.region.rearm() and not self._news:
                    woken = wait_readable(self.bell, left, self.call)
                    if woken == 1:
                        self._rung = True
                    elif woken == 2:
                        hush_bell(self.call)
                self._watching = False
        self._keeper.end()
        self.ended.set()

    def _nap(self, seconds: float) -> None:
        """Sleep while others read."""
        self._napping = seconds > TICK
        self._parked = True
        hooks = self._hooks
        busy = self._reading.locked() or not self._napping
        if busy and hooks == self._hooks and wait_readable(self.call, seconds):
            hush_bell(self.call)
        self._parked = self._napping = False

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
            if self._collector is None:
                self.ended.set()

    def await_end(self, timeout: float | None = None) -> bool:
        """Wait until the last worker is gone. Not from the collector, which has to see it."""
        if self.forked or threading.current_thread() is self._collector:
            return False
        return self.ended.wait(timeout)

    def release(self) -> None:
        """Close what belongs to the pool alone; the memory goes with its last user."""
        for fd in (self.bell, self.call, self.ledger_fd):
            os.close(fd)


def _in_a_coroutine() -> bool:
    asyncio: Any = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


def _failing(job: Job, error: BaseException) -> Callable[[], None]:
    return lambda: job.owner.fail(job, error)


def _unpack_record(values: Values, record: Record) -> Any:
    try:
        return values.unpack_record(record)
    finally:
        record.release()


def _unpack_part(values: Values, body: Any) -> Any:
    """Results of a batch: `(values, errors, nanoseconds)`."""
    import pickle

    if type(body) is not bytes:
        record: Record = body
        if record.header:  # one large result
            return [_unpack_record(values, record)], None, 0
        body = record.take_body()
    each, results, errors, nanoseconds = pickle.loads(body)
    if each:
        errors = dict(errors or {})
        unpacked: list[Any] = []
        for index, packed in enumerate(results):
            try:
                unpacked.append(values.unpack(packed) if packed is not None else None)
            except Exception as error:
                unpacked.append(None)
                errors[index] = (
                    False,
                    pickle.dumps(("SerializationError", f"the result cannot be read here: {error}", "")),
                )
        results = unpacked
    return results, errors, nanoseconds


def _whole(body: Any) -> bytes:
    if type(body) is bytes:
        return body
    record: Record = body
    return record.take_body()


def _is_one_of(error: BaseException, kinds: tuple[Any, ...]) -> bool:
    return bool(kinds) and isinstance(error, kinds)


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _forget_in_child() -> None:
    """In a forked child every pool is the parent's, and its locks are held by threads that are not here."""
    for engine in list(engines):
        engine.forked = True
        engine.lock = threading.RLock()
    engines.clear()


os.register_at_fork(after_in_child=_forget_in_child)
