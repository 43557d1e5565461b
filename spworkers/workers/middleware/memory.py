"""Workers that have grown too large are replaced between two requests; in the midst of one they are killed.

The first is done here, in the worker. The second needs somebody outside: `spworkers.workers.watchdog`.
"""

from __future__ import annotations

import time
from typing import Final

from spworkers.workers.middleware.base import Middleware, WorkerControl
from spworkers.workers.quantities import size_text

__all__ = ["MemoryLimit"]

_LOOK: Final = 0.1  # seconds between two looks; one costs some 20 us


class MemoryLimit(Middleware):
    """Replaces a worker whose resident memory is above a limit when it has answered.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._looked = 0.0

    def settled(self, worker: WorkerControl) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        import psutil

        size = psutil.Process().memory_info().rss
        if size > self.limit:
            worker.retire(f"it has grown to {size_text(size)}, its limit is {size_text(self.limit)} (memory_limit)")
