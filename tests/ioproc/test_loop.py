"""The I/O process's loop: hot descriptors are served at once, and nothing else of the loop waits for them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from spworkers.errors import InternalError
from spworkers.ioproc.loop import Watch, new_loop, watch_of
from spworkers.ring import BROKEN, HANGUP, POLLER, READABLE, WRITABLE, Region, make_bell

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


@pytest.fixture(params=["tcp", "ipc"])
def connection(request: pytest.FixtureRequest) -> Iterator[Ends]:
    if request.param == "ipc":
        one, other = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            other = socket.create_connection(server.getsockname())
            one, _ = server.accept()
    with one, other:
        yield one, other


@pytest.mark.parametrize("how", ["it ends its side", "it closes", "it resets"])
def test_the_end_is_told_to_who_reads_nothing(stage: Stage, connection: Ends, how: str) -> None:
    one, other = connection
    stage.watch.watch(one.fileno(), HANGUP, stage.tell, "one")
    other.send(b"unread")
    stage.loop.run_until_complete(asyncio.sleep(0.01))
    assert stage.told == []
    if how == "it ends its side":
        other.shutdown(socket.SHUT_WR)
    else:
        if how == "it resets":
            one.send(b"what the other end will not have read")
        other.close()
    stage.run(lambda: stage.told)
    assert stage.told[0][0] == "one"
    assert stage.told[0][1] & HANGUP
    stage.watch.watch(one.fileno(), 0, stage.tell, None)
    assert one.recv(100) == b"unread"


def test_who_is_watched_no_more_is_told_nothing(stage: Stage, connection: Ends) -> None:
    """Both end at once, and with the first one the other is given up."""
    one, other = connection
    third, fourth = socket.socketpair()
    with third, fourth:

        def give_up(about: Any, events: int) -> None:
            stage.tell(about, events)
            for each in (one, third):
                stage.watch.watch(each.fileno(), 0, give_up, None)

        for each in (one, third):
            stage.watch.watch(each.fileno(), HANGUP, give_up, each)
        other.close()
        fourth.close()
        stage.run(lambda: stage.told)
        one.setblocking(False)
        stage.told.clear()
        stage.watch.watch(one.fileno(), HANGUP, give_up, one)  # it goes on looking
        stage.run(lambda: stage.told)
        assert [about for about, _ in stage.told] == [one]


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


class Board:
    """A board with its bell; what rang on it is told."""

    def __init__(self) -> None:
        self.region = Region.create(1 << 16)
        self.bell = make_bell()
        self.looks = 0
        self.heard: list[int] = []

    def look(self) -> None:
        self.looks += 1
        self.heard += self.region.collect()

    def ring(self, index: int) -> None:
        self.region.ring(index, self.bell)


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board()
    yield made
    os.close(made.bell)


def test_what_rings_on_the_board_is_heard(stage: Stage, board: Board) -> None:
    board.ring(7)  # before anybody attends
    stage.watch.attend(board.region, board.bell, board.look)
    stage.run(lambda: board.heard == [7])
    for index in (1, 2, 3):
        board.ring(index)
        stage.run(lambda wanted=index: board.heard[-1] == wanted)
    asked = threading.Timer(0.02, board.ring, (4,))  # while the loop sleeps
    asked.start()
    stage.run(lambda: board.heard == [7, 1, 2, 3, 4])
    asked.join()


def test_it_looks_only_when_somebody_rang(stage: Stage, board: Board) -> None:
    stage.watch.attend(board.region, board.bell, board.look)
    stage.loop.run_until_complete(asyncio.sleep(0.01))
    before = board.looks
    board.ring(1)
    stage.run(lambda: board.heard)
    stage.loop.run_until_complete(asyncio.sleep(0.01))
    assert board.looks <= before + 2  # one for the ring, one for a bell that came too late


def test_a_board_that_is_never_silent_keeps_nobody_from_his_turn(stage: Stage, board: Board, ends: Ends) -> None:
    """Neither a pipe, nor a reader of the loop, nor a timer."""
    one, other = ends
    cold_in, cold_out = os.pipe()
    seen: set[str] = set()

    def look() -> None:
        board.look()
        board.ring(1)

    def read(_about: Any, _events: int) -> None:
        one.recv(100)
        seen.add("pipe")

    def cold() -> None:
        os.read(cold_in, 100)
        seen.add("reader")

    stage.watch.watch(one.fileno(), READABLE, read, None)
    stage.loop.add_reader(cold_in, cold)
    stage.watch.attend(board.region, board.bell, look)
    stage.loop.call_later(0.01, other.send, b"x")
    stage.loop.call_later(0.01, os.write, cold_out, b"x")
    stage.loop.call_later(0.02, seen.add, "timer")
    done = stage.loop.create_future()
    stage.loop.call_later(0.03, done.set_result, None)
    stage.loop.run_until_complete(done)
    assert seen == {"pipe", "reader", "timer"}
    stage.watch.watch(one.fileno(), 0, read, None)
    stage.loop.remove_reader(cold_in)
    os.close(cold_in)
    os.close(cold_out)


WATCHING = """
import os, sys, threading, time
from spworkers.ring import READABLE, Poller, Region, make_bell
import select

epoll = select.epoll()
poller = Poller(epoll.fileno(), print)
region, bell = Region.create(1 << 16), make_bell()
poller.attend(region, bell, region.collect, EXCHANGE)
"""

ASKING = """
asked, ask = os.pipe()
reader, writer = os.pipe()
done = []

def read(about, events):
    done.append(os.read(reader, 100))
    poller.stirred = True

def ask_once():
    region.ring(1, bell)
    os.write(ask, b"?")
    while not done:
        poller.poll(1.0)
    done.clear()

poller.watch(reader, READABLE, read, None)
"""


def watching(program: str, *, exchange: str = "") -> list[int]:
    """What a process that has one thread says: a process with several never watches."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHING.replace("EXCHANGE", repr(exchange)) + program],
        capture_output=True,
        text=True,
        timeout=BOUND,
    )
    assert done.stderr == ""
    return [int(word) for word in done.stdout.split()]


exchanges = pytest.mark.parametrize("exchange", ["asks", "answers"])
two_processors = pytest.mark.skipif(not POLLER or len(os.sched_getaffinity(0)) < 2, reason="it watches with two")


@two_processors
def test_it_watches_less_and_less_while_nothing_comes_of_it() -> None:
    sleeps, watches, seen = watching("""
for _ in range(1000):
    region.ring(1, bell)
    poller.poll(0.00001)
print(poller.sleeps, poller.watches, poller.seen)
""")
    assert (sleeps, seen) == (1000, 0)
    assert 6 <= watches < 40  # 6 and each 64th, or each 64th at once where it was held up


@two_processors
def test_it_watches_again_when_something_came_of_it() -> None:
    _, watches, seen = watching("""
reader, writer = os.pipe()
poller.watch(reader, READABLE, lambda about, events: os.read(reader, 100), None)
for _ in range(200):
    os.write(writer, b"x")
    region.ring(1, bell)
    poller.poll(0.00001)  # hears, then watches, and has the pipe at once; then once more in vain, at most
print(poller.sleeps, poller.watches, poller.seen)
""")
    assert watches >= seen >= 200


@two_processors
def test_it_watches_only_after_something_was_served_and_with_one_thread() -> None:
    assert watching("""
for _ in range(100):
    poller.poll(0.00001)
print(poller.watches)
ended = threading.Event()
thread = threading.Thread(target=ended.wait)
thread.start()
for _ in range(100):
    region.ring(1, bell)
    poller.poll(0.00001)
ended.set()
thread.join()
print(poller.watches)
""") == [0, 0]


@two_processors
@exchanges
def test_a_patient_one_is_awake_when_an_answer_comes(exchange: str) -> None:
    watches, seen = watching(
        ASKING
        + """
if not os.fork():
    os.close(ask)
    while os.read(asked, 1):
        os.write(writer, b"x")
    os._exit(0)
while poller.seen < 20:
    ask_once()
print(poller.watches, poller.seen)
""",
        exchange=exchange,
    )
    assert watches >= seen == 20


@two_processors
@exchanges
def test_a_patient_one_sleeps_in_the_end(exchange: str) -> None:
    sleeps, watches, seen = watching(
        """
for _ in range(300):
    region.ring(1, bell)
    poller.poll(0.00001)
print(poller.sleeps, poller.watches, poller.seen)
""",
        exchange=exchange,
    )
    assert (sleeps, seen) == (300, 0)
    assert 1 <= watches < 20


BUSY = """
from spworkers.lookaround import running
def busy():
    return int(running() > 2)  # beside us: then nothing can be said of who waits for whom
"""

BEHAVING = """
from spworkers.ring import BESIDE, DEFERRING
here = max(os.sched_getaffinity(0))
told, manner = [], [BESIDE]

def conduct(processor, idle):
    told.append(-1 if idle else processor)
    if manner[0] is None:
        raise ValueError("no manners")
    return 0 if idle else manner[0]

def ring():
    os.sched_setaffinity(0, {here})  # this thread's
    while region.rung_from < 0:
        region.ring(1, bell)
        time.sleep(0.001)

def sleep(times):
    for _ in range(times):
        poller.poll(0.00001)

poller.behave(conduct)
thread = threading.Thread(target=ring)
thread.start()
while region.rung_from < 0:
    poller.poll(0.01)
thread.join()
told.clear()
sleep(64)
"""


@hot_only
def test_conduct_hears_where_the_user_is_and_when_that_is_long_ago() -> None:
    first, same, soon, late, again = watching(
        BEHAVING
        + """
print(int(told == [here]), int(region.rung_from == here))
poller.poll(0.04)
print(len(told))
poller.poll(0.2)
print(int(told[1:] == [here, -1]))
poller.poll(0.2)
print(len(told))
""",
        exchange="asks",
    )
    assert (first, same, soon, late, again) == (1, 1, 1, 1, 3)


@hot_only
def test_who_is_as_ever_has_nothing_to_forget_and_conduct_that_fails_is_let_go() -> None:
    quiet, failed, after = watching(
        BEHAVING
        + """
poller.poll(0.2)
manner[0] = 0
told.clear()
sleep(64)
poller.poll(0.2)
print(int(told == [here]))
manner[0] = None
sys.stdout, out = open(os.devnull, "w"), sys.stdout
sleep(64)
count = len(told)
sleep(200)
sys.stdout = out
print(count, len(told))
""",
        exchange="asks",
    )
    assert (quiet, failed, after) == (1, 2, 2)


@hot_only
def test_while_it_is_in_some_manner_conduct_is_asked_again_after_some_time() -> None:
    soon, later, at_once = watching(
        BEHAVING
        + """
manner[0] = DEFERRING
sleep(64)
told.clear()
begin = time.monotonic()
while time.monotonic() < begin + 0.02:
    sleep(1)
soon = len(told) if time.monotonic() < begin + 0.024 else 0  # else the machine is too slow to tell
while len(told) < 3:
    sleep(1)
print(soon, int(time.monotonic() - begin > 0.049), int(told == [here] * 3))
""",
        exchange="answers",
    )
    assert soon <= 1
    assert (later, at_once) == (1, 1)


@two_processors
def test_in_a_crowd_nobody_watches_while_nobody_else_runs() -> None:
    """Such a watch is over at once, so nothing is learned of it."""
    sleeps, watches, busy = watching(
        BUSY
        + BEHAVING
        + """
def ask_for_nothing(times):
    before = poller.sleeps, poller.watches
    for _ in range(times):
        region.ring(1, bell)
        poller.poll(0.00001)
    return poller.sleeps - before[0], poller.watches - before[1]

manner[0] = DEFERRING
poller.poll(0.2)
ask_for_nothing(600)  # at first it may have learned not to
before = busy()
print(*ask_for_nothing(300), before or busy())
""",
        exchange="answers",
    )
    assert sleeps == 300
    assert busy or watches >= 100


@two_processors
def test_beside_the_user_nobody_watches() -> None:
    beside, away = watching(
        BEHAVING
        + """
def watches():
    before = poller.watches
    for _ in range(200):
        region.ring(1, bell)
        poller.poll(0.00001)
    return poller.watches - before

print(watches())
poller.poll(0.2)
print(watches())
""",
        exchange="asks",
    )
    assert beside == 0
    assert away > 0


SHARING = (
    ASKING
    + """
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
if not os.fork():
    os.close(ask)
    while os.read(asked, 1):
        for turn in range(2):
            until = time.monotonic() + TURN
            while time.monotonic() < until:
                pass
            if not turn:
                os.sched_yield()
        os.write(writer, b"x")
        os.sched_yield()
    os._exit(0)
"""
)
"""One processor with one who answers in his second turn: who watches for that sees it."""


@two_processors
def test_who_asks_sleeps_when_others_have_run_for_some_time() -> None:
    rounds, sleeps = watching(
        SHARING.replace("TURN", "100e-6")
        + """
rounds = 0
while poller.sleeps < 20 and rounds < 60:
    rounds += 1
    ask_once()
print(rounds, poller.sleeps)
""",
        exchange="asks",
    )
    assert sleeps >= 20
    assert rounds < 60


@two_processors
def test_who_asks_goes_on_while_others_run_for_a_moment() -> None:
    seen, busy = watching(
        BUSY
        + SHARING.replace("TURN", "5e-6")
        + """
others, until = busy(), time.monotonic() + 5.0
while poller.seen < 20 and time.monotonic() < until:
    ask_once()
    others = others or busy()
print(poller.seen, others)
""",
        exchange="asks",
    )
    assert busy or seen >= 20


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
