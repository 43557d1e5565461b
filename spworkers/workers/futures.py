"""A `concurrent.futures.Future` that Ctrl-C cannot break.

The standard one has a lock, which Python code takes: in `result`, in `wait`, and where it is completed. A signal's
handler that raises right after that leaves it taken; then who completes the future waits for ever, and with him
everybody whose answers he has. Here

* what becomes of a future is decided by one step of the interpreter, once;
* a thread in `result` waits on a lock of its own (`Gates`);
* the standard lock is made when `concurrent.futures.wait` or `as_completed` ask for it, and who completes the future
  waits for it no longer than nobody can hold it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Final

from spworkers._locks import Gates
from spworkers.waiting import FOREVER
from spworkers.workers.quantities import seconds_of

__all__ = ["GIVEN_UP", "CANCELLED", "CallFuture", "SturdyFuture"]

PENDING: Final = "PENDING"
RUNNING: Final = "RUNNING"
CANCELLED: Final = "CANCELLED_AND_NOTIFIED"
FINISHED: Final = "FINISHED"
"""The states of concurrent.futures."""

_INSTANT: Final = 1.0
"""Seconds. The standard lock is held for an instant: who does not get it within that time gets it never."""

Fate = tuple[str, Any, BaseException | None]
"""A state, a result, an error."""

GIVEN_UP: Final[Fate] = (CANCELLED, None, None)

_log: Final = logging.getLogger("concurrent.futures")


class SturdyFuture(Future[Any]):
    """What a call or a task will have come to. Whoever makes it calls `_finish`."""

    _fate: Fate | None = None  # these three get a value of the future's own by `dict.setdefault`, a single step
    _made: threading.Condition | None = None
    _gates: Gates | None = None

    def __init__(self) -> None:  # instead of the base's, which makes a condition
        self._waiters: list[Any] = []
        self._done_callbacks: list[Callable[[Any], object]] = []

    # --- What its users ask

    def result(self, timeout: float | None = None) -> Any:
        """The result; waits for it.

        Args:
            timeout: seconds to wait at most; None: for ever.

        Raises:
            TimeoutError: it is not there in time.
            CancelledError: it was cancelled.
            BadValueError: the timeout is no number of seconds.
            Exception: what came instead of a result.
        """
        _, value, error = self._fate_within(timeout)
        if error is not None:
            try:
                raise error
            finally:
                del self, error  # no cycle through the traceback
        return value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What came instead of a result, or None; waits for it. See `result`."""
        return self._fate_within(timeout)[2]

    def _fate_within(self, timeout: float | None) -> Fate:
        left = FOREVER if timeout is None else seconds_of(timeout, "timeout")
        fate = self._fate
        if fate is None:
            self._await(left)
            fate = self._fate
            if fate is None:
                raise FutureTimeoutError
        if fate[0] == CANCELLED:
            raise CancelledError
        return fate

    def _await(self, left: float) -> None:
        self.block(left)

    def block(self, timeout: float) -> None:
        """Wait for it, at most so many seconds, infinity for ever."""
        gates: Gates = self.__dict__.setdefault("_gates", Gates())
        gates.wait(self.ready, timeout)

    def ready(self) -> bool:
        """It is over, as far as is known."""
        return self._fate is not None

    def done(self) -> bool:
        """Whether it is cancelled or finished."""
        return self._fate is not None

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._fate is not None and self._fate[0] == CANCELLED

    def running(self) -> bool:
        """Whether it is being worked on."""
        return False

    def cancel(self) -> bool:
        """Give it up.

        Returns:
            False: it is finished.
        """
        self._decide(GIVEN_UP)
        return self.cancelled()

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Have `fn(future)` called when it is over; now, if it is. What it raises is logged."""
        if self._fate is None:
            self._watched()
        self._done_callbacks.append(fn)
        if self._fate is not None:  # perhaps in this moment: who decided it may call them as well, each is called once
            self._invoke_callbacks()

    # --- Who completes it

    def _finish(self, value: Any, error: BaseException | None) -> bool:
        """It has this result, or this error. False: it was over before."""
        return self._decide((FINISHED, value, error))

    def _decide(self, fate: Fate) -> bool:
        if not self._settle(fate):
            return False
        self._tell()
        return True

    def _settle(self, fate: Fate) -> bool:
        """Say what becomes of it. False: it was said before."""
        return self.__dict__.setdefault("_fate", fate) is fate

    def _tell(self) -> None:
        """Tell everybody; it is decided."""
        if self._gates is not None:
            self._gates.open()
        if self._made is not None:
            self._tell_waiters()
        if self._done_callbacks:
            self._call_back()

    def _call_back(self) -> None:
        """Have the callbacks called; it is decided."""
        self._invoke_callbacks()

    def _watched(self) -> None:
        """Somebody waits for it in another way than by `result` or `exception`."""

    def set_result(self, result: Any) -> None:
        """As the standard one: for who completes it.

        Raises:
            InvalidStateError: it is over already.
        """
        if not self._finish(result, None):
            raise InvalidStateError(f"{self!r} is over already")

    def set_exception(self, exception: BaseException | None) -> None:
        """As `set_result`."""
        if not self._finish(None, exception):
            raise InvalidStateError(f"{self!r} is over already")

    def set_running_or_notify_cancel(self) -> bool:
        """As the standard one. False: it was cancelled."""
        return not self.cancelled()

    # --- What concurrent.futures knows of its futures

    @property
    def _state(self) -> str:
        fate = self._fate
        if fate is not None:
            return fate[0]
        return RUNNING if self.running() else PENDING

    @_state.setter
    def _state(self, value: str) -> None:
        raise InvalidStateError(f"{self!r}: what becomes of it is not for others to say")

    @property
    def _condition(self) -> threading.Condition:
        made = self._made
        if made is None:
            made = self.__dict__.setdefault("_made", threading.Condition())
            if self._fate is None:
                self._watched()
        return made

    @_condition.setter
    def _condition(self, value: threading.Condition) -> None:
        raise InvalidStateError(f"{self!r} has a lock of its own")

    def _tell_waiters(self) -> None:
        """Those of `wait` and `as_completed`, each of whom holds the lock while it looks at the state and enlists."""
        condition = self._condition
        fate = self._fate
        assert fate is not None
        free = condition.acquire(timeout=_INSTANT)
        try:
            for waiter in self._waiters:
                if _can_be_told(waiter):
                    if fate[0] == CANCELLED:
                        waiter.add_cancelled(self)
                    elif fate[2] is None:
                        waiter.add_result(self)
                    else:
                        waiter.add_exception(self)
        finally:
            if free:
                condition.release()

    def _invoke_callbacks(self) -> None:
        callbacks = self._done_callbacks
        while callbacks:
            try:
                callback = callbacks.pop(0)
            except IndexError:  # another thread was faster
                return
            try:
                callback(self)
            except BaseException as error:
                # Ctrl-C is the main thread's; in another one, by which others' results come, it is the callback's own.
                if not isinstance(error, Exception) and threading.current_thread() is threading.main_thread():
                    raise
                _log.exception("exception calling callback for %r", self)

    def _said(self) -> str:
        return self._state.lower().replace("_and_notified", "")

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._said()}>"


class CallFuture(SturdyFuture):
    """What `Client.submit` returns.

    Args:
        name: of the handler.
        settle: says what becomes of it, and does what is due at that, so that no Ctrl-C comes between; False: it was
            said before.
        help: for the thread that completes futures, should a callback wait in it: does so until this one is over, or
            so many seconds have passed. False: it is another thread.
    """

    def __init__(
        self,
        name: str,
        settle: Callable[[CallFuture, Fate], bool] | None = None,
        help: Callable[[Callable[[], bool], float], bool] | None = None,
    ) -> None:
        super().__init__()
        self._name = name
        self._settled = settle
        self._help = help

    def _settle(self, fate: Fate) -> bool:
        settle = self._settled
        if settle is None:
            return super()._settle(fate)
        done = settle(self, fate)
        self._settled = self._help = None  # no cycle
        return done

    def _await(self, left: float) -> None:
        if self._help is None or not self._help(self.ready, left):
            self.block(left)

    def __repr__(self) -> str:
        return f"<CallFuture {self._name}: {self._said()}>"


def _can_be_told(waiter: Any) -> bool:
    """Whether the event of a waiter, which has such a lock as well, is not one that Ctrl-C has left taken."""
    lock = getattr(waiter.event, "_cond", None)
    if lock is None or not lock.acquire(timeout=_INSTANT):
        return lock is None
    lock.release()
    return True
