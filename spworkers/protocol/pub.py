"""PUB: every message to every subscriber, who picks what he wants.

    send   header and body as they are (cooked: no header)
    wire   header ‖ body
    recv   nothing; what a peer sends is dropped

Raw PUB is the same. A slow subscriber loses messages, and holds up nobody.
"""

from __future__ import annotations

from spworkers.protocol.fanout import Fanout
from spworkers.protocol.machine import NO_PEERS, UNEXPECTED, Outgoing

__all__ = ["Pub"]


class Pub(Fanout):
    """The machine of a PUB socket."""

    def context_message(self, context: int, message: Outgoing) -> None:
        payload = self.copied(message, b"", 0)
        if payload is not None and self.broadcast(payload, 0) == 0:
            self.out.count(NO_PEERS)

    def copies_to(self, context: int) -> list[int]:
        return self.recipients()

    def pipe_message(self, pipe: int, payload: bytes) -> bool:
        self.out.count(UNEXPECTED, pipe)
        return True

    def context_opened(self, context: int) -> None:
        """Nothing will be delivered, so there is no window to set."""
