"""What the fields of a class are when its type parameters are given, as in `Pair[int]` or what derives from that."""

from __future__ import annotations

import inspect
import typing
from typing import Any

__all__ = ["hints_of"]


def hints_of(annotation: Any) -> dict[str, Any]:
    """The annotations of a class's fields, in their order; parameters that are given are put in.

    Args:
        annotation: the class, or one of its aliases (`Pair[int]`).

    Raises:
        NameError: one of them cannot be resolved.
    """
    origin = typing.get_origin(annotation) or annotation
    given: dict[Any, dict[Any, Any]] = {}
    _collect(annotation, {}, given)
    if not any(given.values()):
        return typing.get_type_hints(origin, include_extras=True)
    hints: dict[str, Any] = {}
    merged = hasattr(origin, "__required_keys__")  # a TypedDict has its bases' annotations among its own
    for each in reversed(list(given)):  # bases first
        own = inspect.get_annotations(each)
        resolved = typing.get_type_hints(each, include_extras=True) if own else {}
        for name in own:
            if not (merged and name in hints):
                hints[name] = _filled(resolved[name], given[each])
    return hints


def _collect(alias: Any, outer: dict[Any, Any], given: dict[Any, dict[Any, Any]]) -> None:
    """What the parameters of a class and of its bases stand for, given those of the class that derives from it."""
    origin = typing.get_origin(alias) or alias
    arguments = [_filled(each, outer) for each in typing.get_args(alias)]
    mine = dict(zip(getattr(origin, "__parameters__", ()), arguments, strict=False))
    given.setdefault(origin, mine)
    for base in origin.__dict__.get("__orig_bases__", origin.__bases__):
        kind = typing.get_origin(base) or base
        if isinstance(kind, type) and kind not in (object, dict, typing.Generic, typing.Protocol):
            _collect(base, mine, given)


def _filled(hint: Any, given: dict[Any, Any]) -> Any:
    """An annotation with what its parameters stand for."""
    if isinstance(hint, typing.TypeVar):
        return given.get(hint, hint)
    parameters = getattr(hint, "__parameters__", ())
    if typing.get_origin(hint) is None or not any(each in given for each in parameters):
        return hint
    return hint[tuple(given.get(each, each) for each in parameters)]
