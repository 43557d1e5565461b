"""How macat prints a message: `no`, `raw`, `ascii`, `quoted` or `msgpack`."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

__all__ = ["FORMATS"]

_PRINTABLE: Final = frozenset([*range(0x20, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)])
"""Latin-1's, as mangos has it: a byte from 0xA1 on counts, and goes out as it is; the soft hyphen does not."""

_ASCII: Final = bytes(byte if byte in _PRINTABLE else ord(".") for byte in range(256))

_ESCAPED: Final = {ord("\n"): rb"\n", ord("\r"): rb"\r", ord("\\"): rb"\\", ord('"'): rb"\""}
_QUOTED: Final = [
    _ESCAPED.get(byte) or (bytes([byte]) if byte in _PRINTABLE else b"\\x%02x" % byte) for byte in range(256)
]


def _ascii(body: bytes) -> bytes:
    return body.translate(_ASCII) + b"\n"


def _quoted(body: bytes) -> bytes:
    return b"".join([_QUOTED[byte] for byte in body]) + b"\n"


def _msgpack(body: bytes) -> bytes:
    """A value of type bin: 8, 16 or 32 bits of length."""
    size = len(body)
    if size < 1 << 8:
        return struct.pack(">BB", 0xC4, size) + body
    if size < 1 << 16:
        return struct.pack(">BH", 0xC5, size) + body
    return struct.pack(">BI", 0xC6, size) + body


FORMATS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "no": lambda body: b"",
    "raw": lambda body: body,
    "ascii": _ascii,
    "quoted": _quoted,
    "msgpack": _msgpack,
}
