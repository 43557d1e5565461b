"""Staying where the user's process runs, while more threads want to run than there are processors for.

Who is woken on the waker's own processor needs no interrupt, finds what was written in that processor's cache, and runs
when the waker sleeps. The kernel, left alone, spreads the two over the processors, and each waits behind others there.
With a processor to spare that is as it should be, so nothing is done then.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Final

from spworkers.lookaround import running

__all__ = ["Follower", "follower"]

_CROWDED: Final = 2
"""More than so many threads for each processor want to run: three or four may be one request on its way."""
_FRESH: Final = 0.05
"""Seconds for which what the system said is good."""


class Follower:
    """Has this thread follow its user about, or go where it likes.

    Args:
        wanting: how many threads want to run at this moment.
    """

    def __init__(self, wanting: Callable[[], int] = running) -> None:
        self._wanting = wanting
        self._home = os.sched_getaffinity(0)  # where it may be
        self._at = -1
        self._crowded = False
        self._until = 0.0

    def __call__(self, processor: int) -> bool:
        """The user was seen at this processor; -1: not for a while. Whether we are there, and are to stay."""
        if processor >= 0 and not self._is_crowded():
            processor = -1
        if processor == self._at:
            return processor >= 0
        now = os.sched_getaffinity(0)
        if self._at < 0 or now != {self._at}:  # somebody has placed us anew: that holds
            self._home = now
        self._at = processor if processor in self._home else -1
        wanted = self._home if self._at < 0 else {self._at}
        if wanted != now:
            try:
                os.sched_setaffinity(0, wanted)
            except OSError:  # that processor was taken from us, or it is forbidden here
                self._at = -1
        return self._at >= 0

    def _is_crowded(self) -> bool:
        now = time.monotonic()
        if now >= self._until:
            self._crowded = self._wanting() > _CROWDED * len(self._home)
            self._until = now + _FRESH
        return self._crowded


def follower() -> Follower | None:
    """One for this thread; None: there is nowhere to go, or this system places threads as it likes."""
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) == 1:
        return None
    return Follower()
