"""Whatever may die, dies at random instants, while work goes on: each request is answered, each task done, once.

What each death does is tested one by one in `faults`; here they meet one another.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from helpers import soak, soaking
from sockets.kit import background

import spworkers as sp
from spworkers.supervisor.client import get_supervisor

WAIT = 60.0
REQUESTS = 400

app = sp.App("soak")


@app.handler
def double(number: int) -> int:
    return 2 * number


def thrice(number: int) -> int:
    return 3 * number


@pytest.fixture(autouse=True)
def _expected_deaths(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL", "spworkers")


def kill(pid: int | None) -> None:
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_supervisor() -> None:
    """Not in its first second: that would be a start that failed, and the third in a row is given up."""
    life = get_supervisor().start()
    if life.ready and life.age > 1.5:
        kill(life.pid)


@contextlib.contextmanager
def deaths(chance: random.Random, victims: list[Callable[[], None]]) -> Iterator[None]:
    """Thirty, one after another, some milliseconds apart."""

    def murder() -> None:
        for _ in range(30):
            time.sleep(chance.choice([0.001, 0.01, 0.05, 0.2]))
            chance.choice(victims)()

    murders = background(murder)
    try:
        yield
    finally:
        murders.result(WAIT)


def pid_of(sock: sp.Server | sp.Socket) -> int | None:
    with contextlib.suppress(sp.SPError):
        return int(sock.stats()["pid"])
    return None


def pid_of_some(chance: random.Random, pool: sp.Pool) -> int | None:
    workers = pool.workers  # none, as long as there is nothing to do
    return chance.choice(workers).pid if workers else None


@soak
@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "inproc://soak", "shm://soak"])
def test_requests_to_handlers(address: str) -> None:
    options = {"retries": 1000, "quarantine": 0, "block": False}
    with app.serve(address, workers=2, **options) as server:
        with sp.Client(server.address, timeout=WAIT, reconnect_time=0.01) as client:
            for seed in soaking():
                chance = random.Random(seed)
                victims = [
                    lambda: kill(chance.choice(server.workers).pid),
                    lambda: kill(pid_of(server)),
                    lambda: kill(pid_of(client._req)),
                    kill_supervisor,
                ]
                with deaths(chance, victims):
                    futures = [client.submit("double", number) for number in range(REQUESTS)]
                    assert [future.result(WAIT) for future in futures] == [2 * n for n in range(REQUESTS)]


@soak
def test_tasks_of_a_pool() -> None:
    with sp.Pool(2, retries=1000, backoff=0) as pool:
        for seed in soaking():
            chance = random.Random(seed)
            victims = [lambda: kill(pid_of_some(chance, pool)), kill_supervisor]
            with deaths(chance, victims):
                futures = [pool.submit(thrice, number) for number in range(REQUESTS)]
                assert list(pool.map(thrice, range(REQUESTS))) == [3 * n for n in range(REQUESTS)]
                assert [future.result(WAIT) for future in futures] == [3 * n for n in range(REQUESTS)]
