"""STAR, cooked and raw: what comes is delivered, and passed on."""

from __future__ import annotations

import pytest

from spworkers.protocol.star import Star
from spworkers.protocol.xstar import XStar
from spworkers.testing import Harness


def hops(number: int) -> bytes:
    return bytes([0, 0, 0, number])


def made(make: type[Star], ttl: int = 8) -> Harness:
    harness = Harness(make)
    harness.configure("TTL", ttl)
    harness.configure("READQ-LEN", 2)
    harness.open()
    return harness


def test_a_first_message_has_made_no_hop() -> None:
    harness = made(Star)
    one, two = harness.connect(), harness.connect()
    harness.send(0, b"x")
    assert one.sent == two.sent == [hops(0) + b"x"]
    assert harness.recv() is None


@pytest.mark.parametrize(("make", "header"), [(Star, hops(2)), (XStar, hops(3))])
def test_a_message_is_delivered_and_passed_on_but_not_back(make: type[Star], header: bytes) -> None:
    harness = made(make)
    one, two, three = (harness.connect() for _ in range(3))
    harness.feed(one, hops(2) + b"x")
    got = harness.recv()
    assert got is not None
    assert (got.header, got.body, got.pipe) == (header, b"x", one.id)
    assert (one.sent, two.sent, three.sent) == ([], [hops(3) + b"x"], [hops(3) + b"x"])


@pytest.mark.parametrize("make", [Star, XStar])
def test_ttl_counts_the_last_socket(make: type[Star]) -> None:
    """B16: TTL 3 are two nodes that pass it on, and one that receives it."""
    harness = made(make, ttl=3)
    one, two = harness.connect(), harness.connect()
    harness.feed(one, hops(2) + b"2", hops(3) + b"3")
    assert harness.recv_all() == [b"2"]
    assert two.sent == [hops(3) + b"2"]
    assert harness.pipe_counts == {(one.id, "ttl"): 1}


@pytest.mark.parametrize("make", [Star, XStar])
@pytest.mark.parametrize("junk", [b"", b"\0\0\0", b"\1\0\0\0x", b"\0\1\0\0x", b"\0\0\1\0x"])
def test_what_has_no_such_header_is_dropped_and_the_pipe_kept(make: type[Star], junk: bytes) -> None:
    harness = made(make)
    one, two = harness.connect(), harness.connect()
    harness.feed(one, junk)
    assert harness.recv() is None
    assert two.sent == []
    assert harness.pipe_counts == {(one.id, "garbled"): 1}
    assert one.attached


def test_raw_sends_its_header_as_it_is() -> None:
    harness = made(XStar)
    pipe = harness.connect()
    harness.send(0, b"x", header=hops(5))
    assert pipe.sent == [hops(5) + b"x"]


@pytest.mark.parametrize("header", [b"", b"\0\0\0", b"\1\0\0\0", b"\0\0\0\0\0"])
def test_raw_drops_quietly_what_has_no_such_header(header: bytes) -> None:
    harness = made(XStar)
    pipe = harness.connect()
    assert harness.send(0, b"x", header=header).state == "freed"
    assert pipe.sent == []
    assert harness.counts == {"bad_header": 1}


@pytest.mark.parametrize("make", [Star, XStar])
def test_a_full_receive_queue_pushes_back_and_passes_each_message_on_once(make: type[Star]) -> None:
    harness = made(make)
    one, two = harness.connect(), harness.connect()
    harness.feed(one, *(hops(0) + b"%d" % number for number in range(5)))
    assert len(one.unread) == 3
    assert harness.recv_all() == [b"0", b"1", b"2", b"3", b"4"]
    assert two.sent == [hops(1) + b"%d" % number for number in range(5)]


@pytest.mark.parametrize("make", [Star, XStar])
def test_passing_on_waits_for_nobody(make: type[Star]) -> None:
    harness = made(make)
    harness.configure("WRITEQ-LEN", 1)
    one, slow = harness.connect(), harness.connect()
    harness.congest(slow)
    harness.feed(one, hops(0) + b"1", hops(0) + b"2")
    assert harness.recv_all() == [b"1", b"2"]
    assert harness.pipe_counts == {(slow.id, "congested"): 1}
    harness.drain(slow)
    assert slow.sent == [hops(1) + b"1"]


def test_a_leaf_has_nobody_to_pass_it_on_to() -> None:
    harness = made(Star)
    harness.feed(harness.connect(), hops(0) + b"x")
    assert harness.recv_all() == [b"x"]
    assert not harness.counts
