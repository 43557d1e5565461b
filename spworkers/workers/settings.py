"""How the requests of an App or a ContextPool are run: checked where the user writes it, plain values in the worker."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

from spworkers._coerce import Seconds, seconds
from spworkers.errors import BadOptionError, BadValueError
from spworkers.options import timeout_seconds
from spworkers.workers.handler import check_timeout
from spworkers.workers.quantities import check_count, check_flag, memory_of
from spworkers.workers.shapes import closest

__all__ = [
    "BACKLOG",
    "THREAD_VARIABLES",
    "WORKERS_LIMIT",
    "Settings",
    "drain_of",
    "misspelt",
    "workers_of",
]

BACKLOG: Final = 1024
"""Requests that wait for a worker, by default."""

DRAIN: Final = 10.0
"""Seconds that the end gives the requests at hand, by default."""

WORKERS_LIMIT: Final = 1000
"""Workers of a server, at most. A socket's memory has room for 1024 contexts; while a worker is replaced it and its
successor both have one."""

THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""What numerical libraries read, when they are imported, for how many threads they may have."""


@dataclass(frozen=True)
class Settings:
    """How requests are run.

    Attributes:
        timeout: seconds after which a request's worker is killed, or the task of an async handler cancelled, where the
            handler does not say itself; None: never.
        retries: how often a request goes to another worker after one died of it, or ran past `timeout`; likewise.
        backlog: requests that may wait for a worker; what comes beyond them is answered with BusyError.
        quarantine: how many workers in a row a request kills until it is turned away with QuarantinedError; 0: as many
            as come.
        max_async_tasks: requests of async handlers that one worker runs beside each other.
        max_tasks: requests after which a worker is replaced; None: never.
        max_tasks_jitter: up to so many more, by chance; None: a tenth of `max_tasks`.
        memory_limit: resident bytes, or text like "512MB": a worker that is larger between two requests is replaced,
            one that grows larger during a request is killed; None: no limit.
        affinity: processors that workers are pinned to, one each, round and round; True: those of this process; False:
            the system decides.
        threads_per_worker: what BLAS, OpenMP and the like are told how many threads they may have, before they are
            imported; None: nothing.
        access_log: write a log record for every request.
        metrics: count and time the calls of every handler.
    """

    timeout: float | None = None
    retries: int = 1
    backlog: int = BACKLOG
    quarantine: int = 3
    max_async_tasks: int = 100
    max_tasks: int | None = None
    max_tasks_jitter: int | None = None
    memory_limit: int | None = None
    affinity: list[int] = field(default_factory=list)
    threads_per_worker: int | None = None
    access_log: bool = False
    metrics: bool = False

    @classmethod
    def check(cls, given: Mapping[str, Any], who: str) -> Settings:
        """Settings as the user wrote them, checked.

        Args:
            who: whose they are, for the errors.

        Raises:
            BadOptionError: there is no such setting; it names the nearest.
            BadValueError: a value is of the wrong type or out of its range.
        """
        for name in given:
            if name not in NAMES:
                nearest = closest(name, NAMES)
                hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
                raise BadOptionError(f"{who}: there is no option {name!r}{hint}", name, nearest)
        found = cls(**{name: _CHECKS[name](value, f"{who}: {name}") for name, value in given.items()})
        if found.max_tasks_jitter and found.max_tasks is None:
            raise BadValueError(
                f"{who}: max_tasks_jitter is {found.max_tasks_jitter}, but there is no max_tasks to add it to"
            )
        return found

    def to_map(self) -> dict[str, Any]:
        """Itself, for a worker."""
        return dict(vars(self))


ASYNC_TASKS_LIMIT: Final = 16_384
"""Async requests that a worker may run beside each other: half of what its lane holds."""

NAMES: Final = tuple(each.name for each in fields(Settings))


def _count_or_none(least: int) -> Any:
    return lambda value, who: None if value is None else check_count(value, who, least)


def _timeout(value: Seconds, who: str) -> float | None:
    return None if value is None else check_timeout(value, who)


def workers_of(value: Any, who: str) -> int:
    """A number of worker processes.

    Raises:
        BadValueError: it is no whole number, or less than 1, or more than WORKERS_LIMIT.
    """
    count = check_count(value, who, 1)
    if count > WORKERS_LIMIT:
        raise BadValueError(f"{who} is {count}; it may be {WORKERS_LIMIT} at most, as each has a context of the socket")
    return count


def drain_of(value: Seconds, who: str) -> Seconds:
    """Seconds that requests at hand get, which may be none.

    Raises:
        BadValueError: it is no time, or less than 0.
    """
    if timeout_seconds(value, name=who) == 0 and value is not None and seconds(value) < 0:
        raise BadValueError(f"{who} is {value!r}; it has to be 0 seconds or more (math.inf: as long as they take)")
    return value


def misspelt(error: BadOptionError, who: str, ours: Iterable[str]) -> BadOptionError:
    """The error about an option that no socket has, which may be one of ours.

    Args:
        who: whose it is.
        ours: what may be given beside the socket's options.
    """
    nearest = closest(error.option, [*ours, *error.nearest])
    if not nearest or nearest[0] in error.nearest:
        return BadOptionError(f"{who}: {error}", error.option, error.nearest)
    text = f"{who}: there is no option {error.option!r}; did you mean {nearest[0]!r}?"
    return BadOptionError(text, error.option, nearest)


def _bytes(value: Any, who: str) -> int | None:
    return None if value is None else memory_of(value, who)


def _affinity(value: Any, who: str) -> list[int]:
    if value is False or value is None:
        return []
    if not hasattr(os, "sched_setaffinity"):
        raise BadValueError(f"{who}: this system does not pin processes to processors")
    ours = sorted(os.sched_getaffinity(0))
    if value is True:
        return ours
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise BadValueError(f"{who} is True, False or a list of processors, not {value!r:.80}")
    for each in value:
        if type(each) is not int or each not in ours:
            raise BadValueError(f"{who}: {each!r:.20} is no processor that this process may run on: {ours}")
    return list(value)


_CHECKS: Final[dict[str, Any]] = {
    "timeout": _timeout,
    "retries": check_count,
    "backlog": check_count,
    "quarantine": check_count,
    "max_async_tasks": lambda value, who: check_count(value, who, 1, ASYNC_TASKS_LIMIT),
    "max_tasks": _count_or_none(1),
    "max_tasks_jitter": _count_or_none(0),
    "memory_limit": _bytes,
    "affinity": _affinity,
    "threads_per_worker": _count_or_none(1),
    "access_log": check_flag,
    "metrics": check_flag,
}
