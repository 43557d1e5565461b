"""Raw STAR: the count of hops is the program's. What comes is passed on here too.

recv   header = the word of the wire, counted up by one
send   header = such a word; anything else: dropped
wire   header ‖ body
"""

from __future__ import annotations

from spworkers.protocol.hops import hops_of
from spworkers.protocol.machine import BAD_HEADER, Outgoing
from spworkers.protocol.peers import Peer
from spworkers.protocol.star import Star

__all__ = ["XStar"]


class XStar(Star):
    """The machine of a raw STAR socket."""

    def context_message(self, context: int, message: Outgoing) -> None:
        header = message.header
        if len(header) != 4 or hops_of(header) < 0:
            self.discard(message, BAD_HEADER, 0)
        else:
            self.send(message, b"")

    def copies_to(self, context: int) -> list[int]:
        return []  # a header has to be looked at

    def hand(self, peer: Peer, header: bytes, payload: bytes) -> bool:
        return self.deliver(peer, payload[4:], 0, header)
