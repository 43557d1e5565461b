"""The client over sockets: waiting, cancelling, several servers, several at once."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import os
import pickle
import re
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from typing import Any

import anyio
import psutil
import pytest
import trio
from helpers import aeventually, eventually

from spworkers import errors
from spworkers.sockets import Rep
from spworkers.workers import callformat
from spworkers.workers.answer import Reply
from spworkers.workers.app import App
from spworkers.workers.caller import Caller
from spworkers.workers.client import Client
from spworkers.workers.runner import Runner
from spworkers.workers.stream import Stream

ANYWHERE = "tcp://127.0.0.1:0"
WAIT = 20.0

app = App("calc")


@app.handler
def add(a: int, b: int) -> int:
    return a + b


@app.handler
def timeout_of(timeout: float) -> float:
    return timeout


@app.handler
def fail() -> None:
    raise ValueError("no such luck")


@app.raw
def reverse(body: bytes) -> bytes:
    return body[::-1]


class Answerer:
    """A server in a thread of this process, which answers when it is told to."""

    def __init__(self) -> None:
        self.rep = Rep(listen=ANYWHERE)
        self.address = self.rep.listeners[0].address
        self.gate = threading.Event()
        self.gate.set()
        self.asked: list[bytes] = []
        self._runner = Runner(app)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        try:
            for body in self.rep:
                self.asked.append(body)
                self.gate.wait()
                self.rep.send(self.answer(body))
        except errors.ClosedError:
            return

    def answer(self, body: bytes) -> bytes:
        return self._runner.answer(body).body

    def close(self) -> None:
        self.gate.set()
        if not self.rep._port.closed:
            self.rep.close(linger=0)
        self._thread.join(WAIT)


@pytest.fixture
def server() -> Iterator[Answerer]:
    answerer = Answerer()
    yield answerer
    answerer.close()


@pytest.fixture
def calc(server: Answerer) -> Iterator[Client]:
    with Client(server.address, timeout=WAIT) as client:
        yield client


@app.handler
def count_to(n: int) -> Iterator[int]:
    yield from range(n)


CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any], Any]] = [
    ("add", (2, 3), {}, None),
    ("add", (2,), {"b": 3}, 5),
    ("add", ("two", 3), {}, None),
    ("fail", (), {}, None),
    ("count_to", (3,), {}, None),
    ("subtract", (), {}, None),
    ("", (), {}, None),
    ("add", (2, object()), {}, None),
    ("add", (2, 3), {}, "soon"),
]


def test_the_quick_way_of_a_call_leads_to_the_same_as_its_steps(calc: Client) -> None:
    def outcome(call: Callable[..., Any], what: tuple[Any, ...]) -> Any:
        try:
            result = call(*what)
        except errors.SPError as error:
            return type(error), re.sub("0x[0-9a-f]+", "", str(error))
        return list(result) if isinstance(result, Stream) else result

    def steps(*what: Any) -> Any:
        return Caller._call(calc, *what)

    def tasks(way: Callable[..., Any]) -> Callable[..., Any]:
        def call(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout: Any) -> Any:
            async def main() -> Any:
                with contextlib.suppress(errors.ClosedError):
                    await calc.acall("add", 0, 0)  # the first call of a loop goes the long way
                return await way(calc, name, *args, timeout=timeout, **kwargs)

            return asyncio.run(main())

        return call

    ways = (calc._call, steps, tasks(Client.acall), tasks(Caller.acall))
    told = [[outcome(way, what) for what in CALLS] for way in ways]
    assert told == [told[0]] * len(ways)
    assert outcome(calc._call, CALLS[0]) == 5
    assert outcome(calc._call, CALLS[4]) == [0, 1, 2]
    calc.close()
    assert len({outcome(way, CALLS[0]) for way in ways}) == 1


def test_a_call_that_gets_no_answer_is_told_so_either_way(server: Answerer, calc: Client) -> None:
    server.gate.clear()
    for call in (calc._call, lambda *what: Caller._call(calc, *what)):
        with pytest.raises(
            errors.RecvTimeoutError, match=re.escape(f"add(): no answer from {server.address}")
        ) as caught:
            call("add", (2, 3), {}, 0.02)
        assert isinstance(caught.value.__cause__, errors.RecvTimeoutError)


def test_a_dropped_client_warns_by_its_own_name() -> None:
    client = Client("inproc://nobody", dial_asynch=True)
    with pytest.warns(ResourceWarning) as caught:
        del client
        gc.collect()
    told = [str(each.message) for each in caught if "nobody" in str(each.message) or "Socket" in str(each.message)]
    assert told == ["<Client of inproc://nobody: 0 submitted calls in flight> was not closed"]


def test_the_ways_to_call(calc: Client) -> None:
    assert calc.add(2, 3) == 5
    assert calc.add(a=2, b=3) == 5
    assert calc.call("add", 2, b=3, timeout=1.0) == 5
    assert calc.submit("add", 2, 3).result(WAIT) == 5
    assert calc.timeout_of(timeout=1.5) == 1.5
    assert [each["name"] for each in calc.handlers()] == ["add", "timeout_of", "fail", "count_to"]
    assert calc.raw(b"abc") == calc.raw(bytearray(b"abc")) == calc.raw(memoryview(b"abc")) == b"cba"
    for wrong in ("abc", 5, None, [1]):
        with pytest.raises(errors.BadValueError, match="a message's body is bytes"):
            calc.raw(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_it_is_an_asynchronous_context_manager_too(server: Answerer, backend: str) -> None:
    async def main() -> Client:
        async with Client(server.address) as client:
            assert await client.acall("add", 1, 2) == 3
        return client

    client = anyio.run(main, backend=backend)
    with pytest.raises(errors.ClosedError):
        client.call("add", 1, 2)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_tasks_call(calc: Client, backend: str) -> None:
    async def main() -> list[int]:
        return [await calc.acall("add", number, 1) for number in range(5)]

    assert (asyncio.run(main()) if backend == "asyncio" else trio.run(main)) == [1, 2, 3, 4, 5]


def test_the_errors_of_handlers(calc: Client) -> None:
    with pytest.raises(errors.RemoteError, match="no such luck"):
        calc.fail()
    with pytest.raises(errors.RemoteError, match="no such luck"):
        calc.submit("fail").result(WAIT)
    with pytest.raises(errors.BadArgumentsError):
        calc.add("x", 1)
    with pytest.raises(errors.UnknownHandlerError, match="did you mean 'add'"):
        calc.ad(1, 2)
    assert calc.add(1, 2) == 3


# --- time


def test_an_answer_that_does_not_come_in_time(server: Answerer, calc: Client) -> None:
    def error_of(call: Callable[[], Any]) -> str:
        while True:
            try:
                call()
            except errors.SendTimeoutError:  # on a busy machine nobody has even taken it so soon
                continue
            except errors.RecvTimeoutError as error:
                return str(error)

    server.gate.clear()
    for call in (
        lambda: calc.call("add", 1, 2, timeout=0.05),
        lambda: calc.submit("add", 1, 2, timeout=0.05).result(WAIT),
        lambda: asyncio.run(calc.acall("add", 1, 2, timeout=0.05)),
        lambda: next(calc.map("add", [1], [2], timeout=0.05)),
        lambda: next(calc.stream("add", 1, 2, timeout=0.05)),
    ):
        words = r"add\(\): no answer from tcp://127\.0\.0\.1:\d+ within its timeout of 0\.05 s"
        assert re.fullmatch(words, error_of(call))
    server.gate.set()
    assert calc.add(3, 4) == 7  # and not the late answer of one before


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(errors.ConnRefusedError):
        Client("tcp://127.0.0.1:1")
    with Client("tcp://127.0.0.1:1", dial_asynch=True) as client:
        with pytest.raises(errors.RecvTimeoutError, match=r"no server at tcp://127\.0\.0\.1:1 took the call"):
            client.call("add", 1, 2, timeout=0.05)


def test_the_clients_timeout_is_the_calls(server: Answerer) -> None:
    server.gate.clear()
    with Client(server.address, timeout=0.05) as client:
        with pytest.raises(errors.RecvTimeoutError):
            client.add(1, 2)


def test_the_time_left_travels_with_the_call(server: Answerer, calc: Client) -> None:
    calc.call("add", 1, 2, timeout=5)
    with Client(server.address) as patient:
        patient.add(1, 2)
    first, second = map(callformat.decode_call, server.asked)
    assert 4 < first.timeout <= 5
    assert second.timeout == float("inf")


@pytest.mark.parametrize("timeout", ["soon", True, float("nan")])
def test_timeouts_are_times(calc: Client, timeout: Any) -> None:
    with pytest.raises(errors.BadValueError, match="timeout"):
        calc.call("add", 1, 2, timeout=timeout)


# --- giving up


def test_a_future_can_be_cancelled(server: Answerer, calc: Client) -> None:
    server.gate.clear()
    future = calc.submit("add", 1, 2)
    eventually(lambda: server.asked, WAIT)
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(WAIT)
    server.gate.set()
    assert calc.submit("add", 3, 4).result(WAIT) == 7


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_task_can_be_cancelled(server: Answerer, calc: Client, backend: str) -> None:
    server.gate.clear()

    async def with_asyncio() -> int:
        task = asyncio.create_task(calc.acall("add", 1, 2))
        await aeventually(lambda: server.asked, WAIT)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.gate.set()
        return int(await calc.acall("add", 3, 4))

    async def with_trio() -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(calc.acall, "add", 1, 2)
            await aeventually(lambda: server.asked, WAIT)
            nursery.cancel_scope.cancel()
        server.gate.set()
        return int(await calc.acall("add", 3, 4))

    assert (asyncio.run(with_asyncio()) if backend == "asyncio" else trio.run(with_trio)) == 7


def test_close_ends_what_is_in_flight(server: Answerer) -> None:
    server.gate.clear()
    client = Client(server.address)
    caught: list[BaseException] = []

    def call() -> None:
        try:
            client.add(1, 2)
        except errors.SPError as error:
            caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    futures = [client.submit("add", 1, 2) for _ in range(3)]
    eventually(lambda: server.asked, WAIT)
    client.close()
    client.close()
    thread.join(WAIT)
    assert [type(error) for error in caught] == [errors.ClosedError]
    assert not wait(futures, WAIT).not_done
    assert all(isinstance(future.exception(), errors.ClosedError) for future in futures)
    for call_ in (
        lambda: client.add(1, 2),
        lambda: client.submit("add", 1, 2),
        lambda: asyncio.run(client.acall("add", 1, 2)),
    ):
        with pytest.raises(errors.ClosedError, match=rf"^add\(\): the client of {server.address} is closed$"):
            call_()
    assert "closed" in repr(client)
    assert not [each for each in threading.enumerate() if each.name == "spworkers-client"]


@pytest.mark.parametrize("wrong", [5, None, b"tcp://127.0.0.1:1", []])
def test_an_address_that_is_none(wrong: Any) -> None:
    with pytest.raises(errors.BadValueError, match=r"a Client (takes|needs) an address"):
        Client(wrong)


WAYS: dict[str, Callable[[Client], Any]] = {
    "call": lambda client: client.call("add", 1, 2, timeout=0.1),
    "submit": lambda client: client.submit("add", 1, 2, timeout=0.1).result(WAIT),
    "asyncio": lambda client: asyncio.run(client.acall("add", 1, 2, timeout=0.1)),
    "trio": lambda client: trio.run(lambda: client.acall("add", 1, 2, timeout=0.1)),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_answer_that_somebody_else_is_about_to_give_is_waited_for(server: Answerer, way: str) -> None:
    """A thread that reads for all has taken it, and has not come to say so when its time is over."""
    server.gate.clear()
    with Client(server.address, timeout=WAIT) as client, ThreadPoolExecutor(1) as threads:
        line = client._line
        taken: list[Any] = []
        with line.reading() if way == "call" else contextlib.nullcontext():  # the thread itself does not read
            while not taken:  # once more, if we were not here in time
                called = threads.submit(WAYS[way], client)
                eventually(lambda called=called: len(line) or called.done())
                taken = [waiting for serial in list(line._waiting) if (waiting := line._waiting.pop(serial, None))]
            over = time.monotonic() + 0.15
            eventually(lambda: time.monotonic() > over)
            assert not called.done()
            taken[0].end(Reply(callformat.encode_value(taken[0].call_id, 7), 1), None)
            assert called.result(WAIT) == 7
        server.gate.set()


@pytest.mark.parametrize("way", ["call", "submit", "acall"])
def test_a_socket_that_is_closed_under_its_client_ends_the_calls(server: Answerer, way: str) -> None:
    """As it is when the program ends, while a daemon thread waits."""
    server.gate.clear()
    with Client(server.address, timeout=WAIT) as client, ThreadPoolExecutor(1) as threads:
        ways: dict[str, Callable[[], Any]] = {
            "call": lambda: client.add(1, 2),
            "submit": lambda: client.submit("add", 1, 2).result(WAIT),
            "acall": lambda: asyncio.run(client.acall("add", 1, 2)),
        }
        called = threads.submit(ways[way])
        eventually(lambda: server.asked)
        client._req.close(linger=0)
        with pytest.raises(errors.ClosedError):
            called.result(WAIT)
        server.gate.set()


# --- how many at once


def test_one_more_call_than_may_be_in_flight_waits(server: Answerer) -> None:
    server.gate.clear()
    with Client(server.address, in_flight=2, timeout=WAIT) as client:
        futures = [client.submit("add", number, 0) for number in range(2)]
        with pytest.raises(errors.RecvTimeoutError, match="2 calls were in flight"):
            client.call("add", 1, 2, timeout=0.05)
        with pytest.raises(errors.RecvTimeoutError, match="in_flight"):
            client.submit("add", 1, 2, timeout=0.05)
        assert repr(client) == f"<Client of {server.address}: 2 submitted calls in flight>"
        third: list[Future[Any]] = []
        thread = threading.Thread(target=lambda: third.append(client.submit("add", 2, 0)))
        thread.start()
        server.gate.set()
        thread.join(WAIT)
        assert [future.result(WAIT) for future in [*futures, *third]] == [0, 1, 2]


def test_tasks_wait_for_each_other_too(server: Answerer) -> None:
    with Client(server.address, in_flight=2, timeout=WAIT) as client:

        async def main() -> list[Any]:
            return await asyncio.gather(*(client.acall("add", number, 0) for number in range(20)))

        assert asyncio.run(main()) == list(range(20))
        assert len(client._line) == 0
        assert asyncio.run(main()) == list(range(20))  # in another loop


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_task_waits_for_a_place_no_longer_than_its_time(server: Answerer, backend: str) -> None:
    server.gate.clear()
    with Client(server.address, in_flight=1, timeout=WAIT) as client:

        async def main() -> int:
            async with anyio.create_task_group() as group:
                group.start_soon(client.acall, "add", 1, 2)
                await aeventually(lambda: len(client._line) == 1)
                with pytest.raises(errors.RecvTimeoutError, match="1 calls were in flight"):
                    await client.acall("add", 1, 2, timeout=0.05)
                server.gate.set()
            return int(await client.acall("add", 3, 4))

        try:
            assert anyio.run(main, backend=backend) == 7
        finally:
            server.gate.set()


def test_an_event_loop_that_is_over_is_not_kept(calc: Client) -> None:
    async def main() -> weakref.ref[asyncio.AbstractEventLoop]:
        assert await calc.acall("add", 1, 2) == 3
        return weakref.ref(asyncio.get_running_loop())

    over = asyncio.run(main())
    asyncio.run(main())  # the next one finds out
    gc.collect()
    assert over() is None


def test_answers_find_their_futures(calc: Client) -> None:
    futures = [calc.submit("add", number, 0) for number in range(300)]
    assert [future.result(WAIT) for future in futures] == list(range(300))
    assert len(calc._line) == 0


def test_callbacks_may_submit(calc: Client) -> None:
    second: Future[Any] = Future()

    def chain(future: Future[Any]) -> None:
        calc.submit("add", future.result(), 10).add_done_callback(lambda done: second.set_result(done.result()))

    calc.submit("add", 1, 2).add_done_callback(chain)
    assert second.result(WAIT) == 13


# --- where


def test_several_servers() -> None:
    one, other = Answerer(), Answerer()
    try:
        with Client([one.address, other.address, "tcp://127.0.0.1:1"], timeout=WAIT) as client:
            eventually(lambda: client.add(1, 2) == 3 and one.asked and other.asked, WAIT)
            one.close()
            for number in range(10):
                assert client.add(number, 1) == number + 1
    finally:
        one.close()
        other.close()


class Busy(Answerer):
    """It has no room for anything."""

    def answer(self, body: bytes) -> bytes:
        return callformat.encode_failure(callformat.call_id_of(body), callformat.Failure("busy", "full"))


@contextlib.contextmanager
def between(*servers: Answerer) -> Iterator[Client]:
    """A client that is connected to all of them."""
    with contextlib.ExitStack() as closing:
        for server in servers:
            closing.callback(server.close)
        client = closing.enter_context(Client([server.address for server in servers], timeout=WAIT))
        eventually(lambda: len(client._req.pipes) == len(servers), WAIT)
        yield client


def test_a_free_server_that_has_not_answered_yet_gets_what_another_refuses() -> None:
    free = Answerer()
    with between(Busy(), free) as client:
        free.gate.clear()
        futures = [client.submit("add", n, 1) for n in range(20)]
        eventually(lambda: free.asked, WAIT)
        free.gate.set()
        assert [future.result(WAIT) for future in futures] == list(range(1, 21))


def test_what_one_server_is_too_busy_for_goes_to_another() -> None:
    busy, free = Busy(), Answerer()
    with between(busy, free) as client:
        for number in range(6):
            assert client.add(number, 1) == number + 1
        free.gate.clear()  # who refuses everything is always ready for more
        futures = [client.submit("add", number, 1) for number in range(20)]
        free.gate.set()
        assert [future.result(WAIT) for future in futures] == list(range(1, 21))
        assert anyio.run(client.acall, "add", 1, 1) == 2
        assert anyio.run(client.acall, "add", 1, 1, backend="trio") == 2
    assert busy.asked
    with between(Busy(), Busy()) as client, pytest.raises(errors.BusyError, match="full"):
        client.add(1, 1)


def test_a_call_that_is_too_long_for_the_server_is_told() -> None:
    with Rep(listen=ANYWHERE, max_rcv_size=10_000) as rep:
        with Client(rep.listeners[0].address, timeout=WAIT, reconnect_time=0.01) as client:
            future = client.submit("add", "x" * 100_000, 1)
            with pytest.raises(errors.ConnResetError, match=r"add\(\): .* of 50,02\d bytes .* MAX-RCV-SIZE"):
                client.call("add", "x" * 50_000, 1)
            with pytest.raises(errors.ConnResetError, match=r"100,02\d bytes"):
                future.result(WAIT)
            future = client.submit("add", 1, 2)
            assert rep.recv(WAIT)[:2] == callformat.CALL_MARK


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Client([]), errors.BadValueError),
        (lambda: Client("nowhere"), errors.BadTranError),
        (lambda: Client("tcp://127.0.0.1:1", in_flight=0), errors.BadValueError),
        (lambda: Client("tcp://127.0.0.1:1", in_flight=32_769), errors.BadValueError),
        (lambda: Client("tcp://127.0.0.1:1", tiemout=1), errors.BadOptionError),
        (lambda: Client("tcp://127.0.0.1:1", timeout="soon"), errors.BadValueError),
    ],
)
def test_mistakes_are_told(make: Callable[[], Client], error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


def test_a_call_that_is_not_asked_again_says_why() -> None:
    with Rep(listen=ANYWHERE) as rep, Client(rep.listeners[0].address, timeout=WAIT, retry_time=0) as client:
        future = client.submit("add", 1, 2)
        rep.recv(WAIT)
        rep.close()
        words = rf"^add\(\): no answer from {re.escape(client._addresses[0])}: the peer .* gone, and RETRY-TIME is 0"
        with pytest.raises(errors.CanceledError, match=words):
            future.result(WAIT)


def test_what_is_no_answer_is_told(server: Answerer) -> None:
    with Rep(listen=ANYWHERE) as rep, Client(rep.listeners[0].address, timeout=WAIT) as client:
        future = client.submit("add", 1, 2)
        rep.recv(WAIT)
        rep.send(b"hello")
        with pytest.raises(errors.GarbledError, match="raw handler"):
            future.result(WAIT)


def test_ctrl_c_ends_a_call(server: Answerer, calc: Client) -> None:
    server.gate.clear()

    def interrupt() -> None:
        eventually(lambda: server.asked, WAIT)
        os.kill(os.getpid(), signal.SIGINT)

    begin = time.monotonic()
    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        calc.add(1, 2)
    interrupter.join(WAIT)
    assert time.monotonic() - begin < WAIT / 2
    server.gate.set()
    assert calc.add(3, 4) == 7


# --- deaths on our side


def io_process(client: Client) -> int:
    return int(client._req.stats()["pid"])


def test_calls_survive_the_clients_io_process(server: Answerer) -> None:
    server.gate.clear()
    with Client(server.address, timeout=WAIT, reconnect_time=0.01) as client:
        futures = [client.submit("add", number, 0) for number in range(5)]
        eventually(lambda: server.asked, WAIT)
        former = io_process(client)
        os.kill(former, signal.SIGKILL)
        eventually(lambda: io_process(client) != former, WAIT)
        server.gate.set()
        assert [future.result(WAIT) for future in futures] == list(range(5))
        assert client.add(1, 2) == 3


def test_calls_survive_the_clients_supervisor(server: Answerer) -> None:
    server.gate.clear()
    with Client(server.address, timeout=WAIT, reconnect_time=0.01) as client:
        futures = [client.submit("add", number, 0) for number in range(5)]
        eventually(lambda: server.asked, WAIT)
        supervisor = psutil.Process(io_process(client)).ppid()
        os.kill(supervisor, signal.SIGKILL)
        eventually(lambda: psutil.Process(io_process(client)).ppid() != supervisor, WAIT)
        server.gate.set()
        assert [future.result(WAIT) for future in futures] == list(range(5))
        assert client.add(1, 2) == 3


# --- who reads


def test_threads_tasks_and_futures_at_once(calc: Client) -> None:
    """Whoever reads tells the others: nobody waits for an answer that another one has taken."""
    wrong: list[Any] = []

    def call(begin: int) -> None:
        wrong.extend(number for number in range(begin, begin + 40) if calc.add(number, 1) != number + 1)

    async def main(begin: int) -> None:
        answers = await asyncio.gather(*(calc.acall("add", begin + number, 1) for number in range(40)))
        wrong.extend(answer for number, answer in enumerate(answers) if answer != begin + number + 1)

    threads = [threading.Thread(target=call, args=(100 * n,)) for n in range(3)]
    threads += [threading.Thread(target=lambda n=n: asyncio.run(main(1000 * n))) for n in range(1, 3)]
    for thread in threads:
        thread.start()
    futures = [calc.submit("add", number, 5000) for number in range(40)]
    assert [future.result(WAIT) for future in futures] == list(range(5000, 5040))
    for thread in threads:
        thread.join(WAIT)
        assert not thread.is_alive()
    assert wrong == []
    assert len(calc._line) == 0


def test_callbacks_may_call(calc: Client) -> None:
    second: Future[Any] = Future()
    calc.submit("add", 1, 2).add_done_callback(lambda first: second.set_result(calc.add(first.result(), 10)))
    assert second.result(WAIT) == 13


def test_a_task_and_a_call_of_its_own_thread(calc: Client) -> None:
    async def main() -> list[Any]:
        tasks = [asyncio.create_task(calc.acall("add", number, 0)) for number in range(5)]
        await asyncio.sleep(0)
        return [calc.add(7, 1), *[await task for task in tasks]]  # it holds up the loop, and takes its answers

    assert asyncio.run(main()) == [8, 0, 1, 2, 3, 4]


def test_a_loop_that_ends_leaves_nothing(server: Answerer) -> None:
    client = Client(server.address, timeout=WAIT)
    for _ in range(3):
        assert asyncio.run(client.acall("add", 1, 2)) == 3
    assert client.add(1, 2) == 3
    bells = client._req._port.bells
    client.close()
    for bell in bells:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(bell)


def test_a_body_that_finds_no_room_waits(server: Answerer) -> None:
    server.gate.clear()
    with Client(server.address, timeout=WAIT, byte_budget=1 << 20) as client:
        first = [client.submit("add", "x" * (700 << 10), 0) for _ in range(1)]
        late: list[Future[Any]] = []
        thread = threading.Thread(target=lambda: late.append(client.submit("add", "y" * (700 << 10), 0)))
        thread.start()
        server.gate.set()
        thread.join(WAIT)
        for future in [*first, *late]:
            assert isinstance(future.exception(WAIT), errors.BadArgumentsError)


def test_a_misspelt_option_of_a_client_is_told_with_its_own() -> None:
    with pytest.raises(errors.BadOptionError, match=r"a Client: there is no option 'timeot'; did you mean 'timeout'"):
        Client("tcp://127.0.0.1:1", timeot=1)
    with pytest.raises(errors.BadOptionError, match=r"a Client: .*'recv_dedline'; did you mean recv_deadline"):
        Client("tcp://127.0.0.1:1", recv_dedline=1)


def test_what_a_client_is_told_later_is_refused(server: Answerer) -> None:
    class Own(Client):
        """A user's own may have attributes."""

    with Client(server.address) as client, Own(server.address) as own:
        with pytest.raises(errors.BadOptionError, match="timeout of a Client cannot be set"):
            client.timeout = 5  # type: ignore[attr-defined]
        own.found = 3  # type: ignore[attr-defined]
        assert own.found == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(("option", "value"), [("raw", True), ("dial", "tcp://127.0.0.1:1"), ("listen", "inproc://x")])
def test_options_of_req_that_a_client_has_no_use_for(option: str, value: Any) -> None:
    with pytest.raises(errors.BadOptionError, match=f"a Client takes no {option}=: ") as caught:
        Client("tcp://127.0.0.1:1", **{option: value})
    assert caught.value.option == option


def test_arguments_that_no_call_can_have(calc: Client) -> None:
    for name in (3, None, b"add", ""):
        with pytest.raises(errors.BadValueError, match="a handler's name is text"):
            asyncio.run(calc.acall(name))  # type: ignore[arg-type]
    with pytest.raises(errors.BadValueError, match=r"map\('add'\) wants iterables, of the arguments; 3 is none"):
        calc.map("add", [1], 3)  # type: ignore[arg-type]
    with pytest.raises(errors.BadValueError, match="return_exceptions is True or False, not 'no'"):
        calc.map("add", [1], [2], return_exceptions="no")  # type: ignore[arg-type]

    class Old:
        def __getitem__(self, index: int) -> int:
            return [1, 2][index]

    assert list(calc.map("add", Old(), Old())) == [2, 4]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_client_belongs_to_its_process(calc: Client, copied: Callable[[Any], Any]) -> None:
    with pytest.raises(errors.SerializationError, match="<Stream of count_to: not begun> can be neither copied"):
        copied(calc.stream("count_to", 3))
    for each in (calc, app.client(), *([] if copied is copy.copy else [calc.add])):
        with pytest.raises(errors.SerializationError, match=r"Client of .* belongs to this process .* makes its own"):
            copied(each)
