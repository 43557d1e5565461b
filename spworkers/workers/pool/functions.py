"""Functions on their way to workers: each goes once to each worker, and has a number from then on.

A function that can be imported goes by name; what lives in `__main__`, a lambda or a closure goes by value. It is
pickled when it is first used. What a closure holds and what its globals are may change between two uses, in a notebook
above all; so they are compared, and a function that refers to something else now is another one. What an object holds
within is not looked at: `globals.py` says what is.
"""

from __future__ import annotations

import functools
import itertools
import types
from collections import OrderedDict
from typing import Any, Final

from spworkers.errors import SerializationError
from spworkers.workers.byvalue import dumps
from spworkers.workers.pool.globals import Globals, globals_of

__all__ = ["Function", "Functions", "name_of"]

REMEMBERED: Final = 256
"""Functions that are remembered; then the one that was used longest ago is forgotten, by the workers too."""

_PLAIN: Final = (int, float, complex, bool, type(None), str, bytes, types.FunctionType, types.BuiltinFunctionType, type)


class Function:
    """One function, as workers get it.

    Attributes:
        number: what tasks call it by.
        name: what to call it in a message.
        blob: its pickle.
        nanoseconds: what one call of it takes, a moving average; 0: nobody knows yet.
    """

    __slots__ = ("blob", "name", "nanoseconds", "number")

    def __init__(self, number: int, name: str, blob: bytes) -> None:
        self.number = number
        self.name = name
        self.blob = blob
        self.nanoseconds = 0

    def __repr__(self) -> str:
        return f"<Function {self.number}: {self.name}, {len(self.blob)} bytes>"


class Functions:
    """The functions of a pool. One thread at a time."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._by_key: OrderedDict[Any, tuple[Any, Function, Globals | None]] = OrderedDict()
        self.forgotten: list[int] = []
        """Numbers that workers are to forget."""

    def find(self, function: Any) -> Function:
        """The function, numbered.

        Raises:
            SerializationError: it cannot be pickled.
        """
        known = self._current(id(function))
        if known is not None:  # such a key is there only together with its function, so it is this one's
            return known
        held = _held(function)
        if held is None:  # what it holds can change: only its pickle says whether it has
            blob = _pickle(function)
            return self._remember(blob, None, function, blob, None)
        key = (id(function), *map(id, held)) if held else id(function)
        known = self._current(key)
        if known is not None:
            self._by_key.move_to_end(key)
            return known
        seen = globals_of(function)  # before they are pickled: a change meanwhile is seen the next time
        return self._remember(key, (function, held), function, _pickle(function), seen)

    def _current(self, key: Any) -> Function | None:
        """What is known by this key, if its globals are what they were; else that is forgotten."""
        known = self._by_key.get(key)
        if known is None:
            return None
        seen = known[2]
        if seen is None or seen.same():
            return known[1]
        self._forget(key)
        return None

    def _remember(self, key: Any, alive: Any, function: Any, blob: bytes, seen: Globals | None) -> Function:
        known = self._by_key.get(key)
        if known is not None:
            self._by_key.move_to_end(key)
            return known[1]
        made = Function(next(self._numbers), name_of(function), blob)
        self._by_key[key] = (alive, made, seen)
        if len(self._by_key) > REMEMBERED:
            self._forget(next(iter(self._by_key)))
        return made

    def _forget(self, key: Any) -> None:
        self.forgotten.append(self._by_key.pop(key)[1].number)


def _held(function: Any) -> list[Any] | None:
    """What a function's cells hold, if that cannot change within; None: its pickle has to tell."""
    if isinstance(function, types.FunctionType):
        try:
            held = [cell.cell_contents for cell in function.__closure__ or ()]
        except ValueError:  # a cell that is not filled yet
            return None
        return held if all(isinstance(value, _PLAIN) for value in held) else None
    if isinstance(function, types.BuiltinFunctionType):  # of a module; else it is a method of some object
        return [] if isinstance(function.__self__, (types.ModuleType, type(None))) else None
    return [] if isinstance(function, type) else None


def _pickle(function: Any) -> bytes:
    try:
        return dumps(function, getattr(function, "__module__", None))
    except Exception as error:  # whatever the __reduce__ of somebody's object raises
        raise SerializationError(
            f"{name_of(function)} cannot be sent to a worker ({type(error).__name__}: {error}): let it refer to nothing"
            " that cannot be pickled, or put it into a module that can be imported"
        ) from error


def name_of(function: Any) -> str:
    """What to call a function in a message."""
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None)
    if name is None:
        if isinstance(function, functools.partial):
            return f"partial of {name_of(function.func)}"
        return f"{type(function).__qualname__} object"
    return f"{module}.{name}" if module not in {None, "builtins", "__main__"} else str(name)
