"""Answers of a dispatcher's workers to clients that do not read them."""

from __future__ import annotations

import pytest
from wire import request_id

from spworkers.protocol.dispatch import Dispatcher
from spworkers.protocol.machine import NEVER
from spworkers.testing import FakeMessage, FakePipe, Harness


def work(harness: Harness, context: int, body: bytes = b"done") -> FakeMessage:
    """A worker answers its next request."""
    request = harness.recv(context)
    assert request is not None
    return harness.send(context, body, serial=request.serial)


def ask(harness: Harness, pipe: FakePipe, *numbers: int) -> None:
    for number in numbers:
        harness.feed(pipe, request_id(number) + b"work")


def served(*, prefetch: int = 1, writeq: int = 128) -> Harness:
    harness = Harness(Dispatcher)
    harness.configure("PREFETCH", prefetch)
    harness.configure("WRITEQ-LEN", writeq)
    harness.open(1)
    return harness


def test_an_answer_waits_unclaimed_and_its_worker_goes_on() -> None:
    harness = served()
    slow, fast = harness.connect(), harness.connect()
    ask(harness, slow, 1, 2)
    ask(harness, fast, 3)
    harness.congest(slow)
    waiting = [work(harness, 1), work(harness, 1)]
    work(harness, 1)
    assert [message.state for message in waiting] == ["waiting", "waiting"]
    assert fast.sent == [request_id(3) + b"done"]
    harness.drain(slow, room=1)
    assert slow.sent == [request_id(1) + b"done"]
    harness.drain(slow)
    assert slow.sent == [request_id(1) + b"done", request_id(2) + b"done"]
    assert harness.leaks() == []


def test_a_pipe_is_not_read_from_while_answers_to_it_wait() -> None:
    harness = served()
    pipe = harness.connect()
    ask(harness, pipe, 1)
    harness.congest(pipe)
    work(harness, 1)
    ask(harness, pipe, 2, 3)
    assert len(pipe.unread) == 2
    assert harness.recv(1) is None
    harness.drain(pipe)
    assert not pipe.unread
    work(harness, 1)
    work(harness, 1)
    assert [frame[:4] for frame in pipe.sent] == [request_id(1), request_id(2), request_id(3)]


def test_a_pipe_that_waits_for_room_and_then_for_its_answers() -> None:
    harness = served()
    harness.configure("BACKLOG", 1)
    slow, fast = harness.connect(), harness.connect()
    ask(harness, slow, 1, 2, 3)
    ask(harness, fast, 4)
    assert (len(slow.unread), len(fast.unread)) == (1, 1)
    harness.congest(slow)
    work(harness, 1)  # makes room, and its answer waits: the next one is the other pipe's
    assert (len(slow.unread), len(fast.unread)) == (1, 0)
    harness.drain(slow)
    work(harness, 1)
    work(harness, 1)
    work(harness, 1)
    assert [frame[:4] for frame in slow.sent] == [request_id(1), request_id(2), request_id(3)]
    assert [frame[:4] for frame in fast.sent] == [request_id(4)]


def test_answers_for_a_pipe_that_goes_are_dropped() -> None:
    harness = served()
    pipe = harness.connect()
    ask(harness, pipe, 1, 2, 3)
    harness.congest(pipe)
    kept, taken_back = work(harness, 1), work(harness, 1)
    assert taken_back.take_back()
    ask(harness, pipe, 4)
    harness.disconnect(pipe)
    assert kept.state == "freed"
    assert harness.pipe_counts == {(pipe.id, "pipe_lost"): 3, (pipe.id, "no_pipe"): 1}
    assert isinstance(harness.machine, Dispatcher)
    assert harness.machine.idle


def test_the_oldest_answer_is_dropped_before_a_workers_lane_is_full() -> None:
    harness = served(writeq=4)
    dead, slow = harness.connect(), harness.connect()
    ask(harness, dead, 1, 2)
    harness.congest(dead)
    dropped = [work(harness, 1), work(harness, 1)]
    ask(harness, slow, 3, 4, 5)
    harness.congest(slow)
    kept = [work(harness, 1), work(harness, 1), work(harness, 1)]
    assert [message.state for message in dropped] == ["freed", "freed"]
    assert [message.state for message in kept] == ["waiting"] * 3
    assert harness.pipe_counts == {(dead.id, "congested"): 2}
    harness.drain(slow)
    assert len(slow.sent) == 3


@pytest.mark.parametrize("how", ["sent", "lost"])
def test_answers_that_are_gone_do_not_count_in_their_workers_lane(how: str) -> None:
    harness = served(writeq=4)
    first, second = harness.connect(), harness.connect()
    ask(harness, first, 1, 2)
    harness.congest(first)
    work(harness, 1)
    work(harness, 1)
    if how == "sent":
        harness.drain(first)
    else:
        harness.disconnect(first)
    ask(harness, second, 3, 4, 5)
    harness.congest(second)
    kept = [work(harness, 1), work(harness, 1), work(harness, 1)]
    assert [message.state for message in kept] == ["waiting"] * 3
    assert harness.counts["congested"] == 0


def test_a_dropped_answers_request_is_over() -> None:
    harness = served(writeq=2)
    dead, slow = harness.connect(), harness.connect()
    ask(harness, dead, 1)
    harness.congest(dead)
    work(harness, 1)
    ask(harness, slow, 2)
    harness.congest(slow)
    work(harness, 1)
    harness.drain(slow)
    assert isinstance(harness.machine, Dispatcher)
    assert harness.machine.idle
    ask(harness, dead, 1)  # its peer asks again
    harness.drain(dead)
    work(harness, 1)
    assert dead.sent == [request_id(1) + b"done"]


def test_a_pipe_that_had_nothing_to_say_is_not_resumed() -> None:
    harness = served()
    pipe = harness.connect()
    for number in (1, 2):
        ask(harness, pipe, number)
        harness.congest(pipe)
        work(harness, 1)
        if number == 1:
            ask(harness, pipe, 10)
        harness.drain(pipe)
        if number == 1:
            work(harness, 1)
    assert len(harness.did("resume")) == 1
    assert len(pipe.sent) == 3


def test_a_pipe_whose_answers_were_all_dropped_is_read_from_again() -> None:
    harness = served(writeq=2)
    dead, slow = harness.connect(), harness.connect()
    ask(harness, dead, 1)
    harness.congest(dead)
    work(harness, 1)
    ask(harness, dead, 2)
    assert len(dead.unread) == 1
    ask(harness, slow, 3)
    harness.congest(slow)
    work(harness, 1)
    assert len(dead.unread) == 0
    assert harness.pipe_counts == {(dead.id, "congested"): 1}


def test_an_answer_that_its_worker_took_back_is_no_answer() -> None:
    harness = served()
    pipe = harness.connect()
    ask(harness, pipe, 1, 2)
    harness.congest(pipe)
    assert work(harness, 1).take_back()
    work(harness, 1)
    harness.drain(pipe)
    assert pipe.sent == [request_id(2) + b"done"]
    assert harness.pipe_counts == {(pipe.id, "canceled"): 1}


def test_answers_of_a_dead_worker_still_go_out() -> None:
    harness = served()
    pipe = harness.connect()
    ask(harness, pipe, 1)
    harness.congest(pipe)
    work(harness, 1)
    harness.close(1)
    harness.open(2)
    assert harness.recv(2) is None
    harness.drain(pipe)
    assert pipe.sent == [request_id(1) + b"done"]


def test_a_pipe_that_breaks_while_its_answers_are_sent() -> None:
    harness = served()
    pipe = harness.connect()
    ask(harness, pipe, 1, 2, 3)
    harness.congest(pipe)
    messages = [work(harness, 1), work(harness, 1)]
    pipe.breaks = True
    harness.drain(pipe)
    assert {message.state for message in messages} == {"freed"}
    assert not pipe.attached
    assert harness.recv(1) is None


# --- Peers that read nothing, while a worker waits for room


def stuck(harness: Harness) -> FakePipe:
    """A worker that waits for room for what is to go to a pipe that takes nothing."""
    pipe = harness.connect()
    ask(harness, pipe, 1, 2)
    harness.congest(pipe)
    work(harness, 1)
    assert harness.recv(1) is not None
    harness.hungry.add(1)
    return pipe


def test_who_reads_nothing_while_a_worker_waits_for_room_has_to_go() -> None:
    harness = served()
    dead = stuck(harness)
    slow, ready = harness.connect(), harness.connect()
    harness.congest(slow)
    for _ in range(3):
        slow.taken += 1
        harness.advance(1.0)
    assert (dead.attached, dead.closed_for) == (False, "stalled")
    assert slow.attached
    assert ready.attached
    assert harness.pipe_counts[dead.id, "stalled"] == 1
    assert harness.leaks() == []


def test_while_no_worker_waits_nobody_has_to_go() -> None:
    harness = served()
    dead = stuck(harness)
    harness.hungry.clear()
    harness.advance(60.0)
    assert dead.attached
    harness.drain(dead)
    harness.advance(60.0)
    assert harness.machine.deadline == NEVER


def test_who_waits_for_room_only_now_and_then_is_not_stuck() -> None:
    harness = served()
    dead = harness.connect()
    ask(harness, dead, 1, 2)
    harness.congest(dead)
    work(harness, 1)
    busy = harness.connect()
    harness.hungry.add(1)
    for number in range(50):
        ask(harness, busy, 10 + number)
        work(harness, 1)
        harness.advance(0.3)
    assert dead.attached
