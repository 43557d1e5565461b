"""Frames on streams: the reference of what the compiled codec does, and what other transports can use.

    "stream" (tcp, tls, inproc)        length (64 bits, big-endian) | payload
    "ipc"                      01    | length (64 bits, big-endian) | payload

A payload of no bytes is legal. Bit 63 of the length is never set; a length over the limit is refused before anything
of that size is allocated, and so is an ipc message of another type than 1 (nanomsg aborts on one; mangos never looks).
"""

from __future__ import annotations

import struct

from spworkers.errors import BadValueError, GarbledError, SPError, TooLongError
from spworkers.transport.base import Framing

NUMBERS: dict[Framing, int] = {"stream": 0, "ipc": 1}
"""The framings as the compiled codec numbers them."""

MAX_LENGTH = 2**63 - 1
_LENGTH = struct.Struct(">Q")
_PREFIX: dict[Framing, bytes] = {"stream": b"", "ipc": b"\x01"}


def header(framing: Framing, length: int) -> bytes:
    """What stands before a payload of that many bytes.

    Raises:
        BadValueError: a framing that does not exist, or no length.
    """
    if not 0 <= length <= MAX_LENGTH:
        raise BadValueError(f"{length} is no length of a message: 0 to 2**63 - 1")
    return _prefix(framing) + _LENGTH.pack(length)


def encode(framing: Framing, payload: bytes) -> bytes:
    """A message as it goes on the wire."""
    return header(framing, len(payload)) + payload


class Decoder:
    """Takes a stream apart into messages, however it is cut.

    After an error the stream cannot be understood any more, and the connection is to be closed. Messages that were
    complete before the error are not lost: `feed` returns them, and raises at the next call. `error` tells at once.

    Args:
        framing: `"stream"` or `"ipc"`.
        max_size: the longest payload that is accepted, in bytes (MAX-RCV-SIZE); 0: no limit.

    Attributes:
        error: why the stream cannot be understood any more; None while it can.
    """

    def __init__(self, framing: Framing, max_size: int = 0) -> None:
        if max_size < 0:
            raise BadValueError(f"{max_size} is no limit of a message's size: 0 (none), or bytes")
        self._prefix = _prefix(framing)
        self._max_size = max_size
        self._buffer = bytearray()
        self._length = -1  # of the message whose header has been read; -1: a header comes next
        self.error: SPError | None = None

    @property
    def idle(self) -> bool:
        """Whether the stream is between two messages: where an end of it loses nothing."""
        return self._length < 0 and not self._buffer and self.error is None

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes of the stream.

        Returns:
            The messages that are complete now, in order.

        Raises:
            TooLongError: a message is longer than the limit.
            GarbledError: the bytes are no frames. Either is raised again by every later call.
        """
        messages: list[bytes] = []
        if self.error is None:
            self._buffer += data
            try:
                while (message := self._next()) is not None:
                    messages.append(message)
            except SPError as error:
                self.error = error
                self._buffer.clear()
        if self.error is not None and not messages:
            raise self.error
        return messages

    def _next(self) -> bytes | None:
        """The next message, if it is complete."""
        if self._length < 0:
            self._length = self._read_header()
        if self._length < 0 or len(self._buffer) < self._length:
            return None
        message = bytes(self._buffer[: self._length])
        del self._buffer[: self._length]
        self._length = -1
        return message

    def _read_header(self) -> int:
        """The length of the next message; -1 while its header is incomplete. Whatever is wrong is so at once."""
        kind, size = len(self._prefix), len(self._prefix) + _LENGTH.size
        if not self._prefix.startswith(self._buffer[:kind]):
            raise GarbledError(f"an ipc message begins with its type, 0x01; this one with {self._buffer[0]:#04x}")
        if len(self._buffer) > kind and self._buffer[kind] & 0x80:
            raise GarbledError(f"a message's length has its highest bit set: {self._buffer[kind:size].hex(' ')} ...")
        if len(self._buffer) < size:
            return -1
        (length,) = _LENGTH.unpack_from(self._buffer, kind)
        if self._max_size and length > self._max_size:
            raise TooLongError(f"a message of {length} bytes, where MAX-RCV-SIZE is {self._max_size}")
        del self._buffer[:size]
        return int(length)


def _prefix(framing: Framing) -> bytes:
    try:
        return _PREFIX[framing]
    except KeyError:
        raise BadValueError(f"framing {framing!r}: there are 'stream' and 'ipc'") from None
