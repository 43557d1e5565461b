"""A call while nobody else calls goes in one step; whatever it is, it ends as one that goes step by step."""

from __future__ import annotations

import gc
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from helpers import eventually
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spworkers import errors
from spworkers.sockets import Rep
from spworkers.workers.app import App
from spworkers.workers.callwaiting import Waiting
from spworkers.workers.client import Client
from spworkers.workers.runner import Runner

WAIT = 20.0

app = App("alone")


@app.handler
def same(value: Any) -> Any:
    return value


@app.handler
def fail(text: str) -> None:
    raise ValueError(text)


@app.handler
def count_to(n: int) -> Iterator[int]:
    yield from range(n)


class Server:
    """In threads of this process, so that the tests say when it answers, and what."""

    def __init__(self) -> None:
        self.rep = Rep(listen="tcp://127.0.0.1:0")
        self.address = self.rep.listeners[0].address
        self.answers: Callable[[bytes], bytes] = lambda body: self._runner.answer(body, 1).body
        self._runner = Runner(app)
        self._threads = [threading.Thread(target=self._serve, args=(self.rep.open_context(),)) for _ in range(3)]
        for thread in self._threads:
            thread.start()

    def _serve(self, context: Any) -> None:
        try:
            while True:
                body = context.recv()
                context.send(self.answers(body))
        except errors.ClosedError:
            return

    def close(self) -> None:
        self.rep.close(linger=0)
        for thread in self._threads:
            thread.join(WAIT)


class Counted:
    """A line's asker, and what came of its calls."""

    def __init__(self, asker: Any) -> None:
        self._asker = asker
        self.results: list[Any] = []

    def ask(self, *args: Any) -> Any:
        self.results.append(None)
        self.results[-1] = self._asker.ask(*args)
        return self.results[-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._asker, name)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture(scope="module")
def both(server: Server) -> Iterator[tuple[Client, Client]]:
    """One that is alone, and one where somebody else waits for ever."""
    with Client(server.address, timeout=WAIT) as alone, Client(server.address, timeout=WAIT) as beside:
        alone._line._asker = Counted(alone._line._asker)  # type: ignore[assignment]
        beside._line._asker = Counted(beside._line._asker)  # type: ignore[assignment]
        beside._line._waiting[1] = Waiting(0)
        yield alone, beside
        beside._line._waiting.clear()


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except errors.SPError as error:
        return type(error), str(error)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=400),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VALUES)
def test_values(both: tuple[Client, Client], value: Any) -> None:
    alone, beside = both
    assert alone.call("same", value) == value
    assert beside.call("same", value) == value


def test_which_way_they_go(both: tuple[Client, Client]) -> None:
    alone, beside = both
    for client in both:
        client._line._asker.results.clear()  # type: ignore[attr-defined]
        assert client.call("same", 7) == client.call("same", value=7) == 7
        assert client.call("same", bytes(1000)) == bytes(1000)
    assert [type(each) for each in alone._line._asker.results] == [bytes, bytes, type(None)]  # type: ignore[attr-defined]
    assert beside._line._asker.results == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [0, 1, 150, 170, 171, 172, 173, 174, 175, 176, 177, 178, 179, 180, 190, 200, 70_000])
def test_sizes_about_what_lies_in_a_slot(both: tuple[Client, Client], size: int) -> None:
    for client in both:
        assert client.call("same", bytes(size)) == bytes(size)
        assert client.call("same", "x" * size) == "x" * size


# One for both: its address is in what the error says of it.
UNSENDABLE = object()

ERRORS: list[Callable[[Client], Any]] = [
    lambda client: client.call("fail", "no such luck"),
    lambda client: client.call("fail", "long " * 1000),
    lambda client: client.call("fial", "x"),
    lambda client: client.call("fail", 5),
    lambda client: client.call("fail"),
    lambda client: client.call("same", UNSENDABLE),
    lambda client: list(client.call("count_to", 5)),
    lambda client: list(client.call("count_to", 0)),
    lambda client: client.call("", 5),
    lambda client: client.call("x" * 300, 5),
]


@pytest.mark.parametrize("call", ERRORS)
def test_whatever_else_comes_of_it(both: tuple[Client, Client], call: Callable[[Client], Any]) -> None:
    alone, beside = (outcome(lambda client=client: call(client)) for client in both)
    assert alone == beside
    for client in both:
        assert client.call("same", 7) == 7
        assert len(client._line._waiting) == (client is not both[0])


@pytest.mark.parametrize("timeout", [0.0, -1.0, 1e-9])
def test_with_no_time_at_all(both: tuple[Client, Client], timeout: float) -> None:
    """Whether its server had it already is chance, and so are the words; it may even have answered."""
    for client in both:
        for _ in range(30):
            try:
                assert client.call("same", 1, timeout=timeout) == 1
            except errors.RecvTimeoutError as error:
                assert re.match(r"same\(\): no (server|answer)", str(error))
        assert client.call("same", 7) == 7
        assert len(client._line._waiting) == (client is not both[0])


@pytest.mark.parametrize("answer", [b"", b"\xc1", b"\xc1\x11" + bytes(8) + b"\x07", b"\xc1\x11" + bytes(8), b"ok"])
def test_answers_that_are_none(server: Server, both: tuple[Client, Client], answer: bytes) -> None:
    before, server.answers = server.answers, lambda body: answer
    try:
        alone, beside = (outcome(lambda client=client: client.call("same", 1)) for client in both)
    finally:
        server.answers = before
    assert alone == beside
    assert both[0].call("same", 7) == 7


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x92\x01", b"\x01\x02"])
def test_values_that_are_none(server: Server, both: tuple[Client, Client], content: bytes) -> None:
    before, server.answers = server.answers, lambda body: b"\xc1\x11" + body[2:10] + content
    try:
        alone, beside = (outcome(lambda client=client: client.call("same", 1)) for client in both)
    finally:
        server.answers = before
    assert alone == beside
    assert alone[0] is errors.GarbledError


def test_its_time_is_over(server: Server) -> None:
    gate = threading.Event()
    before, server.answers = server.answers, lambda body: before(body) if gate.wait(WAIT) else b""
    try:
        with Client(server.address) as client:
            began = time.monotonic()
            with pytest.raises(
                errors.RecvTimeoutError, match=r"same\(\): no answer from .* within its timeout of 0.1 s"
            ):
                client.call("same", 7, timeout=0.1)
            assert 0.1 <= time.monotonic() - began < WAIT
            assert len(client._line) == 0
            gate.set()
            assert client.call("same", 8, timeout=WAIT) == 8
    finally:
        gate.set()
        server.answers = before


def test_threads_that_come_and_go(server: Server) -> None:
    """Who is alone now is not in the next moment: each gets its own answer."""
    with Client(server.address, timeout=WAIT) as client, ThreadPoolExecutor(4) as threads:

        def calls(first: int) -> bool:
            return all(client.call("same", n) == n for n in range(first, first + 300))

        for count in (1, 2, 4):
            assert all(threads.map(calls, range(0, 10_000 * count, 10_000)))
        futures = [client.submit("same", n) for n in range(20)]
        assert client.call("same", -1) == -1
        assert [future.result(WAIT) for future in futures] == list(range(20))
        assert client.call("same", -2) == -2
        eventually(lambda: len(client._line) == 0, WAIT)


class Held:
    """Calls of `same` with a text: each is answered when its gate is opened."""

    def __init__(self, server: Server) -> None:
        self.gates = {text: threading.Event() for text in ("one", "two")}
        self.began: list[str] = []
        before = server.answers

        def answers(body: bytes) -> bytes:
            for text, gate in self.gates.items():
                if text.encode() in body:
                    self.began.append(text)
                    assert gate.wait(WAIT)
            return before(body)

        server.answers = answers
        self._put_back = lambda: setattr(server, "answers", before)

    def close(self) -> None:
        for gate in self.gates.values():
            gate.set()
        self._put_back()


@pytest.mark.parametrize("how", ["alone", "beside", "another client"])
@pytest.mark.parametrize("nested", ["signal", "finalizer"])
def test_who_is_called_in_the_middle_of_a_wait_may_call(server: Server, how: str, nested: str) -> None:
    """A signal's handler, or a finalizer that it happens to run: both get their answers, and so does the wait."""
    with (
        closing(Held(server)) as held,
        Client(server.address, timeout=WAIT) as client,
        Client(server.address, timeout=WAIT) as second,
        ThreadPoolExecutor(2) as threads,
    ):
        inner = second if how == "another client" else client
        got: list[int] = []

        def call() -> None:
            got.extend(inner.call("same", n) for n in range(3))
            held.gates["one"].set()

        class Cycle:
            def __init__(self) -> None:
                self.me = self

            def __del__(self) -> None:
                call()

        former = signal.signal(signal.SIGUSR1, lambda *_: call() if nested == "signal" else gc.collect())
        gc.disable()  # it is collected in the handler, and not before
        if nested == "finalizer":
            Cycle()
        try:
            if how == "beside":  # another thread reads
                two = threads.submit(client.call, "same", "two")
                eventually(lambda: "two" in held.began, WAIT)

            def interrupt() -> None:
                eventually(lambda: "one" in held.began and client._line.port.sleepers.asleep, WAIT)
                os.kill(os.getpid(), signal.SIGUSR1)

            interrupted = threads.submit(interrupt)
            assert client.call("same", "one") == "one"
            interrupted.result(WAIT)
        finally:
            gc.enable()
            signal.signal(signal.SIGUSR1, former)
        assert got == [0, 1, 2]
        if how == "beside":
            held.gates["two"].set()
            assert two.result(WAIT) == "two"
        assert client.call("same", 7) == 7


def test_what_a_signals_handler_raises_is_not_the_calls(server: Server) -> None:
    """Also if it is an error of ours: it has its own words."""

    def interrupt(number: int, frame: object) -> None:
        raise errors.RecvTimeoutError("enough of this")

    with (
        closing(Held(server)) as held,
        Client(server.address, timeout=WAIT) as client,
        ThreadPoolExecutor(1) as threads,
    ):
        former = signal.signal(signal.SIGUSR1, interrupt)
        try:

            def kill() -> None:
                eventually(lambda: "one" in held.began and client._line.port.sleepers.asleep, WAIT)
                os.kill(os.getpid(), signal.SIGUSR1)

            for pretend in (False, True):
                held.began.clear()
                held.gates["one"].clear()
                if pretend:
                    client._line._waiting[1] = Waiting(0)  # somebody else waits
                killed = threads.submit(kill)
                with pytest.raises(errors.RecvTimeoutError) as caught:
                    client.call("same", "one")
                assert caught.value.args[0] == "enough of this"
                killed.result(WAIT)
                held.gates["one"].set()
                client._line._waiting.pop(1, None)
                assert len(client._line) == 0
                assert client.call("same", 7) == 7
        finally:
            signal.signal(signal.SIGUSR1, former)


@pytest.mark.parametrize("what", ["submit", "thread", "executor"])
def test_a_signals_handler_may_wait_for_what_others_do(server: Server, what: str) -> None:
    """Though its own thread, which is in the middle of a call, has the role of the reader."""
    with (
        closing(Held(server)) as held,
        Client(server.address, timeout=WAIT) as client,
        ThreadPoolExecutor(2) as threads,
    ):
        got: list[int] = []

        def handle(number: int, frame: object) -> None:
            if what == "submit":
                got.append(client.submit("same", 1).result(WAIT))
            elif what == "executor":
                got.append(threads.submit(client.call, "same", 1).result(WAIT))
            else:
                thread = threading.Thread(target=lambda: got.append(client.call("same", 1)))
                thread.start()
                thread.join(WAIT)
            held.gates["one"].set()

        def kill() -> None:
            eventually(lambda: "one" in held.began and client._line.port.sleepers.asleep, WAIT)
            os.kill(os.getpid(), signal.SIGUSR1)

        former = signal.signal(signal.SIGUSR1, handle)
        try:
            killed = threads.submit(kill)
            assert client.call("same", "one") == "one"
            killed.result(WAIT)
        finally:
            signal.signal(signal.SIGUSR1, former)
        assert got == [1]


def test_a_call_in_a_handler_is_interrupted_as_any_other(server: Server) -> None:
    with (
        closing(Held(server)) as held,
        Client(server.address, timeout=WAIT) as client,
        ThreadPoolExecutor(1) as threads,
    ):

        class Stop(Exception):
            pass

        def stop(number: int, frame: object) -> None:
            raise Stop

        def kill(text: str, number: int) -> None:
            eventually(lambda: text in held.began and client._line.port.sleepers.asleep, WAIT)
            os.kill(os.getpid(), number)

        def handle(number: int, frame: object) -> None:
            second = threads.submit(kill, "two", signal.SIGUSR2)
            with pytest.raises(Stop):
                client.call("same", "two")
            second.result(WAIT)
            held.gates["one"].set()

        former = signal.signal(signal.SIGUSR1, handle), signal.signal(signal.SIGUSR2, stop)
        try:
            first = threads.submit(kill, "one", signal.SIGUSR1)
            assert client.call("same", "one") == "one"
            first.result(WAIT)
        finally:
            signal.signal(signal.SIGUSR1, former[0])
            signal.signal(signal.SIGUSR2, former[1])


def test_many_threads_that_call_once_and_end(server: Server) -> None:
    """The last reference to a thread's sleeper goes while others ask who slept last."""
    with Client(server.address, timeout=WAIT) as client:
        wrong: list[int] = []

        def call(n: int) -> None:
            if client.call("same", n) != n:
                wrong.append(n)

        for first in range(0, 1200, 6):
            threads = [threading.Thread(target=call, args=(first + n,)) for n in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(WAIT)
        assert wrong == []
        assert len(client._line) == 0
