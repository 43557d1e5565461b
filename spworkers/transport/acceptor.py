"""The acceptor of every transport whose connections come from a listening socket of the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable

from spworkers.errors import BadValueError, ClosedError, from_os_error
from spworkers.transport.base import Acceptor, Link
from spworkers.transport.waiting import wake

BACKLOG = 4096
"""Connections that the kernel keeps until they are accepted; it caps the figure itself (net.core.somaxconn)."""

# accept() hands out an error that a connection met while it waited in the backlog: that connection is gone, the next
# one is not. accept(2) of Linux asks for them to be treated like EAGAIN; EPERM is a firewall's.
_GONE = frozenset(
    getattr(errno, name)
    for name in (
        "ECONNABORTED",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "ENETDOWN",
        "ENETUNREACH",
        "ENONET",
        "ENOPROTOOPT",
        "EOPNOTSUPP",
        "EPERM",
        "EPROTO",
    )
    if hasattr(errno, name)
)


class SocketAcceptor(Acceptor):
    """Accepts from a listening socket.

    Args:
        sock: it listens already, and belongs to the acceptor from now on.
        address: the bound address as a URL.
        make_link: makes a link of an accepted, non-blocking socket; an OSError means that the peer is gone already.
        unlink: called once when the endpoint ends, while the socket is still open.
    """

    def __init__(
        self,
        sock: socket.socket,
        address: str,
        make_link: Callable[[socket.socket], Link],
        unlink: Callable[[], None] | None = None,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._address = address
        self._make_link = make_link
        self._unlink = unlink
        self._waiter: asyncio.Future[None] | None = None

    @property
    def address(self) -> str:
        return self._address

    def fileno(self) -> int:
        return self._sock.fileno()

    async def accept(self) -> Link:
        while True:
            if self._sock.fileno() < 0:
                raise ClosedError(f"{self._address}: this listener is closed")
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                await self._wait()
                continue
            except OSError as error:
                if error.errno in _GONE:
                    continue
                raise from_os_error(error, f"accept on {self._address}") from error
            try:
                return self._make_link(sock)
            except OSError:
                sock.close()

    async def _wait(self) -> None:
        # Not waiting.readable(): close() has to take the reader off the loop before the descriptor's number is free
        # for somebody else, and that cannot wait until this coroutine runs again.
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        loop.add_reader(self._sock.fileno(), wake, waiter)
        try:
            await waiter
        finally:
            self._forget(waiter)

    def _forget(self, waiter: asyncio.Future[None]) -> None:
        if self._waiter is waiter:
            self._waiter = None
            waiter.get_loop().remove_reader(self._sock.fileno())

    def close(self, unlink: bool = True) -> None:
        if self._sock.fileno() < 0:
            return
        waiter = self._waiter
        if waiter is not None:
            self._forget(waiter)
            wake(waiter)
        if unlink:
            if self._unlink is not None:
                self._unlink()
            # The supervisor holds a duplicate, so closing ours would leave the backlog open. (macOS answers ENOTCONN.)
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


def adopt(descriptor: int, families: tuple[int, ...], doing: str) -> socket.socket:
    """A listening socket of a descriptor that another process opened. The descriptor is closed if that fails.

    Args:
        descriptor: the listening descriptor.
        families: the address families that would do.
        doing: what is being done, for the error: `"listen tcp://127.0.0.1:5555"`.

    Raises:
        BadValueError: it is no listening stream socket of these families.
        SPError: it is no descriptor at all.
    """
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        raise from_os_error(error, f"{doing} on the inherited descriptor {descriptor}") from error
    listening = sock.family in families and sock.type == socket.SOCK_STREAM
    with contextlib.suppress(OSError):  # not every system tells; where it does not, accept() will
        listening = listening and bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    if not listening:
        text = f"{doing}: the inherited descriptor {descriptor} is no listening socket of this transport ({sock})"
        sock.close()
        raise BadValueError(text)
    sock.setblocking(False)
    sock.set_inheritable(False)
    return sock
