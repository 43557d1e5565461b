"""An I/O process that stays where its user is: when it goes there, and that it leaves again."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from spworkers.ioproc import following
from spworkers.ioproc.following import Follower, follower

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are bound to processors on Linux only")


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[set[int]]]:
    """Processors 0 to 3, and where this process was put, the last place last."""
    been = [{0, 1, 2, 3}]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: been[-1])
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, where: been.append(set(where)))
    yield been


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_it_follows_only_where_more_want_to_run_than_can(places: list[set[int]], clock: list[float]) -> None:
    wanting = [8]
    follow = Follower(lambda: wanting[0])
    assert not follow(2)
    wanting[0] = 9
    assert not follow(2), "what the system said is good for a while"
    clock[0] += 0.06
    assert follow(2)
    assert follow(2)
    assert follow(3)
    assert places[1:] == [{2}, {3}]
    wanting[0] = 8
    clock[0] += 0.06
    assert not follow(3)
    assert places[-1] == {0, 1, 2, 3}


def test_it_goes_home_when_nothing_was_heard_of_the_user(places: list[set[int]]) -> None:
    follow = Follower(lambda: 100)
    assert follow(1)
    assert not follow(-1)
    assert not follow(-1)
    assert places[1:] == [{1}, {0, 1, 2, 3}]


def test_it_stays_where_it_may_be(places: list[set[int]]) -> None:
    follow = Follower(lambda: 100)
    assert not follow(4)
    assert len(places) == 1
    assert follow(1)
    assert not follow(4), "the user is where we may not go"
    assert places[1:] == [{1}, {0, 1, 2, 3}]


def test_who_is_placed_by_others_stays_within_that(places: list[set[int]]) -> None:
    follow = Follower(lambda: 100)
    assert follow(1)
    places.append({2, 3})
    assert not follow(0)
    assert follow(3)
    assert not follow(-1)
    assert places[2:] == [{2, 3}, {3}, {2, 3}]


def test_a_refusal_is_taken(places: list[set[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(22, "that processor is gone")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    follow = Follower(lambda: 100)
    assert not follow(1)
    assert not follow(-1)


def test_no_system_that_tells_no_crowd(places: list[set[int]]) -> None:
    assert not Follower(lambda: 0)(1)


def test_there_is_nobody_to_follow_on_one_processor(places: list[set[int]]) -> None:
    assert isinstance(follower(), Follower)
    places.append({1})
    assert follower() is None


@pytest.mark.parametrize("where", [min, max])
def test_the_thread_is_bound_and_free_again(where: Callable[[Any], int]) -> None:
    """In truth, in a thread of its own."""
    home = os.sched_getaffinity(0)
    if len(home) == 1:
        pytest.skip("there is one processor")
    seen: list[Any] = []

    def be() -> None:
        follow = following.Follower(lambda: 1000)
        seen.append(follow(where(home)))
        seen.append(os.sched_getaffinity(0))
        seen.append(follow(-1))
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=be)
    thread.start()
    thread.join()
    assert seen == [True, {where(home)}, False, home]
    assert os.sched_getaffinity(0) == home
