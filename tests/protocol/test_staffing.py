"""The dispatcher and the call format's head: deadlines, cancellation, streams, requests beside each other."""

from __future__ import annotations

import math
from typing import Any

import pytest
from wire import request_id

from spworkers.protocol.dispatch import Dispatcher
from spworkers.protocol.machine import CANCEL, LEAVE, MORE
from spworkers.protocol.staffing import AUTO
from spworkers.testing import Delivery, FakeMessage, FakePipe, Harness


class Errors:
    def handler_of(self, payload: bytes, header_length: int) -> str:
        return payload[header_length + 14 :].decode("ascii", "replace")

    def content_at(self, payload: bytes, header_length: int) -> int:
        return header_length + 14

    def error_reply(self, payload: bytes, header_length: int, kind: str, detail: dict[str, Any]) -> bytes | None:
        return b"!" + kind.encode()


def call(number: int, name: bytes = b"work", patience: int = 0) -> bytes:
    return b"\xc1\x10" + number.to_bytes(8, "big") + patience.to_bytes(4, "big") + name


def next_part(number: int, part: int, patience: int = 0) -> bytes:
    return b"\xc1\x15" + number.to_bytes(8, "big") + patience.to_bytes(4, "big") + part.to_bytes(4, "big")


def cancel(number: int) -> bytes:
    return b"\xc1\x16" + number.to_bytes(8, "big")


@pytest.fixture
def harness() -> Harness:
    harness = Harness(Dispatcher, errors=Errors())
    harness.configure("RETRIES", 1)
    return harness


def idle(harness: Harness) -> bool:
    assert isinstance(harness.machine, Dispatcher)
    return harness.machine.idle


def take(harness: Harness, context: int = 1) -> Delivery:
    request = harness.recv(context)
    assert request is not None
    return request


def answer(harness: Harness, request: Delivery, body: bytes = b"done", kind: int = 0, context: int = 1) -> FakeMessage:
    return harness.send(context, body, serial=request.serial, kind=kind)


def canceled(harness: Harness) -> list[tuple[int, int]]:
    return [(context, serial) for context, serial in harness.did("cancel")]


# --- deadlines


def test_a_request_whose_asker_is_gone_is_not_handed_out(harness: Harness) -> None:
    pipe = harness.connect()
    harness.feed(pipe, request_id(1) + call(1, patience=500), request_id(2) + call(2))
    harness.advance(0.6)
    harness.open(1)
    assert take(harness).body == call(2)
    assert harness.counts["expired"] == 1


def test_a_running_request_is_stopped_when_its_asker_stops_waiting(harness: Harness) -> None:
    harness.open(1)
    pipe = harness.connect()
    harness.feed(pipe, request_id(1) + call(1, patience=500))
    request = take(harness)
    harness.advance(0.6)
    assert canceled(harness) == [(1, request.serial)]
    assert idle(harness)
    harness.feed(pipe, request_id(2) + call(2))  # waits until the worker has stopped
    answer(harness, request, b"", CANCEL)
    assert take(harness).body == call(2)
    assert pipe.sent == []
    harness.advance(100.0)
    assert harness.killed == []


def test_who_does_not_stop_is_killed_and_the_others_are_not_blamed(harness: Harness) -> None:
    harness.configure("PREFETCH", 2)
    harness.open(1)
    pipe = harness.connect()
    harness.feed(pipe, request_id(1) + call(1, patience=500), request_id(2) + call(2))
    take(harness), take(harness)
    harness.advance(3.0)
    assert [context for context, _ in harness.killed] == [1]
    harness.close(1)
    harness.open(2)
    assert take(harness, 2).body == call(2)
    assert harness.recv(2) is None


def test_a_full_backlog_lets_go_of_what_nobody_waits_for(harness: Harness) -> None:
    harness.configure("BACKLOG", 2)
    pipe = harness.connect()
    for number in range(2):
        harness.feed(pipe, request_id(number) + call(number, patience=100))
    harness.advance(1.0)
    harness.feed(pipe, request_id(3) + call(3))
    assert pipe.sent == []
    harness.feed(pipe, request_id(4) + call(4), request_id(5) + call(5))
    assert pipe.sent == [request_id(5) + b"!busy"]


# --- cancellation


def test_a_cancelled_request_is_taken_from_the_backlog(harness: Harness) -> None:
    pipe = harness.connect()
    harness.feed(pipe, request_id(1) + call(1), request_id(2) + call(2), request_id(1) + cancel(1))
    harness.open(1)
    assert take(harness).body == call(2)
    assert harness.counts["canceled"] == 1


@pytest.mark.parametrize("header", [1, 77])
def test_a_running_request_is_stopped_when_it_is_cancelled(harness: Harness, header: int) -> None:
    harness.open(1)
    pipe = harness.connect()
    harness.feed(pipe, request_id(1) + call(1))
    request = take(harness)
    harness.feed(pipe, request_id(header) + cancel(1))
    assert canceled(harness) == [(1, request.serial)]
    answer(harness, request, b"it was too late")
    assert pipe.sent == []
    assert idle(harness)


def test_nobody_cancels_what_came_by_another_pipe(harness: Harness) -> None:
    harness.open(1)
    pipe, other = harness.connect(), harness.connect()
    harness.feed(pipe, request_id(1) + call(1))
    request = take(harness)
    harness.feed(other, request_id(1) + cancel(1), request_id(5) + cancel(99))
    assert canceled(harness) == []
    answer(harness, request)
    assert pipe.sent == [request_id(1) + b"done"]
    assert other.sent == []


def test_an_untaken_request_is_taken_back(harness: Harness) -> None:
    harness.open(1)
    pipe = harness.connect()
    harness.feed(pipe, request_id(1) + call(1), request_id(1) + cancel(1), request_id(2) + call(2))
    assert canceled(harness) == []
    assert take(harness).body == call(2)


# --- a call that comes again


def test_a_call_that_comes_by_another_pipe_joins(harness: Harness) -> None:
    harness.open(1)
    pipe, other = harness.connect(), harness.connect()
    harness.feed(pipe, request_id(1) + call(1))
    request = take(harness)
    harness.disconnect(pipe)
    harness.feed(other, request_id(9) + call(1))
    assert harness.recv(1) is None
    answer(harness, request)
    assert other.sent == [request_id(9) + b"done"]
    assert harness.counts["duplicate"] == 1
    assert idle(harness)
    harness.feed(other, request_id(9) + call(1))  # when it was answered it is a new one
    assert take(harness).body == call(1)


def test_the_same_id_with_other_arguments_is_another_call(harness: Harness) -> None:
    harness.configure("PREFETCH", 2)
    harness.open(1)
    pipe, other = harness.connect(), harness.connect()
    harness.feed(pipe, request_id(1) + call(1, b"one"))
    harness.feed(other, request_id(1) + call(1, b"two"))
    one, two = take(harness), take(harness)
    answer(harness, two, b"2")
    answer(harness, one, b"1")
    assert (pipe.sent, other.sent) == ([request_id(1) + b"1"], [request_id(1) + b"2"])


# --- beside each other


def concurrent(harness: Harness, limit: int = 2, timeout: float = 0.0, retries: int = 1) -> None:
    harness.configure("CONCURRENT", limit)
    harness.configure("LIMITS", {"async": [timeout, retries, True]})


def test_plain_requests_do_not_wait_for_async_ones_nor_the_other_way_round(harness: Harness) -> None:
    concurrent(harness)
    harness.open(1)
    pipe = harness.connect()
    for number, name in enumerate([b"async", b"async", b"async", b"plain", b"plain", b"async"]):
        harness.feed(pipe, request_id(number) + call(number, name))
    taken = [take(harness) for _ in range(3)]
    assert [each.body[14:] for each in taken] == [b"async", b"async", b"plain"]
    assert harness.recv(1) is None
    answer(harness, taken[1])
    assert take(harness).body == call(2, b"async")
    answer(harness, taken[2])
    assert take(harness).body == call(4, b"plain")


def test_an_async_request_that_runs_too_long_is_cancelled_and_tried_again(harness: Harness) -> None:
    concurrent(harness, timeout=5.0)
    harness.open(1)
    pipe = harness.connect()
    harness.feed(pipe, request_id(1) + call(1, b"async"))
    harness.advance(2.0)
    harness.feed(pipe, request_id(2) + call(2, b"async"))
    first, second = take(harness), take(harness)
    harness.advance(3.5)
    assert canceled(harness) == [(1, first.serial)]
    assert harness.recv(1) is None  # both places are taken
    answer(harness, first, b"", CANCEL)
    again = take(harness)
    assert again.body == call(1, b"async")
    answer(harness, second)
    harness.advance(5.5)
    answer(harness, again, b"", CANCEL)
    assert pipe.sent == [request_id(2) + b"done", request_id(1) + b"!timeout"]
    assert harness.killed == []
    assert idle(harness)


def test_an_async_worker_that_does_not_cancel_is_killed(harness: Harness) -> None:
    concurrent(harness, timeout=1.0, retries=0)
    harness.open(1)
    pipe = harness.connect()
    harness.feed(pipe, request_id(1) + call(1, b"async"))
    take(harness)
    harness.advance(1.5)
    assert pipe.sent == [request_id(1) + b"!timeout"]
    harness.advance(3.0)
    assert [context for context, _ in harness.killed] == [1]


def test_what_a_deaf_worker_has_not_taken_goes_to_others(harness: Harness) -> None:
    concurrent(harness, limit=8)
    for context in (1, 2):
        harness.open(context)
    pipe = harness.connect()
    for number, name in enumerate([b"async"] * 4):
        harness.feed(pipe, request_id(number) + call(number, name))
    held = harness.recv(1)  # and then it takes nothing any more
    assert held is not None
    others = [take(harness, 2), take(harness, 2)]
    assert harness.recv(2) is None
    harness.advance(0.2)
    others.append(take(harness, 2))
    harness.feed(pipe, request_id(4) + call(4, b"async"))
    harness.feed(pipe, request_id(5) + call(5, b"async"))
    others += [take(harness, 2), take(harness, 2)]
    answer(harness, held, context=1)
    harness.feed(pipe, request_id(6) + call(6, b"async"))
    others.append(take(harness, 1))  # it hears again
    for request, worker in zip(others, [2, 2, 2, 2, 2, 1], strict=True):
        answer(harness, request, context=worker)
    assert sorted(frame[:4] for frame in pipe.sent) == [request_id(number) for number in range(7)]
    assert idle(harness)


def test_what_the_main_thread_says_tells_nothing_of_the_event_loop(harness: Harness) -> None:
    concurrent(harness, limit=4)
    harness.open(1)
    pipe = harness.connect()
    harness.feed(pipe, request_id(0) + call(0, b"plain"))
    plain = take(harness, 1)
    harness.open(2)
    harness.feed(pipe, request_id(1) + call(1, b"async"))
    harness.feed(pipe, request_id(2) + call(2, b"async"))
    held = take(harness, 2)
    harness.advance(0.1)
    other = take(harness, 2)
    answer(harness, plain, context=1)
    harness.feed(pipe, request_id(3) + call(3, b"async"))
    assert harness.recv(1) is None
    for request in (held, other, take(harness, 2)):
        answer(harness, request, context=2)
    assert idle(harness)


def ahead(harness: Harness, *workers: int) -> FakePipe:
    """Workers that have shown how quickly they answer plain requests, beside async ones."""
    concurrent(harness, limit=4)
    harness.configure("PREFETCH", AUTO)
    harness.configure("RETRIES", 0)
    pipe = harness.connect()
    for worker in workers:
        harness.open(worker)
    for worker in workers:
        harness.feed(pipe, request_id(1000 + worker) + call(1000 + worker, b"plain"))
    for worker in workers:
        answer(harness, take(harness, worker), context=worker)
    pipe.sent.clear()
    return pipe


def plain_ones(harness: Harness, pipe: FakePipe, *numbers: int) -> None:
    for number in numbers:
        harness.feed(pipe, request_id(number) + call(number, b"plain"))


def test_who_is_busy_with_a_plain_request_is_not_deaf(harness: Harness) -> None:
    """What lies untaken behind it waits for the main thread, not for the event loop."""
    pipe = ahead(harness, 1, 2)
    plain_ones(harness, pipe, 0, 1, 2, 3)
    held, other = take(harness, 1), take(harness, 2)
    harness.advance(1.0)
    harness.feed(pipe, request_id(4) + call(4, b"async"), request_id(5) + call(5, b"async"))
    assert len(harness.lanes[1].waiting) == len(harness.lanes[2].waiting) == 1  # what was dealt ahead is not there
    for worker, plain in ((1, held), (2, other)):
        answer(harness, take(harness, worker), context=worker)
        answer(harness, plain, context=worker)
    for worker in (1, 2):
        answer(harness, take(harness, worker), context=worker)
    assert idle(harness)


def test_who_does_not_begin_the_next_plain_request_is_deaf(harness: Harness) -> None:
    """Its event loop was held up while the main thread was at the one before."""
    pipe = ahead(harness, 1, 2)
    plain_ones(harness, pipe, 0, 1, 2, 3)
    held, other = take(harness, 1), take(harness, 2)
    harness.advance(0.04)
    answer(harness, held, context=1)  # and it begins nothing more
    assert [each.body for each in harness.lanes[1].waiting] == [call(2, b"plain")]
    harness.advance(0.04)
    assert [each.body for each in harness.lanes[1].waiting] == [call(2, b"plain")]
    harness.advance(0.1)
    assert harness.lanes[1].waiting == []
    answer(harness, other, context=2)
    for _ in range(2):
        answer(harness, take(harness, 2), context=2)
    assert idle(harness)


def test_a_worker_that_dies_is_not_blamed_for_what_it_had_not_begun(harness: Harness) -> None:
    pipe = ahead(harness, 1)
    plain_ones(harness, pipe, 0, 1, 2, 3)
    harness.feed(pipe, request_id(4) + call(4, b"async"))
    take(harness, 1)
    harness.close(1)
    assert pipe.sent == [request_id(0) + b"!died"]
    harness.open(2)
    for _ in range(4):
        answer(harness, take(harness, 2), context=2)
    assert sorted(pipe.sent[1:]) == [request_id(number) + b"done" for number in (1, 2, 3, 4)]
    assert idle(harness)


def test_a_canceled_request_that_waits_for_its_turn_is_not_run(harness: Harness) -> None:
    pipe = ahead(harness, 1)
    plain_ones(harness, pipe, 0, 1, 2)
    running = take(harness, 1)
    harness.feed(pipe, request_id(1) + cancel(1))
    assert canceled(harness) == []
    answer(harness, running)
    assert take(harness, 1).body == call(2, b"plain")


def test_a_serial_says_whether_the_request_runs_beside_others(harness: Harness) -> None:
    pipe = ahead(harness, 1)
    for number, name in enumerate([b"plain", b"async", b"async", b"plain"]):
        harness.feed(pipe, request_id(number) + call(number, name))
    assert [each.serial & 1 for each in harness.lanes[1].waiting] == [0, 1, 1, 0]


def test_a_deaf_worker_is_tried_again(harness: Harness) -> None:
    concurrent(harness)
    for context in (1, 2):
        harness.open(context)
    pipe = harness.connect()
    harness.feed(pipe, request_id(0) + call(0, b"async"))
    harness.feed(pipe, request_id(1) + call(1, b"async"))
    held = take(harness, 2)
    harness.advance(0.1)
    other = take(harness, 2)
    harness.advance(0.5)
    harness.feed(pipe, request_id(2) + call(2, b"async"))
    answer(harness, take(harness, 1), context=1)
    for request in (held, other):
        answer(harness, request, context=2)
    assert idle(harness)


def test_the_only_worker_keeps_what_it_has_until_there_is_another(harness: Harness) -> None:
    concurrent(harness)
    harness.open(1)
    pipe = harness.connect()
    harness.feed(pipe, request_id(0) + call(0, b"async"))
    harness.advance(5.0)
    answer(harness, take(harness, 1))
    harness.feed(pipe, request_id(1) + call(1, b"async"))
    harness.advance(5.0)
    harness.open(2)
    harness.advance(0.1)
    answer(harness, take(harness, 2), context=2)
    assert harness.recv(1) is None
    assert idle(harness)


def test_nobody_looks_while_all_is_taken(harness: Harness) -> None:
    concurrent(harness)
    for context in (1, 2):
        harness.open(context)
    pipe = harness.connect()
    harness.feed(pipe, request_id(0) + call(0, b"async"))
    request = take(harness, 1)
    harness.advance(1.0)
    assert harness.machine.deadline == math.inf
    answer(harness, request)
    assert idle(harness)


# --- streams


def test_the_next_parts_go_to_the_worker_that_has_the_stream(harness: Harness) -> None:
    for context in (1, 2):
        harness.open(context)
    pipe = harness.connect()
    harness.feed(pipe, request_id(1) + call(1))
    first = harness.recv(1)
    worker = 1 if first is not None else 2
    first = first or take(harness, 2)
    answer(harness, first, b"a", MORE, worker)
    for number in range(5):
        assert not idle(harness)
        harness.feed(pipe, request_id(10 + number) + next_part(1, number + 1))
        request = take(harness, worker)
        assert request.body == next_part(1, number + 1)
        answer(harness, request, b"%d" % number, MORE if number < 4 else 0, worker)
    assert [frame[4:] for frame in pipe.sent] == [b"a", b"0", b"1", b"2", b"3", b"4"]
    assert idle(harness)
    harness.feed(pipe, request_id(50) + next_part(1, 6))
    assert pipe.sent[-1] == request_id(50) + b"!lost"


def opened(harness: Harness, pipe: FakePipe, number: int = 1) -> Delivery:
    harness.feed(pipe, request_id(number) + call(number))
    first = take(harness)
    answer(harness, first, b"a", MORE)
    return first


def test_another_pipe_has_no_part_in_it(harness: Harness) -> None:
    harness.open(1)
    pipe, other = harness.connect(), harness.connect()
    opened(harness, pipe)
    harness.feed(other, request_id(2) + next_part(1, 1))
    assert other.sent == [request_id(2) + b"!lost"]


def test_a_stream_ends_with_its_pipe(harness: Harness) -> None:
    harness.open(1)
    pipe = harness.connect()
    first = opened(harness, pipe)
    harness.disconnect(pipe)
    assert canceled(harness) == [(1, first.serial)]
    assert idle(harness)


def test_a_stream_ends_with_its_worker(harness: Harness) -> None:
    harness.open(1)
    pipe = harness.connect()
    opened(harness, pipe)
    opened(harness, pipe, 2)
    harness.feed(pipe, request_id(3) + next_part(1, 1), request_id(4) + next_part(2, 1))
    harness.close(1)
    assert sorted(pipe.sent[2:]) == [request_id(3) + b"!lost", request_id(4) + b"!lost"]
    assert idle(harness)


def test_a_stream_is_closed_by_a_cancellation(harness: Harness) -> None:
    harness.open(1)
    pipe = harness.connect()
    first = opened(harness, pipe)
    harness.feed(pipe, request_id(3) + next_part(1, 1))
    part = take(harness)
    harness.feed(pipe, request_id(4) + cancel(1))
    assert canceled(harness) == [(1, part.serial), (1, first.serial)]
    answer(harness, part, b"", CANCEL)
    assert len(pipe.sent) == 1
    assert idle(harness)


def test_a_stream_that_nobody_asks_for_is_closed_some_day(harness: Harness) -> None:
    harness.configure("STREAM-TIMEOUT", 60.0)
    harness.open(1)
    pipe = harness.connect()
    first = opened(harness, pipe)
    harness.advance(50.0)
    harness.feed(pipe, request_id(3) + next_part(1, 1))
    answer(harness, take(harness), b"b", MORE)
    harness.advance(55.0)
    assert canceled(harness) == []
    harness.advance(60.0)
    assert canceled(harness) == [(1, first.serial)]
    assert idle(harness)


def test_a_stream_that_nobody_waits_for_is_closed_at_once(harness: Harness) -> None:
    harness.open(1)
    pipe = harness.connect()
    harness.feed(pipe, request_id(1) + call(1))
    first = take(harness)
    harness.disconnect(pipe)
    answer(harness, first, b"a", MORE)
    assert canceled(harness) == [(1, first.serial)]


# --- workers that leave


def test_who_leaves_keeps_what_it_has_taken(harness: Harness) -> None:
    harness.configure("PREFETCH", 2)
    harness.open(1)
    pipe = harness.connect()
    harness.feed(pipe, request_id(1) + call(1), request_id(2) + call(2))
    first = take(harness)
    harness.send(1, b"", kind=LEAVE)
    harness.open(2)
    assert harness.recv(1) is None
    assert take(harness, 2).body == call(2)
    answer(harness, first)
    harness.feed(pipe, request_id(3) + call(3))
    assert take(harness, 2).body == call(3)
    assert pipe.sent == [request_id(1) + b"done"]


def test_who_leaves_goes_on_with_its_streams(harness: Harness) -> None:
    harness.open(1)
    pipe = harness.connect()
    opened(harness, pipe)
    harness.send(1, b"", kind=LEAVE)
    harness.feed(pipe, request_id(3) + next_part(1, 1))
    answer(harness, take(harness), b"b")
    assert pipe.sent[-1] == request_id(3) + b"b"
    assert idle(harness)


# --- what people are told


def reports(harness: Harness) -> list[tuple[Any, ...]]:
    return [
        (cause, handler, call[-1:], round(seconds, 3)) for cause, handler, call, seconds, _ in harness.did("report")
    ]


def test_requests_that_no_worker_answers_are_reported(harness: Harness) -> None:
    harness.configure("ACCESS-LOG", True)
    harness.configure("BACKLOG", 2)
    harness.configure("RETRIES", 0)
    pipe = harness.connect()
    harness.open(1)
    harness.feed(pipe, *(request_id(n) + call(n, patience=500 if n == 2 else 0) for n in range(1, 5)))
    assert reports(harness) == [("busy", "work", b"\x04", 0.0)]
    take(harness)
    harness.feed(pipe, request_id(5) + cancel(3))
    harness.advance(0.6)
    harness.close(1)  # it has died
    harness.open(1)
    assert reports(harness)[1:] == [
        ("canceled", "work", b"\x03", 0.0),
        ("died", "work", b"\x01", 0.6),
        ("expired", "work", b"\x02", 0.6),
    ]


def test_who_runs_too_long_is_reported_once(harness: Harness) -> None:
    harness.configure("ACCESS-LOG", True)
    harness.configure("TIMEOUT", 0.2)
    pipe = harness.connect()
    harness.feed(pipe, request_id(1) + call(1))
    for context in (1, 2):
        harness.open(context)
        take(harness, context)
        harness.advance(0.25)
        harness.close(context)
    assert reports(harness) == [("timeout", "work", b"\x01", 0.5)]


def test_poison_is_reported_once_and_unasked(harness: Harness) -> None:
    harness.configure("RETRIES", 9)
    pipe = harness.connect()
    harness.feed(pipe, request_id(1) + call(1))
    for context in (1, 2, 3):
        harness.open(context)
        take(harness, context)
        harness.close(context)
    harness.feed(pipe, request_id(2) + call(2))
    ((cause, handler, _, _, text),) = harness.did("report")
    assert (cause, handler) == ("quarantined", "work")
    assert text == "a request killed 3 workers in a row and is not run any more, whoever asks"
