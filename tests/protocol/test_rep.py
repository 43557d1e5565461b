"""REP."""

from __future__ import annotations

import pytest
from wire import ID, request_id, word

from spworkers.protocol.rep import Rep
from spworkers.testing import Delivery, FakeMessage, FakePipe, Harness


@pytest.fixture
def harness() -> Harness:
    """A REP socket, with the socket's own context only."""
    harness = Harness(Rep)
    harness.open()
    return harness


@pytest.fixture
def crowd() -> Harness:
    """A REP socket with three contexts, none of which receives."""
    harness = Harness(Rep)
    for context in range(3):
        harness.open(context)
    return harness


def take(harness: Harness, context: int = 0) -> Delivery:
    request = harness.recv(context)
    assert request is not None
    return request


def answer(harness: Harness, request: Delivery, body: bytes = b"pong", context: int = 0) -> FakeMessage:
    return harness.send(context, body, header=request.header, pipe=request.pipe)


def untaken(harness: Harness) -> list[int]:
    """Who has a request that it has not taken, once for each."""
    return [context for context, lane in harness.lanes.items() for _ in lane.waiting]


STANDING = 8
"""Requests that lie ready for a sole context."""


# --- one request


def test_a_reply_beside_a_receiver_that_waits_forgets_no_request(harness: Harness) -> None:
    """As many as can lie there untaken, and the one before them that is replied to."""
    pipe = harness.connect()
    harness.feed(pipe, request_id(1) + b"1")
    first = take(harness)
    harness.wait(0)
    harness.feed(pipe, *(request_id(n) + b"%d" % n for n in range(2, STANDING + 3)))
    assert untaken(harness) == [0] * (STANDING + 1)
    answer(harness, first)
    harness.close(0)
    harness.open(1)
    assert [take(harness, 1).body for _ in range(STANDING + 1)] == [b"%d" % n for n in range(2, STANDING + 3)]


def test_a_request_and_its_reply(harness: Harness) -> None:
    pipe = harness.connect()
    harness.feed(pipe, word(5) + ID + b"ping")
    request = take(harness)
    assert (request.header, request.body, request.pipe) == (word(5) + ID, b"ping", pipe.id)
    message = answer(harness, request)
    assert pipe.sent == [word(5) + ID + b"pong"]
    assert message.state == "freed"
    assert harness.counts == {}


def test_a_request_may_be_abandoned(harness: Harness) -> None:
    pipe = harness.connect()
    harness.feed(pipe, request_id(1) + b"first", request_id(2) + b"second")
    take(harness)
    second = take(harness)
    answer(harness, second)
    assert pipe.sent == [request_id(2) + b"pong"]


@pytest.mark.parametrize("junk", [b"", b"{", b"\x00\x01", b"\x00\x01\x02\x03", b"\x00\x01\x02\x03\x80"])
def test_garbage_closes_its_pipe_and_no_other(harness: Harness, junk: bytes) -> None:
    bad, good = harness.connect(), harness.connect()
    harness.feed(bad, junk)
    harness.feed(good, ID + b"ping")
    assert bad.closed_for == "garbled"
    assert harness.pipe_counts == {(bad.id, "garbled"): 1}
    assert take(harness).body == b"ping"


def test_ttl_drops_and_keeps_the_pipe(harness: Harness) -> None:
    """Three words, TTL 2."""
    pipe = harness.connect()
    harness.configure("TTL", 2)
    harness.feed(pipe, word(1) + word(2) + ID + b"does not", word(1) + ID + b"fits")
    assert take(harness).body == b"fits"
    assert harness.pipe_counts == {(pipe.id, "ttl"): 1}
    assert pipe.attached


def test_garbage_does_not_stop_those_who_wait(harness: Harness) -> None:
    one, bad, long, two = (harness.connect() for _ in range(4))
    harness.feed(one, request_id(1) + b"1", request_id(2) + b"2")
    harness.feed(bad, b"\x00\x01\x02\x03")
    harness.feed(long, word(1) * 9 + ID)
    harness.feed(two, request_id(3) + b"3")
    assert [take(harness).body for _ in range(3)] == [b"1", b"2", b"3"]
    assert (bad.attached, long.attached) == (False, True)


# --- replies


def test_a_reply_to_a_peer_that_is_gone_is_dropped(harness: Harness) -> None:
    pipe = harness.connect()
    harness.feed(pipe, ID + b"ping")
    request = take(harness)
    harness.disconnect(pipe)
    assert answer(harness, request).state == "freed"
    assert harness.counts == {"no_pipe": 1}


def test_a_congested_pipe_holds_up_its_own_replies_only(crowd: Harness) -> None:
    slow, fast = crowd.connect(), crowd.connect()
    requests = []
    for context, pipe in enumerate((slow, slow, fast)):
        crowd.wait(context)
        crowd.feed(pipe, request_id(context) + b"ping")
        requests.append(take(crowd, context))
    crowd.congest(slow)
    messages = [answer(crowd, request, str(context).encode(), context) for context, request in enumerate(requests)]
    assert [message.state for message in messages] == ["waiting", "waiting", "freed"]
    crowd.drain(slow)
    assert slow.sent == [request_id(0) + b"0", request_id(1) + b"1"]


def test_best_effort_drops_a_reply_that_would_have_to_wait(harness: Harness) -> None:
    pipe = harness.connect()
    harness.configure("BEST-EFFORT", True)
    harness.feed(pipe, request_id(1) + b"ping", request_id(2) + b"ping")
    answer(harness, take(harness))
    assert len(pipe.sent) == 1
    harness.congest(pipe)
    assert answer(harness, take(harness)).state == "freed"
    assert harness.pipe_counts == {(pipe.id, "congested"): 1}
    assert len(pipe.sent) == 1


def test_best_effort_is_a_contexts_own_or_its_sockets(crowd: Harness) -> None:
    """B20: contexts inherit."""
    pipe = crowd.connect()
    crowd.configure("BEST-EFFORT", False, context=1)
    crowd.configure("BEST-EFFORT", True)
    crowd.congest(pipe)
    states = [crowd.send(context, b"pong", header=ID, pipe=pipe.id).state for context in range(3)]
    assert states == ["freed", "waiting", "freed"]


def test_best_effort_with_a_queue_drops_only_what_does_not_fit(harness: Harness) -> None:
    """B2"""
    harness.configure("BEST-EFFORT", True)
    harness.configure("WRITEQ-LEN", 2)
    pipe = harness.connect()
    harness.congest(pipe)
    states = [harness.send(0, b"pong", header=ID, pipe=pipe.id).state for _ in range(4)]
    assert states == ["waiting", "waiting", "freed", "freed"]


def test_a_reply_that_its_sender_took_back_is_not_sent(harness: Harness) -> None:
    pipe = harness.connect()
    harness.feed(pipe, ID + b"ping")
    harness.congest(pipe)
    message = answer(harness, take(harness))
    assert message.take_back()
    harness.drain(pipe)
    assert pipe.sent == []
    assert harness.counts == {}


def test_what_waits_for_a_pipe_goes_with_it(harness: Harness) -> None:
    pipe = harness.connect()
    harness.feed(pipe, ID + b"ping")
    harness.congest(pipe)
    message = answer(harness, take(harness))
    harness.disconnect(pipe)
    assert message.state == "freed"
    assert harness.counts == {"pipe_lost": 1}


def test_replies_of_a_closed_context_still_go_out(crowd: Harness) -> None:
    pipe = crowd.connect()
    crowd.congest(pipe)
    crowd.send(1, b"last words", header=ID, pipe=pipe.id)
    crowd.close(1)
    crowd.drain(pipe)
    assert pipe.sent == [ID + b"last words"]


# --- who gets a request


def test_a_sole_context_has_standing_demand(harness: Harness) -> None:
    pipe = harness.connect()
    harness.feed(pipe, *(request_id(number) + b"ping" for number in range(STANDING + 2)))
    assert untaken(harness) == [0] * STANDING
    assert len(pipe.unread) == 2
    assert [take(harness).header for _ in range(STANDING + 2)] == [request_id(n) for n in range(STANDING + 2)]
    assert harness.recv() is None


def test_standing_requests_go_with_their_pipe(harness: Harness) -> None:
    one, two = harness.connect(), harness.connect()
    for number in range(STANDING):
        harness.feed(one, request_id(number) + b"one")
        harness.feed(two, request_id(number) + b"two")
    first = take(harness)
    assert len(untaken(harness)) == STANDING
    harness.disconnect(one)
    assert [each.body for each in harness.lanes[0].waiting] == [b"two"] * STANDING
    assert harness.pipe_counts == {(one.id, "pipe_lost"): STANDING // 2}
    assert answer(harness, first).state == "freed"
    assert take(harness).header == request_id(0)
    harness.open(1)  # the others can still be taken back
    assert untaken(harness) == []
    harness.wait(1)
    assert take(harness, 1).header == request_id(1)


def test_what_was_replied_to_is_forgotten(harness: Harness) -> None:
    pipe = harness.connect()
    assert isinstance(harness.machine, Rep)
    delivered = harness.machine._servers[0].delivered
    for number in range(10):
        harness.feed(pipe, request_id(number) + b"ping")
        answer(harness, take(harness))
        assert len(delivered) == 0
    for number in range(100):
        harness.feed(pipe, request_id(number) + b"ping")
        take(harness)
        assert len(delivered) <= STANDING + 2


def test_abandoned_requests_do_not_pile_up(harness: Harness) -> None:
    """A program that only receives: what it took is forgotten, what it did not take is still known."""
    pipe = harness.connect()
    for number in range(1000):
        harness.feed(pipe, request_id(number) + b"ping")
        take(harness)
    harness.feed(pipe, *(request_id(number) + b"ping" for number in range(STANDING)))
    harness.open(1)
    assert untaken(harness) == []
    for number in range(STANDING):
        harness.wait(1)
        assert take(harness, 1).header == request_id(number)


def test_with_several_contexts_a_request_goes_only_where_one_waits(crowd: Harness) -> None:
    pipe = crowd.connect()
    crowd.feed(pipe, ID + b"ping")
    assert untaken(crowd) == []
    crowd.wait(1)
    assert untaken(crowd) == [1]
    answer(crowd, take(crowd, 1), context=1)
    assert pipe.sent == [ID + b"pong"]


def test_the_one_that_waits_longest_is_served_first(crowd: Harness) -> None:
    pipe = crowd.connect()
    for context in (2, 0, 1):
        crowd.wait(context)
    crowd.wants(2)
    for number in range(3):
        crowd.feed(pipe, request_id(number) + b"ping")
    assert sorted(untaken(crowd)) == [0, 1, 2]
    assert not pipe.unread


def test_requests_that_nobody_wants_wait_in_their_pipes(crowd: Harness) -> None:
    pipes = [crowd.connect() for _ in range(3)]
    for pipe in pipes:
        crowd.feed(pipe, request_id(pipe.id) + b"a", request_id(pipe.id + 10) + b"b")
    assert [len(pipe.unread) for pipe in pipes] == [2, 2, 2]
    got = []
    for _ in range(6):
        crowd.wait(1)
        got.append((crowd.lanes[1].waiting[0].pipe, take(crowd, 1).body))
    assert got == [(1, b"a"), (2, b"a"), (3, b"a"), (1, b"b"), (2, b"b"), (3, b"b")]


def test_a_slow_context_does_not_hold_up_others(crowd: Harness) -> None:
    pipe = crowd.connect()
    crowd.wait(0)
    crowd.feed(pipe, request_id(0) + b"long")
    take(crowd, 0)  # and never answers
    for number in range(1, 10):
        crowd.wait(1)
        crowd.feed(pipe, request_id(number) + b"short")
        answer(crowd, take(crowd, 1), context=1)
    assert len(pipe.sent) == 9


def test_a_second_context_ends_standing_demand(harness: Harness) -> None:
    pipe = harness.connect()
    harness.feed(pipe, request_id(1) + b"first", request_id(2) + b"second")
    assert untaken(harness) == [0, 0]
    harness.open(1)
    assert untaken(harness) == []
    harness.wait(1)
    assert take(harness, 1).body == b"first"
    harness.wait(0)
    assert take(harness, 0).body == b"second"


def test_a_request_taken_in_the_meantime_is_not_given_twice(harness: Harness) -> None:
    pipe = harness.connect()
    harness.feed(pipe, ID + b"ping")
    request = harness.lanes[0].take()
    assert request is not None
    harness.open(1)
    harness.wait(1)
    assert untaken(harness) == []
    harness.release(0, request)
    answer(harness, request)
    assert pipe.sent == [ID + b"pong"]


def test_a_reply_frees_what_it_replies_to_and_nothing_else(harness: Harness) -> None:
    pipe = harness.connect()
    harness.feed(pipe, request_id(1) + b"first", request_id(2) + b"second")
    first = take(harness)
    harness.open(1)
    harness.close(1)  # the second one was taken back meanwhile, and delivered again
    answer(harness, first)
    harness.close(0)
    harness.open(2)
    assert take(harness, 2).body == b"second"


def test_what_was_taken_back_comes_before_what_waits_in_pipes(harness: Harness) -> None:
    one, two = harness.connect(), harness.connect()
    harness.feed(one, request_id(1) + b"first")
    harness.feed(two, request_id(2) + b"second")
    harness.open(1)
    three = harness.connect()
    harness.feed(three, request_id(3) + b"third")
    got = []
    for _ in range(3):
        harness.wait(1)
        got.append(take(harness, 1).body)
    assert got == [b"first", b"second", b"third"]


def test_a_receiver_that_waits_when_a_second_context_opens_keeps_its_request(harness: Harness) -> None:
    pipe = harness.connect()
    harness.wait(0)
    harness.feed(pipe, ID + b"ping")
    harness.open(1)
    assert untaken(harness) == [0]
    assert take(harness).body == b"ping"


def test_a_receiver_gets_its_request_again_that_was_taken_back(harness: Harness) -> None:
    """Its announcement was answered; when the answer is taken back, it still waits."""
    pipe = harness.connect()
    harness.wait(0)
    harness.feed(pipe, *(request_id(number) + b"ping" for number in range(STANDING + 2)))
    assert len(untaken(harness)) == STANDING + 1
    harness.open(1)
    assert untaken(harness) == [0]
    assert take(harness).header == request_id(0)


def test_a_sole_context_again_has_standing_demand_again(harness: Harness) -> None:
    harness.open(1)
    pipe = harness.connect()
    harness.feed(pipe, ID + b"ping")
    assert untaken(harness) == []
    harness.close(1)
    assert untaken(harness) == [0]
    assert harness.lanes[0].window == STANDING


def test_a_context_that_closes_gives_its_untaken_request_to_others(crowd: Harness) -> None:
    pipe = crowd.connect()
    crowd.wait(1)
    crowd.feed(pipe, ID + b"ping")
    crowd.close(1)
    assert untaken(crowd) == []
    crowd.wait(2)
    assert take(crowd, 2).body == b"ping"


def test_the_last_context_that_closes_leaves_its_request_for_the_next(harness: Harness) -> None:
    pipe = harness.connect()
    harness.feed(pipe, request_id(1) + b"first", request_id(2) + b"second")
    harness.close()
    harness.open(4)
    assert [take(harness, 4).body, take(harness, 4).body] == [b"first", b"second"]


def test_a_request_taken_back_goes_with_its_pipe(harness: Harness) -> None:
    one, two = harness.connect(), harness.connect()
    harness.feed(one, request_id(1) + b"first")
    harness.open(1)
    harness.feed(two, request_id(2) + b"second")
    harness.disconnect(one)
    assert harness.pipe_counts == {(one.id, "pipe_lost"): 1}
    harness.wait(1)
    assert take(harness, 1).body == b"second"


def test_a_request_whose_pipe_went_before_it_was_taken_back_is_dropped(crowd: Harness) -> None:
    pipe = crowd.connect()
    crowd.wait(1)
    crowd.feed(pipe, ID + b"ping")
    crowd.disconnect(pipe)
    assert untaken(crowd) == [1]  # it waits, so it is about to be taken
    crowd.close(1)
    crowd.wait(2)
    assert untaken(crowd) == []
    assert crowd.pipe_counts == {(pipe.id, "pipe_lost"): 1}


def test_pipes_that_go_while_they_wait(crowd: Harness) -> None:
    pipes = [crowd.connect() for _ in range(5)]
    for pipe in pipes:
        crowd.feed(pipe, request_id(pipe.id) + b"ping")
    for pipe in pipes[:4]:
        crowd.disconnect(pipe)
    crowd.wait(0)
    assert take(crowd, 0).pipe == pipes[4].id


def test_events_of_contexts_that_are_not_open_do_nothing(harness: Harness) -> None:
    harness.machine.context_wants(9)
    harness.machine.context_closed(9)
    harness.configure("BEST-EFFORT", True, context=9)
    assert harness.send(9, b"", pipe=9).state == "freed"
    assert harness.counts == {"no_pipe": 1}


def test_a_machine_that_takes_over_gets_what_nobody_has_taken(harness: Harness) -> None:
    one, two = harness.connect(), harness.connect()
    harness.feed(one, request_id(1) + b"taken", request_id(2) + b"delivered")
    take(harness)
    harness.close()
    harness.feed(two, request_id(3) + b"refused")
    assert harness.machine.undelivered() == [(one.id, request_id(2) + b"delivered")]
    assert len(two.unread) == 1


# --- many


def test_backpressure_then_close(harness: Harness) -> None:
    """Some requests are in the lane, one of each peer waits, the others were not read."""
    pipes = [harness.connect() for _ in range(9)]
    for count, pipe in enumerate(pipes):
        harness.feed(pipe, *(request_id(number) + b"ping" for number in range(count + 1)))
    assert sum(len(pipe.unread) for pipe in pipes) == 45 - STANDING
    harness.close()
    assert harness.leaks() == []


def test_thirty_contexts_get_twenty_requests_each(crowd: Harness) -> None:
    for context in range(3, 30):
        crowd.open(context)
    clients: list[FakePipe] = [crowd.connect() for _ in range(10)]
    for number in range(60):
        for client in clients:
            crowd.feed(client, request_id(number) + f"{client.id}/{number}".encode())
    for _ in range(20):
        for context in range(30):
            crowd.wait(context)
        for context in range(30):
            request = take(crowd, context)
            answer(crowd, request, request.body, context)
    for client in clients:
        assert client.sent == [request_id(n) + f"{client.id}/{n}".encode() for n in range(60)]
    assert harness_is_clean(crowd)


def harness_is_clean(harness: Harness) -> bool:
    return not harness.leaks() and not harness.counts and not untaken(harness)


def test_replies_that_wait_for_a_pipe_are_handed_over_to_a_successor_of_the_machine(harness: Harness) -> None:
    pipe = harness.connect()
    harness.congest(pipe)
    harness.feed(pipe, request_id(1) + b"ping", request_id(2) + b"ping")
    first, second = answer(harness, take(harness), b"1"), answer(harness, take(harness), b"2")
    assert second.take_back()
    pipe.room, pipe.congested = None, False  # the driver queues what it is given
    harness.machine.hand_over()
    assert pipe.sent == [request_id(1) + b"1"]
    assert first.state == "freed"
    assert harness.counts == {}


def test_a_reply_to_a_peer_that_hung_up_waits_for_nothing(harness: Harness) -> None:
    pipe = harness.connect()
    harness.congest(pipe)
    harness.feed(pipe, *[request_id(number) + b"ping" for number in range(STANDING + 2)])
    held = answer(harness, take(harness))
    assert held.state == "waiting"
    harness.hang_up(pipe)
    assert held.state == "freed"
    assert answer(harness, take(harness)).state == "freed"
