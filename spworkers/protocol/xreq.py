"""Raw REQ: requests go out with the header that the program gave them, replies come in with theirs.

    send   header = [pipe id of a device's other side ...] ‖ 1|request id, at least one word; shorter: dropped
    wire   header ‖ body
    recv   header = the first word; a message without one is dropped

Requests wait in one queue, unclaimed, and each goes to the next ready pipe.
"""

from __future__ import annotations

from spworkers.protocol.machine import BAD_HEADER, GARBLED, Outgoing
from spworkers.protocol.peers import Peer
from spworkers.protocol.queued import Queued

__all__ = ["XReq"]


class XReq(Queued):
    """The machine of a raw REQ socket."""

    def everything_to(self, context: int) -> int:
        return 0  # a header may be wrong

    def context_message(self, context: int, message: Outgoing) -> None:
        if len(message.header) < 4:
            self.discard(message, BAD_HEADER, 0)
        else:
            super().context_message(context, message)

    def received(self, peer: Peer, payload: bytes) -> bool:
        if len(payload) < 4:
            self.out.count(GARBLED, peer.id)
            return True
        return self.deliver(peer, payload, 4, b"")
