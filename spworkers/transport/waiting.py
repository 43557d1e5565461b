"""Waiting for descriptors on the loop, with limits.

Both asyncio and uvloop offer `sock_recv` and the like, but they differ in what a cancelled call leaves behind, and
they take a unix socket whose connect said EAGAIN for connected. A reader callback and a future have neither
problem, and are the same on both.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable
from types import TracebackType


async def readable(loop: asyncio.AbstractEventLoop, fd: int) -> None:
    """Wait until a descriptor can be read, or is at its end. It must not be closed meanwhile."""
    waiter: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, wake, waiter)
    try:
        await waiter
    finally:
        loop.remove_reader(fd)


async def writable(loop: asyncio.AbstractEventLoop, fd: int) -> None:
    """Wait until a descriptor can be written to, or has failed. It must not be closed meanwhile."""
    waiter: asyncio.Future[None] = loop.create_future()
    loop.add_writer(fd, wake, waiter)
    try:
        await waiter
    finally:
        loop.remove_writer(fd)


def wake(waiter: asyncio.Future[None]) -> None:
    """Let a waiter go on, unless it does already: a level-triggered callback may come twice."""
    if not waiter.done():
        waiter.set_result(None)


class Limit:
    """`async with Limit(loop, seconds, cut_off):` bounds what happens inside.

    When the time is up, or at `cut`, the body is cancelled where it waits, and what `cut_off()` makes is raised in
    place of its CancelledError. A cancellation from elsewhere passes through as it is. (asyncio.timeout is not in
    Python 3.10, and asyncio.wait_for there loses either the result or the cancellation when both come at once.)

    Args:
        loop: the running loop.
        seconds: how long; 0 or infinity: until `cut`.
        cut_off: makes the error.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, cut_off: Callable[[], Exception]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._cut_off = cut_off
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._was_cut = False

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        if self._seconds != 0 and not math.isinf(self._seconds):
            self._timer = self._loop.call_later(max(0.0, self._seconds), self.cut)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._timer is not None:
            self._timer.cancel()
        if not self._was_cut:
            return
        # From 3.11 on a task counts the cancellations that it was asked for; ours is dealt with here.
        left = 0
        if sys.version_info >= (3, 11) and task is not None:
            left = task.uncancel()
        if kind is asyncio.CancelledError and left == 0:
            raise self._cut_off() from None

    def cut(self) -> None:
        """End the body now. Without effect before it has begun, after its end, and the second time."""
        if self._task is not None and not self._was_cut:
            self._was_cut = True
            self._task.cancel()
