"""PUSH: one queue, peers in turn."""

from __future__ import annotations

import pytest

from spworkers.protocol.push import Push
from spworkers.testing import Harness


@pytest.fixture
def harness() -> Harness:
    harness = Harness(Push)
    harness.open()
    return harness


def test_a_message_goes_as_it_is(harness: Harness) -> None:
    pipe = harness.connect()
    message = harness.send(0, b"body", header=b"raw")
    assert pipe.sent == [b"rawbody"]
    assert message.state == "freed"


def test_five_peers_get_twenty_each(harness: Harness) -> None:
    pipes = [harness.connect() for _ in range(5)]
    for number in range(100):
        harness.send(0, b"%d" % number)
    assert [[int(frame) for frame in pipe.sent] for pipe in pipes] == [list(range(n, 100, 5)) for n in range(5)]


def test_a_busy_peer_is_passed_over_and_comes_back_last(harness: Harness) -> None:
    one, two, three = (harness.connect() for _ in range(3))
    harness.congest(one)
    for number in range(4):
        harness.send(0, b"%d" % number)
    assert (one.sent, two.sent, three.sent) == ([], [b"0", b"2"], [b"1", b"3"])
    harness.drain(one)
    for number in range(4, 7):
        harness.send(0, b"%d" % number)
    assert (one.sent, two.sent, three.sent) == ([b"6"], [b"0", b"2", b"4"], [b"1", b"3", b"5"])


def test_without_a_peer_messages_wait_unclaimed_and_in_order(harness: Harness) -> None:
    first, second, third = (harness.send(0, body) for body in (b"1", b"2", b"3"))
    assert {first.state, second.state, third.state} == {"waiting"}
    assert second.take_back()
    assert harness.connect().sent == [b"1", b"3"]
    assert harness.leaks() == []


def test_what_a_peer_sends_is_dropped_and_the_pipe_kept(harness: Harness) -> None:
    pipe = harness.connect()
    harness.feed(pipe, b"junk", b"")
    assert harness.recv() is None
    assert harness.pipe_counts == {(pipe.id, "unexpected"): 2}
    assert pipe.attached


def test_ready_peers_are_told(harness: Harness) -> None:
    one, two = harness.connect(), harness.connect()
    harness.congest(one)
    assert harness.ready == 1
    harness.disconnect(two)
    assert harness.ready == 0


def test_what_waits_when_the_socket_closes_goes_to_the_next_peer(harness: Harness) -> None:
    message = harness.send(0, b"last words")
    harness.close()
    assert message.state == "waiting"
    assert harness.connect().sent == [b"last words"]


@pytest.mark.parametrize("prompt", [True, False])
def test_a_peer_that_breaks_takes_one_message_along_at_most(prompt: bool) -> None:
    harness = Harness(Push, prompt=prompt)
    harness.open()
    harness.connect(breaks=True)
    for number in range(3):
        harness.send(0, b"%d" % number)
    good = harness.connect()
    assert good.sent == [b"1", b"2"]
    assert harness.leaks() == []
