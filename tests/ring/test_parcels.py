"""What pools move: payloads from many places, records by the batch, short looks around, and walks over a batch."""

from __future__ import annotations

import array
import functools
import operator
import threading
import time
from typing import Any

import pytest

from ring.support import BUDGET, RECV, SEND, Lane, body_of
from spworkers.errors import InternalError
from spworkers.ring import INLINE, Walk, drain, gather, own_bytearray, own_bytes, spin_board

# --- gather


@pytest.mark.parametrize("which", [SEND, RECV])
@pytest.mark.parametrize("size", [0, 5, INLINE, 5000, BUDGET, 2 * BUDGET])
def test_parts_arrive_as_one_message(which: int, size: int) -> None:
    lane = Lane(which)
    parts: list[Any] = [b"head", body_of(1, size), memoryview(b"mid"), array.array("q", [1, 2]), b""]
    assert gather(lane.producer, parts, 4, 9, 77, 3)
    record = lane.take()
    assert (record.kind, record.pipe, record.serial, record.header) == (3, 9, 77, b"head")
    assert record.take_body() == body_of(1, size) + b"mid" + array.array("q", [1, 2]).tobytes()


@pytest.mark.parametrize("size", [0, 1, 4096, (64 << 10) - 1, 64 << 10, (1 << 20) + 1, 3 << 20])
def test_bytes_of_ones_own(size: int) -> None:
    source = bytearray(body_of(3, size))
    once, again = own_bytes(memoryview(source)), own_bytearray(source)  # the second one into memory that is there
    assert (type(once), type(again)) == (bytes, bytearray)
    assert once == again == source
    source[:] = bytes(size)
    again += b"more"
    assert once == body_of(3, size)
    assert again == once + b"more"


def test_what_is_no_buffer_has_no_bytes() -> None:
    for wrong in ("text", 7, memoryview(b"abcd")[::2]):
        with pytest.raises((TypeError, BufferError)):
            own_bytes(wrong)


def test_a_full_window_takes_nothing() -> None:
    lane = Lane(RECV, window=1)
    assert gather(lane.producer, [b"a"])
    assert gather(lane.producer, [b"b"]) == 0
    assert lane.take().take_body() == b"a"
    assert gather(lane.producer, [b"c"])


def test_a_full_budget_takes_nothing() -> None:
    lane = Lane(RECV)
    assert gather(lane.producer, [bytes(BUDGET - 100)])
    assert gather(lane.producer, [bytes(1000), bytes(1000)]) == 0


def test_what_is_no_buffer_leaves_the_lane_as_it_was() -> None:
    lane = Lane(RECV)
    wrong: Any = "text"
    with pytest.raises(TypeError):
        gather(lane.producer, [b"good", wrong])
    with pytest.raises(InternalError, match="header of 9 bytes in a message of 4"):
        gather(lane.producer, [b"good"], 9)
    assert lane.producer.queued == 0


# --- drain


def test_records_by_the_batch() -> None:
    lane = Lane(SEND)
    for number in range(5):
        assert lane.producer.publish(b"%d" % number, b"", number + 1, number + 10, 4)
    found: list[Any] = []
    assert drain(lane.consumer, found, 3) == 3
    assert found == [(4, n + 1, n + 10, b"%d" % n) for n in range(3)]
    assert drain(lane.consumer, found, 100) == 2
    assert drain(lane.consumer, found, 100) == 0
    assert lane.producer.queued == 0


def test_large_ones_and_those_with_a_header_stay_where_they_are() -> None:
    lane = Lane(SEND)
    lane.producer.publish(bytes(40_000))
    lane.producer.publish(b"body", b"header")
    taken = lane.producer.publish(b"never read")
    lane.producer.revoke(taken)
    found: list[Any] = []
    assert drain(lane.consumer, found, 100) == 2
    assert lane.producer.queued == 2
    with memoryview(found[0][3]) as view:
        assert len(view) == 40_000
    assert found[1][3].header == b"header"
    for *_, record in found:
        record.release()
    assert lane.producer.queued == 0


# --- looking around


def test_looking_around_finds_what_comes() -> None:
    back = Lane(SEND)
    region = back.producer.segment.region
    assert not spin_board(region, 1e-4)
    threading.Timer(0.02, lambda: back.put(b"x")).start()
    assert spin_board(region, 10.0)
    assert region.collect() == [back.producer.segment.index]


# --- walks


def test_a_walk_writes_down_where_it_is() -> None:
    words = array.array("Q", [0] * 4)
    walk = Walk(list("abcd"), words, 2, 3, 10**12)
    seen = [(item, words[2], words[3] > 0, walk.index) for item in walk]
    assert seen == [("a", 0, True, 0), ("b", 1, True, 1), ("c", 2, True, 2), ("d", 3, True, 3)]
    assert not walk.paused
    assert len(walk) == 4
    assert list(Walk([], words, 0, -1, 1)) == []


def test_a_walk_pauses_when_results_are_due() -> None:
    walk = Walk(list(range(100_000)), array.array("Q", [0]), 0, -1, 1000)
    parts = []
    while True:
        parts.append(list(walk))
        if not walk.paused:
            break
        assert list(walk) == []  # until it is resumed
        walk.resume()
    assert functools.reduce(operator.iadd, parts, []) == list(range(100_000))
    assert len(parts) > 1
    assert all(parts)


def test_a_walk_pauses_after_each_long_task() -> None:
    walk = Walk([0.002] * 3, array.array("Q", [0]), 0, -1, 1_000_000)
    parts = []
    while len(parts) < 3:
        parts.append(len(list(map(time.sleep, walk))))
        walk.resume()
    assert parts == [1, 1, 1]


def test_a_walk_goes_on_after_an_exception() -> None:
    walk = Walk([1, 0, 2], array.array("Q", [0]), 0, -1, 10**12)
    results: list[float] = []
    with pytest.raises(ZeroDivisionError):
        results.extend(2 / x for x in walk)
    assert results == [2.0]
    assert walk.index == 1
    results.extend(2 / x for x in walk)
    assert results == [2.0, 1.0]


def test_a_walk_writes_nowhere_else() -> None:
    words = array.array("Q", [0, 0])
    for which, since in ((2, -1), (0, 2), (-1, 0)):
        with pytest.raises(InternalError, match="no words"):
            Walk([1], words, which, since, 1)
    with pytest.raises((BufferError, TypeError)):
        Walk([1], b"12345678", 0, -1, 1)
