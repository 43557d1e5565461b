"""Apps whose handlers run on an executor: the sockets stay here."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from executors import Breaking, Immediate
from helpers import eventually

import spworkers as sp
from spworkers.workers.engines.remote import RemoteExecutor

WAIT = 20.0
ANYWHERE = "inproc://executor"

app = sp.App("lent")


@app.handler
def add(a: int, b: int) -> int:
    return a + b


@app.handler
async def later(value: Any) -> Any:
    return value


@app.handler
def place(*, state: Any) -> tuple[int, int]:
    return os.getpid(), state.started


@app.handler
def fails() -> None:
    raise KeyError("no")


@app.handler
def hold(folder: Path) -> None:
    (folder / f"began-{os.getpid()}").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)


@app.handler
def die() -> None:
    os._exit(3)


@app.handler
def generator_object() -> Any:
    return (number for number in range(2000))


@app.handler
def bad(point: int = 0) -> object:
    return object()


@app.raw
def shout(body: bytes) -> bytes:
    return body.upper()


@app.on_start
def begin(state: Any) -> None:
    state.started = os.getpid()


# The first one, for the supervisor's death costs every pool that there is its workers.
def test_io_process_and_supervisor_may_die() -> None:
    with ThreadPoolExecutor(2) as threads, app.serve("tcp://127.0.0.1:0", executor=threads, block=False) as server:
        with sp.Client(server.address, timeout=WAIT) as client:
            assert client.add(1, 2) == 3
            io = psutil.Process(server.stats()["pid"])
            supervisor = io.parent()
            assert supervisor is not None
            io.kill()
            assert client.add(2, 3) == 5
            supervisor.kill()
            assert client.add(3, 4) == 7
            assert [client.submit("add", number, 1) for number in range(20)][-1].result() == 20


@pytest.fixture(scope="module", params=["threads", "processes", "pool"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    made = {"threads": ThreadPoolExecutor, "processes": ProcessPoolExecutor, "pool": sp.Pool}[request.param]
    with made(2) as executor:
        for future in [executor.submit(time.sleep, 0.2) for _ in range(2)]:  # both are there before the tests
            future.result()
        yield executor


@pytest.fixture(scope="module")
def server(executor: Executor) -> Iterator[sp.Server]:
    with app.serve(ANYWHERE, executor=executor, block=False, access_log=True, metrics=True) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: sp.Server) -> Iterator[sp.Client]:
    with sp.Client(server.address, timeout=WAIT) as client:
        yield client


def test_the_bodies_run_there(executor: Executor, server: sp.Server, client: sp.Client) -> None:
    assert client.add(2, 3) == 5
    assert client.later({1}) == {1}
    assert client.raw(b"hello") == b"HELLO"
    futures = [client.submit("add", number, 1) for number in range(100)]
    assert [future.result() for future in futures] == list(range(1, 101))
    pid, started = client.place()
    assert pid == started
    assert (pid == os.getpid()) == isinstance(executor, ThreadPoolExecutor)
    assert server.healthy(WAIT)
    assert executor.submit(pow, 2, 3).result() == 8  # it is still its user's
    assert f", 2 workers of a {type(executor).__name__}, " in repr(server)


def test_errors_arrive(client: sp.Client) -> None:
    with pytest.raises(sp.RemoteError, match="no") as caught:
        client.fails()
    assert (caught.value.type, "in fails" in caught.value.traceback) == ("KeyError", True)
    with pytest.raises(sp.BadArgumentsError, match="expected int, got str"):
        client.add("a", 1)
    with pytest.raises(sp.UnknownHandlerError, match="did you mean 'add'"):
        client.addd(1)
    with pytest.raises(sp.RemoteError, match="returned what cannot be sent"):
        client.bad()
    with pytest.raises(sp.RemoteError, match="an executor cannot stream"):
        list(client.stream("generator_object"))
    assert client.add(1, 1) == 2


def test_what_is_counted(
    executor: Executor, server: sp.Server, client: sp.Client, caplog: pytest.LogCaptureFixture
) -> None:
    (before,) = server.workers
    with caplog.at_level(logging.INFO, "spworkers.access"):
        client.add(1, 1)
        with pytest.raises(sp.RemoteError):
            client.fails()
        lines = eventually(
            lambda: found if len(found := [r for r in caplog.records if r.name == "spworkers.access"]) == 2 else None
        )
    assert [line.getMessage().split()[0] for line in lines] == ["add", "fails"]
    assert lines[1].getMessage().endswith("ms KeyError")
    assert {len(line.request) for line in lines} == {16}
    (after,) = server.workers
    assert after.name == f"lent-{type(executor).__name__}"
    assert (after.answered - before.answered, after.failed - before.failed) == (2, 1)
    eventually(lambda: server.workers[0].state == "idle")
    assert 'spworkers_handler_errors_total{app="lent",handler="fails"}' in server.metrics()
    with pytest.raises(sp.UnsupportedOptionError, match="cannot be replaced"):
        server.restart()


def test_a_caller_that_gives_up_frees_its_place(tmp_path: Path) -> None:
    with sp.Pool(1) as pool, app.serve("inproc://given-up", executor=pool, block=False) as server:
        with sp.Client(server.address, timeout=WAIT) as client:
            for _ in range(3):  # more than the places that it has
                future = client.submit("hold", tmp_path)
                eventually(lambda: server.workers[0].state == "busy", WAIT)
                future.cancel()
            assert client.add(1, 1) == 2  # the only worker, which was busy, was killed and replaced


@pytest.mark.once
def test_what_a_caller_has_given_up_is_no_trouble_of_the_executors(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ThreadPoolExecutor(1) as threads, app.serve("inproc://unwanted", executor=threads, block=False) as server:
        with sp.Client(server.address, timeout=WAIT) as client:
            first = client.submit("hold", tmp_path)
            eventually(lambda: server._pool._group.busy == 1, WAIT)
            second = client.submit("add", 1, 2)  # waits in the executor
            eventually(lambda: server._pool._group.busy == 2, WAIT)
            second.cancel()
            eventually(lambda: server._pool._group.busy == 1, WAIT)
            (tmp_path / "go").touch()
            assert first.result() is None
            assert client.add(1, 1) == 2
    assert "was not answered" not in caplog.text


@pytest.mark.parametrize("retries", [0, 1])
def test_a_dead_worker_is_told(retries: int) -> None:
    with sp.Pool(1) as pool, app.serve("inproc://dying", executor=pool, block=False, retries=retries) as server:
        with sp.Client(server.address, timeout=WAIT) as client:
            with pytest.raises(sp.WorkerDiedError, match="exit code 3") as caught:
                client.die()
            assert retries or caught.value.status == 3
            assert "die()" in str(caught.value)
            assert "Errand" not in str(caught.value)
            assert client.add(1, 2) == 3


def test_an_executor_that_is_broken_for_good_is_told_once_and_in_each_answer(caplog: pytest.LogCaptureFixture) -> None:
    with app.serve("inproc://broken", executor=Breaking(1), block=False) as server:
        with sp.Client(server.address, timeout=WAIT) as client:
            for _ in range(2):
                with pytest.raises(sp.WorkerDiedError, match=r"this executor is broken for good: .* sp\.Pool"):
                    client.add(1, 2)
    (told,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "every request from now on fails: the Breaking did not run it" in told.getMessage()


def test_a_pool_kills_what_runs_too_long() -> None:
    slow = sp.App("slow")

    @slow.handler(timeout=0.2, retries=0)
    def for_ever() -> None:
        time.sleep(WAIT)

    with sp.Pool(1) as pool, slow.serve("inproc://slow", executor=pool, block=False) as server:
        with sp.Client(server.address, timeout=WAIT) as client, pytest.raises(sp.TaskTimeoutError) as caught:
            client.for_ever()
        assert caught.value.seconds == 0.2
        assert "for_ever() ran longer than its timeout of 0.2 s" in str(caught.value)


def test_an_executor_that_does_not_begin_is_spoken_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spworkers.workers.lending._UNHEARD", 0.05)
    free = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(free.wait, WAIT)
        server = threading.Thread(target=lambda: app.serve("inproc://busy", executor=executor, block=False).close())
        server.start()
        eventually(lambda: "has it a free worker?" in caplog.text, WAIT)
        free.set()
        server.join(WAIT)
        assert not server.is_alive()


class Failing(Executor):
    """Breaks a number of times before it runs a task."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.inner = Immediate()

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if fn.__name__ == "answer" and self.left:
            self.left -= 1
            future: Future[Any] = Future()
            future.set_exception(OSError("the node is gone"))
            return future
        return self.inner.submit(fn, *args, **kwargs)


def test_what_an_executor_did_not_run_goes_to_it_again() -> None:
    def double(body: bytes) -> bytes:
        return 2 * body

    with sp.Rep(listen="inproc://failing") as rep, sp.Req(dial="inproc://failing") as req:
        with sp.ContextPool(rep, double, executor=Failing(2), retries=2) as pool:
            req.send(b"ab")
            assert req.recv(timeout=WAIT) == b"abab"
            assert pool.answered == 1
    with app.serve("inproc://failing2", executor=Failing(3), block=False, retries=1) as server:
        with sp.Client(server.address, timeout=WAIT) as client:
            with pytest.raises(sp.WorkerDiedError, match=r"the Failing did not run it .* OSError: the node is gone"):
                client.add(1, 1)
            assert client.add(1, 1) == 2


class Locking(Failing):
    """Calls back with the lock in hand that `submit` wants, as ProcessPoolExecutor does when it breaks."""

    def __init__(self, times: int) -> None:
        super().__init__(times)
        self.lock = threading.Lock()

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        assert self.lock.acquire(timeout=WAIT), "it waits for itself"
        self.lock.release()
        if fn.__name__ != "answer":
            return super().submit(fn, *args, **kwargs)
        future: Future[Any] = Future()

        def settle() -> None:
            eventually(lambda: future._done_callbacks, WAIT)  # type: ignore[attr-defined]
            with self.lock:
                done = super(Locking, self).submit(fn, *args, **kwargs)
                error = done.exception()
                if error is None:
                    future.set_result(done.result())
                else:
                    future.set_exception(error)

        threading.Thread(target=settle).start()
        return future


def test_an_executor_may_hold_a_lock_while_it_calls_back() -> None:
    with app.serve("inproc://locking", executor=Locking(1), block=False, retries=1) as server:
        with sp.Client(server.addresses[0]) as client:
            assert client.call("add", 1, 2, timeout=WAIT / 2) == 3
            eventually(lambda: "inproc://locking, workers of a Locking, 1 answered" in repr(server), WAIT)


def test_parts_run_there_too() -> None:
    got: list[bytes] = []
    parts = sp.App("parts")

    @parts.consumer(listen="inproc://eaten")
    def eat(body: bytes) -> None:
        if body == b"bad":
            raise ValueError(body)
        got.append(body)

    @parts.on_stop
    def end(state: Any) -> None:
        got.append(b"stopped")

    with ThreadPoolExecutor(2) as threads:
        with parts.serve(executor=threads, block=False), sp.Push(dial="inproc://eaten") as push:
            push.send(b"bad")
            push.send(b"one")
            eventually(lambda: got == [b"one"], WAIT)
    assert got == [b"one", b"stopped"]


def test_close_waits_for_what_runs(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        server = app.serve("inproc://closing", executor=threads, block=False)
        with sp.Client("inproc://closing", timeout=WAIT) as client:
            future = client.submit("hold", tmp_path)
            eventually(lambda: list(tmp_path.glob("began-*")), WAIT)
            closing = threading.Thread(target=server.close)
            closing.start()
            (tmp_path / "go").touch()
            assert future.result() is None
            closing.join()


def test_an_app_that_cannot_start_is_told_where_it_is_served() -> None:
    broken = sp.App("broken")
    broken.raw(lambda body: body)

    @broken.on_start
    def load(state: Any) -> None:
        raise LookupError("no model")

    with (
        ThreadPoolExecutor(1) as threads,
        pytest.raises(sp.RemoteError, match="broken could not start: no model") as told,
    ):
        broken.serve("inproc://broken", executor=threads, block=False)
    assert (told.value.type, "in load" in told.value.traceback) == ("LookupError", True)
    with pytest.raises(sp.RemoteError, match="cannot schedule new futures"):
        app.serve("inproc://over", executor=threads, block=False)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"memory_limit": "1GB"}, sp.UnsupportedOptionError, "memory_limit='1GB': the workers of a ThreadPoolExecutor"),
        ({"max_tasks": 3}, sp.UnsupportedOptionError, "max_tasks=3"),
        ({"max_async_tasks": 3}, sp.UnsupportedOptionError, "max_async_tasks=3"),
        ({"affinity": True}, sp.UnsupportedOptionError, "affinity=True"),
        ({"workers": 3}, sp.UnsupportedOptionError, "workers=3: this ThreadPoolExecutor has 1 of its own"),
        ({"threads_per_worker": 1}, sp.UnsupportedOptionError, "threads_per_worker=1"),
        ({"timeout": 3}, sp.UnsupportedOptionError, "timeout=3: a ThreadPoolExecutor cannot stop a task"),
        ({"executor": 3}, sp.BadValueError, "executor is 3; it has to be a concurrent.futures.Executor"),
    ],
)
def test_what_an_executor_cannot_do_is_refused(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with ThreadPoolExecutor(1) as threads, pytest.raises(error) as caught:
        app.serve("inproc://refused", block=False, **{"executor": threads, **options})
    assert words in str(caught.value)


class Repeating(RemoteExecutor):
    """An engine that gives what a worker died of to another one."""

    repeats = True

    @property
    def _max_workers(self) -> int:
        return 1


def test_an_engine_that_repeats_is_told_no_handler_that_must_not_be() -> None:
    careful = sp.App("careful")
    careful.handler(name="pay", retries=0)(lambda: None)
    with pytest.raises(sp.UnsupportedOptionError, match="handler pay: retries=0: a Repeating's engine"):
        careful.serve("inproc://refused", executor=Repeating("nowhere"), block=False)
    with pytest.raises(sp.UnsupportedOptionError, match="lent: retries=0"):
        app.serve("inproc://refused", executor=Repeating("nowhere"), block=False, retries=0)


def test_what_handlers_ask_for_is_refused() -> None:
    streaming, slow, stopping = sp.App("streaming"), sp.App("slow"), sp.App("stopping")
    streaming.handler(name="count")(lambda: (yield 1))
    slow.handler(name="long", timeout=3)(lambda: None)
    stopping.handler(name="any")(lambda: None)
    stopping.on_stop(lambda state: None)
    with ThreadPoolExecutor(1) as threads:
        with pytest.raises(sp.UnsupportedOptionError, match="handler count is a generator"):
            streaming.serve("inproc://refused", executor=threads, block=False)
        with pytest.raises(sp.UnsupportedOptionError, match=r"handler long: timeout=3\.0"):
            slow.serve("inproc://refused", executor=threads, block=False)
    with pytest.raises(sp.UnsupportedOptionError, match="on_stop"):
        stopping.serve("inproc://refused", executor=Immediate(), block=False)
    with sp.Pool(1) as pool, pytest.raises(sp.UnsupportedOptionError, match="or give it to the Pool itself"):
        slow.serve("inproc://refused", executor=pool, block=False, max_tasks=3)
