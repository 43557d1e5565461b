"""Where a pipeline's items come from: what can be asked for the next one, and may say that it has none yet."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Final, Protocol

from spworkers.errors import BadValueError, ClosedError, RecvTimeoutError
from spworkers.socket import Socket

__all__ = ["END", "NOT_YET", "Source", "check_source", "gives_once", "source_of"]

END: Final = object()
"""There is nothing more."""

NOT_YET: Final = object()
"""Ask again when `pending` is done."""

LUMP: Final = 256
"""Items that are fetched at a time, at most: each time costs two switches between threads."""

LOOK: Final = 0.2
"""Seconds after which a source that waits for a message looks whether anybody wants one."""


class Source:
    """Items that are there when they are asked for."""

    pending: Future[Any] | None = None

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items

    def take(self, room: int) -> Any:
        """The next item, END or NOT_YET; there is room for so many."""
        return next(self._items, END)

    def close(self) -> None:
        """Nobody asks any more."""


class Lumps(Protocol):
    """Items that may be long in coming."""

    def lump(self, most: int) -> list[Any]:
        """Wait for the next item; it, and as many others as are there already. END is the last one."""

    def close(self) -> None:
        """Nobody asks any more; called in the thread that asked."""


class SlowSource(Source):
    """Items that may be long in coming, fetched in a thread of their own: as many as are there, and wanted."""

    def __init__(self, lumps: Lumps, stop: threading.Event) -> None:
        self._lumps = lumps
        self._stop = stop
        self._here: deque[Any] = deque()
        self._asked: queue.SimpleQueue[tuple[Future[list[Any]], int] | None] = queue.SimpleQueue()
        threading.Thread(target=self._fetch, name="spworkers-source", daemon=True).start()

    def take(self, room: int) -> Any:
        """See `Source`."""
        if not self._here:
            if self.pending is None:
                self.pending = Future()
                self._asked.put((self.pending, min(room, LUMP)))
            if not self.pending.done():
                return NOT_YET
            done, self.pending = self.pending, None
            self._here.extend(done.result())
        return self._here.popleft()

    def close(self) -> None:
        """See `Source`."""
        self._stop.set()
        self._asked.put(None)

    def _fetch(self) -> None:
        while (asked := self._asked.get()) is not None:
            future, most = asked
            try:
                future.set_result(self._lumps.lump(most))
            except BaseException as error:
                future.set_exception(error)
        self._lumps.close()


def check_source(source: Any) -> None:
    """Raise BadValueError if items cannot be read from this."""
    if isinstance(source, Socket) and not source._protocol.receives:
        raise BadValueError(f"read: a {type(source).__name__} receives nothing")
    if not isinstance(source, (Iterable, AsyncIterable)):
        hint = "; give what it returns when it is called" if callable(source) else ""
        raise BadValueError(f"read: {source!r} is not an iterable, an async iterable or a socket{hint}")


def gives_once(source: Any) -> bool:
    """It is an iterator, such as a generator or a file: what was read of it is not there for the next run."""
    return isinstance(source, (Iterator, AsyncIterator))


def source_of(source: Any) -> Source:
    """The source's items."""
    stop = threading.Event()
    if isinstance(source, Socket):
        return SlowSource(Messages(source, stop), stop)
    if isinstance(source, Iterable):
        return Source(iter(source))
    return SlowSource(Awaited(aiter(source)), stop)


class Messages:
    """What a socket receives, until it is closed."""

    def __init__(self, socket: Socket, stop: threading.Event) -> None:
        self._socket = socket
        self._stop = stop

    def lump(self, most: int) -> list[Any]:
        """See `Lumps`."""
        found: list[Any] = []
        while not self._stop.is_set() and len(found) < most:
            try:
                found.append(self._socket.recv(timeout=0 if found else LOOK))
            except RecvTimeoutError:
                if found:
                    break
            except ClosedError:
                found.append(END)
                break
        return found

    def close(self) -> None:
        """It is the user's, and stays open."""


class Awaited:
    """What an async iterator gives, on an event loop of its own in this thread."""

    def __init__(self, items: AsyncIterator[Any]) -> None:
        self._items = items
        self._loop: asyncio.AbstractEventLoop | None = None
        self._coming: asyncio.Task[Any] | None = None

    def lump(self, most: int) -> list[Any]:
        """See `Lumps`."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(self._some(most))

    async def _some(self, most: int) -> list[Any]:
        coming, self._coming = self._coming, None
        found = [await (coming or self._next())]
        while found[-1] is not END and len(found) < most:
            coming = asyncio.ensure_future(self._next())
            await asyncio.sleep(0)
            if not coming.done() or coming.cancelled() or coming.exception() is not None:
                self._coming = coming  # the next time is waited for it, or it is raised
                break
            found.append(coming.result())
        return found

    async def _next(self) -> Any:
        return await anext(self._items, END)

    def close(self) -> None:
        """See `Lumps`."""
        loop = self._loop
        if loop is None:
            return
        if self._coming is not None:
            self._coming.cancel()
            loop.run_until_complete(asyncio.wait([self._coming]))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
