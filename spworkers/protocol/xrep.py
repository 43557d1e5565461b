"""Raw REP: requests come with the way back as their header, replies go out by it.

    recv   header = pipe id ‖ [0|pipe id of a device]* ‖ 1|request id
    send   the same header: its first word names the pipe and is taken off; shorter, or no such pipe: dropped
    wire   the rest of the header ‖ body

A reply to a pipe that is congested waits for it, unclaimed; replies to others pass it by. Who sends them bounds how
many wait for one pipe; a device does not, and would hold up everybody once the lane is full of those for peers that do
not read: these are disconnected then (`stalls.py`).
"""

from __future__ import annotations

from typing import Final

from spworkers.protocol.backtrace import Replying
from spworkers.protocol.machine import BAD_HEADER, NEVER, Actions, Outgoing
from spworkers.protocol.peers import Peer
from spworkers.protocol.stalls import LOOK, Stalls

__all__ = ["XRep"]

# WRITEQ-LEN's default for one pipe; mangos has the same.
_WRITEQ: Final = 128


class XRep(Replying):
    """The machine of a raw REP socket."""

    def __init__(self, out: Actions) -> None:
        super().__init__(out, 4, _WRITEQ)
        self._stalls: Final = Stalls(out)
        self._relays = False  # a device sends here
        self._starved = False  # it waited for room at the last look

    def received(self, peer: Peer, payload: bytes) -> bool:
        length = self.header_length(peer, payload)
        return length == 0 or self.deliver(peer, payload, length, peer.key)

    def context_message(self, context: int, message: Outgoing) -> None:
        header = message.header
        if len(header) < 4:
            self.discard(message, BAD_HEADER, 0)
            return
        self.reply(self.peers.get(int.from_bytes(header[:4], "big")), message, self._best_effort)

    # --- peers that do not read, in a device

    def in_device(self, yes: bool) -> None:
        self._relays = yes
        self._starved = False
        if not yes:
            self.deadline = NEVER
        elif any(peer.congested for peer in self.peers.values()):
            self.deadline = self.now + LOOK

    def peer_congested(self, peer: Peer) -> None:
        if self._relays and self.deadline == NEVER:
            self._starved = False
            self.deadline = self.now + LOOK

    def timer_due(self) -> None:
        if self.now < self.deadline:
            return
        before, self._starved = self._starved, self.out.starved(0)
        again = self._stalls.look(list(self.peers.values()), before and self._starved)
        self.deadline = self.now + LOOK if again else NEVER
