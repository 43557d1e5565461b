"""A message with its header and the pipe it came by: what `send_msg` takes and `recv_msg` gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Buffer

from spworkers.errors import BadValueError

__all__ = ["Message"]


class Message:
    """A body, a header and a pipe.

    Args:
        body: any contiguous object with the buffer protocol (bytes, bytearray, memoryview, numpy array ...). It is kept
            as it is and copied once, when the message is sent.
        header: the protocol's words in front of the body; only raw sockets use it.
        pipe: the pipe by which it came, which raw sockets and `send_msg` may look at; None for one of your own.

    Raises:
        BadValueError: body or header is no contiguous buffer.
    """

    __slots__ = ("body", "header", "pipe")

    body: Buffer
    header: Buffer
    pipe: Any

    def __init__(self, body: Buffer = b"", header: Buffer = b"", pipe: Any = None) -> None:
        _check(body, "body")
        _check(header, "header")
        self.body = body
        self.header = header
        self.pipe = pipe

    @property
    def size(self) -> int:
        """Bytes of header and body: what goes over the wire."""
        return _length(self.header) + _length(self.body)

    def dup(self) -> Message:
        """A deep copy, which shares nothing with the original but the pipe."""
        return Message(bytes(self.body), bytes(self.header), self.pipe)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return bytes(self.body) == bytes(other.body) and bytes(self.header) == bytes(other.header)

    __hash__ = None  # type: ignore[assignment]  # a mutable thing has none

    def __repr__(self) -> str:
        header = f", header of {_length(self.header)}" if _length(self.header) else ""
        pipe = f", from {self.pipe!r}" if self.pipe is not None else ""
        return f"<Message: body of {_length(self.body)} bytes{header}{pipe}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # A pipe means nothing in another process.
        return Message, (bytes(self.body), bytes(self.header))


def _check(data: Buffer, part: str) -> None:
    if isinstance(data, (bytes, bytearray)):
        return
    if isinstance(data, str):
        raise BadValueError(f"a message's {part} is bytes, not the text {data[:40]!r}: encode it, text.encode()")
    try:
        view = memoryview(data)
    except TypeError:
        kind = type(data).__name__
        raise BadValueError(f"a message's {part} is bytes or another buffer, not an object of type {kind}") from None
    if not view.c_contiguous:
        raise BadValueError(f"a message's {part} must be contiguous in memory: send a copy of it, bytes(view)")


def _length(data: Buffer) -> int:
    return memoryview(data).nbytes
