"""How long a task waits before it is tried again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from spworkers._coerce import seconds
from spworkers.errors import BadValueError

__all__ = ["Backoff", "as_backoff"]


@dataclass(frozen=True)
class Backoff:
    """Pauses that double, each shortened by chance so that tasks which failed together do not come back together.

    Args:
        first: seconds before the second attempt.
        factor: by which each further pause is longer.
        limit: seconds that no pause exceeds.
        jitter: up to which part of itself a pause is shortened, 0 to 1 (AWS' "full jitter" is 1).
    """

    first: float = 0.05
    factor: float = 2.0
    limit: float = 30.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        try:
            fine = self.first >= 0 and self.limit >= 0 and self.factor >= 1 and 0 <= self.jitter <= 1  # no NaN, either
        except TypeError:
            fine = False
        if not fine:
            raise BadValueError(
                f"{self!r}: first and limit are seconds, 0 or more; factor is 1 or more; jitter is between 0 and 1"
            )

    def pause(self, attempts: int) -> float:
        """Seconds to wait after so many attempts."""
        try:
            longest = min(self.first * self.factor ** (attempts - 1), self.limit)
        except OverflowError:
            longest = self.limit
        return longest * (1 - self.jitter * random.random())


def as_backoff(value: Any) -> Backoff:
    """What a user gives as `backoff`: a Backoff, or the seconds of its first pause.

    Raises:
        BadValueError: it is neither.
    """
    if isinstance(value, Backoff):
        return value
    try:
        return Backoff(first=seconds(value))
    except ValueError as error:
        raise BadValueError(f"backoff {error}, or a Backoff") from None
