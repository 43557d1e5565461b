"""Values of handlers on a terminal and in JSON."""

from __future__ import annotations

import base64
import datetime
import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["argument", "as_json", "as_text"]


def argument(text: str) -> Any:
    """A command line's argument as a value: JSON if it is that, else the text itself."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError:
        return text


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is Python's, not JSON's")


def as_text(value: Any) -> str | bytes:
    """A value for people: text and bytes as they are, everything else as JSON."""
    if _is_no_number(value):
        return str(value)
    return value if isinstance(value, (str, bytes)) else as_json(value)


def as_json(value: Any) -> str:
    """A value for programs; what JSON has no form for (NaN too) becomes text, bytes base64, sets and tuples arrays."""
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)


def _is_no_number(value: Any) -> bool:
    """NaN, or an infinity: numbers that JSON does not know."""
    return isinstance(value, float) and not math.isfinite(value)


def _plain(value: Any) -> Any:
    if _is_no_number(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if hasattr(value, "tolist"):  # numpy's
        return _plain(value.tolist())
    return str(value)
