"""A poll loop: descriptors, timers, one thread. Nothing that it calls may wait.

poll, not epoll: an epoll set keeps what a forked child still holds open, and the supervisor forks all day.
"""

from __future__ import annotations

import heapq
import itertools
import math
import select
import time
from collections.abc import Callable

__all__ = ["ERROR", "READ", "WRITE", "Loop", "Timer"]

READ = select.POLLIN
WRITE = select.POLLOUT
ERROR = select.POLLERR | select.POLLHUP | select.POLLNVAL


class Timer:
    """A call at a time to come, unless it is cancelled before."""

    __slots__ = ("call", "when")

    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when = when
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """It will not be called. Too late does no harm."""
        self.call = None


class Loop:
    """Calls what waits for descriptors and times."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._calls: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()  # timers of one time keep their order, and are never compared themselves

    def watch(self, fd: int, call: Callable[[int], None], events: int = READ) -> None:
        """Call `call(mask)` whenever the descriptor has one of `events`, an error or a hang-up."""
        self._calls[fd] = call
        self._poll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        """Wait for other events of a watched descriptor."""
        if fd in self._calls:
            self._poll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor; call it before closing it. Not watched: nothing happens."""
        if self._calls.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call `call()` in `seconds`; infinity is never."""
        timer = Timer(time.monotonic() + seconds, call)
        if timer.when == math.inf:
            return timer
        heapq.heappush(self._timers, (timer.when, next(self._order), timer))
        return timer

    def step(self) -> None:
        """Wait for the next event or timer, and make the calls that are due."""
        self.serve(self.wait())

    def wait(self) -> list[tuple[int, int]]:
        """The first half of a step: wait. Returns what `serve` takes."""
        return self._poll.poll(self._patience())

    def serve(self, events: list[tuple[int, int]]) -> None:
        """The second half: make the calls that are due."""
        # Whose events these are is settled first: a call may forget a descriptor, and the next one may watch another
        # file that has its number by now, which these events do not concern.
        for fd, mask, call in [(fd, mask, self._calls.get(fd)) for fd, mask in events]:
            if call is None or self._calls.get(fd) is not call:
                continue
            if mask & select.POLLNVAL:  # somebody closed it first: without this, the loop would spin
                self.unwatch(fd)
            call(mask)
        self._fire()

    def _patience(self) -> float | None:
        """Milliseconds until the next timer; None: none."""
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        if not self._timers or self._timers[0][0] == float("inf"):
            return None
        # Rounded up (poll rounds to nothing below 1 ms, and would spin), and bounded, as poll takes a C int.
        return min(max(0.0, (self._timers[0][0] - time.monotonic()) * 1000 + 1), 86_400_000.0)

    def _fire(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, _, timer = heapq.heappop(self._timers)
            call, timer.call = timer.call, None
            if call is not None:
                call()
