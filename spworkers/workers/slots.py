"""Two semaphores whose usual way, when there is room, is short: for threads, and for the tasks of one event loop."""

from __future__ import annotations

import threading
from collections import deque
from functools import partial
from typing import Any

from spworkers._locks import in_pieces

__all__ = ["Places", "Slots"]


class Slots:
    """So many may be inside at once.

    A place is an item of a list: taking and giving one back are single steps of the interpreter. Who finds none says
    that he waits before he looks again; who gives one back looks afterwards whether somebody does.
    """

    def __init__(self, places: int) -> None:
        self._free = [None] * places
        self._waiting = 0
        self._changed = threading.Condition(threading.Lock())

    def take(self) -> bool:
        """A place, if there is one."""
        try:
            self._free.pop()
        except IndexError:
            return False
        return True

    def wait(self, seconds: float) -> bool:
        """A place, or False after that time; math.inf: for ever."""
        if self.take():
            return True
        with self._changed:
            self._waiting += 1
            try:
                return in_pieces(partial(self._changed.wait_for, self.take), seconds)
            finally:
                self._waiting -= 1

    def give(self) -> None:
        """A place is free again."""
        self._free.append(None)
        if self._waiting:
            with self._changed:
                self._changed.notify()


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
