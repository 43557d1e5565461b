"""What the fields of a class are when its type parameters are given, as in `Pair[int]` or what derives from that."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from typing import Any

from spworkers.workers.codec import is_hashable

__all__ = ["hints_of"]


def hints_of(annotation: Any) -> dict[str, Any]:
    """The annotations of the fields of a dataclass or TypedDict; parameters that are given are put in.

    Args:
        annotation: the class, or one of its aliases (`Pair[int]`).

    Raises:
        NameError: one of them cannot be resolved.
    """
    origin = typing.get_origin(annotation) or annotation
    given: dict[Any, dict[Any, Any]] = {}
    _collect(annotation, None, {}, given)
    if not any(given.values()):
        return typing.get_type_hints(origin, include_extras=True)
    return _merged(origin, given) if hasattr(origin, "__required_keys__") else _inherited(origin, given)


def _inherited(origin: Any, given: dict[Any, dict[Any, Any]]) -> dict[str, Any]:
    """Of a dataclass: each class of its MRO has its own."""
    hints: dict[str, Any] = {}
    for each in reversed(origin.__mro__):
        for name, hint in _own(each).items():
            hints[name] = _filled(hint, given.get(each, {}))
    return hints


def _merged(origin: Any, given: dict[Any, dict[Any, Any]]) -> dict[str, Any]:
    """Of a TypedDict, which has no bases when it is made: each has those of its bases among its own."""
    raw: dict[str, Any] = {}
    hints: dict[str, Any] = {}
    for each in reversed(list(given)):  # bases first
        for name, hint in _own(each).items():
            if name not in raw or raw[name] != hint:  # else it is a base's, and put in there
                raw[name], hints[name] = hint, _filled(hint, given[each])
    return hints


def _own(kind: Any) -> dict[str, Any]:
    names = inspect.get_annotations(kind)
    if not names:
        return {}
    resolved = typing.get_type_hints(kind, include_extras=True)
    return {name: resolved[name] for name in names}


def _collect(alias: Any, owner: Any, outer: dict[Any, Any], given: dict[Any, dict[Any, Any]]) -> None:
    """What the parameters of a class and of its bases stand for.

    Args:
        owner: the class that derives from it, and may have written its arguments as text; None: nobody does.
        outer: what that one's parameters stand for.
    """
    origin = typing.get_origin(alias) or alias
    arguments = [_filled(_resolved(each, owner), outer) for each in typing.get_args(alias)]
    parameters = getattr(origin, "__parameters__", ())
    plain = len(arguments) == len(parameters) and all(isinstance(each, typing.TypeVar) for each in parameters)
    mine = dict(zip(parameters, arguments, strict=True)) if plain else {}
    given.setdefault(origin, mine)
    for base in origin.__dict__.get("__orig_bases__", origin.__bases__):
        kind = typing.get_origin(base) or base
        if isinstance(kind, type) and kind not in (object, dict, typing.Generic, typing.Protocol):
            _collect(base, origin, mine, given)


def _resolved(argument: Any, owner: Any) -> Any:
    """An argument without text in it."""
    if owner is None:
        return argument
    holder = types.SimpleNamespace(__annotations__={"argument": argument})
    names = vars(sys.modules[owner.__module__]) if owner.__module__ in sys.modules else {}
    return typing.get_type_hints(holder, globalns=names, include_extras=True)["argument"]


def _filled(hint: Any, given: dict[Any, Any]) -> Any:
    """An annotation with what its parameters stand for."""
    if isinstance(hint, typing.TypeVar):
        return given.get(hint, hint)
    parameters = getattr(hint, "__parameters__", ())
    if typing.get_origin(hint) is None or not any(each in given for each in parameters):
        return hint
    arguments = tuple(given.get(each, each) for each in parameters)
    try:
        return hint[arguments]
    except TypeError:  # a Union wants them hashable, and the metadata of an Annotated may be anything
        return hint[tuple(each if is_hashable(each) else each.__origin__ for each in arguments)]
