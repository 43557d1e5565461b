"""How an I/O process is among others, while more threads want to run than there are processors for.

With a processor to spare the kernel does as well by itself, and nothing is done.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Final

from spworkers.ioproc.deferring import Deference, WaitingTimes
from spworkers.ioproc.following import NOWHERE, Follower
from spworkers.lookaround import CROWD, processors, running
from spworkers.protocols import InExchange
from spworkers.ring import BESIDE, DEFERRING

__all__ = ["Conduct", "conduct_of"]

_FRESH: Final = 0.05
"""Seconds for which what the system said is good."""


class Conduct:
    """What this thread does about where it runs, and before whom.

    Args:
        follow: where to; None: nowhere.
        defer: whether to.
        wanting: how many threads want to run at this moment.
    """

    def __init__(
        self, follow: Follower | None, defer: Callable[[bool], bool], wanting: Callable[[], int] = running
    ) -> None:
        self._follow = follow
        self._defer = defer
        self._wanting = wanting
        self._crowded = False
        self._until = 0.0

    def __call__(self, processor: int, idle: bool) -> int:
        """BESIDE the user, DEFERRING, both or 0.

        Args:
            processor: where the user was seen last; NOWHERE: not yet.
            idle: nothing has come for a while.
        """
        crowded = not idle and self._is_crowded()
        manner = DEFERRING if self._defer(crowded) else 0
        if self._follow is not None and self._follow(processor if crowded else NOWHERE):
            manner |= BESIDE
        return manner

    def _is_crowded(self) -> bool:
        now = time.monotonic()
        if now >= self._until:
            places = processors() if self._follow is None else len(self._follow.home)
            self._crowded = self._wanting() > CROWD * places
            self._until = now + _FRESH
        return self._crowded


def conduct_of(exchange: InExchange) -> Conduct | None:
    """That of the I/O process of a socket that asks or answers, for this thread; None: it is as it is.

    Who asks has one user to follow, and waits for him by turns; who answers is everybody's.
    """
    if sys.platform != "linux" or not exchange:
        return None
    follows = exchange == "asks" and len(os.sched_getaffinity(0)) > 1
    return Conduct(Follower() if follows else None, Deference(WaitingTimes()))
