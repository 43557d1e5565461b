"""Garbage in shared memory: whatever stands there, neither side crashes, hangs or reads what is not its lane's."""

from __future__ import annotations

import contextlib
import os
import random
import tempfile

import pytest

from ring.support import (
    BLOCK,
    BUDGET,
    CLAIMED,
    CONTROL_SIZE,
    CORRUPT,
    DEMAND,
    FLAGS,
    FREE,
    HEAD,
    HEADER_LENGTH,
    HIGH_WATER,
    INDEX_SIZE,
    KIND,
    LENGTH,
    OFFSET,
    PIPE,
    POSITION,
    PUBLISHED,
    RECV,
    RELEASES,
    SERIAL,
    SLOT_SIZE,
    SLOTS,
    STATE,
    TAIL,
    WINDOW,
    Lane,
    LaneMaker,
    Memory,
    body_of,
    readable,
    slot_of,
)
from spworkers.errors import BadValueError, GarbledError
from spworkers.ring import COUNTERS, Region

WORD = 2**64 - 1


def check_goes_on(lane: Lane) -> None:
    """The lane is as good as new."""
    lane.drain()
    lane.window = 4
    for size in (10, 5000, BUDGET + 1):
        for number in range(10):
            assert lane.put(body_of(number, size))
            assert lane.receive() == body_of(number, size)
    assert lane.producer.queued == 0
    assert lane.producer.bytes == 0


# ---- records


@pytest.mark.parametrize(
    ("field", "form", "value"),
    [
        (HEADER_LENGTH, "I", 7),
        (HEADER_LENGTH, "I", 2**32 - 1),
        (LENGTH, "Q", 193),
        (LENGTH, "Q", 2**32),
        (LENGTH, "Q", WORD),
        (OFFSET, "Q", 1),
        (OFFSET, "Q", 1 << 20),
        (OFFSET, "Q", WORD),
        (OFFSET, "Q", WORD - 4095),
    ],
)
def test_a_record_whose_words_make_no_sense_is_passed_over(lane: Lane, field: int, form: str, value: int) -> None:
    lane.put(b"before")
    ticket = lane.put(b"x" * 6)
    lane.put(b"after")
    with Memory(lane) as memory:
        memory.set(memory.slot(slot_of(ticket), field), value, form)
        assert lane.drain() == [b"before", b"after"]
        assert lane.consumer.corrupt == memory.get(CORRUPT) == 1
        assert memory.state(slot_of(ticket)) == FREE
    assert lane.consumer.skipped == 0
    check_goes_on(lane)


def test_a_block_must_lie_in_its_lanes_own_arena(lane: Lane) -> None:
    with Memory(lane) as memory:
        good, length = memory.arena_at, 4096
        bad = [
            (good - 128, length),  # the slot table
            (good + memory.arena, length),  # the next lane's control words
            (good + memory.arena - 4095, length),  # out over the end
            (good, memory.arena + 1),
            (good, WORD),
            (memory.at, length),
            (0, 4096),
            (memory.extents_at - 4096, length),  # the extents of the lane before
            (memory.extents_at + (64 << 30), length),  # of the lane behind
            (memory.extents_at + (64 << 30) - 4096, 4097),
            (memory.extents_at + 1, length),  # no page
            (memory.extents_at, 0),
            (memory.extents_at, (64 << 30) + 1),
        ]
        for count, (offset, size) in enumerate(bad):
            slot = slot_of(lane.put(body_of(0, 5000)))
            memory.set(memory.slot(slot, OFFSET), offset)
            memory.set(memory.slot(slot, LENGTH), size)
            assert lane.drain() == []
            assert lane.consumer.corrupt == count + 1
    check_goes_on(lane)


def test_a_wrong_place_inside_the_own_arena_is_read_and_nothing_else(lane: Lane) -> None:
    slot = slot_of(lane.put(body_of(0, 5000)))
    with Memory(lane) as memory:
        memory.set(memory.slot(slot, OFFSET), memory.arena_at + memory.arena - 4096)
        memory.set(memory.slot(slot, LENGTH), 4096)
    assert lane.drain() == [bytes(4096)]
    check_goes_on(lane)


def test_any_kind_pipe_serial_and_flag_will_do(lane: Lane) -> None:
    slot = slot_of(lane.put(b"x"))
    with Memory(lane) as memory:
        for field, form in ((KIND, "I"), (FLAGS, "I"), (PIPE, "I"), (SERIAL, "Q")):
            memory.set(memory.slot(slot, field), WORD, form)
    record = lane.take()
    assert record is not None
    assert (record.kind, record.pipe, record.serial, record.by_demand) == (2**32 - 1, 2**32 - 1, WORD, True)
    record.release()
    check_goes_on(lane)


@pytest.mark.parametrize("adopted", [False, True])
def test_what_stands_in_a_slot_is_not_what_the_producer_frees(lane: Lane, adopted: bool) -> None:
    """A consumer that writes another block's place into a slot must not have that block handed out twice."""
    lane.window = 8
    tickets = [lane.put(body_of(number, 5000)) for number in range(4)]
    records = [lane.take() for _ in tickets]
    with Memory(lane) as memory:
        first = memory.get(memory.slot(slot_of(tickets[0]), OFFSET))
        for field, value in (
            ((OFFSET, first), (BLOCK, 1 << 19)) if not adopted else ((OFFSET, first + 1), (BLOCK, WORD))
        ):
            memory.set(memory.slot(slot_of(tickets[1]), field), value)
    if adopted:
        lane.adopt_producer()
    assert records[1] is not None
    records[1].release()
    for number in range(4, 9):
        assert lane.put(body_of(number, 5000))
    for number in (0, 2, 3):
        record = records[number]
        assert record is not None and record.take_body() == body_of(number, 5000)
    check_goes_on(lane)


def test_extents_that_make_no_sense_are_not_adopted(lane: Lane) -> None:
    """Their garbage must neither be punched out of the file nor decide where the next extent lies."""
    with Memory(lane) as memory:
        at, end = memory.extents_at, memory.extents_at + (64 << 30)
        for offset, block in [
            (at, WORD),
            (at, 0),
            (at, 4097),
            (at + 1, 4096),
            (end - 4096, 8192),
            (at + 4096, WORD - at),
        ]:
            other = lane.put(body_of(9, BUDGET + 1))
            ticket = lane.put(body_of(1, BUDGET + 1))
            held = [lane.take(), lane.take()]
            memory.set(memory.slot(slot_of(ticket), OFFSET), offset)
            memory.set(memory.slot(slot_of(ticket), BLOCK), block)
            lane.adopt_producer()
            assert lane.put(body_of(2, BUDGET + 1))
            assert lane.receive() == body_of(2, BUDGET + 1)
            assert held[0] is not None and held[1] is not None
            held[1].release()
            assert lane.producer.queued == 1
            assert held[0].take_body() == body_of(9, BUDGET + 1)
            del other
        check_goes_on(lane)


def test_what_a_successor_inherits_is_checked_too(lane: Lane) -> None:
    tickets = [lane.put(body_of(number, 100)) for number in range(3)]
    held = [lane.take() for _ in tickets]
    with Memory(lane) as memory:
        memory.set(memory.slot(slot_of(tickets[1]), LENGTH), WORD)
    assert lane.adopt_consumer() == 2
    assert lane.consumer.corrupt == 1
    assert lane.drain() == [body_of(0, 100), body_of(2, 100)]
    assert lane.producer.queued == 0
    del held
    check_goes_on(lane)


# ---- the index


@pytest.mark.parametrize("slot", [SLOTS, SLOTS + 1, 2**31, 2**32 - 1])
def test_an_entry_that_names_no_slot_is_counted(lane: Lane, slot: int) -> None:
    for body in (b"1", b"2", b"3"):
        lane.put(body)
    with Memory(lane) as memory:
        memory.set(memory.entry(1), slot, "I")
    assert lane.drain() == [b"1", b"3"]
    assert lane.consumer.corrupt == 1


def test_an_entry_that_names_no_slot_is_nothing_to_wake_for(recv_lane: Lane) -> None:
    lane = recv_lane
    lane.put(b"1")
    with Memory(lane) as memory:
        memory.set(memory.entry(0), 2**32 - 1, "I")
    assert not lane.consumer.arm()
    assert not readable(lane.bell)
    assert lane.consumer.corrupt == 1


def test_an_entry_of_another_slot_or_generation_is_skipped(lane: Lane) -> None:
    for body in (b"1", b"2", b"3"):
        lane.put(body)
    with Memory(lane) as memory:
        memory.set(memory.entry(0), memory.get(memory.entry(0)) + (1 << 32))
        memory.set(memory.entry(1), 5000, "I")
    assert lane.drain() == [b"3"]
    assert lane.consumer.skipped == 2


def test_a_record_that_is_named_twice_is_claimed_once(lane: Lane) -> None:
    for body in (b"1", b"2", b"3"):
        lane.put(body)
    with Memory(lane) as memory:
        memory.set(memory.entry(1), memory.get(memory.entry(0)))
    popped = [lane.pop() for _ in range(3)]
    claimed = [record for record in popped if record is not None and record.claim()]
    assert [record.take_body() for record in claimed] == [b"1", b"3"]


# ---- the control words


@pytest.mark.parametrize("at", [HEAD, TAIL])
@pytest.mark.parametrize("value", [0, 1, 3, SLOTS, SLOTS + 1, SLOTS + 3, 10**6, 2**63, WORD - 1, WORD])
def test_head_and_tail_may_be_anything(lane: Lane, at: int, value: int) -> None:
    """Nobody goes round for ever, and what stands in the index is found again, in order."""
    lane.window = 64
    for number in range(20):
        lane.put(b"gone")
        lane.receive()
    for number in range(10):
        lane.put(bytes([number]))
    with Memory(lane) as memory:
        memory.set(at, value)
    found = lane.drain()
    assert found == sorted(found) and len(set(found)) == len(found)
    if lane.consumer.corrupt:
        assert found == [bytes([number]) for number in range(10)]
    lane.producer.queued
    for _ in range(30):
        lane.put(b"x")
    lane.drain()
    assert lane.put(b"y"), "the producer's own count stands in the memory again"
    assert lane.drain()[-1] == b"y"


@pytest.mark.parametrize("value", [0, 5, WORD, 2**63])
def test_a_producer_is_not_led_by_head(lane: Lane, value: int) -> None:
    lane.window = 32768
    with Memory(lane) as memory:
        for _ in range(100):
            memory.set(HEAD, value)
            assert lane.producer.revoke(lane.put(b"x"))
            lane.producer.arm()


def test_slots_are_counted_by_the_producer_itself(lane: Lane) -> None:
    """Or it would hand out the same slot again and again, and write past its lists of them."""
    lane.window = 1000
    with Memory(lane) as memory:
        for number in range(1000):
            memory.set(HIGH_WATER, 0, "I")
            assert lane.put(number.to_bytes(4, "little"))
    assert [int.from_bytes(body, "little") for body in lane.drain()] == list(range(1000))
    check_goes_on(lane)


@pytest.mark.parametrize("value", [0, 1, SLOTS, SLOTS + 1, 2**32 - 1])
def test_successors_do_not_trust_the_high_water_mark(lane: Lane, value: int) -> None:
    for number in range(5):
        lane.put(body_of(number, 5000))
    held = lane.take()
    with Memory(lane) as memory:
        memory.set(HIGH_WATER, value, "I")
        lane.adopt_producer()
        memory.set(HIGH_WATER, value, "I")
        lane.adopt_consumer()
        memory.set(HIGH_WATER, value, "I")
        if lane.which != RECV:
            lane.consumer.unclaimed()
        lane.segment.quiet()
    lane.drain()
    assert lane.put(b"x")
    assert lane.drain()[-1] == b"x"
    del held


@pytest.mark.parametrize("at", [WINDOW, RELEASES, DEMAND])
@pytest.mark.parametrize("value", [0, 1, 2**32 - 1, 2**63, WORD])
def test_counts_may_be_anything(lane: Lane, at: int, value: int) -> None:
    for number in range(5):
        lane.put(bytes([number]))
    with Memory(lane) as memory:
        memory.set(at, value, "I" if at == WINDOW else "Q")
    lane.put(b"\5", force=True)
    assert lane.drain() == [bytes([number]) for number in range(6)]
    if lane.which == RECV:
        epoch = lane.consumer.announce()
        lane.consumer.withdraw(epoch)
    assert lane.producer.queued == 0
    lane.adopt_producer()
    lane.window = 1
    assert lane.put(b"x") and not lane.put(b"y")


def test_states_may_be_anything(lane: Lane) -> None:
    lane.window = 64
    for state in (0, 1, 2, 3, 4, 5, 2**31, 2**32 - 1):
        for generation in (0, 1, 2**32 - 1):
            slot = slot_of(lane.put(body_of(0, 5000)))
            with Memory(lane) as memory:
                memory.set(memory.slot(slot, STATE), generation << 32 | state)
                lane.drain()
                lane.producer.queued
                lane.adopt_producer()
                lane.adopt_consumer()
                lane.drain()
                memory.set(memory.slot(slot, STATE), generation << 32 | FREE)
    check_goes_on(lane)


def test_garbage_everywhere_while_both_sides_go_on(make_lane: LaneMaker) -> None:
    """Any words, anywhere, at any time: messages may be lost, nobody crashes, hangs or raises what is not ours."""
    for seed in range(12):
        chance = random.Random(seed)
        lane = make_lane(budget=1 << 16, window=50)
        held: list[object] = []
        tickets = [0]
        with Memory(lane) as memory:
            for _ in range(1500):
                for _ in range(chance.randrange(3)):
                    scribble(memory, chance)
                with contextlib.suppress(MemoryError):  # an oversize body that nobody can map or hold
                    step(lane, chance, held, tickets)
            held.clear()
            wipe(memory)
        lane.adopt_producer()
        lane.adopt_consumer()
        assert lane.put(b"as new", force=True)
        assert lane.drain() == [b"as new"]


def scribble(memory: Memory, chance: random.Random) -> None:
    """Garbage into a word that somebody may read."""
    value = chance.choice(
        [
            0,
            1,
            2,
            3,
            4,
            193,
            SLOTS,
            2**31,
            2**32 - 1,
            2**63,
            WORD,
            memory.arena_at,
            memory.extents_at,
            chance.getrandbits(64),
        ]
    )
    where = chance.randrange(4)
    if where == 0:
        memory.set(chance.choice([TAIL, HIGH_WATER, WINDOW, HEAD, RELEASES, DEMAND]), value, chance.choice("IQ"))
    elif where == 1:
        at = memory.entry(memory.get(HEAD) + chance.randrange(3))
        memory.set(at + chance.choice([0, 4]), value, "I")
    else:
        field = chance.choice([STATE, STATE + 4, POSITION, FLAGS, HEADER_LENGTH, LENGTH, LENGTH, OFFSET, OFFSET, BLOCK])
        if field in (LENGTH, BLOCK) and value >> 63 == 0:
            value %= 1 << 24  # not so much that a copy of it would take the machine's memory
        memory.set(
            memory.slot(chance.randrange(60), field),
            value,
            "I" if field in (STATE, STATE + 4, FLAGS, HEADER_LENGTH) else "Q",
        )


def step(lane: Lane, chance: random.Random, held: list[object], tickets: list[int]) -> None:
    """Any move of either side."""
    what = chance.randrange(12)
    if what < 4:
        tickets.append(
            lane.put(
                body_of(1, chance.choice([0, 10, 192, 193, 4096, 30_000, 70_000])), b"h", force=chance.random() < 0.3
            )
        )
    elif what < 7:
        record = lane.take()
        if record is not None and record.size <= 1 << 24:
            assert len(record.header) + len(record.body()) == len(record.payload_bytes())
            if chance.random() < 0.3:
                held.append(record.view() if chance.random() < 0.5 else record)
            else:
                record.release()
    elif what == 7:
        lane.producer.revoke(chance.choice(tickets))
        lane.producer.state(chance.choice(tickets))
    elif what == 8:
        lane.producer.arm(chance.randrange(100_000))
        if lane.which == RECV:
            lane.consumer.arm()
    elif what == 9 and held:
        held.pop(chance.randrange(len(held)))
    elif what == 10:
        lane.producer.queued
        lane.segment.quiet()
    elif chance.random() < 0.2:
        held.clear()
        lane.adopt_producer()
    elif chance.random() < 0.2:
        held.clear()
        lane.adopt_consumer()


def wipe(memory: Memory) -> None:
    memory.map[:CONTROL_SIZE] = bytes(CONTROL_SIZE)
    start = CONTROL_SIZE + INDEX_SIZE
    memory.map[start : start + 100 * SLOT_SIZE] = bytes(100 * SLOT_SIZE)


# ---- what is no region


def test_a_descriptor_of_something_else_is_refused() -> None:
    region = Region.create(BUDGET)
    board = os.pread(region.fd, 65536, 0)
    with tempfile.TemporaryFile() as file:
        for size, begin in [
            (0, b""),
            (100, b""),
            (65536, b""),
            (1 << 21, b""),
            (1 << 21, board),
            (1 << 21, b"\xff" * 65536),
        ]:
            file.truncate(0)
            file.truncate(size)
            file.seek(0)
            file.write(begin)
            file.flush()
            with pytest.raises(GarbledError, match="not the shared memory"):
                Region.attach(file.fileno())
    read, write = os.pipe()
    for fd in (read, write):
        with pytest.raises(GarbledError, match="not the shared memory"):
            Region.attach(fd)
        os.close(fd)
    with pytest.raises(OSError):
        Region.attach(read)


@pytest.mark.parametrize("word", range(6))
@pytest.mark.parametrize("value", [0, 1, 4096, 2**36, 2**63, WORD])
def test_a_board_with_another_word_is_refused_or_harmless(word: int, value: int) -> None:
    region = Region.create(BUDGET)
    os.pwrite(region.fd, value.to_bytes(8, "little"), word * 8)
    try:
        other = Region.attach(region.fd)
    except GarbledError:
        return
    lane = Lane(0, region=other)  # the budget may be smaller; where things are may not be elsewhere
    assert lane.put(bytes(5000)) and lane.receive() == bytes(5000)
    lane.close()


def test_an_attached_region_is_the_same_memory() -> None:
    region = Region.create(BUDGET)
    other = Region.attach(region.fd)
    assert other.fd != region.fd and other.budget == BUDGET
    assert not os.get_inheritable(other.fd)
    region.ready_pipes, region.pipes, region.generation = -3, 7, 2**32 - 1
    assert (other.ready_pipes, other.pipes, other.generation) == (-3, 7, 2**32 - 1)
    for index in range(COUNTERS):
        region.add(index)
        region.add(index, index)
    other.add(3, 2**64 - 4)
    assert [other.counter(index) for index in range(COUNTERS)] == [
        0 if index == 3 else index + 1 for index in range(COUNTERS)
    ]
    assert repr(region) == f"<Region: fd {region.fd}, budget {BUDGET} bytes a lane>"


def test_the_file_cannot_be_resized() -> None:
    region = Region.create(BUDGET)
    for size in (0, os.fstat(region.fd).st_size + 1):
        with pytest.raises(PermissionError):
            os.truncate(region.fd, size)


@pytest.mark.parametrize("index", [1024, 2**32 - 1])
def test_a_context_that_does_not_exist(index: int) -> None:
    region = Region.create(BUDGET)
    for use in (region.segment, region.punch):
        with pytest.raises(BadValueError, match=f"at most 1024 contexts; there is no number {index}"):
            use(index)
    assert PUBLISHED < CLAIMED  # the order that `state` promises
