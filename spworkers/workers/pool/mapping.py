"""`map` and `map_unordered`: many items through one function, in batches, bounded, in order or as they come.

    iterable ─▶ chunk (items, results) ─▶ jobs ─▶ workers ─▶ parts of results ─▶ chunk ─▶ generator

How many items are a batch is found out while it runs: as many as a worker does in `LATER` nanoseconds, one if a task
takes longer than that. With `chunksize=1` every task is a task of its own; where they take microseconds, several share
a record all the same, for as many as are done in `SOON`. A worker that dies in a batch takes only the task that it had
in hand with it.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Final

from spworkers._locks import Gates
from spworkers.errors import SerializationError, SPError
from spworkers.workers.pool.bench import LATER, SOON
from spworkers.workers.pool.describing import describe_item
from spworkers.workers.pool.engine import Engine
from spworkers.workers.pool.functions import Function
from spworkers.workers.pool.jobs import Job, Terms
from spworkers.workers.pool.kinds import BATCH, CALL, EACH, EAGER, KIND, STAR, TIMED
from spworkers.workers.pool.values import PLAIN, Large

__all__ = ["Results", "Stream"]

MOST: Final = 32768
"""Items of a batch, at most: its list is pickled in one go, on both sides."""
_FIRST: Final = 64  # items of the first batch, of which nobody knows yet how large they are
_LONG: Final = 4 << 20  # bytes of a batch, about
_WIDE: Final = 32 << 10  # bytes from which an item goes by itself
_WEIGHT: Final = 256 << 20  # bytes of large items on their way, from which no more are read than workers need
_AHEAD: Final = 64  # items that are on their way at least, however few workers there are

_SLICED: Final = (range, list, tuple)
"""What is cut into batches without looking at each item."""

_MISSING: Final[Any] = object()


class Chunk:
    """Consecutive items, and their results as they come. The owner of the jobs that do them."""

    __slots__ = ("errors", "items", "known", "missing", "position", "results", "stream", "weight", "yielded")

    def __init__(self, stream: Stream, position: int, items: Sequence[Any]) -> None:
        self.stream = stream
        self.position = position
        self.items = items
        self.results: list[Any] = []
        self.errors: dict[int, BaseException] = {}
        self.missing = len(items)
        self.known = 0  # items from the first one on whose results are there
        self.yielded = 0
        self.weight = 0

    def resolve(self, job: Job, value: Any) -> None:
        """A job has brought the results of some items."""
        base: int = job.about
        if job.kind & KIND == BATCH:
            first, results, failed, again = value
            self._fill(base + first, results, failed, {each.about for each in again})
        else:
            self._fill(base, [value], None, ())

    def fail(self, job: Job, error: BaseException) -> None:
        """What is left of a job has failed."""
        base: int = job.about + job.done
        count = job.count - job.done
        self._fill(base, [None] * count, dict.fromkeys(range(count), error), ())

    def cancelled_by_pool(self, job: Job) -> None:
        """The pool was shut down, and what it had not begun was cancelled."""
        self.fail(job, CancelledError())

    def describe(self, job: Job) -> str:
        """What to call a job of one task in a message."""
        stream = self.stream
        item = self.items[job.about]
        return describe_item(job.function.name, self.position + job.about, item if stream.star else (item,))

    def piece(self, job: Job, begin: int, end: int) -> Job:
        """A job for a part of a batch."""
        base = job.about
        piece = self.stream.job_of(self, base + begin, base + end)
        self.note(piece)
        return piece

    def note(self, job: Job) -> None:
        """A job that came about on its way, and is to be taken back with the others."""
        self.stream.note(job)

    def _fill(self, at: int, results: list[Any], failed: dict[int, BaseException] | None, again: Any) -> None:
        stream = self.stream
        count = len(results)
        with stream.lock:
            if at == 0 and count == len(self.items) and not again:
                self.results = results
            else:
                if not self.results:
                    self.results = [_MISSING] * len(self.items)
                self.results[at : at + count] = results
                for index in again:
                    self.results[index] = _MISSING
            if failed:
                for index, error in failed.items():
                    self.errors[at + index] = error
            self.missing -= count - len(again)
            if not self.missing:
                self.known = len(self.items)
            else:
                while self.known < len(self.items) and self.results[self.known] is not _MISSING:
                    self.known += 1
            if not stream.ordered:
                errors = {index: failed[index] for index in failed} if failed else None
                if again:
                    kept = [index for index in range(count) if at + index not in again]
                    errors = {kept.index(index): error for index, error in (failed or {}).items()}
                    results = [results[index] for index in kept]
                stream.arrived.append((self, results, errors))
            stream.news()


class Stream:
    """One call of `map`.

    Args:
        engine: the pool's.
        function: what every item goes through.
        rows: the items.
        star: each item is a tuple of arguments.
        terms: timeout, retries.
        ordered: results in the items' order.
        chunksize: items of a batch; 0: found out.
        buffersize: items that are read and not given back yet, at most; 0: as many as keep the workers busy.
        total: how many items there are, if that is known.
    """

    def __init__(
        self,
        engine: Engine,
        function: Function,
        rows: Iterable[Any],
        *,
        star: bool,
        terms: Terms,
        ordered: bool,
        chunksize: int,
        buffersize: int,
        total: int | None,
    ) -> None:
        self.engine = engine
        self.function = function
        self.star = star
        self.terms = terms
        self.ordered = ordered
        self.lock = threading.RLock()
        self.chunks: deque[Chunk] = deque()
        """Not given back yet; ordered only."""
        self.arrived: deque[tuple[Chunk, list[Any], dict[int, BaseException] | None]] = deque()
        """Unordered only."""
        self._source: Any = rows if type(rows) in _SLICED else None
        self._rows = iter(rows)
        self._chunksize = chunksize
        self._buffersize = buffersize
        self._total = total
        self._read = 0
        self._inside = 0  # items read and not given back
        self._open = 0  # chunks likewise
        self._weight = 0
        self._bytes = 0  # of an item of the last batch
        self._exhausted = False
        self._closed = False
        self._late = False  # the pool was shut down before the input was read
        self._gates: Final = Gates()
        self._jobs: deque[Job] = deque()
        self._kind = BATCH
        if star:
            self._kind |= STAR
        if chunksize == 1:
            self._kind |= EAGER
        if terms.timeout:
            self._kind |= TIMED

    # --- What goes in

    def fill(self) -> None:
        """Read items and hand them to the pool, as many as may be on their way."""
        while not self._exhausted and self._room():
            if self.engine.closing:  # what is on its way is given back first
                self._exhausted = self._late = True
                return
            size = self._size()
            if self._buffersize:
                size = min(size, self._buffersize - self._inside)
            items = self._next(size)
            if len(items) < size:
                self._exhausted = True
            if items:
                self._send(Chunk(self, self._read, items))

    def _next(self, size: int) -> Sequence[Any]:
        source = self._source
        if source is not None:
            items: Sequence[Any] = source[self._read : self._read + size]
            return items
        return list(itertools.islice(self._rows, size))

    def _room(self) -> bool:
        if self._buffersize:
            return self._inside < self._buffersize
        limit = self.engine.dispatcher.limit
        if self._weight > _WEIGHT and self._open >= 2 * limit:
            return False
        return self._open < 4 * limit or self._inside < _AHEAD

    def _size(self) -> int:
        """Items of the next batch."""
        if self._chunksize > 1:
            return self._chunksize
        nanoseconds = self.function.nanoseconds
        if not nanoseconds:  # nobody knows what a task takes: find out
            return 1
        size = (SOON if self._chunksize == 1 else LATER) // nanoseconds
        if self._total is not None:  # the last ones shall end at about the same time
            size = min(size, (self._total - self._read) // (2 * self.engine.dispatcher.limit) + 1)
        if self.engine.dispatcher.max_tasks:
            size = min(size, self.engine.dispatcher.max_tasks)
        most = MOST if self._chunksize != 1 else 128
        if not self._read:
            most = min(most, _FIRST)
        elif self._bytes:
            most = min(most, _LONG // self._bytes)
        return max(1, min(size, most))

    def _send(self, chunk: Chunk) -> None:
        self._read += len(chunk.items)
        self._inside += len(chunk.items)
        self._open += 1
        if self.ordered:
            self.chunks.append(chunk)
        for job in self._jobs_of(chunk):
            self.note(job)
            try:
                self.engine.submit(job)
            except SPError as error:  # shut down in this moment
                chunk.fail(job, error)
        while self._jobs and self._jobs[0].state == 3:  # over
            self._jobs.popleft()
        self._weight += chunk.weight

    def _jobs_of(self, chunk: Chunk) -> Iterator[Job]:
        items = chunk.items
        if self._plain(items):
            if len(items) == 1:
                yield self._single(chunk, 0, self._pack_one(items[0]))
            else:
                payload = self.engine.values.pack_small(items if self._goes(items) else list(items))
                self._bytes = len(payload) // len(items)
                yield Job(self._kind, self.function, payload, None, len(items), chunk, self.terms, 0)
            return
        begin = 0
        small: list[bytes] = []
        for index, item in enumerate(items):
            try:
                packed = self._pack_alone(item, batch=len(items) > 1)
            except Exception as error:
                wrong: Any = _unsendable(self.function, chunk.position + index, error)
            else:
                wrong = None
                if type(packed) is bytes and len(packed) < _WIDE and len(items) > 1:
                    small.append(packed)
                    continue
            if small:
                yield self._several(chunk, begin, small)
            small, begin = [], index + 1
            if wrong is not None:
                chunk._fill(index, [None], {0: wrong}, ())
            else:
                if len(items) > 1:  # packed as an item of a batch: a call has its arguments as a tuple
                    packed = self._pack_alone(item, batch=False)
                chunk.weight += packed.size if isinstance(packed, Large) else len(packed)
                yield self._single(chunk, index, packed)
        if small:
            yield self._several(chunk, begin, small)

    def _plain(self, items: Sequence[Any]) -> bool:
        if type(items) is range:
            return True
        each: Iterable[Any] = itertools.chain.from_iterable(items) if self.star else items
        return PLAIN.issuperset(set(map(type, each)))

    def _goes(self, items: Sequence[Any]) -> bool:
        """Whether they can be packed as they are: lists, and ranges as the three numbers that they are."""
        return type(items) is list or (type(items) is range and self.engine.values.name == "pickle")

    def _pack_one(self, item: Any) -> bytes:
        return self.engine.values.pack_small(item if self.star else (item,))

    def _pack_alone(self, item: Any, *, batch: bool) -> Any:
        return self.engine.values.pack(item if batch or self.star else (item,))

    def _single(self, chunk: Chunk, index: int, packed: Any) -> Job:
        whole = type(packed) is bytes
        return Job(
            CALL,
            self.function,
            packed if whole else None,
            None if whole else packed,
            1,
            chunk,
            self.terms,
            index,
        )

    def _several(self, chunk: Chunk, begin: int, packed: list[bytes]) -> Job:
        import pickle

        payload = pickle.dumps(packed, 5)
        return Job(self._kind | EACH, self.function, payload, None, len(packed), chunk, self.terms, begin)

    def job_of(self, chunk: Chunk, begin: int, end: int) -> Job:
        """A job for some items of a chunk, which were packed before, so they can be."""
        items = chunk.items[begin:end]
        if len(items) == 1:
            return self._single(chunk, begin, self._pack_alone(items[0], batch=False))
        return self._several(chunk, begin, [self._pack_small_alone(item) for item in items])

    def note(self, job: Job) -> None:
        """A job that is to be taken back if the map ends before it."""
        self._jobs.append(job)

    def _pack_small_alone(self, item: Any) -> bytes:
        packed = self._pack_alone(item, batch=True)
        return packed if type(packed) is bytes else b"".join(packed.parts[1:])

    # --- What comes out

    def news(self) -> None:
        """Something has arrived; the lock is held."""
        self._gates.open()

    def ready(self) -> bool:
        """There is something to give back."""
        if not self.ordered:
            return bool(self.arrived)
        chunks = self.chunks
        return bool(chunks) and chunks[0].known > chunks[0].yielded

    def block(self, timeout: float) -> None:
        """Wait without reading."""
        self.engine.call_up()
        self._gates.wait(self.ready, timeout)

    def batches(self, deadline: float, *, return_exceptions: bool) -> Iterator[Iterable[Any]]:
        """The results, some at a time; what is on its way is taken back when the iteration ends early."""
        try:
            while True:
                self.fill()
                if not self.ready():
                    if not self._inside:
                        if self._late and len(self._next(1)):
                            self.engine.refuse()
                        return
                    left = deadline if deadline == float("inf") else deadline - time.monotonic()
                    if not self.engine.wait(self, max(left, 0.0)):
                        self.close(stop=True)
                        raise FutureTimeoutError("the next result is not there in time; the map's tasks are cancelled")
                results, errors = self._take()
                if errors and not return_exceptions:
                    first = min(errors)
                    yield _giving(results[:first])
                    raise errors[first]
                for index, error in errors.items() if errors else ():
                    results[index] = error
                if errors or type(results[0]) not in PLAIN or type(results[-1]) not in PLAIN:
                    yield _giving(results)
                else:
                    yield results
        finally:
            self.close()

    def _take(self) -> tuple[list[Any], dict[int, BaseException] | None]:
        with self.lock:
            if not self.ordered:
                chunk, results, errors = self.arrived.popleft()
                chunk.yielded += len(results)
            else:
                chunk = self.chunks[0]
                begin, end = chunk.yielded, chunk.known
                chunk.yielded = end
                whole = begin == 0 and end == len(chunk.items)
                results = chunk.results if whole else chunk.results[begin:end]
                if not whole:
                    chunk.results[begin:end] = [None] * (end - begin)
                errors = {index - begin: error for index, error in chunk.errors.items() if begin <= index < end}
            self._inside -= len(results)
            if chunk.yielded == len(chunk.items):
                self._open -= 1
                self._weight -= chunk.weight
                if self.ordered:
                    self.chunks.popleft()
            return results, errors

    def close(self, *, stop: bool = False) -> None:
        """Take back what nobody has begun.

        Args:
            stop: what runs is stopped, too.
        """
        if not self._closed:
            self._closed = True
            self._exhausted = True
            for job in list(self._jobs):
                (self.engine.cancel if stop else self.engine.withdraw)(job)
            self._jobs.clear()


class Results:
    """What `map` returns: an iterator; `close()` takes back what nobody has begun."""

    def __init__(self, batches: Iterator[Iterable[Any]]) -> None:
        self._batches = batches
        self._each = itertools.chain.from_iterable(batches)

    def __iter__(self) -> Iterator[Any]:
        return self._each  # a loop goes on at C's speed

    def __next__(self) -> Any:
        return next(self._each)

    def close(self) -> None:
        """Give up the rest."""
        self._batches.close()  # type: ignore[attr-defined]


def _giving(results: list[Any]) -> Iterator[Any]:
    """Each is given away, and not kept here until the last one is."""
    results.reverse()
    while results:
        yield results.pop()


def _unsendable(function: Function, position: int, error: BaseException) -> SerializationError:
    made = SerializationError(
        f"item {position} cannot be sent to {function.name} in a worker: {type(error).__name__}: {error}"
    )
    made.__cause__ = error
    return made
