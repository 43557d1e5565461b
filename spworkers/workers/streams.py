"""Streams in a worker: generators whose items go out in parts, each when it is asked for.

A part ends with the generator, when it has PART_BYTES or PART_ITEMS, or PART_TIME after it was begun: so small items
travel together, and slow ones are not kept back. Nothing is produced that was not asked for: the generator is at most
one part ahead of its reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from contextvars import Context
from typing import Any, Final, NamedTuple, TypeVar

from spworkers.errors import SerializationError
from spworkers.workers import callformat, packing
from spworkers.workers.answer import Answer
from spworkers.workers.stops import Stopped
from spworkers.workers.timelimit import time_limit

__all__ = ["AsyncStream", "Opening", "Streams", "SyncStream", "Unsendable"]

PART_BYTES: Final = 64 << 10
PART_ITEMS: Final = 1024
PART_TIME: Final = 0.02  # seconds

_CLOSED: Final = "the generator of a stream that was given up"

_log = logging.getLogger("spworkers.workers")


T = TypeVar("T")


class Unsendable(SerializationError):
    """An item that cannot be sent; what hooks are told is its cause."""


class Opening(NamedTuple):
    """What a stream knows of the call that has begun it.

    Attributes:
        call_id: the call's.
        serial: the dispatcher's number for the request.
        context: in which the generator runs, and whoever hears of its end.
        failed: makes the answer of an exception.
        ended: hears of the end, with what the generator raised.
    """

    call_id: int
    serial: int
    context: Context
    failed: Callable[[BaseException], Answer]
    ended: Callable[[BaseException | None], None]


@contextlib.contextmanager
def _logged(stop: type[BaseException]) -> Iterator[None]:
    """Around the end of a generator: what it raises there is nobody's answer. Only a stop comes out."""
    try:
        yield
    except stop:
        raise
    except BaseException:
        _log.exception("a stream's generator failed at its end")


class _Stream:
    """What both kinds of streams remember between two parts."""

    def __init__(self, opening: Opening) -> None:
        self.call_id = opening.call_id
        self.serial = opening.serial
        self.context = opening.context
        self._failed = opening.failed
        self._tell_end: Callable[[BaseException | None], None] | None = opening.ended
        self.number = 0  # of the next part
        self.answer: Answer | None = None  # the last one that was given
        self._failure: BaseException | None = None  # what the generator raised after its last items
        self._over = False
        self._items: list[bytes] = []
        self._size = 0

    def again(self, number: int) -> Answer | None:
        """The part of this number if it is the one that was given last; None: it is the next one.

        Raises:
            LookupError: it is neither.
        """
        if number == self.number:
            return None
        if number == self.number - 1 and self.answer is not None:
            return self.answer
        raise LookupError(number)

    def _add(self, item: object) -> None:
        try:
            encoded = packing.encode(item)
        except SerializationError as error:  # of its own kind: a generator may raise the same
            raise Unsendable(str(error)) from error
        self._items.append(encoded)
        self._size += len(encoded)

    def _is_full(self, begun: float) -> bool:
        return self._size >= PART_BYTES or len(self._items) >= PART_ITEMS or time.monotonic() - begun >= PART_TIME

    def _finish(self) -> Answer:
        """The part of what was gathered. Raises what the generator has raised before its first item."""
        items, self._items, self._size = self._items, [], 0
        if self._failure is not None and not items and self.number == 0 and not isinstance(self._failure, Unsendable):
            self._tell_end = None  # whoever gets this tells
            raise self._failure
        if self._failure is not None and not items:
            self.answer = self._failed(self._failure)
        else:
            over = self._over and self._failure is None
            self.answer = Answer(callformat.encode_part(self.call_id, items, over), True, more=not over)
        self.number += 1
        if not self.answer.more:
            self._end()
        return self.answer

    def _end(self) -> None:
        """It is over, or nobody wants more of it: that is told once, with what the generator has raised."""
        tell, self._tell_end = self._tell_end, None
        if tell is not None:
            tell(self._failure)

    def _ended(self, error: BaseException | None) -> None:
        self._over = True
        self._failure = error


class SyncStream(_Stream):
    """The stream of a generator function."""

    def __init__(self, opening: Opening, generator: Generator[Any, Any, Any]) -> None:
        super().__init__(opening)
        self._generator = generator

    def take(self) -> Answer:
        """The next part; to be called in its context."""
        begun = time.monotonic()
        while not self._over:
            try:
                for item in self._generator:  # one: a StopIteration of the encoding is no end
                    self._add(item)
                    break
                else:
                    self._ended(None)
            except Stopped:
                raise
            except Unsendable as error:
                self._ended(error)
                with _logged(Stopped):  # it is not asked for more
                    self._generator.close()
            except BaseException as error:
                self._ended(error)
            if self._is_full(begun):
                break
        return self._finish()

    def close(self, seconds: float = 0.0) -> None:
        """Have the generator do its `finally`, within so many seconds (0: as long as it takes)."""
        try:
            with _logged(Stopped), time_limit(seconds, _CLOSED):
                self.context.run(self._generator.close)
        finally:
            self.context.run(self._end)


class AsyncStream(_Stream):
    """The stream of an async generator function."""

    def __init__(self, opening: Opening, generator: AsyncGenerator[Any, Any]) -> None:
        super().__init__(opening)
        self._generator = generator
        self.loop: asyncio.AbstractEventLoop | None = None
        """In which it runs."""
        self._item: asyncio.Task[Any] | None = None  # the next item, on its way

    async def take(self) -> Answer:
        """The next part. What it waits for goes on if this is cancelled, until `close`."""
        begun = time.monotonic()
        self.loop = asyncio.get_running_loop()
        while not self._over:
            if self._item is None:
                self._item = self._begin(self._next())
            left = begun + PART_TIME - time.monotonic() if self._items else None
            done, _ = await asyncio.wait({self._item}, timeout=None if left is None else max(left, 0.0))
            if not done:
                break
            self._take_item()
            if isinstance(self._failure, Unsendable):
                await self.close()
            if self._is_full(begun):
                break
        return self.context.run(self._finish)

    def _begin(self, steps: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        loop = asyncio.get_running_loop()
        if sys.version_info >= (3, 11):
            return loop.create_task(steps, context=self.context)
        return self.context.run(loop.create_task, steps)  # in a copy

    def _take_item(self) -> None:
        item, self._item = self._item, None
        assert item is not None
        try:
            kind, value = item.result()
            if kind == _ITEM:
                self._add(value)
            else:
                self._ended(value)
        except BaseException as error:  # it was cancelled, or the item cannot be sent
            self._ended(error)

    async def _next(self) -> tuple[str, Any]:
        # What a task raises may leave it by the loop (SystemExit), or be lost: here nothing is raised.
        try:
            return _ITEM, await self._generator.__anext__()
        except StopAsyncIteration:
            return _END, None
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            return _END, error

    async def close(self, seconds: float = 0.0) -> None:
        """Cancel what it waits for, and have the generator do its `finally`, as with `SyncStream.close`."""
        try:
            with _logged(asyncio.CancelledError), time_limit(seconds, _CLOSED):
                if self._item is not None:
                    self._item.cancel()
                    await asyncio.gather(self._item, return_exceptions=True)
                await self._begin(self._aclose())
        finally:
            self.context.run(self._end)

    def forsake(self) -> None:
        """As `close`, when its loop has ended: that has closed the generator."""
        self.context.run(self._end)

    async def _aclose(self) -> None:
        await self._generator.aclose()


_ITEM: Final = "item"
_END: Final = "end"


class Streams:
    """The open streams of one worker, by the pipe and the id of the calls that began them."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, int], SyncStream | AsyncStream] = {}

    def __len__(self) -> int:
        return len(self._open)

    def get(self, pipe: int, call_id: int) -> SyncStream | AsyncStream | None:
        """The stream of that call; None: there is none."""
        return self._open.get((pipe, call_id))

    def put(self, pipe: int, stream: SyncStream | AsyncStream) -> SyncStream | AsyncStream | None:
        """One more; returns the one whose place it takes, to be closed."""
        former = self._open.get((pipe, stream.call_id))
        self._open[pipe, stream.call_id] = stream
        return former

    def remove(self, pipe: int, stream: SyncStream | AsyncStream) -> None:
        """It has no more parts."""
        if self._open.get((pipe, stream.call_id)) is stream:
            del self._open[pipe, stream.call_id]

    def pop(self, serial: int) -> list[SyncStream | AsyncStream]:
        """Take out the stream that the request of this serial began, to be closed; 0: all of them."""
        found = [key for key, stream in self._open.items() if serial in (0, stream.serial)]
        return [self._open.pop(key) for key in found]
