"""The compiled frame codec against the pure one of spworkers/transport/frames.py."""

from __future__ import annotations

import contextlib
import errno
import random
import select
import socket
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise

import pytest
from helpers import eventually
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ring.support import BUDGET, CLAIMED, FREE, SEND, Lane, body_of
from spworkers.errors import BadValueError, GarbledError, InternalError, SPError, TooLongError
from spworkers.ring import IPC, STREAM, FrameReader, FrameWriter
from spworkers.transport.frames import NUMBERS, Decoder, encode, header

FRAMINGS = ("stream", "ipc")
framings = st.sampled_from(FRAMINGS)

SCRATCH, WHOLE, STAGED, VECTORS = 256 * 1024, 32 * 1024, 16 * 1024, 128  # of _frames.pxi: sizes around them matter
EDGES = [
    0,
    1,
    7,
    8,
    9,
    STAGED - 1,
    STAGED,
    STAGED + 1,
    WHOLE - 1,
    WHOLE,
    WHOLE + 1,
    SCRATCH - 9,
    SCRATCH - 8,
    SCRATCH,
    SCRATCH + 1,
]
sizes = st.one_of(st.integers(0, 300), st.sampled_from(EDGES), st.integers(0, 2 * SCRATCH))

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two ends, not blocking, with small buffers in the kernel."""
    with socketpair() as ends:
        yield ends


@contextlib.contextmanager
def socketpair(small: bool = True) -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for end in (ours, theirs):
            end.setblocking(False)
            if small:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel makes it its least, some KiB
        yield ours, theirs


def read_all(end: socket.socket, most: int = 1 << 30) -> bytes:
    """What has arrived, up to so many bytes."""
    parts = []
    while most:
        try:
            part = end.recv(min(most, 1 << 16))
        except BlockingIOError:
            break
        if not part:
            break
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def messages_of(lengths: list[int]) -> list[bytes]:
    return [body_of(number, length) for number, length in enumerate(lengths)]


def outcome(reader: FrameReader | Decoder, pieces: list[bytes]) -> tuple[list[bytes], type[Exception] | None]:
    """All messages of all pieces, and the error that came after them (the reference raises it too)."""
    messages: list[bytes] = []
    for piece in pieces:
        try:
            messages += reader.feed(piece)
        except SPError:
            break
    return messages, None if reader.error is None else type(reader.error)


def cut(data: bytes, points: list[int]) -> list[bytes]:
    edges = [0, *sorted(point % (len(data) + 1) for point in points), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


# ---- reading


@settings(max_examples=60, deadline=None)
@given(framings, st.lists(sizes, max_size=6), st.lists(st.integers(0, 1 << 20), max_size=12))
@example("ipc", [0] * 6, list(range(60)))
@example("stream", [SCRATCH * 3, 5, WHOLE], [1, 9, 100_000])
def test_feed_is_what_the_reference_does(framing: str, lengths: list[int], points: list[int]) -> None:
    messages = messages_of(lengths)
    pieces = cut(b"".join(encode(framing, message) for message in messages), points)
    reader, decoder = FrameReader(-1, NUMBERS[framing]), Decoder(framing)
    for piece in pieces:
        assert reader.feed(piece) == decoder.feed(piece)
    assert reader.frames == len(messages)
    assert reader.received == sum(map(len, pieces))
    assert reader.error is None and not reader.eof


@settings(max_examples=25, deadline=None)
@given(framings, st.lists(sizes, max_size=6), st.lists(st.integers(1, 70_000), min_size=1, max_size=12))
def test_reading_is_what_the_reference_does(framing: str, lengths: list[int], steps: list[int]) -> None:
    """Through a socket, the bytes written in pieces of any sizes, read as they come."""
    messages = messages_of(lengths)
    data = b"".join(encode(framing, message) for message in messages)
    with socketpair(small=False) as (ours, theirs):
        reader = FrameReader(ours.fileno(), NUMBERS[framing])
        got: list[bytes] = []
        at = turn = 0
        while at < len(data):
            with contextlib.suppress(BlockingIOError):
                at += theirs.send(data[at : at + steps[turn % len(steps)]])
            got += reader.read()
            turn += 1
        while found := reader.read():
            got += found
        while len(got) < len(messages):  # what is long comes in several reads, the first of which may give nothing
            got += reader.read()
        assert got == messages
        assert reader.read() == [] and not reader.eof
        theirs.shutdown(socket.SHUT_WR)
        assert reader.read() == [] and reader.eof
    assert (reader.frames, reader.received) == (len(messages), len(data))


@settings(max_examples=200, deadline=None)
@given(
    framings,
    st.lists(st.integers(0, 300), max_size=4),
    st.binary(max_size=40),
    st.lists(st.integers(0, 4000), max_size=12),
    st.integers(0, 200),
)
@example("stream", [3], b"\x80", [], 0)
@example("ipc", [3, 0], b"\x02", [], 0)
@example("ipc", [3], b"\x01\xff", [], 0)
@example("stream", [3, 200], b"", [1], 100)
def test_hostile_bytes_give_what_the_reference_gives(
    framing: str, lengths: list[int], garbage: bytes, points: list[int], limit: int
) -> None:
    data = b"".join(encode(framing, message) for message in messages_of(lengths)) + garbage
    pieces = cut(data, points)
    reader, decoder = FrameReader(-1, NUMBERS[framing], limit), Decoder(framing, limit)
    if outcome(decoder, pieces)[1] is None and not limit and _too_long_for_a_lane(framing, data):
        return
    expected = outcome(Decoder(framing, limit), pieces)
    assert outcome(reader, pieces) == expected
    if expected[1] is not None:
        for _ in range(2):
            assert reader.feed(encode(framing, b"never seen")) == []
        assert type(reader.error) is expected[1]


def _too_long_for_a_lane(framing: str, data: bytes) -> bool:
    """Without a limit the reference waits for 2**63 bytes; the compiled codec knows that no lane holds as many."""
    reader = FrameReader(-1, NUMBERS[framing])
    reader.feed(data)
    return isinstance(reader.error, TooLongError)


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("size", [99, 100, 101])
def test_the_limit_is_exact(framing: str, size: int) -> None:
    reader = FrameReader(-1, NUMBERS[framing], 100)
    if size <= 100:
        assert reader.feed(encode(framing, bytes(size))) == [bytes(size)]
        return
    assert reader.feed(encode(framing, bytes(size))) == []
    assert isinstance(reader.error, TooLongError)
    assert str(reader.error) == "a message of 101 bytes exceeds MAX-RCV-SIZE (100)"
    assert reader.frames == 0


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize(
    ("length", "limit", "error"),
    [
        (1 << 40, 1 << 20, TooLongError),
        (1 << 40, 0, TooLongError),
        (2**63 - 1, 0, TooLongError),
        (2**63, 1 << 20, GarbledError),
        (2**64 - 1, 0, GarbledError),
    ],
)
def test_a_hostile_length_allocates_nothing(framing: str, length: int, limit: int, error: type[SPError]) -> None:
    reader = FrameReader(-1, NUMBERS[framing], limit)
    data = header(framing, 0)[:-8] + length.to_bytes(8, "big")
    tracemalloc.start()
    try:
        assert reader.feed(data) == []
        assert type(reader.error) is error
        assert tracemalloc.get_traced_memory()[1] < 1 << 16
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("framing", FRAMINGS)
def test_what_is_wrong_is_wrong_at_its_first_byte(framing: str, pair: Pair) -> None:
    start = header(framing, 0)[:-8]
    for wrong in [start + b"\x80", *([b"\x00", b"\x02", b"\xff"] if framing == "ipc" else [])]:
        with socketpair() as (ours, theirs):
            reader = FrameReader(ours.fileno(), NUMBERS[framing])
            theirs.send(wrong)
            assert reader.read() == []
            assert isinstance(reader.error, GarbledError)
            assert f"0x{wrong[-1]:02x}" in str(reader.error)


@pytest.mark.parametrize("framing", FRAMINGS)
def test_messages_before_an_error_are_not_lost(framing: str, pair: Pair) -> None:
    ours, theirs = pair
    reader = FrameReader(ours.fileno(), NUMBERS[framing], 10)
    theirs.send(b"".join(encode(framing, message) for message in (b"one", b"", bytes(11))) + b"and more")
    assert reader.read() == [b"one", b""]
    assert isinstance(reader.error, TooLongError)
    theirs.send(encode(framing, b"never seen"))
    received = reader.received
    for _ in range(2):
        assert reader.read() == []
        assert reader.feed(encode(framing, b"never seen")) == []
    assert isinstance(reader.error, TooLongError)
    assert (reader.frames, reader.received, reader.eof) == (2, received, False)


def test_nothing_there_is_no_message(pair: Pair) -> None:
    reader = FrameReader(pair[0].fileno(), STREAM)
    assert reader.read() == [] and not reader.eof
    pair[1].close()
    assert reader.read() == [] and reader.eof


def test_an_end_in_the_midst_of_a_message(pair: Pair) -> None:
    for size in (100, 100_000):
        with socketpair() as (ours, theirs):
            reader = FrameReader(ours.fileno(), STREAM)
            theirs.send(encode("stream", bytes(size))[:60])
            assert reader.read() == []
            theirs.close()
            assert reader.read() == [] and reader.eof
            assert (reader.frames, reader.received) == (0, 60)


def test_the_systems_errors_pass_through(pair: Pair) -> None:
    with pytest.raises(OSError) as raised:
        FrameReader(-1, STREAM).read()
    assert raised.value.errno == errno.EBADF
    writer = FrameWriter(pair[0].fileno(), STREAM)
    pair[1].close()
    writer.push_bytes(b"x")
    with pytest.raises(BrokenPipeError):
        writer.flush()
    assert writer.queued == 1, "the pipe is lost, and the caller discards"
    assert writer.discard() == 1


def test_the_limit_may_change(pair: Pair) -> None:
    reader = FrameReader(-1, STREAM, 5)
    assert reader.feed(encode("stream", bytes(5))) == [bytes(5)]
    reader.max_size = 6
    assert reader.feed(encode("stream", bytes(6))) == [bytes(6)]


def test_buffers_of_other_kinds_are_fed() -> None:
    data = encode("stream", b"abc")
    for kind in (bytes, bytearray, memoryview):
        assert FrameReader(-1, STREAM).feed(kind(data)) == [b"abc"]
    with pytest.raises(TypeError):
        FrameReader(-1, STREAM).feed("text")


@pytest.mark.parametrize("framing", [-1, 2, 100])
def test_a_framing_that_does_not_exist(framing: int) -> None:
    for make in (FrameReader, FrameWriter):
        with pytest.raises(BadValueError, match=f"framing {framing}:"):
            make(-1, framing)


def test_readers_do_not_mix() -> None:
    """They share one scratch buffer: what is incomplete must be each one's own."""
    chance = random.Random(1)
    data = [
        b"".join(encode("stream", body_of(number * 100 + n, chance.choice(EDGES))) for n in range(8))
        for number in range(4)
    ]
    readers = [FrameReader(-1, STREAM) for _ in data]
    got: list[list[bytes]] = [[] for _ in data]
    at = [0] * len(data)
    while any(at[n] < len(data[n]) for n in range(len(data))):
        n = chance.randrange(len(data))
        step = chance.choice([1, 8, 9, 5000, WHOLE, SCRATCH, SCRATCH * 2])
        got[n] += readers[n].feed(data[n][at[n] : at[n] + step])
        at[n] += step
    for n in range(len(data)):
        assert b"".join(encode("stream", message) for message in got[n]) == data[n]


# ---- writing


@settings(max_examples=60, deadline=None)
@given(
    framings,
    st.lists(st.tuples(st.booleans(), sizes, st.integers(0, 20), st.integers(0, 40)), max_size=8),
    st.lists(st.integers(700, 60_000), min_size=1, max_size=8),
)
def test_writing_is_what_the_reference_encodes(
    framing: str, frames: list[tuple[bool, int, int, int]], reads: list[int]
) -> None:
    """Records and bytes, with prefixes and skips, through a kernel buffer that takes a few KiB at a time."""
    with Lane(SEND, budget=4 << 20) as lane, socketpair() as (ours, theirs):
        writer = FrameWriter(ours.fileno(), NUMBERS[framing])
        expected, tickets, ends = bytearray(), [], []
        for number, (as_record, size, before, skip) in enumerate(frames):
            body, prefix = body_of(number, size), body_of(number, before)
            if as_record:
                ticket = lane.put(body, b"head")
                record = lane.take()
                assert record is not None
                skip = min(skip, size + 4)
                writer.push_record(prefix, record, skip)
                record.release()
                expected += encode(framing, prefix + (b"head" + body)[skip:])
            else:
                ticket = 0
                writer.push_bytes(body)
                expected += encode(framing, body)
            tickets.append(ticket)
            ends.append(len(expected))
        assert writer.queued == len(frames) and writer.pending == len(expected)
        got = bytearray()
        turn = 0
        while not writer.flush() or len(got) < len(expected):
            check_released(lane, writer, tickets, ends)
            got += read_all(theirs, reads[turn % len(reads)])
            turn += 1
        assert got == expected
        assert (writer.queued, writer.pending, writer.sent, writer.frames) == (0, 0, len(expected), len(frames))
        assert lane.producer.queued == lane.producer.bytes == 0


@settings(max_examples=60, deadline=None)
@given(
    framings,
    st.lists(st.tuples(st.booleans(), sizes), max_size=8),
    st.lists(st.tuples(st.integers(0, 60_000), st.floats(0, 1)), min_size=1, max_size=8),
)
def test_what_is_written_another_way_is_the_same(
    framing: str, frames: list[tuple[bool, int]], steps: list[tuple[int, float]]
) -> None:
    """`peek` and `taken`: a stream that takes part of what it is offered, as TLS does; records go back likewise."""
    with Lane(SEND, budget=4 << 20) as lane:
        writer = FrameWriter(-1, NUMBERS[framing])
        expected, tickets, ends = bytearray(), [], []
        for number, (as_record, size) in enumerate(frames):
            body = body_of(number, size)
            tickets.append(lane.put(body, b"head") if as_record else 0)
            record = lane.take() if as_record else None
            if record is not None:
                writer.push_record(b"prefix", record, 2)
                record.release()
            else:
                writer.push_bytes(body)
            expected += encode(framing, b"prefix" + (b"head" + body)[2:] if record is not None else body)
            ends.append(len(expected))
        got = bytearray()
        turn = 0
        while writer.pending:
            limit, part = steps[turn % len(steps)]
            turn += 1
            limit += turn // len(steps)  # it comes to an end
            offer = writer.peek(limit)
            assert len(offer) <= limit
            assert expected.startswith(offer, len(got))
            assert offer or not limit, "there is more"
            taken = int(len(offer) * part) if turn % 2 else len(offer)
            got += offer[:taken]
            writer.taken(taken)
            check_released(lane, writer, tickets, ends)
        assert got == expected
        assert writer.peek(10) == b""
        with pytest.raises(InternalError):
            writer.taken(1)


def check_released(lane: Lane, writer: FrameWriter, tickets: list[int], ends: list[int]) -> None:
    """A record is released when the kernel has its last byte, and not before."""
    accepted = sum(end <= writer.sent for end in ends)
    assert (writer.frames, writer.queued) == (accepted, len(ends) - accepted)
    assert writer.sent + writer.pending == (ends[-1] if ends else 0)
    for number, ticket in enumerate(tickets):
        if ticket:
            assert lane.producer.state(ticket) in ((FREE,) if number < accepted else (CLAIMED,))


def test_frames_are_pushed_while_others_are_on_their_way(pair: Pair) -> None:
    """The queue and the staging buffer go round, grow and shrink in the midst of partial writes."""
    chance = random.Random(3)
    ours, theirs = pair
    writer, reader = FrameWriter(ours.fileno(), IPC), FrameReader(theirs.fileno(), IPC)
    sent: list[bytes] = []
    got: list[bytes] = []
    while len(sent) < 3000:
        for _ in range(chance.choice([0, 1, 3, 40])):
            sent.append(body_of(len(sent), chance.choice([0, 1, 50, 900, 5000, STAGED, STAGED + 1, 50_000])))
            writer.push_bytes(sent[-1])
        writer.flush()
        for _ in range(chance.randrange(4)):
            got += reader.read()
    while writer.queued:
        writer.flush()
        got += reader.read()
    while found := reader.read():
        got += found
    assert got == sent
    assert writer.frames == len(sent)


def test_more_frames_than_one_call_takes(pair: Pair) -> None:
    with socketpair(small=False) as (ours, theirs):
        writer, reader = FrameWriter(ours.fileno(), STREAM), FrameReader(theirs.fileno(), STREAM)
        bodies = [body_of(number, STAGED + 1) for number in range(3 * VECTORS)]
        for body in bodies:
            writer.push_bytes(body)
        got: list[bytes] = []
        while not writer.flush() or len(got) < len(bodies):
            got += reader.read()
        assert got == bodies


def test_what_the_pipe_did_not_take_is_given_back(pair: Pair) -> None:
    ours, _ = pair
    with Lane(SEND, budget=16 << 20) as lane:
        writer = FrameWriter(ours.fileno(), STREAM)
        records = []
        for number in range(20):
            lane.put(body_of(number, 100_000 if number else 10))
            record = lane.take()
            assert record is not None
            writer.push_record(b"", record)
            records.append(record)
        assert not writer.flush()
        assert writer.frames == 1
        assert writer.discard() == 19
        assert (writer.queued, writer.pending) == (0, 0)
        assert lane.producer.queued == 20, "we use them still: one will be sent again by another pipe"
        for record in records:
            record.release()
        assert lane.producer.queued == lane.producer.bytes == 0
        assert writer.discard() == 0


def test_a_writer_that_is_dropped_gives_its_records_back(pair: Pair) -> None:
    with Lane(SEND) as lane:
        writer = FrameWriter(pair[0].fileno(), STREAM)
        for size in (10, 5000, BUDGET + 1):
            lane.put(bytes(size))
            record = lane.take()
            assert record is not None
            writer.push_record(b"", record)
            record.release()
        del record
        assert lane.producer.queued == 3
        del writer
        assert lane.producer.queued == lane.producer.bytes == 0


def test_one_record_goes_to_many_pipes() -> None:
    """It is freed when the last of them has it."""
    with Lane(SEND) as lane, contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(socketpair()) for _ in range(3)]
        writers = [FrameWriter(ours.fileno(), STREAM) for ours, _ in pairs]
        body = body_of(1, 200_000)
        ticket = lane.put(body)
        record = lane.take()
        assert record is not None
        for writer in writers:
            writer.push_record(b"", record)
        record.release()
        for number in (2, 0, 1):
            assert lane.producer.state(ticket) == CLAIMED
            got = bytearray()
            while not writers[number].flush():
                got += read_all(pairs[number][1])
            got += read_all(pairs[number][1])
            assert got == encode("stream", body)
        assert lane.producer.state(ticket) == FREE


def test_a_release_opens_the_senders_window(pair: Pair) -> None:
    """Its bell rings when the kernel has the last byte."""
    ours, theirs = pair
    with Lane(SEND, window=1) as lane:
        writer = FrameWriter(ours.fileno(), STREAM)
        lane.put(body_of(0, 100_000))
        record = lane.take()
        assert record is not None
        writer.push_record(b"", record)
        record.release()
        assert not lane.producer.arm()

        def flushed() -> bool:
            assert writer.queued == 0 or not select.select([lane.bell], [], [], 0)[0]
            read_all(theirs)
            return writer.flush()

        eventually(flushed)
        assert select.select([lane.bell], [], [], 0)[0]
        assert lane.put(b"next")


def test_more_than_the_payload_cannot_be_skipped(pair: Pair) -> None:
    with Lane(SEND) as lane:
        lane.put(b"body", b"head")
        record = lane.take()
        assert record is not None
        writer = FrameWriter(pair[0].fileno(), STREAM)
        writer.push_record(b"", record, 8)
        with pytest.raises(InternalError, match="9 bytes of a payload of 8"):
            writer.push_record(b"", record, 9)
        assert writer.queued == 1
        assert writer.flush()
        assert read_all(pair[1]) == bytes(8)


def test_what_is_no_payload_is_not_queued(pair: Pair) -> None:
    writer = FrameWriter(pair[0].fileno(), STREAM)
    for wrong in (None, bytearray(b"x"), "x"):
        with pytest.raises(TypeError):
            writer.push_bytes(wrong)  # type: ignore[arg-type]
    with Lane(SEND) as lane:
        lane.put(b"x")
        record = lane.take()
        assert record is not None
        for prefix, what in ((None, record), (b"", None)):
            with pytest.raises(TypeError):
                writer.push_record(prefix, what)  # type: ignore[arg-type]
        record.release()
        with pytest.raises(InternalError, match="given back already"):
            writer.push_record(b"", record)
    assert writer.queued == 0
    assert writer.flush()


def test_the_constants_are_the_framings_numbers() -> None:
    assert NUMBERS == {"stream": STREAM, "ipc": IPC}
