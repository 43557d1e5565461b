"""PAIR: two peers, and nobody else."""

from __future__ import annotations

import pytest

from spworkers.protocol.pair import Pair
from spworkers.testing import Harness


@pytest.fixture
def harness() -> Harness:
    harness = Harness(Pair)
    harness.open()
    return harness


def test_messages_go_both_ways_as_they_are(harness: Harness) -> None:
    pipe = harness.connect()
    harness.send(0, b"ping")
    assert pipe.sent == [b"ping"]
    harness.feed(pipe, b"pong")
    got = harness.recv()
    assert got is not None
    assert (got.header, got.body) == (b"", b"pong")


def test_a_second_peer_is_turned_away_until_the_first_is_gone(harness: Harness) -> None:
    first = harness.connect()
    second = harness.connect()
    assert (first.accepted, second.accepted) == (True, False)
    harness.send(0, b"x")
    assert (first.sent, second.sent) == ([b"x"], [])
    harness.disconnect(first)
    assert harness.connect().accepted


def test_what_a_peer_did_not_take_goes_to_the_next_one(harness: Harness) -> None:
    harness.send(0, b"0")
    first = harness.connect(room=2)
    for number in range(1, 5):
        harness.send(0, b"%d" % number)
    assert first.sent == [b"0", b"1"]
    harness.disconnect(first)
    assert harness.connect().sent == [b"2", b"3", b"4"]
    assert harness.leaks() == []


def test_back_pressure(harness: Harness) -> None:
    harness.configure("READQ-LEN", 1)
    pipe = harness.connect()
    harness.feed(pipe, b"1", b"2", b"3")
    assert list(pipe.unread) == [b"2", b"3"]
    assert harness.recv_all() == [b"1", b"2", b"3"]


def test_a_peer_that_hung_up_gets_nothing_more_and_what_it_sent_still_comes(harness: Harness) -> None:
    harness.machine.configure(None, "READQ-LEN", 1)
    first = harness.connect()
    harness.feed(first, b"0", b"1", b"2")
    harness.hang_up(first)
    harness.send(0, b"for the next one")
    assert first.sent == []
    assert harness.recv_all() == [b"0", b"1", b"2"]
    harness.disconnect(first)
    second = harness.connect()
    assert second.sent == [b"for the next one"]
    assert harness.counts == {}
