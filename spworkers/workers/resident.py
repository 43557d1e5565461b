"""How much memory a worker has, and whether that can be held against it."""

from __future__ import annotations

import os

from spworkers.errors import BadValueError
from spworkers.workers.quantities import size_text

__all__ = ["check_limit", "resident"]


def resident(pid: int) -> int:
    """Bytes of resident memory that a process has to itself or shares; 0: it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pass
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def check_limit(limit: int | None, who: str) -> None:
    """In a worker that has done nothing yet: that it is within its limit.

    Args:
        limit: bytes; None or 0: there is none.
        who: whose workers they are, for the error.

    Raises:
        BadValueError: it is not, and neither will its successor be.
    """
    used = resident(os.getpid()) if limit else 0
    if limit and used > limit:
        raise BadValueError(
            f"memory_limit of {who} is {size_text(limit)}, but a worker uses {size_text(used)} before it does anything,"
            " what it shares with others included; let it be that, and what the work needs"
        )
