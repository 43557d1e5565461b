"""A step for clients of asyncio: many tasks that call without a pause, in a loop that runs in turns with the clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from benchmarks.contract import BUNDLE, IN_FLIGHT, Step


@contextmanager
def calling(call: Callable[[], Awaitable[object]], loop: asyncio.AbstractEventLoop) -> Iterator[Step]:
    """IN_FLIGHT tasks that call; a step lets them run until BUNDLE calls are answered."""
    answered = 0
    wanted = 0
    enough = asyncio.Event()

    async def run() -> None:
        nonlocal answered
        while True:
            await call()
            answered += 1
            if answered >= wanted:
                enough.set()

    async def wait() -> None:
        enough.clear()
        await enough.wait()

    def step() -> int:
        nonlocal wanted
        before = answered
        wanted = answered + BUNDLE
        loop.run_until_complete(wait())
        return answered - before

    tasks = [loop.create_task(run()) for _ in range(IN_FLIGHT)]
    try:
        yield step
    finally:
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
