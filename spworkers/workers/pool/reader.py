"""Who reads a pool's results: whoever waits for one, else the collector; and what the collector does besides: timers.

**The reader's role** belongs to whoever waits. A thread in `result()` takes it, reads what comes, and completes other
threads' futures too; so a result costs it one wake-up, its own. While such guests come and go the collector sleeps, but
for a look once a millisecond; it is called up by whoever waits in another way (`as_completed`, callbacks, asyncio).

Races, and where they are closed:
* two sleep on the pool's bell, a guest and the collector that it relieved, and who wakes first silences it: only the
  reader does that (`_read_once`), and a guest that leaves wakes a collector that sleeps there still (`wait`);
* a worker dies after it has published results: that it did is news, and news come after what the reader before had not
  delivered; what else it published is read before it is buried.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import Any, Final, Protocol

from spworkers._locks import LOOK, Latch
from spworkers.errors import ForkedError
from spworkers.lookaround import LookAround
from spworkers.ring import Region, hush_bell, make_bell, ring_bell, spin_board, wait_readable
from spworkers.starting import start_thread

__all__ = ["FOREVER", "Reader", "Target"]

FOREVER: Final = float("inf")
TICK: Final = 0.001
"""Seconds between two looks of the collector while guests read."""
PATIENCE: Final = 5
"""So many looks without a guest in between, and the collector sleeps on the bell again."""
SPIN: Final = 50e-6
"""Seconds for which a guest looks around before it sleeps: about what a wake-up costs."""


class Target(Protocol):
    """What a thread can wait for."""

    def ready(self) -> bool:
        """It is there."""

    def block(self, timeout: float) -> None:
        """Wait for it without reading, at most so many seconds."""


class Reader:
    """A pool as those see it who wait for it.

    Args:
        name: of the pool.
    """

    __deletable__ = ("region",)  # for the compiler

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid = os.getpid()
        self.forked = False
        """This is a copy in a child that the user forked."""
        self.lock = threading.RLock()
        self.region = Region.create()
        self.bell = make_bell()
        self.call = make_bell()
        self.over = False
        self.ended = Latch()
        self.callbacks: deque[Any] = deque()
        """Futures whose callbacks are to be called by whoever has the time."""
        self._news: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_numbers = itertools.count()
        self._wake_at = FOREVER
        self._reading = threading.Lock()
        self._visits = 0  # of guests
        self._hooks = 0  # of threads that wait for the collector
        self._blocked = 0
        self._parked = False
        self._napping = False
        self._watching = False
        self._rung = False
        self._around = LookAround()
        self._begun = False
        self._collector = 0  # the thread's number

    # --- What the pool adds

    def _read_lanes(self) -> bool:
        """Read everything that is there. Whether there was anything."""
        raise NotImplementedError

    def _at_end(self) -> None:
        """The collector leaves."""
        raise NotImplementedError

    # --- Who waits

    def check_fork(self) -> None:
        """Raise ForkedError in a child that the user forked."""
        if self.forked:
            raise ForkedError(
                f"pool {self.name} belongs to process {self.pid}, its workers answer there; a forked child makes a pool"
                " of its own"
            )

    def wait(self, target: Target, timeout: float) -> bool:
        """Wait for something, reading results meanwhile if nobody else does. False: the time is over."""
        deadline = FOREVER if timeout == FOREVER else time.monotonic() + timeout
        while not target.ready():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.check_fork()
            if not self.over and self._reading.acquire(False):
                try:
                    self._visit(target, deadline)
                finally:
                    self._visits += 1
                    self._reading.release()
                    if self._blocked:
                        self._hooks += 1
                    if self._blocked or self._napping or self._watching:
                        ring_bell(self.call)
                self.run_callbacks()
            else:
                self._blocked += 1
                try:
                    target.block(min(left, LOOK))
                finally:
                    self._blocked -= 1
        return True

    def _visit(self, target: Target, deadline: float) -> None:
        """Read until the target is there, the time is over, or somebody's callbacks want to be called."""
        while True:
            self._read_once()
            if target.ready() or self.callbacks:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                return
            if self._look_around():
                continue
            if not self.region.rearm() and not self._news and wait_readable(self.bell, left):
                self._rung = True

    def _look_around(self) -> bool:
        """Whether a result comes within the time that a wake-up would cost; tried as long as that pays."""
        if not self._around.pays():
            return False
        found = spin_board(self.region, SPIN)
        self._around.tell(found)
        return found

    def _read_once(self) -> bool:
        """What there is to be told, and to be read. Whether anything was read."""
        if self._rung:  # silenced by the reader alone: another sleeper's poll would look again, and sleep on
            self._rung = False
            hush_bell(self.bell)
        while self._news:
            self._news.popleft()()
        return self._read_lanes()

    def visit(self) -> None:
        """Read what is there, if nobody else does; a guest was here."""
        self._visits += 1
        self.glance()

    def glance(self) -> None:
        """Read what is there, if nobody else does."""
        if self._reading.acquire(False):
            try:
                self._read_once()
            finally:
                self._reading.release()
            self.run_callbacks()

    def call_up(self) -> None:
        """Somebody waits who does not read: the collector has to."""
        self._hooks += 1
        if self._parked:
            ring_bell(self.call)

    def run_callbacks(self) -> None:
        """Call the callbacks of futures that are done; not while reading, for they may wait for other futures."""
        while self.callbacks:
            try:
                future = self.callbacks.popleft()
            except IndexError:  # another thread was faster
                return
            future._invoke_callbacks()

    def _tell(self, news: Callable[[], None]) -> None:
        """Have the reader do something; any thread may."""
        self._news.append(news)
        ring_bell(self.bell)
        ring_bell(self.call)

    # --- Time

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Have the collector call something at that moment of `time.monotonic`."""
        with self.lock:
            heapq.heappush(self._timers, (when, next(self._timer_numbers), call))
            early = when < self._wake_at
        if early:
            ring_bell(self.call)

    def _run_timers(self) -> float:
        """Call what is due; returns the seconds until the next."""
        while True:
            with self.lock:
                now = time.monotonic()
                if not self._timers:
                    self._wake_at = FOREVER
                    return FOREVER
                when, _, call = self._timers[0]
                if when > now:
                    self._wake_at = when
                    return when - now
                heapq.heappop(self._timers)
            call()

    # --- The collector

    def _begin(self) -> BaseException | None:
        """Start the thread; returns what `start_thread` does."""
        self._begun = True
        return start_thread(self._collect, f"{self.name}-collector")

    def _collect(self) -> None:
        self._collector = get_ident()
        seen_visits = seen_hooks = patience = 0
        nap = TICK
        while not self.over:
            left = self._run_timers()
            mine = self._reading.acquire(False)
            if mine:
                try:
                    while self._read_once():
                        pass
                finally:
                    self._reading.release()
            self.run_callbacks()
            if self.over:
                break
            visits, hooks = self._visits, self._hooks
            if hooks != seen_hooks:
                patience = 0
            elif not mine or visits != seen_visits:
                patience = PATIENCE
            elif patience:
                patience -= 1
            seen_visits, seen_hooks = visits, hooks
            if not mine:
                nap = min(nap * 2, 0.05)
                self._nap(min(nap, left))
            elif patience:
                nap = TICK
                self._nap(min(nap, left))
            else:
                self._watching = True
                if not self.region.rearm() and not self._news:
                    woken = wait_readable(self.bell, left, self.call)
                    if woken == 1:
                        self._rung = True
                    elif woken == 2:
                        hush_bell(self.call)
                self._watching = False
        self._at_end()
        self.ended.set()

    def _nap(self, seconds: float) -> None:
        """Sleep while others read."""
        self._napping = seconds > TICK
        self._parked = True
        hooks = self._hooks
        busy = self._reading.locked() or not self._napping
        if busy and hooks == self._hooks and wait_readable(self.call, seconds):
            hush_bell(self.call)
        self._parked = self._napping = False

    def await_end(self, timeout: float | None = None) -> bool:
        """Wait until the last worker is gone. Not from the collector, which has to see it."""
        if self.forked or get_ident() == self._collector:
            return False
        return self.ended.wait(FOREVER if timeout is None else timeout)
