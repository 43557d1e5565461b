"""How an I/O process is among others, while more threads want to run than there are processors for.

With a processor to spare the kernel does as well by itself, and nothing is done.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from spworkers.ioproc.deferring import Deference, WaitingTimes
from spworkers.ioproc.following import NOWHERE, Follower
from spworkers.lookaround import Crowd, running
from spworkers.protocols import InExchange
from spworkers.ring import BESIDE, DEFERRING

__all__ = ["Conduct", "conduct_of"]


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
        self._crowd = Crowd(wanting)

    def __call__(self, processor: int, idle: bool) -> int:
        """BESIDE the user, DEFERRING, both or 0.

        Args:
            processor: where the user was seen last; NOWHERE: not yet.
            idle: nothing has come for a while.
        """
        places = 0 if self._follow is None else len(self._follow.home)
        crowded = not idle and self._crowd.crowded(places)
        manner = DEFERRING if self._defer(crowded) else 0
        if self._follow is not None and self._follow(processor if crowded else NOWHERE):
            manner |= BESIDE
        return manner


def conduct_of(exchange: InExchange) -> Conduct | None:
    """That of the I/O process of a socket that asks or answers, for this thread; None: it is as it is.

    Who asks has one user to follow, and waits for him by turns; who answers is everybody's.
    """
    if sys.platform != "linux" or not exchange:
        return None
    follows = exchange == "asks" and len(os.sched_getaffinity(0)) > 1
    return Conduct(Follower() if follows else None, Deference(WaitingTimes()))
