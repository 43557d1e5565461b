"""The control channel: checked messages and descriptors between two processes, over a Unix socket that keeps packets
apart.

A packet arrives whole or not at all, so a broken one costs itself only; what to do with its sender is the receiver's
decision. The blocking calls wait in poll, which a signal's handler (Ctrl-C) interrupts at once.
"""

from __future__ import annotations

import select
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, final

from spworkers._descriptors import made
from spworkers.closing import Closing
from spworkers.errors import ClosedError, ConnTimeoutError, ResourceError
from spworkers.messages import BadPacketError
from spworkers.packet import INLINE_LIMIT, Packet, Received, anonymous_file, close_fds, receive

__all__ = ["INLINE_LIMIT", "Channel", "Packet", "Received", "anonymous_file", "close_fds"]

KIND: Final = socket.SOCK_DGRAM if sys.platform == "darwin" else socket.SOCK_SEQPACKET
"""The type of the sockets. Darwin has SOCK_SEQPACKET, but not for Unix sockets."""
_BUFFER: Final = 256 << 10
_POLL_SLICE: Final = 1.0  # seconds: a channel closed by another thread is noticed within it


@final
class Channel(Closing):
    """One end of a control channel. Threads may share it.

    Args:
        sock: a connected Unix socket of type `KIND`; the channel owns it from now on.
    """

    __slots__ = ("_lock", "_recv_lock", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        # Held around single system calls that do not wait, never while waiting: so that close() cannot let the
        # descriptor's number go to another file between the lookup and the call.
        # Reentrant: a signal's handler may use, or close, the channel that its own thread is just using.
        self._lock = threading.RLock()
        self._recv_lock = threading.RLock()

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Two connected channels.

        Raises:
            ResourceError: no descriptors are left.
        """
        try:
            one, other = made(lambda: socket.socketpair(socket.AF_UNIX, KIND), "a control channel")
        except ResourceError:
            raise
        except OSError as error:
            raise ResourceError(f"cannot make a control channel: {error.strerror}") from error
        if KIND == socket.SOCK_DGRAM:  # there the buffer's size bounds a packet's
            for sock in (one, other):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        return cls(one), cls(other)

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        """The channel whose end is this descriptor, which belongs to the channel from now on.

        Raises:
            BadPacketError: it is no socket of the right type; it is still the caller's.
        """
        try:
            sock = socket.socket(fileno=fd)
        except OSError as error:
            raise BadPacketError(f"descriptor {fd} is no control channel: {error.strerror}") from error
        if (sock.family, sock.type) != (socket.AF_UNIX, KIND):
            sock.detach()
            raise BadPacketError(f"descriptor {fd} is no control channel but a socket of another kind, {sock.type!r}")
        return cls(sock)

    @property
    def closed(self) -> bool:
        """Whether this end was closed."""
        return self._sock.fileno() < 0

    def fileno(self) -> int:
        """The descriptor, readable when `recv` would not wait; -1 when closed."""
        return self._sock.fileno()

    def detach(self) -> int:
        """The descriptor, which is the caller's from now on; the channel is closed."""
        with self._lock, self._recv_lock:
            return self._sock.detach()

    def close(self) -> None:
        """Close this end. Twice does no harm."""
        with self._lock, self._recv_lock:
            self._sock.close()

    def send(self, message: Mapping[str, Any], fds: Sequence[int] = (), *, timeout: float | None = None) -> None:
        """Send a message, waiting for room.

        Args:
            message: `{"t": type, ...}`.
            fds: descriptors to send with it; they stay the caller's.
            timeout: seconds to wait at most; None: for ever.

        Raises:
            ChannelClosedError: the other end is gone.
            ClosedError: this end, or one of the descriptors, is closed.
            ConnTimeoutError: the other end did not read in time.
            SerializationError, InternalError, ResourceError: as `messages.encode`, or the system has no room.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        packet = Packet(message, fds)
        try:
            while not self.transmit(packet):
                self._wait(select.POLLOUT, deadline, "sending")
        finally:
            packet.close()

    def try_send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> bool:
        """Send a message if there is room; False if not. Raises what `send` raises."""
        packet = Packet(message, fds)
        try:
            return self.transmit(packet)
        finally:
            packet.close()

    def transmit(self, packet: Packet) -> bool:
        """Send a packet made before, if there is room; False if not. Raises what `send` raises."""
        with self._lock:
            if self.closed:
                raise ClosedError("control message not sent: this end of the channel is closed")
            return packet.transmit(self._sock)

    def recv(self, *, timeout: float | None = None) -> Received:
        """The next message and its descriptors (cloexec, the caller's from now on), waiting for it.

        Args:
            timeout: seconds to wait at most; None: for ever.

        Raises:
            ChannelClosedError: the other end is gone, and everything it sent was received.
            ClosedError: this end is closed.
            ConnTimeoutError: nothing came in time.
            BadPacketError, DescriptorsLostError: as `receive`; the next message can still be received.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            received = self.recv_ready()
            if received is not None:
                return received
            self._wait(select.POLLIN, deadline, "receiving")

    def recv_ready(self) -> Received | None:
        """The next message if there is one, None if not. Raises what `recv` raises, but never waits."""
        with self._recv_lock:
            if self.closed:
                raise ClosedError("this end of the control channel is closed")
            return receive(self._sock)

    def _wait(self, events: int, deadline: float | None, doing: str) -> None:
        rest = _POLL_SLICE if deadline is None else deadline - time.monotonic()
        if rest <= 0:
            raise ConnTimeoutError(f"{doing} on the control channel: the other end did nothing in time")
        fd = self.fileno()
        if fd < 0:
            return  # the next attempt says so
        poll = select.poll()
        poll.register(fd, events)
        # A BSD datagram socket polls writable while its peer's queue is full, so there the wait would spin.
        if events == select.POLLOUT and KIND == socket.SOCK_DGRAM:
            time.sleep(min(rest, 0.001))
        poll.poll(min(rest, _POLL_SLICE) * 1000)

    def close_in_child(self) -> None:
        """Close this end in a forked child, where a lock may be held for ever by a thread that did not come along."""
        self._lock, self._recv_lock = threading.RLock(), threading.RLock()
        self._sock.close()

    def __repr__(self) -> str:
        return "<Channel closed>" if self.closed else f"<Channel on descriptor {self.fileno()}>"
