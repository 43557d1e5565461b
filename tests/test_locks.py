"""Waits that no signal's handler can break."""

from __future__ import annotations

import math
import threading
import time

import pytest
from helpers import eventually

from spworkers._locks import Gates, Latch, in_pieces

WAIT = 20.0


def test_a_latch_wakes_all_who_wait() -> None:
    latch = Latch()
    assert not latch.is_set()
    assert not latch.wait(0)
    assert not latch.wait(0.01)
    got: list[bool] = []
    threads = [threading.Thread(target=lambda: got.append(latch.wait(math.inf))) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(latch._gates) == 3, WAIT)
    latch.set()
    for thread in threads:
        thread.join(WAIT)
    assert got == [True] * 3
    assert latch.is_set()
    assert latch.wait(0)
    assert len(latch._gates) == 0


def test_one_gate_is_opened_for_one_thing() -> None:
    gates, things, got = Gates(), list[int](), list[int]()

    def take() -> bool:
        try:
            got.append(things.pop())
        except IndexError:
            return False
        return True

    threads = [threading.Thread(target=gates.wait, args=(take, WAIT)) for _ in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(gates) == 4, WAIT)
    for number in range(4):
        things.append(number)
        gates.open(1)
    for thread in threads:
        thread.join(WAIT)
    assert sorted(got) == [0, 1, 2, 3]
    gates.open(1)  # for nobody
    gates.open()


def test_whom_time_leaves_does_not_keep_what_was_meant_for_another() -> None:
    """Of two who wait one leaves as the gates are opened, many times over."""
    for _ in range(50):
        gates, things = Gates(), list[int]()

        def take(things: list[int] = things) -> bool:
            return bool(things)

        leaver = threading.Thread(target=gates.wait, args=(lambda: False, 0.02))
        stayer = threading.Thread(target=gates.wait, args=(take, WAIT))
        leaver.start()
        eventually(lambda gates=gates: len(gates) == 1, WAIT)  # type: ignore[misc]
        stayer.start()
        leaver.join(0.0199)
        things.append(1)
        gates.open(1)
        stayer.join(WAIT)
        leaver.join(WAIT)
        assert not stayer.is_alive()
        assert len(gates) == 0


def test_an_interrupted_wait_leaves_nothing_behind() -> None:
    gates = Gates()

    def there() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gates.wait(there, WAIT)
    asked = [0]

    def interrupted() -> bool:
        asked[0] += 1
        if asked[0] == 2:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        gates.wait(interrupted, WAIT)
    assert len(gates) == 0


def test_pieces() -> None:
    asked: list[float] = []

    def wait(seconds: float) -> bool:
        asked.append(seconds)
        return len(asked) == 5

    assert not in_pieces(wait, 1.2)
    assert asked == [0.5, 0.5, pytest.approx(0.2)]
    assert in_pieces(wait, math.inf)
    began = time.monotonic()
    assert not in_pieces(lambda _: False, -1.0)
    assert time.monotonic() - began < 5
