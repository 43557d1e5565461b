"""Time limits: what the dispatcher has to know of them, since only somebody outside of a worker can end it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from spworkers.workers.middleware.base import Middleware

if TYPE_CHECKING:
    from spworkers.workers.app import App

__all__ = ["TimeLimit"]


class TimeLimit(Middleware):
    """Kills the worker of a plain handler, and cancels the task of an async one, that runs too long.

    Args:
        timeout: seconds, for handlers that do not say themselves; None: they may run as long as they want.
        retries: how often a request goes to another worker after that, or after a death; likewise.
    """

    def __init__(self, timeout: float | None = None, retries: int = 1) -> None:
        self.timeout = timeout
        self.retries = retries

    def serving(self, app: App, options: dict[str, Any]) -> None:
        options["TIMEOUT"] = _seconds(self.timeout)
        options["RETRIES"] = self.retries
        handlers = {**app.handlers, **({"": app.raw_handler} if app.raw_handler is not None else {})}
        limits = {}
        for name, handler in handlers.items():
            own = handler.options
            if own.timeout is not None or own.retries is not None or handler.concurrent:
                timeout = self.timeout if own.timeout is None else own.timeout
                retries = self.retries if own.retries is None else own.retries
                limits[name] = [_seconds(timeout), retries, handler.concurrent]
        options["LIMITS"] = limits


def _seconds(timeout: float | None) -> float:
    """A time limit as the dispatcher has it: 0 is none."""
    return 0.0 if timeout is None or timeout == math.inf else timeout
