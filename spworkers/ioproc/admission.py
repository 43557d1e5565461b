"""How many are let in at a listener, and how fast: MAX-PIPES, MAX-HANDSHAKES, ACCEPT-RATE.

Options are read when they are needed, so a change holds from the next connection on. Pipes that are there already stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from spworkers.transport.base import Options, whole

MAX_HANDSHAKES = 1024
"""The default of MAX-HANDSHAKES. More than any crowd of honest peers has at one moment (each takes one round trip), and
few enough that silence cannot use up the descriptors of the process."""

BURST = 1.0
"""Seconds whose connections, at ACCEPT-RATE, are accepted at once after a quiet time."""


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
