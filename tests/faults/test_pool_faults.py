"""What a pool does when things break: each line of the fault list of other pools, and the outcome that a user wants.

`FAULTS`, below, says which line is which test.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import trio
from helpers import aeventually, eventually

import spworkers as sp

sys.path.insert(0, str(Path(__file__).parent.parent / "workers"))
import pooltasks as tasks

WAIT = 20.0
HERE = Path(__file__).parent


@pytest.fixture
def pool() -> Iterator[sp.Pool]:
    with sp.Pool(2, name="hurt") as made:
        yield made


FAULTS = {
    "a worker is killed, and the pool waits for ever, or is broken": "only_the_task_of_a_killed_worker_fails",
    "a worker is killed, and the whole map fails": "a_map_loses_only_the_item_that_kills",
    "… and a batch with it": "a_map_with_chunks_loses_only_that_item",
    "… and what it had done with it": "a_worker_that_dies_with_results_in_its_lane",
    "an idle worker is killed": "an_idle_worker_is_killed",
    "all workers are killed": "the_supervisor_is_killed",
    "workers are killed again and again": "ten_thousand_tasks_survive_a_killer",
    "a poison task goes round": "a_poison_task_is_quarantined",
    "an exception cannot be unpickled": "an_exception_that_cannot_be_unpickled",
    "a result cannot be pickled": "a_result_that_cannot_be_pickled",
    "a result cannot be unpickled": "a_result_that_cannot_be_read",
    "arguments cannot be pickled": "arguments_that_cannot_be_pickled",
    "arguments cannot be unpickled": "arguments_that_cannot_be_read",
    "a timeout frees the caller, and the work goes on": "a_timeout_stops_the_work",
    "a timeout kills the whole map": "a_timeout_hits_one_item_of_a_map",
    "cancel says yes, and the work goes on": "cancel_stops_running_work",
    "… also a task of asyncio": "a_cancelled_task_of_asyncio_stops_the_work",
    "… and of trio": "a_cancelled_task_of_trio_stops_the_work",
    "cancel hits the next task": "cancel_while_it_finishes_never_hurts_the_next",
    "the parent is killed, and workers stay": "nobody_outlives_the_parent",
    "Ctrl-C: a traceback of each worker, and orphans": "ctrl_c",
    "a task forks": "a_task_that_forks",
    "the user forks": "a_forked_child_of_the_parent_has_no_pool",
    "/dev/shm is full: SIGBUS": "shared_memory_that_is_full",
    "a worker's memory grows": "a_worker_that_uses_too_much_memory",
    "an initializer raises": "an_initializer_that_raises",
    "an initializer dies": "an_initializer_that_kills",
    "a worker is too large from its start": "a_memory_limit_below_what_a_worker_has_at_its_start",
    "the map of an endless input": "map_is_lazy_and_bounded",
    "what workers log vanishes": "what_workers_log_comes_out_here",
    "each worker has BLAS threads for the whole machine": "affinity_and_threads",
    "large arguments are copied into the pickle": "arrays_there_and_back",
    "large objects are copied into each worker": "shared_objects_are_mapped",
}
"""What breaks elsewhere, and the test of what happens here: in this file, or in `workers/test_pool.py`."""


def test_each_line_has_its_test() -> None:
    there = (HERE.parent / "workers" / "test_pool.py").read_text()
    missing = [name for name in FAULTS.values() if f"test_{name}" not in globals() and f"def test_{name}(" not in there]
    assert not missing


# --- a worker is killed


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_only_the_task_of_a_killed_worker_fails(pool: sp.Pool, number: signal.Signals) -> None:
    before = [pool.submit(tasks.double, n) for n in range(20)]
    victim = pool.submit(tasks.die, number)
    after = [pool.submit(tasks.double, n) for n in range(20)]
    with pytest.raises(
        sp.WorkerDiedError, match=rf"worker hurt-\d .*died while it ran pooltasks.die.*{number.name}"
    ) as caught:
        victim.result(WAIT)
    assert caught.value.pid > 0
    assert caught.value.status == -number
    assert caught.value.task.startswith("pooltasks.die(")
    assert [future.result(WAIT) for future in before + after] == 2 * list(range(0, 40, 2))
    assert pool.stats()["died"] == 1


def test_a_task_that_leaves_the_process(pool: sp.Pool) -> None:
    with pytest.raises(sp.WorkerDiedError, match=r"leave\(0\): exit code 0"):
        pool.submit(tasks.leave, 0).result(WAIT)
    with pytest.raises(sp.WorkerDiedError, match="exit code 41") as caught:
        pool.submit(tasks.leave, 41).result(WAIT)
    assert caught.value.status == 41


def test_an_idle_worker_is_killed(pool: sp.Pool) -> None:
    pid = pool.submit(tasks.pid).result(WAIT)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: pid not in [worker.pid for worker in pool.workers])
    assert pool.submit(tasks.pid).result(WAIT) != pid


def test_a_map_loses_only_the_item_that_kills(pool: sp.Pool) -> None:
    results = list(pool.map(tasks.die_if_bad, range(3000), return_exceptions=True))
    bad = [n for n, value in enumerate(results) if isinstance(value, sp.WorkerDiedError)]
    assert bad == [500, 1500, 2500]
    assert "die_if_bad(500) (item 500)" in str(results[500])
    assert [value for n, value in enumerate(results) if n not in bad] == [2 * n for n in range(3000) if n not in bad]


@pytest.mark.parametrize("chunksize", [1, 50])
def test_a_map_with_chunks_loses_only_that_item(pool: sp.Pool, chunksize: int) -> None:
    args = [list(range(300)), [123] * 300]
    results = list(pool.map_unordered(tasks.die_at, *args, chunksize=chunksize, return_exceptions=True))
    assert len(results) == 300
    assert {value for value in results if isinstance(value, int)} == set(range(300)) - {123}


def test_retries(pool: sp.Pool, tmp_path: Path) -> None:
    view = pool.options(retries=3, backoff=0.01)
    assert view.submit(tasks.die_until, str(tmp_path / "tries"), 2).result(WAIT) == 3
    assert pool.stats()["retried"] == 2


def test_a_poison_task_is_quarantined(pool: sp.Pool) -> None:
    victim = pool.options(retries=2, backoff=0.01).submit(tasks.die)
    with pytest.raises(sp.QuarantinedError, match=r"die\(\) killed 3 workers in 3 attempts.*SIGKILL") as caught:
        victim.result(WAIT)
    assert caught.value.deaths == 3
    assert isinstance(caught.value.__cause__, sp.WorkerDiedError)
    assert pool.submit(tasks.double, 3).result(WAIT) == 6


def test_exceptions_are_retried_only_on_request(pool: sp.Pool, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError):
        pool.options(retries=5).submit(tasks.fail_until, str(tmp_path / "a"), 1).result(WAIT)
    view = pool.options(retries=5, backoff=0.01, retry_on=ConnectionError)
    assert view.submit(tasks.fail_until, str(tmp_path / "b"), 2).result(WAIT) == 3
    assert list(view.map(tasks.fail_until, [str(tmp_path / "c")] * 3, [1] * 3, chunksize=3)) == [4, 2, 3]


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.timeout(300)  # a killer leaves the less the busier the machine is otherwise
def test_ten_thousand_tasks_survive_a_killer() -> None:
    def work(n: int) -> int:  # by value: a worker need not import a module in its short life
        end = clock() + 0.0002
        while clock() < end:
            pass
        return n

    clock = time.perf_counter
    with sp.Pool(2, retries=50, backoff=0.005) as pool:
        over = threading.Event()
        kills = 0

        def kill() -> None:
            nonlocal kills
            while not over.wait(0.02):
                for worker in [worker for worker in pool._engine.dispatcher.workers if worker.ready and worker.pid][:1]:
                    try:
                        os.kill(worker.pid, signal.SIGKILL)
                        kills += 1
                    except ProcessLookupError:
                        continue

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            futures = [pool.submit(work, n) for n in range(10_000)]
            assert [future.result(250) for future in futures] == list(range(10_000))
        finally:
            over.set()
            killer.join()
        assert kills > 10
        assert pool.stats()["failed"] == 0


# --- time limits


def test_a_timeout_stops_the_work(pool: sp.Pool, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    begun = time.monotonic()
    with pytest.raises(sp.TaskTimeoutError, match=r"spin\(.*ran longer than its timeout of 0.3 s") as caught:
        pool.options(timeout=0.3).submit(tasks.spin, str(mark)).result(WAIT)
    assert 0.3 <= time.monotonic() - begun < 5
    assert caught.value.seconds == 0.3
    pid = int(mark.read_text())
    eventually(lambda: not psutil.pid_exists(pid))
    assert pool.submit(tasks.double, 2).result(WAIT) == 4
    assert pool.stats()["timed_out"] == 1


def test_a_timeout_counts_from_the_tasks_own_start(tmp_path: Path) -> None:
    with sp.Pool(1, timeout=1.0) as pool:
        futures = [pool.submit(time.sleep, 0.4) for _ in range(4)]
        for future in futures:
            assert future.result(WAIT) is None


def test_a_timeout_hits_one_item_of_a_map(pool: sp.Pool) -> None:
    view = pool.options(timeout=0.3)
    results = list(view.map(time.sleep, [0] * 40 + [60] + [0] * 40, return_exceptions=True))
    assert [n for n, value in enumerate(results) if value is not None] == [40]
    assert isinstance(results[40], sp.TaskTimeoutError)


def test_a_timeout_is_retried_too(pool: sp.Pool, tmp_path: Path) -> None:
    with pytest.raises(sp.TaskTimeoutError, match="for the 2nd time"):
        pool.options(timeout=0.1, retries=1, backoff=0.01).submit(tasks.hang).result(WAIT)


# --- cancelling


def test_what_was_cancelled_is_counted_no_more(pool: sp.Pool, tmp_path: Path) -> None:
    mark = str(tmp_path / "mark")
    future = pool.submit(tasks.hang, mark)
    eventually(lambda: Path(mark).exists(), WAIT)
    with pool._engine.lock:  # its worker's death cannot be noticed meanwhile
        assert future.cancel()
        counts = pool.stats()
    assert (counts["queued"], counts["given"]) == (0, 0)


def test_cancel_stops_running_work(pool: sp.Pool, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    future = pool.submit(tasks.spin, str(mark))
    eventually(lambda: mark.exists() and mark.read_text())
    assert future.running()
    assert future.cancel()
    assert future.cancelled()
    assert future.cancel()
    with pytest.raises(sp_cancelled()):
        future.result(WAIT)
    pid = int(mark.read_text())
    eventually(lambda: not psutil.pid_exists(pid))
    assert pool.submit(tasks.double, 2).result(WAIT) == 4


def sp_cancelled() -> type[BaseException]:
    from concurrent.futures import CancelledError

    return CancelledError


def test_cancel_hits_nobody_else(tmp_path: Path) -> None:
    with sp.Pool(1) as pool:
        running = pool.submit(tasks.hang, str(tmp_path / "mark"))
        waiting = [pool.submit(tasks.double, n) for n in range(20)]
        eventually((tmp_path / "mark").exists)
        assert waiting[3].cancel()
        assert running.cancel()
        assert [future.result(WAIT) for n, future in enumerate(waiting) if n != 3] == [
            2 * n for n in range(20) if n != 3
        ]


def test_what_is_done_cannot_be_cancelled(pool: sp.Pool) -> None:
    future = pool.submit(tasks.double, 1)
    future.result(WAIT)
    assert not future.cancel()
    assert not future.cancelled()


def test_cancel_while_it_finishes_never_hurts_the_next(pool: sp.Pool) -> None:
    for _ in range(60):
        first, second = pool.submit(tasks.double, 1), pool.submit(tasks.double, 2)
        third = pool.submit(tasks.double, 3)
        first.cancel()
        assert second.result(WAIT) == 4
        assert third.result(WAIT) == 6


def test_a_cancelled_task_of_asyncio_stops_the_work(pool: sp.Pool, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    async def main() -> None:
        task = asyncio.create_task(pool.asubmit(tasks.hang, str(mark)))
        await aeventually(lambda: mark.exists() and mark.read_text())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    eventually(lambda: not psutil.pid_exists(int(mark.read_text())))


def test_a_cancelled_task_of_trio_stops_the_work(pool: sp.Pool, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    async def main() -> None:
        with trio.move_on_after(WAIT) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pool.asubmit, tasks.hang, str(mark))
                await aeventually(lambda: mark.exists() and mark.read_text())
                scope.cancel()

    trio.run(main)
    eventually(lambda: not psutil.pid_exists(int(mark.read_text())))


def test_a_map_that_is_left_takes_back_what_waits(pool: sp.Pool) -> None:
    results = pool.map(time.sleep, [0.05] * 1000, chunksize=1)
    next(results)
    results.close()  # type: ignore[attr-defined]
    eventually(lambda: pool.stats()["queued"] == pool.stats()["given"] == 0, 5)


# --- what cannot be carried


def test_an_exception_that_cannot_be_unpickled(pool: sp.Pool) -> None:
    with pytest.raises(sp.RemoteError, match="OddInit: 1 and 2") as caught:
        pool.submit(tasks.raise_odd).result(WAIT)
    assert "raise_odd" in caught.value.traceback
    assert pool.submit(tasks.double, 2).result(WAIT) == 4


def test_an_exception_has_the_workers_traceback(pool: sp.Pool) -> None:
    with pytest.raises(LookupError, match="nothing") as caught:
        pool.submit(tasks.fail, "nothing").result(WAIT)
    assert "raise LookupError(text)" in str(caught.value.__cause__)
    assert "bench.py" not in str(caught.value.__cause__)


def test_a_result_that_cannot_be_pickled(pool: sp.Pool) -> None:
    with pytest.raises(sp.SerializationError, match=r"result, a Unpicklable, cannot be sent back.*this stays here"):
        pool.submit(tasks.make, tasks.Unpicklable).result(WAIT)
    results = list(pool.map(tasks.make, [int, tasks.Unpicklable, str], chunksize=3, return_exceptions=True))
    assert results[::2] == [0, ""]
    assert isinstance(results[1], sp.SerializationError)


def test_a_result_that_cannot_be_read(pool: sp.Pool) -> None:
    with pytest.raises(sp.SerializationError, match=r"cannot be read here.*this cannot be read"):
        pool.submit(tasks.make, tasks.Unreadable).result(WAIT)
    results = list(pool.map(tasks.make, [int, tasks.Unreadable, str], chunksize=3, return_exceptions=True))
    assert results[::2] == [0, ""]
    assert isinstance(results[1], sp.SerializationError)


def test_arguments_that_cannot_be_pickled(pool: sp.Pool) -> None:
    future = pool.submit(tasks.echo, tasks.Unpicklable())
    with pytest.raises(sp.SerializationError, match=r"arguments of pooltasks.echo cannot be sent.*this stays here"):
        future.result(WAIT)
    lock = threading.Lock()
    with pytest.raises(sp.SerializationError, match="cannot be sent to a worker"):
        pool.submit(lambda: lock).result(WAIT)
    results = list(pool.map(tasks.echo, [1, tasks.Unpicklable(), 3], return_exceptions=True))
    assert results[::2] == [1, 3]
    assert isinstance(results[1], sp.SerializationError)


def test_arguments_that_cannot_be_read(pool: sp.Pool) -> None:
    with pytest.raises(sp.SerializationError, match=r"arguments cannot be read in the worker.*this cannot be read"):
        pool.submit(tasks.echo, tasks.Unreadable()).result(WAIT)
    items = [1, tasks.Unreadable(), 3]
    results = list(pool.map(tasks.echo, items, chunksize=3, return_exceptions=True))
    assert results[::2] == [1, 3]
    assert isinstance(results[1], sp.SerializationError)


def test_a_function_of_a_module_that_workers_cannot_import(pool: sp.Pool) -> None:
    import types

    module = types.ModuleType("made_by_hand")
    exec("def answer(): return 42\nclass Thing: pass", module.__dict__)
    sys.modules["made_by_hand"] = module
    try:
        assert pool.submit(module.answer).result(WAIT) == 42  # by value
        with pytest.raises(sp.SerializationError, match="No module named 'made_by_hand'"):
            pool.submit(id, module.Thing()).result(WAIT)
        with pytest.raises(sp.SerializationError, match="made_by_hand"):
            list(pool.map(id, [module.Thing()]))
    finally:
        del sys.modules["made_by_hand"]


def test_a_task_that_exits(pool: sp.Pool) -> None:
    with pytest.raises(SystemExit):
        pool.submit(tasks.exit_with, 3).result(WAIT)


# --- starts that fail


def test_an_initializer_that_raises() -> None:
    with sp.Pool(1, initializer=tasks.broken_set_up) as pool:
        futures = [pool.submit(tasks.pid)]
        with contextlib.suppress(sp.RemoteError):  # it may fail before all are submitted
            futures.extend(pool.submit(tasks.pid) for _ in range(4))
        for future in futures:
            with pytest.raises(sp.RemoteError, match="ValueError: the pool's initializer failed: no model here"):
                future.result(WAIT)
        with pytest.raises(sp.RemoteError, match="no model here"):
            pool.submit(tasks.pid)


def test_whom_a_broken_pool_refuses_gets_an_error_of_his_own() -> None:
    """Else its traceback would grow, and keep all that the frames of those who got it had."""

    class Kept: ...

    def told(pool: sp.Pool) -> tuple[sp.RemoteError, weakref.ref[Kept]]:
        kept = Kept()
        try:
            pool.submit(tasks.pid)
        except sp.RemoteError as error:
            return error, weakref.ref(kept)
        raise AssertionError("it took a task")

    with sp.Pool(1, initializer=tasks.broken_set_up) as pool:
        with pytest.raises(sp.RemoteError, match="no model here") as first:
            pool.submit(tasks.pid).result(WAIT)
        (one, kept), (other, _) = told(pool), told(pool)
        assert one is not other
        assert str(one) == str(other) == str(first.value)
        assert one.traceback == first.value.traceback
        assert str(one.__cause__) == str(first.value.__cause__)
        del one, other
        gc.collect()
        assert kept() is None


def test_a_memory_limit_below_what_a_worker_has_at_its_start() -> None:
    with sp.Pool(1, initializer=tasks.keep, initargs=(40,), memory_limit="40MiB", name="small") as pool:
        future = pool.submit(tasks.pid)
        with pytest.raises(
            sp.BadValueError,
            match=r"memory_limit of small is 40 MiB, but a worker uses \d+ MiB before it does anything",
        ):
            future.result(WAIT)
        with pytest.raises(sp.BadValueError, match="memory_limit of small"):
            pool.submit(tasks.pid)


def test_an_initializer_that_kills() -> None:
    with sp.Pool(1, initializer=tasks.die) as pool:
        with pytest.raises(sp.WorkerDiedError, match=r"in a row died at their start.*SIGKILL"):
            pool.submit(tasks.pid).result(WAIT)


# --- memory


def test_a_worker_that_uses_too_much_memory(tmp_path: Path) -> None:
    with sp.Pool(1, memory_limit=150 << 20) as pool:
        with pytest.raises(sp.WorkerDiedError, match="MiB of memory, and memory_limit allows 150 MiB"):
            pool.submit(tasks.eat, 300).result(WAIT)
        assert pool.submit(tasks.double, 1).result(WAIT) == 2


@pytest.mark.slow
def test_shared_memory_that_is_full(tmp_path: Path) -> None:
    """/dev/shm of a few pages, as in small containers: nothing of a pool lies there."""
    script = 'mount -t tmpfs -o size=64k none /dev/shm && exec "$@"'
    line = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, str(HERE / "poolprogram.py"), "full", "."]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    if "full" not in done.stdout:
        pytest.skip(f"no mount namespace here: {done.stderr[:200]}")
    assert done.stdout.split() == ["full", "True"], done.stderr


# --- forks, and the ends of processes


def test_a_task_that_forks(pool: sp.Pool) -> None:
    for _ in range(3):
        assert pool.submit(tasks.forks).result(WAIT) > 0
    assert [future.result(WAIT) for future in [pool.submit(tasks.double, n) for n in range(50)]] == list(
        range(0, 100, 2)
    )


def test_a_forked_child_of_the_parent_has_no_pool(pool: sp.Pool) -> None:
    pool.submit(tasks.pid).result(WAIT)
    waiting = pool.submit(tasks.hang)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        for action in (lambda: pool.submit(tasks.pid), lambda: waiting.result(1)):
            try:
                action()
            except BaseException as error:
                os.write(write, type(error).__name__.encode() + b" ")
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    assert os.read(read, 100) == b"ForkedError ForkedError "
    os.close(read)
    waiting.cancel()


@pytest.mark.slow
@pytest.mark.parametrize("program", ["working", "mapping", "nested", "forked", "spawned"])
def test_nobody_outlives_the_parent(program: str, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, str(HERE / "poolprogram.py"), program, str(tmp_path)])
    count = 1 if program == "nested" else 2
    pids = eventually(lambda: _pids(tmp_path, count), WAIT)
    process.kill()
    process.wait(WAIT)
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids), WAIT)


@pytest.mark.parametrize("program", ["working", "closing", "mapping", "forked"])
def test_ctrl_c(program: str, tmp_path: Path) -> None:
    line = [sys.executable, str(HERE / "poolprogram.py"), program, str(tmp_path)]
    process = subprocess.Popen(
        line, stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    )
    pids = eventually(lambda: _pids(tmp_path, 2), WAIT)
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=WAIT)
    assert process.returncode == -signal.SIGINT or process.returncode == 130
    assert words.count(b"KeyboardInterrupt") == 1
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids), WAIT)


def _pids(folder: Path, count: int) -> list[int]:
    texts = [file.read_text() for file in folder.iterdir()]
    return [int(text) for text in texts if text] if len(texts) == count and all(texts) else []


def test_the_interpreter_waits_for_what_was_submitted(tmp_path: Path) -> None:
    line = [sys.executable, str(HERE / "poolprogram.py"), "leaving", "."]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert sorted(done.stdout.split()) == ["one", "two"], done.stderr
    assert not done.stderr


@pytest.mark.parametrize("method", ["supervisor", "fork"])
def test_workers_that_have_gone_hold_no_descriptor(method: str) -> None:
    line = [sys.executable, str(HERE / "poolprogram.py"), "changing", method]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert not done.stderr
    assert done.returncode == 0


def test_the_supervisor_is_killed(pool: sp.Pool) -> None:
    from spworkers.supervisor.client import get_supervisor

    pool.submit(tasks.pid).result(WAIT)
    running = pool.submit(tasks.hang)
    eventually(running.running)
    os.kill(get_supervisor().pid, signal.SIGKILL)
    with pytest.raises(sp.WorkerDiedError, match="together with its supervisor"):
        running.result(WAIT)
    assert pool.submit(tasks.double, 2).result(WAIT) == 4


def test_a_worker_that_dies_with_results_in_its_lane(pool: sp.Pool) -> None:
    """What it had published counts: nobody reads while it is written, then it dies."""
    pool.submit(tasks.pid).result(WAIT)
    engine = pool._engine
    with engine._reading:  # the reader's role is ours: nobody drains
        futures = [pool.submit(tasks.double, n) for n in range(3)]
        victim = pool.submit(tasks.die)
        eventually(lambda: any(worker.row[5] or worker.row[4] >= 2 for worker in engine.dispatcher.workers), 10)
    assert [future.result(WAIT) for future in futures] == [0, 2, 4]
    with pytest.raises(sp.WorkerDiedError):
        victim.result(WAIT)
