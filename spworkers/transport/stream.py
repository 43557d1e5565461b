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

READ_SIZE = 256 * 1024
"""Bytes taken from a stream in a row, before others get their turn: more than one read of the kernel brings."""

_scratches: list[memoryview] = []
"""Buffers of that size, which are lent: one a thread, at most. Fresh ones would cost more than the reading."""

GRAIN = 16 * 1024
"""Plain bytes of a full record: large payloads are offered as they lie, in multiples of that, from where they lie."""

WRITE_SIZE = 64 * 1024
"""Bytes offered in one write: four records of TLS (RFC 8446, 5.1), and they may be a copy, so not everything."""


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

    def recv_into(self, buffer: memoryview, /) -> int:
        """Put bytes into a buffer; how many, 0 at the end. If it is not full then, no bytes were kept back."""

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
    def direct(self) -> FrameReader:
        """What takes the frames apart; it may be told where large bodies go (`into`)."""
        return self._frames

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
        payloads: list[bytes] = []
        scratch = _scratches.pop() if _scratches else memoryview(bytearray(READ_SIZE))
        try:
            while self.error is None and self.got < READ_SIZE:
                if not self._read_once(scratch, payloads):
                    break
            else:
                self._full = True
        except BlockingIOError:
            pass
        except SPError as error:  # what came is no TLS, say
            self.error = error
        finally:
            _scratches.append(scratch)
        self._full = self._full or self._stream.pending
        return payloads

    def _read_once(self, scratch: memoryview, payloads: list[bytes]) -> bool:
        """Read, straight into a large message where one is under way. False: the stream has no more now."""
        frames = self._frames
        room = frames.room()
        if room is None:
            length = self._stream.recv_into(scratch)
            full = length == len(scratch)
            payloads += frames.feed(scratch[:length])
        else:
            with room:
                length, full = self._stream.recv_into(room), False
                full = length == len(room)
            if length:
                payloads += frames.filled(length)
        self.got += length
        self._eof = not length
        self.error = frames.error
        return full


class StreamWriter:
    """Writes SP frames to a stream; a record is released when the stream says that the kernel has its last byte."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._frames = FrameWriter(-1, STREAM)
        self._offer: bytes | memoryview = b""  # what the stream was offered and has not taken
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
            offer = self._offer or frames.view(WRITE_SIZE, GRAIN)
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
