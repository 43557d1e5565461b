"""An event loop on a thread of its own, in which a worker's async handlers run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any

__all__ = ["Portal"]


class Portal:
    """Runs awaitables from plain code; the loop starts with the first one.

    The loop lives as long as the worker, and on its own thread: what an async `on_start` opened (connections,
    background tasks) goes on living between requests, also while a plain handler keeps the main thread busy.

    Attributes:
        on_end: called when the loop has ended by itself: somebody stopped it, or closed its descriptors.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closing = False
        self.on_end: Callable[[], object] | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, which runs."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._run, args=(self._loop,), name="spworkers-async", daemon=True)
            self._thread.start()
        return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_forever()
        finally:
            if not self._closing and self.on_end is not None:
                self.on_end()

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """Wait for an awaitable's result, and return or raise it. Left by an exception, it cancels the awaitable."""
        future = asyncio.run_coroutine_threadsafe(_waited(awaitable), self.loop)
        try:
            outcome, error = future.result()
        except BaseException:
            future.cancel()
            raise
        if error is not None:
            raise error
        return outcome

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Run a coroutine, without waiting for it; any thread may say so."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def call(self, function: Callable[[], Any]) -> None:
        """Call a function in the loop, soon; any thread may say so."""
        self.loop.call_soon_threadsafe(function)

    def close(self) -> None:
        """End the loop: tasks that still run are cancelled and waited for."""
        if self._loop is None or self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result()
        self._closing = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = self._thread = None
        self._closing = False


async def _waited(awaitable: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    # SystemExit and KeyboardInterrupt would leave the task by the loop, and end its thread.
    try:
        return await awaitable, None
    except (SystemExit, KeyboardInterrupt) as error:
        return None, error


async def _cancel_all() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
