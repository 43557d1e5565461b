"""How an I/O process is among others: when there is a crowd, and what it does then."""

from __future__ import annotations

import os
import sys
import time

import pytest

from spworkers.ioproc.conduct import Conduct, conduct_of
from spworkers.ioproc.following import NOWHERE, Follower
from spworkers.ring import BESIDE, DEFERRING

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing of it is done elsewhere")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """Processors 0 to 3, and where this process was put, the last place last."""
    been = [{0, 1, 2, 3}]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: been[-1])
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, where: been.append(set(where)))
    return been


def test_only_in_a_crowd(places: list[set[int]], clock: list[float]) -> None:
    wanting = [8]
    deferred: list[bool] = []

    def defer(crowded: bool) -> bool:
        deferred.append(crowded)
        return crowded

    be = Conduct(Follower(), defer, lambda: wanting[0])
    assert be(2, False) == 0
    wanting[0] = 9
    assert be(2, False) == 0, "what the system said is good for a while"
    clock[0] += 0.06
    assert be(2, False) == BESIDE | DEFERRING
    assert be(3, False) == BESIDE | DEFERRING, "it is bound to one, but four are its home"
    assert be(NOWHERE, False) == DEFERRING
    assert be(1, False) == BESIDE | DEFERRING
    assert be(1, True) == 0, "nothing came for a while"
    assert be(1, False) == BESIDE | DEFERRING
    wanting[0] = 8
    clock[0] += 0.06
    assert be(1, False) == 0
    assert places[1:] == [{2}, {3}, {0, 1, 2, 3}, {1}, {0, 1, 2, 3}, {1}, {0, 1, 2, 3}]
    assert deferred == [False, False, True, True, True, True, False, True, False]


def test_each_is_done_without_the_other(places: list[set[int]]) -> None:
    assert Conduct(None, lambda crowded: crowded, lambda: 100)(2, False) == DEFERRING
    assert len(places) == 1
    assert Conduct(Follower(), lambda _: False, lambda: 100)(2, False) == BESIDE


def test_no_system_that_tells_no_crowd(places: list[set[int]]) -> None:
    assert Conduct(Follower(), lambda crowded: crowded, lambda: 0)(1, False) == 0


def test_who_asks_follows_and_who_answers_does_not(places: list[set[int]]) -> None:
    assert conduct_of("") is None
    asks, answers = conduct_of("asks"), conduct_of("answers")
    places.append({1})
    bound = conduct_of("asks")
    assert [type(each._follow) for each in (asks, answers, bound) if each] == [Follower, type(None), type(None)]
