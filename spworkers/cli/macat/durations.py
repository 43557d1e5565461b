"""Times on macat's command line: whole seconds, or Go's durations such as `20ms` or `1h30m`."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["seconds"]

_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_NUMBER: Final = r"(?:\d+\.?\d*|\.\d+)"
LONGEST: Final = 9_223_372_036.0
"""Seconds: what a duration of Go's holds, and what the system's calls can still count."""
_PART: Final = re.compile(rf"({_NUMBER})({'|'.join(sorted(_UNITS, key=len, reverse=True))})")
_WHOLE: Final = re.compile(rf"[+-]?(?:{_NUMBER}|(?:{_PART.pattern})+)")


def seconds(text: str) -> float:
    """The time that `text` says, in seconds. A bare number is seconds; ValueError if it is no time, or too long."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is no time")
    sign = -1.0 if text.startswith("-") else 1.0
    parts = _PART.findall(text)
    time = sign * sum(float(number) * _UNITS[unit] for number, unit in parts) if parts else float(text)
    if abs(time) > LONGEST:
        raise ValueError(f"{text!r} is too long")
    return time
