"""PUSH: every message to one peer, in turn.

    send   header and body as they are (cooked: no header)
    wire   header ‖ body
    recv   nothing; what a peer sends is dropped

Raw PUSH is the same. The peers take turns, and one that is congested is passed over while another is not.
"""

from __future__ import annotations

from spworkers.protocol.machine import UNEXPECTED
from spworkers.protocol.queued import Queued

__all__ = ["Push"]


class Push(Queued):
    """The machine of a PUSH socket."""

    def pipe_message(self, pipe: int, payload: bytes) -> bool:
        self.out.count(UNEXPECTED, pipe)
        return True

    def context_opened(self, context: int) -> None:
        """Nothing will be delivered, so there is no window to set."""
