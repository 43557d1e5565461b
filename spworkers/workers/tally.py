"""What the workers of a group count, in memory that they share with the parent.

The parent reads without asking anybody: also while a worker computes, and without a message on a request's way. Each
row has one writer, the worker of that number; it survives the worker, so that its successor goes on counting.
"""

from __future__ import annotations

import enum
import mmap
import os
import struct
import time
from typing import Final

from spworkers.packet import anonymous_file
from spworkers.ring import Words

__all__ = ["Counts", "Row", "Stage", "Tally", "counts_in"]

_ROW: Final = struct.Struct("8Q")  # 64 bytes: a cache line each
_PID, _STAGE, _ANSWERED, _FAILED, _SINCE = range(5)


class Stage(enum.IntEnum):
    """What a worker does."""

    STARTING = 0
    IDLE = 1
    BUSY = 2
    STOPPED = 3


_STAGES: Final = frozenset(Stage)
_BUSY: Final = int(Stage.BUSY)

Counts = tuple[int, Stage, int, int, float]


def counts_in(data: bytes, number: int) -> Counts | None:
    """`Row.counts` of one worker in a copy of the memory; None if it holds no such row.

    For who has no more than the right to read it.
    """
    if number < 0 or len(data) < (number + 1) * _ROW.size:
        return None
    words = _ROW.unpack_from(data, number * _ROW.size)
    return _counts(*words[:5]) if words[_STAGE] in _STAGES else None


def _counts(pid: int, stage: int, answered: int, failed: int, since: int) -> Counts:
    seconds = (time.monotonic_ns() - since) / 1e9 if since else 0.0
    return pid, Stage(stage), answered, failed, max(seconds, 0.0)


class Row:
    """One worker's counters."""

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self._quick = Words(words)

    def begin(self, pid: int) -> None:
        """A process takes over this row."""
        self._words[_PID] = pid
        self._words[_STAGE] = Stage.STARTING

    def stage(self, stage: Stage) -> None:
        """The worker now does this."""
        self._quick.stamp(_STAGE, stage, _SINCE)

    def busy(self) -> None:
        """A request begins: `stage(BUSY)`, which is said of each one, without a look at what a stage is."""
        self._quick.stamp(_STAGE, _BUSY, _SINCE)

    def answered(self, ok: bool) -> None:
        """One more request is answered; not `ok`: with an error."""
        self._quick.add(_ANSWERED)
        if not ok:
            self._quick.add(_FAILED)

    @property
    def counts(self) -> Counts:
        """pid, stage, requests answered, those of them with an error, seconds in this stage."""
        return _counts(*self._words[:5])


class Tally:
    """The rows of a group.

    Args:
        fd: the shared memory's descriptor, which stays the caller's.
    """

    def __init__(self, fd: int) -> None:
        self.rows = os.fstat(fd).st_size // _ROW.size
        self._map = mmap.mmap(fd, self.rows * _ROW.size)
        self._words = memoryview(self._map).cast("Q")

    @staticmethod
    def memory(rows: int) -> int:
        """New shared memory for so many workers: its descriptor.

        Raises:
            ResourceError: there is none left.
        """
        return anonymous_file(bytes(rows * _ROW.size), "spworkers-tally")

    def row(self, number: int) -> Row:
        """The counters of one worker."""
        width = _ROW.size // 8
        return Row(self._words[number * width : (number + 1) * width])
