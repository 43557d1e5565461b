"""Several items to one worker in one record, with one future for them all: what a `Pipeline` hands out.

    submit(items) ─▶ Several ─▶ Outcomes(results, errors, rest) ─ rest ─▶ Several ─▶ Outcomes(…, rest=None)

Each item keeps what it would have as a task of its own: its time limit, its exception, its death. What comes of them in
parts is given in parts: a future is done when the first of its items are, and has a future of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from typing import Any, NamedTuple

from spworkers.errors import SPError
from spworkers.workers.futures import GIVEN_UP
from spworkers.workers.pool.engine import Engine
from spworkers.workers.pool.future import PoolFuture
from spworkers.workers.pool.jobs import Job, Terms
from spworkers.workers.pool.mapping import Chunk, Stream

__all__ = ["Outcomes", "Several", "Submitter", "wait_for_any"]


class Outcomes(NamedTuple):
    """What became of the first items of those that were submitted.

    Attributes:
        results: of each; None where it failed.
        errors: by the item's place among them.
        rest: a future of the Outcomes of the other items; None: these are all.
    """

    results: list[Any]
    errors: dict[int, BaseException]
    rest: Any = None


class Several(PoolFuture):
    """A future of `Outcomes`."""

    def __init__(self, engine: Engine, part: _Part) -> None:
        super().__init__(engine)
        self._part = part
        self.job = part.jobs[0] if part.jobs else None

    def cancel(self) -> bool:
        """Cancel all items that are not done; the worker of one that runs is killed and replaced."""
        if self.done():
            return self.cancelled()
        for job in list(self._part.jobs):
            self._engine.cancel(job)
        self._decide(GIVEN_UP)
        self._engine.run_callbacks()
        return self.cancelled()


class _Part(Chunk):
    """The items of one submission."""

    __slots__ = ("future", "jobs")

    def __init__(self, stream: Stream, position: int, items: Sequence[Any]) -> None:
        super().__init__(stream, position, items)
        self.jobs: list[Job] = []
        self.future: Several = Several(stream.engine, self)

    def note(self, job: Job) -> None:
        self.jobs.append(job)  # its future takes them back, and not the stream, which has no end

    def cancelled_by_pool(self, job: Job) -> None:
        self.fail(job, CancelledError("the pool was shut down before it was begun"))

    def _fill(self, at: int, results: list[Any], failed: dict[int, BaseException] | None, again: Any) -> None:
        super()._fill(at, results, failed, again)
        with self.stream.lock:
            begin, end = self.yielded, self.known
            if begin == end:
                return
            self.yielded = end
            found = self.results[begin:end]
            errors = {index - begin: error for index, error in self.errors.items() if begin <= index < end}
            future, rest = self.future, None
            if end < len(self.items):
                self.results[begin:end] = [None] * (end - begin)  # given away, and not kept here
                rest = self.future = Several(self.stream.engine, self)
        future._finish(Outcomes(found, errors, rest), None)


class Submitter:
    """One function of a pool, by which several items are submitted at once.

    Args:
        engine: the pool's.
        terms: of each item.
        function: called with one item.

    Raises:
        SerializationError: the function cannot be pickled.
    """

    def __init__(self, engine: Engine, terms: Terms, function: Callable[[Any], Any]) -> None:
        self._engine = engine
        with engine.lock:
            self._function = engine.functions.find(function)
        self._stream = Stream(
            engine, self._function, (), star=False, terms=terms, ordered=True, chunksize=0, buffersize=0, total=None
        )

    @property
    def nanoseconds(self) -> int:
        """What one item takes, about; 0: nobody knows yet."""
        return self._function.nanoseconds

    @property
    def depth(self) -> int:
        """Tasks as short as those of late that a worker may have at once, so that it does not wait for the next."""
        return self._engine.dispatcher.depth

    @property
    def most(self) -> int:
        """Items that may be submitted at once; 0: any number."""
        return self._engine.dispatcher.max_tasks

    def submit(self, items: list[Any], position: int) -> Several:
        """Have a worker go through some items; the first one is number `position` in messages.

        Raises:
            RuntimeError: the pool was shut down (`ShutdownError`).
            RemoteError: no worker can be started, for the pool's initializer raises.
        """
        engine = self._engine
        if engine.closing or engine.failure is not None:
            engine.refuse()
        part = _Part(self._stream, position, items)
        future = part.future
        for job in self._stream._jobs_of(part):
            part.note(job)
            future.job = future.job or job
            try:
                engine.submit(job)
            except SPError as error:  # shut down in this moment
                part.fail(job, error)
        return future


class _AnyOf:
    """A target: one of these futures, whichever is done first."""

    def __init__(self, futures: Sequence[PoolFuture]) -> None:
        self._futures = futures

    def ready(self) -> bool:
        """One of them is."""
        return any(future.ready() for future in self._futures)

    def block(self, timeout: float) -> None:
        """Wait without reading."""
        wait(self._futures, None if timeout == float("inf") else timeout, FIRST_COMPLETED)


def wait_for_any(futures: Sequence[Future[Any]], timeout: float | None) -> None:
    """Wait until one of them is done, at most so many seconds; None: for ever.

    Where all are of one pool, this thread reads the results itself, as `result()` does: each costs it one wake-up.
    """
    engines = {future._engine if isinstance(future, PoolFuture) else None for future in futures}
    engine = engines.pop()
    if engine is None or engines:
        wait(futures, timeout, FIRST_COMPLETED)
    else:
        engine.wait(_AnyOf(futures), float("inf") if timeout is None else timeout)  # type: ignore[arg-type]
