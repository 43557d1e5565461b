"""Workers that are replaced after so many requests: against what leaks in them."""

from __future__ import annotations

import random

from spworkers.workers.middleware.base import Middleware, WorkerControl

__all__ = ["MaxTasks"]


class MaxTasks(Middleware):
    """Replaces a worker after a number of requests.

    Args:
        tasks: how many.
        jitter: up to so many more, by chance, so that workers that began together do not all end together; None: a
            tenth of `tasks`.
    """

    def __init__(self, tasks: int, jitter: int | None = None) -> None:
        self.tasks = tasks
        self.jitter = tasks // 10 if jitter is None else jitter
        self._left = 0

    def worker_started(self, worker: WorkerControl) -> None:
        self._left = self.tasks + random.randint(0, self.jitter)

    def settled(self, worker: WorkerControl) -> None:
        self._left -= 1
        if self._left == 0:
            worker.retire(f"it has answered {self.tasks} requests or more (max_tasks)")
