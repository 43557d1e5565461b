"""A handler's parameters: from its signature, and checked before the function is touched."""

from __future__ import annotations

import contextlib
import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from spworkers.errors import BadArgumentsError, BadValueError
from spworkers.workers.annotations import UnknownShape, shape_of
from spworkers.workers.shapes import Made, Mismatch, Plain, Shape, closest

__all__ = ["Parameters", "plain_function"]

STATE: Final = "state"
"""The keyword-only parameter that gets the worker's state; it is no part of the call."""

_UNDEFINED: Final = (NameError, AttributeError)
"""What annotations raise that name something not (yet) defined."""

_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class _Text:
    """An annotation that is text already: shown without the quotes that `inspect` would put around it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def plain_function(function: Any) -> Any:
    """The function behind a partial, or behind an object that can be called."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function) or inspect.isclass(function) or not hasattr(type(function), "__call__"):  # noqa: B004
        return function
    return type(function).__call__


class Parameters:
    """The parameters of one handler.

    Args:
        function: the handler's function.
        name: the handler's name, for the errors.

    Attributes:
        takes_state: it has a keyword-only parameter `state`.

    Raises:
        BadValueError: an annotation names a type that no call can carry.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self._function = function
        self._name = name
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError) as error:
            raise BadValueError(
                f"handler {name}: {function!r} is no function whose signature can be read: call it in a function of"
                " your own, made with def"
            ) from error
        state = signature.parameters.get(STATE)
        self.takes_state = state is not None and state.kind is inspect.Parameter.KEYWORD_ONLY
        if self.takes_state:
            signature = signature.replace(parameters=[p for p in signature.parameters.values() if p.name != STATE])
        self._signature = signature
        with contextlib.suppress(*_UNDEFINED):  # what they name may be defined further down: then resolve() tells
            self._shapes  # noqa: B018  # a mistake in the annotations is told at import

    def resolve(self) -> None:
        """Make sure that the annotations are understood: called when everything is imported.

        Raises:
            BadValueError: a name in them does not exist, or a type cannot be carried.
        """
        try:
            self._shapes  # noqa: B018
        except _UNDEFINED as error:
            raise BadValueError(f"handler {self._name}: its annotations cannot be read: {error}") from error

    @functools.cached_property
    def _shapes(self) -> dict[str, Shape]:
        try:
            hints = typing.get_type_hints(plain_function(self._function), include_extras=True)
        except (TypeError, SyntaxError) as error:
            raise BadValueError(f"handler {self._name}: its annotations cannot be read: {error}") from error
        shapes = {}
        for name in self._signature.parameters:
            try:
                shapes[name] = shape_of(hints.get(name, Any))
            except UnknownShape as unknown:
                raise BadValueError(f"handler {self._name}: parameter {name!r}: {unknown}") from None
        return shapes

    @functools.cached_property
    def _positional(self) -> tuple[list[tuple[str, Shape]], int]:
        """Parameters that may be given by position, and how many must be: for calls without keywords, the usual ones.

        With *args, **kwargs or a required keyword the count is beyond reach and every call takes the general way.
        """
        parameters = list(self._signature.parameters.values())
        plain = [(p.name, self._shapes[p.name]) for p in parameters if p.kind in _POSITIONAL]
        others = [p for p in parameters if p.kind not in _POSITIONAL]
        if any(p.kind is not p.KEYWORD_ONLY or p.default is p.empty for p in others):
            return plain, len(plain) + 1
        return plain, sum(p.default is p.empty for p in parameters if p.kind in _POSITIONAL)

    @functools.cached_property
    def kinds(self) -> list[type | None]:
        """The types of which values need no closer look, where all positional parameters are given: the usual case.

        Arguments of these types, and no keywords, are bound as they are. None, which is no value's type: of this
        parameter, each does.
        """
        positional, needed = self._positional
        if needed > len(positional):
            return [None]
        return [shape.kind if isinstance(shape, (Plain, Made)) else None for _, shape in positional]

    @property
    def text(self) -> str:
        """The signature as a caller sees it: `(path: str, algorithm: str = 'sha256') -> str`."""

        def shown(annotation: Any) -> Any:
            return _Text(annotation) if isinstance(annotation, str) else annotation

        parameters = [p.replace(annotation=shown(p.annotation)) for p in self._signature.parameters.values()]
        result = self._signature.return_annotation
        return str(self._signature.replace(parameters=parameters, return_annotation=shown(result)))

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments to call the function with, each in the form that its annotation names.

        Raises:
            BadArgumentsError: they do not fit; it names the parameter, what it takes and what came.
        """
        positional, needed = self._positional
        try:
            if not kwargs and list(map(type, args)) == self.kinds:
                return list(args), {}
            if not kwargs and needed <= len(args) <= len(positional):
                return [
                    self._fit(name, shape, value) for (name, shape), value in zip(positional, args, strict=False)
                ], {}
            return self._bind_any(args, kwargs)
        except RecursionError:
            raise BadArgumentsError(f"{self._name}(): the arguments are nested too deeply", self._name) from None

    def _bind_any(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise BadArgumentsError(f"{self._name}(): {error}{self._hint(kwargs)}", self._name) from None
        for name, value in bound.arguments.items():
            shape = self._shapes[name]
            match self._signature.parameters[name].kind:
                case inspect.Parameter.VAR_POSITIONAL:
                    bound.arguments[name] = tuple(self._fit(f"{name}[{i}]", shape, v) for i, v in enumerate(value))
                case inspect.Parameter.VAR_KEYWORD:
                    bound.arguments[name] = {key: self._fit(key, shape, item) for key, item in value.items()}
                case _:
                    bound.arguments[name] = self._fit(name, shape, value)
        return list(bound.args), bound.kwargs

    def _fit(self, name: str, shape: Shape, value: Any) -> Any:
        try:
            return shape.fit(value, False)
        except Mismatch as mismatch:
            raise BadArgumentsError(f"{self._name}(): {name}{mismatch.path}: {mismatch}", self._name) from None

    def _hint(self, kwargs: Mapping[str, Any]) -> str:
        names = self._signature.parameters
        for unknown in (key for key in kwargs if key not in names):
            nearest = closest(unknown, names)
            if nearest:
                return f"; did you mean {nearest[0]!r}?"
        return f"; its signature is {self._name}{self.text}"
