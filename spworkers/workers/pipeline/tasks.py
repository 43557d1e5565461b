"""How the items of a stage reach an executor: several small ones in one task, each with an outcome of its own.

A `Pool` does that by itself (`pool.several`), to the item. Any other Executor is given one call that goes through
several items; where such a task fails as a whole (its result cannot be pickled, its worker died), the stage gives its
items out once more, each alone.
"""

from __future__ import annotations

import pickle
import time
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from typing import Any, Final, Protocol

from spworkers.errors import SerializationError, SPError
from spworkers.workers.pipeline.stages import Function
from spworkers.workers.pool.bench import LATER
from spworkers.workers.pool.executor import PoolView
from spworkers.workers.pool.future import PoolFuture
from spworkers.workers.pool.several import Outcomes, Submitter
from spworkers.workers.pool.values import error_of, pack_error

__all__ = ["HEAVY", "MOST", "Tasks", "is_broken", "is_done", "is_refusal", "tasks_of", "weight_of", "workers_of"]

MOST: Final = 1024
"""Items of a task, at most: the loop in the parent goes through all of them before it hands out anything else."""

HEAVY: Final = 1 << 20
"""Bytes of a task, about, at most, if it is to have several items."""

FAR: Final = 20_000_000
"""Nanoseconds of work for a task of a foreign executor, whose way there and back costs a millisecond and more."""


class Tasks(Protocol):
    """A stage's function on an executor."""

    def submit(self, values: list[Any], position: int) -> Future[Any]:
        """Have a worker go through some values, of which the first one is the stage's number `position`."""

    def outcomes(self, future: Future[Any]) -> Outcomes:
        """What has become of them, or of the first of them; raises what the task as a whole has failed of."""

    @property
    def fitting(self) -> int:
        """Items that are worth a task; 0: nobody knows yet how long they take."""

    @property
    def depth(self) -> int:
        """Tasks that a worker may have at once, so that it does not wait for the next one."""


class PoolTasks:
    """On a `Pool`."""

    def __init__(self, view: PoolView, function: Function) -> None:
        self._view = view
        self._function = function
        self._submitter: Submitter | None = None

    def submit(self, values: list[Any], position: int) -> Future[Any]:
        """See `Tasks`."""
        if self._submitter is None:
            self._submitter = Submitter(self._view._engine, self._view._terms, self._function)
        return self._submitter.submit(values, position)

    def outcomes(self, future: Future[Any]) -> Outcomes:
        """See `Tasks`."""
        found: Outcomes = future.result()
        return found

    @property
    def fitting(self) -> int:
        """See `Tasks`."""
        if self._submitter is None or not self._submitter.nanoseconds:
            return 0
        return max(1, min(LATER // self._submitter.nanoseconds, self._submitter.most or MOST))

    @property
    def depth(self) -> int:
        """See `Tasks`."""
        return 2 if self._submitter is None else self._submitter.depth


class Raised:
    """An exception among results. It stays as it is within a process, and goes to another as a pool's would."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return _raised, pack_error(self.error, 1)


def _raised(whole: bool, body: bytes) -> Raised:
    return Raised(error_of(whole, body))


def call_each(function: Function, values: list[Any]) -> tuple[list[Any], dict[int, Raised], int]:
    """What a worker of a foreign executor does: results, errors by place, and the nanoseconds that it took."""
    begun = time.perf_counter_ns()
    results: list[Any] = []
    errors: dict[int, Raised] = {}
    for value in values:
        try:
            results.append(function(value))
        except Exception as error:
            errors[len(results)] = Raised(error)
            results.append(None)
    return results, errors, time.perf_counter_ns() - begun


class ForeignTasks:
    """On any other Executor."""

    def __init__(self, executor: Executor, function: Function) -> None:
        self._executor = executor
        self._function = function
        self._pace = 0.0

    def submit(self, values: list[Any], position: int) -> Future[Any]:
        """See `Tasks`."""
        return self._executor.submit(call_each, self._function, values)

    def outcomes(self, future: Future[Any]) -> Outcomes:
        """See `Tasks`."""
        results, errors, nanoseconds = future.result()
        pace = nanoseconds / len(results) + 1
        self._pace = pace if pace > self._pace else (3 * self._pace + pace) / 4  # longer ones count at once
        return Outcomes(results, {place: raised.error for place, raised in errors.items()})

    @property
    def fitting(self) -> int:
        """See `Tasks`."""
        return max(1, int(FAR / self._pace)) if self._pace else 0

    @property
    def depth(self) -> int:
        """See `Tasks`."""
        return 2


def tasks_of(executor: Executor, function: Function) -> Tasks:
    """The function on that executor."""
    return PoolTasks(executor, function) if isinstance(executor, PoolView) else ForeignTasks(executor, function)


def workers_of(executor: Executor) -> int:
    """How many workers it has; 0: it does not say."""
    if isinstance(executor, PoolView):
        return executor._engine.dispatcher.limit
    count = getattr(executor, "_max_workers", None)
    return count if isinstance(count, int) else 0


def is_broken(executor: Executor, error: BaseException) -> bool:
    """Whether a task failed of the executor's end, and not of its own."""
    if isinstance(error, (BrokenExecutor, CancelledError)):
        return True
    return isinstance(executor, PoolView) and error is executor._engine.failure


def is_done(future: Future[Any]) -> bool:
    """Whether it is over, without reading for it: that has been done."""
    return future.ready() if isinstance(future, PoolFuture) else future.done()


def is_refusal(error: BaseException) -> bool:
    """Whether this is what an executor's `submit` says that takes no tasks any more."""
    return isinstance(error, (RuntimeError, SPError)) and not isinstance(error, SerializationError)


def weight_of(value: Any) -> int:
    """Bytes of a value, about; what cannot be pickled weighs as much as a task may."""
    if type(value) in {int, float, bool, type(None)}:
        return 32
    if isinstance(value, (str, bytes, bytearray)):
        return len(value) + 32
    held = getattr(value, "nbytes", None)
    if isinstance(held, int):
        return held + 32
    try:
        return len(pickle.dumps(value, 5))
    except Exception:  # a lambda, or whatever the __reduce__ of somebody's object raises
        return HEAVY
