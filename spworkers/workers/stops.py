"""What stops a handler from outside. Everything else that it raises is its own doing, and its answer."""

from __future__ import annotations

import asyncio

__all__ = ["Stopped", "is_canceled", "is_stop"]


class Stopped(BaseException):
    """The request that this handler runs was given up. It is raised in plain handlers, for their `finally`."""


def is_stop(error: BaseException) -> bool:
    """Whether what came out of a coroutine is a cancellation, of asyncio's or another library's event loop.

    A handler may have a CancelledError of its own, of another task that it awaited: whose doing it was, only who awaits
    the handler knows. What comes in another library's loop is taken for a cancellation unless it is certainly none.
    """
    if isinstance(error, (Exception, SystemExit, KeyboardInterrupt)):
        return False
    return isinstance(error, asyncio.CancelledError) or _task() is None


def is_canceled() -> bool:
    """Whether this task was cancelled; where Python does not tell (before 3.11) that it was."""
    cancelling = getattr(_task(), "cancelling", None)
    return cancelling is None or cancelling() > 0


def _task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop of asyncio's
        return None
