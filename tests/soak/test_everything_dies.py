"""Whatever may die, dies at random instants, while work goes on: each request is answered, each task done, and
sockets that were connected are so again.

What each death does is tested one by one in `faults`; here they meet one another.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers import eventually, soak, soaking
from sockets.kit import background

import spworkers as sp
from spworkers.supervisor.client import get_supervisor
from spworkers.testing import CertificateAuthority

WAIT = 120.0
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
    """Thirty, one after another, some milliseconds apart; fewer on a machine where that takes long."""
    end = time.monotonic() + 5.0

    def murder() -> None:
        for _ in range(30):
            time.sleep(chance.choice([0.001, 0.01, 0.05, 0.2]))
            chance.choice(victims)()
            if time.monotonic() > end:
                return

    murders = background(murder)
    try:
        yield
    finally:
        murders.result(WAIT)


def kill_one(sock: sp.Server | sp.Socket) -> None:
    """Its I/O process, once there is one that answers."""
    kill(sock.stats()["pid"])


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
                    partial(kill_one, server),
                    partial(kill_one, client._req),
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


@contextlib.contextmanager
def couples(address: str, ca: CertificateAuthority | None) -> Iterator[list[tuple[sp.Socket, sp.Socket]]]:
    """A sender and a receiver of each pattern; receivers dial the first time, and listen the next."""
    kinds = [
        (sp.Push, sp.Pull),
        (sp.Pub, sp.Sub),
        (sp.Pair, sp.Pair),
        (sp.Bus, sp.Bus),
        (sp.Req, sp.Rep),
        (sp.Surveyor, sp.Respondent),
    ]
    options: dict[str, Any] = {"reconnect_time": 0.01}
    if ca is not None:
        files = ca.server()
        options["tls_config"] = sp.TLSConfig(files.cert, files.key, ca.cert, verify_peer=False)
    with contextlib.ExitStack() as stack:
        found = []
        for number, (sends, receives) in enumerate(kinds):
            sender, receiver = (stack.enter_context(kind(**options)) for kind in (sends, receives))
            listens, dials = (sender, receiver) if number % 2 else (receiver, sender)
            dials.dial(listens.listen(address.format(number)).address)
            if isinstance(receiver, sp.Sub):
                receiver.subscribe(b"")
            found.append((sender, receiver))
        yield found


def get_through(sender: sp.Socket, receiver: sp.Socket, text: bytes) -> bool:
    """Whether this very message arrives; what is left of earlier ones is passed over."""
    with contextlib.suppress(sp.SPError):
        sender.send(text, timeout=0.2)
        while receiver.recv(timeout=0.2) != text:
            pass
        return True
    return False


@soak
@pytest.mark.parametrize("scheme", ["tcp", "ipc", "inproc", "shm", "ws", "tls+tcp"])
def test_sockets_of_every_pattern(scheme: str, tmp_path: Path) -> None:
    """Messages may be lost with those who had them in hand; the way is there again when the last one has died."""
    places = {"ipc": f"ipc://{tmp_path}/{{}}", "inproc": "inproc://soak{}", "shm": f"shm://{tmp_path}/{{}}"}
    with (
        CertificateAuthority() as ca,
        couples(places.get(scheme, f"{scheme}://127.0.0.1:0"), ca if scheme == "tls+tcp" else None) as found,
    ):
        sockets = [sock for couple in found for sock in couple]
        for seed in soaking():
            chance = random.Random(seed)
            victims = [kill_supervisor, *(partial(kill_one, sock) for sock in sockets)]
            with deaths(chance, victims):
                for number in range(20):
                    get_through(*chance.choice(found), b"%d" % number)
            for sender, receiver in found:
                texts = (b"%d last %d" % (seed, number) for number in itertools.count())
                eventually(lambda: get_through(sender, receiver, next(texts)), WAIT, what=f"{sender!r} → {receiver!r}")
