"""Two semaphores whose usual way, when there is room, is short: for threads, and for the tasks of one event loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spworkers.workers.callwaiting import ThreadWaiting

__all__ = ["NoPlace", "Places", "Slots"]


class NoPlace(Exception):
    """The client is closed, or has as many calls in flight as it may."""


class Slots:
    """So many may be inside at once; who waits gets its place from who gives one back, in the order of coming.

    A place is an item of a list: taking and giving one back are single steps of the interpreter. Who finds none gets in
    line before it looks again; who puts one back looks afterwards whether somebody is in line.
    """

    def __init__(self, places: int) -> None:
        self._free = [None] * places
        self._line: deque[ThreadWaiting] = deque()
        self._borrowed: list[None] = []

    @property
    def free(self) -> bool:
        """There is a place at this moment."""
        return len(self._free) > 0

    def take(self) -> bool:
        """A place, if there is one."""
        try:
            self._free.pop()
        except IndexError:
            return False
        return True

    def wait(self, mine: ThreadWaiting, sit: Callable[[], None]) -> bool:
        """A place, as soon as those who came before have one.

        Args:
            mine: what is over then.
            sit: waits until it is, or for as long as it pleases.

        Returns:
            False: there was none in that time.
        """
        taken = False
        self._line.append(mine)
        try:
            taken = self.take()
            if not taken:
                sit()
            if self._leave(mine):
                return taken
        except BaseException:
            if not self._leave(mine):
                self.give()
            if taken:
                self.give()
            raise
        if taken:  # and was given another one
            self.give()
        return True

    def _leave(self, mine: ThreadWaiting) -> bool:
        """Get out of the line. False: it was given a place.

        Compiled, no signal's handler runs in here: a deque would describe in an error what it cannot remove, and let
        them run for that, so it is asked before.
        """
        if mine.over or mine not in self._line:
            return False
        try:
            self._line.remove(mine)
        except ValueError:  # interpreted, another thread may be faster
            return False
        return True

    def borrow(self) -> None:
        """One more place than there are; the next that is given back is it."""
        self._borrowed.append(None)

    def give(self) -> None:
        """A place is free again."""
        if self._borrowed:
            try:
                self._borrowed.pop()
            except IndexError:  # another thread was faster
                pass
            else:
                return
        while True:
            if not self._line:  # asked by an exception, that was a fifth of what a call costs its client
                self._free.append(None)
                if not self._line or not self.take():
                    return
            try:
                first = self._line.popleft()
            except IndexError:
                continue
            first.end(None, None)
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
