"""BUS, cooked and raw."""

from __future__ import annotations

import pytest
from wire import word

from spworkers.protocol.bus import Bus
from spworkers.protocol.xbus import XBus
from spworkers.testing import Harness


def made(make: type[Bus]) -> Harness:
    harness = Harness(make)
    harness.configure("READQ-LEN", 2)
    harness.open()
    return harness


@pytest.mark.parametrize("make", [Bus, XBus])
def test_all_neighbours_get_it_and_a_sender_not_its_own(make: type[Bus]) -> None:
    harness = made(make)
    one, two = harness.connect(), harness.connect()
    harness.send(0, b"x")
    assert (one.sent, two.sent) == ([b"x"], [b"x"])
    assert harness.recv() is None


@pytest.mark.parametrize("make", [Bus, XBus])
def test_a_message_for_nobody_is_counted(make: type[Bus]) -> None:
    harness = made(make)
    assert harness.send(0, b"x").state == "freed"
    assert harness.counts == {"no_peers": 1}


@pytest.mark.parametrize(("make", "shown"), [(Bus, False), (XBus, True)])
def test_raw_shows_the_pipe_as_header(make: type[Bus], shown: bool) -> None:
    harness = made(make)
    harness.connect()
    pipe = harness.connect()
    harness.feed(pipe, b"x")
    got = harness.recv()
    assert got is not None
    assert (got.header, got.body, got.pipe) == (word(pipe.id) if shown else b"", b"x", pipe.id)


def test_raw_does_not_send_back_to_the_origin_and_strips_the_header() -> None:
    harness = made(XBus)
    one, two, three = (harness.connect() for _ in range(3))
    harness.send(0, b"x", header=word(two.id))
    assert (one.sent, two.sent, three.sent) == ([b"x"], [], [b"x"])


@pytest.mark.parametrize("header", [b"", b"abc", b"\x7f\xff\xff\xff", b"toolong"])
def test_raw_with_another_header_goes_to_all_without_it(header: bytes) -> None:
    harness = made(XBus)
    one, two = harness.connect(), harness.connect()
    harness.send(0, b"x", header=header)
    assert (one.sent, two.sent) == ([b"x"], [b"x"])


def test_raw_back_to_the_only_neighbour_is_counted() -> None:
    harness = made(XBus)
    pipe = harness.connect()
    harness.send(0, b"x", header=word(pipe.id))
    assert pipe.sent == []
    assert harness.counts == {"no_peers": 1}


@pytest.mark.parametrize("make", [Bus, XBus])
def test_a_full_receive_queue_pushes_back(make: type[Bus]) -> None:
    harness = made(make)
    pipe = harness.connect()
    harness.feed(pipe, b"1", b"2", b"3")
    assert list(pipe.unread) == [b"3"]
    assert harness.recv_all() == [b"1", b"2", b"3"]


@pytest.mark.parametrize("make", [Bus, XBus])
def test_a_send_never_waits(make: type[Bus]) -> None:
    harness = made(make)
    harness.configure("WRITEQ-LEN", 1)
    pipe = harness.connect()
    harness.congest(pipe)
    for _ in range(100):
        assert harness.send(0, b"x").state == "freed"
    assert harness.counts == {"congested": 99}
