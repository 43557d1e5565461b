"""Two semaphores whose usual way, when there is room, is short: for threads, and for the tasks of one event loop."""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Any, Final

from spworkers._locks import Gates
from spworkers.waiting import FOREVER

__all__ = ["Places", "Slots"]


class Slots:
    """So many may be inside at once.

    A place is an item of a list: taking and giving one back are single steps of the interpreter. Who finds none says
    that he waits before he looks again; who gives one back looks afterwards whether somebody does.
    """

    def __init__(self, places: int) -> None:
        self._free = [None] * places
        self._gates: Final = Gates()

    def take(self) -> bool:
        """A place, if there is one."""
        try:
            self._free.pop()
        except IndexError:
            return False
        return True

    def wait(self, seconds: float) -> bool:
        """A place, or False after that time; math.inf: for ever."""
        deadline = FOREVER if seconds == FOREVER else monotonic() + seconds
        while not self.take():
            left = FOREVER if deadline == FOREVER else deadline - monotonic()
            if left <= 0 or not self._gates.wait(self._there, left):
                return self.take()
        return True

    def _there(self) -> bool:
        return len(self._free) > 0

    def give(self) -> None:
        """A place is free again."""
        self._free.append(None)
        if len(self._gates):
            self._gates.open(1)


class Places:
    """So many tasks of one event loop may be inside at once. Who waits gets its place from who gives one back.

    Waiting is in `calltasks`, as it is a coroutine.

    Attributes:
        queue: events of those who wait, in their order.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self.queue: deque[Any] = deque()

    def take(self) -> bool:
        """A place, if there is one."""
        if self._free == 0:
            return False
        self._free -= 1
        return True

    def give(self) -> None:
        """A place is free again."""
        if self.queue:
            self.queue.popleft().set()
        else:
            self._free += 1
