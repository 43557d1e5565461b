"""Streams that are no mere sockets (TLS), and SP frames on them.

A `Stream` behaves like a non-blocking socket. On a socket the compiled `FrameReader` and `FrameWriter` are a link's
reader and writer; `StreamReader` and `StreamWriter` do the same on any stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from spworkers.errors import SPError
from spworkers.ring import STREAM, FrameReader, FrameWriter

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["BufferingStream", "Stream", "StreamReader", "StreamWriter"]

READ_SIZE = 1 << 20
"""Bytes asked for in one read of a stream: more than it ever has, for what it kept to itself no poll would tell of."""

WRITE_SIZE = 64 * 1024
"""Bytes offered in one write: four records of TLS (RFC 8446, 5.1), and a copy, so not everything that waits."""


class Stream(Protocol):
    """A connected stream that never blocks: what it cannot do now raises BlockingIOError."""

    def fileno(self) -> int:
        """Its descriptor, to be polled; -1 when it is closed."""

    def recv(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end. If it gives less than that, it has kept no bytes back."""

    def send(self, data: Buffer, /) -> int:
        """How many of these bytes the kernel has accepted, in whatever form they are sent.

        What was not accepted, also when this raises BlockingIOError, must be offered again, first.
        """

    def shutdown(self, how: int, /) -> None:
        """As a socket's. SHUT_WR: say that nothing more comes."""

    def close(self) -> None:
        """Close it. Harmless when it is closed already."""


class BufferingStream(Stream, Protocol):
    """A stream that may know more than the kernel: that something was wrong, or the end, behind the last bytes."""

    @property
    def pending(self) -> bool:
        """Whether `recv` would say at once what no poll tells of."""


class StreamReader:
    """Reads SP frames (`length (u64 BE) ‖ payload`) from a stream.

    Args:
        stream: what the handshake left of it.
        max_size: bytes of the largest payload (MAX-RCV-SIZE); 0: no limit.
    """

    def __init__(self, stream: BufferingStream, max_size: int = 0) -> None:
        self._stream = stream
        self._frames = FrameReader(-1, STREAM, max_size)
        self._fresh = True  # behind the handshake there may be bytes that the kernel has given out already
        self._eof = False
        self._full = False
        self.got = 0
        self.error: Exception | None = None

    @property
    def frames(self) -> int:
        return self._frames.frames

    @property
    def received(self) -> int:
        return self._frames.received

    @property
    def more(self) -> int:
        if self._eof or self.error is not None:
            return 2
        return int(self._fresh or self._full)

    def read(self) -> list[bytes]:
        self._fresh = self._full = False
        self.got = 0
        if self.error is not None:
            return []
        try:
            data = self._stream.recv(READ_SIZE)
        except BlockingIOError:
            return []
        except SPError as error:  # what came is no TLS, say
            self.error = error
            return []
        self.got = len(data)
        self._eof = not data
        self._full = self.got == READ_SIZE or self._stream.pending
        payloads = self._frames.feed(data)
        self.error = self._frames.error
        return payloads


class StreamWriter:
    """Writes SP frames to a stream; a record is released when the stream says that the kernel has its last byte."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._frames = FrameWriter(-1, STREAM)
        self._offer = b""  # what the stream was offered and has not taken
        self.push_record = self._frames.push_record  # straight into the compiled queue
        self.push_bytes = self._frames.push_bytes

    @property
    def frames(self) -> int:
        return self._frames.frames

    @property
    def sent(self) -> int:
        return self._frames.sent

    @property
    def queued(self) -> int:
        return self._frames.queued

    def flush(self) -> bool:
        frames = self._frames
        while frames.pending:
            offer = self._offer or frames.peek(WRITE_SIZE)
            try:
                taken = self._stream.send(offer)
            except BlockingIOError:
                self._offer = offer
                return False
            self._offer = offer[taken:]
            frames.taken(taken)
        return True

    def discard(self) -> int:
        self._offer = b""
        return self._frames.discard()
