"""Two semaphores whose usual way, when there is room, is short: for threads, and for the tasks of one event loop."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from spworkers._locks import Gates

__all__ = ["NoPlace", "Places", "Slots"]


class NoPlace(Exception):
    """The client is closed, or has as many calls in flight as it may."""


class InLine:
    """Somebody who waits for a place."""

    def __init__(self) -> None:
        self.given = False
        self.gates: Final = Gates()

    def has(self) -> bool:
        """It has one."""
        return self.given


class Slots:
    """So many may be inside at once; who waits gets its place from who gives one back, in the order of coming.

    A place is an item of a list: taking and giving one back are single steps of the interpreter. Who finds none gets in
    line before it looks again; who puts one back looks afterwards whether somebody is in line.
    """

    def __init__(self, places: int) -> None:
        self._free = [None] * places
        self._line: deque[InLine] = deque()

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
        mine = InLine()
        self._line.append(mine)
        try:
            taken = self.take()
            if not taken and mine.gates.wait(mine.has, seconds):
                return True
        except BaseException:
            if not self._leave(mine):
                self.give()
            raise
        if self._leave(mine):
            return taken
        if taken:  # and was given another one
            self.give()
        return True

    def _leave(self, mine: InLine) -> bool:
        """Get out of the line. False: a place was given in this moment."""
        try:
            self._line.remove(mine)
        except ValueError:
            return False
        return True

    def give(self) -> None:
        """A place is free again."""
        while True:
            if not self._line:  # asked by an exception, that was a fifth of what a call costs its client
                self._free.append(None)
                if not self._line or not self.take():
                    return
            try:
                first = self._line.popleft()
            except IndexError:
                continue
            first.given = True
            first.gates.open()  # Ctrl-C may come here: then it looks by itself before long
            return


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
