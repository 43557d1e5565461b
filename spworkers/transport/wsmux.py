"""Connections that were accepted by somebody else: how a `WebServer` hands them to the sockets behind it.

    browser ──▶ mux process: accepts, reads the head ──"\\0ws/SERVER/PATH"──▶ I/O process of the socket at that path

A socket that listens at a web server's address takes a name of the program's inproc table, which only we can spell. For
each connection the mux process dials that name, as any dialer would, and sends one packet over what it gets: the
descriptor, and what it has read so far. One byte comes back; until then it keeps the connection, for whoever was to
have it may just have died, and its successor will take it. Then it has nothing to do with it any more.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

import msgpack

from spworkers.errors import AddrInUseError, GarbledError, SPError
from spworkers.transport.base import Acceptor, Address, Link
from spworkers.transport.handshake import recv_some
from spworkers.transport.inproc import InprocAcceptor, InprocTransport
from spworkers.transport.stream import Stream
from spworkers.transport.waiting import Limit, readable

PATIENCE = 5.0
"""Seconds for the packet to come, which is on its way: longer only if the mux process was stopped."""

_PACKET = 1 << 20
_TAKEN = b"!"

MakeLink = Callable[..., Link]


def name_of(server: str, path: str) -> str:
    """The inproc name of the socket at a path of a web server."""
    return f"\0ws/{server}{path}"


async def hand_over(loop: asyncio.AbstractEventLoop, line: socket.socket, stream: Stream, **facts: Any) -> bool:
    """Send a connection's descriptor over a line to the process that shall have it.

    Args:
        loop: the running loop.
        line: what dialling its name has given, non-blocking.
        stream: its descriptor is sent; it is still the caller's, to be closed.
        facts: `local`, `remote`, `early`, `properties` of its link.

    Returns:
        Whether that process has it now.
    """
    packet = msgpack.packb(facts, use_bin_type=True, unicode_errors="surrogateescape")
    try:
        if socket.send_fds(line, [packet], [stream.fileno()]) != len(packet):
            return False
        line.shutdown(socket.SHUT_WR)
        return await recv_some(loop, line, 1) == _TAKEN
    except OSError:
        return False


async def take_over(loop: asyncio.AbstractEventLoop, line: socket.socket) -> tuple[socket.socket, dict[str, Any]]:
    """The connection that comes over a line, and the facts about it.

    Raises:
        GarbledError: none came: the mux process died meanwhile.
    """
    packet = b""
    fds: list[int] = []
    try:
        while True:
            try:
                data, found, _, _ = socket.recv_fds(line, _PACKET, 1)
            except (BlockingIOError, InterruptedError):
                await readable(loop, line.fileno())
                continue
            fds += found
            packet += data
            if not data:
                break
        if len(fds) != 1:
            raise GarbledError(f"a web server handed over {len(fds)} descriptors")
        facts = msgpack.unpackb(packet, raw=False, unicode_errors="surrogateescape")
        sock = socket.socket(fileno=fds.pop())
        sock.set_inheritable(False)
        line.send(_TAKEN)
        return sock, facts
    except (OSError, ValueError) as error:
        raise GarbledError(f"a web server handed over something incomplete: {error}") from error
    finally:
        for fd in fds:
            os.close(fd)


class MuxAcceptor(Acceptor):
    """Accepts what a web server hands over for one path.

    Args:
        names: accepts the lines of the socket's inproc name.
        address: the socket's URL.
        make_link: makes a link: `make_link(sock, local=…, remote=…, early=…)`.
    """

    def __init__(self, names: InprocAcceptor, address: str, make_link: MakeLink) -> None:
        self._names = names
        self._address = address
        self._make_link = make_link

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
        loop = asyncio.get_running_loop()
        while True:
            line = await self._names.accept()
            try:
                async with Limit(loop, PATIENCE, lambda: GarbledError("a web server handed nothing over")):
                    sock, facts = await take_over(loop, line.sock)
            except GarbledError:
                continue
            finally:
                line.close()
            try:
                link = self._make_link(sock, local=facts["local"], remote=facts["remote"], early=facts["early"])
            except (OSError, SPError):
                sock.close()
                continue
            link.properties.update(facts["properties"])
            return link

    def close(self, unlink: bool = True) -> None:
        self._names.close(unlink)

    def __repr__(self) -> str:
        return f"<MuxAcceptor {self._address}: {repr(self._names).rpartition(': ')[2]}"
