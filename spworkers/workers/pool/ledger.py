"""What each worker is at, in memory that it shares with the parent: read without asking it.

A row has one writer, the worker of that number. The parent learns from it since when a task has been running, and which
item of a batch a dead worker had in hand.
"""

from __future__ import annotations

import mmap
from typing import Final

from spworkers.packet import anonymous_file

__all__ = ["BUSY", "DONE", "FAILED", "IDLE", "ITEM", "SERIAL", "SINCE", "STAGE", "STARTING", "Ledger"]

_ROWS: Final = 1024
"""As many as a region has segments."""
_WIDTH: Final = 8  # words: a cache line each

STAGE: Final = 0
SERIAL: Final = 1
"""The job in hand."""
ITEM: Final = 2
"""Which item of it, if it is a batch."""
SINCE: Final = 3
"""`time.monotonic_ns` when that began."""
DONE: Final = 4
FAILED: Final = 5

STARTING: Final = 0
IDLE: Final = 1
BUSY: Final = 2


class Ledger:
    """All rows of a pool.

    Args:
        fd: the memory's descriptor, which stays the caller's.
    """

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, _ROWS * _WIDTH * 8)
        self._words = memoryview(self._map).cast("Q")

    @staticmethod
    def memory() -> int:
        """New memory for a ledger: its descriptor.

        Raises:
            ResourceError: there is none left.
        """
        return anonymous_file(bytes(_ROWS * _WIDTH * 8), "spworkers-ledger")

    def row(self, number: int) -> memoryview:
        """The words of one worker, by the names above."""
        return self._words[number * _WIDTH : (number + 1) * _WIDTH]
