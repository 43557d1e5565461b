"""Log records that any peer can cause are few, however many it causes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

__all__ = ["Sparing"]


class Sparing(logging.Filter):
    """Lets a number of records through in each period; the first of the next says how many were left out.

    Args:
        most: records in a period.
        period: seconds.
        clock: seconds, never going back.
    """

    def __init__(self, most: int = 20, period: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._most = most
        self._period = period
        self._clock = clock
        self._since = clock()
        self._seen = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is to be logged."""
        now = self._clock()
        if now - self._since >= self._period:
            left_out = self._seen - self._most
            if left_out > 0:
                advice = f"({left_out} more like this were left out before; stats() counts them all)"
                record.msg, record.args = f"{record.getMessage()} {advice}", None
            self._since = now
            self._seen = 0
        self._seen += 1
        return self._seen <= self._most
