"""Several threads share a side of a lane: they sleep on one bell, each on one of its own beside it."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from ring.support import BUDGET, RECV, SEND, Lane
from ring.traffic import PATIENCE, make_bodies, sleep_io
from spworkers.ring import wait_readable
from spworkers.waiting import Sleepers, Steps, Wait, run

SIZES = [193, 5000, 65536, BUDGET // 3, BUDGET, BUDGET + 1]
BODIES = make_bodies(509, SIZES, seed=5)
STOP = b"stop"


@pytest.fixture(autouse=True)
def _threads_change_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Crew:
    """Threads, and what the first of them to fail raised."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.failed: list[BaseException] = []

    def start(self, work: Callable[..., None], *arguments: object) -> None:
        def guarded() -> None:
            try:
                work(*arguments)
            except BaseException as error:
                self.failed.append(error)
                raise

        self.threads.append(threading.Thread(target=guarded, daemon=True))
        self.threads[-1].start()

    def join(self) -> None:
        for thread in self.threads:
            thread.join(2 * PATIENCE)
            assert not thread.is_alive()
        assert not self.failed


def body_of(sender: int, number: int) -> bytes:
    return BODIES[(sender * 7919 + number) % len(BODIES)]


def check(pipe: int, serial: int, body: bytes) -> None:
    assert body == body_of(pipe, serial), f"message {serial} of sender {pipe} is torn"


def sending(lane: Lane, sender: int, number: int) -> Steps[None]:
    """Wait for room, each sender for as much as its own message needs."""
    tx, body = lane.producer, body_of(sender, number)
    while not tx.publish(body, b"", sender, number):
        if not tx.arm(len(body)):
            assert (yield Wait(tx, PATIENCE)), f"sender {sender} was not told of room for {len(body)} bytes"


def receiving(lane: Lane) -> Steps[tuple[int, int, bytes]]:
    """Wait for a message, whichever."""
    rx = lane.consumer
    while (record := rx.take()) is None:
        if not rx.arm():
            assert (yield Wait(rx, PATIENCE)), "a receiver was not told of a message"
    return record.pipe, record.serial, record.take_body()


@pytest.mark.parametrize("senders", [2, 5])
@pytest.mark.parametrize("window", [1, 3, 128])
def test_senders_share_a_lane(send_lane: Lane, senders: int, window: int) -> None:
    """Each one's messages arrive in its order, whole, once; nobody is left asleep over room that is there."""
    lane, each = send_lane, 400
    lane.window = window
    crew, sleepers = Crew(), Sleepers()

    def work(sender: int) -> None:
        for number in range(each):
            run(sending(lane, sender, number), sleepers)

    for sender in range(senders):
        crew.start(work, sender)
    next_of = [0] * senders
    while sum(next_of) < senders * each:
        assert not crew.failed
        record = lane.take()
        if record is None:
            sleep_io(lane.region, lane.io_bell)
            continue
        assert record.serial == next_of[record.pipe]
        next_of[record.pipe] += 1
        check(record.pipe, record.serial, record.take_body())
    crew.join()
    assert (lane.producer.queued, lane.producer.bytes) == (0, 0)


@pytest.mark.parametrize("receivers", [2, 5])
@pytest.mark.parametrize("window", [1, 3, 128])
def test_receivers_share_a_lane(recv_lane: Lane, receivers: int, window: int) -> None:
    """Each message is received once, by one of them, and each of them gets its own in order."""
    lane, count = recv_lane, 1500
    lane.window = window
    crew, sleepers = Crew(), Sleepers()
    got: list[list[int]] = [[] for _ in range(receivers)]

    def work(receiver: int) -> None:
        while True:
            pipe, serial, body = run(receiving(lane), sleepers)
            if body == STOP:
                return
            check(pipe, serial, body)
            got[receiver].append(serial)

    for receiver in range(receivers):
        crew.start(work, receiver)
    for number in range(count + receivers):
        body = body_of(0, number) if number < count else STOP
        while not lane.producer.offer(b"", body, 0, 0, number):
            assert not crew.failed
            if not lane.producer.arm(len(body)):
                sleep_io(lane.region, lane.io_bell)
    crew.join()
    assert all(numbers == sorted(numbers) for numbers in got)
    assert Counter(number for numbers in got for number in numbers) == Counter(range(count))
    assert (lane.producer.queued, lane.producer.bytes) == (0, 0)


def test_receivers_ask_for_their_messages(recv_lane: Lane) -> None:
    """With no window each message goes to demand, and no demand is left over."""
    lane, count, receivers = recv_lane, 600, 4
    lane.window = 0
    crew, sleepers = Crew(), Sleepers()

    def asking() -> Steps[bytes]:
        rx = lane.consumer
        epoch = rx.announce()
        while (record := rx.take()) is None:
            if not rx.arm(epoch):
                assert (yield Wait(rx, PATIENCE)), "its demand was not met"
        assert record.by_demand
        return record.take_body()

    def work() -> None:
        while run(asking(), sleepers) != STOP:
            pass

    for _ in range(receivers):
        crew.start(work)
    for number in range(count + receivers):
        body = body_of(0, number) if number < count else STOP
        while not lane.producer.offer(b"", body, 0, 0, number):
            assert not crew.failed
            if not lane.producer.arm(len(body)):
                sleep_io(lane.region, lane.io_bell)
    crew.join()
    assert lane.producer.demand == 0
    assert lane.producer.queued == 0


def test_both_lanes_at_once_through_one_io_thread() -> None:
    """An echo: senders and receivers of one context, whose lanes share the region and the I/O process's bell."""
    window, senders, each = 4, 3, 300
    there = Lane(SEND, window=window)
    back = Lane(RECV, window=window, region=there.region)
    back.consumer = type(back.consumer)(back.segment, back.bell, there.io_bell)
    crew, sending_ones, receiving_ones = Crew(), Sleepers(), Sleepers()
    received: list[tuple[int, int]] = []

    def send(sender: int) -> None:
        for number in range(each):
            run(sending(there, sender, number), sending_ones)

    def receive() -> None:
        while True:
            pipe, serial, body = run(receiving(back), receiving_ones)
            if body == STOP:
                return
            check(pipe, serial, body)
            received.append((pipe, serial))

    def echo() -> None:
        for _ in range(senders * each):
            while (record := there.take()) is None:
                sleep_io(there.region, there.io_bell)
            hand_on(record.body(), record.pipe, record.serial)
            record.release()
        for _ in range(2):
            hand_on(STOP, 0, 0)

    def hand_on(body: bytes, pipe: int, serial: int) -> None:
        while not back.producer.offer(b"", body, 0, pipe, serial):
            if not back.producer.arm(len(body)):
                sleep_io(there.region, there.io_bell)

    for sender in range(senders):
        crew.start(send, sender)
    crew.start(receive)
    crew.start(receive)
    crew.start(echo)
    crew.join()
    assert sorted(received) == [(sender, number) for sender in range(senders) for number in range(each)]
    assert there.producer.queued == back.producer.queued == 0
    there.close()
    back.close()


def test_a_large_sender_does_not_starve_behind_a_small_one(send_lane: Lane) -> None:
    """Room for the small one is no room for the large one, and the other way round: each ring is for both to look."""
    lane, tx = send_lane, send_lane.producer
    crew, sleepers = Crew(), Sleepers()

    def send(size: int) -> Steps[None]:
        while not tx.publish(bytes(size)):
            if not tx.arm(size):
                assert (yield Wait(tx, PATIENCE)), f"no room for {size} bytes"

    def work(size: int) -> None:
        for _ in range(60):
            run(send(size), sleepers)

    crew.start(work, BUDGET)
    crew.start(work, BUDGET // 2)
    crew.start(work, 1000)
    for _ in range(180):
        while (record := lane.take()) is None:
            assert not crew.failed
            sleep_io(lane.region, lane.io_bell)
        record.release()
    crew.join()
    assert lane.pop() is None
    assert not wait_readable(lane.io_bell, 0)
