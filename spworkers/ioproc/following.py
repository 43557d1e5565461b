"""Staying where the user's process runs.

Who is woken on the waker's own processor needs no interrupt, finds what was written in that processor's cache, and runs
when the waker sleeps. The kernel, left alone, spreads the two over the processors, and each waits behind others there.
"""

from __future__ import annotations

import os
from typing import Final

__all__ = ["NOWHERE", "Follower"]

NOWHERE: Final = -1
"""The processor of one who is not to be followed."""


class Follower:
    """Has this thread follow its user about, or go where it likes.

    Attributes:
        home: the processors at which it may be.
    """

    def __init__(self) -> None:
        self.home = os.sched_getaffinity(0)
        self._at = NOWHERE

    def __call__(self, processor: int) -> bool:
        """Go to this processor, or home from NOWHERE. Whether we are there, and are to stay."""
        if processor == self._at:
            return processor >= 0
        now = os.sched_getaffinity(0)
        if self._at < 0 or now != {self._at}:  # somebody has placed us anew: that holds
            self.home = now
        self._at = processor if processor in self.home else NOWHERE
        wanted = self.home if self._at < 0 else {self._at}
        if wanted != now:
            try:
                os.sched_setaffinity(0, wanted)
            except OSError:  # that processor was taken from us, or it is forbidden here
                self._at = NOWHERE
        return self._at >= 0
