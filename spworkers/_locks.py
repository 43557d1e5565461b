"""Waits on the interpreter's own locks, which a signal has to be able to end, and must not be able to break.

`threading.Event` and `Condition` have a lock that Python code takes. A signal's handler that raises (Ctrl-C's) right
after that leaves it taken, and then whoever brings the news waits for ever, in a thread that others rely on. Here every
waiting thread has a lock of its own, which nobody else ever takes.

Not compiled: between two pieces of a wait the interpreter runs the handlers of signals that came to another thread.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from typing import Final

__all__ = ["LOOK", "Gates", "Latch", "in_pieces"]

LOOK: Final = 0.5
"""Seconds that such a wait lasts at most: a signal that came just before it does not end it, and its handler (Ctrl-C's)
would run when it is over, perhaps never."""


def in_pieces(wait: Callable[[float], bool], seconds: float) -> bool:
    """Wait so long, infinity for ever; no piece of it lasts longer than `LOOK`.

    Args:
        wait: `Event.wait` or its like: waits so many seconds; whether it has come.
        seconds: at most.

    Returns:
        False: the time is over.
    """
    while seconds > LOOK:
        if wait(LOOK):
            return True
        seconds -= LOOK
    return wait(max(seconds, 0.0))


class Gates:
    """Threads that wait for something which another thread brings about. A gate is a lock that is held until then."""

    __slots__ = ("_closed",)

    def __init__(self) -> None:
        self._closed: list[threading.Lock] = []

    def __len__(self) -> int:
        """Threads that wait."""
        return len(self._closed)

    def wait(self, there: Callable[[], bool], seconds: float) -> bool:
        """Wait until something is there, at most so many seconds, infinity for ever; what `there` has said at last.

        Args:
            there: looks. Ctrl-C may come right after that: nothing may be lost with what it has found.
        """
        deadline = math.inf if seconds == math.inf else time.monotonic() + seconds
        while not there():
            gate = threading.Lock()
            gate.acquire(False)
            self._closed.append(gate)
            try:
                if there():
                    return True
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                gate.acquire(True, min(left, LOOK))
            finally:
                with contextlib.suppress(ValueError):  # it was opened
                    self._closed.remove(gate)
        return True

    def open(self) -> None:
        """Something may be there now: have everybody look."""
        while self._closed:
            try:
                gate = self._closed.pop(0)
            except IndexError:  # another thread was faster
                return
            gate.release()


class Latch:
    """An event, in the way of `threading.Event`."""

    __slots__ = ("_gates", "_set")

    def __init__(self) -> None:
        self._gates: Final = Gates()
        self._set = False

    def is_set(self) -> bool:
        """Whether it has happened."""
        return self._set

    def set(self) -> None:
        """It has happened."""
        self._set = True
        self._gates.open()

    def wait(self, seconds: float) -> bool:
        """Wait until it has, at most so many seconds, infinity for ever. False: the time is over."""
        return self._gates.wait(self.is_set, seconds)
