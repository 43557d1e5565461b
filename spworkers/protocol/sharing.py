"""One message, one peer: pipes take turns, and a pipe that is congested is passed over.

This is the sending half of REQ and PUSH. The RFC demands round-robin; a pipe that was used goes to the end of the
queue, a pipe that was congested or is new stands there too, so no ready pipe is ever used twice before another ready
one.
"""

from __future__ import annotations

from spworkers.protocol.fifo import Fifo
from spworkers.protocol.machine import Actions
from spworkers.protocol.peers import Peer, Peers

__all__ = ["Sharing"]


class Sharing(Peers):
    """Pipes in the order of their turns. A subclass sends in `pump`, which is called whenever a pipe became ready."""

    def __init__(self, out: Actions) -> None:
        super().__init__(out)
        self.ready: Fifo[Peer] = Fifo()

    def pump(self) -> None:
        """Send what waits, as long as there are ready pipes."""

    def pipe_added(self, pipe: int) -> bool:
        peer = Peer(pipe)
        self.peers[pipe] = peer
        self.peer_joined(peer)
        self._enter(peer)
        return True

    def peer_joined(self, peer: Peer) -> None:
        """This pipe is new in `peers`."""

    def peer_lost(self, peer: Peer) -> None:
        self._leave(peer)

    def peer_congested(self, peer: Peer) -> None:
        self._leave(peer)

    def peer_ready(self, peer: Peer) -> None:
        self._enter(peer)

    def _enter(self, peer: Peer) -> None:
        if peer.home is None:
            self.ready.append(peer)
            self.out.set_ready(self.ready.length)
            self.pump()

    def _leave(self, peer: Peer) -> None:
        if peer.home is not None:
            self.ready.remove(peer)
            self.out.set_ready(self.ready.length)
