"""What becomes of what comes through a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spworkers.socket import Socket

__all__ = ["Batches", "Collect", "End", "Fold", "Sent", "Sink"]


class End:
    """An end of one run, of which nothing is left. All of it is called in the thread that runs the pipeline."""

    def take(self, value: Any) -> None:
        """A value came through."""
        raise NotImplementedError

    def idle(self) -> None:
        """Nothing is under way, and the source has nothing now."""

    def finish(self) -> None:
        """Nothing more will come."""

    def close(self) -> None:
        """Let go of what it holds, however the run has ended."""

    def result(self) -> Any:
        """For `report.result`."""
        return None

    def state(self) -> Any:
        """What a checkpoint has to keep of it, beside `fresh`."""
        return None

    def settled(self) -> bool:
        """Nothing that it took would be lost if all processes were killed now; a checkpoint is saved only then."""
        return True

    def fresh(self) -> list[Any]:
        """The results that came since it was asked last; a checkpoint keeps them one by one."""
        return []

    def restore(self, state: Any, results: list[Any]) -> None:
        """Go on from there."""


class Collect(End):
    """All values, in a list."""

    def __init__(self) -> None:
        self._found: list[Any] = []
        self._kept = 0

    def take(self, value: Any) -> None:
        self._found.append(value)

    def result(self) -> list[Any]:
        return self._found

    def fresh(self) -> list[Any]:
        new = self._found[self._kept :]
        self._kept = len(self._found)
        return new

    def restore(self, state: Any, results: list[Any]) -> None:
        self._found = results
        self._kept = len(results)


class Fold(End):
    """`function(so_far, value)`, again and again."""

    def __init__(self, function: Callable[[Any, Any], Any], start: Any) -> None:
        self._function = function
        self._so_far = start

    def take(self, value: Any) -> None:
        self._so_far = self._function(self._so_far, value)

    def result(self) -> Any:
        return self._so_far

    def state(self) -> Any:
        return self._so_far

    def restore(self, state: Any, results: list[Any]) -> None:
        self._so_far = state


class Sink(End):
    """`function(value)` for each."""

    def __init__(self, function: Callable[[Any], object]) -> None:
        self._function = function

    def take(self, value: Any) -> None:
        self._function(value)


class Sent(Sink):
    """Each value as a message. What lies in the socket's queue is lost with its processes."""

    def __init__(self, socket: Socket) -> None:
        super().__init__(socket.send)
        self._lane = socket._port.tx

    def settled(self) -> bool:
        return self._lane.queued == 0


class Batches(End):
    """`function(values)` for lists of `size`, the last one shorter.

    A checkpoint has what is not enough for a list yet. If the source has nothing more for now, as a socket may, a list
    goes as it is: nobody knows when there will be more.
    """

    def __init__(self, function: Callable[[list[Any]], object], size: int) -> None:
        self._function = function
        self._size = size
        self._waiting: list[Any] = []

    def take(self, value: Any) -> None:
        self._waiting.append(value)
        if len(self._waiting) >= self._size:
            self.finish()

    def idle(self) -> None:
        self.finish()

    def finish(self) -> None:
        if self._waiting:
            values, self._waiting = self._waiting, []
            self._function(values)

    def state(self) -> list[Any]:
        return self._waiting

    def restore(self, state: Any, results: list[Any]) -> None:
        self._waiting = state
