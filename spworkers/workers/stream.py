"""A stream as its caller sees it: the items of a generator handler, fetched a part at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from spworkers.closing import AsyncClosing
from spworkers.errors import (
    CanceledError,
    ClosedError,
    ProtoOpError,
    ProtoStateError,
    RemoteError,
    SerializationError,
    StreamLostError,
)
from spworkers.workers import callformat

if TYPE_CHECKING:
    from typing_extensions import Self

    from spworkers.workers.answer import Reply
    from spworkers.workers.caller import Caller

__all__ = ["Stream"]

T = TypeVar("T")

_ENDS = (RemoteError, ProtoOpError)
"""Errors that are the end of a stream which has no more: its generator raised one, or it is no stream."""


class Stream(AsyncClosing, Generic[T]):
    """The items of a generator handler, for `for` and `async for`.

    ```python
    for line in logs.tail("app.log"): ...
    async for line in logs.stream("tail", "app.log"): ...
    with logs.tail("app.log") as lines:          # closed at the end of the block, also when that comes early
        first = next(lines)
    ```

    The generator over there runs only as far as it is asked to, one part (64 KiB, or 20 ms) at a time. Closing the
    stream, or dropping it, closes the generator.

    Raises from iteration:
        As `Caller.call`; and StreamLostError: its server went away. RecvTimeoutError: the next part did not come in
        time; the stream has ended. ClosedError: it was closed, by another thread or task, while its next part was
        awaited. ProtoStateError: another thread or task awaits that. Once a wait for a part has ended without it (its
        time was over, it was cancelled, Ctrl-C), who goes on gets StreamLostError: what came was not the whole.
    """

    def __init__(
        self, caller: Caller, name: str, begin: Callable[[], tuple[int, bytes]], patience: Callable[[], float]
    ) -> None:
        self._caller = caller
        self._name = name
        self._begin = begin  # the call's id and bytes
        self._patience = patience  # a deadline for the next part
        self._call_id = 0
        self._number = 0  # of the next part; 0: it is not open yet
        self._pipe = 0
        self._items: deque[Any] = deque()
        self._over = False
        self._closed = False
        self._cut = ""  # what kept it from a part that was to come
        self._awaiting = threading.Lock()  # held by who awaits the next part

    # --- for

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        while not self._items:
            if self._over:
                self._check_whole()
                raise StopIteration
            self._fetch()
        item: T = self._caller._typed(self._name, self._items.popleft())
        return item

    def _fetch(self) -> None:
        with self._waiting() as payload:
            self._take(self._caller._exchange(payload, self._patience(), self._name, self._call_id, self._pipe))

    # --- async for

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._items:
            if self._over:
                self._check_whole()
                raise StopAsyncIteration
            await self._afetch()
        item: T = self._caller._typed(self._name, self._items.popleft())
        return item

    async def _afetch(self) -> None:
        with self._waiting() as payload:
            self._take(await self._caller._aexchange(payload, self._patience(), self._name, self._call_id, self._pipe))

    # --- parts

    @contextmanager
    def _waiting(self) -> Iterator[bytes]:
        """Around the wait of this thread or task for the next part, which these bytes ask for."""
        if not self._awaiting.acquire(False):
            raise ProtoStateError(
                f"{self._name}(): another thread or task awaits the next items of this stream: one may at a time"
            )
        try:
            payload = self._request()
            try:
                yield payload
            except BaseException as error:
                self._end(error)
                raise
        finally:
            self._awaiting.release()

    def _request(self) -> bytes:
        """The bytes that ask for the next part."""
        if self._number == 0:
            self._call_id, payload = self._begin()
            return payload
        from spworkers.workers.callwaiting import left_until

        return callformat.encode_next(self._call_id, self._number, left_until(self._patience()))

    def _take(self, reply: Reply) -> None:
        if self._closed:  # before the server could be told of this part's request
            self._caller._give_up_stream(self._call_id, reply.pipe)
            raise ClosedError("closed meanwhile")
        part = callformat.decode_answer(reply.body, self._name, self._call_id)
        if not isinstance(part, callformat.Part):
            self._over = True
            raise ProtoOpError(f"{self._name}() is no generator handler: it returned one value; use call()")
        self._add(part, reply.pipe)

    def _add(self, part: callformat.Part, pipe: int) -> None:
        self._items.extend(part.items)
        self._pipe = pipe
        self._number += 1
        if part.last:
            self._finish()
        else:
            self._caller._streams[self._call_id] = pipe

    def _check_whole(self) -> None:
        if self._cut:
            raise StreamLostError(
                f"{self._name}(): the stream has ended early: the wait for its next part ended in {self._cut}"
            )

    def _finish(self) -> None:
        self._over = True
        self._caller._streams.pop(self._call_id, None)

    def _opened(self, call_id: int, part: callformat.Part, pipe: int) -> Self:
        """It is open already, with this first part."""
        self._call_id = call_id
        self._add(part, pipe)
        return self

    def _end(self, error: BaseException) -> None:
        self._finish()
        if self._closed and isinstance(error, ClosedError):
            raise ClosedError(f"{self._name}(): the stream was closed while its next part was awaited") from None
        if not isinstance(error, _ENDS):
            self._cut = type(error).__name__
            if self._number:  # the request for the part may have been given up before it was sent
                self._caller._give_up_stream(self._call_id, self._pipe)
        if isinstance(error, CanceledError):
            raise StreamLostError(f"{self._name}(): the connection to the server of this stream is lost") from error

    # --- its end

    def close(self) -> None:
        """Want no more of it: the generator over there is closed, and who awaits a part gets ClosedError.

        A second time, nothing happens.
        """
        self._items.clear()
        self._cut = ""
        if not self._over:
            self._closed = True
            self._finish()
            if self._call_id:
                self._caller._give_up_stream(self._call_id, self._pipe)

    async def aclose(self) -> None:
        """As `close`, which waits for nothing."""
        self.close()

    def __reduce__(self) -> NoReturn:
        raise SerializationError(f"{self!r} can be neither copied nor pickled: its items come to one place")

    def __del__(self) -> None:
        if not getattr(self, "_over", True):
            try:
                self.close()
            except ClosedError:
                return

    def __repr__(self) -> str:
        state = "open" if self._number else "not begun"
        if self._over and not self._items:
            state = "ended early" if self._cut else "at its end"
        return f"<Stream of {self._name}: {state}>"
