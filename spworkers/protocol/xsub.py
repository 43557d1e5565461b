"""Raw SUB: every message, without a filter.

    send   nothing
    wire   body
    recv   the body; no header

A full queue drops the newest message, so a peer is never held up.
"""

from __future__ import annotations

from spworkers.protocol.machine import CONGESTED
from spworkers.protocol.peers import Peer, Peers

__all__ = ["XSub"]


class XSub(Peers):
    """The machine of a raw SUB socket."""

    def received(self, peer: Peer, payload: bytes) -> bool:
        if not self.deliver(peer, payload, 0, b""):
            self.out.count(CONGESTED, peer.id)
        return True
