"""REQ."""

from __future__ import annotations

import pytest
from wire import request_id

from spworkers.protocol.machine import CANCEL, NEVER
from spworkers.protocol.req import Req
from spworkers.testing import FakeMessage, FakePipe, Harness


@pytest.fixture
def harness() -> Harness:
    """A REQ socket whose first request has id 1."""
    harness = Harness(Req, seed=0)
    harness.open()
    return harness


def ask(harness: Harness, body: bytes = b"query", *, serial: int = 1, context: int = 0) -> FakeMessage:
    return harness.send(context, body, serial=serial)


def ids(pipe: FakePipe) -> list[bytes]:
    return [frame[:4] for frame in pipe.sent]


def received(harness: Harness, context: int = 0) -> list[tuple[int, bytes, str]]:
    found = []
    delivery = harness.recv(context)
    while delivery is not None:
        found.append((delivery.serial, b"" if delivery.error else delivery.body, delivery.error))
        delivery = harness.recv(context)
    return found


# --- one request


def test_a_request_and_its_reply(harness: Harness) -> None:
    pipe = harness.connect()
    message = ask(harness, serial=7)
    assert pipe.sent == [request_id(1) + b"query"]
    assert message.state == "claimed"  # it may have to be sent again
    harness.feed(pipe, request_id(1) + b"answer")
    reply = harness.recv()
    assert reply is not None
    assert (reply.header, reply.body, reply.pipe, reply.serial) == (request_id(1), b"answer", pipe.id, 7)
    assert message.state == "freed"
    assert harness.counts == {}


def test_ids_count_up_and_have_the_top_bit(harness: Harness) -> None:
    pipe = harness.connect()
    for serial in range(1, 4):
        ask(harness, serial=serial)
    assert ids(pipe) == [request_id(1), request_id(2), request_id(3)]


def test_the_first_id_is_random() -> None:
    first = set()
    for _ in range(5):
        harness = Harness(Req)
        harness.open()
        pipe = harness.connect()
        ask(harness)
        first.add(ids(pipe)[0])
    assert len(first) > 1


def test_ids_wrap_around() -> None:
    harness = Harness(Req, seed=0x7FFFFFFE)
    pipe = harness.connect()
    for context in range(3):
        harness.open(context)
        ask(harness, context=context)
    assert ids(pipe) == [request_id(0x7FFFFFFF), request_id(0), request_id(1)]


def test_an_id_in_use_is_left_out(harness: Harness) -> None:
    pipe = harness.connect()
    harness.open(1)
    ask(harness)
    assert isinstance(harness.machine, Req)
    harness.machine._last_id = 0  # as after two thousand million requests of other contexts
    ask(harness, context=1)
    assert ids(pipe) == [request_id(1), request_id(2)]


def test_the_first_reply_counts(harness: Harness) -> None:
    one, two = harness.connect(), harness.connect()
    ask(harness)
    harness.feed(two, request_id(1) + b"from another pipe")
    harness.feed(one, request_id(1) + b"too late")
    reply = harness.recv()
    assert reply is not None
    assert (reply.body, reply.pipe) == (b"from another pipe", two.id)
    assert harness.recv() is None
    assert harness.counts == {"unknown_reply": 1}


@pytest.mark.parametrize("junk", [b"", b"\x80", b"\x80\x00\x00", b"\x00\x00\x00\x01x", b"\x7f\xff\xff\xffx"])
def test_garbage_is_ignored(harness: Harness, junk: bytes) -> None:
    """The RFC: a reply without the top bit must be ignored."""
    pipe = harness.connect()
    ask(harness)
    harness.feed(pipe, junk, request_id(1) + b"answer")
    assert received(harness) == [(1, b"answer", "")]
    assert harness.pipe_counts == {(pipe.id, "garbled"): 1}
    assert pipe.attached


def test_an_unknown_id_is_ignored(harness: Harness) -> None:
    pipe = harness.connect()
    ask(harness)
    harness.feed(pipe, request_id(2) + b"answer")
    assert received(harness) == []
    assert harness.pipe_counts == {(pipe.id, "unknown_reply"): 1}


def test_a_reply_to_what_was_never_sent_is_ignored(harness: Harness) -> None:
    """Ids can be guessed; a peer cannot answer before it was asked."""
    pipe = harness.connect()
    harness.congest(pipe)
    ask(harness)
    harness.feed(pipe, request_id(1) + b"guess")
    assert received(harness) == []
    assert harness.counts == {"unknown_reply": 1}
    harness.drain(pipe)
    harness.feed(pipe, request_id(1) + b"answer")
    assert received(harness) == [(1, b"answer", "")]


# --- which pipe


def test_sequential_requests_go_round_robin(harness: Harness) -> None:
    """B17: mangos sends all of them to one of several idle REPs."""
    pipes = [harness.connect() for _ in range(3)]
    for serial in range(1, 10):
        ask(harness, serial=serial)
        pipe = next(pipe for pipe in pipes if pipe.sent and ids(pipe)[-1] == request_id(serial))
        harness.feed(pipe, request_id(serial) + b"answer")
    assert [len(pipe.sent) for pipe in pipes] == [3, 3, 3]
    assert ids(pipes[0]) == [request_id(1), request_id(4), request_id(7)]


def test_a_busy_peer_is_passed_over(harness: Harness) -> None:
    busy, idle = harness.connect(), harness.connect()
    harness.congest(busy)
    for serial in range(1, 4):
        ask(harness, serial=serial)
    assert (len(busy.sent), len(idle.sent)) == (0, 3)


def test_a_request_waits_unclaimed_for_a_pipe(harness: Harness) -> None:
    message = ask(harness)
    assert message.state == "waiting"
    pipe = harness.connect()
    assert pipe.sent == [request_id(1) + b"query"]


def test_a_request_that_was_taken_back_is_skipped(harness: Harness) -> None:
    harness.open(1)
    first, second = ask(harness, b"first"), ask(harness, b"second", context=1)
    assert first.take_back()
    pipe = harness.connect()
    assert pipe.sent == [request_id(2) + b"second"]
    harness.feed(pipe, request_id(1) + b"guess")
    assert harness.counts == {"unknown_reply": 1}
    assert second.state == "claimed"
    ask(harness, b"third", serial=2)
    assert pipe.sent[1:] == [request_id(3) + b"third"]


def test_waiting_requests_go_out_in_order(harness: Harness) -> None:
    for context in range(1, 5):
        harness.open(context)
        ask(harness, str(context).encode(), context=context)
    one, two = harness.connect(room=2), harness.connect()
    assert [frame[4:] for frame in one.sent] == [b"1", b"2"]
    assert [frame[4:] for frame in two.sent] == [b"3", b"4"]


def test_ready_pipes_are_told(harness: Harness) -> None:
    pipe = harness.connect()
    assert harness.ready == 1
    harness.congest(pipe)
    assert harness.ready == 0
    harness.drain(pipe)
    assert harness.ready == 1
    harness.disconnect(pipe)
    assert harness.ready == 0


# --- a request that is given up


def test_a_new_request_takes_the_place_of_the_former(harness: Harness) -> None:
    """B4: only the old request ends; its waiter is told in its own process."""
    pipe = harness.connect()
    first = ask(harness, b"first", serial=1)
    second = ask(harness, b"second", serial=2)
    assert first.state == "freed"
    harness.feed(pipe, request_id(1) + b"late")
    assert received(harness) == []
    harness.feed(pipe, request_id(2) + b"answer")
    assert received(harness) == [(2, b"answer", "")]
    assert second.state == "freed"
    assert harness.did("fail") == []


def test_a_request_replaced_before_it_was_sent_is_not_sent(harness: Harness) -> None:
    """B5: of two sends that wait, the first one's message is dropped, not sent (its sender raises CanceledError)."""
    first, second = ask(harness, b"first", serial=1), ask(harness, b"second", serial=2)
    assert first.state == "freed"
    assert second.state == "waiting"
    assert harness.counts == {"canceled": 1}
    pipe = harness.connect()
    assert pipe.sent == [request_id(2) + b"second"]


def test_cancel_ends_the_request_of_its_serial(harness: Harness) -> None:
    pipe = harness.connect()
    message = ask(harness, serial=5)
    wrong = harness.send(0, b"", serial=4, kind=CANCEL)
    assert message.state == "claimed"
    right = harness.send(0, b"", serial=5, kind=CANCEL)
    assert {message.state, wrong.state, right.state} == {"freed"}
    harness.feed(pipe, request_id(1) + b"late")
    assert received(harness) == []
    assert harness.counts == {"unknown_reply": 1}
    harness.advance(1000)
    assert len(pipe.sent) == 1


def test_cancel_ends_a_queued_request(harness: Harness) -> None:
    message = ask(harness, serial=5)
    harness.send(0, b"", serial=5, kind=CANCEL)
    assert message.state == "freed"
    assert harness.counts == {"canceled": 1}
    assert harness.connect().sent == []


def test_a_cancel_that_was_taken_back_cancels_nothing(harness: Harness) -> None:
    pipe = harness.connect()
    ask(harness, serial=5)
    cancel = FakeMessage(serial=5, kind=CANCEL)
    cancel.take_back()
    harness.machine.context_message(0, cancel)
    harness.feed(pipe, request_id(1) + b"answer")
    assert received(harness) == [(5, b"answer", "")]


def test_a_context_that_closes_takes_its_request_along(harness: Harness) -> None:
    harness.open(1)
    pipe = harness.connect()
    sent, other = ask(harness, b"sent", context=1), ask(harness, b"other")
    harness.close(1)
    assert (sent.state, other.state) == ("freed", "claimed")
    harness.congest(pipe)
    harness.open(1)
    queued = ask(harness, b"queued", context=1)
    harness.close(1)
    assert queued.state == "freed"
    harness.drain(pipe)
    harness.advance(100)
    assert b"queued" not in [frame[4:] for frame in pipe.sent]
    assert [frame[4:] for frame in pipe.sent].count(b"sent") == 1


def test_a_context_number_used_again_is_another_context(harness: Harness) -> None:
    harness.open(1)
    pipe = harness.connect()
    ask(harness, b"old", context=1)
    harness.advance(30)
    harness.close(1)
    harness.open(1)
    ask(harness, b"new", context=1)
    harness.feed(pipe, request_id(1) + b"for the old one")
    assert received(harness, 1) == []
    harness.advance(59)  # the old one's retry is long over, the new one's has not come
    assert [frame[4:] for frame in pipe.sent] == [b"old", b"new"]
    harness.advance(2)
    assert [frame[4:] for frame in pipe.sent] == [b"old", b"new", b"new"]


def test_messages_of_contexts_that_are_not_open_are_counted(harness: Harness) -> None:
    assert ask(harness, context=9).state == "freed"
    assert harness.counts == {"unexpected": 1}


# --- retries


def test_a_request_is_sent_again_until_it_is_answered(harness: Harness) -> None:
    pipe = harness.connect()
    harness.configure("RETRY-TIME", 0.01)
    ask(harness)
    harness.advance(0.025)
    assert ids(pipe) == [request_id(1)] * 3
    harness.feed(pipe, request_id(1) + b"answer")
    harness.advance(1)
    assert len(pipe.sent) == 3
    assert received(harness) == [(1, b"answer", "")]
    assert harness.leaks() == []


def test_the_retry_time_is_a_minute_by_default(harness: Harness) -> None:
    pipe = harness.connect()
    ask(harness)
    assert harness.machine.deadline == harness.clock.now + 60
    harness.advance(59.9)
    assert len(pipe.sent) == 1
    harness.advance(0.2)
    assert len(pipe.sent) == 2


def test_a_retry_goes_to_another_pipe_if_there_is_one(harness: Harness) -> None:
    harness.configure("RETRY-TIME", 1.0)
    one = harness.connect()
    ask(harness)
    two = harness.connect()
    harness.advance(1)
    assert (len(one.sent), len(two.sent)) == (1, 1)
    harness.congest(one)
    harness.advance(1)
    assert (len(one.sent), len(two.sent)) == (1, 2)


def test_a_retry_goes_to_another_pipe_even_out_of_turn(harness: Harness) -> None:
    harness.configure("RETRY-TIME", 1.0)
    harness.open(1)
    one, two = harness.connect(), harness.connect()
    ask(harness, b"first")
    ask(harness, b"second", context=1)
    harness.feed(two, request_id(2) + b"answer")
    harness.advance(1)  # the first pipe's turn, but that is where it was sent before
    assert [frame[4:] for frame in two.sent] == [b"second", b"first"]
    assert len(one.sent) == 1


def test_a_retry_waits_for_a_ready_pipe_and_its_reply_counts_meanwhile(harness: Harness) -> None:
    harness.configure("RETRY-TIME", 1.0)
    pipe = harness.connect()
    message = ask(harness)
    harness.congest(pipe)
    harness.advance(5)
    assert len(pipe.sent) == 1
    harness.feed(pipe, request_id(1) + b"answer")
    harness.drain(pipe)
    assert len(pipe.sent) == 1
    assert received(harness) == [(1, b"answer", "")]
    assert message.state == "freed"


def test_zero_means_never(harness: Harness) -> None:
    harness.configure("RETRY-TIME", 0.0)
    pipe = harness.connect()
    ask(harness)
    assert harness.machine.deadline == NEVER
    harness.advance(1e6)
    assert len(pipe.sent) == 1


def test_a_tiny_retry_time_does_not_occupy_the_process(harness: Harness) -> None:
    """mangos #179: 1 ns."""
    harness.clock.advance_to(1.7e9)  # a clock of so many seconds does not even resolve that
    harness.configure("RETRY-TIME", 1e-9)
    pipe = harness.connect()
    ask(harness)
    harness.advance(0.1)
    assert 90 <= len(pipe.sent) <= 102
    harness.feed(pipe, request_id(1) + b"answer")
    assert received(harness) == [(1, b"answer", "")]


def test_the_retry_time_is_that_of_when_it_is_sent(harness: Harness) -> None:
    message = ask(harness)
    harness.configure("RETRY-TIME", 1.0)
    pipe = harness.connect()
    harness.configure("RETRY-TIME", 0.0)
    harness.advance(1)
    assert len(pipe.sent) == 2
    harness.disconnect(pipe)
    assert received(harness) == [(1, b"", "CanceledError")]
    assert message.state == "freed"


def test_the_retry_time_is_a_contexts_own_or_its_sockets(harness: Harness) -> None:
    """B20 for REQ: what a context did not set it inherits, before and after it was opened."""
    harness.configure("RETRY-TIME", 5.0)
    harness.open(1)
    harness.open(2)
    harness.configure("RETRY-TIME", 2.0, context=2)
    harness.configure("RETRY-TIME", 1.0)
    pipe = harness.connect()
    ask(harness, b"inherits", context=1)
    ask(harness, b"own", context=2)
    harness.advance(1.5)
    assert [frame[4:] for frame in pipe.sent] == [b"inherits", b"own", b"inherits"]
    harness.advance(1)
    assert sorted(frame[4:] for frame in pipe.sent[3:]) == [b"inherits", b"own"]


def test_answered_requests_leave_no_timers_behind(harness: Harness) -> None:
    pipe = harness.connect()
    for serial in range(1, 5001):
        ask(harness, serial=serial)
        harness.feed(pipe, request_id(serial) + b"answer")
        assert received(harness) == [(serial, b"answer", "")]
    timers = 0
    while harness.machine.deadline < NEVER:
        harness.clock.advance_to(harness.machine.deadline)
        harness.machine.now = harness.clock.now
        harness.machine.timer_due()
        timers += 1
    assert timers <= 2
    assert len(pipe.sent) == 5000


# --- pipes that are lost


def test_a_lost_pipes_requests_go_to_another_one_at_once(harness: Harness) -> None:
    """Reconnect resends to a different peer at once, though RETRY-TIME is long."""
    harness.open(1)
    one, two = harness.connect(), harness.connect()
    ask(harness, b"first")
    ask(harness, b"second", context=1)
    harness.disconnect(one)
    assert two.sent == [request_id(2) + b"second", request_id(1) + b"first"]
    harness.feed(two, request_id(1) + b"answer")
    assert received(harness) == [(1, b"answer", "")]


def test_a_lost_pipes_requests_wait_for_a_new_one_in_order(harness: Harness) -> None:
    for context in range(1, 4):
        harness.open(context)
    one = harness.connect()
    for context in range(1, 4):
        ask(harness, str(context).encode(), context=context)
    harness.disconnect(one)
    harness.advance(100)
    two = harness.connect()
    assert [frame[4:] for frame in two.sent] == [b"1", b"2", b"3"]


def test_without_retries_a_lost_pipe_cancels_its_requests(harness: Harness) -> None:
    """mangos #218: not idempotent, fail fast."""
    harness.configure("RETRY-TIME", 0.0)
    harness.open(1)
    one, two = harness.connect(), harness.connect()
    lost = ask(harness, b"lost", serial=3)
    kept = ask(harness, b"kept", context=1)
    harness.disconnect(one)
    assert received(harness) == [(3, b"", "CanceledError")]
    assert (lost.state, kept.state) == ("freed", "claimed")
    harness.feed(two, request_id(1) + b"late", request_id(2) + b"answer")
    assert received(harness, 1) == [(1, b"answer", "")]


def test_without_retries_a_queued_request_survives_a_lost_pipe(harness: Harness) -> None:
    harness.configure("RETRY-TIME", 0.0)
    one = harness.connect()
    harness.congest(one)
    message = ask(harness)
    harness.disconnect(one)
    assert message.state == "waiting"
    assert harness.connect().sent == [request_id(1) + b"query"]


def test_a_request_that_waits_for_its_retry_survives_a_lost_pipe(harness: Harness) -> None:
    harness.configure("RETRY-TIME", 1.0)
    one = harness.connect()
    ask(harness)
    harness.congest(one)
    harness.advance(1)
    harness.disconnect(one)
    assert harness.connect().sent == [request_id(1) + b"query"]


@pytest.mark.parametrize("prompt", [True, False])
def test_a_pipe_that_breaks_while_it_is_used(prompt: bool) -> None:
    harness = Harness(Req, seed=0, prompt=prompt)
    for context in range(3):
        harness.open(context)
        ask(harness, str(context).encode(), context=context)
    harness.connect(breaks=True)
    good = harness.connect()
    assert sorted(frame[4:] for frame in good.sent) == [b"0", b"1", b"2"]
    for frame in list(good.sent):
        harness.feed(good, frame)
    assert harness.leaks() == []


# --- FAIL-NO-PEERS


def test_without_peers_a_send_fails_at_once(harness: Harness) -> None:
    harness.configure("FAIL-NO-PEERS", True)
    message = ask(harness, serial=4)
    assert received(harness) == [(4, b"", "NoPeersError")]
    assert message.state == "freed"
    assert harness.connect().sent == []


def test_the_last_pipe_takes_all_requests_along(harness: Harness) -> None:
    harness.configure("FAIL-NO-PEERS", True)
    harness.configure("RETRY-TIME", 0.0)
    harness.open(1)
    one, two = harness.connect(), harness.connect()
    sent = ask(harness, b"sent", serial=1)
    harness.congest(one)
    harness.congest(two)
    queued = ask(harness, b"queued", serial=2, context=1)
    harness.disconnect(two)
    assert received(harness) == []
    harness.disconnect(one)
    assert received(harness) == [(1, b"", "NoPeersError")]
    assert received(harness, 1) == [(2, b"", "NoPeersError")]
    assert (sent.state, queued.state) == ("freed", "freed")


def test_a_waiting_sender_is_told_before_its_message_is_taken(harness: Harness) -> None:
    harness.configure("FAIL-NO-PEERS", True)
    pipe = harness.connect()
    harness.congest(pipe)
    message = ask(harness)
    states: list[str] = []
    fail = harness.fail
    harness.fail = lambda *args: (states.append(message.state), fail(*args))[1]  # type: ignore[method-assign]
    harness.disconnect(pipe)
    assert states == ["waiting"]
    assert message.state == "freed"


def test_each_context_has_its_own_mind(harness: Harness) -> None:
    harness.open(1)
    harness.configure("FAIL-NO-PEERS", True, context=1)
    pipe = harness.connect()
    patient, impatient = ask(harness), ask(harness, context=1)
    harness.configure("FAIL-NO-PEERS", False)
    harness.disconnect(pipe)
    assert received(harness) == []
    assert received(harness, 1) == [(1, b"", "NoPeersError")]
    assert (patient.state, impatient.state) == ("claimed", "freed")


def test_set_without_peers_it_fails_what_waits(harness: Harness) -> None:
    ask(harness)
    harness.configure("FAIL-NO-PEERS", True)
    assert received(harness) == [(1, b"", "NoPeersError")]


# --- replies for which there is no room


def test_no_reply_is_lost_when_replies_are_not_fetched(harness: Harness) -> None:
    pipe = harness.connect()
    for serial in range(1, 6):
        ask(harness, serial=serial)
        harness.feed(pipe, request_id(serial) + str(serial).encode())
    assert [serial for serial, _, _ in received(harness)] == [1, 2, 5]  # 3 and 4 were replaced
    assert harness.counts == {"canceled": 2}
    assert harness.leaks() == []


def test_a_reply_that_found_no_room_comes_once(harness: Harness) -> None:
    pipe = harness.connect()
    for serial in range(1, 4):
        ask(harness, serial=serial)
        harness.feed(pipe, request_id(serial) + b"answer")
    assert [serial for serial, _, _ in received(harness)] == [1, 2, 3]
    harness.wants(0)
    assert received(harness) == []
    ask(harness, serial=4)
    harness.feed(pipe, request_id(4) + b"answer")
    assert received(harness) == [(4, b"answer", "")]
    assert harness.counts == {}


def test_a_reply_that_found_no_room_can_be_cancelled(harness: Harness) -> None:
    pipe = harness.connect()
    for serial in range(1, 4):
        ask(harness, serial=serial)
        harness.feed(pipe, request_id(serial) + b"answer")
    harness.send(0, b"", serial=3, kind=CANCEL)
    assert [serial for serial, _, _ in received(harness)] == [1, 2]
    assert harness.leaks() == []


def test_a_request_is_kept_until_its_reply_is_delivered(harness: Harness) -> None:
    """If the I/O process dies between, its successor finds the request and asks again."""
    pipe = harness.connect()
    for serial in range(1, 4):
        message = ask(harness, serial=serial)
        harness.feed(pipe, request_id(serial) + b"answer")
    assert message.state == "claimed"
    harness.recv()
    assert message.state == "freed"


def test_a_context_that_closes_drops_the_reply_that_found_no_room(harness: Harness) -> None:
    pipe = harness.connect()
    for serial in range(1, 4):
        ask(harness, serial=serial)
        harness.feed(pipe, request_id(serial) + b"answer")
    harness.close()
    assert harness.leaks() == []
    assert harness.counts == {"canceled": 1}


# --- successors, and many


def test_a_successor_sends_the_request_again(harness: Harness) -> None:
    message = harness.send(0, b"query", serial=9, inherited=True)
    pipe = harness.connect()
    assert pipe.sent == [request_id(1) + b"query"]
    harness.feed(pipe, request_id(1) + b"answer")
    assert received(harness) == [(9, b"answer", "")]
    assert message.state == "freed"


def test_three_hundred_contexts_get_their_own_replies(harness: Harness) -> None:
    pipes = [harness.connect() for _ in range(7)]
    for context in range(1, 301):
        harness.open(context)
    for round_ in range(20):
        for context in range(1, 301):
            ask(harness, f"{context}/{round_}".encode(), serial=round_ + 1, context=context)
        for pipe in reversed(pipes):
            for frame in reversed(pipe.take()):
                harness.feed(pipe, frame)
        for context in range(1, 301):
            assert received(harness, context) == [(round_ + 1, f"{context}/{round_}".encode(), "")]
    assert harness.counts == {}
    assert harness.leaks() == []


# --- requests for one pipe


def test_a_pinned_request_goes_by_its_pipe_only() -> None:
    harness = Harness(Req, seed=6)
    harness.open(0)
    first, second = harness.connect(), harness.connect()
    for serial in (1, 2, 3):
        harness.send(0, b"pinned", serial=serial, pipe=second.id)
    assert first.sent == []
    assert len(second.sent) == 3
    harness.advance(1000.0)  # it is not sent again
    assert len(second.sent) == 3
    harness.feed(second, second.sent[-1][:4] + b"pong")
    answer = harness.recv(0)
    assert answer is not None
    assert (answer.body, answer.pipe) == (b"pong", second.id)


def test_a_pinned_request_waits_for_its_pipe() -> None:
    harness = Harness(Req, seed=6)
    harness.open(0)
    first, second = harness.connect(), harness.connect()
    harness.congest(second)
    harness.send(0, b"pinned", serial=1, pipe=second.id)
    assert (first.sent, second.sent) == ([], [])
    harness.drain(second)
    assert len(second.sent) == 1
    assert first.sent == []


@pytest.mark.parametrize("when", ["sent", "waiting", "before"])
def test_a_pinned_request_fails_with_its_pipe(when: str) -> None:
    harness = Harness(Req, seed=6)
    harness.open(0)
    harness.connect()
    pipe = harness.connect()
    if when == "waiting":
        harness.congest(pipe)
    if when == "before":
        harness.disconnect(pipe)
    message = harness.send(0, b"pinned", serial=1, pipe=pipe.id)
    if when != "before":
        harness.disconnect(pipe)
    error = harness.recv(0)
    assert error is not None
    assert (error.error, error.serial) == ("CanceledError", 1)
    assert message.state == "freed"


def test_a_pinned_request_that_is_taken_back_is_not_sent() -> None:
    harness = Harness(Req, seed=6)
    harness.open(0)
    pipe = harness.connect()
    harness.congest(pipe)
    harness.send(0, b"pinned", serial=1, pipe=pipe.id).take_back()
    harness.drain(pipe)
    assert pipe.sent == []


# --- farewells


def test_a_farewell_goes_where_the_request_went() -> None:
    harness = Harness(Req, seed=6)
    harness.open(0)
    pipe = harness.connect()
    harness.send(0, b"ping", serial=1)
    harness.send(0, b"bye", serial=1, kind=CANCEL)
    assert pipe.sent == [request_id(7) + b"ping", request_id(7) + b"bye"]
    assert harness.leaks() == []


def test_a_farewell_to_what_was_answered_in_this_moment_goes_everywhere() -> None:
    """Its sender does not know of the answer yet, in which a stream may begin; and we know no more whose it was."""
    harness = Harness(Req, seed=6)
    harness.open(0)
    first, second = harness.connect(), harness.connect()
    harness.send(0, b"ping", serial=1)
    harness.feed(first, request_id(7) + b"pong")
    harness.send(0, b"", serial=1, kind=CANCEL)
    assert second.sent == []
    harness.send(0, b"bye", serial=1, kind=CANCEL)
    assert [frame[4:] for frame in first.sent] == [b"ping", b"bye"]
    assert [frame[4:] for frame in second.sent] == [b"bye"]
    assert harness.leaks() == []


def test_a_farewell_goes_to_who_has_answered_though_that_found_no_room() -> None:
    harness = Harness(Req, seed=6)
    harness.open(0)
    first, second = harness.connect(), harness.connect()
    for serial in (1, 2, 3):  # two answers fill the lane
        harness.send(0, b"ping", serial=serial)
        where = next(pipe for pipe in (first, second) if pipe.sent and pipe.sent[-1][:4] == request_id(6 + serial))
        harness.feed(where, request_id(6 + serial) + b"pong")
    before = len(first.sent), len(second.sent)
    harness.send(0, b"bye", serial=3, kind=CANCEL)
    assert where.sent[-1] == request_id(9) + b"bye"
    assert len(first.sent) + len(second.sent) == sum(before) + 1


def test_a_request_that_nobody_has_needs_no_farewell() -> None:
    harness = Harness(Req, seed=6)
    harness.open(0)
    harness.send(0, b"ping", serial=1)
    harness.send(0, b"bye", serial=1, kind=CANCEL)
    pipe = harness.connect()
    assert pipe.sent == []


def test_a_farewell_does_not_wait() -> None:
    harness = Harness(Req, seed=6)
    harness.open(0)
    pipe = harness.connect()
    harness.send(0, b"ping", serial=1)
    harness.congest(pipe)
    harness.send(0, b"bye", serial=1, kind=CANCEL)
    assert harness.counts["congested"] == 1
    assert len(pipe.sent) == 1


def test_what_has_no_answer_goes_by_the_pipe_that_it_names() -> None:
    harness = Harness(Req, seed=6)
    harness.open(0)
    first, second = harness.connect(), harness.connect()
    harness.send(0, b"bye", kind=CANCEL, pipe=second.id)
    assert (first.sent, second.sent) == ([], [request_id(7) + b"bye"])
    harness.disconnect(second)
    harness.send(0, b"bye", kind=CANCEL, pipe=second.id)
    assert harness.counts["no_pipe"] == 1
    assert harness.leaks() == []
