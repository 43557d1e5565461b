"""A log record for every request: who answered what, how it ended, how long it took."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from spworkers.workers.middleware.base import Middleware
from spworkers.workers.requestinfo import RequestInfo
from spworkers.workers.stops import Stopped

__all__ = ["AccessLog"]

_log: Final = logging.getLogger("spworkers.access")


class AccessLog(Middleware):
    """Writes one record for each request to the logger `spworkers.access`.

    Args:
        level: of requests that were answered; those that raised are a level above.
    """

    def __init__(self, level: int = logging.INFO) -> None:
        self.level = level

    def after(self, request: RequestInfo, error: BaseException | None, seconds: float) -> None:
        if isinstance(error, Stopped):  # nobody waits for it; the parent tells of those whose time was over
            return
        self.write(request.handler, seconds, "" if error is None else type(error).__name__)

    def write(self, handler: str, seconds: float, error: str = "", extra: Mapping[str, object] | None = None) -> None:
        """One record.

        Args:
            error: why it was not answered with a value; empty: it was.
            extra: attributes of the record.
        """
        if error:
            _log.log(self.level + 10, "%s %.1f ms %s", handler, seconds * 1000, error, extra=extra)
        else:
            _log.log(self.level, "%s %.1f ms", handler, seconds * 1000, extra=extra)
