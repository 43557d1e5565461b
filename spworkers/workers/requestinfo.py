"""What is known of the request that a worker has in hand: for hooks, for log records, for handlers that ask."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Final

from spworkers.waiting import let_go

__all__ = ["RequestInfo", "current"]


class RequestInfo:
    """A request of a handler.

    Attributes:
        handler: the handler's name; of the raw handler, its function's.
        id: the call's id, the same when its client sends it again; 0 for the raw handler.
        args, kwargs: as the handler gets them, checked.
        attempt: 1, and more when it is run again because of `retry_on`.
        began: when its first attempt began, of `time.monotonic`.
        notes: whatever hooks want to keep from `before` to `after`.
    """

    __slots__ = ("_args", "_kwargs", "_notes", "attempt", "began", "handler", "id")

    def __init__(self, handler: str, id_: int, args: list[Any], kwargs: dict[str, Any]) -> None:
        self.handler = handler
        self.id = id_
        self._args = args
        self._kwargs = kwargs
        self.attempt = 1
        self.began = 0.0
        self._notes: dict[str, Any] = {}

    # Hooks may set these, and what was there may have finalizers that look at them: compiled, a plain attribute would
    # let go of it before it has the new one.

    @property
    def args(self) -> list[Any]:
        return self._args

    @args.setter
    def args(self, args: list[Any]) -> None:
        former, self._args = self._args, args
        let_go(former)

    @property
    def kwargs(self) -> dict[str, Any]:
        return self._kwargs

    @kwargs.setter
    def kwargs(self, kwargs: dict[str, Any]) -> None:
        former, self._kwargs = self._kwargs, kwargs
        let_go(former)

    @property
    def notes(self) -> dict[str, Any]:
        return self._notes

    @notes.setter
    def notes(self, notes: dict[str, Any]) -> None:
        former, self._notes = self._notes, notes
        let_go(former)

    @property
    def hex_id(self) -> str:
        """The id as log records show it."""
        return f"{self.id:016x}"

    def __repr__(self) -> str:
        return f"<request {self.hex_id} of {self.handler}, attempt {self.attempt}>"


current: Final[ContextVar[RequestInfo | None]] = ContextVar("spworkers_request", default=None)
"""What this thread, or this task, answers."""
