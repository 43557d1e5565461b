"""Two processes and a lane between them: every byte checked, both sides waiting on bells, and kills at any instant."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from helpers import soak, soaking

from ring import traffic
from ring.support import RECV, SEND
from ring.traffic import PATIENCE, Place, Putter, Taker, consume, make_bodies, number_of, produce, stream_bodies
from spworkers.ring import Record, Region, Sender, make_bell

BUDGET = 1 << 20
SIZES = [192, 193, 4096, 20_000, 65536, BUDGET // 2, BUDGET + 1]


@pytest.fixture(params=[SEND, RECV], ids=["send", "recv"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with opened(int(request.param), window=128) as place:
        yield place


@contextlib.contextmanager
def opened(which: int, window: int) -> Iterator[Place]:
    region = Region.create(BUDGET)
    bells = make_bell(), make_bell()
    place = Place(which, region.fd, *bells)
    Putter(place).end.window = window
    yield place
    for bell in bells:
        os.close(bell)


# ---- millions of messages


@pytest.mark.parametrize("role", ["produce", "consume"])
def test_every_byte_of_a_stream_arrives(place: Place, role: str) -> None:
    """This process at one end, a child at the other."""
    count = 500_000
    fds = (place.region, place.bell, place.io_bell)
    command = [sys.executable, traffic.__file__, role, str(place.which), *map(str, fds), str(count), *map(str, SIZES)]
    bodies = stream_bodies(SIZES)
    child = subprocess.Popen(command, pass_fds=fds, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        if role == "produce":
            assert consume(place, bodies) == count
        else:
            produce(place, count, bodies)
        assert child.wait(PATIENCE) == 0
    finally:
        child.kill()
        child.wait()
    putter = Putter(place).end
    assert (putter.queued, putter.bytes) == (0, 0)


# ---- kills


def shared_words() -> memoryview:
    """A few words that outlive a child. (`struct` would not do: it clears a word before it writes it.)"""
    return memoryview(mmap.mmap(-1, 4096)).cast("q")


class Victim:
    """A forked child that acts until it is killed. If it ends before, it has found something wrong."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.pid = os.fork()
        if not self.pid:
            try:
                act()
            except BaseException as error:
                sys.__stderr__.write(f"the child found: {error!r}\n")
                sys.__stderr__.flush()
            finally:
                os._exit(3)

    def __enter__(self) -> Victim:
        return self

    def __exit__(self, *exc: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        assert os.WIFSIGNALED(status), "the child ended by itself; what it found stands above"

    def check(self) -> None:
        """Fail if it has ended."""
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        assert ended is None, "the child ended by itself; what it found stands above"


def spin(chance: random.Random) -> None:
    """Up to about a hundred microseconds."""
    for _ in range(chance.randrange(3000)):
        pass


def window_and_budget_are_whole(place: Place, putter: Sender, taker: Taker) -> None:
    """All of the window, then all of the budget in one piece, then neither any more."""
    put = putter.publish if place.which == SEND else lambda body: putter.offer(b"", body, 0, 0, 0)  # type: ignore[attr-defined]
    assert (putter.queued, putter.bytes) == (0, 0)
    for _ in range(putter.window):
        assert put(b"x")
    assert not put(b"too many")
    for _ in range(putter.window):
        record = taker.try_take()
        assert record is not None and record.take_body() == b"x"
    assert put(bytes(BUDGET)) and not put(bytes(1000))
    record = taker.try_take()
    assert record is not None and record.take_body() == bytes(BUDGET)
    assert taker.try_take() is None and putter.queued == putter.bytes == 0


def kill_producers(place: Place, kills: int, seed: int) -> None:
    """What a producer says to have published arrives, whole and in order; at most one message more."""
    chance, shared = random.Random(seed), shared_words()
    bodies = make_bodies(1021, SIZES, seed)
    taker = Taker(place)
    expected = 0

    def produce_for_ever() -> None:
        put, number = Putter(place).put, expected
        while True:
            put(number, bodies[number % len(bodies)])
            shared[0] = number = number + 1

    def check(record: Record) -> None:
        nonlocal expected
        assert number_of(record) == expected
        assert record.take_body() == bodies[expected % len(bodies)], f"message {expected} is torn"
        expected += 1

    for turn in range(kills):
        with Victim(produce_for_ever):
            for _ in range(chance.choice([0, 1, 10, 100, 500])):
                check(taker.take())
            spin(chance)
        while (record := taker.try_take()) is not None:
            check(record)
        assert expected - shared[0] in (0, 1), "a message that was published is lost"
        shared[0] = expected
        if turn % 10 == 9:
            window_and_budget_are_whole(place, Putter(place).end, taker)


def kill_consumers(place: Place, kills: int, seed: int) -> None:
    """A successor gets what its predecessor had not given back, in order, and then all the rest."""
    chance, shared = random.Random(seed), shared_words()
    bodies = make_bodies(1021, SIZES, seed)
    putter = Putter(place)
    most = 5  # that a consumer holds

    def consume_for_ever() -> None:
        taker, holding = Taker(place), random.Random(turn)
        held: list[object] = []
        assert taker.inherited <= most
        expected = shared[0]
        before = -1
        for at in range(1 << 62):
            record = taker.take()
            number = number_of(record)
            if at < taker.inherited:  # its predecessor may have seen this one, and died before it gave it back
                assert before < number <= expected, f"inherited {number} after {before}, {expected} comes next"
            else:
                assert number == expected, f"message {number} instead of {expected}"
            assert record.body() == bodies[number % len(bodies)], f"message {number} is torn"
            before = number
            if number == expected:
                shared[0] = expected = expected + 1
            if record.size <= 20_000:  # larger ones could fill the budget, and the producer wait for us for ever
                held.append(record.view() if holding.random() < 0.2 else record)
            del record
            while len(held) >= holding.randrange(1, most):
                held.pop(holding.randrange(len(held)))

    number = 0
    for turn in range(kills):
        with Victim(consume_for_ever) as victim:
            for _ in range(chance.choice([0, 1, 10, 100, 500])):
                putter.put(number, bodies[number % len(bodies)])
                number += 1
            goal = shared[0] + chance.randrange(number - shared[0] + 1)
            while shared[0] < goal:
                victim.check()
            spin(chance)
        if turn % 10 == 9:
            taker = Taker(place)
            last = [number_of(record) for record in iter(taker.try_take, None)]  # type: ignore[arg-type]
            assert last == sorted(set(last))
            assert [each for each in last if each >= shared[0]] == list(range(shared[0], number)), "a message is lost"
            shared[0] = number
            window_and_budget_are_whole(place, putter.end, taker)


def kill_io_processes(kills: int, seed: int) -> None:
    """One that is the consumer of lane 0 and the producer of lane 1, and hands on: at least once, in order, whole."""
    chance = random.Random(seed)
    bodies = make_bodies(1021, SIZES, seed)
    with opened(SEND, window=32) as there:
        back = Place(RECV, there.region, make_bell(), there.io_bell)
        Putter(back).end.window = 32

        def relay() -> None:
            taker, putter = Taker(there), Putter(back)
            while True:
                record = taker.take()
                putter.put(number_of(record), record.body())
                record.release()

        tx, rx = Putter(there), Taker(back)
        sent = expected = 0

        def receive(patiently: bool) -> bool:
            nonlocal expected
            record = rx.take() if patiently else rx.try_take()
            if record is None:
                return False
            number = number_of(record)
            assert number in (expected, expected - 1), f"message {number} instead of {expected}"
            assert record.take_body() == bodies[number % len(bodies)], f"message {number} is torn"
            expected = max(expected, number + 1)
            return True

        for _ in range(kills):
            with Victim(relay):
                for _ in range(chance.choice([0, 1, 10, 100, 300])):
                    # Who only waits for room, and takes nothing, may wait for ever: so does the other end.
                    if sent - expected < 20 and tx.try_send(sent, bodies[sent % len(bodies)]):
                        sent += 1
                    elif expected < sent:
                        receive(patiently=True)
                spin(chance)
        with Victim(relay):
            while expected < sent:
                receive(patiently=True)
        while receive(patiently=False):
            pass
        Taker(there)  # the record that the last one had handed on and not given back
        left = [number_of(record) for record in iter(Taker(there).try_take, None)]  # type: ignore[arg-type]
        assert left in ([], [sent - 1])
        for place, putter, taker in ((there, tx.end, Taker(there)), (back, Putter(back).end, rx)):
            window_and_budget_are_whole(place, putter, taker)
        os.close(back.bell)


@pytest.mark.parametrize("seed", [1])
def test_producers_are_killed(place: Place, seed: int) -> None:
    kill_producers(place, 60, seed)


@pytest.mark.parametrize("seed", [2])
def test_consumers_are_killed(place: Place, seed: int) -> None:
    kill_consumers(place, 60, seed)


@pytest.mark.parametrize("seed", [3])
def test_io_processes_are_killed(seed: int) -> None:
    kill_io_processes(60, seed)


@soak
def test_kills_and_kills(place: Place) -> None:
    for seed in soaking():
        kill_producers(place, 30, seed)
        kill_consumers(place, 30, seed)


@soak
def test_io_processes_and_io_processes() -> None:
    for seed in soaking():
        kill_io_processes(30, seed)
