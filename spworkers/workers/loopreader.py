"""An event loop of asyncio that reads a client's answers for its tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spworkers.workers.callline import CallLine
    from spworkers.workers.callwaiting import TaskWaiting

__all__ = ["LoopReader"]


class LoopReader:
    """An event loop of asyncio, which has the lane's bell in its selector while there are calls of its tasks.

    It stays there a little longer: until it is rung and there are none.

    Attributes:
        thread: the loop's.
        waiting: how many tasks.
        gathering: who is woken now is put into `awake`, and runs as soon as everything was taken.
    """

    def __init__(self, line: CallLine, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.thread = 0
        self.waiting = 0
        self.gathering = False
        self.awake: list[TaskWaiting] = []
        self._line = line
        self._held: Any = None  # keeps the bell open

    def begin(self) -> None:
        """A task is going to wait."""
        self.thread = get_ident()
        self.waiting += 1
        if self._held is None and not self._line.port.closed:
            self._held = self._line.port.held()
            self._held.__enter__()
            self._line.loop_reads(self, True)
            self.loop.add_reader(self._line.port.rx.bell, self.ready)
            self._look()

    def ready(self) -> None:
        """The bell rang: take what there is, have it ring for the next one, and let the tasks go on.

        They run in here as they would in the loop's next turn, each in its own context. It is the loop that calls this,
        so no task is running; and none runs before everybody was told.
        """
        self.gathering = True
        try:
            self._look()
        finally:
            self.gathering = False
            awake = self.awake
            if awake:
                self.awake = []
                self._run(awake)

    def _run(self, awake: list[TaskWaiting]) -> None:
        at = 0
        try:
            while at < len(awake):
                at += 1
                awake[at - 1].run()
        finally:
            for waiting in awake[at:]:  # one of them raised what ends the loop
                waiting.run_soon()

    def _look(self) -> None:
        line = self._line
        rx = line.port.rx
        line.drain()
        while rx.arm():
            if line.port.closed or rx.closed:
                break
            line.drain()
        if self.waiting == 0 or line.port.closed:
            self._leave()

    def _leave(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            if not self.loop.is_closed():
                self.loop.remove_reader(self._line.port.rx.bell)
            self._line.loop_reads(self, False)
            held.__exit__(None, None, None)

    def call(self, function: Callable[[], None]) -> None:
        """Call it in the loop, from another thread."""
        try:
            self.loop.call_soon_threadsafe(function)
        except RuntimeError:
            return  # the loop is closed, and with it whoever waited in it

    def close(self) -> None:
        """The client is closed: leave the bell alone."""
        if self.loop.is_closed() or get_ident() == self.thread:
            self._leave()
        else:
            self.call(self._leave)
