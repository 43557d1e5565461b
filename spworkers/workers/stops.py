"""What stops a handler from outside. Everything else that it raises is its own doing, and its answer."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

__all__ = ["Stopped", "count_cancellations", "is_stop"]


class Stopped(BaseException):
    """The request that this handler runs was given up. It is raised in plain handlers, for their `finally`."""


def is_stop(error: BaseException) -> bool:
    """Whether what came out of a coroutine, in the task that awaits it, is that task's cancellation.

    A handler may well have a CancelledError of its own, of another task that it awaited. What comes from another
    library's event loop is taken for a cancellation unless it is certainly none.
    """
    if isinstance(error, (Exception, SystemExit, KeyboardInterrupt)):
        return False
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return True
    if task is None:
        return True
    if not isinstance(error, asyncio.CancelledError):
        return False
    cancelling = getattr(task, "cancelling", None)
    return cancelling is None or cancelling() > 0


if sys.version_info >= (3, 11):

    def count_cancellations(loop: asyncio.AbstractEventLoop) -> None:
        """Have the loop's tasks know how often they were cancelled: they do."""

else:

    class _Task(asyncio.Task[Any]):
        """A task that knows, as Python's own do from 3.11 on."""

        _cancellations = 0

        def cancel(self, msg: Any = None) -> bool:
            self._cancellations += 1
            return super().cancel(msg)

        def cancelling(self) -> int:
            return self._cancellations

    def count_cancellations(loop: asyncio.AbstractEventLoop) -> None:
        """Have the loop's tasks know how often they were cancelled."""

        def task(loop: asyncio.AbstractEventLoop, coroutine: Any) -> Any:
            return _Task(coroutine, loop=loop)

        loop.set_task_factory(task)
