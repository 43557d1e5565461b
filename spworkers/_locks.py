"""Waits on the interpreter's own locks, which a signal has to be able to end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["LOOK", "in_pieces"]

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
