"""A pool's future awaited, on asyncio and trio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from spworkers.workers.pool.future import PoolFuture

__all__ = ["in_thread", "result_of"]

T = TypeVar("T")


async def result_of(future: PoolFuture) -> Any:
    """The future's result. Whoever cancels the waiting cancels the task, also while it runs."""
    try:
        if _in_asyncio():
            await _asyncio_done(future)
        else:
            await _trio_done(future)
    finally:
        if not future.done():
            future.cancel()
    return future.result()


def _in_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _asyncio_done(future: PoolFuture) -> None:
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def finish() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def done(_: object) -> None:
        try:
            loop.call_soon_threadsafe(finish)
        except RuntimeError:
            return  # the loop is closed, and with it whoever waited in it

    future.add_done_callback(done)
    await waiter


async def _trio_done(future: PoolFuture) -> None:
    import trio

    token = trio.lowlevel.current_trio_token()
    event = trio.Event()

    def done(_: object) -> None:
        try:
            token.run_sync_soon(event.set)
        except trio.RunFinishedError:
            return

    future.add_done_callback(done)
    await event.wait()


async def in_thread(call: Callable[[], T]) -> T:
    """A call that waits, on a thread of its own."""
    import anyio.to_thread

    return await anyio.to_thread.run_sync(call)
