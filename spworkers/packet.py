"""One packet of a control channel: how a message and its descriptors are put into it, and how they are taken out of one
that somebody sent, who may be anybody.

    sender    message ──encode──▶ one packet                 + SCM_RIGHTS [fds]          (up to INLINE_LIMIT)
              message ──encode──▶ anonymous file, "@file"    + SCM_RIGHTS [file, fds]    (above it)
    receiver  one packet ──decode, table──▶ (message, fds), or an error and no descriptor left open

Every system call says MSG_DONTWAIT: the socket's O_NONBLOCK flag belongs to the open file, of which other processes
hold duplicates, so it is never relied on.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from spworkers._descriptors import made
from spworkers.errors import ChannelClosedError, ClosedError, ResourceError
from spworkers.messages import (
    FDS_LIMIT,
    MESSAGE_LIMIT,
    BadPacketError,
    DescriptorsLostError,
    Message,
    answered_id_in,
    decode,
    encode,
    request_id_in,
    unpack,
)

__all__ = [
    "INLINE_LIMIT",
    "Packet",
    "Raw",
    "Received",
    "anonymous_file",
    "close_fds",
    "open_raw",
    "receive",
    "receive_raw",
]

INLINE_LIMIT: Final = 60 << 10
"""Bytes of a packet that travels in the socket itself; three of them fit Linux' default socket buffer
(net.core.wmem_default)."""
_INT: Final = array.array("i").itemsize
_ANCILLARY: Final = socket.CMSG_SPACE((FDS_LIMIT + 1) * _INT)
# Plain numbers: an enumeration's `|` is Python code, and runs for each message.
_CLOEXEC: Final = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))
_SEND: Final = int(socket.MSG_DONTWAIT) | int(getattr(socket, "MSG_NOSIGNAL", 0))
_RECEIVE: Final = int(socket.MSG_DONTWAIT) | _CLOEXEC
_TRUNCATED: Final = int(socket.MSG_TRUNC)
_CONTROL_TRUNCATED: Final = int(socket.MSG_CTRUNC)
_DEAD_DESCRIPTOR: Final = "control message not sent: a descriptor that goes with it, or the channel, is closed"
_GONE: Final = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ECONNREFUSED, errno.ENOTCONN, errno.ESHUTDOWN})


class Received(NamedTuple):
    """A message, and the descriptors that came with it: they belong to whoever receives it."""

    message: Message
    fds: list[int]


def close_fds(fds: Iterable[int]) -> None:
    """Close descriptors; those that are closed already are passed over."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def anonymous_file(data: bytes, name: str = "spworkers-message") -> int:
    """A file without a name that holds `data`, read from its start; the caller closes it.

    Raises:
        ResourceError: no descriptor or no memory is left.
    """
    try:
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create(name, os.MFD_CLOEXEC)
        else:
            import tempfile

            with tempfile.TemporaryFile(buffering=0) as file:  # unlinked by its making
                fd = os.dup(file.fileno())
        try:
            view, offset = memoryview(data), 0
            while offset < len(view):
                offset += os.pwrite(fd, view[offset:], offset)
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        raise ResourceError(f"cannot put a message of {len(data)} bytes into a file: {error}") from error
    return fd


class Packet:
    """A message ready to be sent, perhaps several times. Close it: it may hold a file.

    Args:
        message: what to send.
        fds: descriptors to send with it; they stay the caller's, and have to stay open until it was sent.
        inline: bytes up to which the message itself is the packet; above, it goes into a file.
    """

    __slots__ = ("__weakref__", "_file", "data", "fds")

    def __init__(self, message: Mapping[str, Any], fds: Sequence[int] = (), *, inline: int = INLINE_LIMIT) -> None:
        self._file: int | None = None
        self.fds: list[int] = list(fds)
        self.data = encode(message, len(self.fds))
        if len(self.data) > inline:
            self.spill()

    def spill(self) -> None:
        """Move the message into a file, so that the packet itself is small."""
        if self._file is not None:
            return
        file = anonymous_file(self.data)
        self.data = encode({"t": "@file", "size": len(self.data)}, len(self.fds) + 1)
        self._file = file
        self.fds.insert(0, file)

    def adopt(self) -> None:
        """Duplicate the descriptors, so that the packet owns them and the caller may close theirs.

        Raises:
            ClosedError: one of them is closed.
            ResourceError: no descriptor numbers are left; nothing was duplicated.
        """
        copies: list[int] = []
        try:
            copies.extend(made(partial(os.dup, fd), "a control message's copy of another one") for fd in self.fds)
        except OSError as error:
            close_fds(copies)
            if error.errno == errno.EBADF:
                raise ClosedError(_DEAD_DESCRIPTOR) from error
            raise
        if self._file is not None:
            os.close(self._file)
            self._file = copies[0]
        self.fds = copies

    def copy(self) -> Packet:
        """The same message, with duplicates of the descriptors that the copy owns. Raises as `adopt`."""
        copy = Packet.__new__(Packet)
        copy.data, copy.fds, copy._file = self.data, self.fds, None
        copy.adopt()
        copy._file = copy.fds[0] if self._file is not None else None
        return copy

    def close(self) -> None:
        """Close the packet's file. The descriptors given to it are the caller's; see `close_all`."""
        if self._file is not None:
            close_fds([self._file])
            self._file = None

    def close_all(self) -> None:
        """Close every descriptor of an adopted packet."""
        close_fds(self.fds)
        self._file, self.fds = None, []

    def transmit(self, sock: socket.socket) -> bool:
        """Send it without waiting; False: there is no room now.

        Raises:
            ChannelClosedError: the other end is gone.
            ResourceError: the system has no memory or descriptors for it.
        """
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", self.fds))] if self.fds else []
        try:
            sock.sendmsg([self.data], ancillary, _SEND)
        except BlockingIOError:
            return False
        except OSError as error:
            return self._not_sent(error, sock)
        return True

    def _not_sent(self, error: OSError, sock: socket.socket) -> bool:
        if error.errno == errno.ENOBUFS:  # BSD's word for a full datagram queue
            return False
        if error.errno == errno.EMSGSIZE and self._file is None:  # a system whose packets are smaller than INLINE_LIMIT
            self.spill()
            return self.transmit(sock)
        if error.errno in _GONE:
            raise ChannelClosedError(f"control message not sent, the other end is gone: {error.strerror}") from error
        if error.errno == errno.EBADF:
            raise ClosedError(_DEAD_DESCRIPTOR) from error
        # ETOOMANYREFS: more descriptors under way in sockets than RLIMIT_NOFILE allows.
        raise ResourceError(f"control message with {len(self.fds)} descriptors not sent: {error.strerror}") from error


class Raw:
    """Bytes and descriptors as they came, not looked at yet; the descriptors belong to whoever holds it."""

    __slots__ = ("data", "fds", "flags")

    def __init__(self, data: bytes = b"", fds: list[int] | None = None, flags: int = 0) -> None:
        self.data = data
        self.fds = [] if fds is None else fds
        self.flags = flags


def receive(sock: socket.socket) -> Received | None:
    """The next message that is there, checked; None: nothing is there now. The descriptors (cloexec) are the caller's.

    Raises:
        ChannelClosedError: the other end is gone and everything it sent was received.
        BadPacketError: a packet that is no message of the table. The next one can be received all the same.
        DescriptorsLostError: this process had no numbers left for the descriptors of a message; it is lost.
    """
    raw = receive_raw(sock)
    if raw is None:
        return None
    if not raw.data:
        close_fds(raw.fds)
        raise ChannelClosedError("the control channel's other end is gone")
    return open_raw(raw)


def open_raw(raw: Raw) -> Received:
    """The message and the descriptors of a packet; they are closed if it raises. Raises what `receive` raises."""
    try:
        return Received(_open_packet(raw), raw.fds)
    except BaseException:
        close_fds(raw.fds)
        raise


def receive_raw(sock: socket.socket) -> Raw | None:
    """What is there, unchecked: one packet, or some bytes of a stream. No data is the end; None: nothing is there now.

    Raises:
        ChannelClosedError, ClosedError, ResourceError: as `receive`.
    """
    # Once, a reset is only Linux' news that the peer left unread what we sent; what it sent us comes after that news.
    for last in (False, True):
        try:
            data, ancillary, flags, _ = sock.recvmsg(INLINE_LIMIT + 1, _ANCILLARY, _RECEIVE)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.EBADF:
                raise ClosedError("this end of the control channel is closed") from error
            if error.errno not in _GONE:
                raise ResourceError(f"cannot receive from the control channel: {error.strerror}") from error
            if last:
                raise ChannelClosedError("the control channel's other end is gone") from error
        else:
            return Raw(data, _descriptors_in(ancillary), flags)
    return None


def _descriptors_in(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % _INT])
    if not _CLOEXEC:
        for fd in fds:
            os.set_inheritable(fd, False)
    return fds.tolist()


def _open_packet(raw: Raw) -> Message:
    """The message of a packet; takes the file out of its descriptors, if it came in one."""
    if raw.flags & _TRUNCATED:
        raise BadPacketError(f"control message of more than {INLINE_LIMIT} bytes in one packet")
    if raw.flags & _CONTROL_TRUNCATED:
        raise _descriptors_lost(raw)
    if not raw.fds:
        return _not_nested(decode(raw.data))
    message = decode(raw.data, len(raw.fds))
    if message["t"] != "@file":
        return message
    file = raw.fds.pop(0)
    try:
        return _not_nested(decode(_read_file(file, message["size"]), len(raw.fds)))
    finally:
        os.close(file)


def _not_nested(message: Message) -> Message:
    if message["t"] == "@file":
        raise BadPacketError("control message in a file inside a file")
    return message


def _descriptors_lost(raw: Raw) -> DescriptorsLostError:
    text = (
        f"descriptors of a control message were lost ({len(raw.fds)} arrived):"
        f" process {os.getpid()} has reached its limit; raise `ulimit -n`"
    )
    try:
        message = unpack(raw.data)
    except BadPacketError:
        return DescriptorsLostError(text)
    return DescriptorsLostError(text, request_id_in(message), answered_id_in(message))


def _read_file(file: int, size: int) -> bytes:
    """`size` bytes of a file that somebody sent. Read, never mapped: they can still shorten it, and a map would be our
    death."""
    info = os.fstat(file)
    if not stat.S_ISREG(info.st_mode) or not 0 < size <= MESSAGE_LIMIT or info.st_size < size:
        raise BadPacketError(
            f"control message in a file that should hold {size} bytes (limit {MESSAGE_LIMIT}) and does not"
        )
    parts: list[bytes] = []
    offset = 0
    while offset < size:
        try:
            part = os.pread(file, size - offset, offset)
        except OSError as error:
            raise BadPacketError(f"control message in a file that cannot be read: {error.strerror}") from error
        if not part:
            raise BadPacketError("control message in a file that was shortened")
        parts.append(part)
        offset += len(part)
    return b"".join(parts)
