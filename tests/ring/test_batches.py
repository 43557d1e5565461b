"""Many messages in one call give exactly what one call for each gives, from the lane to the wire and back."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ring.support import FREE, RECV, SEND, Lane, body_of, readable
from ring.test_frames import read_all, socketpair
from spworkers.ring import ERROR, IPC, STREAM, FrameReader, FrameWriter, fan_out

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


def same_outcome(both: list[Any], script: list[Any]) -> None:
    """The script, and all that is left after it: one by one and many at a time do the same."""
    try:
        for step in [*script, ("send", 1 << 30), ("read", 1 << 30), ("read", 1 << 30)]:
            first, second = (side.do(*step) for side in both)
            assert first == second, step
        assert both[0].wire == both[1].wire
        assert both[0].lane.consumer.skipped == both[1].lane.consumer.skipped
    finally:
        for side in both:
            side.close()


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
    same_outcome([Outgoing(batch, prefix, framing, window) for batch in (False, True)], script)


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


def copied_one_by_one(writers: list[FrameWriter], lane: Lane, prefix: bytes, limit: int) -> int:
    while max(writer.pending for writer in writers) <= limit:
        record = lane.consumer.next()
        if record is None:
            break
        if record.claim():
            payload = prefix + record.payload_bytes()
            record.release()
            for writer in writers:
                writer.push_bytes(payload)
    return max(writer.pending for writer in writers)


class Copying(Outgoing):
    """As Outgoing, but everything goes to two peers, of whom the other one never reads."""

    def __init__(self, batch: bool, prefix: bytes, framing: int, window: int) -> None:
        super().__init__(batch, prefix, framing, window)
        self.others = socketpair()
        self.to_other = FrameWriter(self.others.__enter__()[0].fileno(), framing)

    def close(self) -> None:
        self.others.__exit__(None, None, None)
        super().close()

    def do(self, move: str, n: Any) -> list[Any]:
        if move != "send":
            return super().do(move, n)
        writers = [self.writer, self.to_other]
        copy = fan_out if self.batch else lambda *about: copied_one_by_one(writers, self.lane, self.prefix, n)
        most = copy(self.lane.consumer, self.prefix, writers, n)
        flushed = [writer.flush() for writer in writers]
        waiting = [(writer.pending, writer.queued, writer.frames) for writer in writers]
        return [most, flushed, waiting, self.states(), readable(self.lane.bell)]


@settings(deadline=None)
@given(
    st.lists(moves, max_size=30),
    st.sampled_from([b"", b"\0\0\0\1"]),
    st.sampled_from([STREAM, IPC]),
    st.sampled_from([1, 3, 128]),
)
@example([("publish", 10), ("publish", 300), ("take back", 0), ("send", 1 << 30), ("read", 1000)], b"", STREAM, 128)
@example([("publish", 10), ("die", None), ("publish", 20), ("send", 0), ("send", 1 << 30)], b"abcd", IPC, 128)
def test_copying_many_at_a_time_gives_the_same(script: list[Any], prefix: bytes, framing: int, window: int) -> None:
    same_outcome([Copying(batch, prefix, framing, window) for batch in (False, True)], script)


topics = st.sets(st.sampled_from([b"", b"a", b"b", b"ab"]), max_size=3)
bodies = st.tuples(st.sampled_from([b"", b"a", b"ab", b"b", b"c"]), sizes)

arrivals = st.one_of(
    st.tuples(st.just("come"), st.lists(bodies, max_size=12)),
    st.tuples(st.just("read"), st.sampled_from([1, 50, 1 << 20])),
    st.tuples(st.just("receive"), st.integers(1, 8)),
    st.tuples(st.just("wait"), st.none()),
    st.tuples(st.just("window"), st.sampled_from([0, 1, 2, 5, 128])),
    st.tuples(st.just("die"), st.none()),
    st.tuples(st.just("topics"), topics),
)


class Arriving:
    """A lane, and what a reader finds for it: all while there is room; or (`picky`) the newest of certain topics."""

    def __init__(self, batch: bool, picky: bool) -> None:
        self.batch, self.picky = batch, picky
        self.lane = Lane(RECV, window=2)
        self.ends = socketpair(small=False)
        ours, self.theirs = self.ends.__enter__()
        self.reader = FrameReader(ours.fileno(), STREAM)
        self.wire = b""
        self.waiting: list[bytes] = []  # what found no room; nothing is read while there is some
        self.topics: dict[int, set[bytes]] = {0: {b""}}
        self.lost = [0, 0, 0]
        self.number = 0

    def close(self) -> None:
        self.ends.__exit__(None, None, None)
        self.lane.close()

    def do(self, move: str, what: Any) -> list[Any]:
        if move == "come":
            for topic, size in what:
                self.wire += frame(topic + body_of(self.number, size))
                self.number += 1
        elif move == "read":
            self.see_to(self.waiting)
            if not self.waiting:
                self.theirs.sendall(self.wire[: min(what, 100_000)])
                self.wire = self.wire[min(what, 100_000) :]
                self.read()
        elif move == "receive":
            return [self.lane.receive() for _ in range(what)]
        elif move == "wait":
            self.lane.consumer.announce()
            return [self.lane.consumer.arm()]
        elif move == "die":
            self.lane.adopt_producer()
        elif move == "topics":
            self.topics = {n: {topic for topic in what if len(topic) == n} for n in {len(topic) for topic in what}}
        else:
            self.lane.window = what
        gone = self.reader.frames - len(self.waiting)  # how many more were read is the reader's affair
        lie = [body for _, body in self.lane.producer.untaken(9)]  # in which slot is the lane's
        return [self.waiting[:1], self.lost, gone, readable(self.lane.bell), lie]

    def read(self) -> None:
        """Until there is nothing more, or no room."""
        while not self.waiting:
            if self.batch:
                rest = self.reader.read_to(self.lane.producer, 77, self.topics if self.picky else None)
                self.lost = [n + more for n, more in zip(self.lost, self.reader.losses() or (0, 0, 0), strict=True)]
            else:
                rest = self.reader.read()
            self.see_to(rest)
            if not self.reader.got:
                return

    def see_to(self, payloads: list[bytes]) -> None:
        """One by one."""
        while payloads and self.dealt_with(payloads[0]):
            del payloads[0]
        self.waiting = payloads

    def dealt_with(self, payload: bytes) -> bool:
        if not self.picky:
            return bool(self.lane.producer.offer(b"", payload, 0, 77, 0))
        if not any(payload[:length] in topics for length, topics in self.topics.items()):
            self.lost[0] += 1
            return True
        again = False
        while not self.lane.producer.offer(b"", payload, 0, 77, 0):
            if self.lane.producer.displace():
                self.lost[1] += 1
            elif again:
                self.lost[2] += 1
                break
            else:
                again = True
        return True


@settings(deadline=None)
@given(st.lists(arrivals, max_size=30), st.booleans())
@example([("come", [(b"", 10)] * 5), ("read", 1 << 20), ("receive", 9), ("read", 1 << 20), ("receive", 9)], False)
@example([("come", [(b"a", 10), (b"b", 300), (b"a", 40000), (b"b", 1)]), ("topics", {b"a"}), ("read", 1 << 20)], True)
@example([("window", 0), ("wait", None), ("come", [(b"", 1), (b"", 2)]), ("read", 1 << 20)], True)
@example([("come", [(b"", 0), (b"", 0), (b"", 27), (b"", 16384)]), ("read", 50)], False)
def test_what_goes_from_the_socket_into_the_lane_is_the_same(script: list[Any], picky: bool) -> None:
    both = [Arriving(batch, picky) for batch in (False, True)]
    try:
        for step in [*script, ("read", 1 << 20), ("receive", 200)]:
            first, second = (side.do(*step) for side in both)
            assert first == second, step
    finally:
        for side in both:
            side.close()


def test_bytes_that_break_the_format_end_a_read_into_the_lane_too() -> None:
    """What came before them is delivered."""
    side = Arriving(True, picky=True)
    try:
        side.theirs.sendall(frame(b"good") + b"\xff" * 20)
        assert side.reader.read_to(side.lane.producer, 77, side.topics) == []
        assert side.reader.error is not None
        assert side.lane.drain() == [b"good"]
    finally:
        side.close()


takes = st.one_of(
    st.tuples(st.just("put"), st.tuples(sizes, st.sampled_from([b"", b"head"]), st.sampled_from([0, 0, 0, ERROR]))),
    st.tuples(st.just("take back"), st.integers(0, 30)),
    st.tuples(st.just("take"), st.integers(1, 5)),
    st.tuples(st.just("wait"), st.none()),
    st.tuples(st.just("window"), st.sampled_from([0, 1, 3, 128])),
    st.tuples(st.just("die"), st.none()),
)


class Taking:
    """A lane from which messages are taken, in one step where that is possible (`short`)."""

    def __init__(self, short: bool) -> None:
        self.short = short
        self.lane = Lane(RECV, window=3)
        self.lane.consumer.watch()
        self.tickets: list[int] = []

    def do(self, move: str, what: Any) -> list[Any]:
        lane = self.lane
        if move == "put":
            size, header, kind = what
            self.tickets.append(lane.put(body_of(len(self.tickets), size), header, kind=kind))
        elif move == "take back":
            return [lane.producer.revoke(self.tickets[what])] if what < len(self.tickets) and self.tickets[what] else []
        elif move == "take":
            return [self.take() for _ in range(what)]
        elif move == "wait":
            lane.consumer.announce()
        elif move == "die":
            lane.adopt_consumer()
            lane.consumer.watch()
        else:
            lane.window = what
        states = [lane.producer.state(ticket) for ticket in self.tickets]
        return [self.tickets, states, readable(lane.bell), lane.producer.arm(8), lane.producer.demand]

    def take(self) -> Any:
        body = self.lane.consumer.take_plain() if self.short else None
        if body is None:
            record = self.lane.consumer.take()
            if record is None or record.kind == ERROR:
                return record and record.take_body().decode("latin-1")
            body = record.take_body()
        return body


@settings(deadline=None)
@given(st.lists(takes, max_size=40))
@example([("put", (10, b"", 0)), ("put", (10, b"", ERROR)), ("put", (300, b"head", 0)), ("take", 3)])
@example([("window", 0), ("wait", None), ("put", (1, b"", 0)), ("take", 2)])
def test_taking_in_one_step_gives_the_same(script: list[Any]) -> None:
    both = [Taking(False), Taking(True)]
    with both[0].lane, both[1].lane:
        for step in [*script, ("take", 50)]:
            first, second = (side.do(*step) for side in both)
            assert first == second, step


def test_an_answer_is_not_taken_without_a_look_at_its_serial() -> None:
    with Lane(RECV) as lane:
        lane.put(b"answer", serial=7)
        assert lane.consumer.take_plain() is None
        record = lane.consumer.take()
        assert record is not None
        assert (record.serial, record.take_body()) == (7, b"answer")


def test_the_oldest_that_waits_is_displaced_whoever_put_it_there() -> None:
    with Lane(RECV, window=4) as lane:
        tickets = [lane.put(body) for body in (b"1", b"2", b"3", b"4")]
        assert lane.receive() == b"1"
        lane.adopt_producer()  # a successor, who knows what lies in the lane
        lane.producer.revoke(tickets[2])
        assert lane.producer.untaken(5) == [(tickets[1], b"2"), (tickets[3], b"4")]
        assert lane.producer.displace()
        assert lane.put(b"5")
        assert [body for _, body in lane.producer.untaken(5)] == [b"4", b"5"]
        assert lane.producer.displace()
        assert lane.drain() == [b"5"]
        assert not lane.producer.displace()


def test_the_beginnings_of_large_bodies_are_shown_too() -> None:
    with Lane(RECV) as lane:
        for size in (INLINE + 1, 50_000, 2 << 20):  # in a block; in a larger one; in an extent
            lane.put(b"x" * size)
        assert [body for _, body in lane.producer.untaken(7)] == [b"x" * 7] * 3
        assert [len(body) for _, body in lane.producer.untaken(1 << 30)] == [INLINE + 1, 50_000, 2 << 20]
