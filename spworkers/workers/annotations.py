"""From an annotation to the shape that it demands (shapes.py has the shapes themselves)."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import os
import pathlib
import sys
import types
import typing
import uuid
from collections.abc import Callable
from typing import Any, Final

from spworkers.workers import shapes
from spworkers.workers.bounds import Bounded, bounded
from spworkers.workers.codec import is_hashable
from spworkers.workers.generics import hints_of
from spworkers.workers.models import Model, model_shape
from spworkers.workers.shapes import Shape

__all__ = ["UnknownShape", "is_made", "shape_of"]


class UnknownShape(Exception):
    """An annotation that no value off the wire can ever fit."""


def _iso(kind: Any) -> Callable[[str], Any]:
    def make(text: str) -> Any:
        return kind.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)

    return make


_ANY: Final = Shape()
_SIMPLE: Final[dict[Any, Shape]] = {
    Any: _ANY,
    object: _ANY,
    None: shapes.Plain(type(None)),
    type(None): shapes.Plain(type(None)),
    bool: shapes.Plain(bool),
    int: shapes.Plain(int),
    float: shapes.Plain(float, int),
    complex: shapes.Plain(complex, float, int),
    str: shapes.Plain(str),
    bytes: shapes.Plain(bytes),
    bytearray: shapes.Made(bytearray, "bytes", bytearray, bytes),
    datetime.datetime: shapes.Made(datetime.datetime, "datetime (or ISO 8601 text)", _iso(datetime.datetime), str),
    datetime.date: shapes.Made(datetime.date, "date (or ISO 8601 text)", datetime.date.fromisoformat, str),
    datetime.time: shapes.Made(datetime.time, "time (or ISO 8601 text)", _iso(datetime.time), str),
    datetime.timedelta: shapes.Made(
        datetime.timedelta, "timedelta (or seconds)", lambda seconds: datetime.timedelta(seconds=seconds), int, float
    ),
    uuid.UUID: shapes.Made(uuid.UUID, "UUID (or its text)", uuid.UUID, str),
    decimal.Decimal: shapes.Made(decimal.Decimal, "Decimal (or its text)", decimal.Decimal, str, int),
    pathlib.Path: shapes.Made(pathlib.Path, "path", pathlib.Path, str),
    pathlib.PurePath: shapes.Made(pathlib.PurePath, "path", pathlib.PurePath, str),
    os.PathLike: shapes.Made(pathlib.Path, "path", pathlib.Path, str),
}
_SIMPLE[pathlib.PosixPath] = _SIMPLE[pathlib.Path]

_ARRAYS: Final[dict[Any, tuple[type, tuple[type, ...]]]] = {
    list: (list, ()),
    tuple: (tuple, (list,)),
    set: (set, (list, frozenset)),
    frozenset: (frozenset, (list, set)),
    collections.abc.Sequence: (list, (tuple,)),
    collections.abc.MutableSequence: (list, ()),
    collections.abc.Collection: (list, (tuple, set, frozenset)),
    collections.abc.Iterable: (list, (tuple, set, frozenset)),
    collections.abc.Set: (set, (list, frozenset)),
    collections.abc.MutableSet: (set, (list,)),
}
_MAPS: Final = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def shape_of(annotation: Any, known: dict[Any, Shape] | None = None) -> Shape:
    """The shape of an annotation whose names are resolved already (`typing.get_type_hints`).

    Args:
        known: classes whose shapes are being made, so that a class may hold itself.

    Raises:
        UnknownShape: no value that arrives could fit it.
        NameError: a field of a class is annotated with a name that is not defined (yet).
    """
    if known is None:
        try:
            return shape_of(annotation, {})
        except RecursionError:
            raise UnknownShape(f"{annotation!r} holds itself, each time with other parameters, without end") from None
    try:
        return _SIMPLE[annotation]
    except (KeyError, TypeError):  # TypeError: the metadata of an Annotated may be anything, a list too
        pass
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is not None and (arguments or annotation == tuple[()]):
        return _generic(annotation, origin, arguments, known)
    if origin is not None:  # typing.List and the like, bare
        return _class(origin, known)
    if isinstance(annotation, type):
        return _class(annotation, known)
    if isinstance(annotation, typing.TypeVar):
        bounds = annotation.__constraints__ or ((annotation.__bound__,) if annotation.__bound__ is not None else ())
        return shapes.Either([shape_of(bound, known) for bound in bounds]) if bounds else _ANY
    if hasattr(annotation, "__supertype__"):  # a NewType
        return shape_of(annotation.__supertype__, known)
    if hasattr(annotation, "__value__"):  # `type Name = ...` of Python 3.12
        return shape_of(annotation.__value__, known)
    raise UnknownShape(f"{annotation!r} is nothing that a call can carry")


_ARRIVE_MADE: Final = frozenset(
    (datetime.datetime, datetime.date, datetime.time, datetime.timedelta, uuid.UUID, decimal.Decimal)
)


def is_made(annotation: Any) -> bool:
    """Whether a value of it arrives as something else, or might, and is made where the annotation is known.

    Raises:
        As `shape_of`.
    """
    return _is_made(shape_of(annotation), set())


def _is_made(shape: Any, seen: set[int]) -> bool:
    if id(shape) in seen:  # it holds itself
        return False
    seen.add(id(shape))
    match shape:
        case shapes.Made():
            return shape.kind not in _ARRIVE_MADE
        case shapes.Fields():
            return shape.make is not None or any(_is_made(each, seen) for each in shape.fields.values())
        case shapes.Choice():
            return any(isinstance(choice, enum.Enum) for choice in shape.choices)
        case shapes.Either():
            return any(_is_made(each, seen) for each in shape.members)
        case shapes.Row():
            return any(_is_made(each, seen) for each in shape.items)
        case shapes.Items():
            return _is_made(shape.item, seen)
        case shapes.Map():
            return _is_made(shape.key, seen) or _is_made(shape.value, seen)
        case Bounded():
            return _is_made(shape.shape, seen)
    return isinstance(shape, (shapes.Member, Model))


def _generic(annotation: Any, origin: Any, arguments: tuple[Any, ...], known: dict[Any, Shape]) -> Shape:
    if origin in (typing.Union, types.UnionType):
        return shapes.Either([shape_of(member, known) for member in arguments])
    if origin is typing.Literal:
        return shapes.Choice(arguments)
    if origin is typing.Annotated:
        return bounded(shape_of(arguments[0], known), arguments[1:])
    if _wraps(origin):
        return shape_of(arguments[0], known)
    if origin is tuple and arguments[1:] != (...,):
        return shapes.Row([shape_of(item, known) for item in arguments if item != ()])
    if origin in _ARRAYS:
        if _ARRAYS[origin][0] in (set, frozenset):
            _check_hashable(arguments[0])
        return _items(origin, shape_of(arguments[0], known))
    if origin in _MAPS:
        _check_hashable(arguments[0])
        return shapes.Map(shape_of(arguments[0], known), shape_of(arguments[1], known))
    if origin is os.PathLike:
        return _SIMPLE[os.PathLike]
    if hasattr(origin, "__value__"):  # an alias with parameters, as newer numpy's NDArray[...] is one
        return shape_of(origin.__value__, known)
    if isinstance(origin, type):
        return _with_fields(annotation, origin, known) or _class(origin, known)  # numpy.ndarray[...]
    raise UnknownShape(f"{annotation!r} is nothing that a call can carry")


def _check_hashable(annotation: Any) -> None:
    """Refuse what is to be in a set, or a key, and never can be."""
    kind = typing.get_origin(annotation) or annotation
    if isinstance(kind, type) and kind.__hash__ is None:
        raise UnknownShape(
            f"{kind.__qualname__} has no hash, so it can neither be in a set nor be the key of a dict: take a list (of"
            " pairs), a tuple in the place of a list, or make a dataclass @dataclass(frozen=True)"
        )


def _wraps(origin: Any) -> bool:
    """Required, NotRequired and ReadOnly; by name, because typing_extensions has its own of them."""
    return getattr(origin, "_name", None) in ("Required", "NotRequired", "ReadOnly")


def _items(origin: Any, item: Shape) -> Shape:
    kind, sources = _ARRAYS[origin]
    return shapes.Items(kind, item, *sources)


def _class(annotation: type, known: dict[Any, Shape]) -> Shape:
    if annotation in _ARRAYS:
        return _items(annotation, _ANY)
    if annotation in _MAPS:
        return shapes.Map(_ANY, _ANY)
    if issubclass(annotation, enum.Enum):
        return shapes.Member(annotation)
    shape = _with_fields(annotation, annotation, known)
    if shape is not None:
        return shape
    if annotation.__module__.partition(".")[0] == "numpy":
        return _numpy(annotation)
    raise UnknownShape(
        f"{annotation.__module__}.{annotation.__qualname__} is no type that a call can carry: docs/call-format.md has"
        " those that can, among them dataclasses, enums, TypedDicts and models of pydantic and msgspec"
    )


def _numpy(annotation: Any) -> Shape:
    """An array arrives as itself, one of numpy's scalars as Python's (so the codec sent it)."""
    if issubclass(annotation, sys.modules["numpy"].generic):
        return shapes.Made(annotation, annotation.__name__, annotation, bool, int, float, complex, str, bytes)
    return shapes.Instance(annotation)


def _with_fields(annotation: Any, origin: Any, known: dict[Any, Shape]) -> Shape | None:
    """Of a model, a dataclass or a TypedDict, its parameters given or not; None: it is another class.

    Args:
        origin: the class itself.
    """
    model = model_shape(annotation, origin, shape_of)
    if model is not None:
        return model
    is_dataclass = dataclasses.is_dataclass(origin)
    if not is_dataclass and not (issubclass(origin, dict) and hasattr(origin, "__required_keys__")):
        return None
    key = annotation if is_hashable(annotation) else repr(annotation)  # the metadata of an Annotated may be anything
    shape = known.get(key)
    if shape is None:
        shape = known[key] = shapes.Fields(origin.__qualname__, origin if is_dataclass else None)
        (_fill_dataclass if is_dataclass else _fill_typed_dict)(shape, origin, hints_of(annotation), known)
    return shape


def _fill_dataclass(shape: shapes.Fields, origin: Any, hints: dict[str, Any], known: dict[Any, Shape]) -> None:
    fields = [field for field in dataclasses.fields(origin) if field.init]
    shape.fields = {field.name: shape_of(hints[field.name], known) for field in fields}
    missing = dataclasses.MISSING
    shape.required = frozenset(
        field.name for field in fields if field.default is missing and field.default_factory is missing
    )


def _fill_typed_dict(shape: shapes.Fields, origin: Any, hints: dict[str, Any], known: dict[Any, Shape]) -> None:
    shape.fields = {name: shape_of(hint, known) for name, hint in hints.items()}
    # __required_keys__ is wrong where annotations are text (as `from __future__ import annotations` makes them).
    optional = {
        name for name, hint in hints.items() if getattr(typing.get_origin(hint), "_name", None) == "NotRequired"
    }
    required = {name for name, hint in hints.items() if getattr(typing.get_origin(hint), "_name", None) == "Required"}
    shape.required = frozenset((origin.__required_keys__ - optional) | required)
