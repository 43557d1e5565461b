"""The middleware of one worker, as its runner calls it: only hooks that somebody has overridden."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from spworkers._coerce import seconds
from spworkers.workers.middleware.base import Middleware, WorkerControl
from spworkers.workers.requestinfo import RequestInfo
from spworkers.workers.stops import Stopped

if TYPE_CHECKING:
    from spworkers.workers.handler import Handler

__all__ = ["Hooks"]

_LONGEST: Final = 86400
"""Seconds of a pause, at most: the caller has given up long before."""

_log = logging.getLogger("spworkers.workers")


class Hooks:
    """Calls the hooks, in the middleware's order; `after`, `settled` and `worker_stopping` in the reverse one.

    Args:
        middleware: the app's, and the server's.

    Attributes:
        settles: `settled` does something.
    """

    def __init__(self, middleware: Iterable[Middleware] = ()) -> None:
        every = list(middleware)
        self._started = _overridden(every, "worker_started")
        self._before = _overridden(every, "before")
        self._retry = _overridden(every, "retry")
        self._after = _overridden(every, "after")[::-1]
        self._settled = _overridden(every, "settled")[::-1]
        self._stopping = _overridden(every, "worker_stopping")[::-1]
        self.settles: Final = len(self._settled) > 0

    def silence(self) -> None:
        """Call none of them any more: a handler has forked, and this is its child."""
        self._started = self._before = self._retry = self._after = self._settled = self._stopping = []

    def started(self, worker: WorkerControl) -> None:
        """The worker is about to take its first request."""
        for hook in self._started:
            _logged(hook, worker)

    def before(self, request: RequestInfo) -> None:
        """Raises what a hook raises: the request is then answered with it."""
        if self._after or self._before:
            request.began = time.monotonic()
        for hook in self._before:
            hook(request)

    def retry(self, request: RequestInfo, error: BaseException, handler: Handler[..., Any]) -> float | None:
        """Seconds after which the handler runs again; None: it does not. Other answers of a hook are logged."""
        if not handler.options.retry_on and len(self._retry) == 0:
            return None
        for hook in self._retry:
            answer = _logged(hook, request, error, handler)
            if answer is not None:
                pause = _pause(answer)
                if pause >= 0.0:
                    return pause
                _log.error(
                    "hook %s returned %.80r: it has to be seconds from 0 to %d, or None", _name(hook), answer, _LONGEST
                )
        return None

    def after(self, request: RequestInfo, error: BaseException | None) -> None:
        """A handler has returned, or raised; or its stream has ended."""
        if self._after:
            seconds = time.monotonic() - request.began
            for hook in self._after:
                _logged(hook, request, error, seconds)

    def settled(self, worker: WorkerControl) -> None:
        """An answer was sent."""
        for hook in self._settled:
            _logged(hook, worker)

    def stopping(self, worker: WorkerControl) -> None:
        """The worker ends in order."""
        for hook in self._stopping:
            _logged(hook, worker)


def _overridden(middleware: list[Middleware], name: str) -> list[Callable[..., Any]]:
    return [getattr(each, name) for each in middleware if getattr(type(each), name) is not getattr(Middleware, name)]


def _logged(hook: Callable[..., Any], *args: Any) -> Any:
    try:
        return hook(*args)
    except Stopped:
        raise
    except BaseException:
        _log.exception("hook %s failed", _name(hook))
        return None


def _name(hook: Callable[..., Any]) -> Any:
    return getattr(hook, "__qualname__", hook)


def _pause(answer: Any) -> float:
    """What a hook says is a pause, in seconds; -1: it is none."""
    try:
        pause = seconds(answer)
    except Exception:  # a ValueError, or what the answer's own repr raises
        return -1.0
    return pause if 0.0 <= pause <= _LONGEST else -1.0
