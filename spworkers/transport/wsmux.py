"""Connections that were accepted by somebody else: how a `WebServer` hands them to the sockets behind it.

    browser ──▶ mux process: accepts, reads the head ──"\\0ws/SERVER/PATH"──▶ I/O process of the socket at that path

A socket that listens at a web server's address takes a name of the program's inproc table, which only we can spell. The
mux process dials that name once, as any dialer would, and sends a packet for each connection over the line that it
gets: the descriptor, and what it has read so far. One byte comes back for each, in order; until then it keeps the
connection, for whoever was to have it may just have died, and its successor will take it. Then it has nothing to do
with it any more.

A line carries no more than `WINDOW` packets without an answer, however many connections come, and however few the
socket takes (ACCEPT-RATE): the others wait in the mux process, which has limits of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from spworkers.errors import AddrInUseError, ClosedError, GarbledError, SPError
from spworkers.messages import pack_facts, unpack_facts
from spworkers.transport.base import Acceptor, Address, Link
from spworkers.transport.handshake import recv_some, send_all
from spworkers.transport.inproc import InprocAcceptor, InprocTransport
from spworkers.transport.stream import Stream
from spworkers.transport.waiting import readable, wake, writable

WINDOW: Final = 64

_LONGEST: Final = 1 << 20
_LENGTH: Final = struct.Struct(">I")
_TAKEN: Final = b"!"

MakeLink = Callable[..., Link]


def name_of(server: str, path: str) -> str:
    """The inproc name of the socket at a path of a web server."""
    return f"\0ws/{server}{path}"


class MuxLine:
    """The mux process's end of a line to the socket at one path. It is made on a running loop.

    Args:
        loop: the running loop.
        line: what dialling its name has given; it belongs to this object.
        ended: called when the line is no more.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, line: socket.socket, ended: Callable[[], None]) -> None:
        line.setblocking(False)
        self._loop = loop
        self._line = line
        self._ended = ended
        self._waiting: dict[asyncio.Future[bool], tuple[bytes, Stream]] = {}
        self._sent: deque[asyncio.Future[bool]] = deque()
        self._call: asyncio.Future[None] = loop.create_future()
        self._sender = loop.create_task(self._send_all())
        self._receiver = loop.create_task(self._receive_all())
        self._receiver.add_done_callback(self._end)

    async def give(self, stream: Stream, **facts: Any) -> bool:
        """Send a connection's descriptor to the process that shall have it. It may be cancelled.

        Args:
            stream: its descriptor is sent; it is still the caller's, to be closed.
            facts: `local`, `remote`, `early`, `properties` of its link.

        Returns:
            Whether that process has it now; False: the line has ended.
        """
        if self._receiver.done():
            return False
        packet = pack_facts(facts)
        taken: asyncio.Future[bool] = self._loop.create_future()
        self._waiting[taken] = _LENGTH.pack(len(packet)) + packet, stream
        wake(self._call)
        try:
            return await taken
        finally:
            self._waiting.pop(taken, None)

    def close(self) -> None:
        """End it; who waits in `give` is told so."""
        self._receiver.cancel()

    async def _send_all(self) -> None:
        try:
            while True:
                while not self._waiting or len(self._sent) >= WINDOW:
                    self._call = self._loop.create_future()
                    await self._call
                taken = next(iter(self._waiting))
                packet, stream = self._waiting[taken]
                try:
                    sent = socket.send_fds(self._line, [packet], [stream.fileno()])
                except (BlockingIOError, InterruptedError):
                    await writable(self._loop, self._line.fileno())
                    continue
                del self._waiting[taken]
                self._sent.append(taken)
                await send_all(self._loop, self._line, packet[sent:])
        except OSError:
            self.close()

    async def _receive_all(self) -> None:
        with contextlib.suppress(OSError):
            while data := await recv_some(self._loop, self._line, WINDOW):
                for _ in data[: len(self._sent)]:
                    taken = self._sent.popleft()
                    if not taken.done():
                        taken.set_result(True)
                wake(self._call)

    def _end(self, receiver: asyncio.Task[None]) -> None:
        self._sender.cancel()
        self._sender.add_done_callback(lambda _: self._line.close())  # not while it may be watched
        for taken in [*self._waiting, *self._sent]:
            if not taken.done():
                taken.set_result(False)
        self._sent.clear()
        self._ended()

    def __repr__(self) -> str:
        state = "ended" if self._receiver.done() else "open"
        return f"<MuxLine: {state}, {len(self._waiting)} waiting, {len(self._sent)} sent>"


async def take_over(loop: asyncio.AbstractEventLoop, line: socket.socket) -> tuple[socket.socket, dict[str, Any]]:
    """The next connection that comes over a line, and the facts about it.

    Raises:
        ClosedError: the line has ended.
        GarbledError: what came is no packet.
        OSError: the line has failed.
    """
    fds: list[int] = []
    try:
        (length,) = _LENGTH.unpack(await _read(loop, line, _LENGTH.size, fds))
        if length > _LONGEST:
            raise GarbledError(f"a web server hands over a packet of {length} bytes")
        packet = await _read(loop, line, length, fds)
        if len(fds) != 1:
            raise GarbledError(f"a web server handed over {len(fds)} descriptors")
        try:
            facts = unpack_facts(packet)
        except ValueError as error:
            raise GarbledError(f"a web server handed over something incomplete: {error}") from error
        sock = socket.socket(fileno=fds.pop())
        sock.set_inheritable(False)
        return sock, facts
    finally:
        for fd in fds:
            os.close(fd)


async def _read(loop: asyncio.AbstractEventLoop, line: socket.socket, size: int, fds: list[int]) -> bytes:
    """So many bytes, and the descriptors that come along."""
    read = b""
    while len(read) < size:
        try:
            data, found, _, _ = socket.recv_fds(line, size - len(read), 1)
        except (BlockingIOError, InterruptedError):
            await readable(loop, line.fileno())
            continue
        fds += found
        if not data:
            raise ClosedError("the web server's line has ended")
        read += data
    return read


class Offer(NamedTuple):
    """A connection that came over a line."""

    line: socket.socket
    sock: socket.socket
    facts: dict[str, Any]
    taken: asyncio.Future[None]
    """Done when it is accepted; cancelled when it is no more to be had."""


class MuxAcceptor(Acceptor):
    """Accepts what a web server hands over for one path. It is made, and used, on a running loop.

    Args:
        names: accepts the lines of the socket's inproc name.
        address: the socket's URL.
        make_link: makes a link: `make_link(sock, local=…, remote=…, early=…)`.
    """

    def __init__(self, names: InprocAcceptor, address: str, make_link: MakeLink) -> None:
        self._names = names
        self._address = address
        self._make_link = make_link
        self._loop = asyncio.get_running_loop()
        self._offers: asyncio.Queue[Offer | None] = asyncio.Queue(1)
        self._readers: set[asyncio.Task[None]] = set()
        self._listening = self._loop.create_task(self._accept_lines())

    @classmethod
    async def listen(cls, server: str, path: str, address: str, make_link: MakeLink) -> Acceptor:
        """Take a path of a web server.

        Raises:
            AddrInUseError: another socket has it.
        """
        try:
            names = await InprocTransport().listen(Address(f"inproc://{name_of(server, path)}"), {})
        except AddrInUseError:
            raise AddrInUseError(f"listen {address}: another socket of this program has that path") from None
        assert isinstance(names, InprocAcceptor)
        return cls(names, address, make_link)

    @property
    def address(self) -> str:
        return self._address

    def fileno(self) -> int:
        return -1

    async def accept(self) -> Link:
        while True:
            offer = None if self._listening.done() else await self._offers.get()
            if offer is None:
                raise ClosedError(f"{self._address}: this listener is closed")
            if offer.taken.done():
                continue
            offer.taken.set_result(None)
            facts = offer.facts
            try:
                offer.line.send(_TAKEN)  # else the web server offers it to somebody else
                link = self._make_link(offer.sock, local=facts["local"], remote=facts["remote"], early=facts["early"])
            except (OSError, SPError):
                offer.sock.close()
                continue
            link.properties.update(facts["properties"])
            return link

    def close(self, unlink: bool = True) -> None:
        self._names.close(unlink)
        self._listening.cancel()
        for reader in self._readers:
            reader.cancel()
        if self._offers.empty():
            self._offers.put_nowait(None)

    async def _accept_lines(self) -> None:
        """One; a second one, when the web server has been replaced."""
        while True:
            try:
                line = await self._names.accept()
            except ClosedError:
                return
            except SPError:
                continue
            reader = self._loop.create_task(self._read(line.sock))
            self._readers.add(reader)
            reader.add_done_callback(self._readers.discard)

    async def _read(self, line: socket.socket) -> None:
        """Each connection that comes is offered until it is accepted; then the next one is read."""
        with line, contextlib.suppress(OSError, SPError):
            while True:
                sock, facts = await take_over(self._loop, line)
                offer = Offer(line, sock, facts, self._loop.create_future())
                try:
                    await self._offers.put(offer)
                    await offer.taken
                except asyncio.CancelledError:
                    if not offer.taken.done() or offer.taken.cancelled():
                        sock.close()
                    raise

    def __repr__(self) -> str:
        return f"<MuxAcceptor {self._address}: {repr(self._names).rpartition(': ')[2]}"
