"""`Pool`: what users hold. Worker processes behind the interface of `concurrent.futures.Executor`."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import pickle
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from spworkers._atexit import at_exit
from spworkers._coerce import Seconds, is_text
from spworkers.errors import BadValueError, SerializationError
from spworkers.lookaround import processors
from spworkers.workers.byvalue import dumps
from spworkers.workers.pool.backoff import Backoff
from spworkers.workers.pool.engine import Engine, engines
from spworkers.workers.pool.functions import name_of
from spworkers.workers.pool.future import PoolFuture
from spworkers.workers.pool.jobs import Job, Terms
from spworkers.workers.pool.keeper import Keeper
from spworkers.workers.pool.kinds import CALL, CALL_KEYWORDS
from spworkers.workers.pool.launch import START_METHODS, Forker, Launcher, Spawner
from spworkers.workers.pool.ledger import BUSY, STAGE
from spworkers.workers.pool.mapping import Results, Stream
from spworkers.workers.pool.progress import check_progress, shown, total_of
from spworkers.workers.pool.shared import store
from spworkers.workers.pool.terms import count_of, terms_of, workers_of
from spworkers.workers.pool.values import PLAIN, unsendable_arguments, values_of
from spworkers.workers.quantities import memory_of, seconds_of
from spworkers.workers.resident import resident

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Pool", "PoolView", "PoolWorkerInfo"]

_numbers = itertools.count(1)


@dataclass(frozen=True)
class PoolWorkerInfo:
    """One worker of a pool at one moment.

    Attributes:
        name: `pool-1`; a successor has the same.
        pid: of its process.
        state: starting, idle, busy, ending.
        done: tasks that this process has done.
        rss: bytes of memory that it uses.
        cpu: seconds of processor time that it has used.
    """

    name: str
    pid: int
    state: str
    done: int
    rss: int
    cpu: float


class PoolView(Executor):
    """A pool with other options: an Executor as well. `Pool.options` makes it.

    Its workers are the pool's; `shutdown`, and the end of a `with` block, are the pool's, too.
    """

    def __init__(self, engine: Engine, terms: Terms) -> None:
        self._engine = engine
        self._terms = terms

    # --- Tasks

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> PoolFuture:
        """Have a worker call `fn(*args, **kwargs)`. Every keyword is the function's.

        Returns:
            A future of its result.

        Raises:
            RuntimeError: the pool was shut down (`ShutdownError`).
            RemoteError: no worker can be started, for the pool's initializer raises.
        """
        engine = self._engine
        future = PoolFuture(engine)
        try:
            with engine.lock:
                function = engine.functions.find(fn)
            if kwargs:
                kind = CALL_KEYWORDS
                packed = engine.values.pack((args, kwargs))
            else:
                kind = CALL
                if PLAIN.issuperset(map(type, args)):
                    packed = engine.values.pack_small(args)
                else:
                    packed = engine.values.pack(args)
        except Exception as error:
            future.job = self._unsent(fn, args, kwargs)
            if engine.closing:
                engine.refuse()
            future.fail(future.job, _unsendable(fn, error))
            return future
        if type(packed) is bytes:
            job = Job(kind, function, packed, None, 1, future, self._terms, (args, kwargs))
        else:
            job = Job(kind, function, None, packed, 1, future, self._terms, (args, kwargs))
        future.job = job
        engine.submit(job)
        return future

    def _unsent(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job:
        from spworkers.workers.pool.functions import Function
        from spworkers.workers.pool.jobs import OVER

        job = Job(CALL, Function(0, name_of(fn), b""), b"", None, 1, None, self._terms, (args, kwargs))
        job.state = OVER
        return job

    async def asubmit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """`submit`, and the result, for asyncio and trio. Cancelling it stops the task.

        Raises:
            As `PoolFuture.result`.
        """
        from spworkers.workers.pool.awaiting import result_of

        return await result_of(self.submit(fn, *args, **kwargs))

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: Seconds = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        return_exceptions: bool = False,
        progress: Any = False,
    ) -> Iterator[Any]:
        """`fn` of every item, in the items' order. Items are read as results are taken: the input may be endless.

        Args:
            fn: called with one item of each iterable.
            iterables: ends with the shortest.
            timeout: seconds from now in which each result has to be there when it is asked for; `options(timeout=)`
                is the time limit of a task.
            chunksize: items that a worker gets at a time; None: as many as it does in some milliseconds.
            buffersize: items that are read and whose results were not taken, at most; None: some for each worker.
            return_exceptions: give back what a task has raised in place of its result, and go on.
            progress: show a bar: True (rich), "tqdm", "notebook", or a title for it.

        Raises:
            TimeoutError: a result is not there in time; the tasks that are left are cancelled, also those that run.
            Exception: what a task has raised.
        """
        return self._map(fn, iterables, True, timeout, chunksize, buffersize, return_exceptions, progress)

    def map_unordered(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: Seconds = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        return_exceptions: bool = False,
        progress: Any = False,
    ) -> Iterator[Any]:
        """As `map`, each result as soon as it is there."""
        return self._map(fn, iterables, False, timeout, chunksize, buffersize, return_exceptions, progress)

    def _map(
        self,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        ordered: bool,
        timeout: Seconds,
        chunksize: int | None,
        buffersize: int | None,
        return_exceptions: bool,
        progress: Any,
    ) -> Iterator[Any]:
        if not iterables:
            raise BadValueError("map wants a function and at least one iterable")
        check_progress(progress)
        deadline = math.inf if timeout is None else time.monotonic() + seconds_of(timeout, "timeout")
        total = total_of(*iterables)
        engine = self._engine
        if engine.closing or engine.failure is not None:
            engine.refuse()
        with engine.lock:
            function = engine.functions.find(fn)
        stream = Stream(
            engine,
            function,
            zip(*iterables) if len(iterables) > 1 else iterables[0],  # noqa: B905  # the shortest ends it
            star=len(iterables) > 1,
            terms=self._terms,
            ordered=ordered,
            chunksize=0 if chunksize is None else count_of(chunksize, "chunksize"),
            buffersize=0 if buffersize is None else count_of(buffersize, "buffersize"),
            total=total,
        )
        stream.fill()
        results = Results(stream.batches(deadline, return_exceptions=return_exceptions))
        return shown(results, total, progress, function.name)

    def options(
        self,
        *,
        timeout: Any = ...,
        retries: Any = ...,
        backoff: Any = ...,
        retry_on: Any = ...,
    ) -> PoolView:
        """The same pool with other options for what is submitted through the view; it is an Executor, too.

        Args:
            timeout: seconds after which a task's worker is killed; None: never.
            retries: how often a task is tried again after its worker died or its time was over.
            backoff: seconds of the pause before that, which doubles; or a `Backoff`.
            retry_on: exceptions of the task after which it is tried again as well.

        Raises:
            BadValueError: one of them is wrong.
        """
        old = self._terms
        return PoolView(
            self._engine,
            terms_of(
                old.timeout or None if timeout is ... else timeout,
                old.retries if retries is ... else retries,
                old.backoff if backoff is ... else backoff,
                old.retry_on if retry_on is ... else retry_on,
            ),
        )

    def __reduce__(self) -> NoReturn:
        raise SerializationError(f"{self!r} cannot be sent to another process; a task may make a pool of its own")

    # --- What is going on

    @property
    def workers(self) -> list[PoolWorkerInfo]:
        """Each worker as it is now; those that have no process yet are not among them."""
        with self._engine.lock:
            found = [worker for worker in self._engine.dispatcher.workers if worker.pid]
        return [_info(worker) for worker in found]

    def stats(self) -> dict[str, Any]:
        """What the pool has done and what it has to do.

        Returns:
            submitted, done, failed, cancelled, retried, died, timed_out, quarantined, replaced: counted since its
            start; queued, given, limit: as they are now; workers: a map for each.
        """
        engine = self._engine
        with engine.lock:
            counts: dict[str, Any] = {**engine.counts, **engine.dispatcher.load(), "limit": engine.dispatcher.limit}
        counts["workers"] = [dict(vars(worker)) for worker in self.workers]
        return counts

    def resize(self, workers: int) -> None:
        """Have so many workers at most from now on; those too many end after the task in hand.

        Raises:
            BadValueError: that is no number, or less than 1, or more than 1000.
        """
        self._engine.resize(workers_of(workers))

    # --- The end

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; the workers end when those at hand are done.

        Args:
            wait: until they have ended. Ctrl-C meanwhile ends them at once, as `kill_workers` does.
            cancel_futures: cancel the tasks that nobody has begun.
        """
        self._engine.shutdown(cancel=cancel_futures)
        if wait:
            try:
                self._engine.await_end()
            except BaseException:  # Ctrl-C: nobody waits for the tasks any more
                self._engine.shutdown(kill=True)
                raise

    def kill_workers(self) -> None:
        """Shut down at once: tasks that wait or run are cancelled, workers are killed."""
        self._engine.shutdown(kill=True)
        self._engine.await_end()

    terminate_workers = kill_workers

    def close(self) -> None:
        """The same as `shutdown()`."""
        self.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is not None and not issubclass(kind, Exception):  # Ctrl-C, SystemExit: nobody waits for results now
            self.kill_workers()
        else:
            self.shutdown()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        from spworkers.workers.pool.awaiting import in_thread

        cancelled = kind is not None and not issubclass(kind, Exception)
        self._engine.shutdown(kill=cancelled)
        await in_thread(self._engine.await_end)

    def __repr__(self) -> str:
        engine = self._engine
        if engine.over:
            return f"<{type(self).__name__} {engine.name}: shut down>"
        workers = list(engine.dispatcher.workers)
        busy = sum(bool(worker.jobs) for worker in workers)
        load = engine.dispatcher.load()
        closing = ", shutting down" if engine.closing else ""
        return (
            f"<{type(self).__name__} {engine.name}: {len(workers)} of {engine.dispatcher.limit} workers, {busy} busy,"
            f" {load['queued']} tasks waiting{closing}>"
        )


class Pool(PoolView):
    """Worker processes behind the interface of `concurrent.futures.Executor`.

    ```python
    with sp.Pool(4) as pool:
        pool.submit(pow, 2, 10).result()
        for page in pool.map(render, paths, progress=True): ...
    ```

    Workers are started when tasks need them, up to `workers`. Functions of `__main__`, lambdas and closures go by
    value. A task that crashes, hangs past its timeout, or cannot be pickled fails alone, with an error that says which
    task, why, and how the worker died; the pool goes on.

    A pool that nobody holds any more does what was submitted, and ends then; as with the executors of the standard
    library that needs no `shutdown`, and no ResourceWarning is given.

    Args:
        workers: processes at most, up to 1000; None: as many as there are processors for us.
        initializer: called in each worker before its first task.
        initargs: with these.
        finalizer: called in each worker that ends in peace.
        shared: an object that all workers map instead of having a copy each; a task finds it as
            `sp.this_worker().shared`. Arrays in it are read only.
        timeout: seconds after which a task's worker is killed; None: never.
        retries: how often a task is tried again after its worker died or its time was over.
        backoff: seconds of the pause before that, which doubles each time; or a `Backoff`.
        retry_on: exceptions after which a task is tried again as well.
        max_tasks: tasks after which a worker is replaced; None: never.
        memory_limit: bytes of resident memory, or text like "512MB": a worker that uses more is replaced, at once if it
            works. What a worker uses before its first task is not enough: then no task is taken.
        affinity: processors that workers are bound to in turn: numbers, or collections of numbers.
        threads_per_worker: threads that numerical libraries (OpenMP, BLAS) may start in each worker.
        start_method: "supervisor" (None: this): forked from a small process that has our code; "spawn": a fresh
            interpreter; "fork": from this process, with all that it holds.
        idle_timeout: seconds after which a worker with nothing to do leaves, until it is needed again; None: never.
        serializer: "pickle", or "msgpack" for arguments and results that the call format carries.
        name: for messages, `top` and `ps`.

    Raises:
        BadValueError: an argument is wrong.
        SerializationError: initializer, finalizer or shared cannot be pickled.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[Any] = (),
        finalizer: Callable[[], object] | None = None,
        shared: Any = None,
        timeout: Seconds = None,
        retries: int = 0,
        backoff: float | Backoff = Backoff(),  # noqa: B008  # frozen
        retry_on: Any = (),
        max_tasks: int | None = None,
        memory_limit: int | str | None = None,
        affinity: Any = None,
        threads_per_worker: int | None = None,
        start_method: str | None = None,
        idle_timeout: Seconds = None,
        serializer: str = "pickle",
        name: str | None = None,
    ) -> None:
        count = processors() if workers is None else workers_of(workers)
        terms = terms_of(timeout, retries, backoff, retry_on)
        if serializer not in {"pickle", "msgpack"}:
            raise BadValueError(f"serializer is {serializer!r}; it has to be 'pickle' or 'msgpack'")
        method = start_method or START_METHODS[0]
        if method not in START_METHODS:
            raise BadValueError(
                f"start_method is {method!r}; it has to be one of {', '.join(map(repr, START_METHODS))}"
            )
        for what, function in (("initializer", initializer), ("finalizer", finalizer)):
            if function is not None and not callable(function):
                raise BadValueError(f"{what} is {function!r:.80}; it has to be callable")
        if name is not None and not is_text(name):
            raise BadValueError(f"name is {name!r:.80}; it has to be a text, or None for pool-1, pool-2, …")
        given = _arguments(initargs, "initargs")
        if given and initializer is None:
            raise BadValueError(f"initargs is {initargs!r:.80}, but there is no initializer to be called with them")
        if isinstance(shared, (bool, int, float, complex)):  # for a number of workers, perhaps
            raise BadValueError(f"shared is {shared!r}; it has to be what is worth sharing: an array, a dict of arrays")
        name = name or f"pool-{next(_numbers)}"
        spec: dict[str, Any] = {
            "argv": [str(argument) for argument in sys.argv],
            "serializer": serializer,
            "cpus": _cpus(affinity),
            "threads": 0 if threads_per_worker is None else count_of(threads_per_worker, "threads_per_worker"),
            "shared": [],
        }
        setup = pickle.dumps(
            (
                _packed((initializer, given), initializer, "initializer") if initializer is not None else None,
                _packed(finalizer, finalizer, "finalizer") if finalizer is not None else None,
            ),
            5,
        )
        idle = math.inf if idle_timeout is None else seconds_of(idle_timeout, "idle_timeout")
        if idle < 0:
            raise BadValueError(
                f"idle_timeout is {idle_timeout!r}; it has to be 0 seconds or more, or None for no limit"
            )
        limit = spec["memory_limit"] = 0 if memory_limit is None else memory_of(memory_limit, "memory_limit")
        tasks = 0 if max_tasks is None else count_of(max_tasks, "max_tasks")
        fds: list[int] = []
        if shared is not None:
            fd, spec["shared"] = store(shared)
            fds.append(fd)
        keeper = Keeper(lambda engine: _launcher(engine, method), spec, fds, limit)
        engine = Engine(name, count, tasks, idle, values_of(serializer), [setup], keeper)
        super().__init__(engine, terms)
        # Nobody holds it any more: what was submitted is done, then it ends.
        self._forgotten = weakref.finalize(self, Engine.shutdown, engine)
        self._forgotten.atexit = False


def _finish_all() -> None:
    """At the interpreter's exit: what was submitted is done first, as executors have it."""
    found = list(engines)
    for engine in found:
        engine.shutdown()
    for engine in found:
        engine.await_end()


at_exit(_finish_all)  # after the supervisor's: called before it


def _launcher(engine: Engine, method: str) -> Launcher:
    if method == "fork":
        from spworkers.workers.pool.inside import live

        return Forker(died=engine.died, run=live)
    return Spawner(fresh=method == "spawn", died=engine.died, bereft=engine.bereft)


def _packed(thing: Any, function: Any, what: str) -> bytes:
    try:
        return dumps(thing, getattr(function, "__module__", None))
    except Exception as error:
        raise SerializationError(f"{what} cannot be sent to the workers: {type(error).__name__}: {error}") from error


def _unsendable(fn: Any, error: Exception) -> SerializationError:
    return error if isinstance(error, SerializationError) else unsendable_arguments(name_of(fn), error)


def _info(worker: Any) -> PoolWorkerInfo:
    busy = worker.row[STAGE] == BUSY
    # It may have begun with a task before its word that it is ready has come.
    state = "ending" if worker.retiring else "busy" if busy else "idle" if worker.ready else "starting"
    import psutil

    cpu = 0.0
    with contextlib.suppress(psutil.Error):
        times = psutil.Process(worker.pid).cpu_times()
        cpu = times.user + times.system
    return PoolWorkerInfo(worker.name, worker.pid, state, worker.done, resident(worker.pid), cpu)


def _arguments(value: Any, what: str) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):  # of a text, each letter would be one
        raise BadValueError(f"{what} is {value!r:.80}; it has to be a tuple or a list of arguments: ({value!r:.40},)")
    return tuple(value)


def _cpus(affinity: Any) -> list[list[int]]:
    if affinity is None:
        return []
    if not hasattr(os, "sched_setaffinity"):
        from spworkers.errors import UnsupportedOptionError

        raise UnsupportedOptionError("affinity: this system binds no processes to processors")
    try:
        if isinstance(affinity, (str, bytes)):  # whose letters might be numbers
            raise ValueError
        sets = [[int(each)] if isinstance(each, int) else [int(cpu) for cpu in each] for each in affinity]
    except (TypeError, ValueError):
        raise BadValueError(
            f"affinity is {affinity!r:.80}; it has to be a list of processors, or of collections of processors"
        ) from None
    allowed = os.sched_getaffinity(0)
    wrong = sorted({cpu for each in sets for cpu in each} - allowed)
    if wrong or not sets or not all(sets):
        raise BadValueError(
            f"affinity is {affinity!r:.80}; this process may run on the processors {sorted(allowed)}"
            + (f", not on {wrong}" if wrong else "")
        )
    return sets
