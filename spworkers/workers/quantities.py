"""Counts, sizes and times, as users write them and as messages say them.

It imports next to nothing: what every program with a pool imports imports it.
"""

from __future__ import annotations

import re
from typing import Any, Final

from spworkers._coerce import seconds
from spworkers.errors import BadValueError

__all__ = ["bytes_of", "check_count", "check_flag", "memory_of", "seconds_of", "size_text"]

LEAST_MEMORY: Final = 8 << 20
"""Bytes that no worker does with, whatever it does: an interpreter that has imported nothing has as much."""

_UNITS: Final = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmg]i?)?b?\s*", re.IGNORECASE)


MOST: Final = (1 << 31) - 1
"""The largest count that makes sense of anything."""


def check_count(value: Any, who: str, least: int = 0, most: int = MOST) -> int:
    """A whole number from `least` to `most`; one of numpy's, too.

    Raises:
        BadValueError: it is not.
    """
    whole = hasattr(type(value), "__index__") and not isinstance(value, bool)
    if not whole or int(value) < least:
        raise BadValueError(f"{who} wants a whole number from {least}, not {value!r:.80} ({type(value).__name__})")
    if int(value) > most:
        raise BadValueError(f"{who} is {value!r:.80}; it may be {most} at most")
    return int(value)


def seconds_of(value: Any, who: str) -> float:
    """Seconds, of a number or a timedelta.

    Raises:
        BadValueError: it is neither.
    """
    try:
        return seconds(value)
    except ValueError as error:
        raise BadValueError(f"{who} {error}") from None


def bytes_of(value: Any, who: str, least: int = 1) -> int:
    """A number of bytes, of at least `least`: an integer, or text like "512MB", "1.5GiB".

    Raises:
        BadValueError: it is neither, or less.
    """
    if isinstance(value, str):
        found = _SIZE.fullmatch(value)
        if found is None:
            raise BadValueError(f"{who} is a number of bytes, or text like '512MB' or '2GiB', not {value!r:.80}")
        value = int(float(found[1]) * _UNITS[(found[2] or "").lower()])
    return check_count(value, who, least, (1 << 63) - 1)


def memory_of(value: Any, who: str) -> int:
    """A limit of a worker's memory.

    Raises:
        BadValueError: it is no number of bytes, or so few that a megabyte may have been meant.
    """
    size = bytes_of(value, who, 0)
    if size < LEAST_MEMORY:
        raise BadValueError(
            f"{who} is {size_text(size)}, and a worker that does nothing has more than {size_text(LEAST_MEMORY)}; a"
            " number is of bytes, other units are written like '512MB'"
        )
    return size


def size_text(size: int) -> str:
    """A number of bytes in words: in the largest binary unit that it fills once."""
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.0f} {name}"
    return "1 byte" if size == 1 else f"{size} bytes"


def check_flag(value: Any, who: str) -> bool:
    """True or False.

    Raises:
        BadValueError: it is neither.
    """
    if type(value) is not bool:
        raise BadValueError(f"{who} is True or False, not {value!r:.80}")
    return value
