"""Plain handlers beside async ones: dealt ahead of time, they wait for nobody, and no other one's death is theirs."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
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

app = App("beside")


def note(file: Path, what: int) -> None:
    """One write of a few bytes at the end of a file: no two of them mix."""
    with file.open("ab", buffering=0) as notes:
        notes.write(b"%d\n" % what)


def noted(file: Path) -> Counter[int]:
    return Counter(int(line) for line in file.read_text().split()) if file.exists() else Counter()


@app.handler
def pid() -> int:
    return os.getpid()


@app.handler
async def apid() -> int:
    return os.getpid()


@app.handler(retries=0)
def once(number: int, deadly: int, file: Path) -> int:
    note(file, number)
    if number % deadly == deadly - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@app.handler(retries=0)
def waits(folder: Path) -> int:
    """Keeps the main thread until `go` is there."""
    (folder / f"began-{os.getpid()}").touch()
    while not (folder / "go").exists():
        time.sleep(0.005)
    return os.getpid()


@app.handler(retries=0)
async def holds_up(folder: Path) -> int:
    """Keeps the event loop until `go` is there."""
    return waits(folder)


@app.handler
def numbers(n: int) -> Iterator[int]:
    yield from range(n)


@pytest.fixture
def server() -> Iterator[Server]:
    with app.serve(ANYWHERE, workers=2, block=False, quarantine=0) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.address, timeout=WAIT) as client:
        yield client


def warm(client: Client) -> set[int]:
    """Have the workers show how quick they are, so that they have requests ahead. Returns who they are."""
    found: set[int] = set()

    def both() -> bool:
        found.update(client.pid() for _ in range(20))
        return len(found) == 2

    eventually(both, WAIT)
    return found


def began(folder: Path) -> list[int]:
    return [int(each.name.rpartition("-")[2]) for each in folder.glob("began-*")]


def test_a_death_harms_nobody_else(client: Client, tmp_path: Path) -> None:
    """With retries=0: what only waited behind the one that died is run, and once."""
    file = tmp_path / "notes"
    results = client.map(
        "once", range(600), itertools.repeat(60), itertools.repeat(file), in_flight=32, return_exceptions=True
    )
    for number, result in enumerate(results):
        if number % 60 == 59:
            assert isinstance(result, errors.WorkerDiedError)
        else:
            assert result == number
    assert noted(file) == Counter(range(600))


def test_who_stands_behind_a_long_request_goes_to_another_worker(client: Client, tmp_path: Path) -> None:
    warm(client)
    futures = [client.submit("pid") for _ in range(20)]
    slow = client.submit("waits", tmp_path)
    futures += [client.submit("pid") for _ in range(60)]
    for future in futures:
        future.result(WAIT)
    assert not slow.done()
    eventually(lambda: began(tmp_path), WAIT)
    (tmp_path / "go").touch()
    assert [slow.result(WAIT)] == began(tmp_path)


def test_async_requests_are_answered_while_plain_ones_run(client: Client, tmp_path: Path) -> None:
    workers = warm(client)
    slow = [client.submit("waits", tmp_path) for _ in range(2)]
    eventually(lambda: set(began(tmp_path)) == workers, WAIT)
    behind = [client.submit("pid") for _ in range(10)]
    assert {client.apid() for _ in range(40)} == workers
    assert not any(future.done() for future in behind)
    (tmp_path / "go").touch()
    assert {future.result(WAIT) for future in slow} == workers
    assert {future.result(WAIT) for future in behind} <= workers


def test_a_held_up_event_loop_keeps_no_plain_request(client: Client, tmp_path: Path) -> None:
    warm(client)
    held = client.submit("holds_up", tmp_path)
    eventually(lambda: began(tmp_path), WAIT)
    for _ in range(3):
        futures = [client.submit("pid") for _ in range(50)] + [client.submit("apid") for _ in range(50)]
        for future in futures:
            future.result(WAIT)
    assert not held.done()
    (tmp_path / "go").touch()
    assert held.result(WAIT) == began(tmp_path)[0]


def test_what_is_canceled_while_it_waits_is_not_run(tmp_path: Path) -> None:
    file = tmp_path / "notes"
    with app.serve(ANYWHERE, workers=1, block=False) as server, Client(server.address, timeout=WAIT) as client:
        for _ in range(50):
            client.pid()
        slow = client.submit("waits", tmp_path)
        waiting = [client.submit("once", number, 1000, file) for number in range(6)]
        eventually(lambda: began(tmp_path), WAIT)
        assert waiting[1].cancel()
        assert waiting[4].cancel()
        assert client.apid()  # the cancellations are before that in their connection
        (tmp_path / "go").touch()
        slow.result(WAIT)
        assert [waiting[number].result(WAIT) for number in (0, 2, 3, 5)] == [0, 2, 3, 5]
        assert client.once(99, 1000, file) == 99
        assert noted(file) == Counter([0, 2, 3, 5, 99])


def test_a_deadline_reaches_what_waits(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "notes"
    workers = warm(client)
    slow = [client.submit("waits", tmp_path) for _ in range(2)]
    eventually(lambda: set(began(tmp_path)) == workers, WAIT)
    with pytest.raises(errors.RecvTimeoutError):
        client.call("once", 7, 1000, file, timeout=0.1)
    (tmp_path / "go").touch()
    for future in slow:
        future.result(WAIT)
    assert client.once(8, 1000, file) == 8
    assert noted(file) == Counter([8])


@pytest.mark.parametrize("how", ["max_tasks", "reload", "terminate"])
def test_no_request_is_lost_or_run_twice_when_workers_are_replaced(tmp_path: Path, how: str) -> None:
    file = tmp_path / "notes"
    options: dict[str, Any] = {"max_tasks": 40} if how == "max_tasks" else {}
    with (
        app.serve(ANYWHERE, workers=2, block=False, **options) as server,
        Client(server.address, timeout=WAIT) as client,
    ):
        results = client.map("once", range(1000), itertools.repeat(5000), itertools.repeat(file), in_flight=24)
        for number, result in enumerate(results):
            assert result == number
            if number % 300 == 200 and how == "reload":
                server.reload()
            elif number % 300 == 200 and how == "terminate":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(server.workers[0].pid, signal.SIGTERM)
        assert noted(file) == Counter(range(1000))


def test_max_tasks_is_kept_by_what_is_dealt_ahead() -> None:
    local = App("local")
    local.handler(pid.function)
    local.handler(apid.function)
    with local.serve(ANYWHERE, workers=2, block=False, max_tasks=20, max_tasks_jitter=0) as server:
        with Client(server.address, timeout=WAIT) as client:
            pids = Counter(future.result(WAIT) for future in [client.submit("pid") for _ in range(300)])
    assert max(pids.values()) == 20


def test_plain_streams_among_others(client: Client) -> None:
    warm(client)
    streams = [client.call("numbers", 3000) for _ in range(3)]
    futures = [client.submit("pid") for _ in range(100)]
    found = [list(itertools.islice(stream, 1500)) for stream in streams]
    futures += [client.submit("apid") for _ in range(100)]
    found = [[*begun, *stream] for begun, stream in zip(found, streams, strict=True)]
    assert found == [list(range(3000))] * 3
    assert len({future.result(WAIT) for future in futures}) == 2
