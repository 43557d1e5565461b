"""What a function that goes by value refers to beside its closure: the globals that travel with it.

    k = 3
    def scaled(x): return shifted(x) * k      # refers to k and shifted, and to what shifted refers to

They are compared by identity. So another value of `k`, or a new definition of `shifted`, is seen; a list to which
something was appended is not.
"""

from __future__ import annotations

import builtins
import types
import weakref
from collections.abc import Iterator
from typing import Any, Final

from spworkers.workers.byvalue import has_file, is_by_value

__all__ = ["Globals", "globals_of"]

_MISSING: Final = object()
_BUILTINS: Final = frozenset(dir(builtins))


class Globals:
    """Names, and what they stood for."""

    def __init__(self) -> None:
        self._seen: list[tuple[dict[str, Any], str, Any]] = []
        self._weak: list[tuple[dict[str, Any], str, weakref.ref[Any]]] = []

    def add(self, space: dict[str, Any], name: str, value: Any) -> None:
        """It stands for this; an object that others may want to get rid of is not kept for it."""
        if not isinstance(value, (types.FunctionType, types.ModuleType, type)):
            try:
                self._weak.append((space, name, weakref.ref(value)))
            except TypeError:
                pass
            else:
                return
        self._seen.append((space, name, value))

    def same(self) -> bool:
        """They stand for the same still."""
        for space, name, value in self._seen:
            if space.get(name, _MISSING) is not value:
                return False
        for space, name, there in self._weak:  # noqa: SIM110  # this is what the compiler makes short
            if space.get(name, _MISSING) is not there():
                return False
        return True

    def __len__(self) -> int:
        return len(self._seen) + len(self._weak)


def globals_of(function: Any) -> Globals | None:
    """What it refers to now; None: nothing, or it goes by name."""
    found = Globals()
    todo: list[Any] = [function]
    done: set[int] = set()
    while todo:
        thing = todo.pop()
        if id(thing) in done or not _travels(thing):
            continue
        done.add(id(thing))
        for each in _functions_of(thing):
            space = each.__globals__
            for name in _names_in(each.__code__):
                value = space.get(name, _MISSING)
                if value is not _MISSING or name not in _BUILTINS:
                    found.add(space, name, value)
                if isinstance(value, (types.FunctionType, type)):
                    todo.append(value)
            todo.extend(_cells_of(each))
    return found if len(found) else None


def _travels(thing: Any) -> bool:
    """It goes by value: its module does, or nobody can import it by its name."""
    module = getattr(thing, "__module__", None)
    if not isinstance(module, str) or module == "builtins":
        return False
    return "<" in getattr(thing, "__qualname__", "") or is_by_value(module) or not has_file(module)


def _functions_of(thing: Any) -> Iterator[types.FunctionType]:
    """Itself, or a class's methods."""
    if isinstance(thing, types.FunctionType):
        yield thing
    elif isinstance(thing, type):
        for value in list(vars(thing).values()):
            inner = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
            if isinstance(inner, types.FunctionType):
                yield inner


def _names_in(code: types.CodeType) -> set[str]:
    """Names that may be globals, also in functions inside."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _names_in(constant)
    return found


def _cells_of(function: types.FunctionType) -> list[Any]:
    found = []
    for cell in function.__closure__ or ():
        try:
            value = cell.cell_contents
        except ValueError:  # it is not filled yet
            continue
        if isinstance(value, (types.FunctionType, type)):
            found.append(value)
    return found
