"""Large bodies are read from the network straight into the block of the lane that they are for."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from ring.support import BUDGET, RECV, Lane, body_of
from ring.test_batches import frame
from ring.test_frames import socketpair
from spworkers.errors import GarbledError, InternalError, TooLongError
from spworkers.ring import INLINE, IPC, STREAM, FrameReader, Landing

SIZE = 64 * 1024
HALF = BUDGET // 2


def reader_into(lane: Lane) -> FrameReader:
    reader = FrameReader(-1, STREAM)
    reader.into = lane.producer
    return reader


def fill(lane: Lane) -> list[Any]:
    """Bodies that have begun to arrive, as many as the lane has blocks for."""
    begun = []
    while (landing := lane.producer.land(SIZE)) is not None:
        begun.append(landing)
    return begun


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_a_body_in_parts(recv_lane: Lane, parts: int) -> None:
    body = body_of(1, SIZE)
    with socketpair() as (ours, theirs):
        reader = FrameReader(ours.fileno(), STREAM)
        reader.into = recv_lane.producer
        whole = frame(body) + frame(b"after")
        found: list[Any] = []
        at = 0
        while at < len(whole):
            at += theirs.send(whole[at : at + len(whole) // parts + 1])
            found += reader.read()
            while reader.got:
                found += reader.read()
    assert [type(each) for each in found] == [Landing, bytes]
    assert len(found[0]) == SIZE
    assert recv_lane.producer.offer_all(found, 0, 9) == 2
    record = recv_lane.pop()
    assert record is not None
    assert (record.pipe, record.header, record.serial, record.kind) == (9, b"", 0, 0)
    with record.view() as view:
        record.release()
        assert view == body
    assert recv_lane.receive() == b"after"
    assert recv_lane.producer.queued == recv_lane.producer.bytes == 0


@pytest.mark.parametrize("framing", [STREAM, IPC])
def test_one_read_brings_a_body_and_what_is_needed_to_read_the_next(recv_lane: Lane, framing: int) -> None:
    """Its head, and no more: what comes after a body is not read before that has found room."""
    head, mark = 8 + framing, b"\1" * framing
    bodies = [body_of(number, SIZE) for number in range(3)]
    with socketpair(small=False) as (ours, theirs):
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * SIZE)
        reader = FrameReader(ours.fileno(), framing)
        reader.into = recv_lane.producer
        theirs.sendall(mark + frame(bodies[0])[: 8 + 10])
        assert reader.read() == []
        theirs.sendall(bodies[0][10:] + b"".join(mark + frame(body) for body in (*bodies[1:], b"after")))
        sizes = []
        for number, body in enumerate(bodies):
            begun = recv_lane.producer.land(HALF) is None
            assert begun == (number == 0), "no block is held for a body of which nothing has been read"
            (landing,) = reader.read()
            sizes.append(reader.got)
            assert reader.full
            assert recv_lane.producer.offer_all([landing], 0, 1) == 1
            assert recv_lane.receive() == body
        assert sizes == [SIZE - 10 + head, SIZE + head, SIZE + head]
        assert reader.read() == [b"after"]
        assert not reader.full and reader.more == 0


def test_a_head_that_came_along_may_be_of_anything(recv_lane: Lane) -> None:
    for after, found, wrong in (
        (frame(b""), [b""], None),
        (frame(b"small")[:8], [], None),
        (frame(bytes(SIZE))[:5], [], None),
        ((SIZE + 1).to_bytes(8, "big"), [], TooLongError),
        (b"\xff" * 8, [], GarbledError),
    ):
        with socketpair(small=False) as (ours, theirs):
            reader = FrameReader(ours.fileno(), STREAM, SIZE)
            reader.into = recv_lane.producer
            theirs.sendall(frame(body_of(1, SIZE))[:SIZE])
            assert reader.read() == []
            theirs.sendall(frame(body_of(1, SIZE))[SIZE:] + after)
            payloads = reader.read()
            assert payloads[0].take_back() == body_of(1, SIZE)
            assert payloads[1:] == found
            assert type(reader.error) is (wrong or type(None))
            assert reader.more == (2 if wrong else len(after) == 8)
            if after == frame(b"small")[:8]:
                theirs.sendall(b"small")
                assert reader.read() == [b"small"]
            elif len(after) == 5:
                theirs.sendall(frame(body_of(2, SIZE))[5:])
                theirs.close()
                more = reader.read()
                while not more:
                    more = reader.read()
                assert more[0].take_back() == body_of(2, SIZE)


def test_small_ones_and_those_of_no_lane_are_bytes(recv_lane: Lane) -> None:
    reader = reader_into(recv_lane)
    assert [type(each) for each in reader.feed(frame(bytes(1000)))] == [bytes]
    reader.into = None
    assert [type(each) for each in reader.feed(frame(bytes(SIZE)))] == [bytes]
    assert recv_lane.producer.land(INLINE) is None


def test_they_take_half_a_budget_at_most_and_others_have_all_of_it(recv_lane: Lane) -> None:
    """A peer that begins and never finishes holds nobody up, by window or by budget."""
    recv_lane.window = 1
    begun = fill(recv_lane)
    assert HALF // 2 < len(begun) * SIZE <= HALF
    assert recv_lane.producer.queued == recv_lane.producer.bytes == 0
    assert recv_lane.put(bytes(BUDGET))
    assert recv_lane.receive() == bytes(BUDGET)
    recv_lane.window = 128
    for number in range(BUDGET // SIZE):
        assert recv_lane.put(body_of(number, SIZE))
    assert not recv_lane.put(bytes(SIZE))
    assert recv_lane.drain() == [body_of(number, SIZE) for number in range(BUDGET // SIZE)]
    del begun
    assert len(fill(recv_lane)) * SIZE > HALF // 2, "what was given up is there again"


def test_what_finds_no_room_waits_where_it_is(recv_lane: Lane) -> None:
    recv_lane.window = 1
    reader = reader_into(recv_lane)
    bodies = [body_of(number, SIZE) for number in range(3)]
    payloads = reader.feed(b"".join(map(frame, bodies)))
    done = 0
    for body in bodies:
        done = recv_lane.producer.offer_all(payloads, done, 1)
        assert recv_lane.producer.offer_all(payloads, done, 1) == done
        assert not recv_lane.producer.arm(SIZE)
        assert recv_lane.receive() == body
        assert recv_lane.region.collect() == [0]
    assert done == 3


def test_one_that_was_asked_for(recv_lane: Lane) -> None:
    recv_lane.window = 0
    payloads = reader_into(recv_lane).feed(frame(body_of(1, SIZE)))
    assert recv_lane.producer.offer_all(payloads, 0, 1) == 0
    recv_lane.consumer.announce()
    assert recv_lane.producer.offer_all(payloads, 0, 1) == 1
    assert recv_lane.producer.demand == 0
    record = recv_lane.pop()
    assert record is not None and record.by_demand
    assert record.take_body() == body_of(1, SIZE)


def test_it_is_taken_back_once(recv_lane: Lane) -> None:
    (landing,) = reader_into(recv_lane).feed(frame(body_of(1, SIZE)))
    assert landing.take_back() == body_of(1, SIZE)
    for again in (landing.take_back, lambda: recv_lane.producer.offer_all([landing], 0, 1)):
        with pytest.raises(InternalError, match="already"):
            again()
    with pytest.raises(TypeError, match="land"):
        Landing()


def test_a_reader_that_is_dropped_in_the_midst_gives_its_block_back(recv_lane: Lane) -> None:
    for _ in range(100):
        reader = reader_into(recv_lane)
        assert reader.feed(frame(bytes(HALF))[:SIZE]) == []
        assert recv_lane.producer.land(SIZE) is None
    del reader
    assert recv_lane.producer.land(HALF) is not None


def test_an_io_process_that_dies_in_the_midst_leaves_nothing(recv_lane: Lane) -> None:
    with Lane(RECV) as lane:
        reader = reader_into(lane)
        assert reader.feed(frame(bytes(HALF))[:SIZE]) == []
        old = lane.producer
        lane.adopt_producer()  # as its successor does
        assert lane.producer.queued == lane.producer.bytes == 0
        assert all(lane.put(body_of(number, SIZE)) for number in range(BUDGET // SIZE))
        assert lane.drain() == [body_of(number, SIZE) for number in range(BUDGET // SIZE)]
        assert len(fill(lane)) * SIZE > HALF // 2
        del old
