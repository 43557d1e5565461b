"""Peers that read none of their answers, while workers have no room for those of others: they are disconnected.

What was answered to a peer that does not read lies in the memory of the workers that gave it: some of it on its way
to the kernel, which cannot be taken back, the rest held (see `answers.py`). A peer alone cannot fill that; a crowd of
them, with large answers, can, and then nobody would be answered until one of them reads, or leaves. So while a worker
has waited for room for longer than from one look to the next, whoever took nothing in that time has to go. A slow
peer takes something; and one that only paused connects again, and asks again. A device that forwards replies is to
raw REP and RESPONDENT what the workers are to a dispatcher.
"""

from __future__ import annotations

from typing import Final

from spworkers.protocol.machine import STALLED, Actions
from spworkers.protocol.peers import Peer

__all__ = ["LOOK", "Stalls"]

LOOK: Final = 1.0
"""Seconds from one look to the next."""


class Stalls:
    """Who took how much.

    Args:
        out: the driver's actions.
    """

    def __init__(self, out: Actions) -> None:
        self._out: Final = out
        self._taken: dict[int, int] = {}  # by pipe: what the congested ones had taken at the last look

    def look(self, peers: list[Peer], stuck: bool) -> bool:
        """Look at all of them. `stuck`: a worker, or a device, has waited for room since the last look.

        Returns:
            Whether to look again.
        """
        before, self._taken = self._taken, {}
        for peer in peers:
            if peer.congested:
                taken = self._out.taken(peer.id)
                if stuck and before.get(peer.id) == taken:
                    self._out.count(STALLED, peer.id)
                    self._out.close_pipe(peer.id, STALLED)
                else:
                    self._taken[peer.id] = taken
        return len(self._taken) > 0
