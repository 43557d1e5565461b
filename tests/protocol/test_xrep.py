"""Raw REP."""

from __future__ import annotations

import pytest
from wire import ID, request_id, word

from spworkers.protocol.xrep import XRep
from spworkers.testing import FakeMessage, FakePipe, Harness


@pytest.fixture
def harness() -> Harness:
    harness = Harness(XRep)
    harness.open()
    return harness


def reply(harness: Harness, pipe: FakePipe, body: bytes, trace: bytes = ID) -> FakeMessage:
    return harness.send(0, body, header=word(pipe.id) + trace)


def test_a_request_comes_with_the_way_back(harness: Harness) -> None:
    pipe = harness.connect()
    harness.feed(pipe, word(5) + word(6) + ID + b"ping")
    request = harness.recv()
    assert request is not None
    assert (request.header, request.body, request.pipe) == (word(pipe.id) + word(5) + word(6) + ID, b"ping", pipe.id)


def test_a_reply_goes_that_way(harness: Harness) -> None:
    one, two = harness.connect(), harness.connect()
    message = reply(harness, two, b"pong", word(5) + ID)
    assert (one.sent, two.sent) == ([], [word(5) + ID + b"pong"])
    assert message.state == "freed"


@pytest.mark.parametrize("header", [b"", b"\x00\x00\x00"])
def test_a_header_that_names_no_pipe_is_dropped_quietly(harness: Harness, header: bytes) -> None:
    harness.connect()
    assert harness.send(0, b"body", header=header).state == "freed"
    assert harness.counts == {"bad_header": 1}


@pytest.mark.parametrize("number", [0, 2, 0x80000001, 0xFFFFFFFF])
def test_a_pipe_that_is_not_there_is_dropped_quietly(harness: Harness, number: int) -> None:
    harness.connect()
    assert harness.send(0, b"body", header=word(number) + ID).state == "freed"
    assert harness.counts == {"no_pipe": 1}


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("junk", [b"", b"{", b"\x00\x01", b"\x00\x01\x02\x03", b"\x00\x01\x02\x03\x80"])
def test_garbage_closes_its_pipe_and_no_other(junk: bytes, prompt: bool) -> None:
    harness = Harness(XRep, prompt=prompt)
    harness.open()
    bad, good = harness.connect(), harness.connect()
    harness.feed(bad, junk)
    harness.feed(good, ID + b"ping")
    assert bad.closed_for == "garbled"
    assert not bad.attached
    assert harness.pipe_counts == {(bad.id, "garbled"): 1}
    assert harness.recv_all() == [b"ping"]


def test_ttl_drops_and_keeps_the_pipe(harness: Harness) -> None:
    pipe = harness.connect()
    harness.configure("TTL", 2)
    harness.feed(pipe, word(1) + ID + b"fits", word(1) + word(2) + ID + b"does not")
    assert harness.recv_all() == [b"fits"]
    assert harness.pipe_counts == {(pipe.id, "ttl"): 1}
    assert pipe.attached


def test_ttl_is_eight_by_default(harness: Harness) -> None:
    pipe = harness.connect()
    harness.feed(pipe, word(1) * 7 + ID + b"fits", word(1) * 8 + ID + b"does not")
    assert harness.recv_all() == [b"fits"]


def test_a_congested_pipe_holds_up_nobody_else(harness: Harness) -> None:
    slow, fast = harness.connect(), harness.connect()
    harness.congest(slow)
    waiting = [reply(harness, slow, str(number).encode()) for number in range(3)]
    reply(harness, fast, b"here")
    assert fast.sent == [ID + b"here"]
    assert {message.state for message in waiting} == {"waiting"}
    assert waiting[1].take_back()
    harness.drain(slow, room=1)
    assert slow.sent == [ID + b"0"]
    assert slow.congested
    harness.drain(slow)
    assert slow.sent == [ID + b"0", ID + b"2"]
    assert harness.leaks() == []


def test_replies_to_one_pipe_keep_their_order(harness: Harness) -> None:
    pipe = harness.connect(room=1)
    for number in range(4):
        reply(harness, pipe, str(number).encode())
    harness.drain(pipe, room=2)
    reply(harness, pipe, b"4")
    harness.drain(pipe)
    assert [frame[4:] for frame in pipe.sent] == [b"0", b"1", b"2", b"3", b"4"]


def test_what_waits_for_a_pipe_goes_with_it(harness: Harness) -> None:
    pipe = harness.connect()
    harness.congest(pipe)
    kept, taken_back = reply(harness, pipe, b"1"), reply(harness, pipe, b"2")
    taken_back.take_back()
    harness.disconnect(pipe)
    assert (kept.state, taken_back.state) == ("freed", "taken back")
    assert harness.pipe_counts == {(pipe.id, "pipe_lost"): 1}


def test_best_effort_drops_only_what_does_not_fit(harness: Harness) -> None:
    """B2"""
    pipe = harness.connect()
    harness.configure("BEST-EFFORT", True)
    harness.configure("WRITEQ-LEN", 2)
    for number in range(100):
        reply(harness, pipe, str(number).encode())
    assert len(pipe.take()) == 100
    harness.congest(pipe)
    messages = [reply(harness, pipe, str(number).encode()) for number in range(4)]
    assert [message.state for message in messages] == ["waiting", "waiting", "freed", "freed"]
    assert harness.pipe_counts == {(pipe.id, "congested"): 2}
    harness.drain(pipe)
    assert [frame[4:] for frame in pipe.sent] == [b"0", b"1"]


def test_a_connection_that_breaks_under_a_queue() -> None:
    harness = Harness(XRep)
    harness.open()
    pipe = harness.connect()
    harness.congest(pipe)
    messages = [reply(harness, pipe, str(number).encode()) for number in range(3)]
    pipe.breaks = True
    harness.drain(pipe)
    assert {message.state for message in messages} == {"freed"}
    assert harness.counts == {"pipe_lost": 2}


def test_sent_messages_stay_in_use_until_the_kernel_has_them() -> None:
    harness = Harness(XRep, hold=True)
    harness.open()
    pipe = harness.connect()
    message = reply(harness, pipe, b"pong")
    assert harness.leaks() == [message]
    harness.flush(pipe)
    assert harness.leaks() == []


def test_pipes_take_turns_at_a_full_queue(harness: Harness) -> None:
    harness.configure("READQ-LEN", 1)
    one, two = harness.connect(), harness.connect()
    harness.feed(one, *(request_id(number) + b"a" for number in range(3)))
    harness.feed(two, *(request_id(number) + b"b" for number in range(3)))
    assert harness.recv_all() == [b"a", b"a", b"b", b"a", b"b", b"b"]


def test_a_device_and_back(harness: Harness) -> None:
    pipe = harness.connect()
    harness.feed(pipe, word(9) + ID + b"ping")
    request = harness.recv()
    assert request is not None
    harness.send(0, b"pong", header=request.header)
    assert pipe.sent == [word(9) + ID + b"pong"]


# ---- in a device, which does not bound what waits for one peer


@pytest.fixture
def device(harness: Harness) -> Harness:
    """The harness; in a device that waits for room all the time."""
    harness.machine.now = harness.clock.now
    harness.machine.in_device(True)
    harness.hungry.add(0)
    return harness


def test_a_peer_that_reads_nothing_while_a_device_has_no_room_is_disconnected(device: Harness) -> None:
    stuck, slow, quick = device.connect(), device.connect(), device.connect()
    device.congest(stuck)
    device.congest(slow)
    waiting = [reply(device, stuck, b"%d" % number) for number in range(3)]
    for _ in range(6):
        device.advance(0.5)
        slow.taken += 1
    assert (stuck.closed_for, slow.attached, quick.attached) == ("stalled", True, True)
    assert [message.state for message in waiting] == ["freed"] * 3
    assert device.counts == {"stalled": 1, "pipe_lost": 3}


def test_a_peer_that_reads_nothing_is_left_alone_while_there_is_room_for_others(device: Harness) -> None:
    stuck = device.connect()
    device.congest(stuck)
    device.hungry.clear()
    device.advance(10.0)
    device.hungry.add(0)  # for a moment, at one look
    device.advance(1.0)
    device.hungry.clear()
    device.advance(10.0)
    assert stuck.attached


def test_nobody_is_disconnected_once_the_device_is_over(device: Harness) -> None:
    stuck = device.connect()
    device.congest(stuck)
    device.machine.in_device(False)
    device.advance(10.0)
    assert stuck.attached
    assert device.machine.deadline == float("inf")
    device.machine.now = device.clock.now
    device.machine.in_device(True)
    device.advance(10.0)
    assert stuck.closed_for == "stalled"
