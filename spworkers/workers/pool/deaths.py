"""What a worker's death means: which error its task gets, and whether it was its start that killed it."""

from __future__ import annotations

import time
from typing import Final

from spworkers.errors import QuarantinedError, SPError, TaskTimeoutError, WorkerDiedError
from spworkers.workers.pool.crew import Worker
from spworkers.workers.pool.jobs import Job

__all__ = ["Starts", "error_of_death"]

START_DEATHS: Final = 3
"""So many workers in a row that die before they are ready, and tasks fail of it, if none was ever ready."""
START_DEATHS_LATER: Final = 20
"""The same, once one was."""
PAUSE: Final = 0.01
"""Seconds before the next start after so many deaths; twice as long after each further one."""
PAUSE_MAX: Final = 2.0


class Starts:
    """Whether a pool's workers can be started at all."""

    def __init__(self) -> None:
        self.deaths = 0
        """So many in a row died before they were ready."""
        self.worked = False
        """One was ready once: then it may have been bad luck."""
        self.after = 0.0
        """No start before that moment of `time.monotonic`."""

    def ready(self) -> None:
        """A worker is."""
        self.worked = True
        self.deaths = 0

    def died(self) -> None:
        """A worker died that was not ready yet."""
        self.deaths += 1
        if self.slowed:
            self.after = time.monotonic() + min(PAUSE * 2.0 ** (self.deaths - START_DEATHS), PAUSE_MAX)

    @property
    def slowed(self) -> bool:
        """Whether the next one has to wait."""
        return self.deaths >= START_DEATHS

    @property
    def hopeless(self) -> bool:
        """Whether tasks that wait for a worker are to fail of it."""
        return self.deaths >= (START_DEATHS_LATER if self.worked else START_DEATHS)

    def error(self, pool: str, worker: Worker, reason: str, status: int | None) -> WorkerDiedError:
        """What those tasks are told."""
        return WorkerDiedError(
            f"{self.deaths} workers of pool {pool} in a row died at their start, the last one"
            f"{f' (pid {worker.pid})' if worker.pid else ''}: {reason}",
            f"start of {worker.name}",
            worker.pid,
            status,
        )


def error_of_death(worker: Worker, job: Job, why: str, reason: str, status: int | None) -> SPError:
    """The error of a task whose worker died while it had it in hand.

    Args:
        worker: which died.
        job: the task.
        why: for which reason we killed it; empty: it was not us.
        reason: what its end looked like.
        status: its exit code, or minus the signal's number.
    """
    task = job.owner.describe(job)
    if why == "timeout":
        seconds = job.terms.timeout
        times = f", for the {_ordinal(job.attempts)} time" if job.attempts > 1 else ""
        return TaskTimeoutError(
            f"{task} ran longer than its timeout of {seconds:g} s{times}; its worker {worker.name} (pid"
            f" {worker.pid}) was killed",
            task,
            seconds,
        )
    how = why or reason
    died = WorkerDiedError(
        f"worker {worker.name} (pid {worker.pid}) died while it ran {task}: {how}", task, worker.pid, status
    )
    if job.attempts <= 1:
        return died
    error = QuarantinedError(
        f"{task} killed {job.deaths} workers in {job.attempts} attempts and is not tried again; the last one,"
        f" {worker.name} (pid {worker.pid}): {how}",
        task,
        job.deaths,
    )
    error.__cause__ = died
    return error


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
