"""Looking around before one sleeps: as long as it pays, and where there is room."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from helpers import eventually

from spworkers import lookaround
from spworkers.lookaround import LookAround, processors


def turns(look: LookAround, count: int, found: Callable[[int], bool]) -> list[bool]:
    """In which of so many turns it was done."""
    done = []
    for number in range(count):
        pays = look.pays()
        if pays:
            look.tell(found(number))
        done.append(pays)
    return done


def test_what_finds_something_goes_on() -> None:
    assert all(turns(LookAround(lambda: True), 1000, lambda number: number % 4 == 3))


def test_what_finds_nothing_is_left_for_a_while() -> None:
    done = turns(LookAround(lambda: True), 720, lambda _: False)
    assert done[:4] == [True] * 4
    assert 60 <= sum(done) <= 90, "one in nine"


def test_what_finds_something_again_goes_on_again() -> None:
    done = turns(LookAround(lambda: True), 200, lambda number: number >= 100)
    assert not all(done[:100])
    assert all(done[140:])


def test_without_room_it_is_not_done_and_nothing_is_learned() -> None:
    room = [False]
    look = LookAround(lambda: room[0])
    assert not any(turns(look, 100, lambda _: False))
    room[0] = True
    assert look.pays()


def test_a_search_says_what_it_found_and_learns_of_it() -> None:
    around, asked = LookAround(lambda: True), []

    def look(seconds: float) -> bool:
        asked.append(seconds)
        return len(asked) <= 50

    assert all(around.search(look, 0.0001) for _ in range(50))
    assert not any(around.search(look, 0.0001) for _ in range(20))
    assert asked == [0.0001] * 54, "after four in vain it is left"


def test_who_is_late_has_met_somebody_who_needs_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    took = [0.004]
    asked: list[float] = []

    def look(_: float) -> bool:
        asked.append(clock[0])
        clock[0] += took[0]
        return True

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    around = LookAround(lambda: True)
    for _ in range(4000):
        around.search(look, 0.0001)
        clock[0] += 0.001
    gaps = [later - sooner for sooner, later in itertools.pairwise(asked)]
    assert gaps[0] < 0.05, "a little hiccup is soon forgotten"
    assert gaps == sorted(gaps)
    assert 1.0 <= gaps[-1] < 1.1
    took[0] = 0.00005  # they are gone: it is back in time
    clock[0] += 2
    asked.clear()
    for _ in range(100):
        around.search(look, 0.0001)
    assert len(asked) == 100
    took[0] = 0.004
    around.search(look, 0.0001)
    took[0] = 0.00005
    clock[0] += 0.05
    assert around.search(look, 0.0001), "they are forgotten"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes are bound to processors on Linux only")
def test_there_is_no_room_on_one_processor() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from spworkers.lookaround import processors, roomy; print(processors(), roomy())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "1 False\n"


@pytest.mark.skipif(not os.path.exists("/proc/loadavg"), reason="no other system tells")
def test_there_is_no_room_where_more_want_to_run_than_can() -> None:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processors() + 1)]
    try:
        eventually(lambda: not lookaround.roomy(), what="no room")
    finally:
        for each in busy:
            each.kill()
            each.wait()
