"""The future of a task: a `concurrent.futures.Future` whose waiting thread reads results itself, and whose `cancel`
stops the work.

It has no condition variable until somebody waits for it in the standard way (`wait`, `as_completed`, a callback): most
futures never need one. Whoever makes it one calls the collector up.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Final

from spworkers.workers.pool.describing import describe_call
from spworkers.workers.pool.engine import Engine
from spworkers.workers.pool.jobs import Job
from spworkers.workers.pool.reader import FOREVER
from spworkers.workers.pool.terms import seconds_of

__all__ = ["PoolFuture"]

PENDING: Final = "PENDING"
RUNNING: Final = "RUNNING"
CANCELLED: Final = "CANCELLED"
CANCELLED_AND_NOTIFIED: Final = "CANCELLED_AND_NOTIFIED"
FINISHED: Final = "FINISHED"
"""The states of concurrent.futures."""

_making = threading.RLock()  # while a state changes, or a condition is made: an instant


class PoolFuture(Future[Any]):
    """What `submit` returns."""

    def __init__(self, engine: Engine) -> None:  # instead of the base's, which makes a condition
        self._made: threading.Condition | None = None
        self._state = PENDING
        self._result = None
        self._exception = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Callable[[Any], object]] = []
        self._engine = engine
        self.job: Job | None = None

    @property
    def _condition(self) -> threading.Condition:
        made = self._made
        if made is None:
            with _making:
                if self._made is None:
                    self._made = threading.Condition()
                made = self._made
            if self._state not in _OVER:
                self._engine.call_up()
        return made

    @_condition.setter
    def _condition(self, value: threading.Condition) -> None:
        self._made = value

    # --- What a thread asks

    def result(self, timeout: float | None = None) -> Any:
        """The task's result; waits for it.

        Args:
            timeout: seconds to wait at most; None: for ever. The task goes on; `options(timeout=)` is what stops it.

        Raises:
            TimeoutError: it is not there in time.
            CancelledError: the task was cancelled.
            BadValueError: the timeout is no number of seconds.
            WorkerDiedError, TaskTimeoutError, QuarantinedError, SerializationError: see there.
            Exception: what the task has raised; the worker's traceback is its cause.
        """
        left = _seconds(timeout)
        if self._state != FINISHED:
            self._await(left)
        if self._exception is not None:
            try:
                raise self._exception
            finally:
                self = None  # type: ignore[assignment]  # noqa: PLW0642  # no cycle through the traceback
        return self._result

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the task has raised, or None; waits for it. See `result`."""
        left = _seconds(timeout)
        if self._state != FINISHED:
            self._await(left)
        return self._exception

    def _await(self, seconds: float) -> None:
        self._engine.wait(self, seconds)
        if self._state in _CANCELLED:
            raise CancelledError
        if self._state != FINISHED:
            raise FutureTimeoutError

    def done(self) -> bool:
        """Whether it is cancelled or finished."""
        if self._state not in _OVER:
            self._engine.glance()
        return self._state in _OVER

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._state in _CANCELLED

    def running(self) -> bool:
        """Whether a worker has the task in hand."""
        return self._state == PENDING and self.job is not None and self._engine.began(self.job)

    def cancel(self) -> bool:
        """Cancel the task, also when it runs: then its worker is killed and replaced.

        Returns:
            False: it is finished.
        """
        if self._state in _CANCELLED:
            return True
        if self._state == FINISHED or self.job is None or not self._engine.cancel(self.job):
            return self._state in _CANCELLED
        self._be_cancelled()
        self._engine.run_callbacks()
        return True

    # --- A Target

    def ready(self) -> bool:
        """It is over."""
        return self._state in _OVER

    def block(self, timeout: float) -> None:
        """Wait without reading."""
        with self._condition as condition:
            if self._state not in _OVER:
                self._made.wait(None if timeout == float("inf") else timeout)  # type: ignore[union-attr]
        del condition

    # --- The owner of a job

    def resolve(self, job: Job, value: Any) -> None:
        """The task has returned."""
        self._finish(value, None)

    def fail(self, job: Job, error: BaseException) -> None:
        """The task has raised, or could not be done."""
        self._finish(None, error)

    def cancelled_by_pool(self, job: Job) -> None:
        """The pool was shut down, and what it had not begun was cancelled."""
        self._be_cancelled()

    def describe(self, job: Job) -> str:
        """What to call the task in a message."""
        return describe_call(job.function.name, *job.about)

    def _finish(self, value: Any, error: BaseException | None) -> None:
        with _making:
            if self._state in _OVER:
                return
            self._result = value
            self._exception = error
            if self._made is None:  # nobody waits, and there is no callback
                self._state = FINISHED
                return
        with self._made:
            if self._state in _OVER:
                return
            self._state = FINISHED
            for waiter in self._waiters:
                (waiter.add_result if error is None else waiter.add_exception)(self)
            self._made.notify_all()
        self._have_callbacks_called()

    def _be_cancelled(self) -> None:
        with self._condition as _:
            if self._state in _OVER:
                return
            self._state = CANCELLED_AND_NOTIFIED
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            self._condition.notify_all()
        self._have_callbacks_called()

    def _have_callbacks_called(self) -> None:
        if self._done_callbacks:
            self._engine.callbacks.append(self)

    def __repr__(self) -> str:
        what = self.job.function.name if self.job is not None else "?"
        return f"<PoolFuture {what}: {self._state.lower().replace('_and_notified', '')}>"


def _seconds(timeout: float | None) -> float:
    return FOREVER if timeout is None else seconds_of(timeout, "timeout")


_CANCELLED: Final = frozenset({CANCELLED, CANCELLED_AND_NOTIFIED})
_OVER: Final = frozenset({CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED})


def _forget_in_child() -> None:
    """Whoever held it in the parent is not in the child."""
    global _making
    _making = threading.RLock()


os.register_at_fork(after_in_child=_forget_in_child)
