"""The middleware of one worker, as its runner calls it: only hooks that somebody has overridden."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from spworkers.workers.middleware.base import Middleware, WorkerControl
from spworkers.workers.requestinfo import RequestInfo
from spworkers.workers.stops import Stopped

if TYPE_CHECKING:
    from spworkers.workers.handler import Handler

__all__ = ["Hooks"]

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
        """Raises what a hook raises: the worker then does not start."""
        for hook in self._started:
            hook(worker)

    def before(self, request: RequestInfo) -> None:
        """Raises what a hook raises: the request is then answered with it."""
        if self._after or self._before:
            request.began = time.monotonic()
        for hook in self._before:
            hook(request)

    def retry(self, request: RequestInfo, error: BaseException, handler: Handler[..., Any]) -> float | None:
        """Seconds after which the handler runs again; None: it does not."""
        if not handler.options.retry_on and len(self._retry) == 0:
            return None
        for hook in self._retry:
            pause: float | None = _logged(hook, request, error, handler)
            if pause is not None:
                return pause
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
        _log.exception("hook %s failed", getattr(hook, "__qualname__", hook))
        return None
