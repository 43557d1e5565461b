"""The thread of a client that reads where nobody else does, and completes the futures of submitted calls."""

from __future__ import annotations

import heapq
import itertools
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import TYPE_CHECKING, Final

from spworkers._locks import Latch
from spworkers.errors import ClosedError
from spworkers.starting import start_thread
from spworkers.waiting import doze
from spworkers.workers.callwaiting import GLIMPSE, HELD_UP

if TYPE_CHECKING:
    from spworkers.waiting import ThreadSleeper
    from spworkers.workers.callline import CallLine
    from spworkers.workers.callwaiting import FutureWaiting

__all__ = ["Collector"]

_LONGEST: Final = 3600.0  # seconds of one sleep


class Collector:
    """Reads for futures, and for tasks of trio; the thread starts with the first of them.

    Compiled, so that no signal's handler comes between two of its lines.

    It says that it sleeps before it looks a last time; who has something for it looks at that after it has put it down.
    """

    def __init__(self, line: CallLine) -> None:
        self._line = line
        self._lock = threading.Lock()
        # Those who need it, and those of them that are futures: an item each, to come and go without a lock, whose
        # wait Ctrl-C may end.
        self._served: list[None] = []
        self._futures: list[None] = []
        self._ready: deque[FutureWaiting] = deque()
        self._deadlines: list[tuple[float, int, FutureWaiting]] = []
        self._order = itertools.count()
        self._until = math.inf  # when it will look by itself
        self._asleep = False
        self._reads = False  # it sleeps on the lane's bell
        self._closed = False
        self.started = False
        self._ident = 0  # its number
        self._process = os.getpid()
        self._ended: Final = Latch()
        self._sleeper: ThreadSleeper | None = None

    def __len__(self) -> int:
        """Futures that are not done."""
        return len(self._futures)

    def begin(self, *, future: bool = False) -> None:
        """Somebody needs it from now on.

        Raises:
            ClosedError: it has ended.
            RuntimeError: the system has no room for another thread, or the interpreter exits.
        """
        interrupt: BaseException | None = None
        with self._lock:
            if self._closed:
                raise ClosedError("the client was closed")
            if not self.started:
                interrupt = start_thread(self._run, "spworkers-client")
                self.started = True
            if interrupt is None:
                self._served.append(None)
                if future:
                    self._futures.append(None)
        if interrupt is not None:
            raise interrupt
        if not self._reads:
            self.wake()

    def end(self, *, future: bool = False) -> None:
        """That is over."""
        self._served.pop()
        if future:
            self._futures.pop()

    @contextmanager
    def serving(self) -> Iterator[None]:
        """For the length of the block somebody needs it."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def watch(self, waiting: FutureWaiting) -> None:
        """A submitted call is about to be sent, and has a deadline perhaps."""
        if waiting.deadline == math.inf:
            return
        with self._lock:
            heapq.heappush(self._deadlines, (waiting.deadline, next(self._order), waiting))
        if waiting.deadline < self._until:
            self.wake()

    def completed(self, waiting: FutureWaiting) -> None:
        """The answer of a submitted call is here."""
        self._ready.append(waiting)
        self.wake()

    def wake(self) -> None:
        """Have it look around, if it sleeps and there may be something for it."""
        if self._asleep and (self._served or self._ready or self._closed) and self._sleeper is not None:
            self._asleep = False
            self._sleeper.ring()

    def help(self, there: Callable[[], bool], seconds: float) -> bool:
        """A callback waits for another future, in the very thread that would complete it: do so meanwhile.

        Returns:
            False: this is another thread.
        """
        if get_ident() != self._ident:
            return False
        deadline = time.monotonic() + seconds
        while not there():
            self._complete()
            if there() or self._closed:
                break
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self._look(min(self._expire(), left))
        return True

    def is_here(self) -> bool:
        """This is its thread."""
        return get_ident() == self._ident

    def close(self) -> None:
        """End the thread, after it has completed what can be completed."""
        with self._lock:
            self._closed = True
        if not self.started or os.getpid() != self._process:  # a forked child has no such thread
            return
        self.wake()
        if get_ident() != self._ident:
            self._ended.wait(math.inf)

    # --- the thread

    def _run(self) -> None:
        self._ident = get_ident()
        self._sleeper = self._line.port.sleepers.mine()
        try:
            while not self._closed:
                self._complete()
                self._look(self._expire())
        finally:
            self._closed = True
            self._line.abandon()  # whatever ended it: nobody is to wait for ever
            self._complete()
            self._ended.set()

    def _complete(self) -> None:
        while self._ready:
            self._ready.popleft().complete()

    def _expire(self) -> float:
        """Give up those whose time is over. Returns the seconds until the next one's."""
        while self._deadlines:
            with self._lock:
                due, _, waiting = self._deadlines[0]
                if not waiting.over and not waiting.future.done() and due > time.monotonic():
                    self._until = due
                    return min(due - time.monotonic(), _LONGEST)
                heapq.heappop(self._deadlines)
            if not waiting.over and not waiting.future.done():
                self._line.too_late(waiting)
                if not waiting.over:
                    with self._lock:
                        heapq.heappush(self._deadlines, (time.monotonic() + GLIMPSE, next(self._order), waiting))
        self._until = math.inf
        return _LONGEST

    def _look(self, patience: float) -> None:
        """Read, if that is ours to do; else sleep until it may be."""
        line = self._line
        if self._served:
            with line.reading() as mine:
                if mine:
                    line.drain()
                    self._asleep = self._reads = True
                    if self._served and not self._ready and not self._closed and not line.port.closed:
                        doze(line.port, patience, line.port.sleepers.mine())
                    self._asleep = self._reads = False
                    line.drain()
                    return
        self._sleep(patience)

    def _sleep(self, patience: float) -> None:
        assert self._sleeper is not None
        self._asleep = True
        work = self._ready or self._closed or (self._served and not self._line.is_read)
        if not work:
            served = len(self._served) > 0
            self._sleeper.rest(max(min(patience, HELD_UP) if served else patience, 0.0))
            if served and not self._ready:  # who reads may be held up
                self._line.drain()
        self._asleep = False
