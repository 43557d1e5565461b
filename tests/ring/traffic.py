"""Streams of messages through a lane, each byte of which is checked, with waits on the bells. Also a child's main.

A message's header is its number; its body is one of a few thousand random ones of mixed sizes, chosen by the number.
Their count is a prime, so that what a slot or block held before never passes for what it should hold now.
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from spworkers.ring import Inlet, Outlet, Receiver, Record, Region, Sender, hush_bell, wait_readable

SEND, RECV = 0, 1
PATIENCE = 60.0
"""Seconds after which a wait on a bell counts as a wake-up that was lost."""

LAST = 2**64 - 1
_number = struct.Struct("<Q")


def make_bodies(count: int, sizes: Sequence[int], seed: int, share: float = 0.05) -> list[bytes]:
    """Random bodies: small ones mostly, and a share of the given sizes."""
    chance = random.Random(seed)
    pattern = chance.randbytes(max(sizes) + 65536)
    bodies = []
    for _ in range(count):
        size = chance.choice(sizes) if chance.random() < share else chance.randrange(400)
        start = chance.randrange(65536)
        bodies.append(pattern[start : start + size])
    return bodies


@dataclass(frozen=True)
class Place:
    """Where a lane is: enough to open one of its ends in any process that has the descriptors."""

    which: int
    region: int
    bell: int
    io_bell: int


class Putter:
    """A producing end that waits for room."""

    def __init__(self, place: Place) -> None:
        self.region = Region.attach(place.region)
        self.io_bell = place.io_bell
        segment = self.region.segment(0)
        self.end: Any = (
            Sender(segment, place.bell, place.io_bell) if place.which == SEND else Inlet(segment, place.bell)
        )
        self.put: Callable[[int, bytes], int] = self.send if place.which == SEND else self.deliver

    def send(self, number: int, body: bytes) -> int:
        tx, header = self.end, _number.pack(number)
        while not (ticket := tx.publish(body, header)):
            if not tx.arm(len(body) + 8):
                assert wait_readable(tx.bell, PATIENCE), f"nobody rang when there was room for {number}"
        return int(ticket)

    def try_send(self, number: int, body: bytes) -> bool:
        return bool(self.end.publish(body, _number.pack(number)))

    def deliver(self, number: int, body: bytes) -> int:
        inlet, header = self.end, _number.pack(number)
        while not (ticket := inlet.offer(header, body, 0, 0, 0)):
            if not inlet.arm(len(body) + 8):
                sleep_io(self.region, self.io_bell)
        return int(ticket)


class Taker:
    """A consuming end that waits for messages; what a predecessor left unfinished comes first."""

    def __init__(self, place: Place) -> None:
        self.region = Region.attach(place.region)
        self.io_bell = place.io_bell
        segment = self.region.segment(0)
        self.end: Any = (
            Outlet(segment, place.bell) if place.which == SEND else Receiver(segment, place.bell, place.io_bell)
        )
        self.inherited = self.end.adopt()
        self.try_take: Callable[[], Record | None] = self.follow if place.which == SEND else self.end.take
        self.take: Callable[[], Record] = self.follow_patiently if place.which == SEND else self.take_patiently

    def follow(self) -> Record | None:
        while (record := self.end.next()) is not None:
            if record.claim():
                break
        return record  # type: ignore[no-any-return]

    def follow_patiently(self) -> Record:
        while (record := self.follow()) is None:
            sleep_io(self.region, self.io_bell)
        return record

    def take_patiently(self) -> Record:
        rx = self.end
        while (record := rx.take()) is None:
            if not rx.arm():
                assert wait_readable(rx.bell, PATIENCE), "nobody rang when there was a message"
        return record  # type: ignore[no-any-return]


def sleep_io(region: Region, io_bell: int) -> None:
    """The I/O process's wait, as its hub does it: the caller looks before and after."""
    if not region.rearm():
        assert wait_readable(io_bell, PATIENCE), "nobody rang the I/O process"
    hush_bell(io_bell)
    region.collect()


def number_of(record: Record) -> int:
    return int(_number.unpack(record.header)[0])


def produce(place: Place, count: int, bodies: Sequence[bytes]) -> None:
    """Messages 0 to `count` - 1, and one that says that this was the last."""
    put = Putter(place).put
    for number in range(count):
        put(number, bodies[number % len(bodies)])
    put(LAST, b"")


def consume(place: Place, bodies: Sequence[bytes]) -> int:
    """Take and check all; how many there were."""
    take = Taker(place).take
    expected = 0
    while (number := number_of(record := take())) != LAST:
        assert number == expected, f"message {number} instead of {expected}"
        assert record.take_body() == bodies[number % len(bodies)], f"message {number} is torn"
        expected += 1
    record.release()
    return expected


def stream_bodies(sizes: Sequence[int]) -> list[bytes]:
    """Those that `produce` and `consume` agree on."""
    return make_bodies(4093, sizes, seed=11, share=0.01)


def main() -> None:
    """`traffic.py produce|consume which region bell io_bell count sizes...`: a child's side of the stream."""
    what, which, region, bell, io_bell, count, *sizes = sys.argv[1:]
    place = Place(int(which), int(region), int(bell), int(io_bell))
    bodies = stream_bodies([int(size) for size in sizes])
    if what == "produce":
        produce(place, int(count), bodies)
    else:
        assert consume(place, bodies) == int(count)


if __name__ == "__main__":
    main()
