"""Kinds of values that several commands take."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import click

__all__ = ["FILE", "Seconds", "whole"]

FILE: Final = click.Path(dir_okay=False, path_type=Path)
"""The path of a file."""

_MOST: Final = 2**31 - 1
_LONGEST: Final = 100 * 365 * 86400.0
"""Seconds of a century: what the system's calls and all clocks can still count."""


class _Whole(click.IntRange):
    """A whole number; what is none is told so."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number; what is none, or out of the range, is refused."""
        try:
            int(value)
        except ValueError:
            self.fail(f"{value!r} is no whole number", param, ctx)
        return int(super().convert(value, param, ctx))


def whole(least: int, most: int = _MOST) -> click.IntRange:
    """A whole number, from `least` to `most`, or what any of our counters holds."""
    return _Whole(least, most)


class Seconds(click.FloatRange):
    """A time; "inf" is for ever, where that makes sense.

    Args:
        least: it has to be so long.
        more: and longer.
        endless: whether there may be no end.
    """

    name = "seconds"

    def __init__(self, least: float = 0.0, *, more: bool = False, endless: bool = True) -> None:
        super().__init__(least, min_open=more)
        self._endless = endless

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; what is none, or more than a century, is refused."""
        try:
            float(value)
        except ValueError:
            self.fail(f"{value!r} is no time: give seconds", param, ctx)
        seconds = float(super().convert(value, param, ctx))
        if not (seconds <= _LONGEST or (seconds == math.inf and self._endless)):
            self.fail(f"{value} is no time: give seconds, a century's at most", param, ctx)
        return seconds
