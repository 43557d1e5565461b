"""Generator handlers, async handlers, and work that is stopped from afar; with real workers."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import ENV, aeventually, eventually

from spworkers import errors
from spworkers.devices import device
from spworkers.sockets import Rep, Req
from spworkers.workers.app import App
from spworkers.workers.client import Client
from spworkers.workers.server import Server
from spworkers.workers.stream import Stream
from spworkers.workers.streams import PART_TIME

ANYWHERE = "tcp://127.0.0.1:0"
WAIT = 20.0

app = App("streams")


def note(folder: Path, what: str) -> None:
    (folder / f"{what}-{os.getpid()}-{time.monotonic_ns()}").touch()


def noted(folder: Path, what: str) -> int:
    return len(list(folder.glob(f"{what}-*")))


@app.handler
def count(n: int, folder: Path | None = None) -> Iterator[int]:
    """Numbers below n."""
    try:
        yield from range(n)
    finally:
        if folder is not None:
            note(folder, "closed")


@app.handler
async def acount(n: int, folder: Path | None = None, pause: float = 0.0) -> AsyncIterator[int]:
    if folder is not None:
        note(folder, "counting")
    try:
        for number in range(n):
            await asyncio.sleep(pause)
            yield number
    finally:
        if folder is not None:
            note(folder, "closed")


@app.handler
def watched(folder: Path) -> Iterator[bytes]:
    for _ in itertools.count():
        note(folder, "item")
        yield bytes(40_000)


@app.handler
def breaks(after: int, what: str) -> Iterator[Any]:
    yield from range(after)
    if what == "raise":
        raise ValueError("no more")
    if what == "exit":
        sys.exit(3)
    if what == "die":
        os._exit(3)
    yield object()


@app.handler
async def nap(seconds: float, folder: Path | None = None) -> float:
    if folder is not None:
        note(folder, "napping")
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        if folder is not None:
            note(folder, "stopped")
        raise
    return seconds


idling = stopped = 0


@app.handler(retries=0)
async def idle() -> None:
    global idling, stopped
    idling += 1
    try:
        await asyncio.Event().wait()
    finally:
        stopped += 1


@app.handler
async def idled() -> tuple[int, int, int]:
    return os.getpid(), idling, stopped


@app.handler(timeout=0.1, retries=0)
async def forever() -> None:
    await asyncio.Event().wait()


@app.handler
def sleep(seconds: float, folder: Path) -> None:
    note(folder, "began")
    try:
        time.sleep(seconds)
    finally:
        note(folder, "stopped")


@app.handler
def deaf(folder: Path) -> int:
    """Takes no signal: its worker has to be killed."""
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    note(folder, "began")
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        time.sleep(0.05)
    return os.getpid()


@app.handler(retries=0)
def once() -> int:
    return os.getpid()


@app.handler
def pid() -> int:
    return os.getpid()


@app.handler
def exits(how: str) -> None:
    if how == "KeyboardInterrupt":
        raise KeyboardInterrupt
    sys.exit(how)


@app.handler
async def aexits() -> None:
    sys.exit("enough")


class Mine(BaseException):
    """An exception that nobody expects."""


def raise_(what: str) -> None:
    raise {
        "mine": Mine,
        "generator exit": GeneratorExit,
        "cancelled": asyncio.CancelledError,
        "system exit": SystemExit,
        "stop iteration": StopIteration,
    }[what]


@app.handler
def ends(what: str) -> None:
    raise_(what)


@app.handler
async def aends(what: str) -> None:
    await asyncio.sleep(0)
    raise_(what)


@app.handler
async def awaits_a_cancelled_task() -> None:
    task = asyncio.ensure_future(asyncio.sleep(WAIT))
    await asyncio.sleep(0)
    task.cancel()
    await task


@app.handler
async def cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


@app.handler
def items_end(what: str) -> Iterator[int]:
    yield 1
    raise_(what)


@app.handler
async def aitems_end(what: str) -> AsyncIterator[int]:
    yield 1
    raise_(what)


@dataclasses.dataclass
class Raising:
    what: str

    def __post_init__(self) -> None:
        raise_(self.what)


@app.handler
def takes(argument: Raising) -> None: ...


@app.handler
def item_ends(what: str) -> Iterator[Any]:
    yield 1
    yield Unsendable(what)


@app.handler
async def aitem_ends(what: str) -> AsyncIterator[Any]:
    yield 1
    yield Unsendable(what)


@app.handler
def yields_anything(raises: bool) -> Iterator[Any]:
    if raises:
        raise errors.SerializationError("its own")
    yield object()


@app.handler
async def ayields_anything(raises: bool) -> AsyncIterator[Any]:
    if raises:
        raise errors.SerializationError("its own")
    yield object()


class Unsendable(dict[str, int]):
    """Something whose encoding raises what it is told to."""

    def __init__(self, what: str) -> None:
        super().__init__(a=1)
        self.what = what

    def __iter__(self) -> Any:
        raise_(self.what)

    items = keys = __iter__


@app.handler
async def aslow_end(folder: Path) -> AsyncIterator[int]:
    try:
        while True:
            yield 1
    finally:
        await asyncio.sleep(0.3)
        note(folder, "ended")


@app.handler(retries=0)
def dies_after(seconds: float) -> None:
    time.sleep(seconds)
    os._exit(3)


@app.handler
def stubborn() -> Iterator[int]:
    try:
        yield from itertools.repeat(1)
    finally:
        time.sleep(WAIT)


@app.handler
async def astubborn() -> AsyncIterator[int]:
    try:
        while True:
            yield 1
    finally:
        time.sleep(WAIT)  # noqa: ASYNC251 - that is what is wrong with it


@app.handler
async def holds_up(folder: Path) -> int:
    note(folder, "began")
    while not (folder / "go").exists():
        time.sleep(0.01)  # noqa: ASYNC251 - that is what is wrong with it
    return os.getpid()


@app.handler(retries=0)
async def ends_the_loop(how: str) -> None:
    if how == "stop":
        asyncio.get_running_loop().stop()
    else:
        os.closerange(3, 1000)
    await asyncio.sleep(WAIT)


@app.handler
async def apid() -> int:
    return os.getpid()


@app.handler
def forks() -> int:
    child = os.fork()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else 0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with app.serve(ANYWHERE, workers=2, block=False) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.address, timeout=WAIT) as client:
        yield client


# --- streams


@pytest.mark.parametrize("name", ["count", "acount"])
def test_items_come_in_order(client: Client, name: str) -> None:
    assert list(client.call(name, 5000)) == list(range(5000))
    assert list(client.call(name, 0)) == []
    assert list(client.submit(name, 3).result(WAIT)) == [0, 1, 2]


@pytest.mark.parametrize("name", ["count", "acount"])
def test_async_iteration(client: Client, name: str) -> None:
    async def main() -> None:
        assert [item async for item in client.stream(name, 3000)] == list(range(3000))
        async with await client.acall(name, 10**9) as stream:
            assert await stream.__anext__() == 0
        assert "at its end" in repr(stream)

    asyncio.run(main())


def test_a_slow_stream_is_not_held_back(client: Client) -> None:
    stream = client.acount(10**9, pause=0.05)
    begun = time.monotonic()
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    assert time.monotonic() - begun < WAIT / 2
    stream.close()


def test_nothing_is_made_that_nobody_asks_for(client: Client, tmp_path: Path) -> None:
    with client.watched(tmp_path) as stream:
        next(stream)
        assert client.pid() > 0  # whatever was to happen has happened
        first = noted(tmp_path, "item")
        assert first <= 3
        for _ in range(4):
            next(stream)
        assert noted(tmp_path, "item") <= 8


@pytest.mark.parametrize("name", ["count", "acount"])
@pytest.mark.parametrize("how", ["close", "drop", "client"])
def test_a_closed_stream_closes_the_generator(server: Server, tmp_path: Path, name: str, how: str) -> None:
    with Client(server.address, timeout=WAIT) as client:
        stream = client.call(name, 10**9, tmp_path)
        assert next(stream) == 0
        if how == "close":
            stream.close()
            assert list(stream) == []
            stream.close()
        elif how == "drop":
            del stream
        else:
            client.close()
        eventually(lambda: noted(tmp_path, "closed"), WAIT)


@pytest.mark.parametrize("name", ["yields_anything", "ayields_anything"])
def test_an_item_that_cannot_be_sent_is_told_as_a_result_is(client: Client, name: str) -> None:
    with pytest.raises(
        errors.RemoteError, match=rf"{name}\(\) yielded what cannot be sent: a builtins.object"
    ) as caught:
        list(client.stream(name, False))
    assert caught.value.type == "SerializationError"
    with pytest.raises(errors.RemoteError, match="its own") as caught:
        list(client.stream(name, True))
    assert caught.value.type == "spworkers.errors.SerializationError"


@pytest.mark.parametrize(
    ("what", "error", "text"),
    [
        ("raise", errors.RemoteError, "no more"),
        ("exit", errors.RemoteError, "3"),
        ("bad item", errors.RemoteError, "object"),
    ],
)
def test_what_breaks_in_the_middle_comes_after_the_items(client: Client, what: str, error: Any, text: str) -> None:
    stream = client.stream("breaks", 2000, what)
    assert [next(stream) for _ in range(2000)] == list(range(2000))
    with pytest.raises(error, match=text):
        next(stream)
    assert list(stream) == []


def test_a_stream_ends_with_its_worker() -> None:
    with app.serve(ANYWHERE, workers=1, block=False) as server, Client(server.address, timeout=WAIT) as client:
        stream = client.breaks(10**7, "die")
        assert next(stream) == 0
        os.kill(server.workers[0].pid, signal.SIGKILL)
        with pytest.raises(errors.StreamLostError, match=r"worker|no such stream"):
            for _ in stream:
                pass
        with pytest.raises(errors.StreamLostError, match="has ended early"):
            next(stream)
        assert repr(stream) == "<Stream of breaks: ended early>"


def test_the_stream_of_a_server_that_ends_is_lost() -> None:
    with Client(dial_address := "inproc://streams-lost", dial_asynch=True, timeout=WAIT) as client:
        with app.serve(dial_address, workers=1, block=False) as server:
            stream = client.count(10**9)
            assert next(stream) == 0
            server.close(0)
        with pytest.raises(errors.StreamLostError):
            for _ in stream:
                pass
        client.close()
        with pytest.raises(errors.StreamLostError, match="has ended early"):
            next(stream)


def test_the_stream_of_a_client_that_is_closed_is_no_whole_one(server: Server) -> None:
    with Client(server.address, timeout=WAIT) as client:
        stream = client.count(10**9)
        assert next(stream) == 0
    with pytest.raises(errors.ClosedError):
        deque(stream, 0)
    with pytest.raises(errors.StreamLostError, match="has ended early"):
        next(stream)


def test_a_call_of_a_plain_handler_is_no_stream(client: Client) -> None:
    with pytest.raises(errors.ProtoOpError, match="no generator"):
        next(client.stream("pid"))


def test_a_stream_is_what_it_says(client: Client) -> None:
    stream = client.stream("count", 1)
    assert isinstance(stream, Stream)
    assert repr(stream) == "<Stream of count: not begun>"
    assert next(stream) == 0
    assert repr(stream) == "<Stream of count: at its end>"


def test_without_a_process() -> None:
    with app.client() as client:
        assert list(client.count(2000)) == list(range(2000))
        assert list(client.acount(20)) == list(range(20))

        async def main() -> None:
            assert [item async for item in client.stream("acount", 2000)] == list(range(2000))

        asyncio.run(main())
        with client.count(10**9) as stream:
            assert next(stream) == 0
        assert len(client._runner.streams) == 0


@pytest.fixture
def behind(server: Server) -> Iterator[Client]:
    """Two servers behind a device."""
    with app.serve(ANYWHERE, workers=1, block=False) as other:
        with (
            Rep(raw=True, listen=ANYWHERE) as front,
            Req(raw=True, dial=[server.address, other.address]) as back,
            device(front, back),
            Client(front.listeners[0].address, timeout=WAIT) as client,
        ):
            yield client


def test_a_device_sends_who_asks_for_more_to_the_server_of_the_stream(behind: Client) -> None:
    streams = [behind.count(10_000) for _ in range(4)]
    for expected in range(10_000):
        assert [next(stream) for stream in streams] == [expected] * 4
    for stream in streams:
        assert list(stream) == []


def test_a_cancellation_passes_a_device_with_several_servers(behind: Client, tmp_path: Path) -> None:
    futures = [behind.submit("nap", WAIT, tmp_path) for _ in range(10)]
    assert {behind.pid() for _ in range(20)}  # they are there
    assert all(future.cancel() for future in futures)
    eventually(lambda: noted(tmp_path, "stopped") == 10, WAIT)


def test_a_closed_stream_is_closed_behind_a_device(behind: Client, tmp_path: Path) -> None:
    streams = [behind.call("acount", 10**9, tmp_path) for _ in range(4)]
    for stream in streams:
        stream.close()
    eventually(lambda: noted(tmp_path, "closed") == 4, WAIT)


def test_streams_behind_a_device_are_closed_with_their_client(behind: Client, tmp_path: Path) -> None:
    """Nobody waits for their next parts; and the connection that the servers see is the device's, which stays."""
    streams = [behind.call("acount", 10**9, tmp_path) for _ in range(6)]
    assert [next(stream) for stream in streams] == [0] * 6
    assert list(behind.acount(3, tmp_path)) == [0, 1, 2], "one that is at its end is not open any more"
    assert len(behind._streams) == 6
    streams.pop().close()
    assert len(behind._streams) == 5
    behind.close()
    eventually(lambda: noted(tmp_path, "closed") == 7, WAIT)
    with pytest.raises(errors.ClosedError):
        while True:
            next(streams[0])


@pytest.mark.parametrize("way", ["submit", "call", "acall", "map", "stream"])
def test_a_client_that_is_closed_stops_what_it_waits_for(server: Server, tmp_path: Path, way: str) -> None:
    client = Client(server.address, timeout=WAIT)

    def acall() -> None:
        asyncio.run(client.acall("nap", WAIT, tmp_path))

    waits: dict[str, Callable[[], Any]] = {
        "submit": lambda: client.submit("nap", WAIT, tmp_path).result(),
        "call": lambda: client.nap(WAIT, tmp_path),
        "acall": acall,
        "map": lambda: list(client.map("nap", [WAIT] * 2, [tmp_path] * 2)),
        "stream": lambda: list(client.stream("acount", 5, tmp_path, WAIT)),
    }
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            waits[way]()
        except errors.ClosedError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    begun, stopped = ("counting", "closed") if way == "stream" else ("napping", "stopped")
    many = 2 if way == "map" else 1
    eventually(lambda: noted(tmp_path, begun) == many, WAIT)
    client.close()
    thread.join(WAIT)
    assert len(caught) == 1
    eventually(lambda: noted(tmp_path, stopped) == many, WAIT / 4)


LEAVES = """
import sys
import spworkers as sp

client = sp.Client(sys.argv[1])
future = client.submit("nap", 60.0, sys.argv[2])
print(flush=True)
if sys.argv[3] == "waits":
    future.result()
sys.stdin.readline()
"""


@pytest.mark.parametrize("how", ["waits", "ends"])
def test_the_end_of_a_program_stops_what_it_has_submitted(server: Server, tmp_path: Path, how: str) -> None:
    """By Ctrl-C in `result()`, or as its last line is done."""
    command = [sys.executable, "-c", LEAVES, server.address, str(tmp_path), how]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=ENV) as program:
        assert program.stdout is not None
        program.stdout.readline()
        eventually(lambda: noted(tmp_path, "napping") == 1, WAIT)
        if how == "waits":
            program.send_signal(signal.SIGINT)
        program.communicate(b"\n", timeout=WAIT)
    eventually(lambda: noted(tmp_path, "stopped") == 1, WAIT / 4)


# --- async handlers


def test_many_naps_at_once(client: Client) -> None:
    begun = time.monotonic()
    futures = [client.submit("nap", 0.3) for _ in range(60)]
    assert [future.result(WAIT) for future in futures] == [0.3] * 60
    assert time.monotonic() - begun < 0.3 * 60 / 4


def test_thousands_that_are_cancelled_at_once_are_stopped() -> None:
    count = 6_000
    with (
        app.serve(ANYWHERE, workers=1, block=False, max_async_tasks=2 * count, backlog=count) as server,
        Client(server.address, timeout=WAIT) as client,
        Client(server.address, in_flight=count) as other,
    ):
        (worker,) = {each.pid for each in server.workers}
        for _ in range(count):
            other.submit("idle")
        eventually(lambda: client.idled() == (worker, count, 0), WAIT)
        other.close()
        eventually(lambda: client.idled() == (worker, count, count), WAIT)


def test_plain_handlers_go_on_beside_them(client: Client) -> None:
    naps = [client.submit("nap", WAIT) for _ in range(20)]
    assert client.pid() > 0
    assert not any(each.done() for each in naps)
    for each in naps:
        each.cancel()


def test_one_that_holds_up_its_loop_holds_up_nobody_elses(client: Client, tmp_path: Path) -> None:
    holding = client.submit("holds_up", tmp_path)
    eventually(lambda: noted(tmp_path, "began"), WAIT)
    futures = [client.submit(name) for name in ("pid", "apid") * 20]
    found = {future.result(WAIT) for future in futures}
    (tmp_path / "go").touch()
    assert len(found) == 1
    assert holding.result(WAIT) not in found


def test_its_time_limit_cancels_the_task_alone(client: Client) -> None:
    before = {client.pid() for _ in range(20)}
    naps = [client.submit("nap", 0.5) for _ in range(8)]
    with pytest.raises(errors.TaskTimeoutError, match=r"longer than 0\.1 s"):
        client.forever()
    assert [nap.result(WAIT) for nap in naps] == [0.5] * 8
    assert {client.pid() for _ in range(20)} == before


# --- stopped from afar


@pytest.mark.parametrize("how", ["timeout", "cancel", "task", "gone"])
@pytest.mark.parametrize("name", ["sleep", "nap"])
def test_nobody_waits_so_nothing_runs(server: Server, tmp_path: Path, name: str, how: str) -> None:
    with Client(server.address) as client:
        before = {client.pid() for _ in range(20)}
        begun = time.monotonic()
        if how == "timeout":
            with pytest.raises(errors.RecvTimeoutError):
                client.call(name, WAIT, tmp_path, timeout=0.2)
        elif how == "task":

            async def main() -> None:
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(client.acall(name, WAIT, tmp_path), 0.2)

            asyncio.run(main())
        else:
            future = client.submit(name, WAIT, tmp_path, timeout=0.5 if how == "gone" else None)
            time.sleep(0.1)
            if how == "cancel":
                assert future.cancel()
            else:
                client._req.close(linger=0)  # without a word: its deadline is all that the server has
        eventually(lambda: noted(tmp_path, "stopped"), WAIT)
        assert time.monotonic() - begun < WAIT / 2
    with Client(server.address, timeout=WAIT) as other:
        assert {other.pid() for _ in range(20)} == before  # nobody had to be killed


@pytest.mark.slow
def test_who_does_not_listen_is_killed(tmp_path: Path) -> None:
    with app.serve(ANYWHERE, workers=2, block=False) as server, Client(server.address, timeout=WAIT) as client:
        with pytest.raises(errors.RecvTimeoutError):
            client.call("deaf", tmp_path, timeout=0.3)
        worker = int(next(tmp_path.glob("began-*")).name.split("-")[1])
        eventually(lambda: not psutil.pid_exists(worker), WAIT)
        assert client.pid() != worker


# --- what handlers do to themselves


@pytest.mark.parametrize("how", ["enough", "KeyboardInterrupt"])
def test_a_handler_that_exits_has_raised(client: Client, how: str) -> None:
    before = {client.pid() for _ in range(20)}
    with pytest.raises(errors.RemoteError) as caught:
        client.exits(how)
    assert caught.value.type in ("SystemExit", "KeyboardInterrupt")
    with pytest.raises(errors.RemoteError, match="enough"):
        client.aexits()
    assert {client.pid() for _ in range(20)} == before


@pytest.mark.parametrize("what", ["mine", "generator exit", "cancelled"])
@pytest.mark.parametrize("name", ["ends", "aends", "items_end", "aitems_end"])
def test_whatever_a_handler_raises_is_its_answer(client: Client, name: str, what: str) -> None:
    before = {client.pid() for _ in range(20)}
    other = client.submit("nap", 0.1)
    with pytest.raises(errors.RemoteError) as caught:
        list(client.call(name, what)) if "items" in name else client.call(name, what)
    kinds = {"mine": "Mine", "generator exit": "GeneratorExit", "cancelled": "CancelledError"}
    if name in ("ends", "aends"):
        assert (caught.value.type or "").endswith(kinds[what])
    assert other.result(WAIT) == 0.1
    assert {client.pid() for _ in range(20)} == before


@pytest.mark.parametrize("what", ["mine", "generator exit", "cancelled", "system exit"])
def test_whatever_an_argument_raises_is_the_answer(client: Client, what: str) -> None:
    before = {client.pid() for _ in range(20)}
    with pytest.raises(errors.BadArgumentsError, match="could not be checked"):
        client.call("takes", {"what": what})
    assert {client.pid() for _ in range(20)} == before


@pytest.mark.parametrize("what", ["mine", "generator exit", "cancelled", "system exit", "stop iteration"])
@pytest.mark.parametrize("name", ["item_ends", "aitem_ends"])
def test_an_item_whose_encoding_raises_ends_the_stream_with_that(client: Client, name: str, what: str) -> None:
    before = {client.pid() for _ in range(20)}
    items = []
    with pytest.raises(errors.RemoteError):
        for item in client.call(name, what):
            items.append(item)  # noqa: PERF402 - those before the error count
    assert items == [1]
    assert {client.pid() for _ in range(20)} == before


@pytest.mark.parametrize("how", ["close", "restart"])
def test_an_async_generator_comes_to_its_end_with_its_worker(tmp_path: Path, how: str) -> None:
    with app.serve(ANYWHERE, workers=1, block=False) as server, Client(server.address, timeout=WAIT) as client:
        streams = [client.call("aslow_end", tmp_path) for _ in range(3)]
        for stream in streams:
            next(stream)
        for stream in streams:
            stream.close()
        assert client.apid() > 0
        server.close(WAIT) if how == "close" else server.restart(WAIT)
        assert noted(tmp_path, "ended") == 3


def test_a_plain_request_behind_another_is_not_lost_with_it() -> None:
    """Beside async ones, too: what a worker has not begun it does not take."""
    with app.serve(ANYWHERE, workers=1, block=False) as server, Client(server.address, timeout=WAIT) as client:
        bad = client.submit("dies_after", 0.2)
        others = [client.submit("once") for _ in range(20)]
        assert type(bad.exception(WAIT)) is errors.WorkerDiedError
        assert {future.exception(WAIT) for future in others} == {None}


@pytest.mark.parametrize("name", ["awaits_a_cancelled_task", "cancels_itself"])
def test_a_cancellation_of_its_own_is_its_answer(client: Client, name: str) -> None:
    futures = [client.submit(name) for _ in range(20)]
    assert {type(future.exception(WAIT)) for future in futures} == {errors.RemoteError}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "other"), [("stubborn", "pid"), ("astubborn", "apid"), ("stubborn", "apid")])
def test_a_generator_that_does_not_end_is_killed_with_its_worker(name: str, other: str) -> None:
    with app.serve(ANYWHERE, workers=1, block=False) as server, Client(server.address, timeout=WAIT) as client:
        before = client.pid()
        stream = client.call(name)
        next(stream)
        stream.close()
        eventually(lambda: client.call(other) != before, WAIT / 2)


@pytest.mark.parametrize("how", ["stop", "close"])
def test_who_ends_the_event_loop_ends_the_worker(how: str) -> None:
    with app.serve(ANYWHERE, workers=1, block=False) as server, Client(server.address, timeout=WAIT) as client:
        with pytest.raises(errors.WorkerDiedError):
            client.ends_the_loop(how)
        assert client.apid() == client.pid()


def test_a_child_that_comes_back_from_a_handler_ends(client: Client) -> None:
    assert client.forks() == 70
    assert client.pid() > 0


def test_threads_and_tasks_at_once(client: Client) -> None:
    def run() -> None:
        for _ in range(20):
            assert sum(client.count(100)) == 4950

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
        assert not thread.is_alive()


# --- who closes a stream, and who waits for it


def wait_in(take: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """A thread that takes, and what it has found."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(take())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


@app.handler
def dawdles(folder: Path) -> Iterator[int]:
    note(folder, "began")
    try:
        time.sleep(WAIT)
        yield 1
    finally:
        note(folder, "closed")


@app.handler
async def adawdles(folder: Path) -> AsyncIterator[int]:
    note(folder, "began")
    try:
        await asyncio.sleep(WAIT)
        yield 1
    finally:
        note(folder, "closed")


@pytest.mark.parametrize("name", ["dawdles", "adawdles"])
def test_closing_a_stream_wakes_the_thread_that_waits_for_it(client: Client, tmp_path: Path, name: str) -> None:
    stream = client.stream(name, tmp_path)
    thread, found = wait_in(lambda: next(stream))
    eventually(lambda: noted(tmp_path, "began"), WAIT)
    stream.close()
    thread.join(WAIT)
    assert not thread.is_alive()
    assert isinstance(found[0], errors.ClosedError)
    assert "was closed while its next part was awaited" in str(found[0])
    eventually(lambda: noted(tmp_path, "closed"), WAIT)
    assert list(stream) == []


@pytest.mark.parametrize("name", ["dawdles", "adawdles"])
def test_closing_a_stream_wakes_the_task_that_waits_for_it(client: Client, tmp_path: Path, name: str) -> None:
    async def main() -> None:
        stream = client.stream(name, tmp_path)
        task = asyncio.ensure_future(anext(stream))
        await aeventually(lambda: noted(tmp_path, "began"), WAIT)
        await stream.aclose()
        with pytest.raises(errors.ClosedError, match="was closed while its next part was awaited"):
            await asyncio.wait_for(task, WAIT)

    asyncio.run(main())
    eventually(lambda: noted(tmp_path, "closed"), WAIT)


@pytest.mark.parametrize("how", ["time", "task"])
def test_a_stream_whose_wait_was_given_up_is_never_taken_for_a_whole_one(
    client: Client, tmp_path: Path, how: str
) -> None:
    async def main() -> None:
        stream = client.stream("adawdles", tmp_path, timeout=0.2 if how == "time" else WAIT)
        with pytest.raises(errors.RecvTimeoutError if how == "time" else asyncio.TimeoutError):
            await asyncio.wait_for(anext(stream), WAIT if how == "time" else 0.2)
        for _ in range(2):
            with pytest.raises(errors.StreamLostError, match=r"adawdles\(\): the stream has ended early") as caught:
                await anext(stream)
            assert ("RecvTimeoutError" if how == "time" else "CancelledError") in str(caught.value)
            with pytest.raises(errors.StreamLostError):
                next(stream)
        await stream.aclose()
        assert list(stream) == []  # as he wanted it

    asyncio.run(main())
    eventually(lambda: noted(tmp_path, "closed"), WAIT)


@pytest.mark.parametrize("name", ["count", "acount"])
def test_a_stream_that_was_given_up_while_it_waited_for_a_place_is_closed(
    server: Server, tmp_path: Path, name: str
) -> None:
    with Client(server.address, timeout=WAIT, in_flight=1) as client:
        stream = client.stream(name, 10**9, timeout=0.1)
        assert next(stream) == 0
        other = client.submit("nap", WAIT)
        with pytest.raises(errors.RecvTimeoutError, match="1 calls were in flight"):
            deque(stream, 0)
        eventually(lambda: server.stats()["streams"] == 0, WAIT)
        assert other.cancel()


def test_more_streams_than_places_that_are_cancelled_at_once_are_closed(server: Server) -> None:
    async def read(client: Client) -> None:
        async for _ in client.stream("acount", 10**9):
            pass

    async def main() -> None:
        with Client(server.address, timeout=WAIT, in_flight=4) as client:
            tasks = [asyncio.create_task(read(client)) for _ in range(20)]
            await aeventually(lambda: server.stats()["streams"] == 20, WAIT)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await aeventually(lambda: server.stats()["streams"] == 0, WAIT)

    asyncio.run(main())


def test_without_a_process_a_stream_that_is_given_up_is_closed_in_its_loop(tmp_path: Path) -> None:
    with app.client() as client:

        async def main() -> None:
            stream = client.stream("adawdles", tmp_path)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(stream), 0.2)
            other = client.stream("acount", 10**9, tmp_path)
            assert await anext(other) == 0
            await other.aclose()
            await aeventually(lambda: noted(tmp_path, "closed") == 2, WAIT)
            left = client.stream("acount", 10**9, tmp_path)
            assert await anext(left) == 0
            lefts.append(left)

        lefts: list[Stream[int]] = []
        asyncio.run(main())
        lefts[0].close()  # with its loop its generator has ended
        assert noted(tmp_path, "closed") == 3


def test_only_one_may_wait_for_the_next_part(client: Client, tmp_path: Path) -> None:
    stream = client.stream("adawdles", tmp_path)
    thread, _ = wait_in(lambda: next(stream))
    eventually(lambda: noted(tmp_path, "began"), WAIT)
    with pytest.raises(errors.ProtoStateError, match="one may at a time"):
        next(stream)
    stream.close()
    thread.join(WAIT)
    assert not thread.is_alive()


@pytest.mark.parametrize("name", ["count", "acount"])
@pytest.mark.parametrize("how", ["close", "cancel", "task"])
def test_a_stream_that_is_given_up_is_closed(client: Client, server: Server, name: str, how: str) -> None:
    """At whatever moment: while its first part is made or on its way, or the next one is asked for."""

    async def read() -> None:
        async for _ in client.stream(name, 10**9):
            pass

    async def tasks() -> None:
        for number in range(60):
            task = asyncio.ensure_future(read())
            await asyncio.sleep(PART_TIME - 0.001 + number % 20 * 0.0002)
            task.cancel()
            await asyncio.wait([task])

    if how == "task":
        asyncio.run(tasks())
    for number in range(0 if how == "task" else 60):
        moment = PART_TIME - 0.001 + number % 20 * 0.0002  # just about when the first part comes
        if how == "cancel":
            future = client.submit(name, 10**9)
            time.sleep(moment)
            if not future.cancel():
                future.result(WAIT).close()
        else:
            stream = client.stream(name, 10**9)
            thread, _ = wait_in(lambda stream=stream: deque(stream, 0))  # type: ignore[misc]
            time.sleep(moment)
            stream.close()
            thread.join(WAIT)
    eventually(lambda: server.stats()["streams"] == 0, WAIT)


def test_a_cancellation_is_one_also_where_warnings_are_errors(tmp_path: Path) -> None:
    """What compiled code does to a user's coroutine is nothing to warn of."""
    script = tmp_path / "program.py"
    script.write_text(
        f"""if True:
        import asyncio, pathlib
        import spworkers as sp

        app = sp.App("strict")
        here = pathlib.Path({str(tmp_path)!r})

        @app.handler
        async def waits():
            (here / "began").touch()
            try:
                await asyncio.Event().wait()
            except BaseException as error:
                (here / "ended").write_text(type(error).__name__)
                raise

        @app.handler
        async def streams():
            (here / "began").touch()
            try:
                await asyncio.Event().wait()
                yield 1
            except BaseException as error:
                (here / "ended").write_text(type(error).__name__)
                raise

        def main():
            from spworkers.testing.waiting import eventually
            with app.serve("tcp://127.0.0.1:0", workers=1, block=False) as server, sp.Client(server.address) as client:
                for name in ("waits", "streams"):
                    future = client.submit(name)
                    eventually((here / "began").exists, {WAIT})
                    future.cancel()
                    eventually(lambda: (here / "ended").exists() and (here / "ended").read_text(), {WAIT})
                    print((here / "ended").read_text())
                    (here / "began").unlink()
                    (here / "ended").unlink()

        if __name__ == "__main__":
            main()
        """
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**ENV, "PYTHONWARNINGS": "error::DeprecationWarning"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stdout.split() == ["CancelledError"] * 2, done.stderr
    assert "Deprecat" not in done.stderr


def test_a_stream_is_lost_with_its_server_behind_a_device(server: Server, tmp_path: Path) -> None:
    """Though the connection to the device lives, and the reader waits."""
    other = app.serve(ANYWHERE, workers=1, block=False)
    with (
        Rep(raw=True, listen=ANYWHERE) as front,
        Req(raw=True, dial=[other.address]) as back,
        device(front, back),
        Client(front.listeners[0].address, timeout=WAIT) as client,
    ):
        stream = client.call("acount", 10**9, None, 0.05)
        next(stream)
        back.dial(server.address)
        thread, found = wait_in(lambda: list(stream))
        other.close(0)
        thread.join(WAIT)
        assert not thread.is_alive()
        assert isinstance(found[0], errors.StreamLostError)
