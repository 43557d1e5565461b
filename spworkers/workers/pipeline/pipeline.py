"""`Pipeline`: the description of a job, and how it is run."""

from __future__ import annotations

import copy
import math
import os
import reprlib
import threading
import time
from collections.abc import AsyncIterable, Callable, Iterable
from concurrent.futures import Executor
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypedDict

from spworkers._coerce import Seconds
from spworkers.errors import BadValueError, UnsupportedOptionError
from spworkers.socket import Socket
from spworkers.workers.pipeline.checkpoint import Checkpoint
from spworkers.workers.pipeline.ends import Batches, Collect, End, Fold, Sent, Sink
from spworkers.workers.pipeline.engine import Engine
from spworkers.workers.pipeline.files import FileSource, Written
from spworkers.workers.pipeline.graph import Graph, Node
from spworkers.workers.pipeline.report import Report
from spworkers.workers.pipeline.running import BatchStage, WorkStage
from spworkers.workers.pipeline.sources import check_source, gives_once, source_of
from spworkers.workers.pipeline.stages import Batch, Function, Stage, Work
from spworkers.workers.pipeline.tasks import workers_of
from spworkers.workers.pipeline.watching import Watch
from spworkers.workers.pool.backoff import Backoff
from spworkers.workers.pool.executor import Pool, PoolView
from spworkers.workers.pool.functions import name_of
from spworkers.workers.pool.progress import bars_of, check_progress, title_of, total_of
from spworkers.workers.pool.terms import count_of, no_such_option, terms_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Pipeline"]

# An executor that does not say how many workers it has is given as many tasks of a stage at once.
UNKNOWN_WORKERS: Final = 16


Readable = Iterable[Any] | AsyncIterable[Any] | Socket


class StageOptions(TypedDict, total=False):
    """What `map`, `flat_map` and `filter` take.

    Attributes:
        workers: how many items are worked on at once; None: as many as there are workers.
        ordered: results go on in the order of the items (True).
        timeout: seconds, then the work is killed; None: never.
        retries: how often an item is tried again after its worker died or its time was over (0).
        retry_on: exceptions after which as well.
        backoff: seconds of the first pause, which doubles, or a `Backoff`.
        chunksize: items that a worker gets at a time, if so many wait; None: as many as it does in some milliseconds.
            Each of them keeps its own failure, retries and timeout.
        name: for reports.
    """

    workers: int | None
    ordered: bool
    timeout: Seconds
    retries: int
    retry_on: type[BaseException] | Iterable[type[BaseException]]
    backoff: float | Backoff
    chunksize: int | None
    name: str


class Ending(NamedTuple):
    """An end as it was declared: each run makes one."""

    name: str
    make: Callable[[], End]
    target: Any = None


class Pipeline:
    """A batch job: a source, stages, an end. Each method gives a new pipeline; nothing happens before `run`.

        job = sp.Pipeline("squares").read(range(10)).map(square, workers=2).collect()
        report = job.run()

    Args:
        name: for reports.
        window: how many items may be read and not through, from end to end; None: 16 for each worker, more if batches
            need them, and more where items are so small that a worker gets many at a time.
    """

    def __init__(self, name: str = "pipeline", *, window: int | None = None) -> None:
        self.name = _text(name, "name")
        self._window = None if window is None else count_of(window, "window")
        self._source: Readable | None = None
        self._key: Callable[[Any], Any] | None = None
        self._begun = threading.Event()  # a run has read of the source; shared by all that are made of this pipeline
        self._stages: tuple[Stage, ...] = ()
        self._end: Ending | None = None

    def __repr__(self) -> str:
        parts = [stage.name for stage in self._stages] + ([self._end.name] if self._end else [])
        return f"<Pipeline {self.name}: {' → '.join(['read', *parts])}>"

    # --- Description

    def read(self, source: Readable, *, key: Callable[[Any], Any] | None = None) -> Pipeline:
        """Where items come from, read as there is room.

        Args:
            source: any iterable; an async iterable; or a socket, such as a Pull, which is read until it is closed.
            key: `key(item)` names an item in reports and for the checkpoint: a text, number, bytes, path, or a tuple of
                those, another for each item. Without it an item is known by its position.

        Raises:
            BadValueError: it is none of these; or the pipeline reads something already.
        """
        if self._source is not None:
            raise BadValueError(f"{self!r} has its source already: itertools.chain(one, other) makes one of two")
        check_source(source)
        if key is not None and not callable(key):
            raise BadValueError(f"key is {key!r:.80}; it has to be a function, or None")
        return self._with(_source=source, _key=key, _begun=threading.Event())

    def map(self, function: Function, **options: Unpack[StageOptions]) -> Pipeline:
        """Call `function(item)` in the workers; its result goes on.

        Args:
            function: what to call.
            options: see `StageOptions`.

        Raises:
            BadValueError: one of them is wrong. BadOptionError: there is none of that name.
        """
        return self._work("map", function, options)

    def flat_map(self, function: Function, **options: Unpack[StageOptions]) -> Pipeline:
        """As `map`; the function returns an iterable, each item of which goes on."""
        return self._work("flat_map", function, options)

    def filter(self, function: Function, **options: Unpack[StageOptions]) -> Pipeline:
        """As `map`; the item goes on if the function's result is true."""
        return self._work("filter", function, options)

    def batch(self, size: int, *, name: str | None = None) -> Pipeline:
        """Make lists of `size` items, the last one shorter."""
        return self._with(
            _stages=(
                *self._stages,
                Batch(self._free_name(_text(name or f"batch({size})", "name")), count_of(size, "size")),
            )
        )

    def collect(self) -> Pipeline:
        """End: `report.result` is the list of what came through."""
        return self._with(_end=Ending("collect", Collect))

    def fold(self, function: Callable[[Any, Any], Any], start: Any) -> Pipeline:
        """End: `report.result` is `function(…function(function(start, first), second)…)`, computed in this process."""
        _check_function("fold", function)
        return self._with(_end=Ending("fold", lambda: Fold(function, copy.deepcopy(start))))

    def sink(self, function: Callable[[Any], object] | Socket | Written, *, batch: int | None = None) -> Pipeline:
        """End: call `function(value)` in this process. What it raises ends the run.

        Args:
            function: what to call; or a file (`sp.sinks.jsonl("found.jsonl")`); or a socket, such as a Push: each value
                is sent, so it has to be bytes, and while nobody takes it all waits.
            batch: call it with lists of so many values, the last one shorter: to write a database in transactions, say.
                While a source that is a socket or async has nothing, a list goes as it is.
        """
        size = None if batch is None else count_of(batch, "batch")
        if isinstance(function, Written):
            if size is not None:
                raise BadValueError(
                    f"sink: batch={size}: {function!r} writes value by value, in large pieces by itself"
                )
            return self._with(_end=Ending("sink", function.make, function))
        if isinstance(function, Socket):
            if not function._protocol.sends:
                raise BadValueError(f"sink: a {type(function).__name__} sends nothing")
            if size is not None:
                raise BadValueError(f"sink: batch={size}: a {type(function).__name__} sends messages, and not lists")
            return self._with(_end=Ending("sink", lambda: Sent(function), function))
        _check_function("sink", function)
        if size is None:
            return self._with(_end=Ending("sink", lambda: Sink(function), function))
        return self._with(_end=Ending("sink", lambda: Batches(function, size), function))

    def _with(self, **changes: Any) -> Pipeline:
        if self._end is not None:
            raise BadValueError(f"{self!r} has its end already: nothing can come after {self._end.name}")
        new = Pipeline(self.name, window=self._window)
        vars(new).update({**vars(self), **changes})
        return new

    def _free_name(self, name: str) -> str:
        taken = {stage.name for stage in self._stages}
        number = 2
        free = name
        while free in taken:
            free, number = f"{name}#{number}", number + 1
        return free

    def _work(self, kind: str, function: Function, given: StageOptions) -> Pipeline:
        for name in given:
            if name not in StageOptions.__annotations__:
                raise no_such_option(f"{kind}: a stage", name, StageOptions.__annotations__)
        workers = given.get("workers")
        terms = terms_of(
            given.get("timeout"), given.get("retries", 0), given.get("backoff", Backoff()), given.get("retry_on", ())
        )
        _check_function(kind, function)
        title = self._free_name(_text(given.get("name", ""), "name") or str(getattr(function, "__name__", kind)))
        count = None if workers is None else count_of(workers, "workers")
        ordered = given.get("ordered", True)
        if not isinstance(ordered, bool):
            raise BadValueError(f"ordered is {ordered!r:.80}; it has to be True or False")
        chunksize = given.get("chunksize")
        chunk = None if chunksize is None else count_of(chunksize, "chunksize")
        stage = Work(title, kind, function, count, ordered, terms, chunk)
        return self._with(_stages=(*self._stages, stage))

    def graph(self, report: Report | None = None) -> Graph:
        """A picture of the stages: `print(job.graph())`, `job.graph().save("job.svg")`; notebooks show it.

        Args:
            report: of a run; then it says how many items went where.

        Raises:
            BadValueError: it is no report, or another pipeline's.
        """
        if report is not None and not isinstance(report, Report):
            raise BadValueError(f"graph: report is {report!r:.80}; it has to be what run() has returned, or None")
        if report is not None and len(report.stages) != len(self._stages):
            raise BadValueError(f"graph: {report!r} is of another pipeline: it has {len(report.stages)} stages")
        words = [] if self._source is None else [reprlib.repr(self._source)]
        if self._key is not None:
            words.append(f"key={name_of(self._key)}")
        nodes = [Node("read", ", ".join(words), f"{report.read:,}" if report else "")]
        for index, stage in enumerate(self._stages):
            node = Node(stage.name, stage.words())
            if report is not None:
                count = report.stages[index]
                node = node._replace(
                    given=f"{count.given:,}", failed=f"{count.failed:,} failed" if count.failed else ""
                )
            nodes.append(node)
        if self._end is not None:
            nodes.append(Node(self._end.name, "" if self._end.target is None else _name_of_target(self._end.target)))
        return Graph(self.name, nodes)

    # --- Running

    def run(
        self,
        items: Readable | None = None,
        *,
        executor: Executor | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool | str | None = False,
    ) -> Report:
        """Run it, in this thread, until everything is through.

        Args:
            items: instead of the source: `job.run(report.failures.items())` runs again what failed.
            executor: any `concurrent.futures.Executor`; by default a `Pool` of this run's own.
            checkpoint: a file in which the run's state is kept. Killed? Run it again, with a source that gives the same
                items (in the same order, where there is no `key`): it goes on where it was. Nothing is skipped; what is
                done again is at most the window, and neither `collect` nor `fold` has it twice. A run that was through
                has nothing left to do. The file holds pickles: only run what you trust.
            progress: show bars, for the whole and for each stage with its rate, its queue and the time that it will
                take: True (rich), "tqdm", "notebook", or a title.

        Raises:
            CheckpointError: the file is no checkpoint, or another pipeline's, or another run has it.
            BadValueError: there is no source or no end, or batches do not fit into the window.
            UnsupportedOptionError: a stage has a `timeout`, and the executor cannot stop a task; a checkpoint, and the
                source cannot be read again.
            ExecutorBrokenError: the executor takes no more tasks; its `report` has what failed and what was under way.
            BaseException: what the source, `fold`'s or `sink`'s function raised.
        """
        check_progress(progress)
        source = self._source if items is None else items
        if source is None:
            raise BadValueError(f"{self!r} has no source: use read(…)")
        if self._end is None:
            raise BadValueError(f"{self!r} has no end: use collect(), fold(…) or sink(…)")
        check_source(source)
        if executor is not None and not isinstance(executor, Executor):
            raise BadValueError(f"executor is {executor!r:.80}; it has to be a concurrent.futures.Executor, or None")
        if checkpoint is not None and not isinstance(checkpoint, (str, os.PathLike)):
            raise BadValueError(f"checkpoint is {checkpoint!r:.80}; it has to be the path of a file, or None")
        if checkpoint is not None and (items is not None or isinstance(source, Socket)):
            what = "items given to run()" if items is not None else f"{source!r}"
            raise UnsupportedOptionError(f"checkpoint={checkpoint!r}: {what} cannot be read again after a kill")
        if checkpoint is not None and gives_once(source) and self._begun.is_set():
            raise UnsupportedOptionError(
                f"checkpoint={checkpoint!r}: {source!r:.80} gives its items once, and a run has read it: give read() a"
                " list or another object that can be read again, or make the pipeline anew"
            )
        target = self._end.target
        if isinstance(target, Written) and isinstance(source, FileSource):
            for path in source.paths:
                if path.exists() and target.path.exists() and path.samefile(target.path):
                    raise BadValueError(f"{target!r} would overwrite {path}, which is read: give it another path")
        with ExitStack() as stack:
            kept = None
            if checkpoint is not None:
                plan = ["read", *(stage.name for stage in self._stages), self._end.name]
                kept = stack.enter_context(closing(Checkpoint(checkpoint, plan)))
            if executor is None:
                executor = stack.enter_context(Pool(self.workers, name=self.name))
            return self._run(source, self._end.make(), executor, kept, progress)

    @property
    def workers(self) -> int | None:
        """Workers of a pool for this pipeline alone: what its stages ask for; None: as many as there are processors."""
        asked = [stage.workers for stage in self._stages if isinstance(stage, Work)]
        return sum(filter(None, asked)) if asked and None not in asked else None

    def _run(
        self, source: Readable, end: End, executor: Executor, checkpoint: Checkpoint | None, progress: Any
    ) -> Report:
        begun = time.monotonic()
        stages = [self._running(stage, executor) for stage in self._stages]
        report = Report(self.name, [stage.count for stage in stages])
        held = math.prod(stage.size for stage in stages if isinstance(stage, BatchStage))
        if self._window is not None and self._window < held:
            raise BadValueError(f"window={self._window}: batches of this pipeline may hold {held} items: at least that")
        engine = Engine(stages, self._key, self._window or 0, held, end, report, checkpoint)
        bars = bars_of(progress)
        if bars is not None:
            title = title_of(progress, self.name)
            engine.watch = Watch(bars, title, stages, total_of(source), report.read - engine.open)
        if source is self._source:
            self._begun.set()
        engine.run(source_of(source))
        report.result = end.result()
        report.seconds = time.monotonic() - begun
        return report

    def _running(self, stage: Stage, executor: Executor) -> WorkStage | BatchStage:
        if isinstance(stage, Batch):
            return BatchStage(stage)
        there = workers_of(executor)
        limit = stage.workers or there or UNKNOWN_WORKERS
        # Where it has no more workers than the stage may use, it has the next tasks already: nobody waits for us.
        eager = 0 < there <= limit
        timeout = stage.terms.timeout
        if timeout == 0:
            return WorkStage(stage, executor, limit, eager=eager)
        if not isinstance(executor, PoolView):
            raise UnsupportedOptionError(
                f"{stage.name}: timeout={timeout:g}: {type(executor).__name__} cannot stop a task that runs; "
                "leave the timeout out, or run it on sp.Pool"
            )
        return WorkStage(stage, executor.options(timeout=timeout), limit, eager=eager)


def _check_function(what: str, function: object) -> None:
    if not callable(function) or (isinstance(function, type) and issubclass(function, Socket)):
        raise BadValueError(f"{what}: {function!r:.80} is not a function")


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise BadValueError(f"{what} is {value!r:.80}; it has to be a text")
    return value


def _name_of_target(target: Any) -> str:
    return name_of(target) if callable(target) else reprlib.repr(target)
