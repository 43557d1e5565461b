"""What a pipeline consists of: stages as data, checked when they are declared."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from spworkers.workers.pool.jobs import Terms

Function = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Work:
    """A stage that calls a function in the workers, item by item.

    `kind` is `map` (one result), `flat_map` (an iterable of results) or `filter` (true: the item goes on); `workers`
    None means as many as there are; `terms` are those of a pool's tasks.
    """

    name: str
    kind: str
    function: Function
    workers: int | None
    ordered: bool
    terms: Terms


@dataclass(frozen=True, slots=True)
class Batch:
    """A stage that makes lists of `size` items, the last one shorter."""

    name: str
    size: int


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
