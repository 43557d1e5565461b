"""Deadlines of many, of which few ever come due.

Nearly every request is answered long before its retry or time limit. So setting an alarm to a later time, and switching
it off, cost nothing: the entry in the heap stays where it is, and what it stands for is looked up when it surfaces. A
context that has one request after another therefore has one entry, not one per request.
"""

from __future__ import annotations

import heapq
from typing import Final

from spworkers.protocol.machine import NEVER

__all__ = ["Alarm", "Alarms"]

# From how many entries on stale ones are looked for. Small, as the search costs no more than the pushes that led to it.
_SWEEP: Final = 64


class Alarm:
    """One alarm; `due` is when it rings, `owner` the number of the context that set it."""

    def __init__(self, owner: int) -> None:
        self.owner = owner
        self.due: float = NEVER
        self.entry: float = NEVER  # the time of its earliest entry in the heap, which is never later than `due`

    def cancel(self) -> None:
        """Do not ring."""
        self.due = NEVER


class Alarms:
    """All alarms of a machine. `first` is when `ring` is to be called next; it may be early, never late."""

    def __init__(self) -> None:
        self.first: float = NEVER
        self._heap: list[tuple[float, int, Alarm]] = []
        self._pushes = 0  # breaks ties in the heap, first come first served
        self._limit: int = _SWEEP

    def set(self, alarm: Alarm, due: float) -> None:
        """Ring this one at that time, and at no other."""
        alarm.due = due
        if due < alarm.entry:
            self._push(alarm, due)

    def ring(self, now: float) -> Alarm | None:
        """One that is due, switched off now; None: no more are."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            time, _, alarm = heapq.heappop(heap)
            if time != alarm.entry:
                continue  # it was set to an earlier time after this
            alarm.entry = NEVER
            if alarm.due <= now:
                alarm.due = NEVER
                self._look()
                return alarm
            if alarm.due < NEVER:
                self._push(alarm, alarm.due)
        self._look()
        return None

    def __len__(self) -> int:
        """Entries, stale ones included: at most twice the alarms that are set, or a small number."""
        return len(self._heap)

    def _push(self, alarm: Alarm, due: float) -> None:
        alarm.entry = due
        self._pushes += 1
        heapq.heappush(self._heap, (due, self._pushes, alarm))
        if len(self._heap) > self._limit:
            self._sweep()
        self._look()

    def _sweep(self) -> None:
        """Forget the entries of alarms that are off. It pays for itself: the heap has doubled since the last time."""
        live: list[tuple[float, int, Alarm]] = []
        for time, push, alarm in self._heap:
            if time != alarm.entry:
                continue
            if alarm.due < NEVER:
                live.append((time, push, alarm))
            else:
                alarm.entry = NEVER
        heapq.heapify(live)
        self._heap = live
        self._limit = max(_SWEEP, 2 * len(live))

    def _look(self) -> None:
        self.first = self._heap[0][0] if self._heap else NEVER
