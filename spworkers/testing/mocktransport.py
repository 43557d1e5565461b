"""The I/O process's side of `mock://`, and what it says to the test that is behind it (`spworkers.testing.Mock`).

    the test                                                the I/O process
      Mock ◀── unix socket ── {do: dial} ─────────────────── dial      the answer: {ok}, or {error}; then the connection
                                                                       is the link
           ◀── unix socket ── {do: listen} ───────────────── listen    answered likewise; it stays open
             ── {do: incoming, number} ────────────────────▶ accept
           ◀── unix socket ── {do: accept, number} ─────────           answered, and is the link
             ── {do: fail, error} ─────────────────────────▶ accept    raises

Every connection is one the kernel knows, so all that can happen on a link happens for real.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Any

import msgpack

from spworkers.errors import AddrInUseError, ClosedError, ConnRefusedError, ConnResetError, SPError, from_name, to_wire
from spworkers.transport.base import Acceptor, Address, Link, Options, Transport
from spworkers.transport.ipc import IpcTransport

__all__ = ["MockAcceptor", "MockTransport", "pack", "pack_error", "size_of"]

LENGTH = 4
"""Bytes of a message's length, big-endian, in front of it."""


def pack(message: dict[str, Any]) -> bytes:
    """A message between a Mock and its transport."""
    blob: bytes = msgpack.packb(message, use_bin_type=True)
    return len(blob).to_bytes(LENGTH, "big") + blob


def size_of(head: bytes) -> int:
    """How long a message is, by its first `LENGTH` bytes."""
    return int.from_bytes(head, "big")


def pack_error(error: SPError | OSError) -> dict[str, Any]:
    """An error as a part of a message; one of the system's stays what it is."""
    if isinstance(error, SPError):
        name, args = to_wire(error)
        return {"name": name, "args": args}
    return {"errno": error.errno or 0}


def unpack_error(found: dict[str, Any]) -> Exception:
    """What `pack_error` has packed."""
    if "errno" in found:
        return OSError(found["errno"], os.strerror(found["errno"]))
    return from_name(found["name"], found["args"])


class MockTransport(Transport):
    """Streams whose other end is in a test."""

    dialer_options = frozenset({"MAX-RCV-SIZE"})
    listener_options = frozenset({"MAX-RCV-SIZE"})

    def __init__(self, scheme: str = "mock") -> None:
        super().__init__(scheme)
        self._unix = IpcTransport("ipc")

    def parse(self, address: str) -> Address:
        self._unix.parse(f"ipc://{self.rest_of(address)}")
        return Address(address)

    async def dial(self, address: Address, options: Options) -> Link:
        return await self.ask(address, {"do": "dial"})

    async def listen(self, address: Address, options: Options, inherited: int | None = None) -> Acceptor:
        if inherited is not None:  # we keep none, so somebody else's came to us
            with contextlib.suppress(OSError):
                os.close(inherited)
            raise AddrInUseError(f"listen {address}: a mock listener has no descriptor that could be inherited")
        return MockAcceptor(self, address, await self.ask(address, {"do": "listen"}))

    async def ask(self, address: Address, request: dict[str, Any]) -> Link:
        """A connection to the Mock, after it has agreed to a request.

        Raises:
            ConnRefusedError: there is no Mock.
            Exception: what the Mock was told to answer.
        """
        try:
            link = await self._unix.dial(self._unix.parse(f"ipc://{self.rest_of(address.url)}"), {})
        except ConnRefusedError as error:
            raise ConnRefusedError(f"{request['do']} {address}: there is no Mock of that name (any more)") from error
        try:
            await asyncio.get_running_loop().sock_sendall(link.sock, pack(request))
            answer = await receive(link.sock)
            if "error" in answer:
                raise unpack_error(answer["error"])
            if answer.get("buffer"):
                link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, answer["buffer"])
        except BaseException:
            link.close()
            raise
        return Link(link.sock, "stream", local=address.url, remote=address.url)


class MockAcceptor(Acceptor):
    """Accepts when the Mock says so."""

    def __init__(self, transport: MockTransport, address: Address, line: Link) -> None:
        self._transport = transport
        self._address = address
        self._line = line
        self._orders: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._reading = asyncio.get_running_loop().create_task(self._read())

    @property
    def address(self) -> str:
        return self._address.url

    def fileno(self) -> int:
        return -1

    async def accept(self) -> Link:
        if self._reading.cancelled() or self._line.sock.fileno() < 0:
            raise self._closed()
        order = await self._orders.get()
        if order["do"] == "incoming":
            return await self._transport.ask(self._address, {"do": "accept", "number": order["number"]})
        if order["do"] == "fail":
            raise unpack_error(order["error"])
        self._orders.put_nowait(order)  # the last one, for every later call too
        raise self._closed() if order["do"] == "closed" else ConnResetError(f"{self.address}: its Mock is gone")

    async def _read(self) -> None:
        try:
            while True:
                self._orders.put_nowait(await receive(self._line.sock))
        except (OSError, EOFError):
            self._orders.put_nowait({"do": "gone"})

    def close(self, unlink: bool = True) -> None:
        if self._line.sock.fileno() < 0:
            return
        self._reading.cancel()
        self._orders.put_nowait({"do": "closed"})
        # Cancelling takes the reader off the loop at the next turn only; the number must not be somebody else's then.
        asyncio.get_running_loop().remove_reader(self._line.sock.fileno())
        self._line.close()

    def _closed(self) -> ClosedError:
        return ClosedError(f"{self.address}: this listener is closed")


async def receive(sock: socket.socket) -> dict[str, Any]:
    """The next message from a Mock. Only its own bytes are read: what follows belongs to the link.

    Raises:
        ConnResetError: the Mock is gone.
    """
    head = await _exactly(sock, LENGTH)
    message: dict[str, Any] = msgpack.unpackb(await _exactly(sock, size_of(head)), raw=False)
    return message


async def _exactly(sock: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        part = await loop.sock_recv(sock, size - len(data))
        if not part:
            raise ConnResetError("the Mock closed the connection")
        data += part
    return data
