"""Messages of PULL and SUB, dealt to workers."""

from __future__ import annotations

from functools import partial

import pytest

from spworkers.protocol.deal import Deal
from spworkers.protocol.machine import CANCEL, DATA, DONE
from spworkers.testing import Delivery, Harness


@pytest.fixture
def pull() -> Harness:
    return Harness(partial(Deal, displaces=False))


@pytest.fixture
def sub() -> Harness:
    return Harness(partial(Deal, displaces=True))


def take(harness: Harness, context: int = 1) -> Delivery:
    message = harness.recv(context)
    assert message is not None
    return message


def idle(harness: Harness) -> bool:
    assert isinstance(harness.machine, Deal)
    return harness.machine.idle


@pytest.mark.parametrize("kind", [DONE, DATA])
def test_each_message_goes_to_one_worker(pull: Harness, kind: int) -> None:
    pull.open(1)
    pull.open(2)
    pipe = pull.connect()
    pull.feed(pipe, b"", b"one", b"two")
    first, second = take(pull, 1), take(pull, 2)
    assert {first.body, second.body} == {b"", b"one"}
    assert first.header == b""
    assert pull.recv(1) is None
    pull.send(1, b"", serial=first.serial, kind=DONE)
    assert take(pull, 1).body == b"two"
    assert not idle(pull)
    assert pipe.sent == []


def test_a_message_outlives_its_pipe(pull: Harness) -> None:
    pipe = pull.connect()
    pull.feed(pipe, b"one")
    pull.disconnect(pipe)
    pull.open(1)
    message = take(pull)
    assert message.body == b"one"
    assert pull.send(1, b"", serial=message.serial, kind=DONE).state == "freed"
    assert idle(pull)
    assert pull.counts == {}


def test_the_message_of_a_dead_worker_goes_to_another_one(pull: Harness) -> None:
    pull.configure("RETRIES", 1)
    pull.open(1)
    pull.feed(pull.connect(), b"poison", b"food")
    for context in (1, 2):
        assert take(pull, context).body == b"poison"
        pull.close(context)
        pull.open(context + 1)
    assert take(pull, 3).body == b"food"
    assert pull.counts == {"died": 1}


def test_what_is_given_back_comes_again(pull: Harness) -> None:
    pull.open(1)
    pull.feed(pull.connect(), b"one")
    pull.send(1, b"", serial=take(pull).serial, kind=CANCEL)
    assert take(pull).body == b"one"


def test_a_full_backlog_holds_up_those_who_push(pull: Harness) -> None:
    pull.configure("BACKLOG", 1)
    pipe = pull.connect()
    pull.feed(pipe, *(b"%d" % number for number in range(5)))
    assert len(pipe.unread) == 3
    pull.open(1)
    for number in range(5):
        message = take(pull)
        assert message.body == b"%d" % number
        pull.send(1, b"", serial=message.serial, kind=DONE)
    assert not pipe.unread
    assert idle(pull)


def test_a_draining_puller_leaves_messages_where_they_are(pull: Harness) -> None:
    pull.open(1)
    pull.configure("DRAINING", True)
    pipe = pull.connect()
    pull.feed(pipe, b"one")
    assert list(pipe.unread) == [b"one"]


def test_a_full_backlog_of_a_subscriber_loses_the_oldest(sub: Harness) -> None:
    sub.configure("SUBSCRIBE", b"")
    sub.configure("BACKLOG", 2)
    pipe = sub.connect()
    sub.feed(pipe, *(b"%d" % number for number in range(5)))
    assert sub.counts == {"displaced": 3}
    sub.open(1)
    assert take(sub).body == b"3"


def test_topics(sub: Harness) -> None:
    sub.open(1)
    pipe = sub.connect()
    sub.feed(pipe, b"news.0")
    sub.configure("SUBSCRIBE", b"news.")
    sub.configure("SUBSCRIBE", b"sport.")
    sub.configure("UNSUBSCRIBE", b"sport.")
    sub.feed(pipe, b"news.1", b"sport.2")
    assert take(sub).body == b"news.1"
    assert sub.counts == {"unwanted": 2}
