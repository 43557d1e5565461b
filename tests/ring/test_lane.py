"""One lane from its two ends: order, windows, demand, the byte budget, tickets, and what is taken back."""

from __future__ import annotations

from typing import Any

import pytest

from ring.support import (
    BUDGET,
    CLAIMED,
    CONTROL_SIZE,
    FREE,
    HEAD,
    HIGH_WATER,
    INDEX_SIZE,
    LEASED,
    PUBLISHED,
    RECV,
    SLOT_SIZE,
    SLOTS,
    TAIL,
    Lane,
    LaneMaker,
    Memory,
    body_of,
    readable,
    slot_of,
)
from spworkers.errors import BadValueError, InternalError
from spworkers.ring import CANCEL, DATA, ERROR, INLINE, MAX_WINDOW, Inlet, Receiver, Region, Sender

# ---- messages


@pytest.mark.parametrize(
    "size",
    [0, 1, 7, INLINE - 4, INLINE - 3, INLINE, INLINE + 1, 512, 4096, 65536, BUDGET - 4, BUDGET, BUDGET + 1, 3 * BUDGET],
)
def test_a_message_arrives_whole(lane: Lane, size: int) -> None:
    body = body_of(5, size)
    assert lane.put(body, b"head", pipe=7, serial=2**63 + 5, kind=ERROR)
    record = lane.take()
    assert record is not None
    assert (record.kind, record.pipe, record.serial, record.size, record.header) == (ERROR, 7, 2**63 + 5, size, b"head")
    assert record.body() == body
    assert record.payload_bytes() == b"head" + body
    assert record.take_body() == body
    assert lane.take() is None
    assert (lane.producer.queued, lane.producer.bytes) == (0, 0)


@pytest.mark.parametrize("size", [0, 1, INLINE - 1, INLINE, INLINE + 1, 5000])
def test_a_header_may_be_all_there_is(lane: Lane, size: int) -> None:
    header = body_of(3, size)
    assert lane.put(b"", header)
    record = lane.take()
    assert record is not None
    assert (record.header, record.size, record.body()) == (header, 0, b"")
    record.release()


def test_messages_arrive_in_order_whatever_their_sizes(lane: Lane) -> None:
    sizes = [10, 5000, 0, 192, 200_000, 193, BUDGET + 7, 64]
    for number, size in enumerate(sizes):
        assert lane.put(body_of(number, size))
    assert lane.drain() == [body_of(number, size) for number, size in enumerate(sizes)]


def test_the_three_kinds(lane: Lane) -> None:
    for kind in (DATA, CANCEL, ERROR):
        assert lane.put(b"", kind=kind)
    assert [lane.take().kind for _ in range(3)] == [DATA, CANCEL, ERROR]  # type: ignore[union-attr]


def test_a_body_may_be_any_contiguous_buffer(send_lane: Lane) -> None:
    for body in (b"abcd", bytearray(b"abcd"), memoryview(b"xabcdx")[1:5], memoryview(b"abcd").cast("I")):
        assert send_lane.producer.publish(body)
        assert send_lane.receive() == b"abcd"
    with pytest.raises(BufferError):
        send_lane.producer.publish(memoryview(b"abcdefgh")[::2])
    for wrong in ("text", None, 7):
        with pytest.raises(TypeError):
            send_lane.producer.publish(wrong)
    assert send_lane.producer.queued == 0


def test_a_bytearray_is_free_again_after_the_send(send_lane: Lane) -> None:
    body = bytearray(b"abcd")
    assert send_lane.producer.publish(body)
    body.extend(b"e")  # would raise a BufferError were it still exported
    assert send_lane.receive() == b"abcd"


def test_wrong_headers_are_refused(send_lane: Lane, recv_lane: Lane) -> None:
    with pytest.raises(TypeError):
        send_lane.producer.publish(b"", None)
    with pytest.raises(TypeError):
        send_lane.producer.reserve(1, None)
    for prefix, payload in ((None, b""), (b"", None), (b"", bytearray())):
        with pytest.raises(TypeError):
            recv_lane.producer.offer(prefix, payload, 0, 0, 0)
    with pytest.raises(InternalError, match="header of 3 bytes in a message of 2"):
        recv_lane.producer.offer(b"", b"ab", 3, 0, 0)
    assert send_lane.producer.queued == recv_lane.producer.queued == 0


def test_an_inlets_header_is_its_prefix_and_the_payloads_beginning(recv_lane: Lane) -> None:
    assert recv_lane.producer.offer(b"pre", b"fixbody", 3, 1, 2)
    record = recv_lane.take()
    assert record is not None
    assert (record.header, record.body()) == (b"prefix", b"body")


# ---- windows


@pytest.mark.parametrize("window", [1, 2, 7, 128])
def test_a_window_is_exact(make_lane: LaneMaker, window: int) -> None:
    lane = make_lane(window=window)
    for turn in range(3):
        tickets = [lane.put(bytes([turn])) for _ in range(window)]
        assert all(tickets)
        assert lane.put(b"too many") == 0
        assert lane.producer.queued == window
        assert lane.drain() == [bytes([turn])] * window
    assert lane.producer.queued == 0


def test_a_place_in_the_window_comes_back_with_the_release(lane: Lane) -> None:
    lane.window = 1
    assert lane.put(b"one")
    record = lane.pop()
    assert record is not None
    assert not lane.put(b"two"), "popped is not released"
    assert record.claim()
    assert not lane.put(b"two"), "claimed is not released"
    record.release()
    assert lane.put(b"two")


def test_a_window_opens_and_closes_while_it_is_used(lane: Lane) -> None:
    lane.window = 2
    assert lane.put(b"1") and lane.put(b"2") and not lane.put(b"3")
    lane.window = 3
    assert lane.put(b"3") and not lane.put(b"4")
    lane.window = 1
    assert not lane.put(b"4")
    assert lane.receive() == b"1" and lane.receive() == b"2"
    assert not lane.put(b"4"), "one is left, and one is all that it takes"
    assert lane.receive() == b"3"
    assert lane.put(b"4")


def test_force_passes_over_the_window(lane: Lane) -> None:
    lane.window = 0
    assert not lane.put(b"no")
    assert lane.put(b"yes", force=True)
    assert lane.receive() == b"yes"


def test_what_is_under_way_takes_no_place_in_the_window(send_lane: Lane) -> None:
    lane = send_lane
    lane.window = 1
    assert lane.put(b"a")
    first = lane.take()
    assert first is not None
    assert not lane.put(b"b")
    assert not lane.producer.arm()
    lane.consumer.under_way = 1
    assert readable(lane.bell), "there is room, whatever the producer waits for"
    assert lane.put(b"b")
    assert not lane.put(b"c")
    first.release()
    lane.consumer.under_way = 0
    assert not lane.put(b"c")
    assert lane.receive() == b"b"
    assert lane.put(b"c")
    lane.window = 0
    lane.consumer.under_way = 5
    assert not lane.put(b"d"), "without a window there is demand or force"
    lane.adopt_consumer()
    assert lane.consumer.under_way == 0


@pytest.mark.parametrize("window", [1, MAX_WINDOW])
def test_more_than_can_be_under_way_is_not_believed(send_lane: Lane, window: int) -> None:
    send_lane.window = window
    send_lane.consumer.under_way = 2**32 - 1
    assert sum(1 for _ in iter(lambda: send_lane.put(b""), 0)) == window + MAX_WINDOW


def test_the_widest_window(lane: Lane) -> None:
    lane.window = MAX_WINDOW
    for number in range(MAX_WINDOW):
        assert lane.put(number.to_bytes(4, "little"))
    assert not lane.put(b"")
    assert [int.from_bytes(body, "little") for body in lane.drain()] == list(range(MAX_WINDOW))


@pytest.mark.parametrize("window", [-1, MAX_WINDOW + 1, 2**32, 2**64])
def test_a_wider_one_is_refused(lane: Lane, window: int) -> None:
    with pytest.raises(BadValueError, match=f"{MAX_WINDOW}.*not {window}"):
        lane.window = window
    assert lane.window == 128


def test_slots_are_used_again(lane: Lane) -> None:
    with Memory(lane) as memory:
        for number in range(1000):
            assert lane.put(body_of(number, number))
            assert lane.receive() == body_of(number, number)
        assert memory.get(HIGH_WATER, "I") == 1


def test_the_index_goes_round(lane: Lane) -> None:
    with Memory(lane) as memory:
        for number in range(SLOTS + 100):
            assert lane.put(number.to_bytes(4, "little"))
            assert lane.receive() == number.to_bytes(4, "little")
        assert memory.get(TAIL) == memory.get(HEAD) == SLOTS + 100


# ---- demand


def test_without_a_window_demand_decides(recv_lane: Lane) -> None:
    lane = recv_lane
    lane.window = 0
    assert not lane.put(b"nobody waits")
    epoch = lane.consumer.announce()
    assert lane.producer.demand == 1
    assert lane.put(b"one")
    assert lane.producer.demand == 0
    assert not lane.put(b"two")
    record = lane.take()
    assert record is not None and record.by_demand and record.take_body() == b"one"
    assert not lane.consumer.withdraw(epoch), "it was answered"


def test_demand_is_withdrawn(recv_lane: Lane) -> None:
    lane = recv_lane
    lane.window = 0
    epoch = lane.consumer.announce()
    assert lane.consumer.announce() == epoch
    assert lane.producer.demand == 2
    assert lane.consumer.withdraw(epoch)
    assert lane.put(b"one") and not lane.put(b"two")
    assert not lane.consumer.withdraw(epoch)


def test_a_window_is_used_before_demand(recv_lane: Lane) -> None:
    lane = recv_lane
    lane.window = 1
    lane.consumer.announce()
    assert lane.put(b"by the window")
    assert lane.producer.demand == 1
    assert lane.put(b"by demand")
    records = [lane.take(), lane.take()]
    assert [record.by_demand for record in records if record] == [False, True]


def test_force_takes_no_demand(recv_lane: Lane) -> None:
    lane = recv_lane
    lane.window = 0
    lane.consumer.announce()
    assert lane.put(b"", force=True)
    assert lane.producer.demand == 1


def test_what_is_taken_back_gives_its_demand_back(recv_lane: Lane) -> None:
    lane = recv_lane
    lane.window = 0
    epoch = lane.consumer.announce()
    ticket = lane.put(b"one")
    assert lane.producer.revoke(ticket)
    assert lane.producer.demand == 1
    assert lane.put(b"two") and lane.receive() == b"two"
    lane.window = 1
    assert lane.producer.revoke(lane.put(b"three"))
    assert lane.producer.demand == 0, "that one had taken none"
    assert not lane.consumer.withdraw(epoch)


def test_a_successor_starts_another_epoch(recv_lane: Lane) -> None:
    lane = recv_lane
    lane.window = 0
    epoch = lane.consumer.announce()
    assert lane.consumer.epoch == epoch
    lane.adopt_producer()
    assert lane.consumer.epoch == epoch + 1
    assert lane.producer.demand == 0
    assert not lane.put(b"nobody has announced anything to this one")
    assert not lane.consumer.withdraw(epoch)
    assert lane.consumer.announce() == epoch + 1
    assert lane.put(b"one")


@pytest.mark.parametrize("size", [1, BUDGET + 1])
def test_a_delivery_that_fails_leaves_the_demand(recv_lane: Lane, size: int) -> None:
    """Leases hold every slot: there is demand, and nothing to put a message into."""
    lane = recv_lane
    views = []
    lane.window = MAX_WINDOW
    for _ in range(SLOTS):
        assert lane.put(b"x")
        record = lane.take()
        assert record is not None
        views.append(record.view())
        record.release()
    lane.window = 0
    lane.consumer.announce()
    assert not lane.put(bytes(size))
    assert lane.producer.demand == 1
    assert not lane.producer.arm(size), "it would be told that there is room, try, fail, and spin"
    views.pop().release()
    assert lane.producer.arm(size)
    assert lane.put(bytes(size))
    assert lane.producer.demand == 0


def test_without_room_in_the_budget_the_demand_stays(recv_lane: Lane) -> None:
    lane = recv_lane
    lane.window = 0
    lane.consumer.announce()
    lane.consumer.announce()
    assert lane.put(bytes(BUDGET))
    assert not lane.put(bytes(1000))
    assert lane.producer.demand == 1


# ---- the byte budget


def test_a_full_budget_blocks_and_reopens(lane: Lane) -> None:
    size = BUDGET // 4
    for number in range(4):
        assert lane.put(body_of(number, size))
    assert lane.producer.bytes == BUDGET
    assert not lane.put(bytes(193))
    assert lane.put(bytes(192)), "what lies in its slot needs no arena"
    assert not lane.put(bytes(193), force=True), "force is for the window only"
    assert lane.receive() == body_of(0, size)
    assert lane.put(body_of(4, size))
    assert not lane.put(bytes(193))
    assert lane.drain() == [*(body_of(number, size) for number in range(1, 4)), bytes(192), body_of(4, size)]
    assert lane.producer.bytes == 0


def test_what_is_longer_than_the_budget_has_memory_of_its_own(lane: Lane) -> None:
    assert lane.put(body_of(0, BUDGET))
    assert lane.put(body_of(1, BUDGET + 1))
    assert lane.put(body_of(2, 4 * BUDGET))
    assert lane.producer.bytes == BUDGET
    assert lane.drain() == [body_of(0, BUDGET), body_of(1, BUDGET + 1), body_of(2, 4 * BUDGET)]
    assert lane.producer.queued == 0


def test_any_order_of_release_leaves_the_whole_budget(lane: Lane) -> None:
    for turn in range(20):
        size = 600 + turn * 3001
        bodies = []
        while lane.put(body_of(len(bodies), size)):
            bodies.append(body_of(len(bodies), size))
        records = [lane.take() for _ in bodies]
        assert [record.body() for record in records if record] == bodies
        for record in records[1::2] + records[0::2]:
            assert record is not None
            record.release()
        assert lane.producer.bytes == 0
    assert lane.put(bytes(BUDGET)), "in one piece"


@pytest.mark.parametrize("budget", [4095, 0, -1, (16 << 30) + 1])
def test_a_budget_has_bounds(budget: int) -> None:
    with pytest.raises(BadValueError, match=f"not {budget}"):
        Region.create(budget)


def test_what_no_lane_can_hold_is_refused(send_lane: Lane) -> None:
    for size in (64 << 30, 2**63, 2**64 - 1):
        with pytest.raises(BadValueError, match=str(size)):
            send_lane.producer.reserve(size, b"header")
    assert send_lane.producer.queued == 0


# ---- what is taken back, and what a ticket tells


def test_a_ticket_tells_how_far_its_message_is(lane: Lane) -> None:
    ticket = lane.put(b"x")
    assert lane.producer.state(ticket) == PUBLISHED
    record = lane.take()
    assert record is not None
    assert lane.producer.state(ticket) == CLAIMED
    view = record.view()
    assert lane.producer.state(ticket) == LEASED
    record.release()
    assert lane.producer.state(ticket) == LEASED
    view.release()
    assert lane.producer.state(ticket) == FREE
    again = lane.put(b"y")
    assert slot_of(again) == slot_of(ticket) and again != ticket
    assert lane.producer.state(ticket) == FREE, "the slot's next message is another one"
    assert not lane.producer.revoke(ticket)
    assert lane.receive() == b"y"


@pytest.mark.parametrize("ticket", [0, 1, 2**31 - 1, 2**63, 2**64 - 1, 1 << 32 | SLOTS])
def test_a_ticket_that_is_none(lane: Lane, ticket: int) -> None:
    lane.put(b"x")
    assert lane.producer.state(ticket) == FREE
    assert not lane.producer.revoke(ticket)
    assert lane.receive() == b"x"


def test_what_is_published_is_taken_back(lane: Lane) -> None:
    one, two, three = (lane.put(body) for body in (b"one", b"two", b"three"))
    assert lane.producer.revoke(two)
    assert not lane.producer.revoke(two), "once"
    assert lane.producer.state(two) == FREE
    assert lane.producer.queued == 2
    assert lane.drain() == [b"one", b"three"]
    assert lane.consumer.skipped == 1
    assert not lane.producer.revoke(one) and not lane.producer.revoke(three)


def test_what_is_popped_but_not_claimed_is_taken_back(send_lane: Lane) -> None:
    lane = send_lane
    ticket = lane.put(b"one")
    record = lane.pop()
    assert record is not None
    assert lane.consumer.unclaimed() == 1
    assert lane.producer.revoke(ticket)
    assert lane.consumer.unclaimed() == 0
    assert not record.claim()
    lane.put(b"two")  # into the same slot
    assert not record.claim()
    assert lane.receive() == b"two"


def test_a_receiver_may_pop_what_it_has_no_use_for_yet(recv_lane: Lane) -> None:
    lane = recv_lane
    lane.consumer.watch()
    tickets = [lane.put(body) for body in (b"one", b"two", b"three")]
    records = [lane.consumer.next() for _ in tickets]
    assert lane.consumer.next() is None
    assert not readable(lane.bell)
    assert lane.producer.queued == 3
    assert lane.producer.revoke(tickets[1])
    assert lane.put(b"four")  # into the same slot
    assert readable(lane.bell)
    assert [record.claim() for record in records] == [True, False, True]
    assert [records[0].take_body(), records[2].take_body()] == [b"one", b"three"]
    assert lane.drain() == [b"four"]
    assert lane.producer.queued == 0


def test_what_is_claimed_leased_or_gone_is_not(lane: Lane) -> None:
    ticket = lane.put(b"one")
    record = lane.take()
    assert record is not None
    assert not lane.producer.revoke(ticket)
    view = record.view()
    assert not lane.producer.revoke(ticket)
    record.release()
    view.release()
    assert not lane.producer.revoke(ticket)


@pytest.mark.parametrize("size", [10, 5000, BUDGET, BUDGET + 1])
def test_what_is_taken_back_opens_window_and_budget(lane: Lane, size: int) -> None:
    lane.window = 1
    for number in range(300 if size < BUDGET else 30):
        ticket = lane.put(body_of(number, size))
        assert ticket
        assert not lane.put(b"full")
        assert lane.producer.revoke(ticket)
    assert lane.producer.queued == lane.producer.bytes == 0
    assert lane.put(b"x") and lane.drain() == [b"x"]


def test_more_is_taken_back_than_the_index_holds(lane: Lane) -> None:
    """Nobody pops: the producer steps over the stale entries itself."""
    for _ in range(SLOTS + 10):
        assert lane.producer.revoke(lane.put(b"x"))
    assert lane.put(b"y")
    assert lane.drain() == [b"y"]


def test_a_live_entry_at_the_front_of_a_full_index_blocks(send_lane: Lane) -> None:
    lane = send_lane
    first = lane.put(b"first")
    for _ in range(SLOTS - 1):
        assert lane.producer.revoke(lane.put(b"x"))
    assert not lane.put(b"no place in the index")
    assert not lane.producer.arm(), "the window is open, and still there is no room"
    assert lane.producer.revoke(first)
    assert lane.producer.arm()
    assert lane.put(b"now") and lane.drain() == [b"now"]


def test_the_pop_of_a_full_indexs_front_wakes_the_producer(make_lane: LaneMaker, which: int) -> None:
    """It is kept unclaimed (no peer) or leased: no release follows that would ring instead."""
    lane = make_lane()
    lane.put(b"first")
    for _ in range(SLOTS - 1):
        assert lane.producer.revoke(lane.put(b"x"))
    assert not lane.put(b"no place in the index")
    assert not lane.producer.arm()
    lane.region.collect()
    record = lane.pop()
    assert record is not None
    if which == RECV:
        assert lane.region.collect() == [0]
    assert lane.producer.arm()
    assert lane.put(b"now")


def test_a_sender_is_told_of_each_place(send_lane: Lane) -> None:
    """It has nothing else to do, and a deadline perhaps."""
    send_lane.window = 8
    assert all(send_lane.put(b"x") for _ in range(8))
    for _ in range(8):
        assert not send_lane.producer.arm()
        assert send_lane.receive() == b"x"
        assert readable(send_lane.bell)
        assert send_lane.put(b"x")


@pytest.mark.parametrize(("window", "needed"), [(1, 1), (2, 1), (3, 2), (8, 4)])
def test_an_io_process_is_told_when_half_of_the_window_is_left(recv_lane: Lane, window: int, needed: int) -> None:
    recv_lane.window = window
    assert all(recv_lane.put(b"x") for _ in range(window))
    assert not recv_lane.producer.arm()
    recv_lane.region.collect()
    for taken in range(1, window + 1):
        assert recv_lane.receive() == b"x"
        assert recv_lane.region.collect() == ([0] if taken == needed else [])
    assert recv_lane.producer.arm()


def test_an_io_process_is_told_when_all_that_was_left_was_taken_back(recv_lane: Lane) -> None:
    """No release follows: whoever finds the lane empty rings."""
    recv_lane.window = 8
    tickets = [recv_lane.put(b"x") for _ in range(8)]
    assert not recv_lane.producer.arm()
    recv_lane.region.collect()
    assert recv_lane.receive() == b"x"
    assert recv_lane.region.collect() == []
    for ticket in tickets[1:]:
        assert recv_lane.producer.revoke(ticket)
    assert recv_lane.receive() is None
    assert recv_lane.region.collect() == [0]


def test_messages_go_to_those_who_wait_for_them_in_one_step(recv_lane: Lane) -> None:
    for serial in (3, 5, 4, 3):
        assert recv_lane.put(b"%d" % serial, serial=serial)
    waiting = {3: "three", 4: "four", 6: "six"}
    found: list[tuple[str, Any]] = []
    assert recv_lane.consumer.take_for(waiting, found) == 2, "nobody waits for 5, and for the second 3"
    assert [(who, record.take_body()) for who, record in found] == [("three", b"3"), ("four", b"4")]
    assert waiting == {6: "six"}
    assert recv_lane.producer.queued == 0
    assert recv_lane.consumer.take_for(waiting, found) == 0


# ---- users


def test_a_record_is_given_back_by_its_last_user(lane: Lane) -> None:
    ticket = lane.put(b"x")
    record = lane.take()
    assert record is not None
    record.retain()
    record.retain()
    for _ in range(2):
        record.release()
        assert lane.producer.state(ticket) == CLAIMED
        assert record.body() == b"x"
    record.release()
    assert lane.producer.state(ticket) == FREE
    with pytest.raises(InternalError, match="released more often than retained"):
        record.release()


def test_what_was_given_back_is_not_read_any_more(lane: Lane) -> None:
    lane.put(b"secret", b"head")
    record = lane.take()
    assert record is not None
    record.release()
    lane.put(b"somebody else's", b"head")
    for read in (record.body, record.payload_bytes, record.take_body, lambda: record.header):
        with pytest.raises(InternalError, match="given back already"):
            read()
    with pytest.raises(InternalError, match="given back already"):
        record.copy_into(bytearray(100))
    for lease in (record.view, lambda: memoryview(record)):  # type: ignore[arg-type]
        with pytest.raises((BufferError, InternalError), match="given back already"):
            lease()
    assert not record.claim()
    assert lane.drain() == [b"somebody else's"]


def test_a_record_that_is_dropped_is_given_back(lane: Lane) -> None:
    ticket = lane.put(b"x")
    record = lane.take()
    assert record is not None
    del record
    assert lane.producer.state(ticket) == FREE


def test_claiming_is_idempotent_and_needed_to_release(send_lane: Lane) -> None:
    ticket = send_lane.put(b"x")
    record = send_lane.pop()
    assert record is not None
    with pytest.raises(InternalError):
        record.release()
    assert "unclaimed" in repr(record)
    assert record.claim() and record.claim()
    assert ", claimed" in repr(record)
    record.release()
    assert send_lane.producer.state(ticket) == FREE


def test_a_user_of_an_unclaimed_record_counts_after_the_claim(send_lane: Lane) -> None:
    ticket = send_lane.put(b"x")
    record = send_lane.pop()
    assert record is not None
    record.retain()
    assert record.claim()
    record.release()
    assert send_lane.producer.state(ticket) == CLAIMED
    record.release()
    assert send_lane.producer.state(ticket) == FREE


# ---- successors


def test_a_successor_goes_on_where_the_producer_stopped(lane: Lane) -> None:
    lane.window = 3
    sizes = [10, 5000, BUDGET + 1]
    tickets = [lane.put(body_of(number, size)) for number, size in enumerate(sizes)]
    held = lane.producer.bytes
    lane.adopt_producer()
    assert (lane.producer.queued, lane.producer.bytes) == (3, held)
    assert [lane.producer.state(ticket) for ticket in tickets] == [PUBLISHED] * 3
    assert not lane.put(b"full")
    assert lane.producer.revoke(tickets[0])
    assert lane.put(body_of(3, 7000))
    assert lane.drain() == [body_of(1, 5000), body_of(2, BUDGET + 1), body_of(3, 7000)]
    assert (lane.producer.queued, lane.producer.bytes) == (0, 0)


def test_a_consumers_successor_begins_with_what_was_left_unfinished(lane: Lane) -> None:
    for number in range(6):
        assert lane.put(body_of(number, 1000))
    left = [lane.take() for _ in range(3)]
    assert left[1] is not None
    left[1].release()
    assert lane.adopt_consumer() == 2
    assert lane.drain() == [body_of(number, 1000) for number in (0, 2, 3, 4, 5)]
    assert (lane.producer.queued, lane.producer.bytes) == (0, 0)


def test_what_was_popped_but_not_claimed_is_inherited_too_and_can_still_be_taken_back(send_lane: Lane) -> None:
    lane = send_lane
    tickets = [lane.put(bytes([number])) for number in range(3)]
    unclaimed = [lane.pop() for _ in range(3)]
    assert lane.adopt_consumer() == 3
    assert lane.producer.revoke(tickets[1])
    assert lane.drain() == [b"\0", b"\2"]
    assert not any(record.claim() for record in unclaimed if record), "the predecessor's are void"


def test_a_predecessors_leases_end_with_it(lane: Lane) -> None:
    ticket = lane.put(body_of(0, 5000))
    record = lane.take()
    assert record is not None
    view = record.view()
    assert lane.adopt_consumer() == 0
    assert lane.producer.state(ticket) == FREE
    assert lane.producer.bytes == 0
    view.release()


def test_adopting_twice_gives_each_record_once(lane: Lane) -> None:
    for number in range(3):
        lane.put(bytes([number]))
    kept = [lane.take(), lane.take()]
    assert lane.adopt_consumer() == 2
    assert lane.consumer.adopt() == 2
    assert lane.drain() == [b"\0", b"\1", b"\2"]
    del kept


@pytest.mark.parametrize("orphan", [1, 2])
def test_what_was_not_published_whole_never_was(lane: Lane, orphan: int) -> None:
    """The producer died in state WRITING, or between PUBLISHED and the index."""
    lane.put(body_of(0, 5000))
    ticket = lane.put(body_of(1, 5000))
    with Memory(lane) as memory:
        memory.set(memory.slot(slot_of(ticket)), orphan, "I")
        memory.set(TAIL, memory.get(TAIL) - 1)
    lane.adopt_producer()
    assert lane.producer.queued == 1
    assert lane.put(body_of(2, 5000))
    assert lane.drain() == [body_of(0, 5000), body_of(2, 5000)]
    assert lane.producer.bytes == 0


def test_two_lanes_of_a_segment_and_two_segments_do_not_mix() -> None:
    region = Region.create(BUDGET)
    lanes = [Lane(which, region=region, index=index) for index in (0, 1, 1023) for which in (0, 1)]
    for number, lane in enumerate(lanes):
        for size in (10, 10_000, BUDGET + 10):
            assert lane.put(body_of(number, size))
    for number, lane in enumerate(lanes):
        assert lane.drain() == [body_of(number, size) for size in (10, 10_000, BUDGET + 10)]
        lane.close()


def test_the_ends_need_a_segment() -> None:
    for make in (lambda: Sender(None, 0, 0), lambda: Receiver(None, 0, 0), lambda: Inlet(None, 0)):  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            make()


def test_the_layout_is_what_these_tests_believe(lane: Lane) -> None:
    ticket = lane.put(b"where am I?")
    with Memory(lane) as memory:
        at = CONTROL_SIZE + INDEX_SIZE + slot_of(ticket) * SLOT_SIZE + 64
        assert memory.map[at : at + 11] == b"where am I?"
        assert memory.get(memory.entry(0)) == ticket & ~(1 << 31)


# ---- a lane that another process sends into from now on


def test_a_retired_sender_begins_nothing(send_lane: Lane) -> None:
    sender = send_lane.producer
    assert isinstance(sender, Sender)
    sender.window = 3
    assert sender.publish(b"before")
    assert sender.retire()
    assert sender.retired
    assert sender.publish(b"x") == 0
    assert sender.publish(b"x", force=True) == 0
    assert sender.reserve(1) is None
    successor = Sender(sender.segment, sender.bell, sender.io_bell)
    assert successor.window == 3
    assert successor.publish(b"after")
    bodies = []
    while (record := send_lane.take()) is not None:
        bodies.append(record.take_body())
    assert bodies == [b"before", b"after"]


def test_a_sender_with_a_half_written_message_does_not_retire(send_lane: Lane) -> None:
    sender = send_lane.producer
    assert isinstance(sender, Sender)
    reservation = sender.reserve(3)
    assert reservation is not None
    assert not sender.retire()
    assert sender.publish(b"x")
    reservation.abort()
    assert sender.retire()
