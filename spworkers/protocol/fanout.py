"""One message, every peer: each pipe has a queue of its own, so that a slow peer holds up nobody and loses by itself.

This is the sending half of PUB, BUS, STAR and SURVEYOR. A send never waits for a peer: up to WRITEQ-LEN messages wait
for a pipe that is congested, and what comes after them is dropped for that pipe, the newest first as in mangos and
nanomsg, and counted. With WRITEQ-LEN 0 only pipes that take it at once get a message.

What waits is a copy, one for all pipes: a peer that does not read must not hold the shared memory that the next
messages need, or their sender would wait for it after all. So what waits dies with the I/O process.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from spworkers.protocol.machine import CONGESTED, PIPE_LOST, Actions, Outgoing
from spworkers.protocol.peers import Peer, Peers

__all__ = ["Fanout"]

# WRITEQ-LEN's default for one pipe; mangos has the same.
_WRITEQ: Final = 128


class Fanout(Peers):
    """A machine that sends to all of its pipes."""

    def __init__(self, out: Actions) -> None:
        super().__init__(out)
        self._writeq: int = _WRITEQ
        self._everybody: list[Peer] = []  # replaced and never changed, so that it can be walked while pipes go
        self._queues: dict[int, deque[bytes]] = {}  # by pipe; no empty ones
        self._held = 0  # messages in them
        self._recipients: list[int] | None = None  # see `recipients`; None: something has changed

    def pipe_added(self, pipe: int) -> bool:
        peer = Peer(pipe)
        self.peers[pipe] = peer
        self._everybody = list(self.peers.values())
        self._recipients = None
        self.peer_joined(peer)
        return True

    def peer_joined(self, peer: Peer) -> None:
        """This pipe is new in `peers`."""

    def peer_lost(self, peer: Peer) -> None:
        self._everybody = list(self.peers.values())
        self._recipients = None
        queue = self._queues.pop(peer.id, None)
        if queue is not None:
            self._held -= len(queue)
            self.out.count(PIPE_LOST, peer.id, len(queue))

    def broadcast(self, payload: bytes, but: int) -> int:
        """Send to every pipe but this one (0: to all). Returns how many were meant."""
        everybody = self._everybody
        meant = 0
        for peer in everybody:
            if peer.id != but and (everybody is self._everybody or peer.id in self.peers):
                meant += 1
                self.give(peer, payload)
        return meant

    def recipients(self) -> list[int]:
        """All pipes, if all take messages at once; for the `copies_to` of a machine whose messages go to everybody."""
        recipients = self._recipients
        if recipients is None:
            takers = [peer.id for peer in self._everybody if not peer.congested]
            recipients = takers if len(takers) == len(self._everybody) else []
            self._recipients = recipients
        return recipients

    def give(self, peer: Peer, payload: bytes) -> None:
        """Send to one pipe, now or as soon as it takes it; if too much waits for it already, drop it."""
        if not peer.congested:
            self.out.transmit_bytes(peer.id, payload)
            return
        queue = self._queues.get(peer.id)
        if (0 if queue is None else len(queue)) >= self._writeq:
            self.out.count(CONGESTED, peer.id)
            return
        if queue is None:
            queue = deque()
            self._queues[peer.id] = queue
        queue.append(payload)
        self._held += 1

    def peer_congested(self, peer: Peer) -> None:
        self._recipients = None

    def peer_ready(self, peer: Peer) -> None:
        self._recipients = None
        queue = self._queues.get(peer.id)
        if queue is None:
            return
        while not peer.congested:
            payload = queue.popleft()
            self._held -= 1
            if len(queue) == 0:
                del self._queues[peer.id]
                self.out.transmit_bytes(peer.id, payload)
                return
            self.out.transmit_bytes(peer.id, payload)
            if peer.id not in self.peers:
                return

    def copied(self, message: Outgoing, prefix: bytes, skip: int) -> bytes | None:
        """Claim a message, copy `prefix` and its payload without the first `skip` bytes; None: it was taken back."""
        if not message.claim():
            return None
        payload = message.payload_bytes()
        message.release()
        if skip > 0:
            payload = payload[skip:]
        return prefix + payload if len(prefix) > 0 else payload

    def held(self) -> int:
        return self._held

    def configure(self, context: int | None, name: str, value: Any) -> None:
        if name == "WRITEQ-LEN":
            self._writeq = int(value)
        else:
            super().configure(context, name, value)
