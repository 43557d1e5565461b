"""The road back: how requests (and surveys) carry the way that their reply will take.

    wire   [0|pipe id]*, 1|request id, body

Every device on the way puts the number of the pipe that the request came by in front. The words up to the one whose top
bit is set are the header; a reply begins with the same words. TTL words are allowed, the request's id included: one
less is the number of devices, for every protocol alike (B16). A message with more words is dropped. One that ends
before the last word is garbage, and closes its pipe, as in nng.
"""

from __future__ import annotations

from typing import Any, Final

from spworkers.protocol.machine import CONGESTED, GARBLED, NO_PIPE, PIPE_LOST, TTL, Actions, Outgoing
from spworkers.protocol.outbox import Outbox
from spworkers.protocol.peers import Peer, Peers

__all__ = ["Backtraced", "Replying", "backtrace_length"]

# TTL's default; mangos and nng have the same.
_TTL: Final = 8


def backtrace_length(payload: bytes, ttl: int) -> int:
    """The length in bytes of the words before the body; 0: there are more than `ttl`; -1: the last one is missing."""
    size = len(payload)
    end = 4
    while end <= size:
        if end > 4 * ttl:
            return 0
        if payload[end - 4] & 0x80:
            return end
        end += 4
    return -1


class Backtraced(Peers):
    """What the answering sides share: pipes whose messages begin with a backtrace."""

    def __init__(self, out: Actions) -> None:
        super().__init__(out)
        self._ttl: int = _TTL

    def header_length(self, peer: Peer, payload: bytes) -> int:
        """The length of the backtrace; 0: the message was dropped, and the pipe is being closed if it was garbage."""
        length = backtrace_length(payload, self._ttl)
        if length > 0:
            return length
        if length == 0:
            self.out.count(TTL, peer.id)
        else:
            self.out.count(GARBLED, peer.id)
            self.out.close_pipe(peer.id, GARBLED)
        return 0

    def pipe_hung_up(self, pipe: int) -> None:
        self.pipe_ready(pipe)  # nobody else can have its answers: they are dropped, and keep nobody waiting

    def configure(self, context: int | None, name: str, value: Any) -> None:
        if name == "TTL":
            self._ttl = int(value)
        else:
            super().configure(context, name, value)


class Replying(Backtraced):
    """The sending half of REP: each message is for one certain pipe, and waits for it without holding up others."""

    def __init__(self, out: Actions, skip: int, writeq: int) -> None:
        super().__init__(out)
        self._skip: Final = skip  # bytes of a message's header that are not for the wire
        self._writeq: int = writeq
        self._best_effort = False
        self._outboxes: dict[int, Outbox] = {}  # by pipe; only of those for which something waits

    def reply(self, peer: Peer | None, message: Outgoing, best_effort: bool) -> None:
        """Send a message to this pipe, now or as soon as it takes it; None: the pipe is gone."""
        if peer is None:
            self.discard(message, NO_PIPE, 0)
        elif peer.congested:
            self._wait(peer, message, best_effort)
        elif message.claim():
            self.out.transmit(peer.id, b"", message, self._skip)
            message.release()

    def _wait(self, peer: Peer, message: Outgoing, best_effort: bool) -> None:
        outbox = self._outboxes.get(peer.id)
        if best_effort and (0 if outbox is None else len(outbox)) >= self._writeq:
            self.discard(message, CONGESTED, peer.id)
            return
        if outbox is None:
            outbox = Outbox()
            self._outboxes[peer.id] = outbox
        outbox.append(message)

    def peer_ready(self, peer: Peer) -> None:
        outbox = self._outboxes.get(peer.id)
        if outbox is None:
            return
        while not peer.congested:
            message = outbox.next()
            if message is None:
                self._outboxes.pop(peer.id, None)
                return
            self.out.transmit(peer.id, b"", message, self._skip)
            message.release()

    def hand_over(self) -> None:
        outboxes, self._outboxes = self._outboxes, {}
        for pipe, outbox in outboxes.items():
            message = outbox.next()
            while message is not None:
                self.out.transmit(pipe, b"", message, self._skip)
                message.release()
                message = outbox.next()

    def peer_lost(self, peer: Peer) -> None:
        outbox = self._outboxes.pop(peer.id, None)
        if outbox is not None:
            outbox.drop(self.out, PIPE_LOST, peer.id)

    def configure(self, context: int | None, name: str, value: Any) -> None:
        if name == "WRITEQ-LEN":
            self._writeq = int(value)
        elif name == "BEST-EFFORT" and context is None:
            self._best_effort = bool(value)
        else:
            super().configure(context, name, value)
