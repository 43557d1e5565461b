"""MAX-PIPES, MAX-HANDSHAKES and ACCEPT-RATE, on a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spworkers.ioproc.admission import MAX_HANDSHAKES, Admission


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_limited_unless_asked_for() -> None:
    admission = Admission({}, Clock())
    assert all(admission.enter() for _ in range(10_000))
    assert all(admission.delay() == 0 for _ in range(10_000))
    assert admission.max_handshakes == MAX_HANDSHAKES


def test_pipes() -> None:
    options: dict[str, object] = {"MAX-PIPES": 2}
    admission = Admission(options, Clock())
    assert [admission.enter() for _ in range(4)] == [True, True, False, False]
    assert (admission.pipes, admission.full) == (2, True)
    assert repr(admission) == "<Admission: 2 of 2 pipes>"
    admission.leave()
    assert not admission.full
    options["MAX-PIPES"] = 1  # those that are there stay
    assert (admission.full, admission.pipes) == (True, 1)
    options["MAX-PIPES"] = 0
    assert admission.enter()
    assert repr(admission) == "<Admission: 2 of any number of pipes>"


def test_a_rate_allows_a_seconds_worth_at_once_then_goes_evenly() -> None:
    clock = Clock()
    admission = Admission({"ACCEPT-RATE": 4}, clock)
    delays = [admission.delay() for _ in range(4)]
    assert delays == [0, 0, 0, 0]
    for _ in range(20):
        delay = admission.delay()
        assert delay == pytest.approx(0.25)
        clock.now += delay
    clock.now += 60
    assert [admission.delay() for _ in range(4)] == [0, 0, 0, 0]
    assert admission.delay() > 0


@given(st.integers(1, 1000), st.lists(st.floats(0, 2), min_size=1, max_size=200))
def test_never_more_than_the_rate_and_a_burst(rate: int, pauses: list[float]) -> None:
    clock = Clock()
    admission = Admission({"ACCEPT-RATE": rate}, clock)
    begin = clock.now
    for count, pause in enumerate(pauses, 1):
        clock.now += pause
        clock.now += admission.delay()
        assert count <= rate * (clock.now - begin + 1) + 1e-6 + 1


def test_a_rate_that_is_set_later_counts_from_then_on() -> None:
    clock = Clock()
    options: dict[str, object] = {}
    admission = Admission(options, clock)
    for _ in range(1000):
        admission.delay()
    options["ACCEPT-RATE"] = 1
    assert admission.delay() == 0
    assert admission.delay() == pytest.approx(1.0)
