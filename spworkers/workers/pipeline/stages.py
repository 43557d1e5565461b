"""What a pipeline consists of: stages as data, checked when they are declared."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from spworkers.errors import BadValueError
from spworkers.workers.pool.backoff import Backoff

Function = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Work:
    """A stage that calls a function in the workers, item by item.

    `kind` is `map` (one result), `flat_map` (an iterable of results) or `filter` (true: the item goes on).
    """

    name: str
    kind: str
    function: Function
    workers: int | None
    ordered: bool
    timeout: float | None
    retries: int
    retry_on: tuple[type[BaseException], ...]
    backoff: Backoff

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise BadValueError(f"{self.name}: {self.function!r} is not a function")
        if self.workers is not None and self.workers < 1:
            raise BadValueError(f"{self.name}: workers={self.workers!r}: at least 1, or None for all there are")
        if self.timeout is not None and not self.timeout > 0:
            raise BadValueError(f"{self.name}: timeout={self.timeout!r}: seconds above 0, or None for no limit")
        if self.retries < 0:
            raise BadValueError(f"{self.name}: retries={self.retries!r}: 0 or more")


@dataclass(frozen=True, slots=True)
class Batch:
    """A stage that makes lists of `size` items, the last one shorter."""

    name: str
    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise BadValueError(f"{self.name}: size={self.size!r}: at least 1")


Stage = Work | Batch


def call(kind: str, function: Function, value: Any) -> list[Any]:
    """What a worker does for one item: the items that go on to the next stage."""
    result = function(value)
    if kind == "map":
        return [result]
    if kind == "filter":
        return [value] if result else []
    if isinstance(result, (str, bytes)) or not isinstance(result, Iterable):
        raise TypeError(f"a flat_map function returns an iterable of items, not {type(result).__name__}")
    return list(result)
