"""PAIR1: PAIR with a count of hops, so that a loop of devices ends.

    send   header = 1 hop
    wire   header ‖ body
    recv   more than TTL hops, 255, or no such header: dropped; the header is not shown

nng begins to count at 1 and mangos at 0; we send 1 and take both, and so does everybody. TTL hops are allowed, the last
socket included (B16). nng's polyamorous sockets send the same bytes: to us they are one peer like any other.
"""

from __future__ import annotations

from typing import Any, Final

from spworkers.protocol.hops import HOPS_LIMIT, hops_of, hops_word
from spworkers.protocol.machine import GARBLED, TTL, Actions
from spworkers.protocol.pair import Pair
from spworkers.protocol.peers import Peer

__all__ = ["Pair1"]

# TTL's default; mangos and nng have the same.
_TTL: Final = 8


class Pair1(Pair):
    """The machine of a PAIR1 socket.

    Args:
        out: the driver's actions.
        prefix: the header of what is sent.
    """

    def __init__(self, out: Actions, prefix: bytes = hops_word(1)) -> None:
        super().__init__(out, prefix)
        self._ttl: int = _TTL

    def takes_all(self, pipe: int) -> bool:
        return False  # its hops are counted

    def received(self, peer: Peer, payload: bytes) -> bool:
        hops = hops_of(payload)
        if hops < 0:
            self.out.count(GARBLED, peer.id)
            return True
        if hops > self._ttl or hops >= HOPS_LIMIT:
            self.out.count(TTL, peer.id)
            return True
        return self.hand(peer, hops + 1, payload)

    def hand(self, peer: Peer, hops: int, payload: bytes) -> bool:
        """Deliver a message that has passed so many hops. False: there is no room for it."""
        return self.deliver(peer, payload, 4, b"")

    def configure(self, context: int | None, name: str, value: Any) -> None:
        if name == "TTL":
            self._ttl = int(value)
        else:
            super().configure(context, name, value)
