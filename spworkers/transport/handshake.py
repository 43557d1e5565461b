"""The SP handshake of stream transports, without I/O, and the coroutine that drives it.

Each side sends eight bytes at once, and reads eight:

    00 53 50 00 | PP PP | 00 00        "\\0SP", version 0; our protocol's number, big-endian; reserved

What came is checked in this order: the bytes 0 to 2 and the reserved ones (BadHeaderError), the version
(BadVersionError), the number, which has to be the one of our protocol's peer (BadProtoError). A failure closes the
connection; there is no error message on the wire.
"""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING

from spworkers.errors import (
    BadHeaderError,
    BadProtoError,
    BadValueError,
    BadVersionError,
    ConnResetError,
    ConnTimeoutError,
    SPError,
    TLSError,
    from_os_error,
)
from spworkers.protocols import PROTOCOL_BY_NUMBER
from spworkers.transport.waiting import Limit, readable, writable

if TYPE_CHECKING:
    from spworkers.transport.base import Link
    from spworkers.transport.stream import Stream

GREETING_SIZE = 8
TIMEOUT = 10.0
"""Seconds: the default of HANDSHAKE-TIMEOUT, as in nng."""

_GREETING = struct.Struct(">3sBHH")
_MAGIC = b"\0SP"


class Handshake:
    """One side's half of a handshake: send `greeting`, feed what arrives to `receive` until it says True.

    Args:
        own: our protocol's number.
        peer: the number that the other side has to announce.

    Attributes:
        own, peer: as given.
        greeting: the eight bytes to send.
    """

    __slots__ = ("_received", "greeting", "own", "peer")

    def __init__(self, own: int, peer: int) -> None:
        self.greeting = _GREETING.pack(_MAGIC, 0, own, 0)
        self.own = own
        self.peer = peer
        self._received = b""

    @property
    def missing(self) -> int:
        """How many bytes are still to come. More than these must not be read: they belong to the first frame."""
        return GREETING_SIZE - len(self._received)

    @property
    def done(self) -> bool:
        """Whether the other side's greeting is complete."""
        return self.missing == 0

    def receive(self, data: bytes) -> bool:
        """Take bytes of the other side.

        Args:
            data: at most `missing` bytes.

        Returns:
            Whether the handshake is complete, and successful.

        Raises:
            BadHeaderError, BadVersionError, BadProtoError: close the connection.
            BadValueError: there is more than was missing; a mistake of the caller's.
        """
        if len(data) > self.missing:
            raise BadValueError(f"{len(data)} bytes for a handshake that lacks {self.missing}; read no more than that")
        self._received += bytes(data)
        # Wrong from its first bytes on: why wait for the rest? No other error comes before this one.
        if not _MAGIC.startswith(self._received[: len(_MAGIC)]):
            raise self._bad_header()
        if self.missing:
            return False
        _, version, number, reserved = _GREETING.unpack(self._received)
        if reserved != 0:
            raise self._bad_header()
        if version != 0:
            raise BadVersionError(f"the peer's handshake has version {version}; only 0 exists ({self._hex()})")
        if number != self.peer:
            raise BadProtoError(f"the peer speaks {_name(number)}, but here only {_name(self.peer)} is understood")
        return True

    def _bad_header(self) -> BadHeaderError:
        return BadHeaderError(f"this is no handshake of the scalability protocols: {self._hex()}")

    def _hex(self) -> str:
        return self._received.hex(" ")

    def __repr__(self) -> str:
        return f"<Handshake with {_name(self.peer)}: {'done' if self.done else f'{self.missing} bytes missing'}>"


def _name(number: int) -> str:
    known = PROTOCOL_BY_NUMBER.get(number)
    return f"{known.name} ({number:#x})" if known else f"an unknown protocol ({number:#x})"


async def shake(loop: asyncio.AbstractEventLoop, link: Link, handshake: Handshake, timeout: float = TIMEOUT) -> None:
    """Do the handshake on a link. If it fails, or is cancelled, the link is closed.

    Args:
        loop: the running loop.
        link: a fresh link.
        handshake: a fresh handshake.
        timeout: seconds for all of it; 0: no limit.

    Raises:
        BadHeaderError, BadVersionError, BadProtoError: what the peer sent is wrong.
        ConnResetError: the peer closed the connection before it had sent eight bytes.
        ConnTimeoutError: it had not sent them when the time was up.
        SPError: the connection failed otherwise.
    """

    def too_late() -> ConnTimeoutError:
        missing = link.missing(handshake)
        return ConnTimeoutError(f"{doing_with(link.remote)}: {missing} after {timeout:g} s (HANDSHAKE-TIMEOUT)")

    try:
        async with Limit(loop, timeout, too_late):
            await link.shake(loop, handshake)
    except BaseException as error:
        link.close()
        if isinstance(error, OSError) and not isinstance(error, SPError):
            raise from_os_error(error, doing_with(link.remote)) from error
        raise


def doing_with(remote: str) -> str:
    """What is being done, for an error.

    Args:
        remote: the other end's address; may be empty.
    """
    return f"handshake with {remote or 'the peer'}"


async def exchange(loop: asyncio.AbstractEventLoop, stream: Stream, handshake: Handshake, remote: str) -> None:
    """Send the greeting on a stream and receive the peer's; what comes behind it is left there.

    Args:
        loop: the running loop.
        stream: belongs to the caller, also when this fails.
        handshake: a fresh handshake.
        remote: the other end's address, for errors.

    Raises:
        BadHeaderError, BadVersionError, BadProtoError, ConnResetError: as in `shake`.
        OSError: the connection failed.
    """
    await send_all(loop, stream, handshake.greeting)
    while not handshake.done:
        data = await recv_some(loop, stream, handshake.missing)
        if not data:
            raise ConnResetError(
                f"{doing_with(remote)}: the peer closed the connection after {GREETING_SIZE - handshake.missing} of "
                f"{GREETING_SIZE} bytes; it does so when it speaks another protocol, too"
            )
        try:
            handshake.receive(data)
        except (BadHeaderError, BadVersionError, BadProtoError) as error:
            raise type(error)(f"{doing_with(remote)}: {error}") from None


async def send_all(loop: asyncio.AbstractEventLoop, stream: Stream, data: bytes | memoryview) -> None:
    """Send bytes on a stream, however long it takes: the caller sets the limit."""
    left = memoryview(data)
    while left:
        try:
            left = left[stream.send(left) :]
        except (BlockingIOError, InterruptedError):
            await writable(loop, stream.fileno())


async def recv_some(loop: asyncio.AbstractEventLoop, stream: Stream, size: int) -> bytes:
    """Wait for bytes on a stream; returns at most `size` of them, none at the end."""
    while True:
        try:
            return stream.recv(size)
        except (BlockingIOError, InterruptedError):
            await readable(loop, stream.fileno())


_CAUSES: tuple[tuple[type[SPError], str], ...] = (
    (BadHeaderError, "bad_header"),
    (BadVersionError, "bad_version"),
    (BadProtoError, "bad_protocol"),
    (TLSError, "bad_tls"),
    (ConnTimeoutError, "handshake_timeout"),
    (ConnResetError, "handshake_closed"),
)

CAUSES = (*(cause for _, cause in _CAUSES), "handshake_failed")
"""What `cause_of` can answer: the names under which failed handshakes are counted."""


def cause_of(error: BaseException) -> str:
    """The name under which a failed handshake is counted."""
    return next((cause for kind, cause in _CAUSES if isinstance(error, kind)), "handshake_failed")
