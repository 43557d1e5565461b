"""REP: a context takes a request, answers it, and takes the next one.

    recv   header = [0|pipe id of a device]* ‖ 1|request id, with the pipe it came by
    send   the same header and pipe; a pipe that is gone meanwhile: dropped, a congested one: waits for it
    wire   header ‖ body

A request goes only where it is wanted: to a context that waits in a receive. A request that nobody wants waits in its
pipe, which is not read from meanwhile. A context that is the only one has standing demand for some; when a second one
is opened, or a context is closed, the requests that were delivered and not taken yet are taken back and go to whoever
wants one; when their pipe goes they go with it.

Backtrace and pipe of the request being answered are kept in the user's process, and with them the rule that a reply
without a request is an error. So a reply here is only routed.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from spworkers.protocol.backtrace import Replying
from spworkers.protocol.fifo import Fifo, Node
from spworkers.protocol.machine import PIPE_LOST, Actions, Outgoing
from spworkers.protocol.peers import Peer

__all__ = ["Rep"]

# WRITEQ-LEN's default: a reply is handed over, as in mangos.
_WRITEQ: Final = 0

# The standing demand of a sole context: requests that lie ready for it, so that it need not wake the I/O process for
# each. They are taken back, and dealt anew, when another context opens.
_STANDING: Final = 8


class _Request:
    """A request, and where it was delivered."""

    def __init__(self, peer: Peer, payload: bytes, header_length: int) -> None:
        self.peer: Final = peer
        self.payload: Final = payload
        self.header_length: Final = header_length
        self.ticket = 0


class _Server(Node):
    """A context. As a node it stands in the queue of those that may want a request."""

    def __init__(self, context: int) -> None:
        super().__init__()
        self.id: Final = context
        # What it has not replied to, oldest first. Of these some may not be taken yet, always the last ones.
        self.delivered: deque[_Request] = deque()
        self.best_effort = -1  # its own option: 0, 1; -1: the socket's


class Rep(Replying):
    """The machine of a REP socket.

    Args:
        out: the driver's actions.
        standing: how many requests may lie ready for a sole context.
    """

    def __init__(self, out: Actions, standing: int = _STANDING) -> None:
        super().__init__(out, 0, _WRITEQ)
        self._standing: int = standing
        # So many deliveries of a context are remembered: those of its standing demand, one by a receiver that began to
        # wait in the same moment, and before these, which may all be untaken, the one that it replies to. Older ones
        # were taken, and are forgotten even if they are never replied to.
        self._remembered: int = standing + 2
        self._servers: dict[int, _Server] = {}
        # A context stays in this queue until a delivery to it was refused, and returns when it is said to want one.
        self._wanting: Fifo[_Server] = Fifo()
        self._returned: deque[_Request] = deque()  # taken back; they come before all that wait in pipes

    # --- requests

    def received(self, peer: Peer, payload: bytes) -> bool:
        if len(self._returned) > 0:
            return False
        length = self.header_length(peer, payload)
        return length == 0 or self._hand(_Request(peer, payload, length))

    def _hand(self, request: _Request) -> bool:
        """Deliver a request to whoever wants one. False: nobody does."""
        server = self._wanting.head
        while server is not None:
            ticket = self.out.deliver(server.id, request.peer.id, request.payload, request.header_length, 0, b"")
            if ticket != 0:
                request.ticket = ticket
                server.delivered.append(request)
                if len(server.delivered) > self._remembered:
                    server.delivered.popleft()
                self._wanting.rotate(server)
                return True
            self._wanting.remove(server)
            server = self._wanting.head
        return False

    def context_wants(self, context: int) -> None:
        server = self._servers.get(context)
        if server is not None:
            self._may_want(server)
        self._offer()

    def _may_want(self, server: _Server) -> None:
        if server.home is None:
            self._wanting.append(server)

    def _offer(self) -> None:
        """Find takers for what waits."""
        while len(self._returned) > 0:
            if not self._hand(self._returned[0]):
                return
            self._returned.popleft()
        self.turnstile.advance()

    def undelivered(self) -> list[tuple[int, bytes]]:
        return [(request.peer.id, request.payload) for request in self._returned]

    def _take_back(self, server: _Server) -> None:
        """Take back what this context has not taken, to give it to others."""
        kept: deque[_Request] = deque()
        while len(server.delivered) > 0:
            request = server.delivered.pop()
            if not self.out.revoke(server.id, request.ticket):
                kept.appendleft(request)
            elif request.peer.id in self.peers:
                self._returned.appendleft(request)
            else:
                self.out.count(PIPE_LOST, request.peer.id)
        server.delivered = kept

    def peer_lost(self, peer: Peer) -> None:
        super().peer_lost(peer)
        if len(self._returned) > 0:
            kept = deque([request for request in self._returned if request.peer is not peer])
            if len(kept) < len(self._returned):
                self.out.count(PIPE_LOST, peer.id, len(self._returned) - len(kept))
                self._returned = kept
        if len(self._servers) == 1:  # if there are more, what was delivered is being taken
            for sole in self._servers.values():
                self._withdraw(sole, peer)

    def _withdraw(self, server: _Server, peer: Peer) -> None:
        """Take back what a context has not taken of a pipe that is gone: nobody waits for the replies."""
        kept: deque[_Request] = deque()
        for request in server.delivered:
            if request.peer is peer and self.out.revoke(server.id, request.ticket):
                self.out.count(PIPE_LOST, peer.id)
            else:
                kept.append(request)
        if len(kept) < len(server.delivered):
            server.delivered = kept
            self._may_want(server)
            self._offer()

    # --- replies

    def context_message(self, context: int, message: Outgoing) -> None:
        best_effort = self._best_effort
        server = self._servers.get(context)
        if server is not None:
            if len(server.delivered) > 0:
                server.delivered.popleft()  # what it replies to it has taken, and what came before that: free memory
            if server.best_effort >= 0:
                best_effort = server.best_effort == 1
        self.reply(self.peers.get(message.pipe), message, best_effort)

    # --- contexts

    def context_opened(self, context: int) -> None:
        server = _Server(context)
        self._servers[context] = server
        self._wanting.append(server)
        if len(self._servers) == 1:
            self.out.set_window(context, self._standing)
        else:
            self.out.set_window(context, 0)
            if len(self._servers) == 2:
                for other in self._servers.values():
                    if other is not server:
                        self.out.set_window(other.id, 0)
                        self._take_back(other)
                        self._may_want(other)
        self._offer()

    def context_closed(self, context: int) -> None:
        server = self._servers.pop(context, None)
        if server is None:
            return
        if server.home is not None:
            self._wanting.remove(server)
        self._take_back(server)
        if len(self._servers) == 1:
            for sole in self._servers.values():
                self.out.set_window(sole.id, self._standing)
                self._may_want(sole)
        self._offer()

    def configure(self, context: int | None, name: str, value: Any) -> None:
        if name == "BEST-EFFORT" and context is not None:
            server = self._servers.get(context)
            if server is not None:
                server.best_effort = 1 if value else 0
        else:
            super().configure(context, name, value)

    def set_standing(self, n: int) -> None:
        """So many requests may lie ready for a sole context; those that do already stay."""
        self._standing = n
        self._remembered = max(self._remembered, n + 2)
        if len(self._servers) == 1:
            for sole in self._servers.values():
                self.out.set_window(sole.id, n)
                self._may_want(sole)
        self._offer()
