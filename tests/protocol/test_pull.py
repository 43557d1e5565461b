"""PULL: whatever comes, in turn, with back-pressure."""

from __future__ import annotations

import pytest

from spworkers.protocol.pull import Pull
from spworkers.testing import Harness


@pytest.fixture
def harness() -> Harness:
    harness = Harness(Pull)
    harness.configure("READQ-LEN", 2)
    harness.open()
    return harness


def test_messages_come_in_order_and_without_a_header(harness: Harness) -> None:
    pipe = harness.connect()
    harness.feed(pipe, b"1", b"2")
    first = harness.recv()
    assert first is not None
    assert (first.header, first.body, first.pipe) == (b"", b"1", pipe.id)
    assert harness.recv_all() == [b"2"]


def test_a_full_queue_pushes_back_and_loses_nothing(harness: Harness) -> None:
    pipe = harness.connect()
    harness.feed(pipe, *(b"%d" % number for number in range(100)))
    assert len(pipe.unread) == 98
    assert harness.recv_all() == [b"%d" % number for number in range(100)]
    assert not harness.counts


def test_a_resize_keeps_what_was_accepted(harness: Harness) -> None:
    """B18."""
    pipe = harness.connect()
    harness.feed(pipe, b"1", b"2", b"3")
    harness.configure("READQ-LEN", 1)
    assert len(pipe.unread) == 1
    harness.configure("READQ-LEN", 3)
    assert not pipe.unread
    assert harness.recv_all() == [b"1", b"2", b"3"]


def test_without_a_queue_a_message_is_handed_to_who_waits(harness: Harness) -> None:
    harness.configure("READQ-LEN", 0)
    pipe = harness.connect()
    harness.feed(pipe, b"1", b"2")
    assert harness.recv() is None
    harness.wait(0)
    assert harness.recv_all() == [b"1"]
    assert list(pipe.unread) == [b"2"]


def test_a_send_is_refused_by_the_machine_too(harness: Harness) -> None:
    harness.connect()
    assert harness.send(0, b"x").state == "freed"
    assert harness.counts == {"unexpected": 1}
