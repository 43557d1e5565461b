"""Messages on a WebSocket: one SP message is one binary message (RFC 6455), written in fragments of at most 64 KiB.

What the frames look like is the websockets package's business (`websockets.protocol`, without I/O); here its bytes are
moved to and from a stream that never blocks. As everywhere, a record is released when the kernel has its last byte: so
a message becomes frames only when there is room for them, and a peer that does not read costs one batch of memory.

Read is any fragmentation, and text as well as binary (mangos does so: a page may send a string); the bytes of a text
are its UTF-8. Control frames are answered by the protocol object: what it wants to say goes between two fragments.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from websockets.exceptions import PayloadTooBig
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import OPEN
from websockets.protocol import Protocol as WebSocket

from spworkers.errors import GarbledError, InternalError, SPError, TooLongError
from spworkers.ring import Record
from spworkers.transport.stream import Stream

FRAGMENT = 64 * 1024
"""Bytes of a frame's payload at most. nng sends no larger ones, and refuses those over 1 MiB, whatever its limits."""

BATCH = 128 * 1024
"""Bytes of frames that are made for one write; the next ones are made when the kernel has these."""

READ_SIZE = 256 * 1024
"""Bytes asked for in one read: as many as TLS may have ready at once, of which no poll would tell."""

ANSWERS = 64 * 1024
"""Bytes of control frames that may wait for a peer that does not read; pings beyond them get no answer, as RFC 6455,
5.5.3, allows."""

LARGEST = (64 << 30) - 65536
"""Bytes of the longest message that a lane can hold: the limit where MAX-RCV-SIZE is 0."""

_DATA = (Opcode.BINARY, Opcode.TEXT, Opcode.CONT)


CONTROL = 125
"""Bytes of a control frame's payload at most (RFC 6455, 5.5): whatever MAX-RCV-SIZE is, they are received."""


def limits_of(max_size: int) -> tuple[None, int]:
    """The protocol object's limits for a MAX-RCV-SIZE: none of a whole message, for it would count control frames
    between fragments; so `WsReader` adds fragments up. A frame that is too long is refused by its head."""
    return None, max(max_size or LARGEST, CONTROL)


class WsReader:
    """Reads messages.

    Args:
        websocket: after its handshake.
        stream: where the bytes come from.
        writer: where answers to control frames go.
        max_size: bytes of the longest message (MAX-RCV-SIZE); 0: no limit.
        early: what came together with the handshake.
    """

    def __init__(
        self, websocket: WebSocket, stream: Stream, writer: WsWriter, max_size: int = 0, early: bytes = b""
    ) -> None:
        _, websocket.max_fragment_size = limits_of(max_size)
        self._limit = max_size or LARGEST
        self._websocket = websocket
        self._stream: Any = stream
        self._knows_more = hasattr(stream, "pending")  # a BufferingStream; a socket is none
        self._writer = writer
        self._early = early
        self._message: bytearray | None = None  # its fragments so far
        self._answers = False
        self._full = True  # behind the handshake there may be bytes that the kernel has given out already
        self._over = False
        self.hung_up = False
        """The peer has closed the connection, with or without a word."""
        self.error: Exception | None = None
        self.got = 0
        self.frames = 0
        self.received = 0

    @property
    def more(self) -> int:
        if self._over:
            return 2
        return 3 if self._answers else int(self._full)

    def read(self) -> list[bytes]:
        self._answers = self._full = False
        self.got = 0
        if self._over:
            return []
        try:
            data = self._early or self._stream.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return []
        except SPError as error:  # what came is no TLS, say
            self._over, self.error = True, error
            return []
        self.got = len(data)
        self.received += self.got
        self._full = bool(self._early) or self.got == READ_SIZE or (self._knows_more and self._stream.pending)
        self._early = b""
        if data:
            self._websocket.receive_data(data)
        else:
            self.hung_up = True
            self._websocket.receive_eof()
        return self._messages()

    def _messages(self) -> list[bytes]:
        """What has become complete; and how the connection stands."""
        found: list[bytes] = []
        for event in self._websocket.events_received():
            if isinstance(event, Frame) and not self._take(event, found):
                break
        self._answers = self._writer.say(self._websocket.data_to_send())
        if self._websocket.state is not OPEN:
            self._over = True
            self.error = self.error or self._what_was_wrong()
        return found

    def _take(self, frame: Frame, found: list[bytes]) -> bool:
        """Take a frame. False: with it, its message is too long."""
        if frame.opcode not in _DATA:
            return True
        size = len(frame.data) if self._message is None else len(self._message) + len(frame.data)
        if size > self._limit:
            self._too_long(size)
            return False
        if self._message is not None:
            self._message += frame.data
        elif not frame.fin:
            self._message = bytearray(frame.data)
        if frame.fin:
            found.append(bytes(frame.data if self._message is None else self._message))
            self._message = None
            self.frames += 1
        return True

    def _too_long(self, size: int) -> None:
        self.error = TooLongError(f"a message of {size} bytes or more, where MAX-RCV-SIZE is {self._limit}")
        self._message = None
        self._websocket.fail(CloseCode.MESSAGE_TOO_BIG)

    def _what_was_wrong(self) -> Exception | None:
        """Why the protocol has failed the connection; None: the peer has closed it, well or badly."""
        wrong = self._websocket.parser_exc
        if wrong is None or isinstance(wrong, EOFError):
            return None
        if isinstance(wrong, PayloadTooBig):
            limit = "MAX-RCV-SIZE" if self._limit < LARGEST else "the most that there is room for"
            return TooLongError(f"a message of more than {self._limit} bytes, which is {limit}: {wrong}")
        return GarbledError(f"these are no frames of a WebSocket: {wrong or type(wrong).__name__}")


class _Message(NamedTuple):
    """A message that is not frames yet."""

    prefix: bytes
    record: Record | None
    skip: int
    payload: bytes
    length: int


class WsWriter:
    """Writes messages.

    Args:
        websocket: after its handshake.
        stream: where the bytes go.
    """

    def __init__(self, websocket: WebSocket, stream: Stream) -> None:
        self._websocket = websocket
        self._stream = stream
        self._queue: deque[_Message] = deque()
        self._current: memoryview | None = None  # what is not frames yet of a message that is in part
        self._record: Record | None = None  # its record
        self._offered = memoryview(b"")  # frames that the kernel does not have yet
        self._next: list[bytes] = []  # those behind them
        self._next_size = 0
        self._made = 0  # bytes of frames so far
        self._ends: deque[tuple[int, Record | None]] = deque()  # where messages end in them
        self._waiting = 0  # bytes in the queue
        self.farewell = False
        """The end of our half of the stream comes behind what was said."""
        self.sent = 0
        self.frames = 0

    @property
    def queued(self) -> int:
        return len(self._queue) + len(self._ends) + (self._current is not None)

    @property
    def idle(self) -> bool:
        """Whether the kernel has every frame that was made."""
        return not self._offered and not self._next

    def push_record(self, prefix: bytes, record: Record, skip: int = 0) -> int:
        whole = len(record.header) + record.size
        if skip > whole:
            raise InternalError(f"cannot leave out {skip} bytes of a payload of {whole}")
        record.retain()
        return self._push(_Message(prefix, record, skip, b"", len(prefix) + whole - skip))

    def push_bytes(self, payload: bytes) -> int:
        return self._push(_Message(b"", None, 0, payload, len(payload)))

    def _push(self, message: _Message) -> int:
        self._queue.append(message)
        self._waiting += message.length
        return self._waiting + len(self._offered) + self._next_size

    def say(self, data: list[bytes]) -> bool:
        """Queue what the protocol object wants to say, in front of what is no frames yet. True: there is something to
        be flushed."""
        if self._next_size + len(self._offered) > ANSWERS + BATCH and self._websocket.state is OPEN:
            return False
        for each in data:
            if each:
                self._add(each)
            else:
                self.farewell = True
        return bool(data)

    def _add(self, data: bytes) -> None:
        self._next.append(data)
        self._next_size += len(data)
        self._made += len(data)

    def flush(self) -> bool:
        while True:
            if not self._offered:
                self._make_frames()
                self._offered = memoryview(b"".join(self._next))
                self._next, self._next_size = [], 0
            if not self._offered:
                return True
            try:
                sent = self._stream.send(self._offered)
            except (BlockingIOError, InterruptedError):
                return False
            self._offered = self._offered[sent:]
            self.sent += sent
            self._settle()

    def _make_frames(self) -> None:
        """Turn messages into a batch of frames."""
        while self._next_size < BATCH and self._websocket.state is OPEN:
            if self._current is None:
                if not self._queue:
                    return
                self._begin(self._queue.popleft())
            self._make_frame()

    def _begin(self, message: _Message) -> None:
        self._waiting -= message.length
        payload = message.payload
        if message.record is not None:
            whole = message.record.payload_bytes()
            payload = message.prefix + whole[message.skip :] if message.prefix or message.skip else whole
        self._current, self._record = memoryview(payload), message.record

    def _make_frame(self) -> None:
        assert self._current is not None
        part, rest = self._current[:FRAGMENT], self._current[FRAGMENT:]
        if self._websocket.expect_continuation_frame:
            self._websocket.send_continuation(part, fin=not rest)
        else:
            self._websocket.send_binary(part, fin=not rest)
        for data in self._websocket.data_to_send():
            self._add(data)
        if rest:
            self._current = rest
        else:
            self._ends.append((self._made, self._record))
            self._current = self._record = None

    def _settle(self) -> None:
        """Give back what the kernel has whole."""
        while self._ends and self._ends[0][0] <= self.sent:
            _, record = self._ends.popleft()
            self.frames += 1
            if record is not None:
                record.release()

    def discard(self) -> int:
        lost = self.queued
        records = [message.record for message in self._queue]
        records += [record for _, record in self._ends]
        records.append(self._record)
        self._queue.clear()
        self._ends.clear()
        self._current = self._record = None
        self._waiting = 0
        for record in records:
            if record is not None:
                record.release()
        return lost
