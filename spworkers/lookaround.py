"""Looking around before one sleeps: who awaits something that comes soon is there when it comes, and a processor that
does not fall asleep passes the work on without an interrupt.

It has to pay: where nothing is found in that time it is tried rarely; and there has to be a processor to spare, for who
looks around where others wait to run takes from them, and from the very process whose answer it awaits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

__all__ = ["FOUND", "LOOK", "Crowd", "LookAround", "crowded", "processors", "roomy", "running", "several"]

LOOK: Final = 300e-6
"""Seconds for which who awaits the answer to a request looks around."""
FOUND: Final = 8
"""In what `Receiver.wait` says: it was there before we slept."""
_CROWD: Final = 2
"""More than so many threads for each processor want to run: three or four may be one request on its way."""
_CROWDED: Final = 1e-3  # seconds by which who gives way is late only if others want all of the processor

_CROWDED_FOR: Final = 20e-3  # seconds for which it is left then, at first and at most
_CROWDED_MOST: Final = 1.0
_AT_ONCE: Final = 5e-6
_TRIES: Final = 4
"""So many in vain, one after the other, and it is left for a while: one alone may well find nothing, because everybody
on the way still has to be woken."""
_PAUSE: Final = 32
"""So many times it is left."""
_FRESH: Final = 0.05
"""Seconds for which what the system said is good."""


class LookAround:
    """Whether somebody looks around before he sleeps. Threads may share one: then they share their luck.

    Args:
        room: says whether a processor is to spare; None: `roomy`.
    """

    __slots__ = ("_crowded_for", "_crowded_until", "_luck", "_room")

    def __init__(self, room: Callable[[], bool] | None = None) -> None:
        self._luck = _TRIES
        self._room = room
        self._crowded_until = 0.0
        self._crowded_for = _CROWDED_FOR

    def pays(self) -> bool:
        """Do so this time, and `tell` of it."""
        if self._luck <= 0:
            self._luck -= 1
            if self._luck > -_PAUSE:
                return False
            self._luck = _TRIES
        return roomy() if self._room is None else self._room()

    def tell(self, found: bool) -> None:
        """Whether it was there in time."""
        if found:
            self._luck = _TRIES
        else:
            self._luck -= 1

    def search(self, look: Callable[[float], bool], seconds: float) -> bool:
        """Look around, if it pays, and give way to others meanwhile. Whether something is there.

        Whoever gives way, and has the processor back much later than he wanted it, has met somebody who makes use of
        all of it: then it is left for a while, twice as long the next time.

        Args:
            look: looks for so many seconds.
            seconds: for which it pays at most.
        """
        began = time.monotonic()
        if began < self._crowded_until or not self.pays():
            return False
        found = look(seconds)
        self.tell(found)
        now = time.monotonic()
        if now - began > seconds + _CROWDED:
            self._crowded_until = now + self._crowded_for
            self._crowded_for = min(2 * self._crowded_for, _CROWDED_MOST)
        elif found and now - began > _AT_ONCE:  # others ran meanwhile
            self._crowded_for = _CROWDED_FOR
        return found


def running() -> int:
    """Threads that want to run at this moment, ours among them; 0 where no system tells."""
    try:
        fd = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)  # a file object costs as much again
        try:
            return int(os.read(fd, 100).split()[3].partition(b"/")[0])  # "0.20 0.18 0.12 1/80 11206": 1 of 80
        finally:
            os.close(fd)
    except (OSError, ValueError, IndexError):
        return 0


def several() -> bool:
    """This process may run on more than one processor."""
    return processors() > 1


def processors() -> int:
    """How many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Crowd:
    """How many want to run, and how many can; the system is asked at most every 50 ms.

    Args:
        wanting: how many threads want to run at this moment; 0: no system tells.
    """

    __slots__ = ("_many", "_places", "_until", "_wanting")

    def __init__(self, wanting: Callable[[], int] = running) -> None:
        self._wanting = wanting
        self._until = 0.0
        self._many = 0
        self._places = 1

    def roomy(self) -> bool:
        """No more threads want to run than there are processors for us. False where no system tells."""
        self._ask()
        return self._places > 1 and 0 < self._many <= self._places  # with one, who answers would wait for us to sleep

    def crowded(self, places: int = 0) -> bool:
        """Many more threads want to run than there are processors for us. False where no system tells.

        Args:
            places: processors that there are for us when we are not bound to one; 0: those where we may be.
        """
        self._ask()
        return self._many > _CROWD * (places or self._places)

    def _ask(self) -> None:
        now = time.monotonic()
        if now >= self._until:
            self._many, self._places = self._wanting(), processors()
            self._until = now + _FRESH


_here: Final = Crowd()


def roomy() -> bool:
    """See `Crowd`: of this process."""
    return _here.roomy()


def crowded() -> bool:
    """See `Crowd`: of this process."""
    return _here.crowded()
