"""STAR: every message to everybody, passed on from node to node.

    send   header = 0 hops
    wire   header ‖ body
    recv   TTL hops or more, or no such header: dropped; else it is delivered, and goes with one more hop to all pipes
           but the one that it came by; the header is not shown

The count begins at 0 and so TTL hops are allowed, the last socket included (B16). A node whose receivers do not take
what comes pushes back, and passes nothing on meanwhile.
"""

from __future__ import annotations

from typing import Any, Final

from spworkers.protocol.fanout import Fanout
from spworkers.protocol.hops import hops_of, hops_word
from spworkers.protocol.machine import GARBLED, NO_PEERS, TTL, Actions, Outgoing
from spworkers.protocol.peers import Peer

__all__ = ["Star"]

# TTL's default; mangos has the same.
_TTL: Final = 8

_FIRST: Final = hops_word(0)


class Star(Fanout):
    """The machine of a STAR socket."""

    def __init__(self, out: Actions) -> None:
        super().__init__(out)
        self._ttl: int = _TTL

    def context_message(self, context: int, message: Outgoing) -> None:
        self.send(message, _FIRST)

    def copies_to(self, context: int) -> list[int]:
        return self.recipients()

    def prefix(self) -> bytes:
        return _FIRST

    def send(self, message: Outgoing, prefix: bytes) -> None:
        """Send a message to everybody."""
        payload = self.copied(message, prefix, 0)
        if payload is not None and self.broadcast(payload, 0) == 0:
            self.out.count(NO_PEERS)

    def received(self, peer: Peer, payload: bytes) -> bool:
        hops = hops_of(payload)
        if hops < 0:
            self.out.count(GARBLED, peer.id)
            return True
        if hops >= self._ttl:
            self.out.count(TTL, peer.id)
            return True
        header = hops_word(hops + 1)
        if not self.hand(peer, header, payload):
            return False
        if len(self.peers) > 1:
            self.broadcast(header + payload[4:], peer.id)
        return True

    def hand(self, peer: Peer, header: bytes, payload: bytes) -> bool:
        """Deliver a message, whose header is this from here on. False: there is no room for it."""
        return self.deliver(peer, payload, 4, b"")

    def configure(self, context: int | None, name: str, value: Any) -> None:
        if name == "TTL":
            self._ttl = int(value)
        else:
            super().configure(context, name, value)
