"""Where a pipeline's items come from: what can be asked for the next one, and may say that it has none yet."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Final

from spworkers.errors import BadValueError, ClosedError, RecvTimeoutError
from spworkers.socket import Socket

__all__ = ["END", "NOT_YET", "Source", "check_source", "source_of"]

END: Final = object()
"""There is nothing more."""

NOT_YET: Final = object()
"""Ask again when `pending` is done."""

LOOK = 0.2
"""Seconds after which a source that waits for a message looks whether anybody wants one."""


class Source:
    """Items that are there when they are asked for."""

    pending: Future[Any] | None = None

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items

    def take(self) -> Any:
        """The next item, END or NOT_YET."""
        return next(self._items, END)

    def close(self) -> None:
        """Nobody asks any more."""


class SlowSource(Source):
    """Items that may be long in coming, fetched in a thread of their own, one ahead."""

    def __init__(self, items: Callable[[threading.Event], Iterator[Any]]) -> None:
        self._stop = threading.Event()
        super().__init__(items(self._stop))
        self._asked: queue.SimpleQueue[Future[Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._fetch, name="spworkers-source", daemon=True).start()

    def take(self) -> Any:
        """See `Source`."""
        if self.pending is None:
            self.pending = Future()
            self._asked.put(self.pending)
        if not self.pending.done():
            return NOT_YET
        done, self.pending = self.pending, None
        return done.result()

    def close(self) -> None:
        """See `Source`."""
        self._stop.set()
        self._asked.put(None)

    def _fetch(self) -> None:
        while (future := self._asked.get()) is not None:
            try:
                future.set_result(next(self._items, END))
            except BaseException as error:
                future.set_exception(error)


def check_source(source: Any) -> None:
    """Raise BadValueError if items cannot be read from this."""
    if isinstance(source, Socket) and not source._protocol.receives:
        raise BadValueError(f"read: a {type(source).__name__} receives nothing")
    if not isinstance(source, (Iterable, AsyncIterable)):
        raise BadValueError(f"read: {source!r} is not an iterable, an async iterable or a socket")


def source_of(source: Any, unread: Callable[[Iterator[Any]], Iterator[Any]]) -> Source:
    """The source's items, less those that `unread` leaves out."""
    if isinstance(source, Socket):
        return SlowSource(lambda stop: unread(_messages(source, stop)))
    if isinstance(source, Iterable):
        return Source(unread(iter(source)))
    return SlowSource(lambda stop: unread(_awaited(aiter(source))))


def _messages(socket: Socket, stop: threading.Event) -> Iterator[bytes]:
    """What a socket receives, until it is closed."""
    while not stop.is_set():
        try:
            yield socket.recv(timeout=LOOK)
        except RecvTimeoutError:
            continue
        except ClosedError:
            return


def _awaited(items: AsyncIterator[Any]) -> Iterator[Any]:
    """What an async iterator gives, on an event loop of its own in this thread."""
    loop = asyncio.new_event_loop()

    async def following() -> Any:
        return await anext(items, END)

    try:
        while (item := loop.run_until_complete(following())) is not END:
            yield item
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
