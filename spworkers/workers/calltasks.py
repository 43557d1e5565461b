"""Calls by tasks of asyncio and trio, on a client's line."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from anyio import Event, move_on_after

from spworkers.tasks import arun
from spworkers.waiting import Deadline
from spworkers.workers.answer import Reply
from spworkers.workers.callline import CallLine
from spworkers.workers.callwaiting import GLIMPSE, TrioWaiting, left_until
from spworkers.workers.slots import Places

if TYPE_CHECKING:
    from spworkers.workers.callwaiting import Waiting

__all__ = ["acall", "end", "place"]


async def place(places: Places, seconds: float) -> bool:
    """Take a place as soon as those who came before have one. False: not within that time; math.inf: for ever."""
    if places.take():
        return True
    mine = Event()
    places.queue.append(mine)
    try:
        with move_on_after(seconds):
            await mine.wait()
    except BaseException:
        if mine.is_set():  # it was given one all the same
            places.give()
        else:
            places.queue.remove(mine)
        raise
    if mine.is_set():
        return True
    places.queue.remove(mine)
    return False


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
        await waiting
        if not waiting.over:
            await end(line, waiting)
    except BaseException:
        line.forsake(waiting)
        raise
    finally:
        waiting.reader.waiting -= 1
        if timer is not None:
            timer.cancel()
    return waiting.answer()


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
                await end(line, waiting, trio.sleep)
        except BaseException:
            line.forsake(waiting)
            raise
    return waiting.answer()


async def end(line: CallLine, waiting: Waiting, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
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
