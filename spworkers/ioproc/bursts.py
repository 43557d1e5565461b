"""Whether a publisher's next messages are worth a moment's wait before the first are copied to everybody.

Who publishes many in a row is often interrupted by the I/O process at the first: it is woken, on the publisher's own
processor perhaps, and does for one message what it then does again for all the others: a system call and a wake-up for
each pipe. So while it pays, it gives the processor away once (`nap`) and takes along what has come meanwhile.
"""

from __future__ import annotations

from typing import Final

__all__ = ["FEW_BYTES", "MOMENT", "Bursts"]

MOMENT: Final = 15e-6
"""Seconds of the wait: a publisher sends some fifty small messages in it; writing to four pipes takes longer."""

FEW_BYTES: Final = 512
"""Bytes queued for a pipe beyond which there are messages enough, or large ones."""

SPARED_MOST: Final = 3
"""After so many waits in vain it does without the next 2 ** 3 - 1. No more: a publisher that was not given a processor
in that time, on a busy machine, publishes nothing in it."""


class Bursts:
    """What became of such waits lately."""

    def __init__(self) -> None:
        self.in_vain = 0
        self.spared = 0

    def worth_waiting(self) -> bool:
        """Whether to wait this time."""
        if self.spared > 0:
            self.spared -= 1
            return False
        return True

    def learn(self, came: bool) -> None:
        """More has come in that time, or not."""
        if came:
            self.in_vain = 0
        else:
            self.in_vain = min(self.in_vain + 1, SPARED_MOST)
            self.spared = (1 << self.in_vain) - 1
