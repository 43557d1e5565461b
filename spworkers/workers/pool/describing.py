"""A task in words, for errors."""

from __future__ import annotations

import reprlib
from typing import Any

__all__ = ["describe_call", "describe_item"]

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 40
_short.maxtuple = _short.maxlist = _short.maxdict = 4


def describe_call(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """A call: `render('a.png', size=3)`, shortened."""
    shown = [_say(value) for value in args[:4]]
    if len(args) > 4:
        shown.append("...")
    shown += [f"{key}={_say(value)}" for key, value in list(kwargs.items())[:4]]
    return f"{name}({', '.join(shown)})"


def describe_item(name: str, position: int, args: tuple[Any, ...]) -> str:
    """A call for one item of a map: `parse('a.txt') (item 17)`."""
    return f"{describe_call(name, args, {})} (item {position})"


def _say(value: Any) -> str:
    try:
        return _short.repr(value)
    except Exception:  # its __repr__ is the user's code
        return f"<{type(value).__name__}>"
