"""Time limits: what the dispatcher has to know of them, since only somebody outside of a worker can end it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from spworkers.workers.middleware.base import Middleware

if TYPE_CHECKING:
    from spworkers.workers.app import App

__all__ = ["OwnLimits", "TimeLimit", "own_limits"]

OwnLimits: TypeAlias = "tuple[float | None, int | None, bool]"
"""Time, retries (None: as the server has it), and whether the handler is async."""


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
        options["LIMITS"] = self.limits(own_limits(app))

    def limits(self, own: Mapping[str, OwnLimits]) -> dict[str, list[Any]]:
        """The dispatcher's LIMITS.

        Args:
            own: as `own_limits` has them.
        """
        return {name: list(self.limit(each)) for name, each in own.items() if each != (None, None, False)}

    def limit(self, own: OwnLimits) -> tuple[float, int, bool]:
        """What holds for a handler that says this itself, as the dispatcher has it."""
        timeout, retries, concurrent = own
        return (
            _seconds(self.timeout if timeout is None else timeout),
            self.retries if retries is None else retries,
            concurrent,
        )


def own_limits(app: App, part: str = "") -> dict[str, OwnLimits]:
    """What each handler says itself: its time, its retries, and whether it runs beside others.

    Args:
        part: of this respondent, consumer or subscriber, under no name, as the raw handler has none.
    """
    raw = app.parts[part].handler if part else app.raw_handler
    handlers = {**({} if part else app.handlers), **({"": raw} if raw is not None else {})}
    return {
        name: (handler.options.timeout, handler.options.retries, handler.concurrent)
        for name, handler in handlers.items()
    }


def _seconds(timeout: float | None) -> float:
    """A time limit as the dispatcher has it: 0 is none."""
    return 0.0 if timeout is None or timeout == math.inf else timeout
