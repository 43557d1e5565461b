"""REQ with IN-FLIGHT: many requests of the socket's own context at once."""

from __future__ import annotations

import pytest

from spworkers.protocol.machine import CANCEL
from spworkers.protocol.req import Req
from spworkers.testing import FakeMessage, FakePipe, Harness

FIRST = 1 << 32


@pytest.fixture
def harness() -> Harness:
    harness = Harness(Req, seed=0)
    harness.configure("IN-FLIGHT", 8)
    harness.open(0)
    return harness


def ask(harness: Harness, number: int, *, pipe: int = 0) -> FakeMessage:
    return harness.send(0, b"%d" % number, serial=FIRST + number, pipe=pipe)


def keys(pipe: FakePipe) -> dict[bytes, bytes]:
    """The ids on the wire, by the request's body."""
    return {frame[4:]: frame[:4] for frame in pipe.sent}


def got(harness: Harness) -> list[tuple[int, bytes]]:
    found = []
    while (delivery := harness.recv(0)) is not None:
        found.append((delivery.serial - FIRST, delivery.error.encode() or delivery.body))
    return found


def test_each_answer_is_its_own_requests(harness: Harness) -> None:
    pipe = harness.connect()
    messages = [ask(harness, number) for number in range(3)]
    ids = keys(pipe)
    assert set(ids) == {b"0", b"1", b"2"}
    for number in (1, 2, 0):
        harness.feed(pipe, ids[b"%d" % number] + b"answer %d" % number)
    assert got(harness) == [(1, b"answer 1"), (2, b"answer 2"), (0, b"answer 0")]
    assert [message.state for message in messages] == ["freed"] * 3
    harness.feed(pipe, ids[b"0"] + b"again")
    assert harness.counts == {"unknown_reply": 1}
    assert harness.leaks() == []


def test_one_is_given_up_and_the_others_are_not(harness: Harness) -> None:
    pipe = harness.connect()
    ask(harness, 0)
    ask(harness, 1)
    ids = keys(pipe)
    harness.send(0, b"farewell", serial=FIRST, kind=CANCEL)
    assert pipe.sent[-1] == ids[b"0"] + b"farewell"
    harness.feed(pipe, ids[b"0"] + b"late", ids[b"1"] + b"good")
    assert got(harness) == [(1, b"good")]
    assert harness.counts == {"unknown_reply": 1}
    harness.send(0, b"", serial=FIRST, kind=CANCEL)  # a second time, and of one that is over
    harness.send(0, b"", serial=FIRST + 1, kind=CANCEL)
    assert harness.leaks() == []


def test_one_that_its_sender_took_back_is_not_sent(harness: Harness) -> None:
    first, second = ask(harness, 0), ask(harness, 1)
    first.take_back()
    pipe = harness.connect()
    assert [frame[4:] for frame in pipe.sent] == [b"1"]
    assert second.state == "claimed"


def test_a_lost_pipe_has_its_requests_sent_again(harness: Harness) -> None:
    one = harness.connect()
    for number in range(3):
        ask(harness, number)
    ids = keys(one)
    harness.feed(one, ids[b"1"] + b"good")
    harness.disconnect(one)
    other = harness.connect()
    assert [frame[4:] for frame in other.sent] == [b"0", b"2"]
    for frame in list(other.sent):
        harness.feed(other, frame[:4] + b"from the other")
    assert sorted(got(harness)) == [(0, b"from the other"), (1, b"good"), (2, b"from the other")]


def test_each_is_sent_again_at_its_own_time(harness: Harness) -> None:
    harness.configure("RETRY-TIME", 1.0)
    pipe = harness.connect()
    ask(harness, 0)
    harness.feed(pipe, keys(pipe)[b"0"] + b"good")
    harness.advance(0.5)
    ask(harness, 1)
    harness.advance(0.6)
    assert len(pipe.sent) == 2
    harness.advance(0.5)
    assert [frame[4:] for frame in pipe.sent] == [b"0", b"1", b"1"]


def test_pinned_ones_fail_with_their_pipe(harness: Harness) -> None:
    one, other = harness.connect(), harness.connect()
    ask(harness, 0, pipe=one.id)
    ask(harness, 1, pipe=other.id)
    harness.disconnect(one)
    assert got(harness) == [(0, b"CanceledError")]
    harness.feed(other, other.sent[0][:4] + b"good")
    assert got(harness) == [(1, b"good")]


def test_without_peers_they_fail_if_they_may_not_wait(harness: Harness) -> None:
    harness.configure("FAIL-NO-PEERS", True)
    pipe = harness.connect()
    ask(harness, 0)
    harness.disconnect(pipe)
    ask(harness, 1)
    assert got(harness) == [(0, b"NoPeersError"), (1, b"NoPeersError")]
    assert harness.leaks() == []


def test_answers_that_find_no_room_wait(harness: Harness) -> None:
    harness.configure("IN-FLIGHT", 2)
    pipe = harness.connect()
    for number in range(5):
        ask(harness, number)
    for frame in list(pipe.sent):
        harness.feed(pipe, frame[:4] + frame[4:])
    harness.send(0, b"", serial=FIRST + 3, kind=CANCEL)
    assert got(harness) == [(0, b"0"), (1, b"1"), (2, b"2"), (4, b"4")]
    assert harness.leaks() == []


def test_they_end_with_the_context(harness: Harness) -> None:
    pipe = harness.connect()
    messages = [ask(harness, number) for number in range(3)]
    harness.close(0)
    assert [message.state for message in messages] == ["freed"] * 3
    harness.feed(pipe, pipe.sent[0][:4] + b"late")
    assert harness.counts == {"unknown_reply": 1}


def test_other_contexts_are_conversations_as_ever(harness: Harness) -> None:
    pipe = harness.connect()
    harness.open(3)
    harness.send(3, b"one", serial=1)
    harness.send(3, b"two", serial=2)
    ids = keys(pipe)
    harness.feed(pipe, ids[b"one"] + b"late", ids[b"two"] + b"good")
    delivery = harness.recv(3)
    assert delivery is not None
    assert delivery.body == b"good"


# --- what a connection is lost by


def lose(harness: Harness, pipe: FakePipe, after: float = 0.1) -> FakePipe:
    """The connection goes, and there is another one."""
    harness.advance(after)
    harness.disconnect(pipe)
    return harness.connect()


def test_what_connections_are_lost_by_is_given_up(harness: Harness) -> None:
    pipe = harness.connect()
    small = ask(harness, 1)
    large = ask(harness, 10_000)
    for _ in range(4):
        pipe = lose(harness, pipe)
        assert set(keys(pipe)) == {b"1", b"10000"}
    pipe = lose(harness, pipe)
    assert got(harness) == [(10_000, b"ConnResetError")]
    assert set(keys(pipe)) == {b"1"}  # who was there beside it is not to blame
    harness.feed(pipe, keys(pipe)[b"1"] + b"one")
    assert got(harness) == [(1, b"one")]
    assert (small.state, large.state) == ("freed", "freed")
    assert harness.leaks() == []


def test_connections_that_have_lasted_are_no_reason(harness: Harness) -> None:
    pipe = harness.connect()
    ask(harness, 1)
    for _ in range(3):
        for after in (0.1, 0.1, 0.1, 0.1, 2.0):
            pipe = lose(harness, pipe, after)
    assert got(harness) == []


def test_a_plain_req_is_sent_for_ever() -> None:
    harness = Harness(Req, seed=0)
    harness.open(0)
    pipe = harness.connect()
    harness.send(0, b"x", serial=1)
    for _ in range(20):
        pipe = lose(harness, pipe)
        assert pipe.sent
    assert harness.recv(0) is None
