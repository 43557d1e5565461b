"""What handlers can do to themselves and to their workers harms their own requests only, and the caller is told."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import math
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import eventually

from spworkers import errors
from spworkers.workers.app import App
from spworkers.workers.client import Client
from spworkers.workers.server import Server

ANYWHERE = "tcp://127.0.0.1:0"
WAIT = 30.0

app = App("harm")


@app.handler
def add(a: int, b: int) -> int:
    return a + b


@app.handler(retries=0)
def once(a: int) -> int:
    time.sleep(0.002)
    return a


@app.handler(retries=1000)
def again(a: int) -> int:
    time.sleep(0.002)
    return a


@app.handler(retries=0)
def harm(how: str) -> Any:
    match how:
        case "raise":
            raise ValueError("as told")
        case "unprintable":
            raise Unprintable
        case "bad result":
            return object()
        case "exit":
            os._exit(3)
        case "segfault":
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "memory":
            hoard = []
            while True:
                hoard.append(b"x" * (8 << 20))
                time.sleep(0.01)
        case "block":
            signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
            while True:
                time.sleep(1)
        case "print":
            print("noise " * 100)
    return None


@app.handler(retries=9, timeout=math.inf)
def lethal(folder: str) -> None:
    """Say whom it has in its hands, and kill him when it is told to."""
    mine = Path(folder, str(os.getpid()))
    mine.touch()
    while not mine.with_suffix(".now").exists():
        time.sleep(0.002)
    os.kill(os.getpid(), signal.SIGKILL)


@app.handler
def leaves_signals(how: str) -> int:
    """Returns with signals blocked, or ignored."""
    if how == "blocked":
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    else:
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_IGN)
    return os.getpid()


@app.handler
def ends_with_signals_blocked() -> Iterator[int]:
    try:
        yield 1
        yield from range(10**9)
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))


@app.handler
def sleeps(folder: str) -> None:
    Path(folder, "began").touch()
    try:
        time.sleep(WAIT)
    finally:
        Path(folder, "stopped").write_text(str(os.getpid()))


@app.handler
def whoami() -> int:
    return os.getpid()


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.fixture
def server() -> Iterator[Server]:
    with app.serve(ANYWHERE, workers=2, block=False, timeout=2.0, memory_limit="300MB") as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.address, timeout=WAIT) as client:
        yield client


@pytest.mark.slow
def test_each_harm_is_its_own(client: Client) -> None:
    stop, sums = threading.Event(), []

    def others() -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            sums.append(client.add(number, 1) - number)

    thread = threading.Thread(target=others)
    thread.start()
    outcomes: dict[str, BaseException] = {}
    for how in ("raise", "unprintable", "bad result", "exit", "segfault", "kill", "block"):
        with pytest.raises(errors.SPError) as caught:
            client.harm(how)
        outcomes[how] = caught.value
    assert client.harm("print") is None
    stop.set()
    thread.join(WAIT)
    assert sums
    assert set(sums) == {1}
    assert {how: type(error).__name__ for how, error in outcomes.items()} == {
        "raise": "RemoteError",
        "unprintable": "RemoteError",
        "bad result": "RemoteError",
        "exit": "WorkerDiedError",
        "segfault": "WorkerDiedError",
        "kill": "WorkerDiedError",
        "block": "TaskTimeoutError",
    }
    for how, status, words in (("exit", 3, "exit code 3"), ("segfault", -11, "SIGSEGV"), ("kill", -9, "SIGKILL")):
        error = outcomes[how]
        assert isinstance(error, errors.WorkerDiedError)
        assert (error.task, error.status) == ("harm", status)
        assert words in str(error)
        assert error.pid > 0


def test_memory_is_limited(client: Client, server: Server) -> None:
    with pytest.raises(errors.WorkerDiedError, match=r"memory_limit.*killed by SIGKILL"):
        client.harm("memory")
    assert client.add(1, 2) == 3


def test_poison_is_given_up(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        with pytest.raises((errors.WorkerDiedError, errors.QuarantinedError)):
            client.harm("exit")
    with pytest.raises(errors.QuarantinedError) as caught:
        client.harm("exit")
    assert caught.value.task == "harm"
    eventually(lambda: ": harm: a request killed 3 workers in a row and is not run any more" in caplog.text, WAIT)


def test_others_are_answered_while_poison_goes_round(client: Client, tmp_path: Path) -> None:
    poison = client.submit("lethal", str(tmp_path))
    met: list[str] = []

    def victim() -> list[str]:
        return [path.name for path in tmp_path.iterdir() if path.suffix == "" and path.name not in met]

    for _ in range(3):
        (pid,) = eventually(victim, WAIT)
        # Of two workers it has one and has killed the other: nobody can answer but a successor, whose start is all that
        # there is to wait for. For the poison nobody waits: it goes on only after that.
        assert client.whoami() not in {int(each) for each in (pid, *met)}
        met.append(pid)
        (tmp_path / f"{pid}.now").touch()
    with pytest.raises(errors.QuarantinedError):
        poison.result(WAIT)
    with pytest.raises(errors.QuarantinedError):
        client.lethal(str(tmp_path))
    assert not victim(), "it has met nobody else"
    assert client.add(1, 2) == 3


@pytest.mark.parametrize("how", ["blocked", "ignored"])
def test_signals_that_a_handler_leaves_blocked_are_its_own_affair(tmp_path: Path, how: str) -> None:
    """The next request in its worker can be stopped as any other."""
    with app.serve(ANYWHERE, workers=1, block=False) as server, Client(server.address, timeout=WAIT) as client:
        worker = client.leaves_signals(how)
        future = client.submit("sleeps", str(tmp_path))
        eventually((tmp_path / "began").exists, WAIT)
        assert future.cancel()
        eventually((tmp_path / "stopped").exists, WAIT)
        assert client.whoami() == worker


def test_neither_do_signals_stay_blocked_that_a_closed_stream_leaves_so(tmp_path: Path) -> None:
    with app.serve(ANYWHERE, workers=1, block=False) as server, Client(server.address, timeout=WAIT) as client:
        worker = client.whoami()
        with client.call("ends_with_signals_blocked") as stream:
            assert next(stream) == 1
        future = client.submit("sleeps", str(tmp_path))
        eventually((tmp_path / "began").exists, WAIT)
        assert future.cancel()
        eventually((tmp_path / "stopped").exists, WAIT)
        assert client.whoami() == worker


def killer(server: Server, stop: threading.Event, killed: list[int]) -> None:
    """A worker every 50 ms; fifty of them, for on a busy machine they are hardly there before they are killed."""
    while len(killed) < 50 and not stop.wait(0.05):
        worker = random.choice(server.workers)
        if worker.pid and worker.state != "starting":
            with contextlib.suppress(ProcessLookupError):  # it is dead already, and its successor has not begun
                os.kill(worker.pid, signal.SIGKILL)
                killed.append(worker.pid)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["again", "once"])
def test_a_thousand_requests_among_murders(name: str) -> None:
    with (
        app.serve(ANYWHERE, workers=2, block=False, quarantine=0) as server,
        Client(server.address, timeout=90.0) as client,
    ):
        stop, killed = threading.Event(), []
        thread = threading.Thread(target=killer, args=(server, stop, killed))
        thread.start()
        try:
            futures = [client.submit(name, number) for number in range(1000)]
            outcomes: Counter[str] = Counter()
            for number, future in enumerate(futures):
                error = future.exception(90.0)
                outcomes[type(error).__name__] += 1
                assert error is not None or future.result() == number
        finally:
            stop.set()
            thread.join(WAIT)
        assert killed
        if name == "again":
            assert outcomes == {"NoneType": 1000}
        else:
            assert set(outcomes) <= {"NoneType", "WorkerDiedError"}
            assert sum(outcomes.values()) == 1000
        eventually(lambda: all(worker.state == "idle" for worker in server.workers), WAIT)


def test_a_worker_that_a_handler_has_broken_ends_and_its_requests_go_on() -> None:
    """Its event loop still runs, but what answers async requests in it does not."""
    wrecked = App("wrecked")

    @wrecked.handler
    def wreck() -> None:
        sys.modules.clear()

    @wrecked.handler
    async def add_later(a: int, b: int) -> int:
        await asyncio.sleep(0)
        return a + b

    with wrecked.serve(ANYWHERE, workers=1, block=False) as server, Client(server.address, timeout=WAIT) as client:
        (first,) = {worker.pid for worker in server.workers}
        client.wreck()
        assert client.add_later(2, 3) == 5
        assert first not in {worker.pid for worker in server.workers}
