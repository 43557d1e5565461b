"""PULL: whatever comes, from all peers in turn.

    send   nothing
    recv   the body; no header
    wire   body

Raw PULL is the same. A full queue pushes back: its pipes are not read from, so that the peers' sends wait.
"""

from __future__ import annotations

from spworkers.protocol.peers import Peers

__all__ = ["Pull"]


class Pull(Peers):
    """The machine of a PULL socket: the receiving half that many protocols share, and nothing else."""

    def takes_all(self, pipe: int) -> bool:
        return self.turnstile.idle and pipe in self.peers
