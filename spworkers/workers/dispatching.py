"""Options of the dispatcher, which middleware may change: what there is, and what each may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from spworkers.errors import BadOptionError, BadValueError
from spworkers.workers.quantities import check_count, check_flag, seconds_of
from spworkers.workers.settings import ASYNC_TASKS_LIMIT
from spworkers.workers.shapes import closest

__all__ = ["AUTO", "check_dispatching"]

AUTO: Final = -1
"""Of PREFETCH: it is up to the dispatcher, who goes by how fast each worker answers."""


def check_dispatching(options: dict[Any, Any], who: str) -> None:
    """Check the options, and put each value into the form that the dispatcher has it in.

    Args:
        who: whose doing they are, for the errors.

    Raises:
        BadOptionError: there is no such option; it names the nearest.
        BadValueError: a value is of the wrong type or out of its range.
    """
    for name, value in options.items():
        check = _CHECKS.get(name) if isinstance(name, str) else None
        if check is None:
            raise _unknown(name, who)
        options[name] = check(value, f"{who}: {name}")


def _unknown(name: object, who: str) -> BadOptionError:
    nearest = closest(str(name).upper().replace("_", "-"), _CHECKS)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"there are {', '.join(_CHECKS)}"
    return BadOptionError(f"{who}: the dispatcher has no option {name!r:.80}; {hint}", str(name), nearest)


def _limit(value: Any, who: str) -> float:
    """A time limit: 0 is none, and so is infinity."""
    limit = seconds_of(value, who)
    if limit < 0:
        raise BadValueError(f"{who} is {limit:g} s; it has to be 0 or more (0: no limit)")
    return 0.0 if limit == math.inf else limit


def _grace(value: Any, who: str) -> float:
    grace = seconds_of(value, who)
    if grace < 0:
        raise BadValueError(f"{who} is {grace:g} s; it has to be 0 or more (math.inf: as long as it takes)")
    return grace


def _prefetch(value: Any, who: str) -> int:
    if type(value) is int and value == AUTO:
        return AUTO
    try:
        return check_count(value, who, 1)
    except BadValueError as error:
        raise BadValueError(f"{error}; or {AUTO}, by each worker's pace") from None


def _limits(value: Any, who: str) -> dict[str, list[Any]]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise BadValueError(f"{who} is a mapping of handlers' names to their own limits, not {value!r:.80}")
    return {name: _own(own, f"{who} of {name!r}") for name, own in value.items()}


def _own(own: Any, who: str) -> list[Any]:
    if not isinstance(own, Sequence) or isinstance(own, (str, bytes)) or len(own) not in (2, 3):
        raise BadValueError(f"{who} are seconds, retries, and whether it is async, not {own!r:.80}")
    beside = check_flag(own[2], f"{who}, whether it is async,") if len(own) == 3 else False
    return [_limit(own[0], f"{who}, its time,"), check_count(own[1], f"{who}, its retries,"), beside]


_CHECKS: Final[dict[str, Callable[[Any, str], Any]]] = {
    "TIMEOUT": _limit,
    "RETRIES": check_count,
    "LIMITS": _limits,
    "BACKLOG": check_count,
    "QUARANTINE": check_count,
    "PREFETCH": _prefetch,
    "CONCURRENT": lambda value, who: check_count(value, who, 0, ASYNC_TASKS_LIMIT),
    "STREAM-TIMEOUT": _limit,
    "GRACE": _grace,
    "ACCESS-LOG": check_flag,
}
