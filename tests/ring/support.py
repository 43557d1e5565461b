"""What the ring's tests share: a lane with both ends in this process, its shared memory as bytes, patterns of bytes."""

from __future__ import annotations

import mmap
import os
import random
import select
import struct
from collections.abc import Callable
from typing import Any

from spworkers.ring import FrameReader, Inlet, Outlet, Receiver, Record, Region, Segment, Sender, make_bell

BUDGET = 1 << 20
"""Bytes of bodies that the tests' lanes hold, unless they say otherwise."""

SLOTS = 65536
SEND, RECV = 0, 1

# ring/layout.h, as far as the tests write garbage into it.
FIRST_SEGMENT = 1 << 20
CONTROL_SIZE, INDEX_SIZE, SLOT_SIZE = 4096, SLOTS * 8, 256
TABLE_SIZE = SLOTS * SLOT_SIZE
TAIL, HIGH_WATER, WINDOW, HEAD, RELEASES, SKIPPED, CORRUPT = 0, 8, 12, 64, 128, 136, 144
CONSUMER_WAITS, PRODUCER_WAITS, DEMAND, CLOSED = 192, 256, 320, 384
STATE, POSITION, KIND, FLAGS, PIPE, HEADER_LENGTH, SERIAL, LENGTH, OFFSET, BLOCK = 0, 8, 16, 20, 24, 28, 32, 40, 48, 56
FREE, WRITING, PUBLISHED, CLAIMED, LEASED = range(5)

PATTERN = random.Random(7).randbytes(1 << 16) * 3
"""Random bytes; a body that is a slice of it is told from every other one, and checked with one comparison."""


def body_of(number: int, size: int) -> bytes:
    """The body of message `number`: any two of different numbers differ, whatever their sizes (from 8 bytes on)."""
    start, rest = number * 7919 % (1 << 16), max(size - 8, 0)
    pattern = PATTERN * ((start + rest) // len(PATTERN) + 1)
    return number.to_bytes(8, "little")[:size] + pattern[start : start + rest]


def readable(fd: int) -> bool:
    """Whether a bell rings, now."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


class Lane:
    """One lane of a context from both of its ends, whichever way it goes.

    `put` and `take` are the two ends' usual moves, so that what holds for both ways is tested with the same words.
    """

    producer: Any
    consumer: Any

    def __init__(
        self, which: int, budget: int = BUDGET, window: int = 128, region: Region | None = None, index: int = 0
    ) -> None:
        self.which = which
        self.region = region if region is not None else Region.create(budget)
        self.segment: Segment = self.region.segment(index)
        self.bell = make_bell()
        self.io_bell = make_bell()
        self.adopt_producer()
        self.adopt_consumer()
        self.window = window
        self.opened = [self.bell, self.io_bell]

    def __enter__(self) -> Lane:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        for bell in self.opened:
            os.close(bell)
        self.opened = []

    def adopt_producer(self) -> None:
        """The producer is another one from now on, which knows only what lies in shared memory."""
        if self.which == SEND:
            self.producer = Sender(self.segment, self.bell, self.io_bell)
        else:
            self.producer = Inlet(self.segment, self.bell)

    def adopt_consumer(self) -> int:
        """Likewise for the consumer; how many records its predecessor left unfinished."""
        if self.which == SEND:
            self.consumer = Outlet(self.segment, self.bell)
        else:
            self.consumer = Receiver(self.segment, self.bell, self.io_bell)
        return int(self.consumer.adopt())

    @property
    def window(self) -> int:
        return int(self.producer.window)

    @window.setter
    def window(self, n: int) -> None:
        self.producer.window = n

    def put(
        self, body: bytes, header: bytes = b"", pipe: int = 0, serial: int = 0, kind: int = 0, force: bool = False
    ) -> int:
        """Publish; the ticket, or 0."""
        if self.which == SEND:
            return int(self.producer.publish(body, header, pipe, serial, kind, force))
        half = len(header) // 2  # an inlet's header comes in two parts
        return int(
            self.producer.offer(header[:half], header[half:] + body, len(header) - half, pipe, serial, kind, force)
        )

    def pop(self) -> Record | None:
        """The next record; of lane 0 not claimed yet."""
        return self.consumer.next() if self.which == SEND else self.consumer.take()  # type: ignore[no-any-return]

    def take(self) -> Record | None:
        """The next record, claimed."""
        while True:
            record = self.pop()
            if record is None or self.which == RECV or record.claim():
                return record

    def receive(self) -> bytes | None:
        """The next message's body."""
        record = self.take()
        return None if record is None else record.take_body()

    def drain(self) -> list[bytes]:
        """All bodies."""
        return list(iter(self.receive, None))  # type: ignore[arg-type]


class Memory:
    """A lane's shared memory, to look at and to write garbage into."""

    def __init__(self, lane: Lane) -> None:
        self.arena = (2 * lane.region.budget + 4095) & ~4095
        self.lane_size = CONTROL_SIZE + INDEX_SIZE + TABLE_SIZE + self.arena
        self.at = FIRST_SEGMENT + (2 * lane.segment.index + lane.which) * self.lane_size
        self.map = mmap.mmap(lane.region.fd, CONTROL_SIZE + INDEX_SIZE + TABLE_SIZE, offset=self.at)
        self.arena_at = self.at + CONTROL_SIZE + INDEX_SIZE + TABLE_SIZE
        first_extent = FIRST_SEGMENT + 1024 * 2 * self.lane_size
        self.extents_at = first_extent + (2 * lane.segment.index + lane.which) * (64 << 30)

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *exc: object) -> None:
        self.map.close()

    def get(self, at: int, form: str = "Q") -> int:
        return int(struct.unpack_from("=" + form, self.map, at)[0])

    def set(self, at: int, value: int, form: str = "Q") -> None:
        struct.pack_into("=" + form, self.map, at, value & ((1 << 8 * struct.calcsize("=" + form)) - 1))

    def slot(self, slot: int, field: int = 0) -> int:
        """Where a field of a slot is."""
        return CONTROL_SIZE + INDEX_SIZE + slot * SLOT_SIZE + field

    def entry(self, position: int) -> int:
        """Where an entry of the index ring is."""
        return CONTROL_SIZE + position % SLOTS * 8

    def state(self, slot: int) -> int:
        return self.get(self.slot(slot, STATE), "I")


def slot_of(ticket: int) -> int:
    """The slot that a ticket names."""
    return ticket & 0x7FFFFFFF


LaneMaker = Callable[..., Lane]


def everything(reader: FrameReader) -> list[bytes]:
    """What it has read, to the last of what was there."""
    found = reader.read()
    while reader.more == 1:
        found += reader.read()
    return found
