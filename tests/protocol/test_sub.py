"""SUB, cooked and raw: topics, queues that lose their oldest, contexts."""

from __future__ import annotations

import pytest

from spworkers.protocol.sub import Sub, Topics
from spworkers.protocol.xsub import XSub
from spworkers.testing import FakePipe, Harness


@pytest.fixture
def harness() -> Harness:
    harness = Harness(Sub)
    harness.configure("READQ-LEN", 2)
    harness.open()
    return harness


@pytest.fixture
def pipe(harness: Harness) -> FakePipe:
    return harness.connect()


def subscribe(harness: Harness, *topics: bytes, context: int | None = None) -> None:
    for topic in topics:
        harness.configure("SUBSCRIBE", topic, context)


# --- topics


def test_topics_are_prefixes() -> None:
    topics = Topics()
    assert not topics.match(b"")
    topics.add(b"ab")
    topics.add(b"x")
    assert [topics.match(body) for body in (b"ab", b"abc", b"a", b"ba", b"xyz", b"")] == [
        True,
        True,
        False,
        False,
        True,
        False,
    ]
    topics.add(b"")
    assert topics.match(b"")
    assert topics.match(b"anything")
    topics.discard(b"")
    topics.discard(b"never there")
    topics.discard(b"zz")
    assert not topics.match(b"anything")


def test_without_a_topic_nothing_comes(harness: Harness, pipe: FakePipe) -> None:
    harness.feed(pipe, b"x", b"")
    assert harness.recv() is None
    assert harness.pipe_counts == {(pipe.id, "unwanted"): 2}


def test_only_what_begins_with_a_topic_comes(harness: Harness, pipe: FakePipe) -> None:
    subscribe(harness, b"ab", b"c")
    harness.feed(pipe, b"abx", b"a", b"c")
    assert harness.recv_all() == [b"abx", b"c"]
    assert harness.counts == {"unwanted": 1}


def test_the_same_topic_twice_is_once(harness: Harness, pipe: FakePipe) -> None:
    subscribe(harness, b"a", b"a")
    harness.feed(pipe, b"a1")
    assert harness.recv_all() == [b"a1"]
    harness.configure("UNSUBSCRIBE", b"a")
    harness.feed(pipe, b"a2")
    assert harness.recv_all() == []


def test_a_topic_that_is_given_up_takes_its_queued_messages_along(harness: Harness, pipe: FakePipe) -> None:
    harness.configure("READQ-LEN", 9)
    subscribe(harness, b"a", b"b", b"ab")
    harness.feed(pipe, b"a1", b"ab1", b"b1", b"a2")
    harness.configure("UNSUBSCRIBE", b"a")
    assert harness.counts == {"unsubscribed": 2}
    harness.feed(pipe, b"b2", b"a3")
    assert harness.recv_all() == [b"ab1", b"b1", b"b2"]


def test_what_was_taken_already_is_not_taken_back(harness: Harness, pipe: FakePipe) -> None:
    subscribe(harness, b"a")
    harness.feed(pipe, b"a1", b"a2")
    taken = harness.lanes[0].take()
    harness.configure("UNSUBSCRIBE", b"a")
    assert taken is not None
    assert (taken.body, taken.state) == (b"a1", "taken")
    assert harness.counts == {"unsubscribed": 1}


# --- queues


def test_a_full_queue_loses_its_oldest(harness: Harness, pipe: FakePipe) -> None:
    """As mangos' test: length 2; one, two, three come; two and three are received."""
    subscribe(harness, b"")
    harness.feed(pipe, b"one", b"two", b"three")
    assert harness.recv_all() == [b"two", b"three"]
    assert harness.counts == {"displaced": 1}
    assert not pipe.unread


def test_a_message_in_use_is_not_displaced(harness: Harness, pipe: FakePipe) -> None:
    subscribe(harness, b"")
    harness.feed(pipe, b"1")
    lease = harness.lanes[0].take()
    assert lease is not None
    harness.feed(pipe, b"2", b"3")
    assert [each.body for each in harness.lanes[0].waiting] == [b"3"]
    other = harness.lanes[0].take()
    assert other is not None
    harness.feed(pipe, b"4")
    assert harness.counts == {"displaced": 1, "congested": 1}
    harness.release(0, lease)
    harness.feed(pipe, b"5")
    assert harness.recv_all() == [b"5"]


def test_a_queue_that_is_emptied_just_then_loses_nothing(
    harness: Harness, pipe: FakePipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user takes all there is between the refusal of a message and the look for the oldest one."""
    subscribe(harness, b"")
    harness.feed(pipe, b"1", b"2")
    lane = harness.lanes[0]
    offer = lane.offer

    def offer_and_empty(pipe: int, header: bytes, body: bytes, serial: int) -> int:
        ticket = offer(pipe, header, body, serial)
        while not ticket and (delivery := lane.take()) is not None:
            lane.release(delivery)
        return ticket

    monkeypatch.setattr(lane, "offer", offer_and_empty)
    harness.feed(pipe, b"3")
    delivery = harness.recv(0)
    assert delivery is not None
    assert delivery.body == b"3"
    assert not harness.counts


def test_a_resize_keeps_what_was_accepted(harness: Harness, pipe: FakePipe) -> None:
    """B18."""
    subscribe(harness, b"")
    harness.feed(pipe, b"1", b"2")
    harness.configure("READQ-LEN", 1)
    assert harness.recv_all() == [b"1", b"2"]
    harness.feed(pipe, b"3", b"4")
    assert harness.recv_all() == [b"4"]


def test_without_a_queue_only_who_waits_gets_it(harness: Harness, pipe: FakePipe) -> None:
    """B12: mangos deadlocks."""
    harness.configure("READQ-LEN", 0)
    subscribe(harness, b"")
    harness.feed(pipe, b"lost")
    harness.wait(0)
    harness.feed(pipe, b"1")
    assert harness.recv_all() == [b"1"]
    assert harness.counts == {"congested": 1}


# --- contexts


def test_contexts_have_topics_and_queues_of_their_own(harness: Harness, pipe: FakePipe) -> None:
    subscribe(harness, b"a")
    harness.open(1)
    harness.open(2)
    subscribe(harness, b"b", b"", context=1)
    harness.configure("READQ-LEN", 3, 1)
    harness.feed(pipe, b"a1", b"b1", b"c1", b"a2")
    assert harness.recv_all(0) == [b"a1", b"a2"]
    assert harness.recv_all(1) == [b"b1", b"c1", b"a2"]
    assert harness.recv_all(2) == []
    assert harness.counts == {"displaced": 1}


def test_a_contexts_own_length_is_not_changed_by_the_sockets(harness: Harness, pipe: FakePipe) -> None:
    harness.open(1)
    harness.configure("READQ-LEN", 1, 1)
    harness.configure("READQ-LEN", 5)
    harness.open(2)
    assert [harness.lanes[context].window for context in (0, 1, 2)] == [5, 1, 5]


def test_a_closed_context_gets_nothing_more(harness: Harness, pipe: FakePipe) -> None:
    harness.open(1)
    subscribe(harness, b"", context=1)
    harness.close(1)
    harness.feed(pipe, b"x")
    assert harness.counts == {"unwanted": 1}
    harness.configure("SUBSCRIBE", b"a", 1)  # late, and for nobody


def test_a_send_is_refused_by_the_machine_too(harness: Harness, pipe: FakePipe) -> None:
    assert harness.send(0, b"x").state == "freed"
    assert pipe.sent == []
    assert harness.counts == {"unexpected": 1}


# --- raw


def test_raw_has_no_filter_and_drops_the_newest() -> None:
    harness = Harness(XSub)
    harness.configure("READQ-LEN", 2)
    harness.open()
    pipe = harness.connect()
    harness.feed(pipe, b"1", b"2", b"3")
    assert not pipe.unread
    assert harness.recv_all() == [b"1", b"2"]
    assert harness.pipe_counts == {(pipe.id, "congested"): 1}


def test_a_queue_made_0_keeps_what_lies_there_until_it_is_taken() -> None:
    harness = Harness(Sub)
    harness.open()
    harness.configure("SUBSCRIBE", b"")
    pipe = harness.connect()
    harness.feed(pipe, b"1", b"2")
    harness.configure("READQ-LEN", 0)
    harness.feed(pipe, b"3")
    assert harness.counts == {"congested": 1}
    assert harness.recv_all() == [b"1", b"2"]
