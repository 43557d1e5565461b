"""A pipeline while it runs: one loop in the caller's thread, over an Executor's `submit` and `wait`.

Everything that was read and is not through yet descends from a `Root`, an item of the source; at most `window` roots
are open. A root is closed when nothing that descends from it is under way: it was dropped, failed, or reached the end.
An ordered stage gives in the order in which it took; a `Batch` waits for its size or for the end of all before it.

What a `flat_map` makes of one item is no root more, so it is counted besides: none of its items is handed out while
more are under way than the window and what the tasks in hand will return. Only if nothing at all is with the executor
one goes all the same: it is what a batch waits for.

With a checkpoint a root stays in the window, closed, until a cut was saved in which it is; so what a killed run does
again is a window at most.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any, Final

from spworkers.errors import ExecutorBrokenError
from spworkers.workers.pipeline.checkpoint import Checkpoint
from spworkers.workers.pipeline.ends import End
from spworkers.workers.pipeline.report import Failure, Report
from spworkers.workers.pipeline.running import BatchStage, Broken, Item, Root, RunningStage, WorkStage
from spworkers.workers.pipeline.sources import END, NOT_YET, Source
from spworkers.workers.pipeline.tasks import is_broken, is_done
from spworkers.workers.pipeline.watching import LOOK, Watch
from spworkers.workers.pool.several import wait_for_any

__all__ = ["Engine"]

SAVE_AFTER: Final = 1.0
"""Seconds after which a cut is saved though the window has room."""
SETTLE_LOOK: Final = 0.002
"""Seconds between two looks whether a socket's queue is empty."""
SETTLING: Final = 5.0
"""Seconds that a run that breaks off waits for that; then what was saved before stands, and more is done again."""

READ_FOR: Final = 0.002
"""Seconds for which items are read before those that were read are handed out: a source may be slow."""


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
    """One run, which goes on from the checkpoint's last cut, if there is one. `end` is given what comes through.

    `fixed` is the window that was asked for; 0: as large as keeps the workers busy, and `held` for the batches.
    """

    stages: list[WorkStage | BatchStage]
    key: Callable[[Any], Any] | None
    fixed: int
    held: int
    end: End
    report: Report
    checkpoint: Checkpoint | None
    works: list[WorkStage] = field(init=False)
    """Those of the stages that have tasks, the last one first: what is nearly through goes first."""
    open: int = 0
    live: int = 0
    """Items under way."""
    unsaved: int = 0
    """Roots that were closed since the last cut."""
    exhausted: bool = False
    watch: Watch | None = None
    to_skip: int = 0
    """Items of the source that an earlier run has read, where they have no keys."""
    saved_failures: int = 0
    saved_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.works = [stage for stage in reversed(self.stages) if isinstance(stage, WorkStage)]
        if self.checkpoint is not None:
            self.restore(self.checkpoint)

    @property
    def window(self) -> int:
        """Items that may be read and not through."""
        return self.fixed or self.held + max(sum(stage.span for stage in self.works), 16)

    def run(self, source: Source) -> None:
        """Until the source is exhausted and everything is through.

        Raises:
            ExecutorBrokenError: the executor takes no tasks any more.
            BaseException: what the source, `key` or `end` raised; what was under way is cancelled.
        """
        try:
            while self.step(source):
                if self.checkpoint is not None and self.due():
                    self.save(self.checkpoint)
                if self.watch is not None:
                    self.look(self.watch)
            self.end.finish()
            if self.checkpoint is not None:
                self.await_settled(math.inf)
                self.save(self.checkpoint)
        except Broken as broken:
            # With what was under way as that, so that it is done by the next run.
            if self.checkpoint is not None and self.await_settled(SETTLING):
                self.save(self.checkpoint)
            raise self.break_off(broken.args[0]) from broken.args[0]
        except BaseException:
            for stage in self.works:
                for future in stage.running:
                    future.cancel()
            raise
        finally:
            source.close()
            self.end.close()
            if self.watch is not None:
                self.look(self.watch, last=True)
                self.watch.close()

    def look(self, watch: Watch, *, last: bool = False) -> None:
        """Have the bars move."""
        read, failed = self.report.read, len(self.report.failures)
        watch.look(read, read - self.open, failed, exhausted=self.exhausted, last=last)

    def break_off(self, error: BaseException) -> ExecutorBrokenError:
        """What is under way has failed, of the executor's end."""
        for stage in self.stages:
            for item in stage.held():
                self.note(stage, item, error)
        broken = ExecutorBrokenError(
            f"the executor of pipeline {self.report.name} takes no more tasks ({type(error).__name__}: {error}); "
            f"{self.report.read} items were read; what was under way is in .report.failures"
            + (", and the checkpoint has it: run it again" if self.checkpoint is not None else "")
        )
        broken.report = self.report
        return broken

    def due(self) -> bool:
        """Whether it is time for a cut: when what is through takes a part of the window that others could use.

        A cut holds the whole window, so it is worth its while only for a good part of it.
        """
        if not self.unsaved:
            return False
        window = self.window
        full = self.open + self.unsaved >= window
        if (4 if full else 2) * self.unsaved < window and time.monotonic() - self.saved_at <= SAVE_AFTER:
            return False
        return self.await_settled(math.inf if full else 0)

    def await_settled(self, seconds: float) -> bool:
        """Wait until the end has nothing that could be lost; for so long at most."""
        until = time.monotonic() + seconds
        while not self.end.settled():
            if time.monotonic() >= until:
                return False
            time.sleep(SETTLE_LOOK)
        return True

    def save(self, checkpoint: Checkpoint) -> None:
        """Save a cut of everything."""
        cut = {
            "read": self.report.read,
            "open": self.open,
            "live": self.live,
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
        self.report.read = self.to_skip = cut["read"]
        self.open = cut["open"]
        self.live = cut["live"]
        for stage, saved in zip(self.stages, cut["stages"], strict=True):
            stage.restore(saved)
        self.report.stages[:] = [stage.count for stage in self.stages]
        self.end.restore(cut["end"], checkpoint.results())
        for failure in checkpoint.failures():
            self.report.failures.add(failure)
        self.saved_failures = len(self.report.failures)

    def step(self, source: Source) -> bool:
        """Read what there is room for, hand out, wait for something, pass it on; false when all is done."""
        more = self.read(source)
        self.flush()
        now = time.monotonic()
        for stage in self.works:
            stage.start(now, self.allowed(stage))
        if not any(stage.running for stage in self.works):
            self.unblock(now)
        running: list[Future[Any]] = [future for stage in self.works for future in stage.running]
        if source.pending is not None:
            if not running:
                self.end.idle()
            running.append(source.pending)
        due = min((stage.again[0][0] for stage in self.works if stage.again), default=None)
        if not running and due is None:
            return not (self.exhausted and self.open == 0)
        pause = 0.0 if more else None if due is None else max(due - now, 0)
        if self.watch is not None and (pause is None or pause > LOOK):
            pause = LOOK
        if running:
            wait_for_any(running, pause)
        elif pause:
            time.sleep(pause)
        for index, each in enumerate(self.stages):
            if isinstance(each, WorkStage):
                for future in [future for future in each.running if is_done(future)]:
                    self.settle(index, each, future)
        return True

    def allowed(self, stage: WorkStage) -> int:
        """How many items it may hand out, with a view to what will become of them."""
        if stage.work.kind != "flat_map":
            return len(stage.waiting)
        coming = sum(each.handed * each.growth for each in self.works if each.work.kind == "flat_map")
        return int((self.window + stage.ahead * stage.growth - self.live - coming) / stage.growth)

    def unblock(self, now: float) -> None:
        """Nothing is with the executor: whatever waits, one of them goes, the one that is nearest to the end."""
        for stage in self.works:
            if stage.again:
                return
            if stage.waiting:
                stage.start(now, 1)
                return

    def read(self, source: Source) -> bool:
        """Open roots up to the window, for a moment; whether there may be more already."""
        window = self.window
        until = time.monotonic() + READ_FOR
        while not self.exhausted and self.live < window and (room := window - self.open - self.unsaved) > 0:
            value = source.take(room)
            if value is NOT_YET:
                return False
            if value is END:
                self.exhausted = True
                return False
            self.take(value)
            if time.monotonic() > until:
                return True
        return False

    def take(self, value: Any) -> None:
        """A value of the source is under way, unless an earlier run has read it."""
        position = self.report.read
        if self.key is None:
            key = position
            if self.to_skip > 0:
                self.to_skip -= 1
                return
        else:
            key = self.key(value)
            if self.checkpoint is not None:
                if self.checkpoint.has(key):
                    return
                self.checkpoint.took(key)
        self.report.read += 1
        self.open += 1
        self.live += 1
        self.give(-1, [Item(value, (Root(position, key, value),))])

    def flush(self) -> None:
        """Let batches go that will not become full any more."""
        for index, stage in enumerate(self.stages):
            if isinstance(stage, BatchStage):
                last = self.exhausted and all(each.idle for each in self.stages[:index])
                for parts in stage.lists(last=last):
                    stage.count.given += 1
                    self.live += 1 - len(parts)
                    self.give(index, [Item([part.value for part in parts], merged(parts))])

    def settle(self, index: int, stage: WorkStage, future: Future[Any]) -> None:
        """What became of a task, or of the first of its items.

        Raises:
            Broken: it failed of the executor's end.
        """
        items = stage.running.pop(future)
        try:
            error = future.exception()
        except CancelledError as cancelled:
            error = cancelled
        if error is not None:
            if is_broken(stage.executor, error):
                stage.later(items, 0.0)
                raise Broken(error)
            if len(items) > 1:  # one of them has spoiled it for all; alone it will be seen which
                stage.later(items, 0.0)
            else:
                self.failed(index, stage, items[0], error)
            return
        results, errors, rest = stage.tasks.outcomes(future)
        if rest is not None:
            stage.running[rest] = items[len(results) :]
            items = items[: len(results)]
        stage.learn(items, results)
        if stage.work.kind == "map" and not errors:
            for item, value in zip(items, results, strict=True):
                item.value = value
                item.number = 1
            stage.count.given += len(items)
            if not stage.work.ordered:
                self.give(index, items)
            elif items[0].turn == stage.next_turn:  # those of a task are neighbours
                stage.next_turn += len(items)
                self.give(index, items)
                self.pass_on(index, stage)
            else:
                stage.done.update((item.turn, [item]) for item in items)
            return
        for place, (item, value) in enumerate(zip(items, results, strict=True)):
            if place not in errors:
                self.succeeded(index, stage, item, value)
            elif is_broken(stage.executor, errors[place]):
                stage.later(items[place:], 0.0)
                raise Broken(errors[place])
            else:
                self.failed(index, stage, item, errors[place])

    def succeeded(self, index: int, stage: WorkStage, item: Item, value: Any) -> None:
        """An item is done; `value` is what its function has returned."""
        given: list[Item]
        item.number = 1
        if stage.work.kind == "map":
            item.value = value
            given = [item]
        elif stage.work.kind == "filter":
            given = [item] if value else []
        else:
            given = [Item(each, item.roots) for each in value]
            self.live += len(given)
            for root in item.roots:
                root.open += len(given)
        stage.count.given += len(given)
        self.hand_over(index, stage, item.turn, given)
        if stage.work.kind == "flat_map" or not given:
            self.leave(item)

    def failed(self, index: int, stage: WorkStage, item: Item, error: BaseException) -> None:
        """An item was not done."""
        if not stage.retry(item, error, time.monotonic()):
            stage.count.failed += 1
            self.note(stage, item, error)
            self.hand_over(index, stage, item.turn, [])
            self.leave(item)

    def note(self, stage: RunningStage, item: Item, error: BaseException) -> None:
        """A failure for the report."""
        keys = tuple(root.key for root in item.roots)
        sources = tuple((root.position, root.value) for root in item.roots)
        self.report.failures.add(Failure(stage.count.name, item.value, keys, sources, error, item.number))

    def hand_over(self, index: int, stage: WorkStage, turn: int, results: list[Item]) -> None:
        """Give what became of one item to the next stage, in its turn if the stage is ordered."""
        if not stage.work.ordered:
            self.give(index, results)
        elif turn == stage.next_turn:
            stage.next_turn += 1
            self.give(index, results)
            self.pass_on(index, stage)
        else:
            stage.done[turn] = results

    def pass_on(self, index: int, stage: WorkStage) -> None:
        """Give what was done before its turn, if that has come."""
        while stage.done and stage.next_turn in stage.done:
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
        self.live -= 1
        for root in item.roots:
            root.open -= 1
            if root.open == 0:
                self.open -= 1
                self.unsaved += self.checkpoint is not None
