"""An Executor for tests of what stands on one."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from typing import Any


class Stop(Exception):
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
