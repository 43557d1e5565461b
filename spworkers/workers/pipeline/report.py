"""What became of a run: counts, the result, and each item that failed."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from spworkers.errors import CauseText


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that a stage failed on: `item` is what the stage was given, `keys` name what was read and led to it."""

    stage: str
    item: Any
    keys: tuple[Any, ...]
    positions_and_sources: tuple[tuple[int, Any], ...]
    error: BaseException
    attempts: int

    @property
    def sources(self) -> tuple[Any, ...]:
        """The items read that led to it."""
        return tuple(value for _, value in self.positions_and_sources)

    @property
    def traceback(self) -> str:
        """The traceback: the worker's where there is one."""
        cause = self.error.__cause__
        if isinstance(cause, CauseText) and "Traceback (most recent call last)" in str(cause):
            return str(cause).lstrip("\n")  # it ends in the error
        return "".join(traceback.format_exception(self.error))

    def __reduce__(self) -> tuple[Any, ...]:
        facts = (self.stage, self.item, self.keys, self.positions_and_sources, self.error, self.attempts)
        return _read_again, (*facts, self.traceback)  # an exception's own pickle has no cause

    def __repr__(self) -> str:
        return f"<Failure in {self.stage}: {type(self.error).__name__}: {self.error}, attempt {self.attempts}>"


def _read_again(
    stage: str, item: Any, keys: Any, positions_and_sources: Any, error: BaseException, attempts: int, text: str
) -> Failure:
    if error.__cause__ is None:
        error.__cause__ = CauseText(f"\n{text}")
    return Failure(stage, item, keys, positions_and_sources, error, attempts)


class Failures(Sequence[Failure]):
    """The failures of a run, in the order in which they happened."""

    def __init__(self) -> None:
        self._failures: list[Failure] = []
        self._sources: dict[int, Any] = {}  # by position

    def add(self, failure: Failure) -> None:
        """Note one."""
        self._failures.append(failure)
        self._sources.update(failure.positions_and_sources)

    def items(self) -> list[Any]:
        """The items as they were read, each once, in the order of reading: `job.run(report.failures.items())`."""
        return [self._sources[position] for position in sorted(self._sources)]

    @overload
    def __getitem__(self, index: int) -> Failure: ...
    @overload
    def __getitem__(self, index: slice) -> list[Failure]: ...
    def __getitem__(self, index: int | slice) -> Failure | list[Failure]:
        return self._failures[index]

    def __len__(self) -> int:
        return len(self._failures)

    def __iter__(self) -> Iterator[Failure]:
        return iter(self._failures)

    def __repr__(self) -> str:
        return f"<Failures: {len(self)}>"


@dataclass(slots=True)
class StageCount:
    """What went into a stage, came out of it, failed in it, and was tried again."""

    name: str
    taken: int = 0
    given: int = 0
    failed: int = 0
    retried: int = 0


@dataclass(slots=True)
class Report:
    """What `Pipeline.run` returns. `str(report)` is a table, `report.json()` the same for programs."""

    name: str
    stages: list[StageCount]
    read: int = 0
    seconds: float = 0.0
    result: Any = None
    failures: Failures = field(default_factory=Failures)

    def json(self) -> str:
        """Counts and failures as one JSON object."""
        return json.dumps(
            {
                "name": self.name,
                "read": self.read,
                "seconds": self.seconds,
                "stages": [{key: getattr(count, key) for key in StageCount.__slots__} for count in self.stages],
                "failures": [
                    {
                        "stage": failure.stage,
                        "keys": [repr(key) for key in failure.keys],
                        "item": repr(failure.item),
                        "error": f"{type(failure.error).__name__}: {failure.error}",
                        "attempts": failure.attempts,
                        "traceback": failure.traceback,
                    }
                    for failure in self.failures
                ],
            }
        )

    def __str__(self) -> str:
        width = max((len(count.name) for count in self.stages), default=0)
        head = f"{self.name}: {self.read} read, {len(self.failures)} failed, {self.seconds:.2f} s"
        rows = [
            f"  {count.name:<{width}}  {count.taken} in, {count.given} out, "
            f"{count.failed} failed, {count.retried} retried"
            for count in self.stages
        ]
        return "\n".join([head, *rows])

    def __repr__(self) -> str:
        return f"<Report {self.name}: {self.read} read, {len(self.failures)} failed, {self.seconds:.2f} s>"
