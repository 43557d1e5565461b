"""Respondents, consumers, subscribers; context pools of other sockets than Rep; workers that dial in to a broker."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import re
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers import eventually

import spworkers
from spworkers import errors
from spworkers.devices import device
from spworkers.sockets import Pair, Pub, Pull, Push, Rep, Req, Respondent, Sub, Surveyor
from spworkers.workers.app import App
from spworkers.workers.client import Client
from spworkers.workers.contextpool import ContextPool

ANYWHERE = "tcp://127.0.0.1:0"
WAIT = 30.0


def noted(folder: Path) -> Counter[str]:
    return Counter(path.name.partition(".")[0] for path in folder.iterdir())


def writer(folder: Path) -> Any:
    def write(body: bytes) -> None:
        (folder / f"{body.decode()}.{time.monotonic_ns()}").touch()

    return write


def test_an_app_of_parts(tmp_path: Path) -> None:
    folder = str(tmp_path)
    with Push(listen=ANYWHERE) as push, Pub(listen=ANYWHERE) as pub, Surveyor(listen=ANYWHERE) as surveyor:
        app = App("parts")

        @app.on_start
        def start(state: Any) -> None:
            state.folder = folder

        @app.handler
        def add(a: int, b: int) -> int:
            return a + b

        @app.consumer(dial=push.listeners[0].address, workers=2)
        def store(body: bytes, *, state: Any) -> None:
            writer(Path(state.folder))(b"stored" + body)

        @app.subscriber("news.", dial=pub.listeners[0].address, workers=1)
        async def read(body: bytes, *, state: Any) -> None:
            await asyncio.sleep(0.001)
            writer(Path(state.folder))(body.replace(b".", b"-"))

        @app.respondent(dial=surveyor.listeners[0].address, workers=1)
        def vote(body: bytes) -> bytes | None:
            return b"aye" if body == b"lunch?" else None

        assert "consumer store" in repr(app)
        with (
            app.serve(ANYWHERE, workers=1, block=False, metrics=True) as server,
            Client(server.address, timeout=WAIT) as client,
        ):
            assert client.add(1, 2) == 3
            for number in range(50):
                push.send(b"%d" % number, timeout=WAIT)
            eventually(lambda: pub.pipes and surveyor.pipes, WAIT)
            for name in (b"news.one", b"olds.two", b"news.three"):
                pub.send(name)
            eventually(lambda: len(noted(tmp_path)) == 52, WAIT)
            assert set(noted(tmp_path).values()) == {1}
            assert {"news-one", "news-three", "stored49"} <= set(noted(tmp_path))
            surveyor.send(b"lunch?")
            assert surveyor.recv(timeout=WAIT) == b"aye"
            surveyor.set_option("SURVEY-TIME", 0.2)
            surveyor.send(b"work?")
            with pytest.raises((errors.RecvTimeoutError, errors.ProtoStateError)):
                surveyor.recv(timeout=WAIT)
            assert len(server.workers) == 5
            counted = {"store": 50, "read": 3, "vote": 2}  # SUB receives what it does not take, too

            def received() -> dict[str, int]:
                return {name: part["received"] for name, part in server.stats()["parts"].items()}

            eventually(lambda: received() == counted, WAIT)
            assert 'spworkers_messages_received_total{app="parts",part="store"} 50\n' in server.metrics()
            calls = 'spworkers_handler_calls_total{app="parts",part="read",handler="read"} 2\n'
            eventually(lambda: calls in server.metrics(), WAIT)


def test_a_server_of_parts_has_no_address() -> None:
    app = App("eater")
    app.consumer(name="eat", listen=ANYWHERE)(lambda body: None)
    with app.serve(workers=1, block=False) as server:
        with pytest.raises(errors.ProtoStateError, match=r"server eater listens nowhere: .* sockets of their own"):
            server.address
    with pytest.raises(errors.ClosedError, match=r"^server eater is closed$"):
        server.address


def test_a_message_outlives_its_worker_and_its_peer(tmp_path: Path) -> None:
    def careful(body: bytes) -> None:
        marker = tmp_path / "died"
        if body == b"7" and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.002)
        writer(tmp_path)(body)

    with Pull(listen=ANYWHERE) as pull, ContextPool(pull, careful, workers=2) as pool:
        with Push(dial=pull.listeners[0].address) as push:
            for number in range(40):
                push.send(b"%d" % number, timeout=WAIT)
        eventually(lambda: len(noted(tmp_path)) == 41, WAIT)
        assert set(noted(tmp_path).values()) == {1}
        eventually(lambda: pool.stats()["idle"], WAIT)


@pytest.mark.slow
def test_a_worker_that_dies_with_a_message_in_its_hands_keeps_no_context(tmp_path: Path) -> None:
    """Between taking a message and copying it: its successors use its place in shared memory again."""

    def index_or_death(body: bytes) -> bytes:
        [port] = importlib.import_module("spworkers.port")._ports
        marker = tmp_path / body.decode()
        deadline = time.monotonic() + 0.2
        while body != b"index" and not marker.exists() and time.monotonic() < deadline:
            record = port.rx.take()  # the one behind this, which was dealt ahead
            if record is not None:
                marker.touch()
                os._exit(3)
        return b"%d" % port.index

    with Rep(listen=ANYWHERE) as rep, ContextPool(rep, index_or_death, workers=1, retries=1):
        with Req(dial=rep.listeners[0].address) as req, req.open_context() as first, req.open_context() as second:
            found = set()
            for death in range(3):

                def killed(name: str = f"die{death}") -> bool:
                    for _ in range(20):  # quick ones, so that it is dealt some ahead
                        first.send(b"index", timeout=WAIT)
                        found.add(int(first.recv(timeout=WAIT)))
                    first.send(name.encode(), timeout=WAIT)
                    second.send(b"index", timeout=WAIT)
                    found.update(int(each.recv(timeout=WAIT)) for each in (first, second))
                    return (tmp_path / name).exists()

                eventually(killed, WAIT, what="a death with a message in its hands")
            assert len(found) <= 2, "each worker had another place"


def test_a_slow_consumer_holds_up_who_pushes(tmp_path: Path) -> None:
    def slow(body: bytes) -> None:
        while not (tmp_path / "go").exists():
            time.sleep(0.01)

    with Pull(listen=ANYWHERE) as pull, ContextPool(pull, slow, workers=1, backlog=5) as pool:
        with Push(dial=pull.listeners[0].address, writeq_len=1) as push:
            sent = 0
            with pytest.raises(errors.SendTimeoutError):
                for _ in range(100_000):
                    push.send(bytes(10_000), timeout=0.5)
                    sent += 1
            assert sent < 100_000
            (tmp_path / "go").touch()
            eventually(lambda: pool.answered >= sent, WAIT)


def test_a_context_pool_of_a_respondent() -> None:
    def answer(body: bytes) -> bytes:
        return body[::-1]

    with Respondent(listen=ANYWHERE) as respondent, ContextPool(respondent, answer, workers=2) as pool:
        with Surveyor(dial=respondent.listeners[0].address) as surveyor:
            surveyor.send(b"abc")
            assert surveyor.recv(timeout=WAIT) == b"cba"
        eventually(lambda: pool.answered == 1, WAIT)  # it counts after it has answered


def test_a_socket_has_one_pool_at_a_time() -> None:
    def back(body: bytes) -> bytes:
        return body[::-1]

    with Rep(listen=ANYWHERE) as rep, Req(dial=rep.listeners[0].address) as req:
        for _ in range(2):
            with ContextPool(rep, back, workers=1):
                with pytest.raises(errors.BadValueError, match="has a pool already, <ContextPool"):
                    ContextPool(rep, back, workers=1)
                req.send(b"abc")
                assert req.recv(WAIT) == b"cba"


def test_sockets_and_functions_that_do_not_fit() -> None:
    with Pair() as pair, pytest.raises(errors.BadValueError, match="Respondent"):
        ContextPool(pair, bytes.upper)  # type: ignore[arg-type]
    with Sub() as sub, pytest.raises(errors.BadValueError, match="one function"):
        ContextPool(sub, App("app"))
    app = App("app")
    app.consumer(name="one", listen=ANYWHERE)(lambda body: None)
    for side in ("listen", "dial"):
        with pytest.raises(errors.BadValueError, match=f"consumer three: {side} takes an address"):
            app.consumer(name="three", **{side: 5})(lambda body: None)
    with pytest.raises(errors.BadValueError, match="already"):
        app.respondent(name="one", listen=ANYWHERE)(lambda body: None)
    with pytest.raises(errors.BadValueError, match="consumer two"):
        app.consumer(name="two", listen=ANYWHERE)(lambda: None)


def test_a_part_has_to_be_there_and_fit() -> None:
    app = App("eater")
    app.consumer(name="eat", listen=ANYWHERE)(lambda body: None)
    app.respondent(name="vote", listen=ANYWHERE)(lambda body: None)
    with Pull() as pull:
        for part in ("x", 5):
            says = f"eater has no respondent, consumer or subscriber {part!r}; it has eat (consumer), vote (respondent)"
            with pytest.raises(errors.BadValueError, match=re.escape(says)):
                ContextPool(pull, app, part=part)  # type: ignore[arg-type]
        with pytest.raises(errors.BadValueError, match="it has no parts"):
            ContextPool(pull, App("none"), part="x")
        with pytest.raises(errors.BadValueError, match=r"'vote' is a respondent of eater, which <Pull.*> is not for"):
            ContextPool(pull, app, part="vote")
        with pytest.raises(errors.BadValueError, match=r"part='x' names a part of an App; .* leave part= out"):
            ContextPool(pull, bytes.upper, part="x")
    with Rep() as rep, pytest.raises(errors.BadValueError, match="has no respondent, consumer or subscriber 'x'"):
        ContextPool(rep, app, part="x")


def test_a_pool_of_one_part_of_an_app(tmp_path: Path) -> None:
    app = App("eater")
    app.consumer(name="eat", listen=ANYWHERE)(writer(tmp_path))
    with Pull(listen=ANYWHERE) as pull, ContextPool(pull, app, 1, part="eat"):
        with Push(dial=pull.listeners[0].address) as push:
            push.send(b"bread", timeout=WAIT)
        eventually(lambda: noted(tmp_path) == {"bread": 1}, WAIT)


def test_the_example_of_a_pool_works() -> None:
    example = re.search(r"```python\n(.*?)```", inspect.getdoc(ContextPool) or "", re.DOTALL)
    assert example is not None
    asked: list[bytes] = []

    def ask(rep: Rep) -> None:
        with Req(dial=rep.listeners[0].address) as req:
            req.send(b"hey")
            asked.append(req.recv(timeout=WAIT))

    code = example[1].replace(":5555", ":0").replace("...", "ask(rep)")
    exec(code, {"sp": spworkers, "ask": ask, "__name__": "__main__"})
    assert asked == [b"HEY"]


def test_a_builtin_without_a_signature_is_no_handler() -> None:
    with Rep() as rep, pytest.raises(errors.BadValueError, match="call it in a function of your own, made with def"):
        ContextPool(rep, max)


def test_workers_dial_in_to_a_broker() -> None:
    app = App("behind")

    @app.handler
    def pid() -> int:
        return os.getpid()

    with (
        Rep(raw=True, listen="tcp://127.0.0.1:0") as front,
        Req(raw=True, listen="tcp://127.0.0.2:0") as back,
        device(front, back),
    ):
        inside = back.listeners[0].address
        with (
            app.serve(dial=inside, workers=1, block=False) as one,
            app.serve(dial=inside, workers=1, block=False) as other,
            Client(front.listeners[0].address, timeout=WAIT) as client,
        ):
            assert (one.addresses, one.dials) == ([], [inside])
            with pytest.raises(errors.ProtoStateError, match=f"server behind listens nowhere: it dials {inside}"):
                one.address
            eventually(lambda: len(back.pipes) == 2, WAIT)
            pids = {client.pid() for _ in range(20)}
            assert pids == {one.workers[0].pid, other.workers[0].pid}


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({}, errors.BadValueError, "consumer eat would receive nothing"),
        ({"listen": []}, errors.BadValueError, "listen= or dial="),
        ({"dial": [5]}, errors.BadValueError, "consumer eat: an address"),
        ({"dial": "tcp://127.0.0.1:1", "workers": 0}, errors.BadValueError, "workers"),
        ({"dial": "tcp://127.0.0.1:1", "readq_len": "long"}, errors.BadValueError, "consumer eat"),
        ({"dial": "tcp://127.0.0.1:1", "readq_length": 3}, errors.BadOptionError, "readq_len"),
        ({"dial": "tcp://127.0.0.1:1", "retrys": 3}, errors.BadOptionError, "did you mean 'retries'"),
    ],
)
def test_mistakes_in_a_parts_options_are_told_where_they_are(
    options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        App("x").consumer(name="eat", **options)(lambda body: None)
