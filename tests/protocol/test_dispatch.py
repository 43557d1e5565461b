"""The dispatcher: requests, workers, deaths."""

from __future__ import annotations

from typing import Any

import pytest
from wire import ID, request_id, word

from spworkers.protocol.dispatch import Dispatcher
from spworkers.protocol.machine import CANCEL, NEVER
from spworkers.testing import Delivery, FakeMessage, FakePipe, Harness


class Errors:
    """Error replies that show what they were made of; `busy` says whether there is one for that.

    A request is a handler's name, a number of its own in brackets if it has one, and its content: `b"add[7]2+3"`.
    """

    def __init__(self, busy: bool = True) -> None:
        self.busy = busy
        self.details: list[dict[str, Any]] = []

    def handler_of(self, payload: bytes, header_length: int) -> str:
        return payload[header_length:].partition(b"[")[0].decode()

    def content_at(self, payload: bytes, header_length: int) -> int:
        return max(payload.find(b"]"), header_length)

    def error_reply(self, payload: bytes, header_length: int, kind: str, detail: dict[str, Any]) -> bytes | None:
        self.details.append(detail)
        return None if kind == "busy" and not self.busy else b"!" + kind.encode() + b":" + payload[header_length:]


@pytest.fixture
def errors() -> Errors:
    return Errors()


@pytest.fixture
def harness(errors: Errors) -> Harness:
    """A dispatcher with error replies and without workers."""
    return Harness(Dispatcher, errors=errors)


def crew(harness: Harness, *contexts: int) -> None:
    for context in contexts:
        harness.open(context)


def ask(harness: Harness, pipe: FakePipe, number: int, body: bytes = b"work") -> None:
    harness.feed(pipe, request_id(number) + body)


def take(harness: Harness, context: int) -> Delivery:
    request = harness.recv(context)
    assert request is not None, f"worker {context} has nothing to do"
    return request


def answer(harness: Harness, context: int, request: Delivery, body: bytes = b"done") -> FakeMessage:
    return harness.send(context, body, serial=request.serial)


def untaken(harness: Harness) -> dict[int, list[bytes]]:
    """The requests that lie in the workers' lanes."""
    return {c: [each.body for each in lane.waiting] for c, lane in harness.lanes.items() if lane.waiting}


def idle(harness: Harness) -> bool:
    assert isinstance(harness.machine, Dispatcher)
    return harness.machine.idle


# --- requests and answers


def test_a_request_and_its_answer(harness: Harness) -> None:
    crew(harness, 1)
    pipe = harness.connect()
    harness.feed(pipe, word(5) + ID + b"work")
    assert not idle(harness)
    request = take(harness, 1)
    assert (request.header, request.body, request.pipe) == (word(5) + ID, b"work", pipe.id)
    message = answer(harness, 1, request)
    assert pipe.sent == [word(5) + ID + b"done"]
    assert message.state == "freed"
    assert idle(harness)
    assert harness.counts == {}


def test_a_header_of_the_answer_is_not_for_the_wire(harness: Harness) -> None:
    crew(harness, 1)
    pipe = harness.connect()
    ask(harness, pipe, 1)
    request = take(harness, 1)
    harness.send(1, b"done", serial=request.serial, header=b"whatever")
    assert pipe.sent == [request_id(1) + b"done"]


def test_garbage_and_ttl_are_as_in_rep(harness: Harness) -> None:
    crew(harness, 1)
    bad, long = harness.connect(), harness.connect()
    harness.feed(bad, b"\x00\x01\x02\x03")
    harness.configure("TTL", 1)
    harness.feed(long, word(1) + ID + b"work")
    assert harness.pipe_counts == {(bad.id, "garbled"): 1, (long.id, "ttl"): 1}
    assert (bad.attached, long.attached) == (False, True)
    assert untaken(harness) == {}


def test_requests_wait_for_workers_in_order(harness: Harness) -> None:
    one, two = harness.connect(), harness.connect()
    for number in range(2):
        ask(harness, one, number, b"a%d" % number)
        ask(harness, two, number, b"b%d" % number)
    crew(harness, 1)
    got = []
    for _ in range(4):
        request = take(harness, 1)
        got.append(request.body)
        answer(harness, 1, request)
    assert got == [b"a0", b"b0", b"a1", b"b1"]


def test_one_request_at_a_time_by_default(harness: Harness) -> None:
    crew(harness, 1)
    pipe = harness.connect()
    ask(harness, pipe, 1)
    ask(harness, pipe, 2)
    request = take(harness, 1)
    assert harness.recv(1) is None
    answer(harness, 1, request)
    assert take(harness, 1).header == request_id(2)


def test_prefetch_hands_out_ahead(harness: Harness) -> None:
    harness.configure("PREFETCH", 3)
    crew(harness, 1)
    pipe = harness.connect()
    for number in range(5):
        ask(harness, pipe, number)
    assert len(untaken(harness)[1]) == 3
    answer(harness, 1, take(harness, 1))
    assert len(untaken(harness)[1]) == 3


def test_a_worker_that_keeps_messages_in_use_gets_no_more_than_its_lane_takes(harness: Harness) -> None:
    harness.configure("PREFETCH", 2)
    crew(harness, 1)
    pipe = harness.connect()
    for number in range(4):
        ask(harness, pipe, number)
    lent = [harness.lanes[1].take(), harness.lanes[1].take()]
    assert lent[0] is not None
    assert lent[1] is not None
    answer(harness, 1, lent[0])
    assert untaken(harness) == {}
    harness.release(1, lent[0])
    assert len(untaken(harness)[1]) == 1


def test_prefetch_zero_hands_out_to_those_who_wait(harness: Harness) -> None:
    harness.configure("PREFETCH", 0)
    crew(harness, 1, 2)
    pipe = harness.connect()
    for number in range(3):
        ask(harness, pipe, number)
    assert untaken(harness) == {}
    harness.wait(2)
    harness.wait(2)
    assert len(untaken(harness)[2]) == 2
    harness.wait(1)
    assert len(untaken(harness)[1]) == 1


def test_the_least_loaded_worker_is_next(harness: Harness) -> None:
    harness.configure("PREFETCH", 3)
    crew(harness, 1, 2, 3)
    pipe = harness.connect()
    for number in range(6):
        ask(harness, pipe, number)
    assert {context: len(found) for context, found in untaken(harness).items()} == {1: 2, 2: 2, 3: 2}
    for _ in range(2):
        answer(harness, 2, take(harness, 2))
    ask(harness, pipe, 6)
    ask(harness, pipe, 7)
    assert {context: len(found) for context, found in untaken(harness).items()} == {1: 2, 2: 2, 3: 2}


def test_prefetch_can_be_changed_for_all_or_for_one(harness: Harness) -> None:
    crew(harness, 1, 2)
    pipe = harness.connect()
    for number in range(9):
        ask(harness, pipe, number)
    harness.configure("PREFETCH", 4, context=2)
    assert {context: len(found) for context, found in untaken(harness).items()} == {1: 1, 2: 4}
    harness.configure("PREFETCH", 2)
    assert {context: len(found) for context, found in untaken(harness).items()} == {1: 2, 2: 4}
    assert harness.lanes[2].window == 4
    crew(harness, 3)
    assert len(untaken(harness)[3]) == 2


# --- asked again


def test_a_request_sent_again_joins_the_one_in_progress(harness: Harness) -> None:
    crew(harness, 1)
    pipe = harness.connect()
    for _ in range(3):
        ask(harness, pipe, 1)
    request = take(harness, 1)
    ask(harness, pipe, 1)
    answer(harness, 1, request)
    assert pipe.sent == [request_id(1) + b"done"]
    assert harness.recv(1) is None
    assert harness.pipe_counts == {(pipe.id, "duplicate"): 3}
    ask(harness, pipe, 1)  # after the answer it is a new one
    assert take(harness, 1).body == b"work"


def test_the_same_id_of_another_peer_or_way_is_another_request(harness: Harness) -> None:
    harness.configure("PREFETCH", 9)
    crew(harness, 1)
    one, two = harness.connect(), harness.connect()
    harness.feed(one, ID + b"work", word(1) + ID + b"work")
    harness.feed(two, ID + b"work")
    assert len(untaken(harness)[1]) == 3


def test_another_request_of_the_same_id_takes_its_place(harness: Harness) -> None:
    crew(harness, 1, 2)
    pipe = harness.connect()
    ask(harness, pipe, 1, b"running")
    first = take(harness, 1)
    ask(harness, pipe, 1, b"untaken")
    ask(harness, pipe, 1, b"last")  # takes the place of one that nobody has seen
    assert untaken(harness) == {2: [b"last"]}
    answer(harness, 1, first, b"answer to the first")
    assert pipe.sent == []
    answer(harness, 2, take(harness, 2), b"answer to the last")
    assert pipe.sent == [request_id(1) + b"answer to the last"]
    assert harness.pipe_counts == {(pipe.id, "superseded"): 2, (pipe.id, "late"): 1}
    assert idle(harness)


def test_another_request_takes_the_place_of_one_in_the_backlog(harness: Harness) -> None:
    pipe = harness.connect()
    ask(harness, pipe, 1, b"first")
    ask(harness, pipe, 1, b"second")
    crew(harness, 1)
    assert take(harness, 1).body == b"second"
    assert harness.recv(1) is None


def test_what_a_replaced_request_makes_room_for_is_handed_out_also_while_draining(harness: Harness) -> None:
    crew(harness, 1)
    pipe, other = harness.connect(), harness.connect()
    ask(harness, pipe, 1, b"untaken")
    ask(harness, other, 2, b"waits")
    harness.configure("DRAINING", True)
    ask(harness, pipe, 1, b"instead")
    assert pipe.sent == [request_id(1) + b"!busy:instead"]
    assert untaken(harness) == {1: [b"waits"]}


# --- overload


def test_past_the_backlog_requests_are_answered_busy(harness: Harness, errors: Errors) -> None:
    harness.configure("BACKLOG", 2)
    crew(harness, 1)
    pipe = harness.connect()
    for number in range(5):
        ask(harness, pipe, number)
    assert pipe.sent == [request_id(number) + b"!busy:work" for number in (3, 4)]
    assert harness.pipe_counts == {(pipe.id, "busy"): 2}
    assert "backlog" in errors.details[0]["message"]
    for _ in range(3):
        answer(harness, 1, take(harness, 1))
    assert idle(harness)


def test_without_a_backlog_only_what_a_worker_takes_is_accepted(harness: Harness) -> None:
    harness.configure("BACKLOG", 0)
    pipe = harness.connect()
    ask(harness, pipe, 1)
    crew(harness, 1)
    ask(harness, pipe, 2)
    ask(harness, pipe, 3)
    assert pipe.sent == [request_id(1) + b"!busy:work", request_id(3) + b"!busy:work"]
    assert untaken(harness) == {1: [b"work"]}


def test_the_backlog_holds_1024_by_default(harness: Harness) -> None:
    pipe = harness.connect()
    for number in range(1030):
        ask(harness, pipe, number)
    assert len(pipe.sent) == 6


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("errors", [None, Errors(busy=False)], ids=["no errors", "no answer for busy"])
@pytest.mark.parametrize("backlog", [0, 2])
def test_without_an_answer_for_it_requests_wait_in_their_pipes(
    prompt: bool, errors: Errors | None, backlog: int
) -> None:
    harness = Harness(Dispatcher, errors=errors, prompt=prompt)
    harness.configure("BACKLOG", backlog)
    crew(harness, 1)
    one, two = harness.connect(), harness.connect()
    for number in range(4):
        ask(harness, one, number, b"a%d" % number)
        ask(harness, two, number, b"b%d" % number)
    assert len(one.unread) + len(two.unread) == 8 - backlog - 1
    got = []
    for _ in range(8):
        request = take(harness, 1)
        got.append(request.body)
        answer(harness, 1, request)
        harness.run()
    assert got == [b"a0", b"b0", b"a1", b"b1", b"a2", b"b2", b"a3", b"b3"]
    assert harness.counts == {}


@pytest.mark.parametrize("prompt", [True, False])
def test_many_waiting_pipes_do_not_exhaust_the_stack(prompt: bool) -> None:
    harness = Harness(Dispatcher, prompt=prompt)
    harness.configure("BACKLOG", 0)
    pipes = [harness.connect() for _ in range(3000)]
    for pipe in pipes:
        ask(harness, pipe, pipe.id)
    harness.configure("BACKLOG", 5000)
    harness.run()
    assert not any(pipe.unread for pipe in pipes)


def test_a_larger_backlog_lets_waiting_requests_in() -> None:
    harness = Harness(Dispatcher)
    harness.configure("BACKLOG", 1)
    pipe = harness.connect()
    for number in range(4):
        ask(harness, pipe, number)
    assert len(pipe.unread) == 3
    harness.configure("BACKLOG", 3)
    assert len(pipe.unread) == 1


def test_a_busy_answer_to_a_congested_pipe_is_dropped(harness: Harness) -> None:
    harness.configure("BACKLOG", 0)
    pipe = harness.connect()
    harness.congest(pipe)
    ask(harness, pipe, 1)
    assert harness.pipe_counts == {(pipe.id, "busy"): 1, (pipe.id, "congested"): 1}


def test_draining_refuses_new_requests_and_finishes_the_others(harness: Harness) -> None:
    crew(harness, 1)
    pipe = harness.connect()
    ask(harness, pipe, 1)
    ask(harness, pipe, 2)
    harness.configure("DRAINING", True)
    ask(harness, pipe, 3)
    ask(harness, pipe, 2)  # joins
    assert pipe.sent == [request_id(3) + b"!busy:work"]
    answer(harness, 1, take(harness, 1))
    assert not idle(harness)
    answer(harness, 1, take(harness, 1))
    assert idle(harness)
    harness.configure("DRAINING", False)
    ask(harness, pipe, 4)
    assert take(harness, 1).header == request_id(4)


def test_draining_without_an_answer_for_it_leaves_requests_in_their_pipes() -> None:
    harness = Harness(Dispatcher)
    crew(harness, 1)
    pipe = harness.connect()
    harness.configure("DRAINING", True)
    ask(harness, pipe, 1)
    assert len(pipe.unread) == 1
    assert idle(harness)
    harness.configure("DRAINING", False)
    assert take(harness, 1).header == request_id(1)


# --- deaths


def test_a_dead_workers_request_goes_to_another(harness: Harness) -> None:
    crew(harness, 1)
    pipe = harness.connect()
    ask(harness, pipe, 1, b"first")
    ask(harness, pipe, 2, b"second")
    take(harness, 1)
    harness.close(1)
    crew(harness, 2)
    request = take(harness, 2)
    assert request.body == b"first"  # before those that came later
    answer(harness, 2, request)
    assert pipe.sent == [request_id(1) + b"done"]


def test_more_deaths_than_retries_are_answered_with_an_error(harness: Harness, errors: Errors) -> None:
    pipe = harness.connect()
    ask(harness, pipe, 1)
    for context in (1, 2):
        crew(harness, context)
        take(harness, context)
        harness.close(context)
    assert pipe.sent == [request_id(1) + b"!died:work"]
    assert errors.details[0]["deaths"] == 2
    assert harness.pipe_counts == {(pipe.id, "died"): 1}
    assert idle(harness)
    crew(harness, 3)
    assert untaken(harness) == {}


def test_no_retries_is_at_most_once(harness: Harness, errors: Errors) -> None:
    harness.configure("RETRIES", 0)
    pipe = harness.connect()
    crew(harness, 1)
    ask(harness, pipe, 1)
    take(harness, 1)
    harness.close(1)
    assert pipe.sent == [request_id(1) + b"!died:work"]
    assert errors.details[0]["message"].startswith("the worker")


def test_what_a_dead_worker_had_not_taken_was_not_run(harness: Harness) -> None:
    harness.configure("RETRIES", 0)
    harness.configure("PREFETCH", 3)
    pipe = harness.connect()
    crew(harness, 1)
    for number in range(3):
        ask(harness, pipe, number)
    take(harness, 1)
    harness.close(1)
    assert pipe.sent == [request_id(0) + b"!died:work"]
    crew(harness, 2)
    assert [take(harness, 2).header, take(harness, 2).header] == [request_id(1), request_id(2)]


def test_requests_of_a_dead_worker_keep_their_order(harness: Harness) -> None:
    harness.configure("PREFETCH", 3)
    pipe = harness.connect()
    crew(harness, 1)
    for number in range(5):
        ask(harness, pipe, number)
    take(harness, 1)
    take(harness, 1)
    harness.close(1)
    harness.configure("PREFETCH", 9)
    crew(harness, 2)
    assert [take(harness, 2).header for _ in range(5)] == [request_id(number) for number in range(5)]


def test_an_answer_that_was_published_before_the_death_counts(harness: Harness) -> None:
    """The driver tells of a dead worker's answers before it tells of its death."""
    pipe = harness.connect()
    harness.configure("PREFETCH", 2)
    crew(harness, 1)
    ask(harness, pipe, 1)
    ask(harness, pipe, 2)
    first = take(harness, 1)
    take(harness, 1)
    answer(harness, 1, first)
    harness.close(1)
    crew(harness, 2)
    assert pipe.sent == [request_id(1) + b"done"]
    assert take(harness, 2).header == request_id(2)


def test_without_error_replies_a_failed_request_is_dropped_and_counted() -> None:
    harness = Harness(Dispatcher)
    harness.configure("RETRIES", 0)
    pipe = harness.connect()
    crew(harness, 1)
    ask(harness, pipe, 1)
    take(harness, 1)
    harness.close(1)
    assert pipe.sent == []
    assert harness.pipe_counts == {(pipe.id, "died"): 1}
    assert idle(harness)


def test_an_error_reply_waits_for_a_congested_pipe(harness: Harness) -> None:
    harness.configure("RETRIES", 0)
    pipe = harness.connect()
    crew(harness, 1)
    ask(harness, pipe, 1)
    take(harness, 1)
    harness.congest(pipe)
    harness.close(1)
    assert not idle(harness)
    harness.drain(pipe)
    assert pipe.sent == [request_id(1) + b"!died:work"]
    assert idle(harness)


def test_a_connection_that_breaks_under_the_error_replies_of_a_death(harness: Harness) -> None:
    harness.configure("RETRIES", 0)
    harness.configure("PREFETCH", 9)
    pipe = harness.connect()
    crew(harness, 1, 2)
    for number in range(6):
        ask(harness, pipe, number)
    for _ in range(2):
        take(harness, 1)
    pipe.breaks = True
    harness.close(1)
    assert idle(harness)
    assert untaken(harness) == {}
    other = harness.connect()
    ask(harness, other, 1)
    assert untaken(harness) == {2: [b"work"]}


def test_a_poisonous_request_is_quarantined(harness: Harness, errors: Errors) -> None:
    pipe = harness.connect()
    number = 0
    for context in range(1, 4):
        crew(harness, context)
        if context in (1, 3):
            number += 1
            ask(harness, pipe, number, b"poison")
        take(harness, context)
        harness.close(context)
    assert pipe.sent == [request_id(1) + b"!died:poison", request_id(2) + b"!quarantined:poison"]
    crew(harness, 4)
    ask(harness, pipe, 3, b"poison")
    ask(harness, pipe, 4, b"harmless")
    assert pipe.sent[2:] == [request_id(3) + b"!quarantined:poison"]
    assert untaken(harness) == {4: [b"harmless"]}
    assert errors.details[-1]["deaths"] == 3
    assert harness.counts == {"died": 1, "quarantined": 2}
    harness.configure("QUARANTINE", 3)
    ask(harness, pipe, 5, b"poison")
    answer(harness, 4, take(harness, 4))
    assert untaken(harness) == {4: [b"poison"]}


def test_a_quarantined_request_without_error_replies_is_dropped() -> None:
    harness = Harness(Dispatcher)
    harness.configure("QUARANTINE", 1)
    pipe = harness.connect()
    crew(harness, 1)
    ask(harness, pipe, 1, b"poison")
    take(harness, 1)
    harness.close(1)
    crew(harness, 2)
    ask(harness, pipe, 2, b"poison")
    ask(harness, pipe, 3, b"harmless")
    assert untaken(harness) == {2: [b"harmless"]}
    assert harness.counts == {"quarantined": 2}


def test_a_poisonous_request_is_known_by_its_content(harness: Harness) -> None:
    harness.configure("QUARANTINE", 2)
    harness.configure("RETRIES", 0)
    pipe = harness.connect()
    for context, body in enumerate((b"run[1]poison", b"run[2]poison"), 1):
        crew(harness, context)
        ask(harness, pipe, context, body)
        take(harness, context)
        harness.close(context)
    ask(harness, pipe, 3, b"run[3]poison")
    assert [frame[4:].partition(b":")[0] for frame in pipe.sent] == [b"!died", b"!quarantined", b"!quarantined"]
    ask(harness, pipe, 4, b"run[4]something else")
    crew(harness, 4)
    assert take(harness, 4).body == b"run[4]something else"


def test_an_answer_clears_a_requests_name(harness: Harness) -> None:
    harness.configure("QUARANTINE", 2)
    pipe = harness.connect()
    for context in (1, 2, 3):
        ask(harness, pipe, context, b"run[%d]sometimes" % context)
        crew(harness, context)
        take(harness, context)
        harness.close(context)  # dies of it once, and then not again
        crew(harness, 10 + context)
        answer(harness, 10 + context, take(harness, 10 + context))
        harness.close(10 + context)
    assert len(pipe.sent) == 3
    assert harness.counts == {}


def test_poison_is_recognised_though_its_sender_does_not_wait(harness: Harness) -> None:
    for context in (1, 2, 3):
        crew(harness, context)
        pipe = harness.connect()
        ask(harness, pipe, 1, b"poison")
        take(harness, context)
        harness.disconnect(pipe)
        harness.close(context)
    crew(harness, 4)
    pipe = harness.connect()
    ask(harness, pipe, 1, b"poison")
    assert pipe.sent == [request_id(1) + b"!quarantined:poison"]


def test_a_worker_can_give_a_request_back(harness: Harness) -> None:
    harness.configure("RETRIES", 0)
    pipe = harness.connect()
    crew(harness, 1)
    ask(harness, pipe, 1, b"first")
    ask(harness, pipe, 2, b"second")
    request = take(harness, 1)
    harness.configure("PREFETCH", 0, context=1)
    back = harness.send(1, b"", serial=request.serial, kind=CANCEL)
    assert back.state == "freed"
    harness.close(1)
    crew(harness, 2)
    assert take(harness, 2).body == b"first"
    assert pipe.sent == []


def test_a_request_given_back_whose_peer_is_gone_is_forgotten(harness: Harness) -> None:
    pipe = harness.connect()
    crew(harness, 1)
    ask(harness, pipe, 1)
    request = take(harness, 1)
    harness.disconnect(pipe)
    harness.send(1, b"", serial=request.serial, kind=CANCEL)
    other = harness.connect()
    ask(harness, other, 1, b"other")
    assert take(harness, 1).body == b"other"


# --- time limits


def test_a_request_that_runs_too_long_kills_its_worker(harness: Harness, errors: Errors) -> None:
    harness.configure("TIMEOUT", 10.0)
    pipe = harness.connect()
    crew(harness, 1)
    ask(harness, pipe, 1)
    take(harness, 1)
    harness.advance(9.9)
    assert harness.killed == []
    harness.advance(0.2)
    assert harness.killed == [(1, "its request ran longer than 10 s")]
    assert harness.machine.deadline == NEVER
    harness.close(1)
    crew(harness, 2)
    take(harness, 2)
    harness.advance(10)
    harness.close(2)
    assert pipe.sent == [request_id(1) + b"!timeout:work"]
    assert errors.details[0]["seconds"] == 10.0
    assert errors.details[0]["deaths"] == 2
    assert harness.counts == {"timeout": 1}


def test_an_answer_in_time_stops_the_clock(harness: Harness) -> None:
    harness.configure("TIMEOUT", 10.0)
    pipe = harness.connect()
    crew(harness, 1)
    for number in range(5):
        ask(harness, pipe, number)
        request = take(harness, 1)
        harness.advance(9)
        answer(harness, 1, request)
    harness.advance(100)
    assert harness.killed == []
    assert len(pipe.sent) == 5


def test_the_clock_of_a_prefetched_request_starts_when_its_turn_comes(harness: Harness) -> None:
    harness.configure("TIMEOUT", 10.0)
    harness.configure("PREFETCH", 3)
    pipe = harness.connect()
    crew(harness, 1)
    for number in range(3):
        ask(harness, pipe, number)
    for _ in range(2):
        harness.advance(9)
        answer(harness, 1, take(harness, 1))
    harness.advance(9)
    assert harness.killed == []
    harness.advance(2)
    assert [context for context, _ in harness.killed] == [1]


def test_a_condemned_worker_gets_no_more_and_its_last_answer_counts(harness: Harness) -> None:
    harness.configure("TIMEOUT", 10.0)
    harness.configure("PREFETCH", 2)
    pipe = harness.connect()
    crew(harness, 1)
    ask(harness, pipe, 1)
    request = take(harness, 1)
    harness.advance(11)
    ask(harness, pipe, 2)
    assert untaken(harness) == {}
    answer(harness, 1, request, b"just in time")
    harness.close(1)
    assert pipe.sent == [request_id(1) + b"just in time"]
    crew(harness, 2)
    assert take(harness, 2).header == request_id(2)
    assert len(harness.killed) == 1


def test_the_others_of_a_killed_worker_only_died_with_it(harness: Harness) -> None:
    harness.configure("TIMEOUT", 10.0)
    harness.configure("PREFETCH", 3)
    harness.configure("RETRIES", 0)
    pipe = harness.connect()
    crew(harness, 1)
    for number in range(3):
        ask(harness, pipe, number)
    take(harness, 1)
    take(harness, 1)
    harness.advance(11)
    harness.close(1)
    assert pipe.sent == [request_id(0) + b"!timeout:work", request_id(1) + b"!died:work"]
    crew(harness, 2)
    assert take(harness, 2).header == request_id(2)


def test_no_time_limit_by_default_and_it_can_be_changed(harness: Harness) -> None:
    pipe = harness.connect()
    crew(harness, 1)
    ask(harness, pipe, 1)
    take(harness, 1)
    assert harness.machine.deadline == NEVER
    harness.configure("TIMEOUT", 5.0)
    harness.advance(4)
    harness.configure("TIMEOUT", 0.0)
    harness.advance(100)
    assert harness.killed == []
    harness.configure("TIMEOUT", 5.0)
    harness.advance(6)
    assert [context for context, _ in harness.killed] == [1]


def test_a_handler_may_have_limits_of_its_own(harness: Harness, errors: Errors) -> None:
    harness.configure("TIMEOUT", 10.0)
    harness.configure("LIMITS", {"slow": [60.0, 0], "endless": (0.0, 3)})
    pipe = harness.connect()
    crew(harness, 1, 2, 3)
    for number, body in enumerate((b"slow[]", b"endless[]", b"other[]")):
        ask(harness, pipe, number, body)
    for context in (1, 2, 3):
        take(harness, context)
    harness.advance(11)
    assert [context for context, _ in harness.killed] == [3]
    harness.advance(50)
    assert harness.killed[1:] == [(1, "its request ran longer than 60 s")]
    harness.close(1)
    assert pipe.sent == [request_id(0) + b"!timeout:slow[]"]
    assert errors.details[0]["seconds"] == 60.0
    harness.advance(1e6)
    assert len(harness.killed) == 2


def test_limits_without_a_format_hold_for_nobody() -> None:
    harness = Harness(Dispatcher)
    harness.configure("LIMITS", {"": [1.0, 0]})
    pipe = harness.connect()
    crew(harness, 1)
    ask(harness, pipe, 1)
    harness.advance(100)
    assert harness.killed == []


# --- pipes that go, answers that nobody waits for


def test_requests_of_a_lost_pipe_are_forgotten(harness: Harness) -> None:
    harness.configure("PREFETCH", 2)
    crew(harness, 1)
    pipe, other = harness.connect(), harness.connect()
    for number in range(4):
        ask(harness, pipe, number, b"lost")
    request = take(harness, 1)
    harness.disconnect(pipe)
    assert idle(harness)
    assert untaken(harness) == {}
    ask(harness, other, 1, b"other")
    assert untaken(harness) == {1: [b"other"]}
    answer(harness, 1, request)
    assert harness.pipe_counts == {(pipe.id, "pipe_lost"): 4, (pipe.id, "no_pipe"): 1}
    harness.close(1)
    crew(harness, 2)
    assert untaken(harness) == {2: [b"other"]}


def test_a_lost_pipe_makes_room_for_what_waits(harness: Harness) -> None:
    crew(harness, 1)
    one, two = harness.connect(), harness.connect()
    ask(harness, one, 1, b"lost")
    ask(harness, two, 1, b"waits")
    harness.disconnect(one)
    assert untaken(harness) == {1: [b"waits"]}


def test_a_lost_pipes_running_request_is_not_tried_again(harness: Harness) -> None:
    crew(harness, 1)
    pipe = harness.connect()
    ask(harness, pipe, 1)
    take(harness, 1)
    harness.disconnect(pipe)
    harness.close(1)
    crew(harness, 2)
    assert untaken(harness) == {}
    assert harness.counts == {"pipe_lost": 1}


def test_a_receiver_that_waits_keeps_waiting_when_its_request_goes(harness: Harness) -> None:
    harness.configure("PREFETCH", 0)
    crew(harness, 1)
    one, two = harness.connect(), harness.connect()
    harness.wait(1)
    ask(harness, one, 1, b"lost")
    harness.disconnect(one)
    ask(harness, two, 1, b"work")
    assert untaken(harness) == {1: [b"work"]}


def test_a_receiver_whose_request_goes_gets_what_waits(harness: Harness) -> None:
    harness.configure("PREFETCH", 0)
    crew(harness, 1)
    one, two = harness.connect(), harness.connect()
    harness.wait(1)
    ask(harness, one, 1, b"lost")
    ask(harness, two, 1, b"waits")  # the worker was asked in vain
    harness.disconnect(one)
    assert untaken(harness) == {1: [b"waits"]}


@pytest.mark.parametrize("serial", [0, 999])
def test_an_answer_to_nothing_is_dropped_and_counted(harness: Harness, serial: int) -> None:
    crew(harness, 1)
    assert harness.send(1, b"done", serial=serial).state == "freed"
    assert harness.counts == {"late": 1}


def test_a_second_answer_and_one_of_another_worker_are_dropped(harness: Harness) -> None:
    crew(harness, 1, 2)
    pipe = harness.connect()
    ask(harness, pipe, 1)
    request = take(harness, 1)
    answer(harness, 2, request, b"impostor")
    answer(harness, 1, request)
    answer(harness, 1, request, b"again")
    assert pipe.sent == [request_id(1) + b"done"]
    assert harness.counts == {"late": 2}


def test_answers_of_workers_that_are_gone_are_dropped(harness: Harness) -> None:
    assert harness.send(7, b"done", serial=1).state == "freed"
    harness.machine.context_closed(7)
    harness.machine.context_wants(7)
    assert harness.counts == {"late": 1}


def test_many_workers_many_clients(harness: Harness) -> None:
    crew(harness, *range(8))
    clients = [harness.connect() for _ in range(20)]
    for number in range(50):
        for client in clients:
            ask(harness, client, number, b"%d/%d" % (client.id, number))
    done = 0
    while not idle(harness):
        for context in range(8):
            request = harness.recv(context)
            if request is not None:
                answer(harness, context, request, request.body)
                done += 1
    assert done == 1000
    for client in clients:
        assert sorted(client.sent) == sorted(request_id(n) + b"%d/%d" % (client.id, n) for n in range(50))
    assert harness.leaks() == []
    assert harness.counts == {}
