"""Values of calls and answers as bytes: msgpack, and extension types for what Python has beyond it.

The table of the extension types is in docs/call-format.md; the codes below are its source. Nothing that is decoded
here runs code that the sender chose: a dataclass arrives as a `Struct` (a dict that knows its type's name) and an enum
as its value, until the annotation of a handler's parameter says which class to make of it (shapes.py).

Decoding trusts nothing. Whatever the bytes are, the result is a value or a GarbledError, within these bounds:

* extensions in extensions: MAX_NESTING deep; lists and maps in each other: 511 deep, msgpack's own bound;
* an array or a map holds no more elements than there are bytes left for them: what claims more is refused before any
  memory is set aside for it (see `_Decoder.unpack`);
* keys that collide: a map or a set of many elements with equal hashes is refused, because building it would take
  quadratic time (see `_distinct`).
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import os
import re
import struct
import sys
import uuid
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final

import msgpack

from spworkers.errors import GarbledError, SerializationError

__all__ = ["MAX_NESTING", "SHORT", "Struct", "decode_anew", "encode_anew", "new_packer", "new_unpacker"]

MAX_NESTING: Final = 32
"""How deep extension types may lie in each other (a tuple in a tuple in a set is three)."""

SHORT: Final = 512  # bytes; no element of what is so short can claim more than that many
_SCAN_FROM: Final = 4096  # bytes; below it the worst that a lying length can cost is less than the scan
_EQUAL_HASHES: Final = 256  # keys beyond those with a hash of their own; honest data has none or a few

DATETIME: Final = 1
DATE: Final = 2
TIME: Final = 3
TIMEDELTA: Final = 4
UUID: Final = 5
DECIMAL: Final = 6
INTEGER: Final = 7
COMPLEX: Final = 8
TUPLE: Final = 9
SET: Final = 10
FROZENSET: Final = 11
DATACLASS: Final = 12
ENUM: Final = 13
ARRAY: Final = 14

_ARRAY_DTYPE: Final = re.compile(r"[<>|][biufcSU][0-9]{1,9}|[<>][mM]8(\[[0-9]{0,9}[a-zA-Zμ]{1,7}\])?")
_DECODING_ERRORS: Final = (
    ValueError,  # msgpack's own are ValueErrors, or the next
    msgpack.exceptions.UnpackException,
    TypeError,
    ArithmeticError,  # decimal's and datetime's out-of-range
    RecursionError,
)


class Struct(dict[str, Any]):
    """The fields of a dataclass whose class is not known here.

    An ordinary dict (and equal to one), with `type_name`: the `__qualname__` of the class at the sender. It goes out
    again as the same dataclass, so that a relay loses nothing. As frozen dataclasses may be in sets and be keys, it has
    a hash if all of its fields have one: do not change it there.
    """

    __slots__ = ("type_name",)

    def __init__(self, type_name: str, fields: dict[str, Any]) -> None:
        super().__init__(fields)
        self.type_name = type_name

    def __repr__(self) -> str:
        return f"{self.type_name}({', '.join(f'{name}={value!r}' for name, value in self.items())})"

    def __eq__(self, other: object) -> bool:
        # Of two classes they differ, as the dataclasses do: a set of both keeps both.
        if isinstance(other, Struct) and self.type_name != other.type_name:
            return False
        return dict.__eq__(self, other)

    def __ne__(self, other: object) -> bool:  # dict has one of its own
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    def __hash__(self) -> int:  # type: ignore[override]
        return hash((self.type_name, frozenset(self.items())))

    def __reduce__(self) -> tuple[Any, ...]:
        return Struct, (self.type_name, dict(self))


def encode_anew(value: object) -> bytes:
    """Turn a value into bytes, with a packer of its own; `packing.encode` is the quick way here.

    Raises:
        SerializationError: there is something in it that cannot be carried; the message names it.
    """
    return _Encoder().pack(value)


def decode_anew(data: bytes | memoryview) -> Any:
    """Turn bytes back into the value, with an unpacker of its own; `packing.decode` is the quick way here.

    Raises:
        GarbledError: they are not exactly one value; no other exception, whatever the bytes.
    """
    try:
        if len(data) < _SCAN_FROM:
            return _unpacked(data)
        return _Decoder().unpack(data)
    except _Unhashable as error:  # the bytes are all right
        raise GarbledError(str(error)) from error
    except _DECODING_ERRORS as error:
        raise GarbledError(f"{len(data)} bytes are not a value of the call format: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, GarbledError):
        return str(error)
    if isinstance(error, RecursionError | msgpack.exceptions.StackError):
        return "it is nested too deeply"
    return str(error) or type(error).__name__


new_packer: Final = functools.partial(msgpack.Packer, strict_types=True)
"""Of what msgpack knows itself."""


# --- encoding ---------------------------------------------------------------------------------------------------------


class _Encoder:
    """One value's way out; knows how deep it is, so that a value that contains itself ends in an error."""

    __slots__ = ("depth",)

    def __init__(self) -> None:
        self.depth = 0

    def pack(self, value: object) -> bytes:
        try:
            packed: bytes = msgpack.packb(value, default=self.extension, strict_types=True)
        except SerializationError:
            raise
        except UnicodeEncodeError as error:
            raise SerializationError(
                f"the text {error.object!r:.80} is no valid Unicode ({error.reason}): send it as bytes"
            ) from error
        except (ValueError, OverflowError, RecursionError, BufferError) as error:
            raise SerializationError(f"a {type(value).__name__} cannot be sent: {error}") from error
        return packed

    def extension(self, value: Any) -> Any:
        """What msgpack asks for every object that is not exactly one of its own types."""
        for kind, extend in _EXTENSIONS:
            if isinstance(value, kind):
                self.depth += 1
                if self.depth > MAX_NESTING:
                    raise SerializationError(
                        f"a {type(value).__name__} lies deeper than {MAX_NESTING} extension types in each other"
                    )
                try:
                    return extend(self, value)
                finally:
                    self.depth -= 1
        if not isinstance(value, type):
            if dataclasses.is_dataclass(value):
                return self.nested(DATACLASS, [type(value).__qualname__, _fields(value)])
            if hasattr(value, "__struct_config__"):
                return self.model(value, _struct_fields(value))
            if hasattr(value, "__pydantic_serializer__") and hasattr(value, "model_dump"):
                return self.model(value, value.model_dump(by_alias=True, round_trip=True))
        return _numpy(self, value)

    def model(self, value: Any, content: Any) -> Any:
        """A model of msgspec or pydantic: as a dataclass; the bare value, if it is no map."""
        return self.nested(DATACLASS, [type(value).__qualname__, content]) if type(content) is dict else content

    def nested(self, code: int, content: object) -> msgpack.ExtType:
        return msgpack.ExtType(code, self.pack(content))


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}


def _struct_fields(value: Any) -> Any:
    """A Struct of msgspec: by the names, and with the tag, that it has in JSON."""
    config = value.__struct_config__
    content = [getattr(value, name) for name in value.__struct_fields__]
    if config.array_like:
        return content if config.tag is None else [config.tag, *content]
    tag = {} if config.tag is None else {config.tag_field: config.tag}
    return {**tag, **dict(zip(value.__struct_encode_fields__, content, strict=True))}


def _text(code: int, text: str) -> msgpack.ExtType:
    return msgpack.ExtType(code, text.encode("ascii"))


def _time(encoder: _Encoder, value: datetime.time) -> msgpack.ExtType:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise SerializationError(f"the time {value!r} has a zone whose offset depends on the day: send a datetime")
    return _text(TIME, datetime.time.isoformat(value))


def _timedelta(encoder: _Encoder, value: datetime.timedelta) -> msgpack.ExtType:
    return _text(TIMEDELTA, str(value // datetime.timedelta(microseconds=1)))


def _integer(encoder: _Encoder, value: int) -> Any:
    plain = int(value)
    if -(1 << 63) <= plain < 1 << 64:
        return plain
    return msgpack.ExtType(INTEGER, plain.to_bytes(plain.bit_length() // 8 + 1, "big", signed=True))


def _dict(encoder: _Encoder, value: dict[Any, Any]) -> Any:
    if isinstance(value, Struct):
        return encoder.nested(DATACLASS, [value.type_name, dict(value)])
    return dict(value)


_EXTENSIONS: Final[Sequence[tuple[type, Callable[[_Encoder, Any], Any]]]] = (
    # The order matters where one type is another's subclass: an IntEnum is an int, a datetime is a date.
    (tuple, lambda encoder, value: encoder.nested(TUPLE, list(value))),
    (enum.Enum, lambda encoder, value: encoder.nested(ENUM, [type(value).__qualname__, value.value])),
    (datetime.datetime, lambda encoder, value: _text(DATETIME, datetime.datetime.isoformat(value))),
    (datetime.date, lambda encoder, value: _text(DATE, datetime.date.isoformat(value))),
    (datetime.time, _time),
    (datetime.timedelta, _timedelta),
    (uuid.UUID, lambda encoder, value: msgpack.ExtType(UUID, value.bytes)),
    (decimal.Decimal, lambda encoder, value: _text(DECIMAL, str(value))),
    (set, lambda encoder, value: encoder.nested(SET, list(value))),
    (frozenset, lambda encoder, value: encoder.nested(FROZENSET, list(value))),
    (int, _integer),
    (float, lambda encoder, value: float(value)),
    (complex, lambda encoder, value: msgpack.ExtType(COMPLEX, struct.pack(">dd", value.real, value.imag))),
    (str, lambda encoder, value: str.__str__(value)),
    (bytes, lambda encoder, value: bytes(value)),
    (bytearray, lambda encoder, value: bytes(value)),
    (list, lambda encoder, value: list(value)),
    (dict, _dict),
    (os.PathLike, lambda encoder, value: os.fspath(value)),
)


def _numpy(encoder: _Encoder, value: Any) -> Any:
    """A numpy array or scalar; any other object ends here with an error."""
    # Never imported for it: who has an array has numpy.
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        return value.item()
    if numpy is None or type(value) not in (numpy.ndarray, numpy.memmap):
        raise SerializationError(
            f"a {type(value).__module__}.{type(value).__qualname__} cannot be sent: {value!r:.80};"
            " docs/call-format.md lists what can"
        )
    if not _ARRAY_DTYPE.fullmatch(value.dtype.str):
        raise SerializationError(
            f"a numpy array of {value.dtype} cannot be sent: only numbers, bools, times and fixed-length text"
        )
    return encoder.nested(ARRAY, [value.dtype.str, list(value.shape), value.tobytes()])


# --- decoding ---------------------------------------------------------------------------------------------------------


class _Decoder:
    """One value's way in."""

    __slots__ = ("depth",)

    def __init__(self) -> None:
        self.depth = 0

    def unpack(self, data: bytes | memoryview) -> Any:
        if len(data) >= _SCAN_FROM:
            # Lists are set aside at the length that their head claims. Hundreds nested, each claiming a million, would
            # cost seconds for one message; so a first pass, which builds nothing, proves that every element is there.
            scan = msgpack.Unpacker(None, max_buffer_size=len(data), strict_map_key=False)
            scan.feed(data)
            scan.skip()
        return msgpack.unpackb(
            data, ext_hook=self.extension, object_pairs_hook=_mapping, strict_map_key=False, timestamp=3, raw=False
        )

    def extension(self, code: int, data: bytes) -> Any:
        restore = _RESTORERS.get(code)
        if restore is None:
            raise GarbledError(f"extension type {code} is none of the call format's")
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise GarbledError(f"extension types lie deeper than {MAX_NESTING} in each other")
        value = restore(self, data)
        self.depth -= 1
        return value

    def array(self, data: bytes, length: int | None = None) -> list[Any]:
        value = self.unpack(data)
        if type(value) is not list or length not in (None, len(value)):
            raise GarbledError(f"an extension holds {type(value).__name__}, not an array of {length or 'any'} elements")
        return value


def _distinct(keys: Sequence[Hashable]) -> None:
    """Refuse keys that somebody chose to collide: Python's hashes of numbers are no secret, unlike those of text."""
    if len(keys) > _EQUAL_HASHES and len(keys) - len({hash(key) for key in keys}) > _EQUAL_HASHES:
        raise GarbledError(f"more than {_EQUAL_HASHES} keys have hashes in common")


class _Unhashable(Exception):
    """What Python has no place for in a set or as a key."""

    def __init__(self, values: Sequence[Any], error: TypeError) -> None:
        culprit = next(value for value in values if not is_hashable(value))
        name = culprit.type_name if isinstance(culprit, Struct) else type(culprit).__name__
        super().__init__(
            f"a {name} that is in a set, or the key of a dict, cannot be there once it was sent ({error}):"
            " send a list, of pairs for a dict"
        )


def is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _mapping(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    try:
        if len(pairs) > _EQUAL_HASHES:
            _distinct([key for key, _ in pairs])
        return dict(pairs)
    except TypeError as error:
        raise _Unhashable([key for key, _ in pairs], error) from error


def _outermost(code: int, data: bytes) -> Any:
    return _Decoder().extension(code, data)


_OUTERMOST: Final[dict[str, Any]] = {
    "ext_hook": _outermost,
    "object_pairs_hook": _mapping,
    "strict_map_key": False,
    "timestamp": 3,
    "raw": False,
}
_unpacked: Final = functools.partial(msgpack.unpackb, **_OUTERMOST)
"""What `_Decoder.unpack` does, for what is short: most of it has no extension, and needs no decoder."""

new_unpacker: Final = functools.partial(msgpack.Unpacker, max_buffer_size=SHORT, **_OUTERMOST)
"""The same for what is very short, value after value."""


def _members(decoder: _Decoder, data: bytes) -> frozenset[Any]:
    members = decoder.array(data)
    try:
        _distinct(members)
        return frozenset(members)
    except TypeError as error:
        raise _Unhashable(members, error) from error


def _ascii(data: bytes, limit: int) -> str:
    if len(data) > limit:
        raise GarbledError(f"{len(data)} bytes of text, where at most {limit} are legal")
    return data.decode("ascii")


def _restore_datetime(decoder: _Decoder, data: bytes) -> datetime.datetime:
    text = _ascii(data, 40)
    if text.endswith("Z"):  # Python reads it from 3.11 on; other languages write it
        text = text[:-1] + "+00:00"
    return datetime.datetime.fromisoformat(text)


def _restore_complex(decoder: _Decoder, data: bytes) -> complex:
    if len(data) != 16:
        raise GarbledError(f"a complex number is 16 bytes, not {len(data)}")
    return complex(*struct.unpack(">dd", data))


def _restore_dataclass(decoder: _Decoder, data: bytes) -> Struct:
    type_name, fields = decoder.array(data, 2)
    if type(type_name) is not str or type(fields) is not dict or not all(type(name) is str for name in fields):
        raise GarbledError("a dataclass is its type's name and a map of its fields")
    return Struct(type_name, fields)


def _restore_enum(decoder: _Decoder, data: bytes) -> Any:
    type_name, value = decoder.array(data, 2)
    if type(type_name) is not str:
        raise GarbledError("an enum is its type's name and a value")
    return value


def _restore_array(decoder: _Decoder, data: bytes) -> Any:
    dtype, shape, content = decoder.array(data, 3)
    if (
        type(dtype) is not str
        or type(shape) is not list
        or type(content) is not bytes
        or not _ARRAY_DTYPE.fullmatch(dtype)
    ):
        raise GarbledError("a numpy array is its dtype, its shape and its bytes")
    if not all(type(extent) is int and extent >= 0 for extent in shape):
        raise GarbledError(f"{shape!r:.80} is no shape of an array")
    try:
        import numpy
    except ImportError as error:
        raise GarbledError("the message holds a numpy array, and numpy is not installed here") from error
    if 0 in shape and not content:
        return numpy.empty(shape, dtype)  # frombuffer takes no empty buffer
    # A copy, so that the array can be written to, as one that never travelled can.
    return numpy.frombuffer(content, numpy.dtype(dtype)).reshape(shape).copy()


_RESTORERS: Final[dict[int, Callable[[_Decoder, bytes], Any]]] = {
    DATETIME: _restore_datetime,
    DATE: lambda decoder, data: datetime.date.fromisoformat(_ascii(data, 10)),
    TIME: lambda decoder, data: datetime.time.fromisoformat(_ascii(data, 30)),
    TIMEDELTA: lambda decoder, data: datetime.timedelta(microseconds=int(_ascii(data, 24))),
    UUID: lambda decoder, data: uuid.UUID(bytes=data),
    DECIMAL: lambda decoder, data: decimal.Decimal(data.decode("ascii")),
    INTEGER: lambda decoder, data: int.from_bytes(data, "big", signed=True),
    COMPLEX: _restore_complex,
    TUPLE: lambda decoder, data: tuple(decoder.array(data)),
    SET: lambda decoder, data: set(_members(decoder, data)),
    FROZENSET: _members,
    DATACLASS: _restore_dataclass,
    ENUM: _restore_enum,
    ARRAY: _restore_array,
}
