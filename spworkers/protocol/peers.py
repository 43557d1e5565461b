"""What nearly every machine keeps of its pipes, and the one queue in which all of them meet.

`Peers` is the base of machines with many pipes. It also has the receiving half that raw sockets and one-way protocols
share: whatever comes goes into the receive lane of context 0, pipes take turns when that is full, and a pipe that has
to wait is not read from, so that back-pressure reaches the peer.
"""

from __future__ import annotations

from typing import Any, Final

from spworkers.protocol.fifo import Node
from spworkers.protocol.machine import UNEXPECTED, Actions, Machine
from spworkers.protocol.turnstile import Turn, Turnstile

__all__ = ["Peer", "Peers"]

# READQ-LEN's default; mangos has the same.
_READQ: Final = 128


class Peer(Node):
    """A pipe. As a node it stands in the queue of ready pipes, where there is one."""

    def __init__(self, pipe: int) -> None:
        super().__init__()
        self.id: Final = pipe
        self.key: Final = pipe.to_bytes(4, "big")
        """Its number as a header's word."""
        self.congested = False
        self.turn: Final = Turn(pipe)


class Peers(Machine):
    """Pipes by their number, and a receive queue that they share."""

    def __init__(self, out: Actions) -> None:
        super().__init__(out)
        self.peers: dict[int, Peer] = {}
        self.turnstile = Turnstile(out)
        self._readq: int = _READQ
        self._open = False

    def pipe_added(self, pipe: int) -> bool:
        self.peers[pipe] = Peer(pipe)
        return True

    def pipe_removed(self, pipe: int) -> None:
        peer = self.peers.pop(pipe, None)
        if peer is not None:
            self.turnstile.forget(peer.turn)
            self.peer_lost(peer)

    def peer_lost(self, peer: Peer) -> None:
        """This pipe is no longer in `peers`: forget whatever belongs to it."""

    def pipe_congested(self, pipe: int) -> None:
        peer = self.peers.get(pipe)
        if peer is not None:
            peer.congested = True
            self.peer_congested(peer)

    def peer_congested(self, peer: Peer) -> None:
        """This pipe takes no more messages."""

    def pipe_ready(self, pipe: int) -> None:
        peer = self.peers.get(pipe)
        if peer is not None:
            peer.congested = False
            self.peer_ready(peer)

    def peer_ready(self, peer: Peer) -> None:
        """This pipe takes messages again."""

    def pipe_message(self, pipe: int, payload: bytes) -> bool:
        peer = self.peers.get(pipe)
        if peer is None:
            self.out.count(UNEXPECTED, pipe)
            return True
        if not self.turnstile.admits(peer.turn):
            return False
        if not self.received(peer, payload):
            self.turnstile.refuse(peer.turn)
            return False
        self.turnstile.passed(peer.turn)
        return True

    def received(self, peer: Peer, payload: bytes) -> bool:
        """Deal with a message whose turn it is. False: there is no room for it."""
        return self.deliver(peer, payload, 0, b"")

    def deliver(self, peer: Peer, payload: bytes, header_length: int, prefix: bytes) -> bool:
        """Put a message into the shared receive queue. False: there is no room for it."""
        return self.out.deliver(0, peer.id, payload, header_length, 0, prefix) != 0

    def context_opened(self, context: int) -> None:
        self._open = True
        self.out.set_window(context, self._readq)

    def context_closed(self, context: int) -> None:
        self._open = False

    def context_wants(self, context: int) -> None:
        self.turnstile.advance()

    def configure(self, context: int | None, name: str, value: Any) -> None:
        if name == "READQ-LEN":
            self._readq = int(value)
            if self._open:
                self.out.set_window(0, self._readq)
                self.turnstile.advance()
