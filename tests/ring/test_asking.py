"""A thread that asks alone, from its question to its answer in one step; and whatever makes it more than one."""

from __future__ import annotations

import math
import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
from helpers import eventually

from ring.support import BUDGET, RECV, SEND, Lane, readable
from spworkers.errors import BadValueError
from spworkers.ring import DATA, ERROR, INLINE, Asker, Record, Region, make_bell
from spworkers.waiting import Sleepers

FIRST = 1000
CALL, VALUE, OTHER = b"?!", b"!!", b"!?"
ID = 0xFEDC_BA98_7654_3210
WAIT = 20.0


class Who:
    """Somebody who waits."""

    serial = 0
    ticket = 0


class Sleeper:
    """Somebody else who sleeps on the same bells."""

    asleep = False
    rung = 0

    def ring(self) -> None:
        self.rung += 1


class Pair:
    """Who asks, and who answers: both ends of a context's two lanes."""

    def __init__(self) -> None:
        self.region = Region.create(BUDGET)
        self.there = Lane(SEND, region=self.region)
        self.back = Lane(RECV, region=self.region)
        self.waiting: dict[int, Any] = {}
        self.sleepers = Sleepers()
        self.own = make_bell()
        self.asker = Asker(self.there.producer, self.back.consumer, self.waiting, self.sleepers, FIRST, CALL, VALUE)
        self.who = Who()
        self.answers: list[Callable[[int], None]] = []
        self._threads: list[threading.Thread] = []

    def ask(self, content: bytes = b"question", patience: int = 7, deadline: float = math.inf) -> bytes | Record | None:
        if deadline != math.inf:
            deadline += time.monotonic()
        return self.asker.ask(self.who, self.own, ID, patience, content, deadline, 0.0)

    def when_asleep(self, do: Callable[[], None]) -> None:
        """Do something as soon as the asker sleeps."""

        def wait() -> None:
            eventually(lambda: self.asker.asleep, WAIT)
            do()

        self._threads.append(threading.Thread(target=wait))
        self._threads[-1].start()

    def question(self) -> tuple[int, bytes]:
        record = self.there.take()
        assert record is not None
        return record.serial, record.take_body()

    def answer(self, body: bytes, serial: int | None = None, kind: int = DATA) -> None:
        if serial is None:
            serial, _ = self.question()
        assert self.back.put(body, serial=serial, kind=kind)

    def close(self) -> None:
        for thread in self._threads:
            thread.join(WAIT)
        self.there.close()
        self.back.close()
        os.close(self.own)

    def check_over(self) -> None:
        """Nobody reads or sleeps."""
        assert not self.asker.reading
        assert not self.asker.asleep
        assert self.sleepers.inside == []


@pytest.fixture
def pair() -> Iterator[Pair]:
    with closing(Pair()) as made:
        yield made
        made.check_over()


def value(content: bytes, id_: int = ID, mark: bytes = VALUE) -> bytes:
    return struct.pack(">2sQ", mark, id_) + content


@pytest.mark.parametrize("content", [b"", b"x", bytes(INLINE - 10)])
def test_a_value_is_all_that_comes_back(pair: Pair, content: bytes) -> None:
    seen: list[Any] = []

    def answer() -> None:
        seen.extend([pair.question(), dict(pair.waiting), pair.asker.reading, pair.who.ticket])
        pair.answer(value(content), seen[0][0])

    pair.when_asleep(answer)
    assert pair.ask() == content
    assert seen[0] == (FIRST, struct.pack(">2sQI", CALL, ID, 7) + b"question")
    assert seen[1] == {FIRST: pair.who}
    assert seen[2]
    assert seen[3]
    assert pair.waiting == {}
    assert pair.back.drain() == []
    assert pair.there.producer.queued == 0
    assert pair.asker.number() == FIRST + 1


def test_an_answer_that_was_quicker_than_our_sleep(pair: Pair) -> None:
    assert pair.back.put(value(b"quick"), serial=FIRST)
    assert pair.ask() == b"quick"
    assert pair.waiting == {}


def test_many_one_after_the_other(pair: Pair) -> None:
    for n in range(300):
        pair.when_asleep(lambda n=n: pair.answer(value(b"%d" % n)))  # type: ignore[misc]
        assert pair.ask(b"q" * n) == b"%d" % n
        assert pair.who.serial == FIRST + n
    assert pair.waiting == {}


@pytest.mark.parametrize("size", [INLINE - 14, INLINE - 13, 64 << 10])
def test_large_questions_too(pair: Pair, size: int) -> None:
    asked: list[bytes] = []

    def answer() -> None:
        serial, body = pair.question()
        asked.append(body[14:])
        pair.answer(value(b"it"), serial)

    pair.when_asleep(answer)
    assert pair.ask(bytes(size)) == b"it"
    assert asked == [bytes(size)]


@pytest.mark.parametrize(
    "body", [value(b"error", mark=OTHER), value(b"another's", id_=ID + 1), b"short", value(b"")[:-1], b""]
)
def test_another_answer_comes_as_it_is(pair: Pair, body: bytes) -> None:
    pair.when_asleep(lambda: pair.answer(body))
    record = pair.ask()
    assert isinstance(record, Record)
    assert record.serial == FIRST
    assert record.take_body() == body
    assert pair.waiting == {}


def test_what_takes_more_steps_waits_on(pair: Pair) -> None:
    """Large ones, errors of the machine, and what others wait for."""
    sent = [(value(bytes(INLINE)), FIRST, DATA), (b"NoPeersError", FIRST + 1, ERROR), (value(b"it"), 17, DATA)]
    for body, serial, kind in sent:
        pair.when_asleep(lambda body=body, serial=serial, kind=kind: pair.answer(body, serial, kind))  # type: ignore[misc]
        assert pair.ask() is None
        assert pair.waiting == {pair.who.serial: pair.who}
        assert pair.back.receive() == body
        pair.waiting.clear()
    assert pair.there.drain() != []


def test_anothers_answer_that_is_here_already(pair: Pair) -> None:
    assert pair.back.put(value(b"other"), serial=17)
    assert pair.ask() is None
    assert pair.waiting == {FIRST: pair.who}
    pair.waiting.clear()
    assert pair.back.receive() == value(b"other")


@pytest.mark.parametrize("why", ["waiting", "reading", "room", "retired", "large", "level", "closed"])
def test_when_it_is_not_alone_or_has_no_room_nothing_is_sent(pair: Pair, why: str) -> None:
    size = 8
    if why == "waiting":
        pair.waiting[17] = Who()
    elif why == "reading":
        assert pair.asker.take()
    elif why == "room":
        while pair.there.put(bytes(1 << 16), force=True):
            pass
        while pair.there.put(bytes(INLINE + 1), force=True):
            pass
        size = INLINE
    elif why == "retired":
        assert pair.there.producer.retire()
    elif why == "large":
        size = (64 << 10) + 1
    elif why == "closed":
        pair.back.consumer.unhook(own=True)
    else:
        pair.back.consumer.watch(True)
    queued = pair.there.producer.queued
    assert pair.ask(bytes(size)) is None
    assert pair.who.serial == 0
    assert pair.there.producer.queued == queued
    assert FIRST not in pair.waiting
    if why == "reading":
        pair.asker.leave()


def test_who_does_not_take_a_serial_is_not_asked_for(pair: Pair) -> None:
    class Wrong:
        __slots__ = ()

    pair.who = Wrong()  # type: ignore[assignment]
    with pytest.raises(AttributeError):
        pair.ask()
    pair.check_over()
    assert pair.there.take() is None
    pair.waiting.clear()
    pair.who = Who()
    pair.when_asleep(lambda: pair.answer(value(b"it")))
    assert pair.ask() == b"it"


def test_its_time_may_be_over(pair: Pair) -> None:
    for n, seconds in enumerate((0.0, 0.01)):
        assert pair.ask(deadline=seconds) is None
        assert pair.waiting == {FIRST + n: pair.who}
        pair.waiting.clear()


@pytest.mark.parametrize("how", ["own bell", "by its sleepers", "wake"])
def test_others_may_have_it_look(pair: Pair, how: str) -> None:
    def ring() -> None:
        if how == "own bell":
            pair.asker.ring()
        elif how == "wake":
            pair.back.consumer.wake()
        else:
            for sleeper in list(pair.sleepers.inside):
                sleeper.ring()

    pair.when_asleep(ring)
    assert pair.ask() is None
    assert pair.waiting == {FIRST: pair.who}
    assert not readable(pair.own)


def test_a_ring_that_it_silences_is_passed_on(pair: Pair) -> None:
    other = Sleeper()
    pair.sleepers.inside.append(other)
    pair.back.consumer.wake()
    assert pair.ask(deadline=0.01) is None
    assert other.rung == 1
    assert not pair.back.consumer.hushed
    pair.sleepers.inside.remove(other)


def test_given_up_in_the_moment_of_its_answer(pair: Pair) -> None:
    def give_up() -> None:
        pair.waiting.clear()
        pair.answer(value(b"too late"))

    pair.when_asleep(give_up)
    assert pair.ask() is None
    assert pair.back.drain() == []
    assert pair.back.producer.queued == 0


def test_a_signal_ends_it(pair: Pair) -> None:
    class Stop(Exception):
        pass

    def stop(number: int, frame: object) -> None:
        raise Stop

    former = signal.signal(signal.SIGUSR1, stop)
    try:
        pair.when_asleep(lambda: os.kill(os.getpid(), signal.SIGUSR1))
        with pytest.raises(Stop):
            pair.ask()
    finally:
        signal.signal(signal.SIGUSR1, former)
    pair.check_over()
    assert pair.waiting == {FIRST: pair.who}


def test_the_reader_may_become_it_again(pair: Pair) -> None:
    """In a signal's handler, in the middle of its wait; but no other thread."""
    taken: list[bool] = []
    assert pair.asker.take()
    assert pair.asker.take()
    thread = threading.Thread(target=lambda: taken.append(pair.asker.take()))
    thread.start()
    thread.join(WAIT)
    assert taken == [False]
    assert pair.ask() is None
    assert pair.who.serial == 0
    pair.asker.leave()
    assert pair.asker.reading
    pair.asker.leave()
    assert not pair.asker.reading


def test_marks_are_two_bytes(pair: Pair) -> None:
    for wrong in (b"", b"x", b"xyz"):
        for marks in ((wrong, VALUE), (CALL, wrong)):
            with pytest.raises(BadValueError, match="a mark is 2 bytes"):
                Asker(pair.there.producer, pair.back.consumer, {}, pair.sleepers, 1, *marks)


def test_who_looks_around_says_whether_it_found_something(pair: Pair) -> None:
    def soon() -> None:
        with suppress(AssertionError):
            eventually(lambda: pair.there.consumer.unclaimed(), WAIT)
            pair.answer(value(b"it"))

    thread = threading.Thread(target=soon)
    thread.start()
    assert pair.asker.ask(pair.who, pair.own, ID, 0, b"", math.inf, WAIT) == b"it"
    assert pair.asker.found
    thread.join(WAIT)
