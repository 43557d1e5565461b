"""An I/O process that stays where its user is: that it goes there, and leaves again."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from spworkers.ioproc.following import NOWHERE, Follower

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are bound to processors on Linux only")


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[set[int]]]:
    """Processors 0 to 3, and where this process was put, the last place last."""
    been = [{0, 1, 2, 3}]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: been[-1])
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, where: been.append(set(where)))
    yield been


def test_it_follows_and_goes_home(places: list[set[int]]) -> None:
    follow = Follower()
    assert follow(2)
    assert follow(2)
    assert follow(3)
    assert places[1:] == [{2}, {3}]
    assert not follow(NOWHERE)
    assert not follow(NOWHERE)
    assert places[3:] == [{0, 1, 2, 3}]
    assert follow.home == {0, 1, 2, 3}


def test_it_stays_where_it_may_be(places: list[set[int]]) -> None:
    follow = Follower()
    assert not follow(4)
    assert len(places) == 1
    assert follow(1)
    assert not follow(4), "the user is where we may not go"
    assert places[1:] == [{1}, {0, 1, 2, 3}]


def test_who_is_placed_by_others_stays_within_that(places: list[set[int]]) -> None:
    follow = Follower()
    assert follow(1)
    places.append({2, 3})
    assert not follow(0)
    assert follow(3)
    assert not follow(NOWHERE)
    assert places[2:] == [{2, 3}, {3}, {2, 3}]


def test_a_refusal_is_taken(places: list[set[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(22, "that processor is gone")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    follow = Follower()
    assert not follow(1)
    assert not follow(NOWHERE)


@pytest.mark.parametrize("where", [min, max])
def test_the_thread_is_bound_and_free_again(where: Callable[[Any], int]) -> None:
    """In truth, in a thread of its own."""
    home = os.sched_getaffinity(0)
    if len(home) == 1:
        pytest.skip("there is one processor")
    seen: list[Any] = []

    def be() -> None:
        follow = Follower()
        seen.append(follow(where(home)))
        seen.append(os.sched_getaffinity(0))
        seen.append(follow(NOWHERE))
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=be)
    thread.start()
    thread.join()
    assert seen == [True, {where(home)}, False, home]
    assert os.sched_getaffinity(0) == home
