"""Connections of an ASGI server's, as an I/O process sees them.

    browser ⇄ ASGI server ⇄ ASGIApp ⇄ socket pair ⇄ I/O process
                          messages    frames

`spworkers.transport.ws.ASGIApp` runs where the ASGI server does. For each WebSocket it makes a socket pair and has the
control channel bring one end here, with the request. From here comes the verdict on it first, then there are frames as
in tcp. Words that are no frame's head have their highest bit set:

    word(101)              it is a pipe: accept the WebSocket
    word(status) reason    first and last: do not accept it, and answer with this status of HTTP
    word(code)             last: the code to close the WebSocket with; if it is the first too, accept it before
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections import deque
from typing import Any

from spworkers.errors import BadAddrError, ClosedError, InternalError, TooLongError
from spworkers.ring import FrameReader, FrameWriter
from spworkers.transport.acceptor import BACKLOG
from spworkers.transport.base import Acceptor, Address, Link, Options, Reader, Transport, Writer
from spworkers.transport.handshake import Handshake
from spworkers.transport.waiting import wake

LAST_WORD = 1 << 63
"""What is set in a word that is no frame's head."""

ADMITTED = 101
"""The status of a WebSocket that is accepted (RFC 6455, 1.3)."""

GOING_AWAY, POLICY, TOO_BIG = 1001, 1008, 1009

MOST_REASON = 4096
"""Bytes of a hook's reason: what a fresh socket pair always takes."""


def word(code: int) -> bytes:
    """A word that is no frame's head: a status of HTTP, or the code of a WebSocket's end."""
    return struct.pack(">Q", LAST_WORD | code)


class AsgiLink(Link):
    """One end of a socket pair whose other end is an `ASGIApp`."""

    __slots__ = ("_admitted", "_reader", "_refusal", "_writer")

    def __init__(self, sock: socket.socket, **more: Any) -> None:
        super().__init__(sock, "stream", **more)
        self._reader: FrameReader | None = None
        self._writer: FrameWriter | None = None
        self._admitted = False
        self._refusal: tuple[int, str] | None = None

    async def shake(self, loop: asyncio.AbstractEventLoop, handshake: Handshake) -> None:
        """The WebSocket's handshake was enough."""

    def reader(self, max_size: int) -> Reader:
        self._reader = FrameReader(self.sock.fileno(), 0, max_size)
        return self._reader

    def writer(self) -> Writer:
        self._writer = FrameWriter(self.sock.fileno(), 0)
        return self._writer

    async def admit(self, loop: asyncio.AbstractEventLoop) -> None:
        self._admitted = True
        self.sock.send(word(ADMITTED))

    def decline(self, status: int, reason: str) -> None:
        self._refusal = status, reason

    def refuse(self) -> None:
        if self._refusal is None or self._admitted:
            self._say(POLICY)
        else:
            status, reason = self._refusal
            with contextlib.suppress(OSError):
                self.sock.send(word(status) + reason.encode()[:MOST_REASON])
        self.close()

    def hang_up(self) -> None:
        wrong = self._reader.error if self._reader is not None else None
        self._say(TOO_BIG if isinstance(wrong, TooLongError) else GOING_AWAY)
        self.close()

    async def part(self, loop: asyncio.AbstractEventLoop) -> None:
        self._say(GOING_AWAY)
        await super().part(loop)

    def _say(self, code: int) -> None:
        """The last word, if it fits between two frames; without one, the other end takes it for GOING_AWAY."""
        if self._writer is None or self._writer.whole:
            with contextlib.suppress(OSError):
                self.sock.send(word(code))


class AsgiAcceptor(Acceptor):
    """Hands out what the control channel brings."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._links: deque[Link] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False

    @property
    def address(self) -> str:
        return self._address

    def fileno(self) -> int:
        return -1

    def bring(self, descriptor: int, facts: dict[str, Any]) -> None:
        """A connection has come.

        Args:
            descriptor: our end of its pair, which is ours from now on.
            facts: `local`, `remote`, `properties`.

        Raises:
            ClosedError: it is closed; the descriptor is still the caller's.
        """
        if self._closed:
            raise ClosedError(f"{self._address}: this listener is closed")
        if len(self._links) >= BACKLOG:  # ACCEPT-RATE lets them wait; no kernel bounds how many do
            os.close(descriptor)  # the other end sees it, and answers 503
            return
        self._links.append(AsgiLink(socket.socket(fileno=descriptor), **facts))
        if self._waiter is not None:
            wake(self._waiter)

    async def accept(self) -> Link:
        while not self._closed:
            if self._links:
                return self._links.popleft()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        raise ClosedError(f"{self._address}: this listener is closed")

    def close(self, unlink: bool = True) -> None:
        if self._closed:
            return
        self._closed = True
        while self._links:
            self._links.popleft().close()
        if self._waiter is not None:
            wake(self._waiter)

    def __repr__(self) -> str:
        return f"<AsgiAcceptor {self._address}: {'closed' if self._closed else 'listening'}>"


class AsgiTransport(Transport):
    """`asgi://PATH`, at which an `ASGIApp` has a socket listen."""

    listener_options = frozenset({"MAX-RCV-SIZE"})
    pipe_options = Transport.pipe_options | {"HTTP-REQUEST"}

    def parse(self, address: str) -> Address:
        self.rest_of(address)
        return Address(address)

    async def dial(self, address: Address, options: Options) -> Link:
        raise BadAddrError(f"dial {address}: asgi:// is where an ASGIApp mounts a socket; dial its WebSocket, ws://…")

    async def listen(self, address: Address, options: Options, inherited: int | None = None) -> Acceptor:
        if inherited is not None:
            raise InternalError(f"listen {address}: there is no descriptor that could be inherited")
        return AsgiAcceptor(address.url)
