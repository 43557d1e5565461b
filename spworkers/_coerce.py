"""From what a user gives as an option's value to its canonical form, one function a kind.

Each raises `ValueError` with the rest of a sentence that begins with the option's name: "wants seconds, not 'soon'".
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, TypeGuard

__all__ = ["COERCE", "Kind", "Seconds", "is_text", "seconds"]

Seconds: TypeAlias = float | timedelta | None
"""A time as users may give it: seconds, a timedelta, or None where that means something."""

Kind = Literal["bool", "int", "mode", "seconds", "bytes", "headers", "tls", "object"]
"""What an option's value is: `mode` are permission bits, `object` is read only and made by the library."""

_TOKEN = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")  # RFC 9110, 5.6.2
_FIELD = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110, 5.5
_OURS = frozenset({"host", "connection", "upgrade", "content-length", "transfer-encoding"})

_FACTORY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_text(value: Any) -> TypeGuard[str]:
    """Whether it is text that another process can be told: no half characters (surrogates)."""
    try:
        return isinstance(value, str) and bool(value.encode() or True)
    except UnicodeError:
        return False


def seconds(value: Any) -> float:
    """A time as a float of seconds; infinity is left to the caller."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # an int or a fraction beyond 1e308
            number = -math.inf if value < 0 else math.inf
        if not math.isnan(number):
            return number
    raise ValueError(f"wants seconds (a number) or a timedelta, not {_say(value)}")


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"wants True or False, not {_say(value)}")


def _int(value: Any) -> int:
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    raise ValueError(f"wants an int, not {_say(value)}")


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        if not is_text(value):
            raise ValueError(
                f"wants bytes, or a text, and {value!r:.80} is none: half a character, or a byte that is no UTF-8"
            )
        return value.encode()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise ValueError(f"wants bytes or str, not {_say(value)}")


def _tls(value: Any) -> Any:
    """A TLSConfig whose files can be used, one's keywords in a mapping, the name of a factory, or None."""
    if type(value).__module__ == "ssl":
        raise ValueError(
            f"cannot take {_say(value)}, which cannot cross to the I/O process: give a TLSConfig, or the name of a"
            ' function that makes the context there, "module:function"'
        )
    if value is None or (isinstance(value, str) and _FACTORY.fullmatch(value)):
        return value
    if isinstance(value, Mapping) and not value:
        raise ValueError(
            "wants the keywords of a TLSConfig in a mapping, and this one is empty; TLSConfig() if you mean it"
        )
    from spworkers.tlsconfig import TLSConfig  # with ssl, which costs milliseconds

    try:
        config = TLSConfig.from_wire(value) if isinstance(value, Mapping) else value
        if isinstance(config, TLSConfig):
            config.check()
            return config
    except ValueError as problem:
        raise ValueError(f"cannot be used: {problem}") from problem
    raise ValueError(
        f'wants a TLSConfig or the name of a function that makes one, "module:function", not {_say(value)}'
    )


def _headers(value: Any) -> Mapping[str, str]:
    """Header fields of a request, those aside that the handshake needs for itself."""
    if not isinstance(value, Mapping):
        raise ValueError(f"wants a mapping of names to values, not {_say(value)}")
    for name, text in value.items():
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise ValueError(f"has {_say(name)}, which is no name of a header field")
        if name.lower() in _OURS or name.lower().startswith("sec-websocket-"):
            raise ValueError(f"has {name!r}, which the handshake sets by itself")
        if not isinstance(text, str) or not _FIELD.fullmatch(text):  # not shown: it is a secret, often
            raise ValueError(f"has a value of {name!r} that is no text of one line")
    return MappingProxyType(dict(value))  # a change in place would have no effect


def _object(value: Any) -> Any:
    return value


def _say(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


COERCE: dict[Kind, Callable[[Any], Any]] = {
    "bool": _bool,
    "int": _int,
    "mode": _int,
    "seconds": seconds,
    "bytes": _bytes,
    "headers": _headers,
    "tls": _tls,
    "object": _object,
}
