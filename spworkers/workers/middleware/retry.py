"""Handlers that raised what their `retry_on` names run again, in the same worker, after a pause that grows."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

from spworkers.workers.middleware.base import Middleware
from spworkers.workers.requestinfo import RequestInfo

if TYPE_CHECKING:
    from spworkers.workers.handler import Handler

__all__ = ["Retry"]

FIRST_PAUSE: Final = 0.05  # seconds
LONGEST_PAUSE: Final = 5.0
_RETRIES: Final = 1  # where neither the handler nor the server says


class Retry(Middleware):
    """Retries of exceptions.

    Args:
        retries: how often, for handlers that do not say themselves.
    """

    def __init__(self, retries: int = _RETRIES) -> None:
        self.retries = retries

    def retry(self, request: RequestInfo, error: BaseException, handler: Handler[..., Any]) -> float | None:
        retries = self.retries if handler.options.retries is None else handler.options.retries
        if not isinstance(error, handler.options.retry_on) or request.attempt > retries:
            return None
        # Full jitter: requests that failed together do not come back together.
        ceiling: float = min(FIRST_PAUSE * 2 ** (request.attempt - 1), LONGEST_PAUSE)
        return random.uniform(ceiling / 2, ceiling)
