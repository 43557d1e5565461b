"""Raw REP: requests come with the way back as their header, replies go out by it.

    recv   header = pipe id ‖ [0|pipe id of a device]* ‖ 1|request id
    send   the same header: its first word names the pipe and is taken off; shorter, or no such pipe: dropped
    wire   the rest of the header ‖ body

A reply to a pipe that is congested waits for it, unclaimed; replies to others pass it by.
"""

from __future__ import annotations

from typing import Final

from spworkers.protocol.backtrace import Replying
from spworkers.protocol.machine import BAD_HEADER, Actions, Outgoing
from spworkers.protocol.peers import Peer

__all__ = ["XRep"]

# WRITEQ-LEN's default for one pipe; mangos has the same.
_WRITEQ: Final = 128


class XRep(Replying):
    """The machine of a raw REP socket."""

    def __init__(self, out: Actions) -> None:
        super().__init__(out, 4, _WRITEQ)

    def received(self, peer: Peer, payload: bytes) -> bool:
        length = self.header_length(peer, payload)
        return length == 0 or self.deliver(peer, payload, length, peer.key)

    def context_message(self, context: int, message: Outgoing) -> None:
        header = message.header
        if len(header) < 4:
            self.discard(message, BAD_HEADER, 0)
            return
        self.reply(self.peers.get(int.from_bytes(header[:4], "big")), message, self._best_effort)
