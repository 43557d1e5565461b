"""Calls by tasks of asyncio and trio, on a client's line."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from anyio import Event, move_on_after

from spworkers.tasks import arun
from spworkers.waiting import Deadline
from spworkers.workers.answer import Reply
from spworkers.workers.callline import CallLine
from spworkers.workers.callwaiting import GLIMPSE, TrioWaiting, left_until

if TYPE_CHECKING:
    from spworkers.workers.callwaiting import Waiting

__all__ = ["TaskSlots", "acall"]


class TaskSlots:
    """As `Slots`, for the tasks of one event loop. Who waits gets its place from who gives one back."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._queue: deque[Event] = deque()

    def take(self) -> bool:
        """A place, if there is one."""
        if self._free == 0:
            return False
        self._free -= 1
        return True

    async def wait(self, seconds: float) -> bool:
        """A place, as soon as those who came before have one, or False after that time; math.inf: for ever."""
        if self.take():
            return True
        mine = Event()
        self._queue.append(mine)
        try:
            with move_on_after(seconds):
                await mine.wait()
        except BaseException:
            if mine.is_set():  # it was given one all the same
                self.give()
            else:
                self._queue.remove(mine)
            raise
        if mine.is_set():
            return True
        self._queue.remove(mine)
        return False

    def give(self) -> None:
        """A place is free again."""
        if self._queue:
            self._queue.popleft().set()
        else:
            self._free += 1


async def acall(line: CallLine, payload: bytes, deadline: float, call_id: int, pipe: int) -> Reply:
    """As `CallLine.call`, in a task."""
    loop = asyncio._get_running_loop()
    if loop is None:
        return await _trio_call(line, payload, deadline, call_id, pipe)
    waiting = line.begin_task(loop, call_id)
    timer = None if deadline == math.inf else loop.call_later(left_until(deadline), waiting.wake)
    try:
        if not line.publish(waiting, payload, pipe):
            await _publish(line, waiting, payload, pipe, deadline)
        await waiting.future
        if not waiting.over:
            await _end(line, waiting, asyncio.sleep)
    except BaseException:
        line.give_up(waiting)
        raise
    finally:
        waiting.reader.waiting -= 1
        if timer is not None:
            timer.cancel()
    return waiting.result()


async def _trio_call(line: CallLine, payload: bytes, deadline: float, call_id: int, pipe: int) -> Reply:
    import trio

    waiting = TrioWaiting(call_id)
    with line.collector.serving():
        try:
            if not line.publish(waiting, payload, pipe):
                await _publish(line, waiting, payload, pipe, deadline)
            with trio.CancelScope(deadline=trio.current_time() + left_until(deadline)):
                await waiting.event.wait()
            if not waiting.over:
                await _end(line, waiting, trio.sleep)
        except BaseException:
            line.give_up(waiting)
            raise
    return waiting.result()


async def _end(line: CallLine, waiting: Waiting, sleep: Callable[[float], Awaitable[None]]) -> None:
    """Its time is over."""
    while not waiting.over:
        line.too_late(waiting)
        if not waiting.over:
            await sleep(GLIMPSE)


async def _publish(line: CallLine, waiting: Waiting, payload: bytes, pipe: int, deadline: float) -> None:
    """Wait for room first."""
    port = line.port
    while not line.publish(waiting, payload, pipe):
        room = port.await_room(len(payload), Deadline(left_until(deadline)), force=True)
        await arun(room, port.sleepers)
