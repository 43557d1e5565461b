"""The I/O process's event loop, and its watch on what is hot: the socket's bell and its pipes.

Where there is epoll, the loop is asyncio's own with a selector that serves hot descriptors itself, in compiled code,
and returns to asyncio only when something else is ready, a timer is due, or a handler has left work for the loop.
Against uvloop that takes two system calls and a callback's bookkeeping off each message (docs/architecture.md).
Elsewhere the hot ones are readers and writers of uvloop, if there is one, or of asyncio.
"""

from __future__ import annotations

import asyncio
import select
import selectors
import sys
from collections.abc import Callable
from typing import Any, Protocol

from spworkers.protocols import InExchange
from spworkers.ring import BROKEN, HANGUP, POLLER, READABLE, WRITABLE, Courier, Region, hush_bell

ROUNDS = 16
"""Looks at the board in a row, before it is the others' turn."""

LOOK_AFTER = 0.25
"""Seconds between two looks at those of which only the end is asked for, where the loop cannot wait for that."""

ENDED = getattr(select, "POLLRDHUP", 0)
"""What `poll` calls HANGUP; elsewhere it tells of it unasked, as POLLHUP."""

__all__ = ["Watch", "new_loop", "watch_of"]


class Watch(Protocol):
    """Calls for hot descriptors."""

    def attend(self, board: Region, bell: int, look: Callable[[], None], exchange: InExchange = "") -> None:
        """Call `look()` now, and whenever a context has rung at this board, whose bell is `bell`.

        Args:
            board: of the socket's shared memory.
            bell: the I/O process's.
            look: takes what there is.
            exchange: of one that asks or answers: it may look around for a while before it sleeps.
        """

    def employ(self, courier: Courier) -> None:
        """He may be asked first to look at the board, and to read from his pipe: what he sees to needs no call."""

    def behave(self, conduct: Callable[[int, bool], int]) -> None:
        """Have a `Conduct` say now and then how we are among others."""

    def watch(self, fd: int, events: int, call: Callable[[Any, int], None], about: Any) -> None:
        """Call `call(about, events)` when `fd` is READABLE or WRITABLE, as asked, or BROKEN; 0: not any more.

        HANGUP may be asked for too: the peer sends nothing more, whether or not what it had sent was read.

        Args:
            fd: the descriptor.
            events: what to wait for.
            call: the handler. Told of BROKEN it reads until there is nothing more: it may not be called again.
            about: its first argument.
        """


class LoopWatch:
    """The watch of a loop that has readers and writers only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.watched: dict[int, int] = {}
        self.asked: dict[int, tuple[Callable[[Any, int], None], Any]] = {}  # for HANGUP
        self.looking = False

    def attend(self, board: Region, bell: int, look: Callable[[], None], exchange: InExchange = "") -> None:
        """See `Watch`. The bell is silenced, then the board armed: that is what looks once more."""

        def heard() -> None:
            for _ in range(ROUNDS):
                look()
                hush_bell(bell)
                if not board.rearm():
                    return
            self.loop.call_soon(heard)

        self.loop.add_reader(bell, heard)
        self.loop.call_soon(heard)

    def employ(self, courier: Courier) -> None:
        """See `Watch`. He is asked by those who are called."""

    def behave(self, conduct: Callable[[int, bool], int]) -> None:
        """See `Watch`. These systems do as they like."""

    def watch(self, fd: int, events: int, call: Callable[[Any, int], None], about: Any) -> None:
        """See `Watch`. uvloop tells of an error only once, so every call may be the last."""
        before = self.watched.pop(fd, 0)
        if events:
            self.watched[fd] = events
        if events & READABLE and not before & READABLE:
            self.loop.add_reader(fd, call, about, READABLE | BROKEN)
        elif before & READABLE and not events & READABLE:
            self.loop.remove_reader(fd)
        if events & WRITABLE and not before & WRITABLE:
            self.loop.add_writer(fd, call, about, WRITABLE)
        elif before & WRITABLE and not events & WRITABLE:
            self.loop.remove_writer(fd)
        self.asked.pop(fd, None)
        if events & HANGUP:
            self.asked[fd] = call, about
            if not self.looking:
                self.looking = True
                self.loop.call_later(LOOK_AFTER, self.look_after)

    def look_after(self) -> None:
        """Which of those that nobody reads from have ended? A loop of readers and writers cannot wait for that."""
        poll = select.poll()
        for fd in self.asked:
            poll.register(fd, ENDED)
        for fd, _ in poll.poll(0):
            if fd in self.asked:  # else another one's end was its end too
                call, about = self.asked.pop(fd)
                call(about, HANGUP)
        self.looking = bool(self.asked)
        if self.looking:
            self.loop.call_later(LOOK_AFTER, self.look_after)


if sys.platform == "linux" and POLLER:
    from spworkers.ring import Poller

    class HotSelector(selectors.EpollSelector):
        """asyncio's selector, which serves hot descriptors while it waits."""

        def __init__(self, failed: Callable[[Exception], None]) -> None:
            super().__init__()
            self.poller = Poller(self.fileno(), failed)

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            """What else is ready, as asyncio wants it."""
            ready = []
            keys = self.get_map()
            for fd, events in self.poller.poll(-1.0 if timeout is None else max(timeout, 0.0)):
                key = keys.get(fd)
                if key is not None:  # gone since, else
                    read = 0 if events == WRITABLE else selectors.EVENT_READ
                    write = 0 if events == READABLE else selectors.EVENT_WRITE
                    ready.append((key, key.events & (read | write)))
            return ready

    class HotLoop(asyncio.SelectorEventLoop):
        """asyncio's loop on a `HotSelector`. What handlers leave for the loop ends the selector's wait."""

        def __init__(self) -> None:
            selector = HotSelector(self._failed)
            self.poller = selector.poller
            super().__init__(selector)

        def _failed(self, error: Exception) -> None:
            self.call_exception_handler({"message": "a handler of a hot descriptor failed", "exception": error})

        def call_soon(self, *args: Any, **keywords: Any) -> asyncio.Handle:  # type: ignore[override]
            self.poller.stirred = True
            return super().call_soon(*args, **keywords)

        def call_at(self, *args: Any, **keywords: Any) -> asyncio.TimerHandle:  # type: ignore[override]
            self.poller.stirred = True
            return super().call_at(*args, **keywords)

    def new_loop() -> asyncio.AbstractEventLoop:
        """The I/O process's loop."""
        loop = HotLoop()
        loop.set_debug(False)  # `python -X dev` is about the user's code
        return loop

    def watch_of(loop: asyncio.AbstractEventLoop) -> Watch:
        """The watch on hot descriptors that goes with a loop."""
        return loop.poller if isinstance(loop, HotLoop) else LoopWatch(loop)

else:
    try:
        from uvloop import new_event_loop as new_loop
    except ImportError:  # PyPy, or a platform without a wheel
        from asyncio import new_event_loop as new_loop

    def watch_of(loop: asyncio.AbstractEventLoop) -> Watch:
        """The watch on hot descriptors that goes with a loop."""
        return LoopWatch(loop)
