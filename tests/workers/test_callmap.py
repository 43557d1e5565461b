"""`Client.map`: many calls on their way, their results in order."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import eventually

from spworkers import errors
from spworkers.workers import callline
from spworkers.workers.app import App
from spworkers.workers.client import Client
from spworkers.workers.manycalls import LATE

WAIT = 20.0
WINDOW = 4

app = App("calc")


@app.handler
def add(a: int, b: int = 0) -> int:
    return a + b


@app.handler
def below(n: int, limit: int) -> int:
    if n >= limit:
        raise ValueError(f"{n} is too much")
    return n


@app.handler
def count_to(n: int) -> Iterator[int]:
    yield from range(n)


@app.handler
def wait_for(path: str) -> str:
    """Until there is a file of that name; empty: not at all."""
    if path:
        eventually(lambda: os.path.exists(path), WAIT)
    return path


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with app.serve("tcp://127.0.0.1:0", workers=2, block=False) as server:
        yield server.address


@pytest.fixture
def calc(address: str) -> Iterator[Client]:
    with Client(address, timeout=WAIT) as client:
        yield client
        assert len(client._line) == 0  # nothing that was given up is remembered


def noting(found: list[int]) -> Callable[[int], int]:
    """Remembers what goes through it."""

    def note(number: int) -> int:
        found.append(number)
        return number

    return note


@pytest.mark.parametrize("window", [1, 2, 7, 1000, None])
def test_it_gives_what_the_built_in_map_gives(calc: Client, window: int | None) -> None:
    for a, b in ((range(300), range(1, 400)), (range(5), ()), ([7], [8]), ((), ())):
        assert list(calc.map("add", a, b, in_flight=window)) == [x + y for x, y in zip(a, b, strict=False)]
    assert list(calc.map("add", [5])) == [5]


def test_the_local_client_has_it_too() -> None:
    with app.client() as local:
        assert list(local.map("add", itertools.count(), range(3))) == [0, 2, 4]
        found = local.map("below", range(3), [9, 0, 9], return_exceptions=True)
        assert [type(each) for each in found] == [int, errors.RemoteError, int]
        with pytest.raises(errors.BadValueError, match="at least one iterable"):
            local.map("add")


def test_the_input_may_be_endless(calc: Client) -> None:
    read: list[int] = []
    items = map(noting(read), itertools.count())
    with calc.map("add", items, in_flight=WINDOW) as results:  # type: ignore[attr-defined]
        assert len(read) == WINDOW  # sent before the first result is asked for
        for taken, result in enumerate(itertools.islice(results, 50)):
            assert result == taken
            assert len(read) <= taken + 1 + WINDOW * LATE
    assert list(results) == []


def test_what_is_done_waits_for_what_is_older(calc: Client, tmp_path: Any) -> None:
    path = str(tmp_path / "go")
    with Client(calc._addresses, timeout=WAIT, in_flight=2) as client:
        sent: list[int] = []
        paths = ("" if number else path for number in map(noting(sent), itertools.count()))
        results = client.map("wait_for", paths)
        done: list[str] = []
        thread = threading.Thread(target=lambda: done.append(next(results)))
        thread.start()
        eventually(lambda: client._line._guests, WAIT)
        open(path, "w").close()
        thread.join(WAIT)
        assert done == [path]
        assert [next(results) for _ in range(10)] == [""] * 10
        assert len(sent) <= 11 + 2 * LATE
        results.close()  # type: ignore[attr-defined]


def test_an_exception_ends_it_in_its_place(calc: Client) -> None:
    results = calc.map("below", range(10), [5] * 10, in_flight=WINDOW)
    taken: list[int] = []
    with pytest.raises(errors.RemoteError, match="5 is too much"):
        taken.extend(results)
    assert taken == [0, 1, 2, 3, 4]
    assert list(results) == []


def test_exceptions_may_be_results(calc: Client) -> None:
    items: list[Any] = [1, "two", object(), 4]
    results = list(calc.map("add", items, return_exceptions=True))
    assert [results[0], results[3]] == [1, 4]
    assert [type(each) for each in results[1:3]] == [errors.BadArgumentsError, errors.SerializationError]
    with pytest.raises(errors.UnknownHandlerError):
        list(calc.map("subtract", [1]))


@pytest.mark.parametrize("return_exceptions", [False, True])
def test_an_exception_of_the_items_comes_after_what_was_sent(calc: Client, return_exceptions: bool) -> None:
    def items() -> Iterator[int]:
        yield from range(6)
        raise KeyError("the input")

    taken: list[int] = []
    with pytest.raises(KeyError, match="the input"):
        taken.extend(calc.map("add", items(), in_flight=WINDOW, return_exceptions=return_exceptions))
    assert taken == list(range(6))


def test_streams(calc: Client) -> None:
    assert [list(stream) for stream in calc.map("count_to", range(4))] == [[], [0], [0, 1], [0, 1, 2]]


def test_results_of_a_type(address: str) -> None:
    class Typed(Client, results={"add": str}):
        """Says what it is not."""

    with Typed(address, timeout=WAIT) as client, pytest.raises(errors.GarbledError, match="another type"):
        list(client.map("add", [1]))


def test_each_call_has_its_time(calc: Client, tmp_path: Any) -> None:
    path = str(tmp_path / "go")
    results = calc.map("wait_for", [path, ""], timeout=0.1, return_exceptions=True)
    assert isinstance(next(results), errors.RecvTimeoutError)
    open(path, "w").close()  # the workers are to be free for the next test
    list(results)


def test_what_is_given_up_leaves_its_places(address: str, tmp_path: Any) -> None:
    path = str(tmp_path / "go")
    with Client(address, timeout=WAIT, in_flight=2) as client:
        results: Any = client.map("wait_for", [path] * 9)
        with pytest.raises(errors.RecvTimeoutError, match="2 calls were in flight"):
            client.call("add", 1, timeout=0.05)
        with pytest.raises(errors.RecvTimeoutError, match="2 calls were in flight"):
            list(client.map("add", [1], timeout=0.05))
        assert "2 calls on their way" in repr(results)
        results.close()
        results.close()
        assert "over" in repr(results)
        other: Any = client.map("wait_for", [path] * 9)
        del other
        gc.collect()
        open(path, "w").close()
        assert client.call("add", 1) == 1
        assert list(client.map("add", range(20))) == list(range(20))


def test_threads_may_share_one(calc: Client) -> None:
    results = calc.map("add", range(400), in_flight=8)
    found: list[list[int]] = [[], [], []]
    threads = [threading.Thread(target=each.extend, args=(results,)) for each in found]
    for thread in threads:
        thread.start()
    assert calc.add(20, 30) == 50  # and somebody else calls
    for thread in threads:
        thread.join(WAIT)
    assert sorted(itertools.chain(*found)) == list(range(400))
    assert all(each == sorted(each) for each in found)


def test_threads_may_share_one_that_a_failure_of_theirs_ends(calc: Client, tmp_path: Any) -> None:
    """The items' generator ends, and lets go of the GIL, while others are about to ask it."""
    path = tmp_path / "lines"
    path.write_text("abc\n" * 2000)

    def items() -> Iterator[Any]:
        with open(path) as file:
            for number, _ in enumerate(file):
                yield "no number" if number == 300 else number

    def take(results: Iterator[Any], got: list[int]) -> None:
        try:
            got.extend(results)
        except errors.SPError as error:
            ended.append(error)

    for _ in range(150):
        ended: list[errors.SPError] = []
        results = calc.map("add", items(), in_flight=16)
        found: list[list[int]] = [[], [], [], []]
        threads = [threading.Thread(target=take, args=(results, each)) for each in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        assert errors.BadArgumentsError in [type(error) for error in ended]
        assert {type(error) for error in ended} <= {errors.BadArgumentsError, errors.CanceledError}
        assert set(range(280)) <= set(itertools.chain(*found)) <= set(range(2000))
    assert calc.add(20, 30) == 50


@pytest.mark.parametrize("limit", [1, 2, 4, 128])
def test_other_calls_of_its_client_beside_it(address: str, limit: int) -> None:
    """Answers to it give back their places, though nobody asks it for results meanwhile."""
    with Client(address, timeout=WAIT, in_flight=limit) as client:
        for n in client.map("add", range(300), range(300)):
            assert client.add(n, 1) == n + 1
        pairs = zip(client.map("add", range(300)), client.map("add", range(300), range(300)), strict=True)
        assert all(two == 2 * one for one, two in pairs)
        results = client.map("add", range(1000))
        assert next(results) == 0
        assert client.submit("add", 2, 3).result(WAIT) == 5
        assert list(client.stream("count_to", 3)) == [0, 1, 2]
        assert len(client.handlers()) > 3
        assert list(results) == list(range(1, 1000))


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_its_items_may_call_its_client(address: str, limit: int) -> None:
    with Client(address, timeout=WAIT, in_flight=limit) as client:

        def items() -> Iterator[int]:
            for n in range(100):
                yield client.add(n, 1)

        assert list(client.map("add", items(), in_flight=limit)) == list(range(1, 101))


def test_callbacks_of_futures_may_submit_more_than_there_are_places(address: str) -> None:
    done: list[int] = []
    with Client(address, timeout=WAIT, in_flight=2) as client:

        def further(future: Any) -> None:
            done.append(future.result())
            if future.result() < 100:
                client.submit("add", future.result(), 10).add_done_callback(further)

        for n in range(6):
            client.submit("add", n).add_done_callback(further)
        eventually(lambda: sum(each >= 100 for each in done) == 6, WAIT)
    assert sorted(done) == [10 * turn + n for turn in range(11) for n in range(6)]


def test_who_is_not_given_a_place_is_told(address: str, tmp_path: Any) -> None:
    path = str(tmp_path / "go")
    with Client(address, timeout=WAIT, in_flight=2) as client:
        results = client.map("wait_for", [path] * 2)
        with pytest.raises(errors.RecvTimeoutError, match=r"add\(\): 2 calls were in flight until its time was over"):
            client.call("add", 1, timeout=0.05)
        open(path, "w").close()
        assert list(results) == [path] * 2
        assert len(client._slots._free) == 2


def test_in_a_forked_child_who_finds_no_place_is_told_whose_client_it_is(address: str, tmp_path: Any) -> None:
    path = str(tmp_path / "go")
    with Client(address, in_flight=1) as client:
        results = client.map("wait_for", [path])
        child = os.fork()
        if child == 0:
            try:
                client.call("add", 1)
            except errors.ForkedError:
                os._exit(7)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        open(path, "w").close()
        assert list(results) == [path]


@pytest.mark.skipif(
    str(callline.__file__).endswith(".py"), reason="interpreted, handlers run between any two of its lines"
)
@pytest.mark.parametrize("limit", [1, 2])
def test_signals_at_any_moment_lose_no_place_and_may_call(address: str, limit: int) -> None:
    """Some raise, some call the same client in the midst of a call, or of a wait for a place."""
    interrupts = called = 0

    def handler(number: int, frame: object) -> None:
        nonlocal interrupts, called
        if (interrupts + called) % 2:
            called += 1
            assert client.call("add", 20, 30) == 50
        else:
            interrupts += 1
            raise KeyboardInterrupt

    def work() -> None:
        while not done.is_set():
            assert client.add(1, 2) == 3

    done = threading.Event()
    former = signal.signal(signal.SIGALRM, handler)
    try:
        with Client(address, timeout=WAIT, in_flight=limit) as client:
            threads = [threading.Thread(target=work) for _ in range(2)]
            for thread in threads:
                thread.start()
            while interrupts < 150 or called < 100:
                with contextlib.suppress(KeyboardInterrupt):
                    signal.setitimer(signal.ITIMER_REAL, 0.0001 + (interrupts + called) % 37 * 0.0001)
                    assert client.add(3, 4) == 7
                    assert list(client.map("add", range(20))) == list(range(20))
            signal.setitimer(signal.ITIMER_REAL, 0)
            done.set()
            for thread in threads:
                thread.join(WAIT)
            gc.collect()
            eventually(lambda: len(client._slots._free) == limit, WAIT)
            assert not client._slots._borrowed
            assert not client._line._waiting
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def test_one_that_is_asked_in_the_middle_of_being_asked_says_so(calc: Client) -> None:
    told: list[str] = []

    def items() -> Iterator[int]:
        yield 0
        with pytest.raises(errors.ProtoStateError) as caught:
            next(results)
        told.append(str(caught.value))
        yield 1

    results = calc.map("add", items(), in_flight=1)
    assert list(results) == [0, 1]
    assert "add(): the next result of this map was asked for in the middle of asking for it" in told[0]


def test_another_thread_may_close_it(calc: Client, tmp_path: Any) -> None:
    path = str(tmp_path / "go")
    results: Any = calc.map("wait_for", [path])
    ended: list[BaseException] = []

    def take() -> None:
        try:
            next(results)
        except errors.SPError as error:
            ended.append(error)

    thread = threading.Thread(target=take)
    thread.start()
    eventually(lambda: calc._line._guests, WAIT)
    results.close()
    thread.join(WAIT)
    open(path, "w").close()
    assert [type(error) for error in ended] == [errors.CanceledError]


def test_the_client_may_be_closed_meanwhile(address: str, tmp_path: Any) -> None:
    path = str(tmp_path / "go")
    client = Client(address, timeout=WAIT)
    results = client.map("wait_for", [path] * 3)
    client.close()
    open(path, "w").close()
    with pytest.raises(errors.ClosedError):
        next(results)
    with pytest.raises(errors.ClosedError):
        client.map("add", [1])


def test_ctrl_c_ends_it(calc: Client, tmp_path: Any) -> None:
    path = str(tmp_path / "go")

    def interrupt() -> None:
        eventually(lambda: calc._line._guests, WAIT)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    results = calc.map("wait_for", [path] * 3)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        next(results)
    interrupter.join(WAIT)
    assert list(results) == []
    open(path, "w").close()
    assert calc.add(3, 4) == 7


def test_deaths_on_our_side_are_not_noticed() -> None:
    with app.serve("tcp://127.0.0.1:0", workers=2, block=False) as server, Client(server.address, timeout=WAIT) as calc:
        results = calc.map("add", range(300), in_flight=8)
        taken = [next(results) for _ in range(50)]
        os.kill(int(calc._req.stats()["pid"]), signal.SIGKILL)
        taken += [next(results) for _ in range(50)]
        os.kill(server.workers[0].pid, signal.SIGKILL)
        assert taken + list(results) == list(range(300))


@pytest.mark.parametrize(
    ("name", "arguments", "options", "message"),
    [
        ("", ([1],), {}, "handler's name"),
        ("add", (), {}, "at least one iterable"),
        ("add", ([1],), {"in_flight": 0}, "whole number from 1"),
        ("add", ([1],), {"timeout": "soon"}, "timeout wants seconds"),
    ],
)
def test_mistakes_are_told(calc: Client, name: str, arguments: Any, options: Any, message: str) -> None:
    with pytest.raises(errors.BadValueError, match=message):
        calc.map(name, *arguments, **options)
    with pytest.raises(errors.BadValueError, match="wants iterables"):
        calc.map("add", 5)  # type: ignore[arg-type]
