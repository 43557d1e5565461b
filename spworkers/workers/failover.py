"""Failover: to which of a client's servers a call goes that one of them has not answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from spworkers.ring import ERROR
from spworkers.workers import callformat

if TYPE_CHECKING:
    from spworkers.ring import Record
    from spworkers.workers.callwaiting import Waiting

__all__ = ["NOWHERE", "Failover"]

NOWHERE: Final = -1
"""It does not go elsewhere: what has come is its answer."""

_KNOWN: Final = 8  # pipes that are remembered for each server
_TRIES: Final = 64
"""So many times for each server a call goes to whoever REQ prefers, while one is there that has not refused it."""


class Failover:
    """What several servers have said.

    Args:
        servers: at how many addresses they are.
    """

    def __init__(self, servers: int) -> None:
        self._servers = servers
        self._answering: dict[int, None] = {}  # pipes by which answers have come

    def next_pipe(self, waiting: Waiting, record: Record, connected: int) -> int:
        """Where a call goes of which this has come: a server may be too busy, or its connection lost.

        To one that is known to answer: REQ itself prefers whoever is ready at once, and who refuses everything is that.

        Args:
            connected: how many servers are there now.

        Returns:
            A pipe; 0: whichever REQ prefers; NOWHERE.
        """
        if record.kind == ERROR:
            self._answering.pop(waiting.pinned, None)
            return 0 if waiting.pinned else NOWHERE  # that connection is lost: any other, then
        if record.pipe not in self._answering:
            if len(self._answering) >= _KNOWN * self._servers:  # most of them are connections that were lost
                self._answering.clear()
            self._answering[record.pipe] = None
        if not callformat.is_busy(record.body()):
            return NOWHERE
        busy = waiting.busy
        if busy is None:
            busy = waiting.busy = []
        busy.append(record.pipe)
        # All of them have said so; or the same ones twice, while others are not there; or many times, while they are.
        refused = len(set(busy))
        tries = _TRIES if connected > refused else 2
        if refused >= self._servers or len(busy) >= tries * self._servers:
            return NOWHERE
        others = [pipe for pipe in self._answering if pipe not in busy]
        return others[-1] if others else 0
