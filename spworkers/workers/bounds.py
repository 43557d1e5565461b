"""What `Annotated` adds to a type: bounds of numbers, of lengths, patterns.

They are known by their attributes, and no package has to be there for them: those of annotated_types (`Gt`, `Le`,
`Len`, `MultipleOf`, `Predicate` …), `msgspec.Meta`, `pydantic.Field`, `pydantic.StringConstraints`, and a plain
`range`. All else in an `Annotated` is somebody else's and is left alone.
"""

from __future__ import annotations

import datetime
import functools
import operator
import re
import zoneinfo
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from spworkers.workers.shapes import Mismatch, Shape

__all__ = ["Bounded", "bounded"]


class _Bound(NamedTuple):
    """One condition: in words that follow the type's name, and as a test."""

    text: str
    holds: Callable[[Any], Any]


class Bounded(Shape):
    """A shape whose value has to keep bounds too. None, where the type allows it, keeps them all."""

    def __init__(self, shape: Shape, bounds: list[_Bound]) -> None:
        self.text = f"{shape.text} {', '.join(bound.text for bound in bounds)}"
        self.shape = shape
        self.bounds = bounds

    def fit(self, value: Any, exact: bool) -> Any:
        fitted = self.shape.fit(value, exact)
        if fitted is not None and not all(map(_holds, self.bounds, [fitted] * len(self.bounds))):
            raise Mismatch(self.text, value)
        return fitted


def _holds(bound: _Bound, value: Any) -> bool:
    try:
        return bool(bound.holds(value))
    except Exception:  # what cannot be compared, or has no length, keeps no bound; a predicate is the user's code
        return False


def bounded(shape: Shape, metadata: Iterable[Any]) -> Shape:
    """The shape with the bounds among the metadata of an `Annotated`; the shape itself, if there are none."""
    bounds = [bound for each in metadata for bound in _bounds(each)]
    return Bounded(shape, bounds) if bounds else shape


_COMPARED: Final[dict[str, tuple[str, Callable[[Any, Any], Any]]]] = {
    "gt": (">", operator.gt),
    "ge": (">=", operator.ge),
    "lt": ("<", operator.lt),
    "le": ("<=", operator.le),
}


def _bounds(metadata: Any) -> Iterator[_Bound]:
    if isinstance(metadata, type):  # a class is no bound, whatever attributes it has
        return
    if isinstance(metadata, range):
        yield _Bound(f"in {metadata!r}", metadata.__contains__)
        return
    inner = getattr(metadata, "metadata", None)  # pydantic's Field keeps its bounds in there
    if isinstance(inner, list):
        for each in inner:
            yield from _bounds(each)
        return
    for name, (sign, compare) in _COMPARED.items():
        limit = getattr(metadata, name, None)
        if limit is not None:
            yield _Bound(f"{sign} {limit!r}", functools.partial(_compared, compare, limit))
    step = getattr(metadata, "multiple_of", None)
    if step is not None:
        yield _Bound(f"a multiple of {step!r}", lambda value: value % step == 0)
    yield from _of_text(metadata)
    predicate = getattr(metadata, "func", None)
    if callable(predicate) and type(metadata).__name__ == "Predicate":
        yield _Bound(f"for which {getattr(predicate, '__qualname__', predicate)} holds", predicate)


def _compared(compare: Callable[[Any, Any], Any], limit: Any, value: Any) -> Any:
    return compare(value, limit)


def _of_text(metadata: Any) -> Iterator[_Bound]:
    least, most = (getattr(metadata, name, None) for name in ("min_length", "max_length"))
    if type(least) is int and least > 0:
        yield _Bound(f"of length {least} at least", lambda value: len(value) >= least)
    if type(most) is int:
        yield _Bound(f"of length {most} at most", lambda value: len(value) <= most)
    pattern = getattr(metadata, "pattern", None)
    if isinstance(pattern, (str, re.Pattern)):
        compiled = re.compile(pattern)
        yield _Bound(f"matching {compiled.pattern!r}", compiled.search)
    kind = type(metadata).__name__
    zone = getattr(metadata, "tz", None)
    if zone is True or (zone is ... and kind == "Timezone"):
        yield _Bound("with a zone", lambda value: value.tzinfo is not None)
    elif zone is False or (zone is None and kind == "Timezone"):
        yield _Bound("without a zone", lambda value: value.tzinfo is None)
    elif kind == "Timezone" and isinstance(zone, (str, datetime.tzinfo)):
        yield _Bound(f"in the zone {zone}", _in_zone(zone))


def _in_zone(zone: str | datetime.tzinfo) -> Callable[[Any], bool]:
    """What arrives has the zone's offset, not its name."""
    info = zoneinfo.ZoneInfo(zone) if isinstance(zone, str) else zone
    return lambda value: value.tzinfo is not None and value.utcoffset() == value.astimezone(info).utcoffset()
