"""How many are let in at a listener, and how fast: MAX-PIPES, MAX-HANDSHAKES, ACCEPT-RATE; and what is left of a crowd.

Options are read when they are needed, so a change holds from the next connection on. Pipes that are there already stay.
"""

from __future__ import annotations

import asyncio
import gc
import math
from collections.abc import Callable

from spworkers._memory import give_back
from spworkers.transport.base import Options, whole

MAX_HANDSHAKES = 1024
"""The default of MAX-HANDSHAKES. More than any crowd of honest peers has at one moment (each takes one round trip), and
few enough that silence cannot use up the descriptors of the process."""

BURST = 1.0
"""Seconds whose connections, at ACCEPT-RATE, are accepted at once after a quiet time."""


CROWD = 256
"""Handshakes at once that make a crowd."""

TIDY = 1.0
"""Seconds after the last of a crowd: the next one may be there already."""


class Admission:
    """The bounds of one listener.

    Args:
        options: live values by name.
        clock: seconds, never going back.
    """

    def __init__(self, options: Options, clock: Callable[[], float]) -> None:
        self._options = options
        self._clock = clock
        self._pipes = 0
        self._due = -math.inf  # when the next connection would be accepted, were they to come evenly

    @property
    def pipes(self) -> int:
        """Connections past their handshake: pipes, and those whose hook has not decided yet."""
        return self._pipes

    @property
    def max_handshakes(self) -> int:
        """Handshakes that may be in progress."""
        return max(1, whole(self._options, "MAX-HANDSHAKES") or MAX_HANDSHAKES)

    @property
    def max_pipes(self) -> int:
        """Pipes that there may be; 0: any number."""
        return whole(self._options, "MAX-PIPES") or 0

    @property
    def full(self) -> bool:
        """Whether there may not be one more."""
        return 0 < self.max_pipes <= self._pipes

    def enter(self) -> bool:
        """One more is past its handshake. False: there is no room for it."""
        if self.full:
            return False
        self._pipes += 1
        return True

    def leave(self) -> None:
        """One of them is gone, or was refused."""
        self._pipes -= 1

    def delay(self) -> float:
        """Seconds to wait before one more connection is accepted; it is taken for accepted then."""
        rate = whole(self._options, "ACCEPT-RATE") or 0
        if rate <= 0:
            self._due = -math.inf
            return 0.0
        now = self._clock()
        self._due = max(self._due, now - BURST) + 1 / rate
        return max(0.0, self._due - now)

    def __repr__(self) -> str:
        return f"<Admission: {self._pipes} of {self.max_pipes or 'any number of'} pipes>"


class Crowd:
    """Gives the system back what a crowd of handshakes took, when it is over.

    Args:
        loop: the running loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._was = False

    def grew(self, size: int) -> None:
        """So many are in progress, one more than before."""
        self._was = self._was or size >= CROWD

    def shrank(self, size: int) -> None:
        """So many are left."""
        if self._was and not size:
            self._was = False
            self._loop.call_later(TIDY, _tidy)


def _tidy() -> None:
    gc.collect()  # tracebacks hold each other
    give_back()
