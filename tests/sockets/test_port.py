"""A port that waits for room: for many places first, then for the first one that comes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import closing

import pytest
from ring.support import readable
from sockets.kit import background, error_of

from spworkers.errors import SendTimeoutError
from spworkers.port import CALM, Port
from spworkers.ring import Outlet, Record, Region, make_bell
from spworkers.testing import eventually
from spworkers.waiting import Deadline, run

BOUND = 20.0
WINDOW = 64


class Full:
    """A port whose window is full, and what the other side has in hand."""

    def __init__(self) -> None:
        self.io_bell = make_bell()
        self.port = Port(Region.create(1 << 20), 0, self.io_bell)
        self.port.tx.window = WINDOW
        outlet = Outlet(self.port.tx.segment, self.port.bells[1])
        for _ in range(WINDOW):
            assert self.port.tx.publish(b"x")
        taken = [outlet.next() for _ in range(WINDOW)]
        self.records: list[Record] = [record for record in taken if record is not None and record.claim()]

    def wait(self, seconds: float = math.inf) -> None:
        run(self.port.await_room(1, Deadline(seconds), force=False), self.port.sleepers)

    def close(self) -> None:
        self.port.close()
        os.close(self.io_bell)


@pytest.fixture
def full() -> Iterator[Full]:
    with closing(Full()) as made:
        yield made


def test_one_place_is_enough_though_no_more_come(full: Full) -> None:
    waiting = background(full.wait)
    eventually(lambda: len(full.port.sleepers.inside) == 1, BOUND)
    full.records[0].release()
    waiting.result(BOUND)
    assert full.port.tx.publish(b"x")
    assert not full.port.tx.publish(b"x")


def test_several_that_wait_are_all_woken(full: Full) -> None:
    waiting = [background(full.wait) for _ in range(4)]
    eventually(lambda: len(full.port.sleepers.inside) == 4, BOUND)
    full.records[0].release()
    for each in waiting:
        each.result(BOUND)


@pytest.mark.parametrize("seconds", [0.0, CALM / 2, 5 * CALM])
def test_the_time_given_is_kept(seconds: float, full: Full) -> None:
    assert isinstance(error_of(background(full.wait, seconds)), SendTimeoutError)


def test_who_leaves_early_leaves_nobody_asleep(full: Full) -> None:
    """What it had asked for, half of all, may never come: the others have a time of their own."""
    first, other = (full.port.await_room(1, Deadline(math.inf), force=False) for _ in range(2))
    assert [next(steps).seconds for steps in (first, other)] == [CALM, CALM]
    first.close()
    full.records[0].release()
    assert not readable(full.port.tx.bell)
    with pytest.raises(StopIteration):
        other.send(False)


def test_who_asks_for_many_takes_nothing_from_who_asks_for_one(full: Full) -> None:
    other, late = (full.port.await_room(1, Deadline(math.inf), force=False) for _ in range(2))
    next(other)
    assert other.send(False).seconds == math.inf
    assert next(late).seconds == CALM
    full.records[0].release()
    assert readable(full.port.tx.bell)
