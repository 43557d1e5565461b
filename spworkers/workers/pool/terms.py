"""How a caller's options are judged. A wrong one is a BadValueError: its name, the value, and what is wanted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

from spworkers.errors import BadOptionError, BadValueError
from spworkers.workers.pool.backoff import as_backoff
from spworkers.workers.pool.jobs import Terms
from spworkers.workers.quantities import seconds_of

__all__ = ["WORKERS_LIMIT", "count_of", "no_such_option", "terms_of", "workers_of"]


WORKERS_LIMIT: Final = 1000
"""Workers of a pool, at most: its memory has room for 1023, and one that is replaced is there beside its successor."""


def terms_of(timeout: Any, retries: Any, backoff: Any, retry_on: Any) -> Terms:
    """What a caller asks for, beside the work itself."""
    limit = 0.0
    if timeout is not None:
        limit = seconds_of(timeout, "timeout")
        if limit <= 0:
            raise BadValueError(f"timeout is {timeout!r}; it has to be more than 0 seconds, or None for no limit")
        limit = 0.0 if limit == math.inf else limit
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise BadValueError(f"retries is {retries!r}; it has to be a number, 0 or more")
    try:
        kinds = (retry_on,) if isinstance(retry_on, type) else tuple(retry_on)
    except TypeError:
        raise BadValueError(f"retry_on is {retry_on!r:.80}; it has to be an exception class, or some of them") from None
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise BadValueError(f"retry_on has {kind!r}; it has to be an exception class, or some of them")
    return Terms(limit, retries, kinds, as_backoff(backoff))


def count_of(value: Any, what: str) -> int:
    """A whole number, 1 or more."""
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise BadValueError(f"{what} is {value!r}; it has to be a whole number")
    number = int(value)
    if number < 1:
        raise BadValueError(f"{what} is {number}; it has to be 1 or more")
    return number


def workers_of(value: Any) -> int:
    """A number of worker processes."""
    count = count_of(value, "workers")
    if count > WORKERS_LIMIT:
        raise BadValueError(f"workers is {count}; it may be {WORKERS_LIMIT} at most")
    return count


def no_such_option(whose: str, name: str, known: Iterable[str]) -> BadOptionError:
    """The error for an option that is none, with the nearest one that is."""
    import difflib  # which only a mistake has to wait for

    known = list(known)
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    return BadOptionError(f"{whose} has no option {name!r}; {hint}", name, near)
