"""Classes of msgspec by value: Structs, whose fields come about with the class, and the bounds of annotations.

A class is made by its metaclass from names and defaults, and is told afterwards what may refer to itself: methods and
the types of its fields, at which msgspec looks when it first needs them.
"""

from __future__ import annotations

import importlib
import sys
import types
import uuid
import weakref
from collections.abc import Callable
from typing import Any, ClassVar, Final, NamedTuple

__all__ = ["forget_lookups", "is_meta", "is_struct", "reduce_meta", "reduce_struct"]

_LOOKUPS: Final = "__msgspec_cache__"
"""What msgspec remembers of a class, of an enum or a dataclass too, when it first meets it."""

_HOW: Final = (
    "frozen",
    "eq",
    "order",
    "array_like",
    "gc",
    "repr_omit_defaults",
    "omit_defaults",
    "forbid_unknown_fields",
    "weakref",
    "dict",
    "cache_hash",
    "tag",
    "tag_field",
)
"""What a class says of itself in the form in which it was told."""

_MADE: Final = frozenset(
    (
        _LOOKUPS,
        "__annotations__",
        "__dict__",
        "__weakref__",
        "__slots__",
        "__match_args__",
        "__orig_bases__",
        "__signature__",
    )
)
"""What comes about with a class."""


_ids: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()
_untold: dict[str, Any] = {}  # made, and to be told the rest
_known: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
"""Classes that have been sent or made here: what comes back is of the same class, and two of one class are alike."""


class _Recipe(NamedTuple):
    """How a class is made; `number` is the same wherever it is known."""

    number: str
    meta: Any
    name: str
    qualname: str
    module: str
    bases: tuple[Any, ...]
    fields: list[str]
    defaults: dict[str, Any]
    factories: dict[str, Any]
    has_post_init: bool
    how: dict[str, Any]


def _msgspec() -> Any:
    return importlib.import_module("msgspec")  # by name: its types may not be at hand


def is_struct(thing: Any) -> bool:
    """Whether it is a class of msgspec's, beside its own."""
    msgspec = sys.modules.get("msgspec")
    struct = getattr(msgspec, "Struct", None)
    return struct is not None and isinstance(thing, type(struct)) and thing is not struct


def reduce_struct(struct: Any) -> tuple[Any, ...]:
    """What pickle is to know of a class: how it is made, and what it is told then."""
    import inspect

    msgspec = _msgspec()
    config = struct.__struct_config__
    own = list(inspect.get_annotations(struct))
    fields = dict(zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True))
    all_defaults = struct.__struct_defaults__
    defaults: dict[str, Any] = {}
    factories: dict[str, Any] = {}
    for name, default in zip(struct.__struct_fields__[len(fields) - len(all_defaults) :], all_defaults, strict=True):
        if name not in own or default is msgspec.NODEFAULT:
            continue
        if hasattr(default, "factory"):
            factories[name] = default.factory
        else:
            defaults[name] = default
    how = {name: getattr(config, name) for name in _HOW if hasattr(config, name)}
    if how["tag"] is None:
        del how["tag"], how["tag_field"]
    how["rename"] = fields
    how["kw_only"] = any(name in fields and name not in struct.__match_args__ for name in own)
    names = [name for name in own if name in fields]
    recipe = _Recipe(
        _ids.get(struct) or _know(struct, uuid.uuid4().hex),
        type(struct),
        struct.__name__,
        struct.__qualname__,
        struct.__module__,
        struct.__dict__.get("__orig_bases__", struct.__bases__),
        names,
        defaults,
        factories,
        "__post_init__" in struct.__dict__,
        how,
    )
    told = {
        name: value
        for name, value in struct.__dict__.items()
        if name not in _MADE and name not in fields and not name.startswith("__struct_")
    }
    kinds = _types_of(struct)
    annotations = {name: kinds[name] if name in fields else ClassVar for name in own}
    return _struct_of, (recipe,), (annotations, told), None, None, _tell


def _types_of(struct: Any) -> dict[str, Any]:
    """Of its fields; as they are written, where that cannot be understood here either."""
    import inspect

    try:
        return {field.name: field.type for field in _msgspec().structs.fields(struct)}
    except Exception:  # a name that only a type checker has, or only a function
        return inspect.get_annotations(struct)


def _know(struct: Any, number: str) -> str:
    _ids[struct] = number
    _known[number] = struct
    return number


def _struct_of(recipe: _Recipe) -> Any:
    known = _known.get(recipe.number)
    if known is not None:
        return known
    field = _msgspec().field

    def fill(body: dict[str, Any]) -> None:
        body.update(__module__=recipe.module, __qualname__=recipe.qualname)
        body.update(__annotations__=dict.fromkeys(recipe.fields, Any))
        body.update(recipe.defaults)
        body.update({name: field(default_factory=factory) for name, factory in recipe.factories.items()})
        if recipe.has_post_init:
            body["__post_init__"] = _Later()

    struct = types.new_class(recipe.name, recipe.bases, {"metaclass": recipe.meta, **recipe.how}, fill)
    _untold[recipe.number] = struct
    _know(struct, recipe.number)
    return struct


def _tell(struct: Any, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    if _untold.pop(_ids[struct], None) is None:
        return
    annotations, told = state
    struct.__annotations__ = annotations
    for name, value in told.items():
        if name == "__post_init__":
            struct.__dict__[name].call = value
        if name not in ("__module__", "__qualname__"):
            setattr(struct, name, value)


class _Later:
    """What a class is to call whenever it was made, which has to be there when the class is made itself."""

    call: Callable[[Any], None]

    def __call__(self, struct: Any) -> None:
        self.call(struct)


def is_meta(thing: Any) -> bool:
    """Whether it is the bounds of an annotation."""
    meta = getattr(sys.modules.get("msgspec"), "Meta", None)
    return meta is not None and type(thing) is meta


def forget_lookups(reduced: Any) -> None:
    """Take out of what cloudpickle says of a class what msgspec remembers of it, which cannot be sent."""
    state = reduced[2] if isinstance(reduced, tuple) and len(reduced) > 2 else None
    if isinstance(state, tuple) and state and isinstance(state[0], dict):
        state[0].pop(_LOOKUPS, None)


def reduce_meta(meta: Any) -> tuple[Any, ...]:
    """What pickle is to know of a `msgspec.Meta`."""
    told = {name: getattr(meta, name) for name in dir(meta) if not name.startswith("_")}
    return _meta_of, ({name: value for name, value in told.items() if value is not None},)


def _meta_of(told: dict[str, Any]) -> Any:
    return _msgspec().Meta(**told)
