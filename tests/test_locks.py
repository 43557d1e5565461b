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


def test_all_look_when_the_gates_are_opened() -> None:
    gates, things, got = Gates(), list[int](), list[bool]()
    threads = [threading.Thread(target=lambda: got.append(gates.wait(lambda: bool(things), WAIT))) for _ in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(gates) == 4, WAIT)
    gates.open()  # for nothing: they wait on
    eventually(lambda: len(gates) == 4, WAIT)
    things.append(1)
    gates.open()
    for thread in threads:
        thread.join(WAIT)
    assert got == [True] * 4
    gates.open()  # for nobody
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
