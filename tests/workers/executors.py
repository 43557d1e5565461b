"""An Executor for tests of what stands on one."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import suppress
from typing import Any


class Stop(BaseException):
    """In the place of a kill: what was saved is all that is left."""


class Immediate(Executor):
    """Runs a task when it is submitted, and stops for good behind the `last` one."""

    def __init__(self, last: int = 1 << 60) -> None:
        self.left = last

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.left -= 1
        if self.left < 0:
            raise Stop
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def stopped(run: Callable[[Executor], object], lasts: Iterable[int]) -> None:
    """Begin a run so often, and stop each after so many tasks."""
    for last in lasts:
        with suppress(Stop):
            run(Immediate(last))


class Pickling(Immediate):
    """Results travel as they would to another process, and what cannot spoils its whole task."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(lambda: pickle.loads(pickle.dumps(fn(*args, **kwargs))))


class Breaking(Executor):
    """Does some tasks, fails the next ones of its own end, and then takes no more, as ProcessPoolExecutor does."""

    _max_workers = 2

    def __init__(self, last: int, *, refuses: bool = True) -> None:
        self.left = last
        self.refuses = refuses

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.left -= 1
        if self.left >= 0:
            return Immediate().submit(fn, *args, **kwargs)
        if self.left < -2 or self.refuses:
            raise BrokenExecutor("it is broken")
        future: Future[Any] = Future()
        future.set_exception(BrokenExecutor("it broke"))
        return future
