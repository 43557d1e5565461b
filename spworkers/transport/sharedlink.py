"""A link through shared memory: two rings that both I/O processes map, and a unix socket that wakes them.

    dialer ── greeting, greeting ── as on any stream ──▶ listener
           ── "\\0SHM", version, the memory's descriptor, and that of the socket's own memory ──▶
           ◀── "!": it is mapped; and its socket's memory ──
           ── from now on one byte for each time that the other side has to be woken ──

Large bodies lie in a socket's own memory already. If the other side is of the same user, who can look at it anyway, it
gets a descriptor of that, and copies them from there. Others do not, and everything goes through the rings.

The bytes in the rings are the frames of a stream. The memory has no name and belongs to nobody but the two: it goes
with the last of them, however they end. Either side learns of the other's end from the socket, as from any; what a
dead one had written is read to the end. Neither side believes the other: see `spworkers/ring/_conduit.pxi`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Final

from spworkers.channel import close_fds
from spworkers.errors import BadHeaderError, ConnResetError, GarbledError
from spworkers.ring import CONDUIT, Conduit, Region, conduit_memory
from spworkers.transport.base import Bell, Link, Reader, Writer
from spworkers.transport.handshake import Handshake, doing_with, exchange, send_all
from spworkers.transport.peercred import credentials
from spworkers.transport.waiting import readable

__all__ = ["SHARING", "SharedLink", "lend_from"]

SHARING: Final = CONDUIT and hasattr(socket, "recv_fds")
"""Whether this system has memory that can be shared with somebody who is not trusted (Linux: a sealed memfd)."""

_OFFER: Final = b"\0SHM\0\0\0\2"
_TAKEN: Final = b"!"
_MOST_FDS: Final = 8  # in one message; whoever sends more than one is no peer of ours, and they are closed
_CLOEXEC: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

_lent: tuple[Region, int] | None = None


def lend_from(region: Region) -> None:
    """Let peers of the same user read large bodies from this memory, which is the process's socket's, from now on."""
    global _lent
    if SHARING:
        with contextlib.suppress(OSError):  # without /proc, or with no descriptor to spare, bodies go through the rings
            _lent = region, os.open(f"/proc/self/fd/{region.fd}", os.O_RDONLY | os.O_CLOEXEC)


def _familiar(sock: socket.socket) -> bool:
    """Whether the peer is of our user."""
    return credentials(sock).get("PEER-UID") == os.geteuid()


class SharedLink(Link):
    """Messages through shared memory; the socket tells when to look at it.

    Args:
        sock: a connected unix socket.
        dials: whether we have dialled: then the memory comes from us.
        local, remote, properties: as a `Link`'s.
    """

    __slots__ = ("_conduit", "_dials", "_shaken")

    def __init__(
        self,
        sock: socket.socket,
        *,
        dials: bool,
        local: str = "",
        remote: str = "",
        properties: dict[str, object] | None = None,
    ) -> None:
        super().__init__(sock, "shm", local=local, remote=remote, properties=properties)
        self._dials = dials
        self._shaken = False
        self._conduit: Conduit | None = None

    async def shake(self, loop: asyncio.AbstractEventLoop, handshake: Handshake) -> None:
        await exchange(loop, self.sock, handshake, self.remote)
        self._shaken = True
        try:
            await (self._give(loop) if self._dials else self._take(loop))
        except GarbledError as error:
            raise BadHeaderError(f"{doing_with(self.remote)}: {error}") from None

    def missing(self, handshake: Handshake) -> str:
        if not self._shaken:
            return super().missing(handshake)
        return "no answer to our shared memory" if self._dials else "no shared memory came"

    async def _give(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make the memory, and send it."""
        memory = conduit_memory()
        try:
            self._conduit = Conduit(memory, self.sock.fileno(), True)
            sent = socket.send_fds(self.sock, [_OFFER], [memory, *self._lend()])  # the socket is empty: there is room
        finally:
            os.close(memory)
        await send_all(loop, self.sock, _OFFER[sent:])
        answer, fds = await self._receive(loop, len(_TAKEN))
        try:
            if not answer:
                raise ConnResetError(
                    f"{doing_with(self.remote)}: the peer did not take our shared memory;"
                    " does it listen at ipc:// instead?"
                )
            if answer != _TAKEN or len(fds) > 1:
                raise GarbledError(f"the peer answers 0x{answer.hex()} and {len(fds)} descriptors to our shared memory")
            self._borrow(fds)
        finally:
            close_fds(fds)

    async def _take(self, loop: asyncio.AbstractEventLoop) -> None:
        """Receive the memory, and look at it before it is touched."""
        data, fds = await self._receive(loop, len(_OFFER))
        try:
            if not data:
                raise ConnResetError(f"{doing_with(self.remote)}: the peer closed the connection before it sent memory")
            if data != _OFFER or not 1 <= len(fds) <= 2:
                raise GarbledError(
                    f"the peer sends 0x{data.hex()} and {len(fds)} descriptors instead of its shared memory;"
                    " does it dial ipc:// instead?"
                )
            self._conduit = Conduit(fds[0], self.sock.fileno(), False)
            self._borrow(fds[1:])
        finally:
            close_fds(fds)
        lent = self._lend()
        if lent:
            socket.send_fds(self.sock, [_TAKEN], lent)  # as above: there is room
        else:
            await send_all(loop, self.sock, _TAKEN)

    async def _receive(self, loop: asyncio.AbstractEventLoop, size: int) -> tuple[bytes, list[int]]:
        """At most `size` bytes, and the descriptors that came with them, which are the caller's."""
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.sock, size, _MOST_FDS, _CLOEXEC)
                return data, fds
            except (BlockingIOError, InterruptedError):
                await readable(loop, self.sock.fileno())

    def _lend(self) -> list[int]:
        """The descriptor from which the peer may copy large bodies, if it may."""
        if _lent is None or not _familiar(self.sock):
            return []
        region, fd = _lent
        self._shared.lends = region
        return [fd]

    def _borrow(self, fds: list[int]) -> None:
        """Copy large bodies from where this descriptor leads, if there is one."""
        for fd in fds:
            if not _familiar(self.sock):  # a sparse file of a stranger's would take our memory when it is read
                raise GarbledError("the peer lends memory, though it is of another user")
            self._shared.borrow(fd)

    @property
    def bell(self) -> Bell | None:
        return self._conduit

    @property
    def _shared(self) -> Conduit:
        assert self._conduit is not None, "it is a pipe only after its handshake"
        return self._conduit

    def reader(self, max_size: int) -> Reader:
        return self._shared.reader(max_size)

    def writer(self) -> Writer:
        return self._shared.writer()

    def close(self) -> None:
        if self._conduit is not None:
            self._conduit.close()
        super().close()
