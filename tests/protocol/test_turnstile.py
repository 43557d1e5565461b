"""Pipes that take turns at a queue that is full."""

from __future__ import annotations

import pytest

from spworkers.protocol.peers import Peers
from spworkers.testing import FakePipe, Harness


@pytest.fixture(params=[True, False], ids=["at once", "later"])
def harness(request: pytest.FixtureRequest) -> Harness:
    """A machine with one receive queue for all pipes, of two messages."""
    harness = Harness(Peers, prompt=request.param)
    harness.configure("READQ-LEN", 2)
    harness.open()
    return harness


def receive(harness: Harness, count: int) -> list[bytes]:
    """Receive so many messages, one at a time."""
    bodies = []
    for _ in range(count):
        delivery = harness.recv()
        assert delivery is not None, f"there were only {bodies}"
        bodies.append(delivery.body)
        harness.run()
    return bodies


def feed(harness: Harness, pipe: FakePipe, letter: str, count: int) -> None:
    harness.feed(pipe, *(f"{letter}{number}".encode() for number in range(count)))


def test_what_finds_no_room_waits_in_its_pipe(harness: Harness) -> None:
    pipe = harness.connect()
    feed(harness, pipe, "a", 5)
    assert len(pipe.unread) == 3
    assert receive(harness, 5) == [b"a0", b"a1", b"a2", b"a3", b"a4"]
    assert harness.recv() is None
    assert not pipe.unread


def test_pipes_take_turns(harness: Harness) -> None:
    one, two, three = harness.connect(), harness.connect(), harness.connect()
    feed(harness, one, "a", 5)
    feed(harness, two, "b", 3)
    feed(harness, three, "c", 2)
    assert receive(harness, 10) == [b"a0", b"a1", b"a2", b"b0", b"c0", b"a3", b"b1", b"c1", b"a4", b"b2"]


def test_a_pipe_that_goes_gives_its_turn_to_the_next(harness: Harness) -> None:
    one, two, three = harness.connect(), harness.connect(), harness.connect()
    feed(harness, one, "a", 4)
    feed(harness, two, "b", 1)
    feed(harness, three, "c", 1)
    harness.disconnect(two)
    assert receive(harness, 5) == [b"a0", b"a1", b"a2", b"c0", b"a3"]
    assert harness.recv() is None


def test_newcomers_do_not_overtake_one_that_was_called() -> None:
    harness = Harness(Peers, prompt=False)
    harness.configure("READQ-LEN", 1)
    harness.open()
    one, two = harness.connect(), harness.connect()
    harness.feed(one, b"a0", b"a1")
    harness.recv()  # calls the first pipe, which does not come yet
    harness.feed(two, b"b0")
    assert harness.recv() is None
    harness.run()
    assert receive(harness, 2) == [b"a1", b"b0"]


def test_a_pipe_that_goes_after_it_was_called_gives_its_turn_to_the_next() -> None:
    harness = Harness(Peers, prompt=False)
    harness.configure("READQ-LEN", 1)
    harness.open()
    one, two = harness.connect(), harness.connect()
    harness.feed(one, b"a0", b"a1")
    harness.feed(two, b"b0")
    harness.recv()
    harness.disconnect(one)
    harness.run()
    assert receive(harness, 1) == [b"b0"]


def test_more_room_by_option_lets_waiting_pipes_in(harness: Harness) -> None:
    pipe = harness.connect()
    feed(harness, pipe, "a", 5)
    harness.configure("READQ-LEN", 4)
    harness.run()
    assert len(harness.lanes[0].waiting) == 4
    harness.configure("READQ-LEN", 1)  # what was accepted is kept (B18)
    assert receive(harness, 5) == [b"a0", b"a1", b"a2", b"a3", b"a4"]


def test_options_leave_closed_contexts_alone(harness: Harness) -> None:
    harness.close()
    harness.configure("READQ-LEN", 5)
    assert harness.open().window == 5


def test_without_a_queue_messages_go_to_receivers_that_wait(harness: Harness) -> None:
    harness.configure("READQ-LEN", 0)
    pipe = harness.connect()
    feed(harness, pipe, "a", 3)
    assert harness.recv() is None
    harness.wait(0)
    harness.run()
    assert receive(harness, 1) == [b"a0"]
    assert harness.recv() is None
    harness.wait(0)
    harness.wait(0)
    harness.run()
    assert receive(harness, 2) == [b"a1", b"a2"]


def test_a_message_of_a_pipe_that_is_gone_is_counted() -> None:
    harness = Harness(Peers)
    harness.open()
    assert harness.machine.pipe_message(99, b"late")
    assert harness.pipe_counts == {(99, "unexpected"): 1}


def test_many_pipes_at_once_do_not_exhaust_the_stack(harness: Harness) -> None:
    pipes = [harness.connect() for _ in range(3000)]
    for pipe in pipes:
        harness.feed(pipe, str(pipe.id).encode())
    harness.configure("READQ-LEN", 5000)
    harness.run()
    assert harness.recv_all() == [str(pipe.id).encode() for pipe in pipes]


def test_many_waiting_pipes_go_at_once(harness: Harness) -> None:
    pipes = [harness.connect() for _ in range(3000)]
    for pipe in pipes:
        harness.feed(pipe, str(pipe.id).encode())
    for pipe in pipes[:-1]:
        harness.disconnect(pipe)
    assert receive(harness, 3)[2] == str(pipes[-1].id).encode()
