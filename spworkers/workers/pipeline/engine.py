"""A pipeline while it runs: one loop in the caller's thread, over an Executor's `submit` and `wait`.

Everything that was read and is not through yet descends from a `Root`, an item of the source; at most `window` roots
are open. A root is closed when nothing that descends from it is under way: it was dropped, failed, or reached the end.
An ordered stage gives in the order in which it took; a `Batch` waits for its size or for the end of all before it.

With a checkpoint a root stays in the window, closed, until a cut was saved in which it is; so what a killed run does
again is a window at most.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from spworkers.errors import TaskTimeoutError, WorkerDiedError
from spworkers.workers.pipeline.checkpoint import Checkpoint
from spworkers.workers.pipeline.ends import End
from spworkers.workers.pipeline.report import Failure, Report, StageCount
from spworkers.workers.pipeline.sources import END, NOT_YET, Source
from spworkers.workers.pipeline.stages import Batch, Work, call

# These are the task's misfortune and not its answer: `retries` is for them, `retry_on` adds to them.
ACCIDENTS = (WorkerDiedError, TaskTimeoutError)

SAVE_AFTER = 1.0
"""Seconds after which a cut is saved though the window has room."""


@dataclass(slots=True, eq=False)
class Root:
    """An item as it was read, and how many of its descendants are under way."""

    position: int
    key: Any
    value: Any
    open: int = 1


@dataclass(slots=True, eq=False)
class Item:
    """A value on its way, and what it descends from."""

    value: Any
    roots: tuple[Root, ...]


@dataclass(slots=True)
class Attempt:
    """An item in a stage: its turn among those that the stage took, and how often it was tried."""

    item: Item
    turn: int
    number: int = 1


class Stage:
    """What the loop knows of a stage: what waits, what runs, what is done before its turn."""

    __slots__ = ("count", "waiting")

    def __init__(self, name: str) -> None:
        self.count = StageCount(name)
        self.waiting: deque[Item] = deque()

    def cut(self) -> dict[str, Any]:
        """What a checkpoint has to know of it."""
        return {"count": self.count, "waiting": self.waiting}

    def restore(self, cut: dict[str, Any]) -> None:
        """Be what was cut."""
        for name, value in cut.items():
            setattr(self, name, value)


class WorkStage(Stage):
    """A stage whose items are with the executor."""

    __slots__ = ("again", "again_order", "done", "executor", "limit", "next_turn", "running", "task", "turns", "work")

    def __init__(self, work: Work, executor: Executor, limit: int) -> None:
        super().__init__(work.name)
        self.work = work
        self.executor = executor
        self.limit = limit
        self.task = partial(call, work.kind, work.function)
        self.running: dict[Future[list[Any]], Attempt] = {}
        self.done: dict[int, list[Item]] = {}
        self.turns = 0
        self.next_turn = 0
        self.again: list[tuple[float, int, Attempt]] = []
        self.again_order = itertools.count()

    def cut(self) -> dict[str, Any]:
        """What runs has to run again; pauses are not kept."""
        again = [*self.running.values(), *(attempt for _, _, attempt in self.again)]
        return {**super().cut(), "done": self.done, "turns": self.turns, "next_turn": self.next_turn, "again": again}

    def restore(self, cut: dict[str, Any]) -> None:
        """Be what was cut."""
        again = sorted(cut.pop("again"), key=lambda attempt: attempt.turn)
        super().restore(cut)
        self.again = [(0.0, next(self.again_order), attempt) for attempt in again]

    @property
    def idle(self) -> bool:
        """Whether nothing is in it."""
        return not (self.waiting or self.running or self.again or self.done)

    @property
    def room(self) -> int:
        """How many items it may take."""
        return self.limit - len(self.running)

    def start(self, now: float) -> None:
        """Hand out what is due and what waits."""
        while self.again and self.again[0][0] <= now and self.room > 0:
            self.submit(heapq.heappop(self.again)[2])
        while self.waiting and self.room > 0:
            self.count.taken += 1
            self.submit(Attempt(self.waiting.popleft(), self.turns))
            self.turns += 1

    def submit(self, attempt: Attempt) -> None:
        """Hand one out."""
        self.running[self.executor.submit(self.task, attempt.item.value)] = attempt

    def retry(self, attempt: Attempt, error: BaseException, now: float) -> bool:
        """Whether the item is tried again, after a pause."""
        terms = self.work.terms
        if attempt.number > terms.retries or not isinstance(error, (*ACCIDENTS, *terms.retry_on)):
            return False
        self.count.retried += 1
        due = now + terms.backoff.pause(attempt.number)
        attempt.number += 1
        heapq.heappush(self.again, (due, next(self.again_order), attempt))
        return True


class BatchStage(Stage):
    """A stage that collects items into lists."""

    __slots__ = ("size",)

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch.name)
        self.size = batch.size

    @property
    def idle(self) -> bool:
        """Whether nothing is in it."""
        return not self.waiting

    def lists(self, *, last: bool) -> Iterator[Item]:
        """The lists that are full, and with `last` the one that is not."""
        while len(self.waiting) >= self.size or (last and self.waiting):
            parts = [self.waiting.popleft() for _ in range(min(self.size, len(self.waiting)))]
            self.count.taken += len(parts)
            yield Item([part.value for part in parts], merged(parts))


def merged(parts: list[Item]) -> tuple[Root, ...]:
    """The roots of several items that become one, each once."""
    roots: dict[Root, None] = {}
    for root in (root for part in parts for root in part.roots):
        if root in roots:
            root.open -= 1
        else:
            roots[root] = None
    return tuple(roots)


@dataclass(slots=True)
class Engine:
    """One run, which goes on from the checkpoint's last cut, if there is one. `end` is given what comes through."""

    stages: list[WorkStage | BatchStage]
    key: Callable[[Any], Any] | None
    window: int
    end: End
    report: Report
    checkpoint: Checkpoint | None
    works: list[WorkStage] = field(init=False)
    """Those of the stages that have tasks."""
    open: int = 0
    unsaved: int = 0
    """Roots that were closed since the last cut."""
    exhausted: bool = False
    saved_failures: int = 0
    saved_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.works = [stage for stage in self.stages if isinstance(stage, WorkStage)]
        if self.checkpoint is not None:
            self.restore(self.checkpoint)

    def unread(self, items: Iterator[Any]) -> Iterator[Any]:
        """What of a source's items was not read before the last cut."""
        return items if self.checkpoint is None else self.checkpoint.unread(items, self.key, self.report.read)

    def run(self, source: Source) -> None:
        """Until the source is exhausted and everything is through.

        Raises:
            BaseException: what the source, `key` or `end` raised; what was under way is cancelled.
        """
        try:
            while self.step(source):
                if self.checkpoint is not None and self.due():
                    self.save(self.checkpoint)
            if self.checkpoint is not None:
                self.save(self.checkpoint)
        except BaseException:
            for stage in self.works:
                for future in stage.running:
                    future.cancel()
            raise
        finally:
            source.close()

    def due(self) -> bool:
        """Whether it is time for a cut: before the window is full of what is through, and not more often."""
        return self.unsaved > 0 and (
            2 * self.unsaved >= self.window
            or self.open + self.unsaved >= self.window
            or time.monotonic() - self.saved_at > SAVE_AFTER
        )

    def save(self, checkpoint: Checkpoint) -> None:
        """Save a cut of everything."""
        cut = {
            "read": self.report.read,
            "open": self.open,
            "stages": [stage.cut() for stage in self.stages],
            "end": self.end.state(),
        }
        checkpoint.save(cut, self.end.fresh(), self.report.failures[self.saved_failures :])
        self.unsaved = 0
        self.saved_failures = len(self.report.failures)
        self.saved_at = time.monotonic()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from the last cut, if there is one."""
        cut = checkpoint.load()
        if cut is None:
            return
        self.report.read = cut["read"]
        self.open = cut["open"]
        for stage, saved in zip(self.stages, cut["stages"], strict=True):
            stage.restore(saved)
        self.report.stages[:] = [stage.count for stage in self.stages]
        self.end.restore(cut["end"], checkpoint.results())
        for failure in checkpoint.failures():
            self.report.failures.add(failure)
        self.saved_failures = len(self.report.failures)

    def step(self, source: Source) -> bool:
        """Read what there is room for, hand out, wait for something, pass it on; false when all is done."""
        self.read(source)
        self.flush()
        now = time.monotonic()
        for each in self.works:
            each.start(now)
        running: list[Future[Any]] = [future for stage in self.works for future in stage.running]
        if source.pending is not None:
            running.append(source.pending)
        due = min((stage.again[0][0] for stage in self.works if stage.again), default=None)
        if not running and due is None:
            return not (self.exhausted and self.open == 0)
        if running:
            pause = None if due is None else max(due - now, 0)
            wait(running, timeout=pause, return_when=FIRST_COMPLETED)
        elif due is not None:
            time.sleep(max(due - now, 0))
        for index, stage in enumerate(self.stages):
            if isinstance(stage, WorkStage):
                for future in [future for future in stage.running if future.done()]:
                    self.settle(index, stage, stage.running.pop(future), future)
        return True

    def read(self, source: Source) -> None:
        """Open roots up to the window."""
        while not self.exhausted and self.open + self.unsaved < self.window:
            value = source.take()
            if value is NOT_YET:
                return
            if value is END:
                self.exhausted = True
                return
            position = self.report.read
            self.report.read += 1
            self.open += 1
            root = Root(position, position if self.key is None else self.key(value), value)
            if self.checkpoint is not None and self.key is not None:
                self.checkpoint.took(root.key)
            self.give(-1, [Item(value, (root,))])

    def flush(self) -> None:
        """Let batches go that will not become full any more."""
        for index, stage in enumerate(self.stages):
            before = self.stages[:index]
            if isinstance(stage, BatchStage):
                last = self.exhausted and all(each.idle for each in before)
                for item in stage.lists(last=last):
                    stage.count.given += 1
                    self.give(index, [item])

    def settle(self, index: int, stage: WorkStage, attempt: Attempt, future: Future[list[Any]]) -> None:
        """What became of a task."""
        item = attempt.item
        error = future.exception()
        if error is not None:
            if stage.retry(attempt, error, time.monotonic()):
                return
            stage.count.failed += 1
            keys = tuple(root.key for root in item.roots)
            sources = tuple((root.position, root.value) for root in item.roots)
            self.report.failures.add(Failure(stage.work.name, item.value, keys, sources, error, attempt.number))
            results = []
        else:
            results = [Item(value, item.roots) for value in future.result()]
        stage.count.given += len(results)
        for root in item.roots:
            root.open += len(results)
        self.pass_on(index, stage, attempt.turn, results)
        self.leave(item)

    def pass_on(self, index: int, stage: WorkStage, turn: int, results: list[Item]) -> None:
        """Give results to the next stage, in their turn if the stage is ordered."""
        if not stage.work.ordered:
            self.give(index, results)
            return
        stage.done[turn] = results
        while stage.next_turn in stage.done:
            self.give(index, stage.done.pop(stage.next_turn))
            stage.next_turn += 1

    def give(self, index: int, items: list[Item]) -> None:
        """Give items to the stage after `index`, or to the end."""
        if index + 1 < len(self.stages):
            self.stages[index + 1].waiting.extend(items)
            return
        for item in items:
            self.end.take(item.value)
            self.leave(item)

    def leave(self, item: Item) -> None:
        """An item is no more under way."""
        for root in item.roots:
            root.open -= 1
            if root.open == 0:
                self.open -= 1
                self.unsaved += self.checkpoint is not None
