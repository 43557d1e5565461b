"""One queue, many takers: messages wait for a pipe in order, unclaimed, and each goes to the next ready one.

This is the sending half of PUSH, PAIR and raw REQ. What waits lies in the sender's lane, so a peer that leaves takes
nothing of it along, a successor finds it, and a sender whose time is over takes it back.
"""

from __future__ import annotations

from typing import Final

from spworkers.protocol.machine import Actions, Outgoing
from spworkers.protocol.outbox import Outbox
from spworkers.protocol.peers import Peer
from spworkers.protocol.sharing import Sharing

__all__ = ["Queued"]


class Queued(Sharing):
    """A machine with one send queue.

    Args:
        out: the driver's actions.
        prefix: what the wire has before every message.
    """

    def __init__(self, out: Actions, prefix: bytes = b"") -> None:
        super().__init__(out)
        self._prefix: Final = prefix
        self._waiting = Outbox()

    def context_message(self, context: int, message: Outgoing) -> None:
        peer = self.ready.head
        if peer is None or len(self._waiting) > 0:
            self._waiting.append(message)
        elif message.claim():
            self._send(peer, message)

    def everything_to(self, context: int) -> int:
        if self.ready.length != 1 or len(self._waiting) > 0:
            return 0
        peer = self.ready.head
        return 0 if peer is None else peer.id

    def one_queue(self) -> bool:
        return True

    def prefix(self) -> bytes:
        return self._prefix

    def pump(self) -> None:
        while len(self._waiting) > 0:
            peer = self.ready.head
            if peer is None:
                return
            message = self._waiting.next()
            if message is not None:
                self._send(peer, message)

    def _send(self, peer: Peer, message: Outgoing) -> None:
        self.ready.rotate(peer)
        self.out.transmit(peer.id, self._prefix, message, 0)
        message.release()
