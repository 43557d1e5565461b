"""RESPONDENT, where it differs from REP: it has a queue."""

from __future__ import annotations

import pytest
from wire import ID, request_id, word

from spworkers.protocol.respondent import Respondent
from spworkers.protocol.xrespondent import XRespondent
from spworkers.testing import FakePipe, Harness


@pytest.fixture
def harness() -> Harness:
    harness = Harness(Respondent)
    harness.configure("READQ-LEN", 2)
    harness.open()
    return harness


@pytest.fixture
def pipe(harness: Harness) -> FakePipe:
    return harness.connect()


def ask(harness: Harness, pipe: FakePipe, *bodies: bytes) -> None:
    harness.feed(pipe, *(ID + body for body in bodies))


def test_an_answer_goes_back_where_the_survey_came_from(harness: Harness, pipe: FakePipe) -> None:
    harness.connect()
    harness.feed(pipe, word(5) + ID + b"who?")
    got = harness.recv()
    assert got is not None
    assert (got.header, got.body) == (word(5) + ID, b"who?")
    harness.send(0, b"me", header=got.header, pipe=got.pipe)
    assert pipe.sent == [word(5) + ID + b"me"]


def test_a_sole_context_has_a_queue_that_pushes_back(harness: Harness, pipe: FakePipe) -> None:
    ask(harness, pipe, b"1", b"2", b"3", b"4")
    assert len(pipe.unread) == 2
    assert harness.recv_all() == [b"1", b"2", b"3", b"4"]
    assert not harness.counts


def test_a_longer_queue_takes_more_at_once(harness: Harness, pipe: FakePipe) -> None:
    ask(harness, pipe, b"1", b"2", b"3", b"4")
    harness.configure("READQ-LEN", 3)
    assert len(pipe.unread) == 1
    assert harness.recv_all() == [b"1", b"2", b"3", b"4"]


def test_a_shorter_queue_keeps_what_was_accepted(harness: Harness, pipe: FakePipe) -> None:
    """B18."""
    ask(harness, pipe, b"1", b"2", b"3")
    harness.configure("READQ-LEN", 1)
    assert harness.recv_all() == [b"1", b"2", b"3"]
    ask(harness, pipe, b"4", b"5")
    assert len(pipe.unread) == 1


def test_without_a_queue_a_survey_goes_to_who_waits(harness: Harness, pipe: FakePipe) -> None:
    harness.configure("READQ-LEN", 0)
    ask(harness, pipe, b"1", b"2")
    assert harness.recv() is None
    harness.wait(0)
    assert harness.recv_all() == [b"1"]


def test_a_second_context_gets_its_share_of_what_was_queued(harness: Harness, pipe: FakePipe) -> None:
    ask(harness, pipe, b"1", b"2", b"3")
    harness.open(1)
    assert harness.lanes[0].waiting == []
    harness.wait(1)
    harness.wait(0)
    harness.wait(1)
    assert (harness.recv_all(0), harness.recv_all(1)) == ([b"2"], [b"1", b"3"])
    harness.configure("READQ-LEN", 9)
    assert [harness.lanes[context].window for context in (0, 1)] == [0, 0]
    harness.close(1)
    assert harness.lanes[0].window == 9


def test_an_answer_to_a_vanished_peer_is_dropped_and_counted(harness: Harness, pipe: FakePipe) -> None:
    ask(harness, pipe, b"who?")
    got = harness.recv()
    harness.disconnect(pipe)
    assert got is not None
    assert harness.send(0, b"me", header=got.header, pipe=got.pipe).state == "freed"
    assert harness.counts == {"no_pipe": 1}


@pytest.mark.parametrize("make", [Respondent, XRespondent])
def test_ttl_means_the_same_cooked_and_raw(make: type[Respondent]) -> None:
    """B16: mangos' raw respondent is off by one."""
    harness = Harness(make)
    harness.configure("TTL", 3)
    harness.open()
    pipe = harness.connect()
    harness.feed(pipe, word(1) + word(2) + request_id(3) + b"3", word(1) + word(2) + word(3) + request_id(4) + b"4")
    assert harness.recv_all() == [b"3"]
    assert harness.counts == {"ttl": 1}


def test_raw_shows_the_pipe_and_takes_it_off_again() -> None:
    harness = Harness(XRespondent)
    harness.open()
    pipe = harness.connect()
    ask(harness, pipe, b"who?")
    got = harness.recv()
    assert got is not None
    assert got.header == word(pipe.id) + ID
    harness.send(0, b"me", header=got.header)
    assert pipe.sent == [ID + b"me"]
