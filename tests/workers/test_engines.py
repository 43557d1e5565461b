"""What executors on somebody else's engine have in common, on an engine that does what a test says, when it says."""

from __future__ import annotations

import asyncio
import itertools
import pickle
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, as_completed, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import pooltasks as tasks
import pytest

import spworkers as sp
from spworkers.workers.engines.parcel import Parcel, opened, packed, perform
from spworkers.workers.engines.remote import RemoteExecutor, RemoteFuture

WAIT = 20.0


class Engine(RemoteExecutor):
    """Two workers, which do what lies before them when `work` is called; by themselves, if `eager`."""

    def __init__(self, *, eager: bool = True, kills: bool = False) -> None:
        super().__init__("a test")
        self.eager = eager
        self.kills = kills
        self.waiting: list[tuple[RemoteFuture, bytes]] = []
        self.in_hand: list[RemoteFuture] = []
        self.stopped: list[Any] = []

    @property
    def _max_workers(self) -> int:
        return 2

    def _begin(self, future: RemoteFuture, call: Parcel) -> None:
        future.theirs = len(self.stopped), future.task
        self.waiting.append((future, pickle.dumps(call)))  # as bytes: it goes to another machine
        if self.eager:
            self.work()

    def _stop(self, theirs: Any) -> None:
        self.stopped.append(theirs)

    def _runs(self, future: RemoteFuture) -> bool:
        return future in self.in_hand

    def work(self, count: int = 1 << 30) -> None:
        while self.waiting and count:
            count -= 1
            future, call = self.waiting.pop(0)
            self._settle(future, pickle.loads(pickle.dumps(perform(pickle.loads(call)), 5)))


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def slow() -> Engine:
    return Engine(eager=False)


def test_tasks(engine: Engine) -> None:
    assert engine.submit(pow, 2, 10).result() == 1024
    taken = engine.submit(dict, retries=1, key=2, workers=3, pure=4, fn=5, self=6).result()
    assert taken == {"retries": 1, "key": 2, "workers": 3, "pure": 4, "fn": 5, "self": 6}
    factor = 3
    assert engine.submit(lambda x: x * factor, 5).result() == 15
    assert repr(engine) == "<Executor on a test: 0 tasks under way>"
    assert repr(engine.submit(pow, 1, 1)) == "<RemoteFuture pow: finished>"


@pytest.mark.parametrize("protocol", [4, 5])
def test_arrays_are_the_tasks_own(protocol: int) -> None:
    np = pytest.importorskip("numpy")

    def fill(array: Any) -> Any:
        array[:] = 2
        return array

    given = np.ones(1000)
    call = pickle.loads(pickle.dumps(packed(fill, (given, given[::2]), {}), protocol))
    assert call.size > 8000
    assert sys.getsizeof(call) >= call.size
    _, error = opened(perform(call))  # one argument too many; its second array was not contiguous
    assert isinstance(error, TypeError)
    back, _ = opened(pickle.loads(pickle.dumps(perform(packed(fill, (given,), {})), protocol)))
    back[0] = 7
    assert back.sum() == 2005
    assert given.sum() == 1000


def test_large_buffers_lie_beside_the_pickle() -> None:
    np = pytest.importorskip("numpy")
    call = packed(len, (np.zeros(1 << 17),), {})
    beside: list[pickle.PickleBuffer] = []
    assert len(pickle.dumps(call, 5, buffer_callback=beside.append)) < 1000
    assert sum(buffer.raw().nbytes for buffer in beside) == call.size > 1 << 20


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (LookupError, "nothing", lambda: (tasks.fail, "nothing")),
        (SystemExit, "3", lambda: (sys.exit, 3)),
        (sp.RemoteError, "OddInit: 1 and 2", lambda: (tasks.raise_odd,)),
        (sp.SerializationError, "result, a Unpicklable, cannot be sent back", lambda: (tasks.make, tasks.Unpicklable)),
        (sp.SerializationError, "the result cannot be read here", lambda: (tasks.make, tasks.Unreadable)),
        (sp.SerializationError, "arguments of pooltasks.echo cannot", lambda: (tasks.echo, tasks.Unpicklable())),
        (sp.SerializationError, "arguments cannot be read in the worker", lambda: (tasks.echo, tasks.Unreadable())),
    ],
)
def test_what_goes_wrong_is_the_tasks_alone(engine: Engine, error: Any, words: str, call: Any) -> None:
    future = engine.submit(*call())
    with pytest.raises(error, match=words):
        future.result()
    assert engine.submit(pow, 2, 3).result() == 8
    assert not engine._under_way


def test_the_workers_traceback_is_the_cause(engine: Engine) -> None:
    error = engine.submit(tasks.fail, "nothing").exception()
    assert error is not None
    assert "raise LookupError(text)" in str(error.__cause__)
    assert error.__traceback__ is None  # it would keep the engine's frames, and so the engine's handle


def test_the_standard_ways_to_wait(slow: Engine) -> None:
    futures = [slow.submit(pow, 2, n) for n in range(4)]
    assert wait(futures, timeout=0).not_done == set(futures)
    slow.work(2)
    assert wait(futures, timeout=0).done == set(futures[:2])
    slow.work()
    assert sorted(future.result() for future in as_completed(futures, WAIT)) == [1, 2, 4, 8]


def test_run_in_executor(engine: Engine) -> None:
    async def main() -> Any:
        return await asyncio.get_running_loop().run_in_executor(engine, pow, 2, 5)

    assert asyncio.run(main()) == 32


def test_a_callback_may_wait_for_another_task(slow: Engine) -> None:
    seen: list[int] = []
    over = threading.Event()

    def callback(done: Any) -> None:
        following = slow.submit(pow, done.result(), 2)
        slow.work()
        seen.append(following.result(WAIT))
        over.set()

    slow.submit(pow, 2, 3).add_done_callback(callback)
    slow.work(1)  # must come back though the callback waits
    assert over.wait(WAIT)
    assert seen == [64]


# --- cancel


def test_what_waits_is_cancelled(slow: Engine) -> None:
    first, second = slow.submit(pow, 2, 3), slow.submit(pow, 2, 4)
    assert first.cancel()
    assert first.cancel()
    assert len(slow.stopped) == 1
    assert wait([first], timeout=0).done == {first}
    with pytest.raises(CancelledError):
        first.result(0)
    slow.work()  # the engine was too late to hear of it
    assert second.result() == 16
    assert not second.cancel()
    assert first.cancelled()
    assert not slow._under_way


def test_what_runs_goes_on_where_it_cannot_be_stopped(slow: Engine) -> None:
    future = slow.submit(pow, 2, 3)
    assert not future.running()
    slow.in_hand.append(future)
    assert future.running()
    assert not future.cancel()
    assert slow.stopped == []
    slow.work()
    assert future.result() == 8
    assert not future.running()


def test_what_runs_is_killed_where_that_can_be_done() -> None:
    engine = Engine(eager=False, kills=True)
    future = engine.submit(pow, 2, 3)
    engine.in_hand.append(future)
    assert future.cancel()
    assert len(engine.stopped) == 1


def test_what_the_engine_says_of_a_cancelled_task_is_no_loss(slow: Engine) -> None:
    future = slow.submit(pow, 2, 3)
    slow._stop = lambda theirs: slow._fail(future, slow._lost(future, "it is gone"))  # type: ignore[method-assign]
    assert future.cancel()
    assert future.cancelled()


# --- map


def test_map(engine: Engine) -> None:
    assert list(engine.map(pow, [2, 3, 4], [5, 2, 1, 0])) == [32, 9, 4]
    assert list(engine.map(abs, range(-10, 0), chunksize=4)) == list(range(10, 0, -1))
    assert list(engine.map(abs, [])) == []
    with pytest.raises(sp.BadValueError, match="chunksize is 0"):
        engine.map(abs, [1], chunksize=0)
    with pytest.raises(sp.BadValueError, match="at least one iterable"):
        engine.map(abs)


def test_map_is_lazy_and_bounded(engine: Engine) -> None:
    read = itertools.count()

    def endless() -> Iterator[int]:
        while True:
            yield next(read)

    results = engine.map(abs, endless(), buffersize=6, chunksize=3)
    assert next(read) == 6  # 0 to 5, and the 6 that we took
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    results.close()  # type: ignore[attr-defined]
    assert next(read) < 12
    results = engine.map(abs, endless())
    assert next(results) > 0
    assert next(read) < 40


def test_a_map_that_ends_early_takes_the_rest_back(slow: Engine) -> None:
    results = slow.map(tasks.fail_if_odd, [0, 1, 2, 3])
    slow.work(2)
    assert next(results) == 0
    with pytest.raises(ValueError, match="1"):
        next(results)
    assert len(slow.stopped) == 2
    assert not slow._under_way


def test_the_timeout_of_a_map(slow: Engine) -> None:
    results = slow.map(abs, [1, 2], timeout=0.01)
    with pytest.raises(FutureTimeoutError):
        next(results)
    assert len(slow.stopped) == 2


# --- the end


def test_shutdown_waits(slow: Engine) -> None:
    future = slow.submit(pow, 2, 3)
    thread = threading.Thread(target=slow.shutdown)
    thread.start()
    slow.work()
    thread.join(WAIT)
    assert not thread.is_alive()
    assert future.result() == 8
    with pytest.raises(RuntimeError, match=r"cannot schedule new futures after shutdown: <Executor on a test: shut"):
        slow.submit(pow, 2, 3)
    with pytest.raises(sp.ShutdownError):
        slow.map(abs, [1])
    slow.shutdown()


def test_shutdown_cancels_what_waits(slow: Engine) -> None:
    running, waiting = slow.submit(pow, 2, 3), slow.submit(pow, 2, 4)
    slow.in_hand.append(running)
    slow.shutdown(wait=False, cancel_futures=True)
    assert waiting.cancelled()
    slow.work()
    assert running.result() == 8


def test_an_engine_that_refuses_a_task(engine: Engine) -> None:
    def refuse(future: RemoteFuture, call: Parcel) -> None:
        raise sp.ClosedError("nobody there")

    engine._begin = refuse  # type: ignore[method-assign]
    with pytest.raises(sp.ClosedError):
        engine.submit(pow, 2, 3)
    engine.shutdown()


# --- what is asked for


@pytest.mark.parametrize("make", [lambda **options: sp.executors.dask(None, **options), sp.executors.ray])
def test_an_option_of_a_pool_is_refused_and_not_ignored(make: Any) -> None:
    for name in ("timeout", "memory_limit", "affinity", "initializer", "max_tasks", "retries", "shared"):
        with pytest.raises(sp.UnsupportedOptionError, match=rf"{name}=1: (Dask|Ray) cannot honour this, .*sp.Pool can"):
            make(**{name: 1})


def test_an_option_that_there_is_not() -> None:
    with pytest.raises(sp.BadOptionError, match="Dask has no option 'priorty'; did you mean priority"):
        sp.executors.dask(None, priorty=1)
    with pytest.raises(sp.BadOptionError, match="Ray has no option 'cores'; there are num_cpus"):
        sp.executors.ray(cores=1)


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(sp.BadValueError, match=r"not installed: pip install 'spworkers\[dask\]'"):
        sp.executors.dask(None)
    with pytest.raises(sp.BadValueError, match=r"ray is not installed: pip install 'spworkers\[ray\]'"):
        sp.executors.ray()


# --- a Pipeline on it


def test_a_pipeline(engine: Engine) -> None:
    job = sp.Pipeline().read(range(6)).map(tasks.fail_if_odd).flat_map(lambda x: [x, x]).collect()
    report = job.run(executor=engine)
    assert report.result == [0, 0, 2, 2, 4, 4]
    assert report.failures.items() == [1, 3, 5]


def test_a_pipeline_tries_again_what_the_engine_has_lost(engine: Engine) -> None:
    lost: list[str] = []

    def begin(future: RemoteFuture, call: Parcel) -> None:
        if len(lost) < 2:
            lost.append(future.task)
            engine._fail(future, engine._lost(future, "its worker is gone"))
        else:
            Engine._begin(engine, future, call)

    engine._begin = begin  # type: ignore[method-assign]
    report = sp.Pipeline().read([-1]).map(abs, retries=2, backoff=0).collect().run(executor=engine)
    assert (report.result, len(lost)) == ([1], 2)


def test_a_pipelines_time_limit_is_refused(engine: Engine) -> None:
    read: list[int] = []
    job = sp.Pipeline().read(read.append(n) for n in range(3)).map(abs, timeout=1).collect()
    with pytest.raises(sp.UnsupportedOptionError, match="cannot stop a task that runs"):
        job.run(executor=engine)
    assert read == []
