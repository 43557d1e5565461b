"""Raw BUS: a message knows which neighbour it came from, and does not go back there.

    recv   header = the number of the pipe that it came by
    send   header = the number of the pipe that does not get it; anything else: all get it
    wire   body; the header stays here

So a device of one raw BUS is a hub.
"""

from __future__ import annotations

from spworkers.protocol.bus import Bus
from spworkers.protocol.machine import NO_PEERS, Outgoing
from spworkers.protocol.peers import Peer

__all__ = ["XBus"]


class XBus(Bus):
    """The machine of a raw BUS socket."""

    def context_message(self, context: int, message: Outgoing) -> None:
        header = message.header
        but = int.from_bytes(header, "big") if len(header) == 4 else 0
        payload = self.copied(message, b"", len(header))
        if payload is not None and self.broadcast(payload, but) == 0:
            self.out.count(NO_PEERS)

    def copies_to(self, context: int) -> list[int]:
        return []  # it may not be for all

    def received(self, peer: Peer, payload: bytes) -> bool:
        return self.deliver(peer, payload, 0, peer.key)
