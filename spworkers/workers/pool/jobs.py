"""A job: what goes to a worker in one record, one task or a batch of them, and what its caller asked for.

QUEUED ─▶ GIVEN ─▶ over            given back by a death, a steal: QUEUED again
   ▲         │
   └ PAUSED ◀┘  it will be tried again after a pause
"""

from __future__ import annotations

from typing import Any, Final

from spworkers.workers.pool.functions import Function

__all__ = ["GIVEN", "OVER", "PAUSED", "QUEUED", "Job", "Terms"]

QUEUED: Final = 0
GIVEN: Final = 1
PAUSED: Final = 2
OVER: Final = 3


class Terms:
    """What a caller asked for, beside the work itself.

    Attributes:
        timeout: seconds that one task may take; 0: as many as it likes.
        retries: how often it is tried again after its worker died or its time was over.
        retry_on: exceptions after which it is tried again, too.
        backoff: the pauses between attempts, a `Backoff`.
    """

    __slots__ = ("backoff", "retries", "retry_on", "timeout")

    def __init__(self, timeout: float, retries: int, retry_on: tuple[Any, ...], backoff: Any) -> None:
        self.timeout = timeout
        self.retries = retries
        self.retry_on = retry_on
        self.backoff = backoff


class Job:
    """One record's worth of work.

    Args:
        kind: CALL, CALL_KEYWORDS or BATCH with its bits.
        function: what is called.
        payload: the packed arguments, bytes; or None, if `large` has them.
        large: the packed arguments in several parts.
        count: how many tasks it is.
        owner: who is told, see `Owner`.
        terms: see there.
        about: the arguments (of a batch: the items), for messages and for trying a part of it again.
    """

    __slots__ = (
        "about",
        "attempts",
        "count",
        "deaths",
        "done",
        "function",
        "kind",
        "large",
        "owner",
        "owner_serial",
        "payload",
        "serial",
        "state",
        "terms",
        "ticket",
        "worker",
    )

    def __init__(
        self,
        kind: int,
        function: Function,
        payload: bytes | None,
        large: Any,
        count: int,
        owner: Any,
        terms: Terms,
        about: Any,
    ) -> None:
        self.serial = 0
        self.kind = kind
        self.function = function
        self.payload = payload
        self.large = large
        self.count = count
        self.owner = owner
        self.terms = terms
        self.about = about
        self.state = QUEUED
        self.attempts = 0
        self.deaths = 0
        self.done = 0
        self.owner_serial = 0  # of the batch that it was cut out of
        self.ticket = 0
        self.worker: Any = None

    def __repr__(self) -> str:
        state = ("queued", "given", "paused", "over")[self.state]
        return f"<Job {self.serial}: {self.function.name}, {self.count} tasks, {state}>"
