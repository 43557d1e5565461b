"""Slots: a semaphore that is quick when there is room."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import signal
import threading
import time

import pytest
from helpers import eventually

from spworkers.waiting import Sleepers
from spworkers.workers.calltasks import place
from spworkers.workers.callwaiting import ThreadWaiting, left_until
from spworkers.workers.slots import Places, Slots

WAIT = 20.0


def wait(slots: Slots, seconds: float) -> bool:
    """As a client's line does it, which reads meanwhile."""
    mine = ThreadWaiting(0, Sleepers().mine())
    deadline = time.monotonic() + seconds

    def sit() -> None:
        while not mine.over and left_until(deadline) > 0:
            mine.sleeper.rest(left_until(deadline))

    return slots.take() or slots.wait(mine, sit)


def test_no_more_than_there_are() -> None:
    slots = Slots(2)
    assert [slots.take() for _ in range(3)] == [True, True, False]
    assert not wait(slots, 0.01)
    slots.give()
    assert wait(slots, 0.0)
    assert not slots.take()


def test_who_waits_gets_what_is_given_back() -> None:
    slots = Slots(1)
    assert slots.take()
    got: list[bool] = []
    threads = [threading.Thread(target=lambda: got.append(wait(slots, WAIT))) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(slots._line) == 3, WAIT)
    for _ in threads:
        slots.give()
    for thread in threads:
        thread.join(WAIT)
    assert got == [True] * 3
    assert not slots.take()


def test_places_go_in_the_order_of_coming() -> None:
    """Who gives a place back and wants it again at once gets in line."""
    slots, order = Slots(1), list[int]()
    assert slots.take()

    def work(number: int) -> None:
        assert wait(slots, WAIT)
        order.append(number)
        slots.give()

    threads = []
    for number in range(4):
        threads.append(threading.Thread(target=work, args=(number,)))
        threads[-1].start()
        eventually(lambda number=number: len(slots._line) == number + 1, WAIT)  # type: ignore[misc]
    slots.give()
    assert wait(slots, WAIT)
    assert order == [0, 1, 2, 3]
    for thread in threads:
        thread.join(WAIT)


def test_who_has_gone_keeps_no_place() -> None:
    slots = Slots(1)
    assert slots.take()
    for _ in range(200):
        got: list[bool] = []
        leaver = threading.Thread(target=lambda got=got: got.append(wait(slots, 0.0005)))  # type: ignore[misc]
        leaver.start()
        slots.give()
        leaver.join(WAIT)
        if not got[0]:
            assert slots.take()
    assert not slots.take()
    slots.give()
    assert slots.take()


def test_an_interrupted_wait_keeps_no_place() -> None:
    slots = Slots(1)
    assert slots.take()
    mine = ThreadWaiting(0, Sleepers().mine())

    def interrupted() -> None:
        slots.give()  # in this very moment
        assert mine.over
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slots.wait(mine, interrupted)
    assert slots.take()
    assert not slots.take()


def test_a_signal_that_comes_as_a_place_is_given_loses_none() -> None:
    slots = Slots(1)
    came: list[bool] = []

    def handler(number: int, frame: object) -> None:
        came.append(True)
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGALRM, handler)
    try:
        for _ in range(200):
            assert slots.take()
            mine = ThreadWaiting(0, Sleepers().mine())
            got = False
            with contextlib.suppress(KeyboardInterrupt):
                got = slots.wait(mine, functools.partial(_give_and_interrupt, slots))
            with contextlib.suppress(KeyboardInterrupt):  # at the latest here
                time.sleep(0)
            if got:
                slots.give()
            assert slots.take()
            assert not slots.take()
            slots.give()
    finally:
        signal.signal(signal.SIGALRM, former)
    assert len(came) == 200


def _give_and_interrupt(slots: Slots) -> None:
    slots.give()
    signal.raise_signal(signal.SIGALRM)


def test_what_is_borrowed_is_given_back_first() -> None:
    slots = Slots(1)
    assert slots.take()
    slots.borrow()
    slots.borrow()
    for _ in range(2):
        slots.give()
        assert not slots.take()
    slots.give()
    assert [slots.take(), slots.take()] == [True, False]


def test_many_in_and_out() -> None:
    slots, inside, most = Slots(2), [0], [0]
    lock = threading.Lock()

    def work() -> None:
        for _ in range(300):
            assert wait(slots, WAIT)
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            with lock:
                inside[0] -= 1
            slots.give()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert most[0] <= 2
    assert [slots.take() for _ in range(3)] == [True, True, False]


def test_tasks_get_places_in_the_order_in_which_they_came() -> None:
    async def main() -> list[int]:
        slots, order = Places(1), []

        async def enter(number: int) -> None:
            await place(slots, math.inf)
            order.append(number)

        assert slots.take()
        tasks = [asyncio.create_task(enter(number)) for number in range(4)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        slots.give()  # to the first, which does not know it yet and is cancelled: it passes the place on
        tasks[0].cancel()
        await asyncio.gather(*tasks[:2], return_exceptions=True)
        await tasks[2]
        assert not slots.take()
        slots.give()
        await tasks[3]
        slots.give()
        assert slots.take()
        return order

    assert asyncio.run(main()) == [2, 3]
