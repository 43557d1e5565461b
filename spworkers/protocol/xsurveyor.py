"""Raw SURVEYOR: surveys go out with the header that the program gave them, answers come in with theirs.

send   header = [pipe id of a device's other side ...] ‖ 1|survey id, at least one word; shorter: dropped
wire   header ‖ body
recv   header = the first word; a message without one is dropped
"""

from __future__ import annotations

from spworkers.protocol.fanout import Fanout
from spworkers.protocol.machine import BAD_HEADER, GARBLED, NO_PEERS, Outgoing
from spworkers.protocol.peers import Peer

__all__ = ["XSurveyor"]


class XSurveyor(Fanout):
    """The machine of a raw SURVEYOR socket."""

    def context_message(self, context: int, message: Outgoing) -> None:
        if len(message.header) < 4:
            self.discard(message, BAD_HEADER, 0)
            return
        payload = self.copied(message, b"", 0)
        if payload is not None and self.broadcast(payload, 0) == 0:
            self.out.count(NO_PEERS)

    def received(self, peer: Peer, payload: bytes) -> bool:
        if len(payload) < 4:
            self.out.count(GARBLED, peer.id)
            return True
        return self.deliver(peer, payload, 4, b"")
