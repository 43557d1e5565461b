"""Deadlines of many."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spworkers.protocol.alarms import Alarm, Alarms
from spworkers.protocol.machine import NEVER


def ring_all(alarms: Alarms, now: float) -> list[int]:
    rung = []
    alarm = alarms.ring(now)
    while alarm is not None:
        rung.append(alarm.owner)
        alarm = alarms.ring(now)
    return rung


def test_nothing_is_due_at_first() -> None:
    alarms = Alarms()
    assert alarms.first == NEVER
    assert alarms.ring(1e9) is None


def test_they_ring_in_order_of_time() -> None:
    alarms = Alarms()
    for owner, due in ((1, 3.0), (2, 1.0), (3, 2.0)):
        alarms.set(Alarm(owner), due)
    assert alarms.first == 1.0
    assert ring_all(alarms, 2.5) == [2, 3]
    assert alarms.first == 3.0
    assert ring_all(alarms, 3.0) == [1]
    assert alarms.first == NEVER


def test_one_rings_once() -> None:
    alarms, alarm = Alarms(), Alarm(1)
    alarms.set(alarm, 1.0)
    assert ring_all(alarms, 5.0) == [1]
    assert ring_all(alarms, 9.0) == []
    assert alarm.due == NEVER


def test_a_cancelled_one_does_not_ring() -> None:
    alarms, alarm = Alarms(), Alarm(1)
    alarms.set(alarm, 1.0)
    alarm.cancel()
    assert ring_all(alarms, 5.0) == []
    assert alarms.first == NEVER


def test_setting_it_later_costs_no_entry() -> None:
    alarms, alarm = Alarms(), Alarm(1)
    for number in range(1000):
        alarms.set(alarm, 60.0 + number)
    assert len(alarms) == 1
    assert ring_all(alarms, 1058.0) == []
    assert alarms.first == 1059.0
    assert ring_all(alarms, 1059.0) == [1]


def test_setting_it_earlier_counts() -> None:
    alarms, alarm = Alarms(), Alarm(1)
    alarms.set(alarm, 60.0)
    alarms.set(alarm, 1.0)
    assert alarms.first == 1.0
    assert ring_all(alarms, 2.0) == [1]
    assert ring_all(alarms, 60.0) == []


def test_cancelled_ones_do_not_pile_up() -> None:
    alarms = Alarms()
    kept = [Alarm(owner) for owner in range(10)]
    for alarm in kept:
        alarms.set(alarm, 70.0)
    for owner in range(10_000):  # contexts that come and go, each with a request that is answered
        alarm = Alarm(owner)
        alarms.set(alarm, 60.0 + owner * 1e-3)
        alarm.cancel()
    assert len(alarms) <= 65
    assert sorted(ring_all(alarms, 100.0)) == list(range(10))


@pytest.mark.parametrize("seed", range(10))
def test_those_that_are_left_ring_in_order(seed: int) -> None:
    alarms, random = Alarms(), Random(seed)
    due = {owner: random.uniform(0, 100) for owner in range(300)}
    for owner in list(due):
        alarm = Alarm(owner)
        alarms.set(alarm, due[owner])
        if random.random() < 0.7:
            alarm.cancel()
            del due[owner]
    rung = []
    for now in range(101):
        rung += ring_all(alarms, now)
        assert set(rung) == {owner for owner, time in due.items() if time <= now}
    assert len(rung) == len(due)


def test_an_alarm_swept_away_can_be_set_again() -> None:
    alarms, alarm = Alarms(), Alarm(-1)
    alarms.set(alarm, 50.0)
    alarm.cancel()
    for owner in range(200):
        alarms.set(Alarm(owner), 60.0)
    alarms.set(alarm, 50.0)
    assert ring_all(alarms, 55.0) == [-1]


@given(
    st.lists(
        st.tuples(st.sampled_from(["set", "cancel", "ring"]), st.integers(0, 4), st.floats(0.0, 10.0)), max_size=200
    )
)
def test_every_alarm_rings_when_it_is_due_and_not_before(steps: list[tuple[str, int, float]]) -> None:
    alarms, now = Alarms(), 0.0
    them = [Alarm(owner) for owner in range(5)]
    due: dict[int, float] = {}
    for step, owner, seconds in steps:
        if step == "set":
            alarms.set(them[owner], now + seconds)
            due[owner] = now + seconds
        elif step == "cancel":
            them[owner].cancel()
            due.pop(owner, None)
        else:
            now += seconds
            expected = {each for each, time in due.items() if time <= now}
            assert set(ring_all(alarms, now)) == expected
            for each in expected:
                del due[each]
        assert alarms.first <= min(due.values(), default=NEVER)
        assert len(alarms) <= 65
