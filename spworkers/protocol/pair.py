"""PAIR: two peers, and nobody else.

    send   header and body as they are (cooked: no header)
    wire   header ‖ body
    recv   the body

Raw PAIR is the same. A second peer is turned away as long as there is one. Messages wait in one queue, also while
nobody is connected, and those that a peer did not take go to the next one.
"""

from __future__ import annotations

from spworkers.protocol.queued import Queued

__all__ = ["Pair"]


class Pair(Queued):
    """The machine of a PAIR socket."""

    def pipe_added(self, pipe: int) -> bool:
        return len(self.peers) == 0 and super().pipe_added(pipe)

    def takes_all(self, pipe: int) -> bool:
        return self.turnstile.idle and pipe in self.peers
