"""Who waits for the answers of a client: threads, tasks of asyncio and trio, futures."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Generator
from contextvars import Context, copy_context
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, cast

from spworkers.waiting import FOREVER
from spworkers.workers.answer import Reply
from spworkers.workers.futures import CANCELLED, CallFuture

if TYPE_CHECKING:
    from spworkers.waiting import ThreadSleeper
    from spworkers.workers.loopreader import LoopReader
    from spworkers.workers.slots import Places

__all__ = [
    "GLIMPSE",
    "HELD_UP",
    "FutureWaiting",
    "TaskWaiting",
    "ThreadWaiting",
    "TrioWaiting",
    "Waiting",
    "left_until",
]

GLIMPSE: Final = 0.001
"""Seconds, after which a thread that has taken an answer has told of it, as a rule."""

HELD_UP: Final = 0.1
"""Seconds after which who waits for another's reading reads as well: that one may be in a signal's handler, which may
even wait for us. A thread waits twice as long after each time that this was in vain."""


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
        unwanted: nobody wants the answer any more, though it may come.
    """

    __slots__ = ("busy", "call_id", "error", "over", "payload", "pinned", "reply", "serial", "ticket", "unwanted")

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
        self.unwanted = False

    def end(self, reply: Reply | None, error: Exception | None) -> None:
        """It has come: any thread may say so, and say it again."""
        self.reply = reply
        self.error = error
        self.over = True

    def answer(self) -> Reply:
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
        self.thread = sleeper.thread

    def end(self, reply: Reply | None, error: Exception | None) -> None:
        super().end(reply, error)
        if get_ident() != self.thread:
            self.sleeper.ring()


class TaskWaiting(Waiting):
    """A task of asyncio, which awaits this: what it is then told is only that it may look.

    To the task it is a future (`asyncio.isfuture`), whose callbacks a loop's reader runs itself where asyncio's own has
    the loop make a handle and take a turn for each: that was a fifth of what a call costs its client.

    Attributes:
        places: which has one for this call; None: whoever awaits it sees to that.
        size: of the request, in bytes.
        timer: that wakes it when its time is over.
    """

    __slots__ = (
        "_asyncio_future_blocking",
        "_callback",
        "_canceled",
        "_context",
        "_message",
        "_woken",
        "places",
        "reader",
        "size",
        "timer",
    )

    def __init__(self, call_id: int, reader: LoopReader) -> None:
        Waiting.__init__(self, call_id)
        self.reader = reader
        self.places: Places | None = None
        self.size = 0
        self.timer: Any = None
        self._asyncio_future_blocking = False
        self._callback: Callable[[object], object] | None = None
        self._context: Context | None = None
        self._woken = False
        self._canceled = False
        self._message: Any = None

    def end(self, reply: Reply | None, error: Exception | None) -> None:
        self.reply, self.error, self.over = reply, error, True  # as `Waiting.end` has it
        if get_ident() == self.reader.thread:
            self.wake()
        else:
            self.reader.call(self.wake)

    def wake(self) -> None:
        """Have the task look, in the loop's thread; twice is no harm."""
        if self._woken:
            return
        if self.reader.gathering:
            self.reader.awake.append(self)
        else:
            self.run_soon()
        self._woken = True

    def run(self) -> None:
        """Let the task go on here and now: the loop has called, and no task is running."""
        callback, context = self._callback, self._context
        if callback is not None and context is not None:
            self._callback = None
            context.run(callback, self)

    def run_soon(self) -> None:
        """Let the task go on when it is its turn."""
        callback, context = self._callback, self._context
        if callback is not None and context is not None:
            self._callback = None
            self.reader.loop.call_soon(callback, self, context=context)

    # --- what a task asks of a future

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait; only one may. An iterator over what is to be waited for is all that a task needs."""
        awaited: tuple[TaskWaiting, ...] = ()
        if not (self._woken or self.over):
            self._asyncio_future_blocking = True
            awaited = (self,)
        return cast("Generator[Any, Any, None]", iter(awaited))

    def get_loop(self) -> Any:
        return self.reader.loop

    def add_done_callback(self, callback: Callable[[object], object], *, context: Context | None = None) -> None:
        self._callback = callback
        self._context = copy_context() if context is None else context
        if self._woken:
            self.run_soon()

    def cancel(self, msg: object = None) -> bool:
        if self._woken:
            return False
        self._woken = self._canceled = True
        self._message = msg
        self.run_soon()
        return True

    def result(self) -> None:
        """Nothing: whether the answer is here is for the task to see."""
        if self._canceled:
            raise CancelledError if self._message is None else CancelledError(self._message)


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
        name: of the handler.
        completed: called when the answer is here, in whatever thread; `complete` is then due.
        over: called when the future is done, whatever its end; and whether it was canceled.
        help: as `CallFuture` has it.
        read: makes the result of the answer, or raises.
        explain: gives an error the words of the call.
        deadline: when to give it up, of `time.monotonic`.
    """

    __slots__ = ("_over", "completed", "deadline", "explain", "future", "read", "resolved")

    def __init__(
        self,
        name: str,
        call_id: int,
        completed: Callable[[FutureWaiting], None],
        over: Callable[[FutureWaiting, bool], None],
        help: Callable[[Callable[[], bool], float], bool],
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
        self._over = over
        self.future: Any = CallFuture(name, self._settle, help)

    def end(self, reply: Reply | None, error: Exception | None) -> None:
        super().end(reply, error)
        self.completed(self)

    def _settle(self, future: Any, fate: Any) -> bool:  # as a Fate it would be unpacked, and no more the same
        """Compiled, so that nothing comes between."""
        if future.__dict__.setdefault("_fate", fate) is not fate:
            return False
        self._over(self, fate[0] == CANCELLED)
        return True

    def complete(self) -> None:
        """Resolve the future; its callbacks run here."""
        if self.resolved:  # it was told twice
            return
        self.resolved = True
        if self.future.done():
            return
        if self.error is not None:
            self.future._finish(None, self.explain(self.error))
            return
        try:
            result = self.read(self.answer())
        except Exception as error:  # what the server answered, RemoteError for instance
            self.future._finish(None, error)
        else:
            self.future._finish(result, None)
