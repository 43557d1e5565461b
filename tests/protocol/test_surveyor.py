"""SURVEYOR, cooked and raw."""

from __future__ import annotations

import pytest
from wire import ID, request_id, word

from spworkers.protocol.machine import CANCEL
from spworkers.protocol.surveyor import Surveyor
from spworkers.protocol.xsurveyor import XSurveyor
from spworkers.testing import FakePipe, Harness


@pytest.fixture
def harness() -> Harness:
    harness = Harness(Surveyor, seed=6)
    harness.configure("SURVEY-TIME", 1.0)
    harness.open()
    return harness


@pytest.fixture
def pipe(harness: Harness) -> FakePipe:
    return harness.connect()


def errors(harness: Harness, context: int = 0) -> list[tuple[int, str]]:
    return [(each.serial, each.error) for each in harness.lanes[context].waiting if each.error]


def test_everybody_is_asked_and_every_answer_comes(harness: Harness) -> None:
    pipes = [harness.connect() for _ in range(3)]
    harness.send(0, b"who?", serial=1)
    assert [pipe.sent for pipe in pipes] == [[request_id(7) + b"who?"]] * 3
    for pipe in pipes:
        harness.feed(pipe, request_id(7) + b"%d" % pipe.id)
    first = harness.recv()
    assert first is not None
    assert (first.header, first.body, first.serial, first.pipe) == (request_id(7), b"1", 1, pipes[0].id)
    assert harness.recv_all() == [b"2", b"3"]


def test_without_a_peer_a_survey_runs_and_is_counted(harness: Harness) -> None:
    harness.send(0, b"who?", serial=1)
    assert harness.counts == {"no_peers": 1}
    assert harness.connect().sent == []  # who comes later is not asked
    harness.advance(1.0)
    assert errors(harness) == [(1, "RecvTimeoutError")]


def test_when_the_time_is_over_the_receiver_hears_it_behind_the_answers(harness: Harness, pipe: FakePipe) -> None:
    message = harness.send(0, b"who?", serial=1)
    harness.feed(pipe, request_id(7) + b"me")
    harness.advance(0.999)
    assert errors(harness) == []
    assert message.state == "claimed"
    harness.advance(0.001)
    assert [each.error or each.body for each in harness.lanes[0].waiting] == [b"me", "RecvTimeoutError"]
    assert message.state == "freed"
    harness.feed(pipe, request_id(7) + b"late")
    assert harness.pipe_counts == {(pipe.id, "unknown_reply"): 1}
    harness.advance(100)
    assert len(harness.did("fail")) == 1


@pytest.mark.parametrize(("seconds", "ends"), [(0.0, False), (-1.0, True)])
def test_no_time_is_for_ever_and_a_negative_one_none_at_all(harness: Harness, seconds: float, ends: bool) -> None:
    """B11: mangos' SURVEY-TIME 0 expires at once."""
    harness.configure("SURVEY-TIME", seconds)
    harness.send(0, b"who?", serial=1)
    harness.advance(0.0 if ends else 1e6)
    assert errors(harness) == ([(1, "RecvTimeoutError")] if ends else [])


def test_a_new_survey_ends_the_former_one_and_takes_its_answers_back(harness: Harness, pipe: FakePipe) -> None:
    first = harness.send(0, b"first", serial=1)
    harness.feed(pipe, request_id(7) + b"queued")
    harness.send(0, b"second", serial=2)
    assert first.state == "freed"
    harness.feed(pipe, request_id(7) + b"late", request_id(8) + b"good")
    assert [(each.serial, each.body) for each in harness.lanes[0].waiting] == [(2, b"good")]
    assert harness.counts == {"canceled": 1, "unknown_reply": 1}
    harness.advance(1.0)
    assert errors(harness) == [(2, "RecvTimeoutError")]


def test_a_former_answer_does_not_take_the_place_of_a_new_one(harness: Harness, pipe: FakePipe) -> None:
    harness.configure("READQ-LEN", 1)
    harness.send(0, b"first", serial=1)
    harness.feed(pipe, request_id(7) + b"old")
    harness.send(0, b"second", serial=2)
    harness.feed(pipe, request_id(8) + b"new")
    assert harness.recv_all() == [b"new"]


def test_answers_beyond_the_queue_are_dropped(harness: Harness) -> None:
    """As mangos' test: length 2 and 100 respondents give exactly 2."""
    harness.configure("READQ-LEN", 2)
    pipes = [harness.connect() for _ in range(100)]
    harness.send(0, b"who?", serial=1)
    for pipe in pipes:
        harness.feed(pipe, request_id(7) + b"%d" % pipe.id)
        assert not pipe.unread
    assert harness.recv_all() == [b"1", b"2"]
    assert harness.counts == {"congested": 98}


def test_without_a_queue_only_who_waits_gets_an_answer(harness: Harness, pipe: FakePipe) -> None:
    harness.configure("READQ-LEN", 0)
    harness.send(0, b"who?", serial=1)
    harness.feed(pipe, request_id(7) + b"1")
    harness.wait(0)
    harness.feed(pipe, request_id(7) + b"2")
    assert harness.recv_all() == [b"2"]


@pytest.mark.parametrize("junk", [b"", b"\x80\0\0", b"\0\0\0\7", b"\x7f\xff\xff\xff\x80"])
def test_garbage_is_dropped_and_the_pipe_kept(harness: Harness, pipe: FakePipe, junk: bytes) -> None:
    harness.send(0, b"who?", serial=1)
    harness.feed(pipe, junk, request_id(99) + b"nobody's", request_id(7) + b"good")
    assert harness.recv_all() == [b"good"]
    assert harness.counts == {"garbled": 1, "unknown_reply": 1}
    assert pipe.attached


def test_a_peer_that_does_not_read_is_not_waited_for(harness: Harness, pipe: FakePipe) -> None:
    harness.configure("WRITEQ-LEN", 1)
    other = harness.connect()
    harness.congest(pipe)
    for serial in range(1, 101):
        harness.send(0, b"%d" % serial, serial=serial)
    assert len(other.sent) == 100
    assert harness.counts == {"congested": 99}
    assert len(harness.leaks()) == 1  # the one that runs


def test_contexts_have_surveys_and_options_of_their_own(harness: Harness, pipe: FakePipe) -> None:
    harness.open(1)
    harness.configure("SURVEY-TIME", 5.0, 1)
    harness.configure("SURVEY-TIME", 2.0)
    harness.configure("READQ-LEN", 1, 1)
    harness.configure("READQ-LEN", 9)
    assert [harness.lanes[context].window for context in (0, 1)] == [9, 1]
    harness.send(0, b"a", serial=1)
    harness.send(1, b"b", serial=1)
    assert pipe.sent == [request_id(7) + b"a", request_id(8) + b"b"]
    harness.feed(pipe, request_id(8) + b"B", request_id(7) + b"A")
    assert (harness.recv_all(0), harness.recv_all(1)) == ([b"A"], [b"B"])
    harness.advance(2.0)
    assert (errors(harness, 0), errors(harness, 1)) == ([(1, "RecvTimeoutError")], [])
    harness.advance(3.0)
    assert errors(harness, 1) == [(1, "RecvTimeoutError")]


def test_a_closed_contexts_survey_is_over(harness: Harness, pipe: FakePipe) -> None:
    message = harness.send(0, b"who?", serial=1)
    harness.close()
    assert message.state == "freed"
    harness.feed(pipe, request_id(7) + b"late")
    assert harness.counts == {"unknown_reply": 1}
    harness.advance(10)


def test_what_is_no_survey_is_refused(harness: Harness) -> None:
    assert harness.send(0, b"", serial=1, kind=CANCEL).state == "freed"
    assert harness.send(7, b"x", serial=1).state == "freed"
    assert harness.counts == {"unexpected": 2}


def test_a_predecessors_survey_asks_newcomers_again(harness: Harness) -> None:
    harness.send(0, b"who?", serial=5, inherited=True)
    assert not harness.counts
    pipe = harness.connect()
    assert pipe.sent == [request_id(7) + b"who?"]
    harness.feed(pipe, request_id(7) + b"me")
    assert harness.recv_all() == [b"me"]
    harness.advance(1.0)
    assert errors(harness) == [(5, "RecvTimeoutError")]
    assert harness.connect().sent == []


def test_ids_do_not_collide_after_they_wrapped() -> None:
    harness = Harness(Surveyor, seed=0x7FFFFFFE)
    harness.open(0)
    harness.open(1)
    pipe = harness.connect()
    harness.send(0, b"a", serial=1)
    harness.send(1, b"b", serial=1)
    assert pipe.sent == [b"\xff\xff\xff\xffa", b"\x80\0\0\0b"]


# --- raw


@pytest.fixture
def raw() -> Harness:
    harness = Harness(XSurveyor)
    harness.configure("READQ-LEN", 2)
    harness.open()
    return harness


def test_raw_sends_its_header_to_all_and_shows_one_word(raw: Harness) -> None:
    one, two = raw.connect(), raw.connect()
    raw.send(0, b"who?", header=word(3) + ID)
    assert one.sent == two.sent == [word(3) + ID + b"who?"]
    raw.feed(one, word(3) + ID + b"me")
    got = raw.recv()
    assert got is not None
    assert (got.header, got.body) == (word(3), ID + b"me")


@pytest.mark.parametrize("header", [b"", b"\x80\0\0"])
def test_raw_drops_quietly_what_has_no_word(raw: Harness, header: bytes) -> None:
    pipe = raw.connect()
    assert raw.send(0, b"x", header=header).state == "freed"
    assert pipe.sent == []
    raw.feed(pipe, b"\0\0\0")
    assert raw.counts == {"bad_header": 1, "garbled": 1}


def test_raw_without_a_peer_is_counted(raw: Harness) -> None:
    raw.send(0, b"x", header=ID)
    assert raw.counts == {"no_peers": 1}


def test_raw_pushes_back(raw: Harness) -> None:
    pipe = raw.connect()
    raw.feed(pipe, ID + b"1", ID + b"2", ID + b"3")
    assert len(pipe.unread) == 1
    assert raw.recv_all() == [b"1", b"2", b"3"]
