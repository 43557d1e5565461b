"""What is known of the request that a worker has in hand: for hooks, for log records, for handlers that ask."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Final

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

    __slots__ = ("args", "attempt", "began", "handler", "id", "kwargs", "notes")

    def __init__(self, handler: str, id_: int, args: list[Any], kwargs: dict[str, Any]) -> None:
        self.handler = handler
        self.id = id_
        self.args = args
        self.kwargs = kwargs
        self.attempt = 1
        self.began = 0.0
        self.notes: dict[str, Any] = {}

    @property
    def hex_id(self) -> str:
        """The id as log records show it."""
        return f"{self.id:016x}"

    def __repr__(self) -> str:
        return f"<request {self.hex_id} of {self.handler}, attempt {self.attempt}>"


current: Final[ContextVar[RequestInfo | None]] = ContextVar("spworkers_request", default=None)
"""What this thread, or this task, answers."""
