"""Stages while they run: what waits, what is with the executor, what is done before its turn."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, Final

from spworkers.errors import TaskTimeoutError, WorkerDiedError
from spworkers.workers.pipeline.report import StageCount
from spworkers.workers.pipeline.stages import Batch, Work
from spworkers.workers.pipeline.tasks import HEAVY, MOST, is_refusal, tasks_of, weight_of

__all__ = ["BatchStage", "Broken", "Item", "Root", "RunningStage", "WorkStage"]

# These are the task's misfortune and not its answer: `retries` is for them, `retry_on` adds to them.
ACCIDENTS: Final = (WorkerDiedError, TaskTimeoutError)

PER_WORKER: Final = 16
"""Items read and not through, for each worker: enough that none waits while a slow item holds up the order."""


class Broken(Exception):
    """The executor takes no tasks any more; its argument says why. Whatever was given to it has been taken back."""


@dataclass(slots=True, eq=False)
class Root:
    """An item as it was read, and how many of its descendants are under way."""

    position: int
    key: Any
    value: Any
    open: int = 1


@dataclass(slots=True, eq=False)
class Item:
    """A value on its way, what it descends from, its turn in the stage that has it, and how often that has tried it."""

    value: Any
    roots: tuple[Root, ...]
    turn: int = 0
    number: int = 1


class RunningStage:
    """What the loop knows of a stage."""

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

    @property
    def idle(self) -> bool:
        """Whether nothing is in it."""
        return not self.waiting

    @property
    def finished(self) -> int:
        """Items that it took and is done with."""
        return self.count.taken

    @property
    def queue(self) -> int:
        """Items that wait."""
        return len(self.waiting)

    def held(self) -> Iterator[Item]:
        """Everything that is in it."""
        return iter(self.waiting)


class WorkStage(RunningStage):
    """A stage whose items are with the executor, several in a task where they are small.

    Args:
        work: what was declared.
        executor: where it is done.
        limit: items that are worked on at once.
        eager: the executor may have the next tasks already, as it has no more workers than `limit` anyhow.
    """

    __slots__ = (
        "again",
        "again_order",
        "done",
        "eager",
        "executor",
        "growth",
        "limit",
        "next_turn",
        "running",
        "tasks",
        "turns",
        "weight",
        "work",
    )

    def __init__(self, work: Work, executor: Executor, limit: int, *, eager: bool) -> None:
        super().__init__(work.name)
        self.work = work
        self.executor = executor
        self.limit = limit
        self.eager = eager
        self.tasks = tasks_of(executor, work.called())
        self.running: dict[Future[Any], list[Item]] = {}
        self.done: dict[int, list[Item]] = {}
        self.turns = 0
        self.next_turn = 0
        self.again: list[tuple[float, int, Item]] = []
        self.again_order = itertools.count()
        self.growth = 1.0
        """What becomes of an item, on the average: of a `flat_map` perhaps many."""
        self.weight = 1
        """Bytes of an item and of what becomes of it."""

    def cut(self) -> dict[str, Any]:
        """What runs has to run again; pauses are not kept."""
        again = [*itertools.chain.from_iterable(self.running.values()), *(item for _, _, item in self.again)]
        return {**super().cut(), "done": self.done, "turns": self.turns, "next_turn": self.next_turn, "again": again}

    def restore(self, cut: dict[str, Any]) -> None:
        """Be what was cut."""
        again = sorted(cut.pop("again"), key=lambda item: item.turn)
        super().restore(cut)
        self.later(again, 0.0)

    @property
    def idle(self) -> bool:
        """Whether nothing is in it."""
        return not (self.waiting or self.running or self.again or self.done)

    @property
    def finished(self) -> int:
        """Items that it took and is done with."""
        return self.count.taken - self.handed - len(self.again)

    @property
    def queue(self) -> int:
        """Items that wait."""
        return len(self.waiting) + len(self.again)

    def held(self) -> Iterator[Item]:
        """Everything that is in it."""
        running = itertools.chain.from_iterable(self.running.values())
        done = itertools.chain.from_iterable(self.done.values())
        return itertools.chain(done, running, (item for _, _, item in self.again), self.waiting)

    @property
    def ahead(self) -> int:
        """Tasks that the executor has at once: those in hand and the next; of short ones whose size is fixed, more."""
        if not self.eager:
            return self.limit
        return self.limit * (2 if self.work.chunksize is None else self.tasks.depth)

    @property
    def room(self) -> int:
        """How many tasks it may hand out."""
        return self.ahead - len(self.running)

    @property
    def size(self) -> int:
        """Items of a task."""
        if self.work.chunksize is not None:
            return self.work.chunksize
        fitting = min(self.tasks.fitting, MOST)
        return max(1, min(fitting, HEAVY // self.weight))

    @property
    def span(self) -> int:
        """Items that may be under way for this stage, so that no worker waits for the next task."""
        return max(PER_WORKER * self.limit, 2 * self.ahead * self.size)

    @property
    def handed(self) -> int:
        """Items that are with the executor."""
        return sum(map(len, self.running.values()))

    def start(self, now: float, most: int) -> None:
        """Hand out what is due, and of what waits `most` items.

        Raises:
            Broken: the executor takes no tasks.
        """
        while self.again and self.again[0][0] <= now and self.room > 0:
            self.submit([heapq.heappop(self.again)[2]])
        waiting = self.waiting
        while waiting and most > 0 and (room := self.room) > 0:
            size = min(self.size, most)
            if self.work.chunksize is None:  # as many tasks as there is room for, before they are large
                size = min(size, -(-len(waiting) // room))
            items = [waiting.popleft() for _ in range(min(size, len(waiting)))]
            for turn, item in enumerate(items, self.turns):
                item.turn = turn
            self.turns += len(items)
            self.count.taken += len(items)
            most -= len(items)
            self.submit(items)

    def submit(self, items: list[Item]) -> None:
        """Hand some out, in one task."""
        try:
            future = self.tasks.submit([item.value for item in items], items[0].turn)
        except Exception as error:
            if is_refusal(error):
                self.later(items, 0.0)
                raise Broken(error) from error
            future = Future()  # what was to be sent cannot be
            future.set_exception(error)
        self.running[future] = items

    def later(self, items: list[Item], due: float) -> None:
        """Have them handed out again, each alone, when it is time."""
        for item in items:
            heapq.heappush(self.again, (due, next(self.again_order), item))

    def retry(self, item: Item, error: BaseException, now: float) -> bool:
        """Whether the item is tried again, after a pause."""
        terms = self.work.terms
        if item.number > terms.retries or not isinstance(error, (*ACCIDENTS, *terms.retry_on)):
            return False
        self.count.retried += 1
        due = now + terms.backoff.pause(item.number)
        item.number += 1
        self.later([item], due)
        return True

    def learn(self, items: list[Item], results: list[Any]) -> None:
        """Look at the first one of several: what it weighs, with what became of it. Not at those that go alone."""
        if self.tasks.fitting > 1 and results:
            weight = weight_of(items[0].value) + (weight_of(results[0]) if self.work.kind != "filter" else 0)
            self.weight = max(weight, (3 * self.weight + weight) // 4)
        if self.work.kind == "flat_map" and results:
            growth = sum(len(result) for result in results if result is not None) / len(results)
            self.growth = max(growth, (3 * self.growth + growth) / 4, 1.0)


class BatchStage(RunningStage):
    """A stage that collects items into lists."""

    __slots__ = ("size",)

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch.name)
        self.size = batch.size

    def lists(self, *, last: bool) -> Iterator[list[Item]]:
        """What is to become one: as many as fill a list, and with `last` what is left."""
        while len(self.waiting) >= self.size or (last and self.waiting):
            parts = [self.waiting.popleft() for _ in range(min(self.size, len(self.waiting)))]
            self.count.taken += len(parts)
            yield parts
