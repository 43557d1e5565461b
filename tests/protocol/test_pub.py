"""PUB, and with it how every fan-out sends: a queue per pipe, which loses its newest."""

from __future__ import annotations

import pytest

from spworkers.protocol.pub import Pub
from spworkers.testing import Harness


@pytest.fixture
def harness() -> Harness:
    harness = Harness(Pub)
    harness.configure("WRITEQ-LEN", 2)
    harness.open()
    return harness


def publish(harness: Harness, *bodies: bytes) -> None:
    for body in bodies:
        harness.send(0, body)


def test_everybody_gets_everything_in_order(harness: Harness) -> None:
    pipes = [harness.connect() for _ in range(3)]
    publish(harness, b"1", b"2", b"3")
    assert [pipe.sent for pipe in pipes] == [[b"1", b"2", b"3"]] * 3
    assert harness.leaks() == []


def test_a_message_for_nobody_is_counted(harness: Harness) -> None:
    publish(harness, b"x")
    assert harness.counts == {"no_peers": 1}
    assert harness.connect().sent == []


def test_a_slow_pipe_keeps_its_oldest_and_holds_up_nobody(harness: Harness) -> None:
    slow, quick = harness.connect(), harness.connect()
    harness.congest(slow)
    publish(harness, *(b"%d" % number for number in range(20)))
    assert len(quick.sent) == 20
    assert harness.pipe_counts == {(slow.id, "congested"): 18}
    assert harness.machine.held() == 2
    harness.drain(slow)
    assert slow.sent == [b"0", b"1"]
    assert harness.machine.held() == 0


def test_what_waits_does_not_hold_the_senders_memory(harness: Harness) -> None:
    slow = harness.connect()
    harness.congest(slow)
    publish(harness, b"1", b"2", b"3")
    assert [message.state for message in harness.messages] == ["freed"] * 3


def test_without_a_queue_only_ready_pipes_get_it(harness: Harness) -> None:
    harness.configure("WRITEQ-LEN", 0)
    slow, quick = harness.connect(), harness.connect()
    harness.congest(slow)
    publish(harness, b"x")
    harness.drain(slow)
    publish(harness, b"y")
    assert (slow.sent, quick.sent) == ([b"y"], [b"x", b"y"])
    assert harness.pipe_counts == {(slow.id, "congested"): 1}


def test_a_shorter_queue_keeps_what_waits_already(harness: Harness) -> None:
    """B18."""
    slow = harness.connect()
    harness.congest(slow)
    publish(harness, b"1", b"2")
    harness.configure("WRITEQ-LEN", 1)
    publish(harness, b"3")
    harness.drain(slow)
    publish(harness, b"4")
    assert slow.sent == [b"1", b"2", b"4"]


def test_a_pipe_that_fills_up_again_keeps_the_rest(harness: Harness) -> None:
    slow = harness.connect()
    harness.congest(slow)
    publish(harness, b"1", b"2")
    harness.drain(slow, room=1)
    assert slow.sent == [b"1"]
    publish(harness, b"3", b"4")
    assert harness.counts == {"congested": 1}
    harness.drain(slow)
    assert slow.sent == [b"1", b"2", b"3"]


def test_what_waits_for_a_pipe_goes_with_it_and_is_counted(harness: Harness) -> None:
    slow = harness.connect()
    harness.congest(slow)
    publish(harness, b"1", b"2")
    harness.disconnect(slow)
    assert harness.counts == {"pipe_lost": 2}
    assert harness.machine.held() == 0


@pytest.mark.parametrize("prompt", [True, False])
def test_a_pipe_that_breaks_takes_no_other_along(prompt: bool) -> None:
    harness = Harness(Pub, prompt=prompt)
    harness.open()
    harness.connect(breaks=True)
    good = harness.connect()
    publish(harness, b"1", b"2")
    assert good.sent == [b"1", b"2"]
    assert len(harness.pipes) == 1


@pytest.mark.parametrize("room", [None, 1])
def test_a_pipe_that_breaks_while_its_queue_is_sent(harness: Harness, room: int | None) -> None:
    slow = harness.connect()
    harness.congest(slow)
    publish(harness, b"1", b"2")
    slow.breaks = True
    harness.drain(slow, room=room)
    assert harness.counts == {"pipe_lost": 1}


def test_what_a_subscriber_sends_is_dropped_and_counted(harness: Harness) -> None:
    pipe = harness.connect()
    harness.feed(pipe, b"junk")
    assert harness.recv() is None
    assert harness.pipe_counts == {(pipe.id, "unexpected"): 1}


def test_raw_sends_its_header_too(harness: Harness) -> None:
    pipe = harness.connect()
    harness.send(0, b"body", header=b"head")
    assert pipe.sent == [b"headbody"]
