"""Many messages in one call give exactly what one call for each gives, from the lane to the wire and back."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ring.support import FREE, RECV, SEND, Lane, body_of, readable
from ring.test_frames import read_all, socketpair
from spworkers.ring import IPC, STREAM, FrameReader, FrameWriter

INLINE = 192  # bytes that lie in a slot
sizes = st.one_of(st.integers(0, 2 * INLINE), st.sampled_from([INLINE, INLINE + 1, 16384, 16385, 40000]))

# What a sender and a kernel may do between two looks of the I/O process.
moves = st.one_of(
    st.tuples(st.just("publish"), sizes),
    st.tuples(st.just("take back"), st.integers(0, 50)),
    st.tuples(st.just("send"), st.sampled_from([0, 100, 5000, 1 << 30])),
    st.tuples(st.just("read"), st.integers(1, 100_000)),
    st.tuples(st.just("die"), st.none()),
)


def one_by_one(writer: FrameWriter, lane: Lane, prefix: bytes, limit: int) -> None:
    while writer.pending <= limit:
        record = lane.consumer.next()
        if record is None:
            return
        if record.claim():
            writer.push_record(prefix, record)
            record.release()


class Outgoing:
    """A lane, a writer, and what the peer has read."""

    def __init__(self, batch: bool, prefix: bytes, framing: int, window: int) -> None:
        self.batch, self.prefix, self.framing = batch, prefix, framing
        self.lane = Lane(SEND, window=window)
        self.ends = socketpair()
        self.ours, self.theirs = self.ends.__enter__()
        self.writer = FrameWriter(self.ours.fileno(), framing)
        self.tickets: list[int] = []
        self.wire = b""

    def close(self) -> None:
        self.ends.__exit__(None, None, None)
        self.lane.close()

    def do(self, move: str, n: Any) -> list[Any]:
        """What can be seen of it."""
        if move == "publish":
            self.tickets.append(self.lane.put(body_of(len(self.tickets), n)))
            return [self.tickets[-1]]
        if move == "take back":
            return [self.lane.producer.revoke(self.tickets[n])] if n < len(self.tickets) and self.tickets[n] else []
        if move == "send":
            if self.batch:
                self.writer.take(self.lane.consumer, self.prefix, n)
            else:
                one_by_one(self.writer, self.lane, self.prefix, n)
            return [self.writer.pending, self.writer.queued, self.writer.flush(), self.writer.frames, self.states()]
        if move == "read":
            self.wire += read_all(self.theirs, n)
            return [self.writer.flush(), self.writer.pending, self.states()]
        unsent = self.writer.discard()
        adopted = self.lane.adopt_consumer()
        self.writer = FrameWriter(self.ours.fileno(), self.framing)
        return [unsent, adopted, self.states()]

    def states(self) -> list[int]:
        return [self.lane.producer.state(ticket) for ticket in self.tickets if ticket]


@settings(deadline=None)
@given(
    st.lists(moves, max_size=40),
    st.sampled_from([b"", b"\0\0\0\1"]),
    st.sampled_from([STREAM, IPC]),
    st.sampled_from([0, 1, 3, 128]),
)
@example([("publish", 10), ("publish", 300), ("take back", 0), ("send", 1 << 30), ("read", 1000)], b"", STREAM, 128)
@example([("publish", 10), ("die", None), ("publish", 20), ("send", 0), ("send", 1 << 30)], b"abcd", IPC, 128)
def test_sending_many_at_a_time_gives_the_same(script: list[Any], prefix: bytes, framing: int, window: int) -> None:
    both = [Outgoing(batch, prefix, framing, window) for batch in (False, True)]
    try:
        for step in [*script, ("send", 1 << 30), ("read", 1 << 30), ("read", 1 << 30)]:
            first, second = (side.do(*step) for side in both)
            assert first == second, step
        assert both[0].wire == both[1].wire
        assert both[0].lane.consumer.skipped == both[1].lane.consumer.skipped
    finally:
        for side in both:
            side.close()


def test_a_sender_that_waits_for_room_is_rung_for_each_part_that_the_kernel_took() -> None:
    """Not only when all of the batch is gone."""
    side = Outgoing(True, b"", STREAM, 128)
    try:
        for _ in range(128):
            side.do("publish", 150)
        side.do("send", 1 << 30)
        while side.do("publish", 150) != [0]:
            continue
        assert side.writer.queued > 0  # the kernel's buffer is full, and so is the window now
        assert not side.lane.producer.arm(150)
        assert not readable(side.lane.bell)
        side.do("read", 4000)
        assert side.writer.queued > 0
        assert side.states().count(FREE) > 0
        assert readable(side.lane.bell)
    finally:
        side.close()


deliveries = st.one_of(
    st.tuples(st.just("arrive"), st.lists(sizes, max_size=12)),
    st.tuples(st.just("receive"), st.integers(1, 8)),
    st.tuples(st.just("wait"), st.none()),
    st.tuples(st.just("window"), st.sampled_from([0, 1, 2, 5, 128])),
)


def offered_one_by_one(lane: Lane, payloads: list[bytes], begin: int) -> int:
    while begin < len(payloads) and lane.producer.offer(b"", payloads[begin], 0, 77, 0):
        begin += 1
    return begin


class Incoming:
    """A lane, and payloads that come and wait for room; those that `land` wait in the lane's memory."""

    def __init__(self, batch: bool, land: bool = False) -> None:
        self.batch = batch
        self.lane = Lane(RECV, window=2)
        self.reader = FrameReader(-1, STREAM)
        self.reader.into = self.lane.producer if land else None
        self.waiting: list[Any] = []
        self.number = 0

    def do(self, move: str, what: Any) -> list[Any]:
        if move == "arrive":
            for size in what:
                self.waiting += self.reader.feed(frame(body_of(self.number, size)))
                self.number += 1
            begin = min(1, len(self.waiting) // 2)  # as if the machine had dealt with the first itself
            if self.batch:
                end = self.lane.producer.offer_all(self.waiting, begin, 77)
            else:
                end = offered_one_by_one(self.lane, self.waiting, begin)
            del self.waiting[begin:end]
            return [begin, end]
        if move == "receive":
            got = []
            for _ in range(what):
                record = self.lane.pop()
                if record is not None:
                    got += [record.pipe, record.serial, record.kind, record.header, record.by_demand]
                    got.append(record.take_body())
            return got
        if move == "wait":
            self.lane.consumer.announce()
            return []
        self.lane.window = what
        return []


@settings(deadline=None)
@given(st.lists(deliveries, max_size=30))
@example([("window", 0), ("wait", None), ("wait", None), ("arrive", [10, 300, 10]), ("receive", 5)])
@example([("window", 5), ("arrive", [0, 1, 192, 193, 40000, 7, 8]), ("receive", 8), ("arrive", []), ("receive", 8)])
def test_delivering_many_at_a_time_gives_the_same(script: list[Any]) -> None:
    all_three = [Incoming(False), Incoming(True), Incoming(True, land=True)]
    with all_three[0].lane, all_three[1].lane, all_three[2].lane:
        for step in [*script, ("receive", 200)]:
            first, second, third = (side.do(*step) for side in all_three)
            assert first == second == third, step
        left = [[bytes_of(payload) for payload in side.waiting] for side in all_three]
        assert left[0] == left[1] == left[2]
        assert all(side.lane.producer.bytes == 0 for side in all_three)


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(8, "big") + body


def bytes_of(payload: Any) -> bytes:
    return payload if isinstance(payload, bytes) else bytes(payload.take_back())
