"""Who waits for the answers of a client: threads, tasks of asyncio and trio, futures."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from spworkers.waiting import FOREVER
from spworkers.workers.answer import Reply

if TYPE_CHECKING:
    from spworkers.waiting import ThreadSleeper
    from spworkers.workers.loopreader import LoopReader

__all__ = ["GLIMPSE", "FutureWaiting", "TaskWaiting", "ThreadWaiting", "TrioWaiting", "Waiting", "left_until"]

GLIMPSE: Final = 0.001
"""Seconds, after which a thread that has taken an answer has told of it, as a rule."""


def left_until(deadline: float) -> float:
    """Seconds until that moment of `time.monotonic`, not below 0."""
    if deadline == FOREVER:
        return deadline
    left: float = deadline - monotonic()
    return left if left > 0.0 else 0.0  # noqa: FURB136 - compiled, `max` is a call


class Waiting:
    """Somebody who waits for an answer.

    Args:
        call_id: of which the server is told, should the call be given up; 0: nothing.

    Attributes:
        reply: the answer.
        error: what came instead.
        over: one of the two is here.
    """

    __slots__ = ("busy", "call_id", "error", "over", "payload", "pinned", "reply", "serial", "ticket")

    def __init__(self, call_id: int) -> None:
        self.call_id = call_id
        self.serial = 0
        self.ticket = 0
        self.payload = b""  # to be sent again, should the server be busy; empty: it is not
        self.busy: list[int] | None = None  # the pipes by which that was said
        self.pinned = 0  # the pipe by which it goes in the end; 0: any
        self.reply: Reply | None = None
        self.error: Exception | None = None
        self.over = False

    def end(self, reply: Reply | None, error: Exception | None) -> None:
        """It has come: any thread may say so, and say it again."""
        self.reply = reply
        self.error = error
        self.over = True

    def result(self) -> Reply:
        """The answer, or raise what came instead."""
        if self.reply is None:
            assert self.error is not None
            raise self.error
        return self.reply


class ThreadWaiting(Waiting):
    """A thread inside `CallLine.call`."""

    __slots__ = ("sleeper", "thread")

    def __init__(self, call_id: int, sleeper: ThreadSleeper) -> None:
        super().__init__(call_id)
        self.sleeper = sleeper
        self.thread: Final = sleeper.thread

    def end(self, reply: Reply | None, error: Exception | None) -> None:
        super().end(reply, error)
        if get_ident() != self.thread:
            self.sleeper.ring()


class TaskWaiting(Waiting):
    """A task of asyncio."""

    __slots__ = ("future", "reader")

    def __init__(self, call_id: int, reader: LoopReader) -> None:
        Waiting.__init__(self, call_id)
        self.reader = reader
        self.future: Any = reader.loop.create_future()

    def end(self, reply: Reply | None, error: Exception | None) -> None:
        self.reply, self.error, self.over = reply, error, True  # as `Waiting.end` has it
        if get_ident() == self.reader.thread:
            self.wake()
        else:
            self.reader.call(self.wake)

    def wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class TrioWaiting(Waiting):
    """A task of trio; the collector reads for it."""

    __slots__ = ("event", "token")

    def __init__(self, call_id: int) -> None:
        super().__init__(call_id)
        import trio

        self.event: Any = trio.Event()
        self.token = trio.lowlevel.current_trio_token()

    def end(self, reply: Reply | None, error: Exception | None) -> None:
        super().end(reply, error)
        import trio

        try:
            self.token.run_sync_soon(self.event.set)
        except trio.RunFinishedError:
            return


class FutureWaiting(Waiting):
    """A submitted call.

    Args:
        completed: called when the answer is here, in whatever thread; `complete` is then due.
        read: makes the result of the answer, or raises.
        explain: gives an error the words of the call.
        deadline: when to give it up, of `time.monotonic`.
    """

    __slots__ = ("completed", "deadline", "explain", "future", "read", "resolved")

    def __init__(
        self,
        call_id: int,
        completed: Callable[[FutureWaiting], None],
        read: Callable[[Reply], Any],
        explain: Callable[[BaseException], BaseException],
        deadline: float,
    ) -> None:
        super().__init__(call_id)
        self.completed = completed
        self.read = read
        self.explain = explain
        self.deadline = deadline
        self.resolved = False
        self.future: Future[Any] = Future()

    def end(self, reply: Reply | None, error: Exception | None) -> None:
        super().end(reply, error)
        self.completed(self)

    def complete(self) -> None:
        """Resolve the future; its callbacks run here."""
        if self.resolved:  # it was told twice
            return
        self.resolved = True
        if not self.future.set_running_or_notify_cancel():
            return
        if self.error is not None:
            self.future.set_exception(self.explain(self.error))
            return
        try:
            result = self.read(self.result())
        except Exception as error:  # what the server answered, RemoteError for instance
            self.future.set_exception(error)
        else:
            self.future.set_result(result)
