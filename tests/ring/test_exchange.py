"""One question at a time on two lanes, and the window of each pipe in one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from ring.support import PUBLISHED, RECV, SEND, Lane, readable
from spworkers.ring import ERROR, Exchange, Region, Ways


class Pair:
    """An asker, and who answers it: both ends of a context's two lanes."""

    def __init__(self) -> None:
        self.region = Region.create(1 << 20)
        self.region.ready_pipes = 1
        self.there = Lane(SEND, region=self.region)
        self.back = Lane(RECV, region=self.region)
        self.dropped: dict[str, int] = {}
        self.exchange = Exchange(self.there.producer, self.back.consumer, self.dropped)

    def asked(self) -> tuple[int, bytes]:
        """The next question's serial and body."""
        record = self.there.take()
        assert record is not None
        return record.serial, record.take_body()

    def answer(self, serial: int, body: bytes = b"answer") -> None:
        assert self.back.put(body, serial=serial)

    def ask(self, body: bytes = b"question") -> int:
        assert self.exchange.ask(body)
        return self.exchange.current

    def close(self) -> None:
        self.there.close()
        self.back.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    with closing(Pair()) as made:
        yield made


def test_a_question_is_answered_once(pair: Pair) -> None:
    exchange = pair.exchange
    assert exchange.due() == 0
    serial = pair.ask(b"?")
    assert exchange.due() == serial == exchange.serial
    assert pair.asked() == (serial, b"?")
    assert exchange.answer(serial) is None
    pair.answer(serial, b"!")
    record = exchange.answer(serial)
    assert record is not None
    assert record.take_body() == b"!"
    assert exchange.due() == 0
    pair.answer(serial, b"again")
    assert exchange.answer(serial) is None, "nobody waits for it any more"
    assert pair.ask() == serial + 1
    assert pair.back.receive() is None, "a new question leaves nothing of the former one"
    assert pair.dropped == {"canceled": 1}


def test_without_a_pipe_nothing_is_asked(pair: Pair) -> None:
    former = pair.ask()
    pair.region.ready_pipes = 0
    assert not pair.exchange.ask(b"x")
    assert pair.exchange.current == former, "nor is the former question given up"


def test_without_room_nothing_is_asked(pair: Pair) -> None:
    former = pair.ask()
    while pair.there.put(bytes(300_000)):  # the budget; a window is no matter
        pass
    assert not pair.exchange.ask(bytes(1_000_000))
    assert pair.exchange.current == 0
    assert pair.exchange.serial == former + 1


def test_a_new_question_takes_the_former_back(pair: Pair) -> None:
    former = pair.ask(b"old")
    newer = pair.ask(b"new")
    assert pair.asked() == (newer, b"new")
    assert pair.there.take() is None
    pair.answer(former, b"late")
    pair.answer(newer, b"right")
    assert pair.exchange.answer(former) is None
    record = pair.exchange.answer(newer)
    assert record is not None
    assert record.take_body() == b"right"
    assert pair.dropped == {"canceled": 1}


def test_one_that_a_peer_has_is_not_taken_back(pair: Pair) -> None:
    pair.ask(b"old")
    record = pair.there.take()
    assert record is not None
    newer = pair.ask(b"new")
    assert record.body() == b"old"
    assert pair.asked() == (newer, b"new")


def test_who_waits_for_a_former_question_is_woken(pair: Pair) -> None:
    exchange = pair.exchange
    serial = pair.ask()
    assert exchange.answer(serial, True) is None
    assert exchange.due() == -1, "somebody waits for this answer already"
    assert not pair.back.consumer.arm()
    assert not readable(pair.back.bell)
    pair.ask()
    assert readable(pair.back.bell)
    exchange.leave(serial)
    assert exchange.due() == exchange.current


def test_who_sends_a_former_question_is_woken(pair: Pair) -> None:
    exchange = pair.exchange
    serial = exchange.begin()
    exchange.sending = serial
    assert exchange.publish(b"x", serial)
    assert not pair.there.producer.arm_for(exchange.ticket)
    assert not readable(pair.there.bell)
    exchange.begin()
    assert readable(pair.there.bell)


def test_being_given_the_answer_ends_the_waiting(pair: Pair) -> None:
    exchange = pair.exchange
    serial = pair.ask()
    assert exchange.answer(serial, True) is None
    pair.answer(serial)
    assert exchange.answer(serial) is not None
    assert exchange.receiving == 0


def test_an_error_that_nobody_waits_for_is_no_loss(pair: Pair) -> None:
    serial = pair.ask()
    assert pair.back.put(b"CanceledError", serial=serial, kind=ERROR, force=True)
    pair.ask()
    assert pair.dropped == {}


def test_giving_up_without_a_question_does_nothing(pair: Pair) -> None:
    pair.exchange.give_up()
    assert pair.exchange.current == 0
    serial = pair.ask()
    assert pair.there.producer.state(pair.exchange.ticket) == PUBLISHED
    pair.exchange.give_up()
    assert pair.exchange.due() == 0
    assert pair.there.take() is None
    assert pair.exchange.answer(serial) is None


def test_a_question_that_was_superseded_while_it_was_copied_is_not_sent(pair: Pair) -> None:
    exchange = pair.exchange
    serial = exchange.begin()
    newer = pair.ask(b"newer")
    ticket = exchange.ticket
    assert exchange.publish(b"older", serial), "there was room; there is nothing more to be done"
    assert (exchange.current, exchange.ticket) == (newer, ticket)
    assert pair.asked() == (newer, b"newer")
    assert pair.there.take() is None
    assert pair.there.producer.queued == 0


def test_threads_that_ask_at_once_leave_one_question(pair: Pair) -> None:
    """The last one begun counts, and it is the last one in the lane."""
    big = bytes(200_000)  # copied without the GIL
    seen: list[int] = []
    over = threading.Event()

    def serve() -> None:
        while True:
            last = over.is_set()
            while (record := pair.there.take()) is not None:
                seen.append(record.serial)
                record.release()
            if last:
                return

    server = threading.Thread(target=serve)
    server.start()
    askers = [threading.Thread(target=lambda: [pair.exchange.ask(big) for _ in range(200)]) for _ in range(3)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    over.set()
    server.join()
    assert seen == sorted(seen)
    assert pair.exchange.serial == 600


# --- each pipe's window


@pytest.fixture
def ways(send_lane: Lane) -> Ways:
    return Ways(send_lane.producer)


def fill(ways: Ways, pipe: int) -> int:
    """Send to a pipe until its window is full; how many that were."""
    sent = 0
    while ways.send(b"x", b"", pipe):
        sent += 1
    return sent


@pytest.mark.parametrize(
    ("queue", "congested", "room"), [(0, False, 64), (0, True, 1), (5, True, 5), (100, False, 100)]
)
def test_a_pipes_window(send_lane: Lane, ways: Ways, queue: int, congested: bool, room: int) -> None:
    send_lane.window = 1000
    ways.queue_length = queue
    send_lane.region.set_congested(7, congested)
    assert ways.oldest(7) == 0
    assert fill(ways, 7) == room
    assert ways.oldest(7) != 0
    assert ways.send(b"x", b"", 8), "another one's is not touched"
    send_lane.receive()
    assert ways.oldest(7) == 0
    assert fill(ways, 7) == 1


def test_the_oldest_is_the_one_that_makes_room(send_lane: Lane, ways: Ways) -> None:
    send_lane.region.set_congested(7, True)
    ways.queue_length = 2
    assert fill(ways, 7) == 2
    oldest = ways.oldest(7)
    assert not send_lane.producer.arm_for(oldest, True)
    record = send_lane.take()
    assert record is not None
    assert not send_lane.producer.arm_for(oldest, True), "taken is not gone"
    record.release()
    assert send_lane.producer.arm_for(oldest, True)
    assert ways.oldest(7) == 0


def test_a_full_lane_is_not_a_full_window(send_lane: Lane, ways: Ways) -> None:
    send_lane.window = 3
    assert fill(ways, 7) == 3
    assert ways.oldest(7) == 0


def test_header_and_tag_go_along(send_lane: Lane, ways: Ways) -> None:
    assert ways.send(b"body", b"head", 7, 9)
    record = send_lane.take()
    assert record is not None
    assert (record.header, record.pipe, record.body()) == (b"head", 9, b"body")


def test_idle_pipes_are_forgotten(send_lane: Lane, ways: Ways) -> None:
    send_lane.window = 10_000
    assert ways.send(b"x", b"", 1)
    kept = send_lane.take()
    for pipe in range(2, 2000):
        assert ways.send(b"x", b"", pipe)
        assert send_lane.receive() == b"x"
    assert len(ways) <= 257
    send_lane.region.set_congested(1, True)
    assert ways.oldest(1) != 0, "one with a message on its way is not"
    assert kept is not None
    kept.release()


def test_many_messages_pass_a_window(send_lane: Lane, ways: Ways) -> None:
    send_lane.window = 1000
    for _ in range(50):
        assert fill(ways, 7) == 64
        assert send_lane.drain() == [b"x"] * 64


Move = Callable[[Pair], object]


@pytest.mark.parametrize("move", [lambda pair: pair.exchange.ask("text"), lambda pair: pair.exchange.publish(5, 1)])
def test_what_is_no_buffer_is_refused(pair: Pair, move: Move) -> None:
    with pytest.raises(TypeError):
        move(pair)
    assert pair.there.take() is None
    assert pair.exchange.due() == 0
