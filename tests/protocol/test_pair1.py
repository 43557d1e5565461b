"""PAIR1, cooked and raw: hops are counted."""

from __future__ import annotations

import pytest

from spworkers.protocol.pair1 import Pair1
from spworkers.protocol.xpair1 import XPair1
from spworkers.testing import Harness


def hops(number: int) -> bytes:
    return bytes([0, 0, 0, number])


def made(make: type[Pair1], ttl: int = 8) -> Harness:
    harness = Harness(make)
    harness.configure("TTL", ttl)
    harness.open()
    return harness


def test_a_first_message_has_made_one_hop() -> None:
    """As nng sends it; mangos sends 0, and takes both."""
    harness = made(Pair1)
    pipe = harness.connect()
    harness.send(0, b"body")
    assert pipe.sent == [hops(1) + b"body"]


@pytest.mark.parametrize("first", [0, 1])
def test_peers_may_begin_at_zero_or_one(first: int) -> None:
    harness = made(Pair1, ttl=1)
    harness.feed(harness.connect(), hops(first) + b"body")
    assert harness.recv_all() == [b"body"]


@pytest.mark.parametrize("make", [Pair1, XPair1])
def test_ttl_hops_are_taken_and_one_more_is_not(make: type[Pair1]) -> None:
    harness = made(make, ttl=4)
    pipe = harness.connect()
    harness.feed(pipe, hops(4) + b"4", hops(5) + b"5")
    assert harness.recv_all() == [b"4"]
    assert harness.pipe_counts == {(pipe.id, "ttl"): 1}


@pytest.mark.parametrize("make", [Pair1, XPair1])
def test_255_hops_are_always_too_many(make: type[Pair1]) -> None:
    harness = made(make, ttl=255)
    harness.feed(harness.connect(), hops(254) + b"254", hops(255) + b"255")
    assert harness.recv_all() == [b"254"]
    assert harness.counts == {"ttl": 1}


@pytest.mark.parametrize("make", [Pair1, XPair1])
@pytest.mark.parametrize("junk", [b"", b"\0\0\0", b"\1\0\0\1x", b"\0\1\0\1x", b"\0\0\1\1x", b"\x80\0\0\1x"])
def test_what_has_no_such_header_is_dropped_and_the_pipe_kept(make: type[Pair1], junk: bytes) -> None:
    harness = made(make)
    pipe = harness.connect()
    harness.feed(pipe, junk, hops(1) + b"good")
    assert harness.recv_all() == [b"good"]
    assert harness.pipe_counts == {(pipe.id, "garbled"): 1}
    assert pipe.attached


def test_raw_shows_the_count_raised_by_one() -> None:
    harness = made(XPair1)
    harness.feed(harness.connect(), hops(2) + b"body")
    got = harness.recv()
    assert got is not None
    assert (got.header, got.body) == (hops(3), b"body")


def test_raw_sends_its_header_as_it_is() -> None:
    harness = made(XPair1)
    pipe = harness.connect()
    harness.send(0, b"body", header=hops(3))
    assert pipe.sent == [hops(3) + b"body"]


@pytest.mark.parametrize("header", [b"", b"\0\0\1", b"\1\0\0\0", b"\0\1\0\0", b"\0\0\1\0", b"\0\0\0\1\0"])
def test_raw_drops_quietly_what_has_no_such_header(header: bytes) -> None:
    harness = made(XPair1)
    pipe = harness.connect()
    assert harness.send(0, b"body", header=header).state == "freed"
    assert pipe.sent == []
    assert harness.counts == {"bad_header": 1}


def test_a_second_peer_is_turned_away() -> None:
    harness = made(Pair1)
    assert harness.connect().accepted
    assert not harness.connect().accepted
