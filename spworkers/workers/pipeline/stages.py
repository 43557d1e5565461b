"""What a pipeline consists of: stages as data, checked when they are declared, and what a worker does for an item."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from spworkers.workers.pool.functions import name_of
from spworkers.workers.pool.jobs import Terms

Function = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Work:
    """A stage that calls a function in the workers, item by item.

    `kind` is `map` (one result), `flat_map` (an iterable of results) or `filter` (true: the item goes on); `workers`
    None means as many as there are; `chunksize` None as many as a worker does in some milliseconds; `terms` are those
    of a pool's tasks.
    """

    name: str
    kind: str
    function: Function
    workers: int | None
    ordered: bool
    terms: Terms
    chunksize: int | None = None

    def called(self) -> Function:
        """What workers call with an item: `map` the function itself."""
        return self.function if self.kind == "map" else _CALLED[self.kind](self.function)

    def words(self) -> str:
        """Its function and options, for people."""
        terms = self.terms
        options = [
            (self.workers is not None, f"{self.workers} worker{'' if self.workers == 1 else 's'}"),
            (not self.ordered, "unordered"),
            (terms.timeout, f"timeout {terms.timeout:g} s"),
            (terms.retries, f"{terms.retries} retr{'y' if terms.retries == 1 else 'ies'}"),
            (self.chunksize is not None, f"chunks of {self.chunksize}"),
        ]
        return ", ".join([f"{self.kind} {name_of(self.function)}", *(words for said, words in options if said)])


@dataclass(frozen=True, slots=True)
class Batch:
    """A stage that makes lists of `size` items, the last one shorter."""

    name: str
    size: int

    def words(self) -> str:
        """What it does, for people."""
        return f"lists of {self.size}"


Stage = Work | Batch


class _Wrapped:
    """A function with another one inside, by whose name it goes in messages."""

    def __init__(self, function: Function) -> None:
        self.function = function
        for name in ("__module__", "__qualname__"):
            if hasattr(function, name):
                vars(self)[name] = getattr(function, name)


class Expanding(_Wrapped):
    """A `flat_map` function whose items are listed where it runs."""

    def __call__(self, value: Any) -> list[Any]:
        result = self.function(value)
        if isinstance(result, (str, bytes)) or not isinstance(result, Iterable):
            raise TypeError(f"a flat_map function returns an iterable of items, not {type(result).__name__}")
        return list(result)


class Asking(_Wrapped):
    """A `filter` function whose answer is a bool where it runs: the item itself has no need to travel back."""

    def __call__(self, value: Any) -> bool:
        return bool(self.function(value))


_CALLED: dict[str, Callable[[Function], Function]] = {"flat_map": Expanding, "filter": Asking}
