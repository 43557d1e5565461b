"""An I/O process that makes way: when it does, that it stops where that is dear, and who else may decide."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from spworkers.ioproc.deferring import Deference, Waited, WaitingTimes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux has SCHED_BATCH")

MS = 1_000_000  # in nanoseconds


class World:
    """This thread's policy, the time, and how long it has waited for how many turns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.policy = os.SCHED_OTHER
        self.allowed = True
        self.now = 100.0
        self.waited: Waited | None = (0, 0)
        monkeypatch.setattr(os, "sched_getscheduler", lambda _: self.policy)
        monkeypatch.setattr(os, "sched_setscheduler", self._set)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        self.defer = Deference(lambda: self.waited)

    def _set(self, _: int, policy: int, __: Any) -> None:
        if not self.allowed:
            raise PermissionError(1, "not here")
        self.policy = policy

    def turns(self, count: int, each: float, seconds: float = 0.025) -> bool:
        """So many turns for which it waited so many ms each; whether it goes on making way."""
        assert self.waited is not None
        self.waited = self.waited[0] + int(count * each * MS), self.waited[1] + count
        self.now += seconds
        return self.defer(True)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield World(monkeypatch)


def test_it_makes_way_in_a_crowd_only(world: World) -> None:
    assert not world.defer(False)
    assert world.policy == os.SCHED_OTHER
    assert world.defer(True)
    assert world.policy == os.SCHED_BATCH
    assert world.turns(50, 0.2)
    assert not world.defer(False)
    assert world.policy == os.SCHED_OTHER


def test_beside_who_computes_it_stops_and_tries_ever_more_rarely(world: World) -> None:
    tried = []
    for _ in range(12):
        while not world.defer(True):
            world.now += 0.05
        tried.append(world.now)
        assert not world.turns(3, 8.0)
        assert world.policy == os.SCHED_OTHER
    pauses = [after - before for before, after in itertools.pairwise(tried)]
    assert pauses[0] == pytest.approx(0.125, abs=0.06)
    assert pauses[1] == pytest.approx(0.225, abs=0.06)
    assert pauses[-1] == pytest.approx(30.0, abs=0.2)


def test_a_second_without_a_long_wait_and_the_former_ones_are_forgotten(world: World) -> None:
    for _ in range(6):
        while not world.defer(True):
            world.now += 0.05
        assert not world.turns(3, 8.0)
    world.now += 30.0
    assert world.defer(True)
    assert all(world.turns(50, 0.3) for _ in range(41))
    assert not world.turns(3, 8.0)
    world.now += 0.11
    assert world.defer(True)


def test_no_turn_no_wait(world: World) -> None:
    assert world.defer(True)
    assert world.turns(0, 0.0)


@pytest.mark.parametrize("policy", ["SCHED_FIFO", "SCHED_IDLE", "SCHED_BATCH"])
def test_somebody_elses_choice_stands(world: World, policy: str) -> None:
    world.policy = getattr(os, policy)
    assert not world.defer(True)
    assert world.policy == getattr(os, policy)
    world.policy = os.SCHED_OTHER
    world.now += 31.0
    assert world.defer(True)
    world.policy = getattr(os, policy)
    if policy != "SCHED_BATCH":  # which nothing tells from our own
        assert not world.defer(False)
        assert world.policy == getattr(os, policy)


def test_where_it_is_forbidden_it_is_not_asked_for_all_the_time(world: World) -> None:
    world.allowed = False
    assert not world.defer(True)
    world.allowed = True
    world.now += 1.0
    assert not world.defer(True)
    world.now += 30.0
    assert world.defer(True)


def test_no_system_that_tells_no_way_is_made(world: World) -> None:
    world.waited = None
    assert not world.defer(True)
    assert world.policy == os.SCHED_OTHER
    world.waited = 0, 0
    world.now += 31.0
    assert world.defer(True)
    world.waited = None
    assert not world.defer(True), "nor any longer"
    assert world.policy == os.SCHED_OTHER


def in_a_thread(run: Callable[[], Any]) -> Any:
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(run()))
    thread.start()
    thread.join()
    return seen[0]


def test_in_truth() -> None:
    def be() -> Any:
        defer = Deference(WaitingTimes())
        return defer(True), os.sched_getscheduler(0), defer(False), os.sched_getscheduler(0)

    if WaitingTimes()() is None:
        pytest.skip("this kernel does not count")
    assert in_a_thread(be) == (True, os.SCHED_BATCH, False, os.SCHED_OTHER)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_the_kernel_tells_of_the_thread_that_asks() -> None:
    if WaitingTimes()() is None:
        pytest.skip("this kernel does not count")

    def be() -> Any:
        waited = WaitingTimes()
        before = waited()
        for _ in range(20):
            time.sleep(0.001)
        return before, waited()

    (waited, turns), (later, more) = in_a_thread(be)
    assert more >= turns + 20
    assert later >= waited
    assert turns < 20, "of no other thread"


def test_a_kernel_that_does_not_count_is_one_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (b"0 0 0\n", b"", b"words\n"):
        monkeypatch.setattr(os, "pread", lambda *_, text=text: text)
        assert WaitingTimes()() is None
    monkeypatch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(FileNotFoundError(2, "no /proc")))
    assert WaitingTimes()() is None
