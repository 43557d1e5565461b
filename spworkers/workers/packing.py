"""Values as bytes and back, as calls and answers carry them: the quick way to the codec, compiled.

Most values are what msgpack itself knows. They are packed by a packer that is kept, and short ones unpacked by a kept
unpacker: making either costs more than it does for one value. Whatever they cannot do, and whatever is wrong, is the
codec's, which begins anew: so its results and its errors are the only ones.
"""

from __future__ import annotations

from typing import Any, Final

from spworkers.workers.codec import SHORT, decode_anew, encode_anew, new_packer, new_unpacker

__all__ = ["decode", "encode"]

_KEPT_BUFFER: Final = 1 << 16  # bytes; a packer's buffer is as large as the largest value was

_packers: Final[list[Any]] = []
"""Those that nobody uses."""

_unpackers: Final[list[tuple[Any, int]]] = []
"""Those that nobody uses, and how many bytes each has had. If something went wrong in one, it is not used again."""

_SINGLE: Final[list[Any]] = [*range(128), *[None] * 96, *range(-32, 0)]
_SINGLE[0xC2], _SINGLE[0xC3] = False, True
"""What is a byte of its own in msgpack, as much of what handlers return is: None, False, True and small numbers."""
_IS_SINGLE: Final[list[bool]] = [byte < 0x80 or byte in (0xC0, 0xC2, 0xC3) or byte >= 0xE0 for byte in range(256)]


def encode(value: object) -> bytes:
    """Turn a value into bytes.

    Args:
        value: None, bool, int, float, str, bytes-like, list, dict and the types of docs/call-format.md, mixed at will.

    Raises:
        SerializationError: there is something in it that cannot be carried; the message names it.
    """
    # Nobody else has the packer now: what packs may run a finalizer, or another thread, which packs too.
    try:
        packer = _packers.pop()
    except IndexError:
        packer = new_packer()
    try:
        packed: bytes = packer.pack(value)
    except Exception:  # something that msgpack does not know, or cannot carry; and the packer is in the midst of it
        return encode_anew(value)
    if len(packed) <= _KEPT_BUFFER:
        _packers.append(packer)
    return packed


def decode(data: bytes | memoryview) -> Any:
    """Turn bytes back into the value.

    Raises:
        GarbledError: they are not exactly one value; no other exception, whatever the bytes.
    """
    size = len(data)
    if size == 1:
        byte = data[0]
        if _IS_SINGLE[byte]:
            return _SINGLE[byte]
    if size <= SHORT:
        try:
            unpacker, before = _unpackers.pop()
        except IndexError:
            unpacker, before = new_unpacker(), 0
        try:
            unpacker.feed(data)
            value = unpacker.unpack()
            after: int = unpacker.tell()
        except Exception:  # what is wrong is said below
            after = -1
        if after - before == size:
            _unpackers.append((unpacker, after))
            return value
    return decode_anew(data)
