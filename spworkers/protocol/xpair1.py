"""Raw PAIR1: the count of hops is the program's.

    recv   header = the word of the wire, counted up by one
    send   header = such a word; anything else: dropped
    wire   header ‖ body

So a device that sends what it received has counted itself.
"""

from __future__ import annotations

from spworkers.protocol.hops import hops_of, hops_word
from spworkers.protocol.machine import BAD_HEADER, Actions, Outgoing
from spworkers.protocol.pair1 import Pair1
from spworkers.protocol.peers import Peer

__all__ = ["XPair1"]


class XPair1(Pair1):
    """The machine of a raw PAIR1 socket."""

    def __init__(self, out: Actions) -> None:
        super().__init__(out, b"")

    def everything_to(self, context: int) -> int:
        return 0  # a header may be wrong

    def context_message(self, context: int, message: Outgoing) -> None:
        header = message.header
        if len(header) != 4 or hops_of(header) < 0:
            self.discard(message, BAD_HEADER, 0)
        else:
            super().context_message(context, message)

    def hand(self, peer: Peer, hops: int, payload: bytes) -> bool:
        return self.deliver(peer, payload[4:], 0, hops_word(hops))
