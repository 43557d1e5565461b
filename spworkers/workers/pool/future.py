"""The future of a task: one whose waiting thread reads results itself, and whose `cancel` stops the work.

Whoever waits for it in another way, or wants to be called back, calls the collector up.
"""

from __future__ import annotations

from typing import Any

from spworkers.workers.futures import GIVEN_UP, SturdyFuture
from spworkers.workers.pool.describing import describe_call
from spworkers.workers.pool.engine import Engine
from spworkers.workers.pool.jobs import Job

__all__ = ["PoolFuture"]


class PoolFuture(SturdyFuture):
    """What `submit` returns.

    `result` raises TimeoutError: it is not there in time (the task goes on; `options(timeout=)` is what stops it);
    CancelledError: the task was cancelled; WorkerDiedError, TaskTimeoutError, QuarantinedError, SerializationError: see
    there; and what the task has raised, with the worker's traceback as its cause.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine
        self.job: Job | None = None
        """While it is under way."""
        self._called = "?"

    # --- What its users ask

    def _await(self, left: float) -> None:
        self._engine.wait(self, left)

    def _watched(self) -> None:
        self._engine.call_up()

    def done(self) -> bool:
        """Whether it is cancelled or finished."""
        if not self.ready():
            self._engine.glance()
        return self.ready()

    def running(self) -> bool:
        """Whether a worker has the task in hand."""
        return not self.ready() and self.job is not None and self._engine.began(self.job)

    def cancel(self) -> bool:
        """Cancel the task, also when it runs: then its worker is killed and replaced.

        Returns:
            False: it is finished.
        """
        if not self.ready() and self.job is not None and self._engine.cancel_for(self.job, self.__dict__, GIVEN_UP):
            self._tell()
            self._engine.run_callbacks()
        return self.cancelled()

    # --- The owner of a job

    def resolve(self, job: Job, value: Any) -> None:
        """The task has returned."""
        self._finish(value, None)

    def fail(self, job: Job, error: BaseException) -> None:
        """The task has raised, or could not be done."""
        self._finish(None, error)

    def cancelled_by_pool(self, job: Job) -> None:
        """The pool was shut down, and what it had not begun was cancelled."""
        self._decide(GIVEN_UP)

    def describe(self, job: Job) -> str:
        """What to call the task in a message."""
        return describe_call(job.function.name, *job.about)

    def _tell(self) -> None:
        job, self.job = self.job, None  # which knows us: no cycle
        if job is not None:
            self._called = job.function.name
        super()._tell()

    def _call_back(self) -> None:
        self._engine.callbacks.append(self)

    def __repr__(self) -> str:
        return f"<PoolFuture {self._called if self.job is None else self.job.function.name}: {self._said()}>"
