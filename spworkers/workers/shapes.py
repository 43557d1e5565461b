"""What a type annotation demands of a value that arrived, and how a value becomes what the annotation names.

`shape.fit(value, exact)` gives the value, or raises `Mismatch`; annotations.py makes shapes of annotations. A value is
taken as it is where it fits already. What msgpack and JSON have no form for is made from what they have instead:

| annotation | is made from |
|---|---|
| float, complex | int (and float) as they are: no conversion |
| tuple, set, frozenset | an array |
| bytearray | bytes |
| datetime, date, time | ISO 8601 text |
| timedelta | seconds |
| UUID, Decimal, Path | text (Decimal also: int) |
| a dataclass, a TypedDict | a map |
| an Enum | a member's value |

A bool is no int. In a union, a member that the value fits as it is wins over one that would be made from it: for
`date | str`, text stays text.
"""

from __future__ import annotations

import difflib
import enum
import reprlib
from collections.abc import Callable, Iterable
from typing import Any

from spworkers.workers.codec import Struct

__all__ = [
    "Choice",
    "Either",
    "Fields",
    "Instance",
    "Items",
    "Made",
    "Map",
    "Member",
    "Mismatch",
    "Plain",
    "Row",
    "Shape",
    "closest",
    "describe",
]


class Mismatch(Exception):
    """A value does not fit.

    Args:
        expected: what would.
        got: what came.
        path: where in the argument it lies: `[3].name`; empty for the argument itself.
    """

    def __init__(self, expected: str, got: object, path: str = "") -> None:
        super().__init__(expected, got, path)
        self.expected = expected
        self.got = got
        self.path = path

    def __str__(self) -> str:
        return f"expected {self.expected}, got {describe(self.got)}"

    def within(self, step: str) -> Mismatch:
        """The same, seen from the container that the value lies in."""
        return Mismatch(self.expected, self.got, step + self.path)


class _Complaint:
    """Stands for a value in a Mismatch where the value is not the point: its repr is the text itself."""

    def __init__(self, text: str) -> None:
        self.text = text


def describe(value: object) -> str:
    """A value in an error message: its type and as much of it as is readable."""
    if isinstance(value, _Complaint):
        return value.text
    if value is None:
        return "None"
    name = value.type_name if isinstance(value, Struct) else type(value).__name__
    return f"{name} {reprlib.repr(dict(value) if isinstance(value, Struct) else value)}"


def closest(name: str, names: Iterable[str]) -> list[str]:
    """The names that resemble `name`, best first."""
    return difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)


class Shape:
    """What an annotation demands; this one, of `Any`, demands nothing.

    Attributes:
        text: the annotation as a person would write it.
    """

    text = "anything"

    def fit(self, value: Any, exact: bool) -> Any:
        """The value in the annotation's own form.

        Args:
            exact: take it only as it is, convert nothing.

        Raises:
            Mismatch: it does not fit.
        """
        return value


class Plain(Shape):
    """One of the types that arrive as themselves, and what else is taken for it unchanged."""

    def __init__(self, kind: type, *others: type) -> None:
        self.text = "None" if kind is type(None) else kind.__name__
        self.kind = kind
        self.others = others

    def fit(self, value: Any, exact: bool) -> Any:
        # type() and not isinstance(): a bool is an int to Python, a datetime a date, and both are mistakes here.
        if type(value) is self.kind or (not exact and type(value) in self.others):
            return value
        raise Mismatch(self.text, value)


class Made(Shape):
    """A type that is also made from simpler ones."""

    def __init__(self, kind: type, text: str, make: Callable[[Any], Any], *sources: type) -> None:
        self.text = text
        self.kind = kind
        self.make = make
        self.sources = sources

    def fit(self, value: Any, exact: bool) -> Any:
        if type(value) is self.kind:
            return value
        if exact or type(value) not in self.sources:
            raise Mismatch(self.text, value)
        try:
            return self.make(value)
        except (ValueError, ArithmeticError) as error:
            raise Mismatch(self.text, value) from error


class Either(Shape):
    def __init__(self, members: list[Shape]) -> None:
        self.text = " | ".join(member.text for member in members)
        self.members = members

    def fit(self, value: Any, exact: bool) -> Any:
        deepest: Mismatch | None = None
        for strictly in (True,) if exact else (True, False):
            for member in self.members:
                try:
                    return member.fit(value, strictly)
                except Mismatch as mismatch:
                    if mismatch.path and not strictly:
                        deepest = mismatch  # it fitted from outside: what is wrong inside says more
        raise deepest or Mismatch(self.text, value)


class Choice(Shape):
    def __init__(self, choices: tuple[Any, ...]) -> None:
        self.text = "one of " + ", ".join(map(repr, choices)) if len(choices) > 1 else repr(choices[0])
        self.choices = choices

    def fit(self, value: Any, exact: bool) -> Any:
        for choice in self.choices:
            # The type counts: Literal[1] is neither True nor 1.0. An enum's member arrives as its value.
            if isinstance(choice, enum.Enum) and type(value) is type(choice.value) and value == choice.value:
                return choice
            if type(value) is type(choice) and value == choice:
                return value
        raise Mismatch(self.text, value)


class Items(Shape):
    """list, set, frozenset, and tuple of any length: many of one shape."""

    def __init__(self, kind: type, item: Shape, *sources: type) -> None:
        self.text = (
            kind.__name__ if type(item) is Shape else f"{kind.__name__}[{item.text}{', ...' if kind is tuple else ''}]"
        )
        self.kind = kind
        self.item = item
        self.sources = sources

    def fit(self, value: Any, exact: bool) -> Any:
        if type(value) is not self.kind and (exact or type(value) not in self.sources):
            raise Mismatch(self.text, value)
        if type(self.item) is Shape and type(value) is self.kind:
            return value
        items = []
        for index, item in enumerate(value):
            try:
                items.append(self.item.fit(item, exact))
            except Mismatch as mismatch:
                raise mismatch.within(f"[{index}]") from mismatch.__cause__
        try:
            return self.kind(items)
        except TypeError as error:  # a set of lists, say
            raise Mismatch(f"{self.text}, whose items have to be hashable", value) from error


class Row(Shape):
    """A tuple of a fixed number of items, each of its own shape."""

    def __init__(self, items: list[Shape]) -> None:
        self.text = f"tuple[{', '.join(item.text for item in items) or '()'}]"
        self.items = items

    def fit(self, value: Any, exact: bool) -> Any:
        if type(value) is not tuple and (exact or type(value) is not list):
            raise Mismatch(self.text, value)
        if len(value) != len(self.items):
            raise Mismatch(self.text, _Complaint(f"{len(value)} items"))
        fitted = []
        for index, (shape, item) in enumerate(zip(self.items, value, strict=True)):
            try:
                fitted.append(shape.fit(item, exact))
            except Mismatch as mismatch:
                raise mismatch.within(f"[{index}]") from mismatch.__cause__
        return tuple(fitted)


class Map(Shape):
    def __init__(self, key: Shape, value: Shape) -> None:
        self.text = "dict" if type(key) is Shape and type(value) is Shape else f"dict[{key.text}, {value.text}]"
        self.key = key
        self.value = value

    def fit(self, value: Any, exact: bool) -> Any:
        if not isinstance(value, dict):
            raise Mismatch(self.text, value)
        fitted = {}
        for key, item in value.items():
            try:
                fitted_key, fitted_item = self.key.fit(key, exact), self.value.fit(item, exact)
            except Mismatch as mismatch:
                raise mismatch.within(f"[{reprlib.repr(key)}]") from mismatch.__cause__
            try:
                fitted[fitted_key] = fitted_item
            except TypeError as error:  # a dataclass that is not frozen, say
                raise Mismatch(f"{self.text}, whose keys have to be hashable", value) from error
        return fitted


class Fields(Shape):
    """A map with names that are known: a dataclass or a TypedDict.

    Its fields' shapes are filled in after it is made, for it may hold itself.
    """

    def __init__(self, name: str, make: Callable[..., Any] | None) -> None:
        self.text = name
        self.make = make  # None: it stays a dict
        self.fields: dict[str, Shape] = {}
        self.required: frozenset[str] = frozenset()

    def fit(self, value: Any, exact: bool) -> Any:
        if not isinstance(value, dict) or (
            isinstance(value, Struct) and self.make is not None and value.type_name != self.text
        ):
            raise Mismatch(self.text, value)
        if exact and self.make is not None and not isinstance(value, Struct):
            raise Mismatch(self.text, value)
        if value.keys() - self.fields.keys() or self.required - value.keys():
            raise Mismatch(f"{self.text} with {self._wanted()}", _Complaint(self._difference(value)))
        fitted = {}
        for name, item in value.items():
            try:
                fitted[name] = self.fields[name].fit(item, exact)
            except Mismatch as mismatch:
                raise mismatch.within(f".{name}") from mismatch.__cause__
        if self.make is None:
            return fitted
        try:
            return self.make(**fitted)
        except Exception as error:  # its own __post_init__, the user's code, refuses in its own way
            raise Mismatch(self.text, _Complaint(f"{describe(value)} ({error})")) from error

    def _wanted(self) -> str:
        return ", ".join(name if name in self.required else f"{name}?" for name in self.fields) or "no fields"

    def _difference(self, value: dict[Any, Any]) -> str:
        missing = sorted(self.required - value.keys())
        unknown = [str(name) for name in value if name not in self.fields]
        parts = [f"no {', '.join(missing)}"] if missing else []
        for name in unknown:
            nearest = closest(name, self.fields)
            parts.append(f"an unknown {name!r}" + (f" (did you mean {nearest[0]!r}?)" if nearest else ""))
        return " and ".join(parts)


class Member(Shape):
    def __init__(self, kind: type[enum.Enum]) -> None:
        self.text = f"{kind.__name__}: one of {', '.join(repr(member.value) for member in kind)}"
        self.kind = kind

    def fit(self, value: Any, exact: bool) -> Any:
        try:
            member = self.kind(value)
        except Exception as error:  # ValueError, or whatever the user's own _missing_ raises
            raise Mismatch(self.text, value) from error
        if type(member.value) is not type(value):  # True is not the member whose value is 1
            raise Mismatch(self.text, value)
        return member


class Instance(Shape):
    """A class whose objects arrive as themselves and which is not looked into: numpy's."""

    def __init__(self, kind: type) -> None:
        self.text = f"{kind.__module__}.{kind.__qualname__}"
        self.kind = kind

    def fit(self, value: Any, exact: bool) -> Any:
        if isinstance(value, self.kind):
            return value
        raise Mismatch(self.text, value)
