"""A link through shared memory: two rings that both I/O processes map, and a unix socket that wakes them.

    dialer ── greeting, greeting ── as on any stream ──▶ listener
           ── "\\0SHM", version, and the memory's descriptor ──▶
           ◀── "!": it is mapped ──
           ── from now on one byte for each time that the other side has to be woken ──

The bytes in the rings are the frames of a stream. The memory has no name and belongs to nobody but the two: it goes
with the last of them, however they end. Either side learns of the other's end from the socket, as from any; what a
dead one had written is read to the end. Neither side believes the other: see `spworkers/ring/_conduit.pxi`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Final

from spworkers.errors import BadHeaderError, ConnResetError, GarbledError
from spworkers.ring import CONDUIT, Conduit, conduit_memory
from spworkers.transport.base import Bell, Link, Reader, Writer
from spworkers.transport.handshake import Handshake, doing_with, exchange, recv_some, send_all
from spworkers.transport.waiting import readable

__all__ = ["SHARING", "SharedLink"]

SHARING: Final = CONDUIT and hasattr(socket, "recv_fds")
"""Whether this system has memory that can be shared with somebody who is not trusted (Linux: a sealed memfd)."""

_OFFER: Final = b"\0SHM\0\0\0\1"
_TAKEN: Final = b"!"
_MOST_FDS: Final = 8  # in one message; whoever sends more than one is no peer of ours, and they are closed
_CLOEXEC: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


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
            sent = socket.send_fds(self.sock, [_OFFER], [memory])  # the socket is empty: there is room
        finally:
            os.close(memory)
        await send_all(loop, self.sock, _OFFER[sent:])
        answer = await recv_some(loop, self.sock, len(_TAKEN))
        if not answer:
            raise ConnResetError(
                f"{doing_with(self.remote)}: the peer did not take our shared memory; does it listen at ipc:// instead?"
            )
        if answer != _TAKEN:
            raise GarbledError(f"the peer answers 0x{answer.hex()} to our shared memory")

    async def _take(self, loop: asyncio.AbstractEventLoop) -> None:
        """Receive the memory, and look at it before it is touched."""
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.sock, len(_OFFER), _MOST_FDS, _CLOEXEC)
                break
            except (BlockingIOError, InterruptedError):
                await readable(loop, self.sock.fileno())
        try:
            if not data:
                raise ConnResetError(f"{doing_with(self.remote)}: the peer closed the connection before it sent memory")
            if data != _OFFER or len(fds) != 1:
                raise GarbledError(
                    f"the peer sends 0x{data.hex()} and {len(fds)} descriptors instead of its shared memory;"
                    " does it dial ipc:// instead?"
                )
            self._conduit = Conduit(fds[0], self.sock.fileno(), False)
        finally:
            for fd in fds:
                os.close(fd)
        await send_all(loop, self.sock, _TAKEN)

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
