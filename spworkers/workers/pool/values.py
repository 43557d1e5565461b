"""Values as the bytes of records, and back: pickle 5, whose buffers go beside the pickle and are copied once each way.

    small:  one piece of bytes                 the body of a record without a header
    large:  [lengths] pickle ‖ buffer ‖ ...    gathered into one record, whose header is the lengths
    bytes:  [0, length] bytes                  likewise, without a pickle

Large bytes go the same way without being copied into the pickle first: the pickler hands them on as they are. What
`__main__` defines, lambdas and closures go by value (cloudpickle); everything else as plain pickle has it.

pickle never leaves the machine: who writes these records is our own child.
"""

from __future__ import annotations

import pickle
import struct
import traceback
import types
from collections.abc import Callable
from typing import Any, Final, Protocol

from spworkers.errors import CauseText, RemoteError, SerializationError
from spworkers.ring import Record, own_bytearray, own_bytes
from spworkers.workers.byvalue import Pickler, pickled

__all__ = [
    "PLAIN",
    "Large",
    "MsgpackValues",
    "Packed",
    "PickleValues",
    "Values",
    "error_of",
    "pack_error",
    "unreadable",
    "unreadable_result",
    "unsendable_arguments",
    "unsendable_result",
    "values_of",
]

PLAIN: Final = frozenset({int, float, bool, type(None), str})
"""Types of which the plain pickler needs no second look, and which are small as a rule."""

_SMALL: Final = 16 << 10
"""Bytes of a bytes object that goes into the pickle like any other; beyond it, it goes beside."""
_BESIDE: Final = 4 << 10
"""Bytes from which a buffer (of an array, say) goes beside the pickle."""
_TRACEBACK: Final = 32 << 10  # characters, the last ones: there is the line that failed

_PROTOCOL: Final = 5


class Large:
    """A packed value in several pieces: `parts`, of which the first is the header."""

    __slots__ = ("header_length", "parts", "size")

    def __init__(self, pieces: list[Any], buffers: list[Any]) -> None:
        sizes = [sum(len(piece) for piece in pieces), *(buffer.nbytes for buffer in buffers)]
        header = struct.pack(f"<{len(sizes)}Q", *sizes)
        self.header_length = len(header)
        self.parts: list[Any] = [header, *pieces, *buffers]
        self.size = len(header) + sum(sizes)


Packed = bytes | Large
"""What goes into one record."""


class Values(Protocol):
    """A way to put values into records. Each method raises SerializationError."""

    name: str

    def pack(self, value: Any) -> Packed:
        """A value as a record's payload."""

    def pack_small(self, value: Any) -> bytes:
        """A value of plain types only."""

    def unpack(self, body: bytes) -> Any:
        """The value of a record without a header."""

    def unpack_record(self, record: Record) -> Any:
        """The value of a claimed record."""


class _Sink:
    """What a pickler writes to: its pieces, uncopied."""

    __slots__ = ("write",)

    def __init__(self, write: Callable[[Any], None]) -> None:
        self.write = write


class PickleValues:
    """Any object that pickle or cloudpickle can carry."""

    name = "pickle"

    def pack(self, value: Any) -> Packed:
        if type(value) is bytes and len(value) >= _SMALL:
            return Large([], [memoryview(value)])
        pieces: list[Any] = []
        buffers: list[memoryview] = []

        def beside(buffer: pickle.PickleBuffer) -> bool:
            try:
                raw = buffer.raw()
            except BufferError:  # not contiguous
                return True
            if raw.nbytes < _BESIDE:
                return True
            buffers.append(raw)
            return False

        Pickler(_Sink(pieces.append), _PROTOCOL, buffer_callback=beside).dump(value)
        if not buffers and len(pieces) == 1:
            return pieces[0]  # type: ignore[no-any-return]
        if not buffers and sum(map(len, pieces)) < _SMALL:
            return b"".join(pieces)
        return Large(pieces, buffers)

    def pack_small(self, value: Any) -> bytes:
        return pickle.dumps(value, _PROTOCOL)

    def unpack(self, body: bytes) -> Any:
        return pickle.loads(body)

    def unpack_record(self, record: Record) -> Any:
        header = record.header
        with memoryview(record) as body:
            if not header:
                return pickle.loads(body)
            sizes = struct.unpack(f"<{len(header) // 8}Q", header)
            if not sizes[0]:
                return own_bytes(body)
            buffers, at = [], sizes[0]
            for size in sizes[1:]:
                # A copy, so that the task may write into its array, and keep it: the record's room is wanted again.
                buffers.append(own_bytearray(body[at : at + size]))
                at += size
            return pickle.loads(body[: sizes[0]], buffers=buffers)


class MsgpackValues:
    """What the call format carries (docs/call-format.md), for tasks that shall not depend on pickle."""

    name = "msgpack"

    def pack(self, value: Any) -> Packed:
        from spworkers.workers.packing import encode

        return encode(value)

    def pack_small(self, value: Any) -> bytes:
        from spworkers.workers.packing import encode

        return encode(value)

    def unpack(self, body: bytes) -> Any:
        from spworkers.workers.packing import decode

        return decode(body)

    def unpack_record(self, record: Record) -> Any:
        from spworkers.workers.packing import decode

        with memoryview(record) as body:
            return decode(body)


_KNOWN: Final[dict[str, Callable[[], Values]]] = {"pickle": PickleValues, "msgpack": MsgpackValues}


def values_of(serializer: str) -> Values:
    """The way of that name.

    Raises:
        KeyError: there is none.
    """
    return _KNOWN[serializer]()


# --- Exceptions


def pack_error(error: BaseException, skip: int = 1) -> tuple[bool, bytes]:
    """An exception for the way to the parent, and whether it goes whole.

    Whether it can be read again is tried here, where it costs this task only; what cannot be is sent as what is known
    of it.

    Args:
        error: as it was raised.
        skip: frames of ours at the traceback's beginning.
    """
    text = _traceback_of(error, skip)
    try:
        packed = pickled((error, text), _PROTOCOL)
        pickle.loads(packed)
    except Exception:  # whatever the __reduce__ or __init__ of somebody's exception raises
        kind = type(error)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        return False, pickle.dumps((name, _text_of(error), text), _PROTOCOL)
    return True, packed


def error_of(whole: bool, body: bytes) -> BaseException:
    """The exception from what `pack_error` has made; the worker's traceback is its cause."""
    if not whole:
        return RemoteError(*pickle.loads(body))
    try:
        error, text = pickle.loads(body)
    except Exception as problem:  # it could be read over there, but not here
        return SerializationError(f"the task raised an exception that cannot be read here: {_say(problem)}")
    if not isinstance(error, BaseException):
        return SerializationError(f"the task raised an exception that arrived as {type(error).__name__}")
    error.__cause__ = CauseText(f"\n{text}")
    return error


def _traceback_of(error: BaseException, skip: int) -> str:
    frames = error.__traceback__
    for _ in range(skip):
        frames = frames.tb_next if frames is not None else None
    try:
        return "".join(traceback.format_exception(type(error), error, frames or error.__traceback__))[-_TRACEBACK:]
    except Exception as broken:
        return f"(its traceback cannot be had: {type(broken).__name__})"


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # its __str__ is the user's code too
        return f"(its text cannot be had: {type(broken).__name__})"


def _say(error: BaseException) -> str:
    return f"{type(error).__name__}: {_text_of(error)}"


# --- What cannot be packed or read, in the same words wherever the work is done


def unsendable_arguments(function: str, error: BaseException) -> SerializationError:
    """The error for a call that cannot be packed."""
    return _because(f"the arguments of {function} cannot be sent to a worker: {type(error).__name__}: {error}", error)


def unsendable_result(value: Any, error: BaseException) -> SerializationError:
    """The error for a result that cannot be packed."""
    name = type(value).__name__
    if isinstance(value, types.CoroutineType):
        value.close()  # nobody will await it, and nobody need be warned of that
        return SerializationError(
            "the task is an `async def`, and made a coroutine that nothing awaits: let it be a plain function, in which"
            " asyncio.run(...) runs the coroutine"
        )
    return _because(f"the task's result, a {name}, cannot be sent back: {type(error).__name__}: {error}", error)


def unreadable(what: str, error: BaseException) -> SerializationError:
    """The error for something that arrived in the worker and could not be read there."""
    return SerializationError(
        f"{what} cannot be read in the worker: {type(error).__name__}: {error}; a worker has to be able to import the"
        " modules that it is defined in"
    )


def unreadable_result(error: BaseException) -> SerializationError:
    """The error for a result that came back and could not be read here."""
    return _because(
        f"the result cannot be read here: {type(error).__name__}: {error}; let it be made of what this process can"
        " import, too",
        error,
    )


def _because(text: str, error: BaseException) -> SerializationError:
    made = SerializationError(text)
    made.__cause__ = error
    return made
