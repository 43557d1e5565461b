"""Driving steps (`spworkers.waiting`) in a task, of asyncio or trio; imported at first use: they are slow to import."""

from __future__ import annotations

import asyncio
import math
import os
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from spworkers.waiting import Sleepers, Steps, T, Wait

if TYPE_CHECKING:
    import trio

__all__ = ["arun"]


async def arun(steps: Steps[T], sleepers: Sleepers) -> T:
    """Drive steps in this task, of asyncio or of trio."""
    answer: Any = None
    me: AsyncioSleeper | TrioSleeper = AsyncioSleeper() if _in_asyncio() else TrioSleeper()
    sleepers.inside.append(me)
    try:
        while True:
            wait = steps.send(answer)
            sleepers.pass_on(wait.side, me)
            try:
                answer = wait.seconds > 0 and await me.sleep(wait)
            except BaseException as interrupt:
                steps.throw(interrupt)
                raise
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        sleepers.inside.remove(me)


# ---- asyncio: one reader a bell, however many tasks wait on it


def _in_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


_Bells = dict[int, set["asyncio.Future[bool]"]]


class AsyncioSleeper:
    """A task of asyncio."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[bool] | None = None
        self.rung = False
        self.asleep = False

    def ring(self) -> None:
        self.rung = True
        try:
            self.loop.call_soon_threadsafe(self._wake)
        except RuntimeError:
            return  # the loop is closed, and with it whoever slept in it

    def _wake(self) -> None:
        if self.future is not None and not self.future.done():
            self.future.set_result(True)

    async def sleep(self, wait: Wait) -> bool:
        """False: the time is over."""
        if self.rung:
            self.rung = False
            return True
        loop, bell = self.loop, wait.side.bell
        bells = _bells_of(loop)
        future: asyncio.Future[bool] = loop.create_future()
        self.future = future
        waiting = bells.get(bell)
        if waiting is None:
            waiting = bells[bell] = set()
            loop.add_reader(bell, _rang, loop, bells, bell)
        waiting.add(future)
        timer = None if wait.seconds == math.inf else loop.call_later(wait.seconds, _time_over, future)
        self.asleep = True
        try:
            return await future
        finally:
            self.rung = self.asleep = False
            if timer is not None:
                timer.cancel()
            waiting.discard(future)
            if not waiting and bells.get(bell) is waiting:
                del bells[bell]
                loop.remove_reader(bell)


def _bells_of(loop: Any) -> _Bells:
    """The bells that tasks of this loop wait on; kept with the loop, so that they go with it."""
    found: _Bells | None = _loops.get(loop)
    if found is None:
        found = _loops[loop] = {}
    return found


_loops: WeakKeyDictionary[Any, _Bells] = WeakKeyDictionary()


def _rang(loop: asyncio.AbstractEventLoop, bells: _Bells, bell: int) -> None:
    loop.remove_reader(bell)
    for future in bells.pop(bell, ()):
        if not future.done():
            future.set_result(True)


def _time_over(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)


# ---- trio: a descriptor has one waiter there, so each waits on a duplicate of its own


class TrioSleeper:
    """A task of trio."""

    def __init__(self) -> None:
        import trio

        self.token = trio.lowlevel.current_trio_token()
        self.scope: trio.CancelScope | None = None
        self.rung: bool = False
        self.asleep = False

    def ring(self) -> None:
        import trio

        self.rung = True
        try:
            self.token.run_sync_soon(self._wake, idempotent=True)
        except trio.RunFinishedError:
            return

    def _wake(self) -> None:
        if self.rung and self.scope is not None:
            self.scope.cancel()

    async def sleep(self, wait: Wait) -> bool:
        """False: the time is over."""
        import trio

        own = os.dup(wait.side.bell)
        self.asleep = True
        try:
            with trio.CancelScope(deadline=trio.current_time() + wait.seconds) as self.scope:
                if not self.rung:
                    await trio.lowlevel.wait_readable(own)
                return True
            return bool(self.rung)
        finally:
            self.scope = None
            self.rung = self.asleep = False
            os.close(own)
