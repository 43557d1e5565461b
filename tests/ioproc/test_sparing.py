"""What the log says of peers that go on doing wrong, on a clock of the test's own."""

from __future__ import annotations

import logging

import pytest

from spworkers.ioproc.sparing import Sparing

pytestmark = pytest.mark.once


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_few_records_in_a_period_and_then_how_many_were_left_out(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    log = logging.getLogger("spworkers.tests.sparing")
    sparing = Sparing(most=2, period=10.0, clock=clock)
    log.addFilter(sparing)
    try:
        for number in range(5):
            log.warning("pipe %d closed", number)
        clock.now += 10
        for number in range(5, 7):
            log.warning("pipe %d closed", number)
        clock.now += 10
        log.warning("pipe %d closed", 7)
    finally:
        log.removeFilter(sparing)
    assert [record.getMessage() for record in caplog.records] == [
        "pipe 0 closed",
        "pipe 1 closed",
        "pipe 5 closed (3 more like this were left out before; stats() counts them all)",
        "pipe 6 closed",
        "pipe 7 closed",
    ]


def test_the_hubs_warnings_are_sparing() -> None:
    assert any(isinstance(known, Sparing) for known in logging.getLogger("spworkers.ioproc.pipes").filters)
