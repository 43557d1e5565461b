"""The harness itself: what would corrupt a real driver fails a test."""

from __future__ import annotations

import pytest

from spworkers.protocol.machine import CAUSES, Machine
from spworkers.protocol.peers import Peers
from spworkers.protocol.rep import Rep
from spworkers.protocol.req import Req
from spworkers.testing import FakeLane, FakeMessage, Harness, VirtualClock

# --- the clock


def test_time_passes_when_told_to() -> None:
    clock = VirtualClock(5.0)
    assert clock() == 5.0
    assert clock.advance(1.5) == 6.5
    assert clock.advance_to(6.0) == 6.5
    assert clock.advance_to(7.0) == 7.0
    assert repr(clock) == "<VirtualClock at 7 s>"
    with pytest.raises(ValueError, match="back"):
        clock.advance(-1)


# --- messages


def test_a_message_is_claimed_once_and_freed_by_its_last_user() -> None:
    message = FakeMessage(b"body", b"head", serial=3)
    assert (message.payload, message.size) == (b"headbody", 4)
    assert message.claim()
    message.retain()
    message.release()
    assert message.state == "claimed"
    message.release()
    assert message.state == "freed"
    assert "freed" in repr(message)
    assert not message.take_back()


def test_a_message_that_was_taken_back_cannot_be_claimed() -> None:
    message = FakeMessage(b"body")
    assert message.take_back()
    assert not message.claim()
    assert not FakeMessage(b"body", inherited=True).take_back()


@pytest.mark.parametrize("misuse", ["claim", "retain", "release"])
def test_misuse_of_a_message_is_found(misuse: str) -> None:
    message = FakeMessage(b"body")
    if misuse == "claim":
        message.claim()
    with pytest.raises(AssertionError, match=misuse):
        getattr(message, misuse)()


# --- lanes


def test_a_lane_takes_what_its_window_allows() -> None:
    lane = FakeLane()
    lane.window = 1
    assert lane.open
    first = lane.offer(1, b"head", b"body", 7)
    assert first
    assert not lane.offer(1, b"", b"", 0)
    assert lane.armed
    assert not lane.open
    taken = lane.take()
    assert taken is not None
    assert (taken.header, taken.body, taken.serial, taken.error) == (b"head", b"body", 7, "")
    assert not lane.open  # it is in use still
    assert not lane.revoke(first)
    lane.release(taken)
    assert lane.open
    assert lane.take() is None
    with pytest.raises(AssertionError, match="not in use"):
        lane.release(taken)


def test_a_lane_takes_one_more_for_each_that_waits() -> None:
    lane = FakeLane()
    lane.demand = 1
    ticket = lane.offer(1, b"", b"", 0)
    assert ticket
    assert not lane.offer(1, b"", b"", 0)
    assert lane.revoke(ticket)
    assert lane.demand == 1  # who waited waits again
    assert not lane.revoke(ticket)
    assert lane.withdraw()
    assert not lane.withdraw()


def test_an_error_passes_over_the_window() -> None:
    lane = FakeLane()
    lane.force(7, "CanceledError")
    found = lane.take()
    assert found is not None
    assert (found.error, found.serial) == ("CanceledError", 7)
    assert "CanceledError" in repr(found)


# --- the harness


def test_its_example() -> None:
    harness = Harness(Req, seed=6)
    harness.open(0)
    pipe = harness.connect()
    harness.send(0, b"ping", serial=1)
    assert pipe.take() == [bytes.fromhex("80000007") + b"ping"]
    assert pipe.sent == []
    harness.feed(pipe, bytes.fromhex("80000007") + b"pong")
    reply = harness.recv(0)
    assert reply is not None
    assert reply.body == b"pong"
    assert harness.leaks() == []
    assert repr(pipe) == "<FakePipe 1: ready, 0 sent>"


def test_illegal_actions_are_found() -> None:
    harness = Harness(Machine)
    lane = harness.open()
    pipe = harness.connect()
    message = FakeMessage(b"body")
    with pytest.raises(AssertionError, match="without being claimed"):
        harness.transmit(pipe.id, b"", message, 0)
    message.claim()
    with pytest.raises(AssertionError, match="5 bytes"):
        harness.transmit(pipe.id, b"", message, 5)
    with pytest.raises(AssertionError, match="pipe 9, which is gone"):
        harness.transmit(9, b"", message, 0)
    harness.congest(pipe)
    with pytest.raises(AssertionError, match="congested"):
        harness.transmit_bytes(pipe.id, b"frame")
    with pytest.raises(AssertionError, match="nothing of it was refused"):
        harness.resume(pipe.id)
    with pytest.raises(AssertionError, match="no declared cause"):
        harness.count("bad luck")
    with pytest.raises(AssertionError, match="0 drops"):
        harness.count(next(iter(CAUSES)), n=0)
    with pytest.raises(AssertionError, match="2 of 1 pipes"):
        harness.set_ready(2)
    with pytest.raises(AssertionError, match="header of 9 bytes"):
        harness.deliver(0, pipe.id, b"payload", 9, 0, b"")
    with pytest.raises(AssertionError, match="not open"):
        harness.kill(5, "no reason")
    assert lane.deliveries == []


def test_a_pipe_can_be_refused() -> None:
    class Unsociable:
        deadline = float("inf")
        now = 0.0

        def __init__(self, out: object) -> None:
            pass

        def pipe_added(self, pipe: int) -> bool:
            return False

    harness = Harness(Unsociable)  # type: ignore[arg-type]
    pipe = harness.connect()
    assert not pipe.accepted
    assert harness.pipes == {}
    assert "gone" in repr(pipe)


def test_a_deadline_that_never_moves_on_is_found() -> None:
    class Stuck:
        deadline = 1000.0
        now = 0.0

        def __init__(self, out: object) -> None:
            pass

        def timer_due(self) -> None:
            pass

    with pytest.raises(AssertionError, match="does not get past"):
        Harness(Stuck).advance(1)  # type: ignore[arg-type]


def test_demand_is_told_only_where_a_delivery_was_refused() -> None:
    """No machine may count on more."""
    wants: list[int] = []
    harness = Harness(Peers)
    harness.configure("READQ-LEN", 0)
    harness.open()
    pipe = harness.connect()
    original = harness.wants
    harness.wants = lambda context: (wants.append(context), original(context))[1]  # type: ignore[method-assign]
    harness.wait(0)
    assert wants == []
    harness.feed(pipe, b"first", b"second")
    harness.recv()
    assert wants == []
    harness.wait(0)
    assert wants == [0]
    assert harness.recv_all() == [b"second"]


def test_a_machine_that_does_not_set_a_window_gets_the_drivers() -> None:
    harness = Harness(Machine)
    assert harness.open().window > 0


def test_what_is_held_is_in_use_until_the_kernel_has_it() -> None:
    harness = Harness(Req, hold=True, seed=0)
    harness.open()
    pipe = harness.connect()
    message = harness.send(0, b"query", serial=1)
    harness.feed(pipe, b"\x80\x00\x00\x01answer")
    assert harness.leaks() == [message]
    harness.disconnect(pipe)
    assert harness.leaks() == []


def test_a_deferred_close_leaves_the_pipe_until_it_is_finished() -> None:
    harness = Harness(Rep, defer_close=True)
    harness.open()
    pipe = harness.connect()
    harness.feed(pipe, b"no backtrace")
    assert (pipe.closed_for, pipe.attached) == ("garbled", True)
    harness.feed(pipe, b"\x80\x00\x00\x01a good one, before the close has reached the connection")
    harness.finish_close(pipe)
    assert not pipe.attached
    with pytest.raises(AssertionError, match="not closed by the machine"):
        harness.finish_close(harness.connect())
