"""Times on macat's command line: whole seconds, or Go's durations such as `20ms` or `1h30m`."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["seconds"]

_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_NUMBER: Final = r"(?:\d+\.?\d*|\.\d+)"
_PART: Final = re.compile(rf"({_NUMBER})({'|'.join(sorted(_UNITS, key=len, reverse=True))})")
_WHOLE: Final = re.compile(rf"[+-]?(?:{_NUMBER}|(?:{_PART.pattern})+)")


def seconds(text: str) -> float:
    """The time that `text` says, in seconds. A bare number is seconds; ValueError if it is no time."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is no time")
    sign = -1.0 if text.startswith("-") else 1.0
    parts = _PART.findall(text)
    if not parts:
        return float(text)
    return sign * sum(float(number) * _UNITS[unit] for number, unit in parts)
