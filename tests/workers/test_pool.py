"""Pools when all goes well: tasks, maps, options, workers, the end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import functools
import gc
import itertools
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pooltasks as tasks
import pytest
import trio
from helpers import alone, eventually

import spworkers as sp
from spworkers.workers.pool.engine import Engine

WAIT = 20.0
np = pytest.importorskip("numpy")


@pytest.fixture(scope="module")
def pool() -> Iterator[sp.Pool]:
    """One for all tests that leave it as it was."""
    with sp.Pool(2, name="tested") as made:
        # Both workers are there before the first test, so that they are not counted as left by it.
        while len([worker for worker in made.workers if worker.pid]) < 2:
            list(made.map(tasks.pid, range(100), chunksize=1))
        yield made


# --- submit


def test_a_result(pool: sp.Pool) -> None:
    assert pool.submit(pow, 2, 10).result(WAIT) == 1024
    assert pool.submit(int, "ff", base=16).result(WAIT) == 255


def test_it_is_an_executor(pool: sp.Pool) -> None:
    assert isinstance(pool, concurrent.futures.Executor)
    futures = [pool.submit(tasks.double, n) for n in range(10)]
    assert all(isinstance(future, concurrent.futures.Future) for future in futures)
    done, pending = concurrent.futures.wait(futures, WAIT)
    assert len(done) == 10
    assert not pending
    assert sorted(future.result() for future in concurrent.futures.as_completed(futures, WAIT)) == list(range(0, 20, 2))


def test_every_keyword_is_the_functions(pool: sp.Pool) -> None:
    taken = pool.submit(dict, timeout=1, retries=2, fn=3, self=4).result(WAIT)
    assert taken == {"timeout": 1, "retries": 2, "fn": 3, "self": 4}


def test_work_is_done_elsewhere(pool: sp.Pool) -> None:
    assert pool.submit(tasks.pid).result(WAIT) != os.getpid()


def test_callbacks(pool: sp.Pool) -> None:
    called: list[int] = []
    future = pool.submit(tasks.double, 4)
    future.add_done_callback(lambda done: called.append(done.result()))
    eventually(lambda: called == [8])


def test_a_callback_may_wait_for_another_task(pool: sp.Pool) -> None:
    results: list[int] = []
    pool.submit(tasks.double, 1).add_done_callback(
        lambda done: results.append(pool.submit(tasks.double, done.result()).result(WAIT))
    )
    eventually(lambda: results == [4])


def test_lambdas_and_closures_go_by_value(pool: sp.Pool) -> None:
    factor = 3
    assert pool.submit(lambda x: x * factor, 5).result(WAIT) == 15
    assert list(pool.map(lambda x: x + factor, range(3))) == [3, 4, 5]


def test_a_closure_that_changed_is_another_function(pool: sp.Pool) -> None:
    held = [1]
    count = 1

    def look() -> Any:
        return held, count

    assert pool.submit(look).result(WAIT) == ([1], 1)
    held.append(2)
    assert pool.submit(look).result(WAIT) == ([1, 2], 1)
    count = 5
    assert pool.submit(look).result(WAIT) == ([1, 2], 5)


def test_a_function_goes_once_to_each_worker(pool: sp.Pool) -> None:
    big = bytes(100_000)

    def size() -> int:
        return len(big)

    first = pool._engine.functions.find(size)
    assert pool.submit(size).result(WAIT) == 100_000
    assert pool._engine.functions.find(size) is first


def test_many_functions_are_forgotten_in_time(pool: sp.Pool) -> None:
    made: list[Callable[[], int]] = [functools.partial(int, n) for n in range(600)]
    assert [pool.submit(function).result(WAIT) for function in made] == list(range(600))
    assert all(len(worker.known) < 400 for worker in pool._engine.dispatcher.workers)


def test_methods_and_partials(pool: sp.Pool) -> None:
    assert pool.submit("a-b".split, "-").result(WAIT) == ["a", "b"]
    assert pool.submit(functools.partial(pow, 2), 5).result(WAIT) == 32


# --- large things


@pytest.mark.parametrize("size", [0, 1, 192, 193, 5000, 70_000, 1 << 20, 80 << 20])
def test_bytes_there_and_back(pool: sp.Pool, size: int) -> None:
    data = os.urandom(min(size, 4096)) * (size // 4096 + 1)
    data = data[:size]
    assert pool.submit(tasks.echo, data).result(WAIT) == data


@pytest.mark.parametrize("size", [(16 << 10) - 1, 16 << 10, 1 << 20])
def test_bytes_as_results(pool: sp.Pool, size: int) -> None:
    assert pool.submit(bytes, size).result(WAIT) == bytes(size)
    assert list(pool.map(bytes, [size, 3, size + 1])) == [bytes(size), bytes(3), bytes(size + 1)]
    kept = pool.submit(tasks.echo, tasks.Bytes(b"x" * size)).result(WAIT)
    assert (type(kept), len(kept)) == (tasks.Bytes, size)


def test_arrays_there_and_back(pool: sp.Pool) -> None:
    array = np.arange(200_000, dtype=np.int64)
    back = pool.submit(tasks.double, array).result(WAIT)
    assert (back == array * 2).all()
    back[0] = 7  # it is the caller's own
    both = pool.submit(tasks.echo, {"a": array, "b": [array[::2], "text"]}).result(WAIT)
    assert (both["b"][0] == array[::2]).all()


def test_a_task_may_write_into_its_array(pool: sp.Pool) -> None:
    def fill(array: Any) -> float:
        array[:] = 2
        return float(array.sum())

    assert pool.submit(fill, np.ones(100_000)).result(WAIT) == 200_000.0


def test_many_large_ones_at_a_time(pool: sp.Pool) -> None:
    data = bytes(3 << 20)
    futures = [pool.submit(len, data) for _ in range(60)]
    assert [future.result(WAIT) for future in futures] == [3 << 20] * 60


def test_an_array_that_is_kept_in_the_worker_blocks_nothing(pool: sp.Pool) -> None:
    def keep(array: Any) -> int:
        state = sp.this_worker().state
        state.kept = [*getattr(state, "kept", []), array]
        return len(state.kept)

    for _ in range(50):
        pool.submit(keep, np.zeros(1 << 18)).result(WAIT)


# --- map


def test_map_is_in_order(pool: sp.Pool) -> None:
    assert list(pool.map(tasks.double, range(1000))) == list(range(0, 2000, 2))


@pytest.mark.parametrize("chunksize", [None, 1, 7, 5000])
def test_chunks(pool: sp.Pool, chunksize: int | None) -> None:
    assert list(pool.map(tasks.double, range(5000), chunksize=chunksize)) == list(range(0, 10000, 2))
    assert sorted(pool.map_unordered(tasks.double, range(5000), chunksize=chunksize)) == list(range(0, 10000, 2))


def test_map_takes_several_iterables(pool: sp.Pool) -> None:
    assert list(pool.map(pow, [2, 3, 4], [5, 2, 1])) == [32, 9, 4]
    assert list(pool.map(pow, range(1000), itertools.repeat(2))) == [n * n for n in range(1000)]
    assert list(pool.map(tasks.double, [])) == []


def test_map_is_lazy_and_bounded(pool: sp.Pool) -> None:
    read = 0

    def endless() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    results = pool.map(tasks.double, endless(), buffersize=10)
    assert read == 10
    assert [next(results) for _ in range(5)] == [2, 4, 6, 8, 10]
    assert read <= 16
    results.close()  # type: ignore[attr-defined]


def test_map_without_a_bound_of_its_own_reads_no_more_than_it_needs(pool: sp.Pool) -> None:
    counter = itertools.count()
    results = pool.map_unordered(tasks.pid, counter)
    for _ in range(100):
        next(results)
    assert next(counter) < 200_000


def test_items_of_every_kind(pool: sp.Pool) -> None:
    items: list[Any] = [1, "a", (1, 2), None, b"x" * 50_000, np.arange(10_000), [1], 2.5] * 20
    for ordered in (True, False):
        method = pool.map if ordered else pool.map_unordered
        back = list(method(tasks.echo, items))
        assert len(back) == len(items)
        if ordered:
            assert all(str(one) == str(other) for one, other in zip(items, back, strict=True))


def test_an_error_ends_the_map(pool: sp.Pool) -> None:
    results = pool.map(tasks.fail_if_odd, [0, 2, 3, 4])
    assert next(results) == 0
    assert next(results) == 2
    with pytest.raises(ValueError, match="3"):
        next(results)


def test_errors_as_results(pool: sp.Pool) -> None:
    results = list(pool.map(tasks.fail_if_odd, range(2000), return_exceptions=True))
    assert [value for value in results if not isinstance(value, ValueError)] == list(range(0, 2000, 2))
    assert [value.args[0] for value in results if isinstance(value, ValueError)] == list(range(1, 2000, 2))


def test_the_timeout_of_a_map_is_the_waiters_who_then_wants_nothing_more(tmp_path: Path) -> None:
    with sp.Pool(2) as own:
        marks = [str(tmp_path / str(n)) for n in range(50)]
        results = own.map(tasks.hang, marks, timeout=0.2, chunksize=1)
        with pytest.raises(concurrent.futures.TimeoutError, match="the map's tasks are cancelled"):
            next(results)
        assert list(results) == []
        assert own.stats()["cancelled"] == 50
        assert own.submit(tasks.double, 2).result(WAIT) == 4  # there is a worker for it
    eventually(lambda: not any(_lives(int(file.read_text() or 0)) for file in tmp_path.iterdir() if file.read_text()))


def test_a_map_in_time_has_its_results(pool: sp.Pool) -> None:
    assert list(pool.map(tasks.double, range(100), timeout=WAIT)) == list(range(0, 200, 2))


def test_progress_is_for_terminals(pool: sp.Pool, capfd: pytest.CaptureFixture[str]) -> None:
    assert list(pool.map(tasks.double, range(100), progress="doubling")) == list(range(0, 200, 2))
    assert capfd.readouterr().err == ""


def test_progress(pool: sp.Pool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    assert list(pool.map(tasks.double, range(100), progress="doubling")) == list(range(0, 200, 2))
    assert "doubling" in (shown := capfd.readouterr().err)
    assert "100/100" in shown
    assert sum(pool.map_unordered(tasks.double, iter(range(100)), progress=True)) == 9900
    assert "pooltasks.double" in capfd.readouterr().err


def test_progress_by_tqdm(pool: sp.Pool, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    assert list(pool.map(tasks.double, range(100), progress="tqdm")) == list(range(0, 200, 2))
    assert "100/100" in capfd.readouterr().err


@pytest.mark.parametrize("how", ["tqdm", "notebook"])
def test_without_tqdm_nothing_is_begun(pool: sp.Pool, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.notebook", None)
    before = pool.stats()["submitted"]
    with pytest.raises(
        sp.BadValueError, match=f"progress='{how}' needs tqdm, which is not installed: pip install tqdm"
    ):
        pool.map(tasks.double, [1], progress=how)
    assert pool.stats()["submitted"] == before


# --- options


def test_a_view_is_an_executor(pool: sp.Pool) -> None:
    view = pool.options(timeout=5, retries=2)
    assert isinstance(view, concurrent.futures.Executor)
    assert view.submit(tasks.double, 2).result(WAIT) == 4
    assert list(view.map(tasks.double, range(500))) == list(range(0, 1000, 2))
    assert view.options(retries=0)._terms.timeout == 5
    assert view.options(timeout=None)._terms.timeout == 0


@pytest.mark.parametrize("wrong", [3, 2.5, ["tqdm"]])
def test_progress_of_another_kind(pool: sp.Pool, wrong: Any) -> None:
    before = pool.stats()["submitted"]
    with pytest.raises(sp.BadValueError, match="progress is"):
        pool.map(tasks.double, [1], progress=wrong)
    assert pool.stats()["submitted"] == before  # nothing was begun


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"workers": 0}, "workers is 0"),
        ({"workers": "two"}, "workers is 'two'"),
        ({"timeout": -1}, "timeout is -1"),
        ({"timeout": "soon"}, "timeout wants seconds"),
        ({"retries": -1}, "retries is -1"),
        ({"retries": 1.5}, "retries is 1.5"),
        ({"retry_on": [3]}, "retry_on has 3"),
        ({"retry_on": 5}, "retry_on is 5"),
        ({"name": 3}, "name is 3"),
        ({"initargs": 5}, "initargs is 5"),
        ({"initializer": print, "initargs": "abc"}, "initargs is 'abc'"),
        ({"backoff": "long"}, "backoff wants seconds"),
        ({"max_tasks": 0}, "max_tasks is 0"),
        ({"memory_limit": "much"}, "memory_limit is a number of bytes, or text like '512MB' or '2GiB', not 'much'"),
        ({"memory_limit": 0}, "memory_limit is 0"),
        (
            {"memory_limit": 512},
            "memory_limit is 512 bytes, and a worker that does nothing has more than 8 MiB; a number",
        ),
        ({"memory_limit": "1MB"}, "memory_limit is 977 KiB, and a worker"),
        ({"affinity": [100_000]}, "not on \\[100000\\]"),
        ({"affinity": 3}, "affinity is 3"),
        ({"start_method": "forkserver"}, "start_method is 'forkserver'"),
        ({"serializer": "json"}, "serializer is 'json'"),
        ({"initializer": 3}, "initializer is 3"),
        ({"idle_timeout": "never"}, "idle_timeout wants seconds"),
        ({"idle_timeout": -1}, "idle_timeout is -1; it has to be 0 seconds or more"),
        ({"affinity": "x"}, "affinity is 'x'"),
        ({"affinity": "01"}, "affinity is '01'"),
        ({"workers": 1001}, "workers is 1001; it may be 1000 at most"),
        ({"shared": 5}, "shared is 5; it has to be"),
        ({"name": "half a \ud83d"}, "name is 'half a .*'; it has to be a text"),
        ({"initargs": (1,)}, r"initargs is \(1,\), but there is no initializer"),
    ],
)
def test_wrong_arguments(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(sp.BadValueError, match=words):
        sp.Pool(**wrong)


def test_what_cannot_be_pickled_is_refused_at_once() -> None:
    with pytest.raises(sp.SerializationError, match="initializer"):
        sp.Pool(1, initializer=print, initargs=(tasks.Unpicklable(),))
    with pytest.raises(sp.SerializationError, match="shared="):
        sp.Pool(1, shared=tasks.Unpicklable())


@alone
def test_the_memory_of_a_closed_pool_goes_with_it() -> None:
    if not hasattr(os, "memfd_create"):
        return
    from spworkers.testing import eventually  # this is another process, without the tests' own

    def memory() -> list[str]:
        numbers = os.listdir("/proc/self/fd")
        links = [
            os.readlink(f"/proc/self/fd/{number}") for number in numbers if os.path.lexists(f"/proc/self/fd/{number}")
        ]
        return [link for link in links if "memfd:spworkers" in link]

    gc.disable()  # as it may be for long, in a program with few objects of its own
    with sp.Pool(1, shared=[1]):
        pass  # nobody has needed a worker
    with sp.Pool(1) as pool:
        future = pool.submit(abs, -1)
        assert list(pool.map(abs, range(100))) == list(range(100))
    assert future.result() == 1
    eventually(lambda: not memory(), what="the memory to go")
    with pytest.raises(sp.ShutdownError):
        pool.submit(abs, 1)
    assert pool.stats()["workers"] == []
    assert repr(pool).endswith("shut down>")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="it is the GNU C library's")
def test_an_idle_worker_gives_back_what_its_allocator_keeps() -> None:
    def resident() -> int:
        with open(f"/proc/{os.getpid()}/statm") as file:
            return int(file.read().split()[1]) * 4096

    def scatter() -> int:
        pieces = [bytes(100_000) for _ in range(200)]
        sp.this_worker().state.kept = pieces[::20]  # so that the heap's end stays where it is
        del pieces
        return resident()

    with sp.Pool(1) as pool:
        before = pool.submit(scatter).result(WAIT)
        eventually(lambda: pool.workers[0].rss < before - 10_000_000, WAIT)
        assert pool.submit(tasks.double, 2).result(WAIT) == 4


def test_a_pool_without_threads_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.endswith(refused):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    for refused in ("-keeper", "-collector"):
        with sp.Pool(1) as pool:
            with pytest.raises(RuntimeError, match="can't start new thread"):
                pool.submit(abs, 1)
            with pytest.raises(sp.ResourceError, match="cannot start the threads of pool"):
                pool.submit(abs, 1)


@pytest.mark.parametrize("wrong", ["x", float("nan"), True, []])
def test_a_wrong_timeout_of_a_future_is_told(pool: sp.Pool, wrong: Any) -> None:
    future = pool.submit(abs, -1)
    for ask in (future.result, future.exception):
        with pytest.raises(sp.BadValueError, match="timeout wants seconds"):
            ask(wrong)
    assert future.result(WAIT) == 1
    with pytest.raises(sp.BadValueError, match="timeout wants seconds"):
        future.result(wrong)


@pytest.mark.parametrize("runs", [False, True], ids=["not started", "started"])
@pytest.mark.parametrize("which", ["-keeper", "-collector"])
def test_ctrl_c_while_the_first_submit_starts_a_thread(monkeypatch: pytest.MonkeyPatch, which: str, runs: bool) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if not thread.name.endswith(which):
            start(thread)
            return
        monkeypatch.undo()
        if runs:
            start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with sp.Pool(2) as pool:
        with pytest.raises(KeyboardInterrupt):
            pool.submit(abs, -1)
        assert pool.submit(abs, -2).result(WAIT) == 2
        stats = pool.stats()
        assert (stats["submitted"], stats["done"] + stats["cancelled"]) == (2, 2)  # the first was quick, or cancelled
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt), sp.Pool(2) as pool:
        pool.submit(abs, -1)
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt), sp.Pool(2) as pool:
        list(pool.map(abs, range(10)))


# --- async


def test_asyncio(pool: sp.Pool) -> None:
    async def main() -> list[int]:
        return await asyncio.gather(*(pool.asubmit(tasks.double, n) for n in range(50)))

    assert asyncio.run(main()) == list(range(0, 100, 2))


def test_run_in_executor(pool: sp.Pool) -> None:
    async def main() -> int:
        result: int = await asyncio.get_running_loop().run_in_executor(pool, tasks.double, 21)
        return result

    assert asyncio.run(main()) == 42


def test_trio(pool: sp.Pool) -> None:
    async def main() -> int:
        result: int = await pool.asubmit(tasks.double, 21)
        return result

    assert trio.run(main) == 42


def test_a_pool_is_used_from_several_event_loops(pool: sp.Pool) -> None:
    def loop(start: int) -> list[int]:
        async def main() -> list[int]:
            return await asyncio.gather(*(pool.asubmit(tasks.double, n) for n in range(start, start + 20)))

        return asyncio.run(main())

    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        for start, found in zip((0, 100, 200), threads.map(loop, (0, 100, 200)), strict=True):
            assert found == [2 * n for n in range(start, start + 20)]


def test_an_async_block() -> None:
    async def main() -> int:
        async with sp.Pool(1) as own:
            result: int = await own.asubmit(tasks.double, 4)
            return result

    assert asyncio.run(main()) == 8


def test_what_workers_log_comes_out_here(pool: sp.Pool, caplog: pytest.LogCaptureFixture) -> None:
    def say(text: str) -> None:
        try:
            raise LookupError(text)
        except LookupError:
            logging.getLogger("tested").warning("it is %s", text, exc_info=True)
        logging.getLogger("tested").debug("too low for everybody here")

    pool.submit(say, "said").result(WAIT)
    (record,) = eventually(lambda: [each for each in caplog.records if each.name == "tested"])
    assert record.getMessage() == "it is said"
    assert record.worker == record.processName == pool.workers[record.worker.endswith("2")].name
    assert record.process in [worker.pid for worker in pool.workers]
    assert "LookupError: said" in record.exc_text


@pytest.mark.parametrize("method", ["supervisor", "fork"])
def test_at_the_end_of_a_pool_all_is_logged(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """And once, also by a fork of this process, which has its handlers."""

    def say(number: int) -> None:
        logging.getLogger("tested").error("%d", number)

    with sp.Pool(2, start_method=method) as own:
        list(own.map(say, range(50)))
    said = [record.getMessage() for record in caplog.records if record.name == "tested"]
    assert sorted(said, key=int) == [str(number) for number in range(50)]


def test_threads_share_a_pool(pool: sp.Pool) -> None:
    sums: list[int] = []

    def work(start: int) -> None:
        futures = [pool.submit(tasks.double, start + n) for n in range(300)]
        sums.append(sum(future.result(WAIT) for future in futures))
        sums.append(sum(pool.map(tasks.double, range(start, start + 300))))

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 4000, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    expected = [sum(2 * (start + n) for n in range(300)) for start in range(0, 4000, 1000)]
    assert sorted(sums) == sorted([*expected, *expected])


# --- workers


def test_workers_are_started_when_they_are_needed() -> None:
    with sp.Pool(2) as own:
        assert own.workers == []
        assert repr(own).endswith("0 of 2 workers, 0 busy, 0 tasks waiting>")
        first = own.submit(tasks.pid).result(WAIT)
        (worker,) = own.workers
        assert worker.pid == first
        assert worker.rss > 1 << 20
        eventually(lambda: own.workers[0].state == "idle")
        assert own.submit(tasks.pid).result(WAIT) == first  # who is free gets it
        assert own.stats()["done"] == 2
    assert repr(own).endswith("shut down>")
    assert own.workers == []


def test_who_has_answered_has_a_pid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the launcher's word of it is late."""
    answered = threading.Event()
    launched = Engine.launched

    def late(self: Engine, worker: Any, pid: int, handle: Any) -> None:
        answered.wait(WAIT)
        launched(self, worker, pid, handle)

    monkeypatch.setattr(Engine, "launched", late)
    with sp.Pool(1) as own:
        try:
            first = own.submit(tasks.pid).result(WAIT)
            assert own.workers[0].pid == first
        finally:
            answered.set()


def test_initializer_and_state() -> None:
    with sp.Pool(1, initializer=tasks.set_up, initargs=(7,)) as own:
        assert own.submit(tasks.state_value).result(WAIT) == 7


def test_a_finalizer_is_called_in_each_worker(tmp_path: Path) -> None:
    path = tmp_path / "ends"
    with sp.Pool(2, finalizer=functools.partial(tasks.write_end, str(path))) as own:
        # Both have worked: one that is told to end before it is up has nothing to end.
        eventually(lambda: len(set(own.map(tasks.pid, range(50), chunksize=1))) == 2, WAIT)
    assert path.read_text() == "end\n" * 2


def test_shared_objects_are_mapped() -> None:
    table = np.arange(1 << 20, dtype=np.float64)
    with sp.Pool(1, shared={"table": table, "name": "t"}) as own:
        assert own.submit(tasks.shared_sum).result(WAIT) == table.sum()
        with pytest.raises(ValueError, match="read-only"):
            own.submit(tasks.write_shared).result(WAIT)

        def unshared() -> int:
            """Pages of the mapping that this process has a copy of."""
            text = Path("/proc/self/smaps").read_text()
            part = text[text.index("spworkers-shared") :]
            return int(part[part.index("Anonymous:") :].split()[1])

        if Path("/proc/self/smaps").exists():
            assert own.submit(unshared).result(WAIT) == 0


def test_this_worker_is_for_workers() -> None:
    with pytest.raises(sp.ProtoStateError, match="no worker"):
        sp.this_worker()


def test_max_tasks() -> None:
    with sp.Pool(1, max_tasks=3) as own:
        pids = [own.submit(tasks.pid).result(WAIT) for _ in range(9)]
        assert [len(set(pids[n : n + 3])) for n in (0, 3, 6)] == [1, 1, 1]
        assert len(set(pids)) == 3
        assert list(own.map(tasks.double, range(20))) == list(range(0, 40, 2))
        eventually(lambda: own.stats()["replaced"] >= 3, WAIT)


async def acquainted() -> int:
    return 5


def test_what_is_told_of_coroutines_and_of_pools() -> None:
    with sp.Pool(1) as own:
        with pytest.raises(sp.SerializationError, match="the task is an `async def`"):
            own.submit(acquainted).result(WAIT)
        with pytest.raises(sp.SerializationError, match="a task may make a pool of its own"):
            own.submit(tasks.double, own).result(WAIT)


def test_a_worker_without_a_process_is_not_shown() -> None:
    """Whoever kills what is shown must not hit process 0, which is his own group."""
    with sp.Pool(1) as own, own._engine.lock:
        own.submit(tasks.pid)
        assert own._engine.dispatcher.workers
        assert own.workers == []


def test_idle_workers_leave_and_come_back() -> None:
    with sp.Pool(1, idle_timeout=0.05) as own:
        first = own.submit(tasks.pid).result(WAIT)
        eventually(lambda: not own.workers)
        assert own.submit(tasks.pid).result(WAIT) != first


@pytest.mark.parametrize("seconds", [0, 1e-9])
def test_workers_that_leave_as_soon_as_they_are_idle(seconds: float) -> None:
    with sp.Pool(1, idle_timeout=seconds) as own:
        assert [own.submit(tasks.double, n).result(WAIT) for n in range(3)] == [0, 2, 4]
        eventually(lambda: not own.workers, WAIT)


def test_resize() -> None:
    with sp.Pool(1) as own:
        own.submit(tasks.pid).result(WAIT)
        own.resize(2)
        for future in [own.submit(tasks.pid) for _ in range(20)]:
            future.result(WAIT)
        eventually(lambda: len(own.workers) == 2)
        own.resize(1)
        eventually(lambda: len(own.workers) == 1)
        assert list(own.map(tasks.double, range(100))) == list(range(0, 200, 2))
        with pytest.raises(sp.BadValueError, match="workers is 0"):
            own.resize(0)


def test_resize_while_tasks_run(tmp_path: Path) -> None:
    """What runs and what waits is done, whoever has to leave."""
    gate = tmp_path / "gate"
    with sp.Pool(3) as own:
        running = [own.submit(tasks.wait_for, str(gate), str(tmp_path / f"mark{n}")) for n in range(3)]
        eventually(lambda: len(list(tmp_path.glob("mark*"))) == 3, WAIT)
        waiting = [own.submit(tasks.double, n) for n in range(100)]
        own.resize(1)
        assert own.stats()["limit"] == 1
        gate.touch()
        assert [future.result(WAIT) for future in waiting] == list(range(0, 200, 2))
        assert [future.result(WAIT) for future in running] == [1, 1, 1]
        eventually(lambda: len(own.workers) == 1, WAIT)
        assert own.stats()["died"] == own.stats()["failed"] == 0


def test_who_has_done_nothing_yet_is_not_replaced_for_its_size() -> None:
    """Its successor would be as large: nobody would ever do a task."""
    with sp.Pool(1) as own:
        own.submit(tasks.pid).result(WAIT)
        eventually(lambda: own.stats()["workers"][0]["state"] == "idle", WAIT)
        (worker,) = own._engine.dispatcher.workers
        done, worker.done = worker.done, 0
        own._engine.exceeds(worker, 2, 1)
        assert own.stats()["replaced"] == 0
        worker.done = done
        own._engine.exceeds(worker, 2, 1)
        assert own.stats()["replaced"] == 1


def test_what_is_counted(tmp_path: Path) -> None:
    with sp.Pool(1) as own:
        own.submit(tasks.double, 1).result(WAIT)
        assert list(own.map(tasks.double, range(10))) == list(range(0, 20, 2))
        own.submit(tasks.fail, "it").exception(WAIT)
        own.submit(tasks.leave, 1).exception(WAIT)
        own.options(retries=1, backoff=0.001).submit(tasks.die).exception(WAIT)
        running = own.submit(tasks.hang, str(tmp_path / "mark"))
        waiting = own.submit(tasks.pid)
        eventually(running.running, WAIT)
        stats = own.stats()
        assert (stats["queued"] + stats["given"], stats["limit"]) == (2, 1)
        eventually(lambda: [worker["state"] for worker in own.stats()["workers"]] == ["busy"], WAIT)
        assert waiting.cancel()
        assert running.cancel()
        own.options(timeout=0.05).submit(tasks.hang).exception(WAIT)
        counted = {name: value for name, value in own.stats().items() if isinstance(value, int) and value}
    assert counted.pop("replaced") >= 4  # two deaths, a cancellation, a timeout; the last successor may not be counted
    assert counted == {
        "submitted": 17,
        "done": 11,
        "failed": 4,
        "cancelled": 2,
        "retried": 1,
        "died": 3,
        "timed_out": 1,
        "quarantined": 1,
        "limit": 1,
    }


def test_pauses_double_up_to_a_limit_and_are_shortened_by_chance() -> None:
    assert [sp.Backoff(0.1, jitter=0).pause(n) for n in (1, 2, 3)] == pytest.approx([0.1, 0.2, 0.4])
    assert sp.Backoff(0.1, limit=5, jitter=0).pause(1000) == 5
    pauses = [sp.Backoff(1.0, jitter=0.5).pause(1) for _ in range(200)]
    assert all(0.5 <= pause <= 1.0 for pause in pauses)
    assert len(set(pauses)) > 100
    with pytest.raises(sp.BadValueError, match="jitter is between 0 and 1"):
        sp.Backoff(jitter=2)
    for wrong in ("soon", float("nan"), None):
        with pytest.raises(sp.BadValueError, match="first and limit are seconds"):
            sp.Backoff(wrong)  # type: ignore[arg-type]
    assert sp.Backoff(0.1, factor=1e300, jitter=0).pause(3) == 30


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_affinity_and_threads() -> None:
    cpu = min(os.sched_getaffinity(0))
    with sp.Pool(1, affinity=[cpu], threads_per_worker=1) as own:
        assert own.submit(tasks.cpus).result(WAIT) == {cpu}
        assert own.submit(tasks.threads).result(WAIT) == "1"


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_start_methods(method: str) -> None:
    seen = "set here"
    with sp.Pool(2, start_method=method) as own:
        assert own.submit(tasks.double, 4).result(WAIT) == 8
        assert own.submit(lambda: seen).result(WAIT) == seen
        assert list(own.map(tasks.double, range(300))) == list(range(0, 600, 2))
        with pytest.raises(sp.WorkerDiedError, match="exit code 3"):
            own.submit(tasks.leave, 3).result(WAIT)
        with pytest.raises(sp.WorkerDiedError, match="SIGKILL"):
            own.submit(tasks.die).result(WAIT)
        assert own.submit(tasks.double, 5).result(WAIT) == 10
        if method == "spawn":
            assert "pytest" not in own.submit(tasks.modules).result(WAIT)


def test_nested_pools() -> None:
    with sp.Pool(1) as own:
        assert own.submit(tasks.nested, 4).result(WAIT) == [0, 2, 4, 6]


def test_msgpack() -> None:
    with sp.Pool(1, serializer="msgpack") as own:
        assert own.submit(tasks.echo, {"a": [1, 2.5, None]}).result(WAIT) == {"a": [1, 2.5, None]}
        assert list(own.map(tasks.double, range(100))) == list(range(0, 200, 2))
        with pytest.raises(sp.SerializationError, match="Unpicklable"):
            own.submit(tasks.echo, tasks.Unpicklable()).result(WAIT)


def test_a_function_that_has_every_attribute_can_be_named() -> None:
    """`client.add` says to every name that it is a handler's."""
    with sp.Pool(1) as own, sp.App("calc").client() as calc:
        for function in (calc.add, functools.partial(calc.add, 1)):
            with pytest.raises(sp.SerializationError, match=r"LocalClient .* belongs to this process"):
                own.submit(function, 2).result(WAIT)


# --- the end


def test_shutdown_finishes_what_was_submitted() -> None:
    own = sp.Pool(2)
    futures = [own.submit(tasks.double, n) for n in range(200)]
    own.shutdown()
    assert [future.result(0) for future in futures] == list(range(0, 400, 2))
    with pytest.raises(RuntimeError, match="after shutdown"):
        own.submit(tasks.pid)
    with pytest.raises(sp.ShutdownError):
        own.map(tasks.pid, [1])
    own.shutdown()


def test_a_map_after_the_shutdown_gives_what_was_submitted() -> None:
    with sp.Pool(2) as own:
        few = own.map(tasks.double, range(50))
        many = own.map(tasks.double, itertools.count(), buffersize=20)
    assert list(few) == list(range(0, 100, 2))
    assert [next(many) for _ in range(20)] == list(range(0, 40, 2))
    with pytest.raises(sp.ShutdownError):
        next(many)


def test_shutdown_without_waiting() -> None:
    own = sp.Pool(1)
    futures = [own.submit(tasks.double, n) for n in range(50)]
    own.shutdown(wait=False)
    assert [future.result(WAIT) for future in futures] == list(range(0, 100, 2))


def test_shutdown_cancels_what_waits(tmp_path: Path) -> None:
    own = sp.Pool(1)
    running = own.submit(tasks.hang, str(tmp_path / "mark"))
    waiting = [own.submit(tasks.double, n) for n in range(50)]
    eventually((tmp_path / "mark").exists)
    own.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in waiting)
    assert not running.done()
    running.cancel()
    own.shutdown()


def test_kill_workers(tmp_path: Path) -> None:
    own = sp.Pool(1)
    running = own.submit(tasks.hang, str(tmp_path / "mark"))
    waiting = own.submit(tasks.pid)
    eventually(running.running, WAIT)
    own.kill_workers()
    assert running.cancelled()
    assert waiting.cancelled()
    assert repr(own).endswith("shut down>")
    with pytest.raises(sp.ShutdownError):
        own.submit(tasks.pid)
    own.terminate_workers()


def test_shutdown_right_after_a_cancel() -> None:
    own = sp.Pool(1)
    own.submit(tasks.pid).result(WAIT)
    for _ in range(5):
        own.submit(tasks.double, 1).cancel()
    own.shutdown()
    assert repr(own).endswith("shut down>")


def test_a_pool_that_nobody_holds_ends() -> None:
    own = sp.Pool(1)
    future = own.submit(tasks.pid)
    pid = future.result(WAIT)
    engine = own._engine
    del own, future
    eventually(lambda: not _lives(pid))
    eventually(lambda: engine.over)


def test_a_pool_that_was_never_used() -> None:
    own = sp.Pool(2)
    own.shutdown()
    with sp.Pool(2):
        pass


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
