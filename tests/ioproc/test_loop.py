"""The I/O process's loop: hot descriptors are served at once, and nothing else of the loop waits for them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from spworkers.errors import InternalError
from spworkers.ioproc.loop import Watch, new_loop, watch_of
from spworkers.ring import BROKEN, POLLER, READABLE, WRITABLE, hush_bell, make_bell, ring_bell

BOUND = 20.0

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"own": new_loop, "asyncio": asyncio.new_event_loop}
try:
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop
except ImportError:
    pass

hot_only = pytest.mark.skipif(not POLLER, reason="this system has no epoll")


class Stage:
    """A loop, its watch, and what was told."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.watch: Watch = watch_of(loop)
        self.told: list[tuple[Any, int]] = []

    def tell(self, about: Any, events: int) -> None:
        self.told.append((about, events))

    def run(self, condition: Callable[[], Any]) -> None:
        """Let the loop run until a condition holds that a handler has brought about."""

        async def until() -> None:
            while not condition():  # noqa: ASYNC110 - it is the handlers who are to be seen at work
                await asyncio.sleep(0)

        self.loop.run_until_complete(asyncio.wait_for(until(), BOUND))


@pytest.fixture(params=LOOPS)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    loop = LOOPS[request.param]()
    yield Stage(loop)
    loop.close()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        yield one, other


Ends = tuple[socket.socket, socket.socket]


def test_tells_what_is_readable(stage: Stage, ends: Ends) -> None:
    one, other = ends

    def read(about: Any, events: int) -> None:
        stage.tell(about, events)
        one.recv(100)

    stage.watch.watch(one.fileno(), READABLE, read, "one")
    other.send(b"x")
    stage.run(lambda: stage.told)
    assert stage.told[0][0] == "one"
    assert stage.told[0][1] & READABLE
    stage.watch.watch(one.fileno(), 0, read, None)


def test_tells_what_is_writable_until_nobody_asks_any_more(stage: Stage, ends: Ends) -> None:
    one, _ = ends

    def write(about: Any, events: int) -> None:
        stage.tell(about, events)
        stage.watch.watch(one.fileno(), 0, write, None)

    stage.watch.watch(one.fileno(), WRITABLE, write, 7)
    stage.run(lambda: stage.told)
    stage.loop.run_until_complete(asyncio.sleep(0.01))
    assert stage.told == [(7, WRITABLE)]


def test_what_it_waits_for_can_change(stage: Stage, ends: Ends) -> None:
    one, other = ends
    stage.watch.watch(one.fileno(), READABLE, stage.tell, 1)
    stage.watch.watch(one.fileno(), READABLE | WRITABLE, stage.tell, 2)
    stage.run(lambda: any(events & WRITABLE for _, events in stage.told))
    stage.watch.watch(one.fileno(), READABLE, stage.tell, 3)
    stage.told.clear()
    stage.loop.run_until_complete(asyncio.sleep(0.01))
    assert stage.told == []
    other.send(b"x")
    stage.run(lambda: stage.told)
    assert stage.told[0][1] & READABLE
    stage.watch.watch(one.fileno(), 0, stage.tell, None)


def test_a_reset_is_told_as_broken_or_by_reading_to_the_end(stage: Stage) -> None:
    """What came before the reset can be read, then the error comes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    found: list[bytes | int] = []

    def read(_about: Any, events: int) -> None:
        stage.tell(None, events)
        while not found or isinstance(found[-1], bytes):
            try:
                found.append(ours.recv(100))
            except BlockingIOError:
                return
            except OSError as error:
                found.append(error.errno or 0)
            if not events & BROKEN:
                return

    with ours:
        ours.setblocking(False)
        stage.watch.watch(ours.fileno(), READABLE, read, None)
        peer.send(b"last words")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        stage.run(lambda: found and not isinstance(found[-1], bytes))
        stage.watch.watch(ours.fileno(), 0, read, None)


def test_a_bell_is_told_once_for_a_ring(stage: Stage) -> None:
    bell = make_bell()

    def heard(about: Any, events: int) -> None:
        stage.tell(about, events)
        if not stage.watch.edges:
            hush_bell(bell)

    stage.watch.watch(bell, READABLE, heard, None, True)
    for count in (1, 2, 3):
        ring_bell(bell)
        stage.run(lambda wanted=count: len(stage.told) >= wanted)
        stage.loop.run_until_complete(asyncio.sleep(0.005))
        assert len(stage.told) == count
    stage.watch.watch(bell, 0, heard, None)
    os.close(bell)


def test_a_bell_that_rang_before_is_told(stage: Stage) -> None:
    bell = make_bell()
    ring_bell(bell)
    stage.watch.watch(bell, READABLE, lambda about, events: (stage.tell(about, events), hush_bell(bell)), None, True)
    stage.run(lambda: stage.told)
    stage.watch.watch(bell, 0, stage.tell, None)
    os.close(bell)


def test_a_timer_is_not_held_up_by_traffic(stage: Stage, ends: Ends) -> None:
    """A descriptor that is always ready, and a timer that a handler itself sets."""
    one, _ = ends
    due: list[float] = []

    def busy(about: Any, events: int) -> None:
        stage.tell(about, events)
        if len(stage.told) == 5:
            stage.loop.call_later(0.02, lambda: due.append(time.monotonic()))

    stage.watch.watch(one.fileno(), WRITABLE, busy, None)
    stage.run(lambda: due)
    stage.watch.watch(one.fileno(), 0, busy, None)
    assert len(stage.told) > 5


def test_what_a_handler_leaves_for_the_loop_is_done_at_once(stage: Stage, ends: Ends) -> None:
    one, other = ends
    done = asyncio.Event()

    def read(_about: Any, _events: int) -> None:
        one.recv(100)
        stage.loop.call_soon(done.set)

    stage.watch.watch(one.fileno(), READABLE, read, None)
    stage.loop.call_soon(other.send, b"x")
    stage.loop.run_until_complete(asyncio.wait_for(done.wait(), BOUND))
    stage.watch.watch(one.fileno(), 0, read, None)


def test_other_readers_of_the_loop_are_served_beside_it(stage: Stage, ends: Ends) -> None:
    one, _ = ends
    cold_in, cold_out = os.pipe()
    got: list[bytes] = []
    stage.loop.add_reader(cold_in, lambda: got.append(os.read(cold_in, 100)))
    stage.watch.watch(one.fileno(), WRITABLE, stage.tell, None)  # ready all the time
    stage.loop.call_soon(os.write, cold_out, b"cold")
    stage.run(lambda: got)
    assert got == [b"cold"]
    assert stage.told
    stage.watch.watch(one.fileno(), 0, stage.tell, None)
    stage.loop.remove_reader(cold_in)
    os.close(cold_in)
    os.close(cold_out)


def test_another_thread_wakes_it(stage: Stage, ends: Ends) -> None:
    one, _ = ends
    stage.watch.watch(one.fileno(), READABLE, stage.tell, None)
    done = asyncio.Event()
    timer = threading.Timer(0.02, lambda: stage.loop.call_soon_threadsafe(done.set))
    timer.start()
    stage.loop.run_until_complete(asyncio.wait_for(done.wait(), BOUND))
    timer.join()
    stage.watch.watch(one.fileno(), 0, stage.tell, None)


def test_an_error_of_a_handler_goes_to_the_loops_handler_and_stops_nobody(stage: Stage, ends: Ends) -> None:
    one, other = ends
    failures: list[dict[str, Any]] = []
    stage.loop.set_exception_handler(lambda _loop, context: failures.append(context))

    def fail(_about: Any, _events: int) -> None:
        stage.watch.watch(one.fileno(), 0, fail, None)
        raise ZeroDivisionError("on purpose")

    stage.watch.watch(one.fileno(), READABLE, fail, None)
    other.send(b"x")
    stage.run(lambda: failures)
    assert isinstance(failures[0]["exception"], ZeroDivisionError)


@hot_only
def test_a_handler_may_forget_another_that_is_ready_too(ends: Ends) -> None:
    loop = new_loop()
    watch = watch_of(loop)
    one, other = ends
    told: list[int] = []

    def first(about: Any, _events: int) -> None:
        told.append(about)
        for end in ends:
            watch.watch(end.fileno(), 0, first, None)

    for number, end in enumerate(ends):
        watch.watch(end.fileno(), READABLE, first, number)
    one.send(b"x")
    other.send(b"x")
    loop.run_until_complete(asyncio.sleep(0.01))
    assert len(told) == 1
    loop.close()


@hot_only
def test_a_signal_ends_the_wait() -> None:
    from spworkers.ring import Poller

    loop = new_loop()
    poller: Any = watch_of(loop)
    assert isinstance(poller, Poller)
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.05, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    deadline = time.monotonic() + BOUND
    with pytest.raises(KeyboardInterrupt):
        while time.monotonic() < deadline:  # any other signal ends it too, without an error
            assert poller.poll(BOUND) == []
    assert time.monotonic() < deadline
    timer.join()
    loop.close()


@hot_only
def test_bad_descriptors_are_refused() -> None:
    loop = new_loop()
    watch = watch_of(loop)
    with pytest.raises(InternalError, match="no descriptor -1"):
        watch.watch(-1, READABLE, print, None)
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    with pytest.raises(OSError, match="Bad file descriptor"):
        watch.watch(read, READABLE, print, None)
    watch.watch(read, 0, print, None)  # nobody watches it: nothing happens
    loop.close()
