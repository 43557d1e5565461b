"""Pipelines: what comes out, in what order, with how much under way, and what becomes of failures."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import pickle
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workers.executors import Breaking, Immediate, Pickling

import spworkers as sp
from spworkers.workers.pipeline.running import Item, WorkStage
from spworkers.workers.pipeline.tasks import PoolTasks
from spworkers.workers.pool.several import wait_for_any

WAIT = 20.0


@pytest.fixture
def pool() -> Iterator[sp.Pool]:
    with sp.Pool(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def odd_is_bad(x: int) -> int:
    if x % 2:
        raise ValueError(f"{x} is odd")
    return x


def hold(size: int) -> None:
    """Have so much memory, until somebody minds."""
    held = b"x" * size
    time.sleep(60)
    del held


def test_all_kinds_of_stages_on_a_pool(pool: sp.Pool) -> None:
    job = (
        sp.Pipeline("words")
        .read(["b a", "", "c a 1"])
        .map(str.upper, workers=2)
        .flat_map(lambda line: (word for word in line.split(" ")))
        .filter(str.isalpha)
        .batch(3)
        .map(list)
        .collect()
    )
    assert job.run(executor=pool).result == [["B", "A", "C"], ["A"]]
    assert repr(job) == "<Pipeline words: read → upper → <lambda> → isalpha → batch(3) → list → collect>"


def test_short_tasks_of_a_fixed_size_are_handed_out_ahead(pool: sp.Pool) -> None:
    stage = sp.Pipeline().map(abs, chunksize=1)._running(sp.Pipeline().map(abs, chunksize=1)._stages[0], pool)
    assert isinstance(stage, WorkStage)
    list(pool.map(abs, range(1000)))
    pool._engine.dispatcher.pace = 1000  # nanoseconds
    stage.submit([Item(1, ())])
    assert stage.ahead > 16, "a worker waits for none of them"
    pool._engine.dispatcher.pace = 1_000_000_000
    assert stage.ahead == 4, "long ones stay here, where others may be nearer to the end"
    few = sp.Pipeline()._running(sp.Pipeline().map(abs, chunksize=1, workers=1)._stages[0], pool)
    assert isinstance(few, WorkStage)
    assert few.ahead == 1, "the pool would give them to other workers"


def test_who_waits_for_a_pools_tasks_reads_the_results(pool: sp.Pool, threads: ThreadPoolExecutor) -> None:
    futures = [pool.submit(abs, -1), pool.submit(abs, -2)]
    wait_for_any(futures, None)
    assert any(future.ready() for future in futures)
    assert all(future._made is None for future in futures), "nobody has to wake this thread"
    hanging = pool.submit(time.sleep, 60)
    wait_for_any([hanging], 0.01)
    assert not hanging.ready()
    wait_for_any([hanging, threads.submit(int)], None)  # of two kinds: in the standard way
    assert hanging.cancel()


def test_a_pool_of_its_own() -> None:
    assert sp.Pipeline().read(range(5)).map(abs, workers=1).fold(lambda a, b: a + b, 0).run().result == 10


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 5), max_size=40),
    st.lists(st.sampled_from(["map", "flat_map", "filter", 1, 2, 5]), max_size=5),
    st.integers(0, 20),
)
def test_the_result_is_that_of_plain_loops(items: list[int], kinds: list[Any], spare: int) -> None:
    expected: list[Any] = list(items)
    held = 1
    for kind in kinds:
        held *= kind if isinstance(kind, int) else 1
    job = sp.Pipeline(window=held + spare).read(items)
    for kind in kinds:
        if kind == "map":
            job, expected = job.map(repr), [repr(x) for x in expected]
        elif kind == "flat_map":
            job, expected = job.flat_map(lambda x: [x, x]), [x for x in expected for _ in range(2)]
        elif kind == "filter":
            job, expected = job.filter(lambda x: x != 0), [x for x in expected if x != 0]
        else:
            job = job.batch(kind)
            expected = [expected[i : i + kind] for i in range(0, len(expected), kind)]
    report = job.collect().run(executor=Immediate())
    assert report.result == expected
    assert report.read == len(items)


def test_order_is_kept_though_the_first_is_last(threads: ThreadPoolExecutor) -> None:
    overtaken = threading.Event()
    source = range(20)
    stored: list[int] = []

    def late(x: int) -> int:
        if x == 0:
            assert overtaken.wait(WAIT)
        return x

    def store(x: int) -> None:
        stored.append(x)
        overtaken.set()

    sp.Pipeline().read(source).map(late, ordered=False).sink(store).run(executor=threads)
    assert sorted(stored) == list(source)
    assert stored[0] != 0

    def second_first(x: int) -> int:
        if x == 1:
            overtaken.set()
        return late(x)

    overtaken.clear()
    assert sp.Pipeline().read(source).map(second_first).collect().run(executor=threads).result == list(source)


def test_no_more_than_the_window_is_under_way(threads: ThreadPoolExecutor) -> None:
    read, through = itertools.count(1), itertools.count(1)
    counts = {"read": 0, "through": 0}
    most = 0

    def source() -> Iterator[int]:
        nonlocal most
        for number in range(200):
            counts["read"] = next(read)
            most = max(most, counts["read"] - counts["through"])
            yield number

    def store(value: int) -> None:
        counts["through"] = next(through)

    sp.Pipeline(window=7).read(source()).map(abs).map(abs, ordered=False).sink(store).run(executor=threads)
    assert counts == {"read": 200, "through": 200}
    assert most == 7


def test_failures_are_data_and_run_again() -> None:
    job = sp.Pipeline("odd").read(range(6), key=lambda x: f"n{x}").map(abs).map(odd_is_bad).collect()
    report = job.run(executor=Immediate())
    assert report.result == [0, 2, 4]
    assert report.failures.items() == [1, 3, 5]
    assert [failure.keys for failure in report.failures] == [("n1",), ("n3",), ("n5",)]
    assert "odd_is_bad" in report.failures[0].traceback
    again = pickle.loads(pickle.dumps(report.failures[0]))  # as a checkpoint keeps it
    assert again.traceback == report.failures[0].traceback
    assert again.sources == report.failures[0].sources
    assert "<Failure in odd_is_bad: ValueError: 1 is odd, attempt 1>" in repr(report.failures[0])
    assert "odd_is_bad  6 in, 3 out, 3 failed, 0 retried" in str(report)
    assert json.loads(report.json())["failures"][2]["error"] == "ValueError: 5 is odd"
    assert len(job.run(report.failures.items(), executor=Immediate()).failures) == 3


def test_a_failed_batch_names_all_that_was_in_it() -> None:
    report = sp.Pipeline().read("ab1c").batch(2).map("".join).map(int).collect().run(executor=Immediate())
    assert [(failure.item, failure.sources) for failure in report.failures] == [
        ("ab", ("a", "b")),
        ("1c", ("1", "c")),
    ]


def test_a_worker_that_dies_costs_one_attempt(pool: sp.Pool, tmp_path: Path) -> None:
    def die_once(x: int) -> int:
        mark = tmp_path / str(x)
        if x == 3 and not mark.exists():
            mark.touch()
            os._exit(1)
        return x

    report = sp.Pipeline().read(range(6)).map(die_once, retries=1, backoff=0).collect().run(executor=pool)
    assert report.result == list(range(6))
    assert report.stages[0].retried == 1


def test_a_timeout_stops_the_work_and_fails_its_item_alone(pool: sp.Pool) -> None:
    report = sp.Pipeline().read([0, 60]).map(time.sleep, timeout=0.5).collect().run(executor=pool)
    assert [(failure.item, type(failure.error)) for failure in report.failures] == [(60, sp.TaskTimeoutError)]
    assert report.result == [None]


def test_small_items_go_many_at_a_time(pool: sp.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    submit = PoolTasks.submit

    def counting(self: PoolTasks, values: list[Any], position: int) -> Any:
        sizes.append(len(values))
        return submit(self, values, position)

    monkeypatch.setattr(PoolTasks, "submit", counting)
    job = sp.Pipeline().read(range(5000)).map(abs).filter(lambda x: x % 2 == 0).map(abs, ordered=False)
    report = job.fold(lambda so_far, x: so_far + x, 0).run(executor=pool)
    assert report.result == sum(range(0, 5000, 2))
    assert [stage.taken for stage in report.stages] == [5000, 5000, 2500]
    assert sum(sizes) == 12500
    assert len(sizes) < 12500 / 4


def test_chunks_are_as_large_as_was_said() -> None:
    sizes: list[int] = []

    class Looking(Immediate):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            sizes.append(len(args[-1]))
            return super().submit(fn, *args, **kwargs)

    job = sp.Pipeline(window=40).read(range(100))
    assert job.map(abs, chunksize=7).collect().run(executor=Looking()).result == list(range(100))
    assert max(sizes) == 7
    sizes.clear()
    job.map(abs, chunksize=1).collect().run(executor=Looking())
    assert sizes == [1] * 100
    sizes.clear()
    sp.Pipeline().read([bytes(600_000)] * 20).map(len).collect().run(executor=Looking())
    assert sizes == [1] * 20, "heavy items go one by one, however fast they are"


def test_a_death_costs_no_item_that_travelled_with_it(pool: sp.Pool, tmp_path: Path) -> None:
    """Not even an attempt; those that were done and not given back yet may be done again, the culprit not."""
    log = tmp_path / "log"
    log.touch()

    def die_at_seven(x: int) -> int:
        with log.open("a") as file:
            file.write(f"{x}\n")
        if x == 7:
            os._exit(1)
        return x

    report = sp.Pipeline().read(range(60)).map(die_at_seven, chunksize=20).collect().run(executor=pool)
    assert report.result == [x for x in range(60) if x != 7]
    assert [(failure.item, type(failure.error)) for failure in report.failures] == [(7, sp.WorkerDiedError)]
    done = list(map(int, log.read_text().split()))
    assert set(done) == set(range(60))
    assert done.count(7) == 1
    assert all(done.count(x) == 1 for x in done if x > 7)


@pytest.mark.once
def test_each_item_of_a_chunk_has_its_timeout_and_its_retries(pool: sp.Pool) -> None:
    tries = itertools.count()

    def odd_or_slow(x: int) -> int:
        if x == 5:
            time.sleep(60)
        return odd_is_bad(x)

    job = sp.Pipeline().read(range(8)).map(odd_or_slow, chunksize=8, timeout=0.3, retries=1, backoff=0)
    report = job.collect().run(executor=pool)
    assert report.result == [0, 2, 4, 6]
    assert {failure.item: failure.attempts for failure in report.failures} == {1: 1, 3: 1, 5: 2, 7: 1}
    assert isinstance(next(each.error for each in report.failures if each.item == 5), sp.TaskTimeoutError)

    def second_time(x: int) -> int:
        return odd_is_bad(x) if next(tries) < 8 else x

    again = sp.Pipeline().read(range(8)).map(second_time, chunksize=8, retries=1, retry_on=ValueError, backoff=0)
    report = again.collect().run(executor=Immediate())
    assert (report.result, report.stages[0].retried) == (list(range(8)), 4)


def test_a_memory_limit_that_no_worker_keeps_fails_the_items() -> None:
    with sp.Pool(2, memory_limit="60MiB") as small:
        report = sp.Pipeline().read([64 << 20] * 2).map(hold, workers=2).collect().run(executor=small)
    assert {type(failure.error) for failure in report.failures} == {sp.WorkerDiedError}
    assert all("memory_limit allows 60 MiB" in str(failure.error) for failure in report.failures)


def test_what_a_pool_does_again_by_itself_is_not_kept(pool: sp.Pool) -> None:
    tasks = PoolTasks(pool.options(retries=1, retry_on=ValueError, backoff=0), odd_is_bad)
    rest: Any = tasks.submit([1, 2, 3, 4], 0)
    results: list[Any] = []
    while rest is not None:
        found, errors, rest = tasks.outcomes(rest)
        results += [type(errors.get(place, value)) for place, value in enumerate(found)]
    assert results == [ValueError, int, ValueError, int]
    assert tasks._submitter is not None
    assert not tasks._submitter._stream._jobs


def test_what_cannot_travel_spoils_no_other(pool: sp.Pool) -> None:
    def make(x: int) -> Any:
        return threading.Lock() if x == 3 else x

    job = sp.Pipeline().read(range(9)).map(make, chunksize=9).collect()
    for executor in (pool, Pickling()):
        report = job.run(executor=executor)
        assert [failure.item for failure in report.failures] == [3]
        assert report.result == [x for x in range(9) if x != 3]
    report = sp.Pipeline().read(range(9)).map(odd_is_bad, chunksize=9).collect().run(executor=Pickling())
    assert "in odd_is_bad" in report.failures[0].traceback, "the worker's traceback"


def test_what_a_flat_map_makes_is_bounded(threads: ThreadPoolExecutor) -> None:
    made = through = most = 0

    def hundred(x: int) -> range:
        nonlocal made, most
        made += 100
        most = max(most, made - through)
        return range(100)

    def store(value: int) -> None:
        nonlocal through
        through += 1

    job = sp.Pipeline(window=10).read(range(300)).flat_map(hundred, workers=2).map(abs).sink(store)
    job.run(executor=threads)
    assert (made, through) == (30_000, 30_000)
    assert most <= 10 + 2 * 2 * 100, (
        "the window, and what the tasks in hand return (the first ones, of which nobody knows)"
    )


@pytest.mark.parametrize("window", [1, 7])
def test_a_bound_stops_nobody(window: int) -> None:
    """Not a batch that waits for more than may be under way, nor a flat_map that follows another."""
    job = sp.Pipeline(window=window).read(range(9)).flat_map(range).flat_map(lambda x: [x] * 50)
    plain = [x for i in range(9) for x in range(i) for _ in range(50)]
    assert job.collect().run(executor=Immediate()).result == plain
    if window == 7:
        batches = job.batch(7).map(sum).collect().run(executor=Immediate()).result
        assert batches == [sum(plain[i : i + 7]) for i in range(0, len(plain), 7)]


@pytest.mark.parametrize("refuses", [True, False])
@pytest.mark.parametrize("last", [0, 1, 5])
def test_an_executor_that_breaks_loses_no_failure(last: int, refuses: bool, tmp_path: Path) -> None:
    stored: list[int] = []
    stages = sp.Pipeline(window=4).read(range(20)).map(odd_is_bad, chunksize=1).map(abs, chunksize=1)
    job = stages.fold(lambda so_far, x: stored.append(x) or [*so_far, x], [])
    with pytest.raises(sp.ExecutorBrokenError, match=r"it (is broken|broke)\b.*in \.report\.failures") as caught:
        job.run(executor=Breaking(last, refuses=refuses))
    report = caught.value.report
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert sorted([*report.failures.items(), *stored]) == list(range(report.read)), "each is through, or has failed"
    assert 0 < report.read < 20

    path = tmp_path / "checkpoint"
    with pytest.raises(sp.ExecutorBrokenError, match="run it again"):
        job.run(executor=Breaking(last, refuses=refuses), checkpoint=path)
    report = job.run(executor=Immediate(), checkpoint=path)
    assert report.result == list(range(0, 20, 2))
    assert report.failures.items() == list(range(1, 20, 2)), "what was under way has not failed"


def test_a_pool_that_ends_meanwhile() -> None:
    def fail() -> None:
        raise OSError("no such model")

    with sp.Pool(1, initializer=fail) as unfit, pytest.raises(sp.ExecutorBrokenError, match="no such model") as caught:
        sp.Pipeline().read(range(5)).map(abs).collect().run(executor=unfit)
    assert caught.value.report.failures.items() == list(range(5))
    threads = ThreadPoolExecutor(1)
    threads.shutdown()
    with pytest.raises(sp.ExecutorBrokenError, match="cannot schedule new futures"):
        sp.Pipeline().read(range(5)).map(abs).collect().run(executor=threads)


def test_retry_on_works_with_any_executor() -> None:
    tries = itertools.count()

    def third_time(x: int) -> int:
        return x if next(tries) == 2 else int("none")

    job = sp.Pipeline().read([7]).map(third_time, retries=2, retry_on=ValueError, backoff=0.001).collect()
    report = job.run(executor=Immediate())
    assert (report.result, report.stages[0].retried) == ([7], 2)


def test_what_an_executor_cannot_do_is_refused(threads: ThreadPoolExecutor) -> None:
    with pytest.raises(sp.UnsupportedOptionError, match="ThreadPoolExecutor cannot stop a task"):
        sp.Pipeline().read([1]).map(abs, timeout=1).collect().run(executor=threads)


def test_what_the_source_or_the_sink_raises_ends_the_run(threads: ThreadPoolExecutor) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise LookupError("source")

    with pytest.raises(LookupError, match="source"):
        sp.Pipeline().read(broken()).map(abs).collect().run(executor=threads)
    with pytest.raises(ZeroDivisionError):
        sp.Pipeline().read([0]).map(abs).sink(lambda x: 1 / x).run(executor=threads)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: sp.Pipeline(window=0), "window is 0"),
        (lambda: sp.Pipeline(window="x"), "window is 'x'"),
        (lambda: sp.Pipeline(3), "name is 3"),
        (lambda: sp.Pipeline().read([], key=3), "key is 3"),
        (lambda: sp.Pipeline().map(abs, timeout="soon"), "timeout wants seconds"),
        (lambda: sp.Pipeline().map(abs, retry_on=3), "retry_on is 3"),
        (lambda: sp.Pipeline().map(abs, ordered=2), "ordered is 2"),
        (lambda: sp.Pipeline().batch("x"), "size is 'x'"),
        (lambda: sp.Pipeline().sink(3), "not a function"),
        (lambda: sp.Pipeline().sink(sp.Push), "not a function"),
        (lambda: sp.Pipeline().fold(3, 0), "not a function"),
        (lambda: sp.Pipeline().map(abs, name=3), "name is 3"),
        (lambda: sp.Pipeline().batch(2, name=3), "name is 3"),
        (lambda: sp.Pipeline().read([]).collect().run(executor=3), "executor is 3"),
        (lambda: sp.Pipeline().read([]).collect().run(checkpoint=3), "checkpoint is 3"),
        (lambda: sp.Pipeline().read(3), "not an iterable"),
        (lambda: sp.Pipeline().read(odd_is_bad), "a socket; give what it returns when it is called"),
        (lambda: sp.Pipeline().map(3), "not a function"),
        (lambda: sp.Pipeline().map(abs, workers=0), "workers is 0"),
        (lambda: sp.Pipeline().map(abs, retries=-1), "retries is -1"),
        (lambda: sp.Pipeline().map(abs, chunksize=0), "chunksize is 0"),
        (lambda: sp.Pipeline().batch(0), "size is 0"),
        (lambda: sp.Pipeline().collect().map(abs), "has its end already"),
        (lambda: sp.Pipeline().read([1]).map(abs).read([2]), "has its source already"),
        (lambda: sp.Pipeline().collect().run(), "no source"),
        (lambda: sp.Pipeline().read([]).run(), "no end"),
        (lambda: sp.Pipeline(window=5).read([]).batch(6).collect().run(executor=Immediate()), "hold 6 items"),
    ],
)
def test_mistakes_are_named(make: Any, says: str) -> None:
    with pytest.raises(sp.BadValueError, match=says):
        make()


def test_a_source_that_is_awaited(threads: ThreadPoolExecutor) -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(50):
            await asyncio.sleep(0)
            yield number

    assert sp.Pipeline().read(numbers()).map(abs).collect().run(executor=threads).result == list(range(50))

    async def broken() -> AsyncIterator[int]:
        yield 1
        raise LookupError("source")

    with pytest.raises(LookupError, match="source"):
        sp.Pipeline().read(broken()).map(abs).collect().run(executor=threads)


def test_an_awaited_source_that_waits_for_what_it_has_given(threads: ThreadPoolExecutor) -> None:
    """Items are fetched many at a time, and none is held back for those that are not there yet."""
    through = threading.Semaphore(0)

    async def source() -> AsyncIterator[int]:
        yield 0
        for number in range(1, 4):
            assert await asyncio.to_thread(through.acquire, timeout=30)
            yield number

    seen: list[int] = []
    job = sp.Pipeline().read(source()).map(abs).sink(lambda x: seen.append(x) or through.release())  # type: ignore[func-returns-value]
    job.run(executor=threads)
    assert seen == [0, 1, 2, 3]


def test_an_awaited_source_is_closed_and_read_again(threads: ThreadPoolExecutor, tmp_path: Path) -> None:
    closed = threading.Semaphore(0)

    async def source() -> AsyncIterator[int]:
        try:
            for number in range(100):
                yield number
        finally:
            closed.release()

    def fail_at(least: int) -> sp.Pipeline:
        def add(so_far: list[int], x: int) -> list[int]:
            return [*so_far, x] if x < least else [1 // 0]

        return sp.Pipeline(window=5).read(source()).map(abs).fold(add, [])

    with pytest.raises(ZeroDivisionError):
        fail_at(40).run(executor=threads, checkpoint=tmp_path / "c")
    assert closed.acquire(timeout=30), "its finally was run"
    assert fail_at(100).run(executor=threads, checkpoint=tmp_path / "c").result == list(range(100))


def test_between_sockets(threads: ThreadPoolExecutor) -> None:
    """A pipeline may run through several machines: PULL, stages, PUSH."""
    with (
        sp.Push(listen="inproc://pipeline-in") as feed,
        sp.Pull(dial="inproc://pipeline-in") as source,
        sp.Push(listen="inproc://pipeline-out") as sink,
        sp.Pull(dial="inproc://pipeline-out") as found,
    ):
        job = sp.Pipeline().read(source).map(bytes.upper).sink(sink)
        running = threads.submit(job.run, executor=threads)
        for number in range(100):
            feed.send(b"n%d" % number)
        assert [found.recv(timeout=30) for _ in range(100)] == [b"N%d" % number for number in range(100)]
        source.close()
        assert running.result(30).read == 100


def test_a_slow_source_holds_up_nothing_that_is_done(threads: ThreadPoolExecutor) -> None:
    """What was read goes through while the source waits."""
    with sp.Push(listen="inproc://pipeline-slow") as feed, sp.Pull(dial="inproc://pipeline-slow") as source:
        through = threading.Event()
        running = threads.submit(
            sp.Pipeline().read(source).map(len).sink(lambda _: through.set()).run, executor=threads
        )
        feed.send(b"one")
        assert through.wait(30)
        source.close()
        running.result(30)


def test_an_interrupt_ends_a_run_that_waits_for_a_message(threads: ThreadPoolExecutor) -> None:
    def fail(value: int) -> None:
        raise KeyboardInterrupt

    with sp.Push(listen="inproc://pipeline-int") as feed, sp.Pull(dial="inproc://pipeline-int") as source:
        feed.send(b"one")
        with pytest.raises(KeyboardInterrupt):
            sp.Pipeline().read(source).map(len).sink(fail).run(executor=threads)
        feed.send(b"two")
        feed.send(b"three")
        assert source.recv(timeout=30) in (b"two", b"three"), "at most one was taken by the run's reader"


def test_sockets_that_go_the_other_way() -> None:
    with sp.Pull() as pull, sp.Push() as push:
        with pytest.raises(sp.BadValueError, match="a Pull sends nothing"):
            sp.Pipeline().sink(pull)
        with pytest.raises(sp.BadValueError, match="a Push receives nothing"):
            sp.Pipeline().read(push)


def test_an_option_that_there_is_not() -> None:
    with pytest.raises(sp.BadOptionError, match="no option 'retrys'; did you mean retries"):
        sp.Pipeline().map(abs, retrys=3)  # type: ignore[call-arg]
