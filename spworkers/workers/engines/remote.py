"""What executors on somebody else's engine have in common: true futures, a bounded `map`, an end.

submit ─▶ parcel ─▶ engine ─▶ perform, on a worker ─▶ parcel ─▶ future

A subclass says how its engine begins a task (`_begin`) and stops one (`_stop`), and tells what became of it by
`_settle` or `_fail`, from any thread. The executor owns its futures and nothing else: the cluster is whose it was.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, InvalidStateError
from concurrent.futures import wait as await_all
from contextlib import suppress
from typing import Any, Final

from spworkers._coerce import Seconds
from spworkers.errors import BadValueError, SerializationError, ShutdownError, WorkerDiedError
from spworkers.workers.engines.parcel import Parcel, opened, packed
from spworkers.workers.pool.functions import name_of
from spworkers.workers.pool.terms import count_of
from spworkers.workers.quantities import seconds_of

__all__ = ["RemoteExecutor", "RemoteFuture"]

AHEAD: Final = 4
"""Chunks of a `map` that are under way for each worker, so that none waits for the next one."""


class RemoteFuture(Future[Any]):
    """What `submit` returns.

    Attributes:
        task: the function's name.
        theirs: the engine's own handle while the task is under way.
    """

    def __init__(self, executor: RemoteExecutor, task: str) -> None:
        super().__init__()
        self.task = task
        self.theirs: Any = None
        self._executor = executor

    def running(self) -> bool:
        """Whether a worker has the task in hand, as far as its engine can tell."""
        return not self.done() and self._executor._runs(self)

    def cancel(self) -> bool:
        """Cancel the task. What its engine cannot stop, as it runs already, goes on, and this is False."""
        if self.done():
            return self.cancelled()
        theirs = self.theirs
        if not self._executor.kills and self._executor._runs(self):
            return False
        # Ours first: what the engine says of theirs from now on is not taken for a loss.
        if theirs is None or not super().cancel():
            return self.cancelled()
        self._executor._stop(theirs)
        self.set_running_or_notify_cancel()  # wakes wait() and as_completed()
        self._executor._over(self)
        return True

    def _invoke_callbacks(self) -> None:
        # They may wait for other tasks, and whoever tells us is the thread by which the others' results come.
        call: Callable[[], None] = super()._invoke_callbacks  # type: ignore[misc]
        if self._done_callbacks:  # type: ignore[attr-defined]
            try:
                threading.Thread(target=call, name="spworkers-callbacks", daemon=True).start()
            except RuntimeError:  # the interpreter ends, and starts no thread
                call()

    def __repr__(self) -> str:
        return f"<RemoteFuture {self.task}: {self._state.lower().replace('_and_notified', '')}>"


class RemoteExecutor(Executor):
    """An Executor whose tasks run on an engine of somebody else's.

    Args:
        where: what to call the engine in `repr` and messages.
    """

    kills = False
    """Whether the engine can stop a task that runs."""

    repeats = False
    """Whether the engine itself gives a task to another worker when one has died of it."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._lock = threading.Lock()
        self._under_way: set[RemoteFuture] = set()
        self._closing = False

    # --- What a subclass has

    @property
    def _max_workers(self) -> int:
        """How many tasks run at once, as far as the engine knows now; a Pipeline looks at it, as of the library's."""
        raise NotImplementedError

    def _begin(self, future: RemoteFuture, call: Parcel) -> None:
        """Hand a task to the engine."""
        raise NotImplementedError

    def _stop(self, theirs: Any) -> None:
        """Take a task back, or kill it if the engine does that; it is cancelled here already."""
        raise NotImplementedError

    def _runs(self, future: RemoteFuture) -> bool:
        """Whether a worker has a task in hand; an engine that cannot tell says no."""
        return False

    # --- What an engine tells, from any thread

    def _settle(self, future: RemoteFuture, outcome: Parcel) -> None:
        """A task is done."""
        result, error = opened(outcome)
        self._over(future)
        with suppress(InvalidStateError):  # it was cancelled
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

    def _fail(self, future: RemoteFuture, error: BaseException) -> None:
        """A task has failed, or the engine has."""
        self._over(future)
        with suppress(InvalidStateError):
            future.set_exception(error)

    def _over(self, future: RemoteFuture) -> None:
        future.theirs = None  # the engine keeps whatever somebody holds
        with self._lock:
            self._under_way.discard(future)

    def _lost(self, future: RemoteFuture, why: str) -> WorkerDiedError:
        """The error of a task that the engine has lost."""
        return WorkerDiedError(f"{future.task} was lost by {self._where}: {why}", future.task)

    # --- What users call

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> RemoteFuture:
        """Have a worker call `fn(*args, **kwargs)`. Every keyword is the function's.

        Raises:
            RuntimeError: the executor was shut down (`ShutdownError`).
        """
        return self._send(name_of(fn), fn, args, kwargs)

    def _send(self, task: str, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> RemoteFuture:
        if self._closing:
            self._refuse()
        future = RemoteFuture(self, task)
        try:
            call = packed(fn, args, kwargs)
        except SerializationError as error:
            future.set_exception(error)
            return future
        with self._lock:
            if self._closing:
                self._refuse()
            self._under_way.add(future)
        try:
            self._begin(future, call)
        except BaseException:
            self._over(future)
            raise
        return future

    def _refuse(self) -> None:
        raise ShutdownError(f"cannot schedule new futures after shutdown: {self!r}")

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: Seconds = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """`fn` of every item, in the items' order. Items are read as results are taken: the input may be endless.

        Args:
            fn: called with one item of each iterable.
            iterables: ends with the shortest.
            timeout: seconds from now in which each result has to be there when it is asked for.
            chunksize: items that are one task of the engine's, which takes milliseconds for each.
            buffersize: items that are read and whose results were not taken, at most; None: some for each worker.

        Raises:
            TimeoutError: a result is not there in time.
            BaseException: what a task has raised.
        """
        if not iterables:
            raise BadValueError("map wants a function and at least one iterable")
        deadline = math.inf if timeout is None else time.monotonic() + seconds_of(timeout, "timeout")
        size = count_of(chunksize, "chunksize")
        most = AHEAD * self._max_workers if buffersize is None else max(count_of(buffersize, "buffersize") // size, 1)
        rows = zip(*iterables)  # noqa: B905  # the shortest ends it
        chunks = iter(lambda: list(itertools.islice(rows, size)), [])
        tasks = (self._send(name_of(fn), _each, (fn, chunk), {}) for chunk in chunks)
        return _results(deque(itertools.islice(tasks, most)), tasks, deadline)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks. The cluster goes on: it is not the executor's.

        Args:
            wait: until those under way are done.
            cancel_futures: cancel those that nobody has begun.
        """
        with self._lock:
            self._closing = True
            under_way = list(self._under_way)
        if cancel_futures:
            for future in under_way:
                future.cancel()
        if wait:
            await_all(under_way)

    def __repr__(self) -> str:
        state = "shut down" if self._closing else f"{len(self._under_way)} tasks under way"
        return f"<Executor on {self._where}: {state}>"


def _results(futures: deque[RemoteFuture], tasks: Iterator[RemoteFuture], deadline: float) -> Iterator[Any]:
    try:
        while futures:
            left = None if deadline == math.inf else deadline - time.monotonic()
            results = futures[0].result(left)
            futures.popleft()
            futures.extend(itertools.islice(tasks, 1))
            yield from results
    finally:
        for future in futures:
            future.cancel()


def _each(fn: Callable[..., Any], rows: list[tuple[Any, ...]]) -> list[Any]:
    """A chunk of a `map`, in the worker."""
    return [fn(*row) for row in rows]
