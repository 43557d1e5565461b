"""What handlers ask by. Not compiled: a compiled function has no docstring."""

from __future__ import annotations

from spworkers.workers.requestinfo import RequestInfo, current

__all__ = ["current_request"]


def current_request() -> RequestInfo | None:
    """The request that this thread, or this task, of a worker answers; None outside of handlers."""
    return current.get()
