"""How often each handler was called, how that ended and how long it took, in memory shared with the parent.

A row for each worker and handler, which that worker alone writes; the parent adds them up. So nobody asks a worker
anything, and what a dead one had counted stays.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from spworkers.packet import anonymous_file

__all__ = ["BOUNDS", "OTHER", "Measure", "Measures"]

BOUNDS: Final[tuple[float, ...]] = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)
"""Seconds: the upper bounds of the histogram's buckets; there is one more for what took longer."""

OTHER: Final = "(other)"
"""The row of handlers that were not known when the workers' memory was made: those of newer code."""

_COUNT, _FAILED, _NANOSECONDS, _BUCKETS = 0, 1, 2, 3
_WIDTH: Final = _BUCKETS + len(BOUNDS) + 1  # words of a row


@dataclass
class Measure:
    """What was measured of one handler.

    Attributes:
        calls: how often it was called.
        failed: how often of those it raised.
        seconds: how long it took, all calls together.
        buckets: calls by duration, one for each of BOUNDS and one for those beyond.
    """

    calls: int = 0
    failed: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))


class Measures:
    """The memory.

    Args:
        fd: of it; it stays the caller's.
        handlers: the names, in the order of the rows.
    """

    def __init__(self, fd: int, handlers: Sequence[str]) -> None:
        self._names = [*handlers, OTHER]
        self._row_of = {name: number for number, name in enumerate(self._names)}
        self._map = mmap.mmap(fd, 0)
        self._words = memoryview(self._map).cast("Q")

    @staticmethod
    def memory(workers: int, handlers: int) -> int:
        """New memory for so many workers and handlers: its descriptor.

        Raises:
            ResourceError: there is none left.
        """
        return anonymous_file(bytes(workers * (handlers + 1) * _WIDTH * 8), "spworkers-measures")

    def add(self, worker: int, handler: str, seconds: float, failed: bool) -> None:
        """One call has ended."""
        at = (worker * len(self._names) + self._row_of.get(handler, len(self._names) - 1)) * _WIDTH
        words = self._words
        words[at + _COUNT] += 1
        words[at + _FAILED] += failed
        words[at + _NANOSECONDS] += int(seconds * 1e9)
        words[at + _BUCKETS + bisect_left(BOUNDS, seconds)] += 1

    def totals(self) -> dict[str, Measure]:
        """All workers together, by handler; `OTHER` only if there is something in it."""
        found = {name: Measure() for name in self._names}
        for start in range(0, len(self._words) - _WIDTH + 1, _WIDTH):
            row = self._words[start : start + _WIDTH].tolist()
            measure = found[self._names[start // _WIDTH % len(self._names)]]
            measure.calls += row[_COUNT]
            measure.failed += row[_FAILED]
            measure.seconds += row[_NANOSECONDS] / 1e9
            measure.buckets = [one + other for one, other in zip(measure.buckets, row[_BUCKETS:], strict=True)]
        if not found[OTHER].calls:
            del found[OTHER]
        return found
