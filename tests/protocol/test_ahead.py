"""PREFETCH AUTO: requests dealt ahead of time to workers that are quick, and taken back from those that are not."""

from __future__ import annotations

import pytest
from wire import request_id

from spworkers.protocol.dispatch import Dispatcher
from spworkers.protocol.staffing import AUTO
from spworkers.testing import Delivery, FakePipe, Harness


@pytest.fixture(params=[0, 4], ids=["plain", "beside async ones"])
def harness(request: pytest.FixtureRequest) -> Harness:
    harness = Harness(Dispatcher, errors=None)
    harness.configure("CONCURRENT", request.param)
    harness.configure("PREFETCH", AUTO)
    return harness


def ask(harness: Harness, pipe: FakePipe, *numbers: int) -> None:
    for number in numbers:
        harness.feed(pipe, request_id(number) + b"%d" % number)


def take(harness: Harness, worker: int) -> Delivery:
    request = harness.recv(worker)
    assert request is not None, f"worker {worker} has nothing to do"
    return request


def answer(harness: Harness, worker: int) -> bytes:
    """Have a worker take a request and answer it at once."""
    request = take(harness, worker)
    harness.send(worker, b"done", serial=request.serial)
    return request.body


def lane(harness: Harness, worker: int) -> list[bytes]:
    """What lies untaken before a worker."""
    return [each.body for each in harness.lanes[worker].waiting]


def waiting(harness: Harness) -> int:
    assert isinstance(harness.machine, Dispatcher)
    return harness.machine.waiting


def quick(harness: Harness, *workers: int) -> FakePipe:
    """Open workers, and let each show that it answers at once."""
    pipe = harness.connect()
    for worker in workers:
        harness.open(worker)
    ask(harness, pipe, *(1000 + worker for worker in workers))
    for worker in workers:
        answer(harness, worker)
    return pipe


def test_who_is_quick_gets_requests_ahead(harness: Harness) -> None:
    harness.open(1)
    pipe = harness.connect()
    ask(harness, pipe, *range(1, 21))
    assert lane(harness, 1) == [b"1"]  # nothing is known of it yet
    answer(harness, 1)
    assert lane(harness, 1) == [b"%d" % n for n in range(2, 10)]
    assert waiting(harness) == 18  # what it has ahead has not begun
    got = [answer(harness, 1) for _ in range(19)]
    assert got == [b"%d" % n for n in range(2, 21)]
    assert waiting(harness) == 0


def test_who_is_slow_gets_one_at_a_time(harness: Harness) -> None:
    pipe = quick(harness, 1)
    ask(harness, pipe, 1)
    request = take(harness, 1)
    harness.advance(0.1)
    harness.send(1, b"done", serial=request.serial)
    ask(harness, pipe, *range(2, 9))
    assert lane(harness, 1) == [b"2"]
    for _ in range(7):
        answer(harness, 1)
    assert waiting(harness) == 0


def test_who_has_nothing_to_do_takes_over_what_another_has_ahead(harness: Harness) -> None:
    pipe = quick(harness, 1)
    ask(harness, pipe, 2, 3, 4)
    assert take(harness, 1).body == b"2"  # at which it stays
    harness.open(2)
    assert lane(harness, 2) == [b"3"]
    answer(harness, 2)
    assert lane(harness, 2) == [b"4"]
    assert lane(harness, 1) == []
    assert waiting(harness) == 0


def test_what_stands_behind_a_long_request_is_dealt_before_newer_ones(harness: Harness) -> None:
    pipe = quick(harness, 1, 2)
    ask(harness, pipe, *range(1, 17))
    assert lane(harness, 1) == [b"%d" % n for n in range(1, 17, 2)]
    take(harness, 1)  # and it stays at that
    other = take(harness, 2)
    harness.advance(0.5)
    ask(harness, pipe, *range(17, 20))
    assert lane(harness, 1) == []
    harness.send(2, b"done", serial=other.serial)
    assert [answer(harness, 2) for _ in range(17)] == [b"%d" % n for n in range(3, 20)]
    assert waiting(harness) == 0


def test_no_more_is_dealt_ahead_than_the_backlog_holds(harness: Harness) -> None:
    harness.configure("BACKLOG", 1)
    pipe = quick(harness, 1)
    ask(harness, pipe, 2, 3)
    assert lane(harness, 1) == [b"2", b"3"]
    ask(harness, pipe, 4)
    assert lane(harness, 1) == [b"2", b"3"]
    assert list(pipe.unread) == [request_id(4) + b"4"]  # there is no form for an error here


def test_what_a_dead_worker_had_ahead_is_not_to_blame(harness: Harness) -> None:
    harness.configure("RETRIES", 0)
    pipe = quick(harness, 1)
    ask(harness, pipe, 2, 3, 4)
    take(harness, 1)
    harness.close(1)
    assert harness.counts["died"] == 1
    assert waiting(harness) == 2
    harness.open(2)
    assert [answer(harness, 2) for _ in range(2)] == [b"3", b"4"]
    assert waiting(harness) == 0


def test_a_worker_that_leaves_gives_back_what_it_has_ahead(harness: Harness) -> None:
    pipe = quick(harness, 1, 2)
    ask(harness, pipe, 1, 2, 3, 4)
    one = take(harness, 1)
    harness.send(1, b"", kind=4)  # LEAVE
    harness.send(1, b"done", serial=one.serial)
    assert [answer(harness, 2) for _ in range(3)] == [b"2", b"4", b"3"]
    assert waiting(harness) == 0


def test_the_option_can_be_changed_while_there_is_something_ahead(harness: Harness) -> None:
    pipe = quick(harness, 1)
    ask(harness, pipe, 1, 2, 3)
    harness.configure("PREFETCH", 1)
    assert waiting(harness) == 0
    answer(harness, 1)
    harness.configure("PREFETCH", AUTO)
    assert waiting(harness) == 1
    assert [answer(harness, 1) for _ in range(2)] == [b"2", b"3"]
    assert waiting(harness) == 0
