"""What a pipeline shows while it runs: a bar for the whole, and one for each stage with its rate and its queue."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from spworkers.workers.pipeline.running import BatchStage, WorkStage
from spworkers.workers.pool.progress import Bar, Bars

__all__ = ["LOOK", "Watch", "expected"]

LOOK: Final = 0.2
"""Seconds between two looks."""

_INERTIA: Final = 0.7  # of a rate: what was counts more than the last moment


def expected(total: int | None, stages: Sequence[WorkStage | BatchStage]) -> list[int | None]:
    """How many items each stage will have had, as far as can be told from what it has made of those that it had."""
    found: list[int | None] = []
    coming = None if total is None else float(total)
    for stage in stages:
        found.append(None if coming is None else max(round(coming), stage.finished))
        if coming is None:
            continue
        if isinstance(stage, BatchStage):
            coming = math.ceil(coming / stage.size)
        elif stage.finished:
            coming *= stage.count.given / stage.finished
        elif stage.work.kind != "map":
            coming = None
    return found


_NEWS: Final = 0.05  # of an estimate: what has changed by less is no news


@dataclass(slots=True)
class _Line:
    """One bar, and how fast it moves."""

    bar: Bar
    done: int
    since: float
    rate: float = 0.0
    total: int | None = None

    def show(self, done: int, total: int | None, words: list[str], now: float, *, last: bool) -> None:
        if total is None or self.total is None or last or abs(total - self.total) > _NEWS * self.total:
            self.total = total  # not at every little change: rich begins anew with the time that it has learned
        if now > self.since:
            rate = (done - self.done) / (now - self.since)
            self.rate = rate if not self.rate else _INERTIA * self.rate + (1 - _INERTIA) * rate
        self.done, self.since = done, now
        self.bar.show(done, self.total, ", ".join([f"{self.rate:,.{0 if self.rate >= 10 else 1}f}/s", *words]))


@dataclass(slots=True)
class Watch:
    """The bars of a run.

    Args:
        bars: where they are.
        title: of the first one.
        stages: in their order.
        total: how many items the source has; None: nobody knows.
        through: how many of them are through, when the run begins.
    """

    bars: Bars
    title: str
    stages: Sequence[WorkStage | BatchStage]
    total: int | None
    through: int
    lines: list[_Line] = field(init=False)
    due: float = 0.0

    def __post_init__(self) -> None:
        now = time.monotonic()
        self.lines = [_Line(self.bars.add(self.title, self.total), self.through, now)]
        self.lines += [_Line(self.bars.add(f"  {each.count.name}", None), each.finished, now) for each in self.stages]

    def look(self, read: int, through: int, failed: int, *, exhausted: bool, last: bool = False) -> None:
        """Show how far it is, now and then, or for the last time."""
        now = time.monotonic()
        if now < self.due and not last:
            return
        self.due = now + LOOK
        total = read if exhausted else self.total
        words = [f"{read - through:,} under way"]
        self.lines[0].show(through, total, words + ([f"{failed:,} failed"] if failed else []), now, last=last)
        for line, stage, coming in zip(self.lines[1:], self.stages, expected(total, self.stages), strict=True):
            words = [f"{stage.queue:,} waiting"]
            words += [f"{count:,} {word}" for word in ("failed", "retried") if (count := getattr(stage.count, word))]
            line.show(stage.finished, coming, words, now, last=last)

    def close(self) -> None:
        """They stay as they are."""
        self.bars.close()
