"""Counts and durations of every handler, for `Server.metrics()` and `spworkers serve --metrics`."""

from __future__ import annotations

from spworkers.workers.measures import Measures
from spworkers.workers.middleware.base import Middleware
from spworkers.workers.requestinfo import RequestInfo
from spworkers.workers.stops import Stopped

__all__ = ["Metrics"]


class Metrics(Middleware):
    """Measures every call.

    Args:
        measures: where to.
        worker: the row of this worker.
    """

    def __init__(self, measures: Measures, worker: int) -> None:
        self._measures = measures
        self._worker = worker

    def after(self, request: RequestInfo, error: BaseException | None, seconds: float) -> None:
        if not isinstance(error, Stopped):  # who has given it up knows how long that took
            self._measures.add(self._worker, request.handler, seconds, error is not None)
