"""What becomes of what comes through a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["Collect", "End", "Fold", "Sink"]


class End(Protocol):
    """An end of one run. All of it is called in the thread that runs the pipeline."""

    def take(self, value: Any) -> None:
        """A value came through."""

    def result(self) -> Any:
        """For `report.result`."""

    def state(self) -> Any:
        """What a checkpoint has to keep of it, beside `fresh`."""

    def fresh(self) -> list[Any]:
        """The results that came since it was asked last; a checkpoint keeps them one by one."""

    def restore(self, state: Any, results: list[Any]) -> None:
        """Go on from there."""


class Collect:
    """All values, in a list."""

    def __init__(self) -> None:
        self._found: list[Any] = []
        self._kept = 0

    def take(self, value: Any) -> None:
        """See `End`."""
        self._found.append(value)

    def result(self) -> list[Any]:
        """See `End`."""
        return self._found

    def state(self) -> None:
        """See `End`."""

    def fresh(self) -> list[Any]:
        """See `End`."""
        new = self._found[self._kept :]
        self._kept = len(self._found)
        return new

    def restore(self, state: Any, results: list[Any]) -> None:
        """See `End`."""
        self._found = results
        self._kept = len(results)


class Fold:
    """`function(so_far, value)`, again and again."""

    def __init__(self, function: Callable[[Any, Any], Any], start: Any) -> None:
        self._function = function
        self._so_far = start

    def take(self, value: Any) -> None:
        """See `End`."""
        self._so_far = self._function(self._so_far, value)

    def result(self) -> Any:
        """See `End`."""
        return self._so_far

    state = result

    def fresh(self) -> list[Any]:
        """See `End`."""
        return []

    def restore(self, state: Any, results: list[Any]) -> None:
        """See `End`."""
        self._so_far = state


class Sink:
    """`function(value)` for each."""

    def __init__(self, function: Callable[[Any], object]) -> None:
        self._function = function

    def take(self, value: Any) -> None:
        """See `End`."""
        self._function(value)

    def result(self) -> None:
        """See `End`."""

    def state(self) -> None:
        """See `End`."""

    def fresh(self) -> list[Any]:
        """See `End`."""
        return []

    def restore(self, state: Any, results: list[Any]) -> None:
        """See `End`."""
