"""Awaiting other people's coroutines from compiled ones.

A compiled coroutine passes an exception that is thrown into it on by `throw(type, value, traceback)`, of which Python
3.12 and later say that it is deprecated: in the midst of a user's handler, and where warnings are errors its task is
not cancelled but broken off. So there is this between the two, which is interpreted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from typing import Any

__all__ = ["Awaited"]


class Awaited:
    """What a compiled coroutine awaits instead of `what`.

    It is its own iterator, for one use.
    """

    __slots__ = ("_steps",)

    def __init__(self, what: Awaitable[Any]) -> None:
        self._steps: Any = what.__await__()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self  # type: ignore[return-value]  # as much of one as is asked for

    def __iter__(self) -> Awaited:
        return self

    def __next__(self) -> Any:
        return next(self._steps)

    def send(self, value: object) -> Any:
        return next(self._steps) if value is None else self._steps.send(value)

    def throw(self, kind: Any, value: BaseException | None = None, trace: object = None) -> Any:
        error = value if value is not None else kind
        if not hasattr(self._steps, "throw"):
            raise error if isinstance(error, BaseException) else error()
        return self._steps.throw(error)

    def close(self) -> None:
        if hasattr(self._steps, "close"):
            self._steps.close()
