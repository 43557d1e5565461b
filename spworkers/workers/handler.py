"""What a decorator of an App makes of a function: an object that is still the function, and knows its options."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Generic, ParamSpec, TypeVar

from spworkers._coerce import is_text, seconds
from spworkers.errors import BadOptionError, BadValueError
from spworkers.workers.arguments import Parameters, plain_function
from spworkers.workers.byvalue import is_by_value
from spworkers.workers.quantities import check_count
from spworkers.workers.shapes import closest

__all__ = ["RESERVED", "Handler", "HandlerOptions"]

P = ParamSpec("P")
R = TypeVar("R")

RESERVED: Final = "sp."
"""What the names of built-in handlers begin with, and no other's may."""

_NAME: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_LONGEST_NAME: Final = 255  # as the call format has it


@dataclass(frozen=True)
class HandlerOptions:
    """How a handler is run. None: as the server is told to run all (`App.serve`).

    Attributes:
        timeout: seconds after which its worker is killed and replaced; math.inf: never.
        retries: how often a request goes to another worker when its worker died or ran past its timeout; and how often
            it runs again after an exception of `retry_on`.
        retry_on: exceptions after which it runs again.
    """

    timeout: float | None = None
    retries: int | None = None
    retry_on: tuple[type[BaseException], ...] = ()

    @classmethod
    def check(cls, given: Mapping[str, Any], who: str) -> HandlerOptions:
        """Options as the user wrote them, checked.

        Args:
            who: whose they are, for the errors: `handler add`.

        Raises:
            BadOptionError: there is no such option; it names the nearest.
            BadValueError: the value is of the wrong type or out of its range.
        """
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                nearest = closest(name, [*known, "name"])
                hint = f"; did you mean {nearest[0]!r}?" if nearest else f"; there are name, {', '.join(known)}"
                raise BadOptionError(f"{who}: there is no option {name!r}{hint}", name, nearest)
        timeout, retries = given.get("timeout"), given.get("retries")
        return cls(
            None if timeout is None else check_timeout(timeout, f"{who}: timeout"),
            None if retries is None else check_count(retries, f"{who}: retries"),
            _check_exceptions(given.get("retry_on", ()), f"{who}: retry_on"),
        )


def _check_exceptions(value: Any, who: str) -> tuple[type[BaseException], ...]:
    kinds = value if isinstance(value, (tuple, list)) else (value,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise BadValueError(f"{who} wants classes of exceptions, not {kind!r:.80}")
    return tuple(kinds)


def check_timeout(value: Any, who: str) -> float:
    """Seconds above zero, as a float.

    Raises:
        BadValueError: they are not.
    """
    try:
        number = seconds(value)
    except ValueError as error:
        raise BadValueError(f"{who} {error}") from None
    if number <= 0:
        raise BadValueError(f"{who} is {number:g} s; it must be more than 0 (math.inf: no limit)")
    return number


def check_text(value: Any, who: str) -> str:
    """Text that is not empty.

    Raises:
        BadValueError: it is not.
    """
    if not is_text(value) or not value:
        raise BadValueError(f"{who} is text that is not empty, not {value!r:.80}")
    return value


class Handler(Generic[P, R]):
    """A function that answers requests, and stays a function: calling it calls the function, nothing else.

    Args:
        function: what answers; sync or async.
        name: what callers call it; None: the function's own name.
        raw: it takes and returns bytes, instead of the call format's arguments and value.
        kind: of a raw handler: raw (REP), respondent, consumer or subscriber.
        options: as in HandlerOptions.

    Attributes:
        function: the function itself.
        parameters: its parameters, for checking arguments.
        streams: it is a generator function, whose items are answered one part after another.
        concurrent: it is async: a worker runs many of its requests beside each other.

    Raises:
        BadOptionError, BadValueError: an option, the name or an annotation is wrong.
    """

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str | None = None,
        raw: bool = False,
        options: HandlerOptions | None = None,
        kind: str = "raw",
    ) -> None:
        functools.update_wrapper(self, function)
        self.name = name if name is not None else getattr(function, "__name__", type(function).__name__)
        self.raw = raw
        self.kind = kind if raw else "handler"
        self.options = options or HandlerOptions()
        self.function = function
        plain = plain_function(inspect.unwrap(function))
        self.streams = inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain)
        self.concurrent = inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain)
        if raw and self.streams:
            raise BadValueError(
                f"{self.kind_text} {self.name} is a generator function: a request of bytes has one answer at most"
            )
        self.parameters = Parameters(function, self.name)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    @property
    def kind_text(self) -> str:
        """What it is, for messages."""
        return "raw handler" if self.kind == "raw" else self.kind

    @property
    def doc(self) -> str:
        """The function's docstring, without its indentation; empty if it has none."""
        return inspect.getdoc(self.function) or ""

    def __repr__(self) -> str:
        return f"<{'raw handler' if self.raw else 'handler'} {self.name}{self.parameters.text}>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        # By name where another process can import it, as plain functions go. Not so from __main__, which is never
        # imported a second time: from there it goes by value (cloudpickle).
        module, name = self.__module__, getattr(self, "__qualname__", "")
        if name and getattr(sys.modules.get(module), name, None) is self and not is_by_value(module):
            return name
        return super().__reduce_ex__(protocol)


def check_name(name: Any) -> str:
    """A handler's name: identifiers with dots between them, not of the built-in ones' namespace.

    Raises:
        BadValueError: it is something else.
    """
    if not isinstance(name, str) or len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        raise BadValueError(f"{name!r:.80} is no name for a handler: give it name=..., letters, digits, _ and dots")
    if name.startswith(RESERVED):
        raise BadValueError(f"the handler name {name!r} is taken: what begins with {RESERVED!r} is built in")
    return name
