"""Pipes through shared memory: what they carry, when they ring, and that a hostile other side can do no harm."""

from __future__ import annotations

import fcntl
import mmap
import os
import select
import signal
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring.support import everything
from spworkers.errors import GarbledError, InternalError, TooLongError
from spworkers.ring import CONDUIT, STREAM, Conduit, conduit_memory
from spworkers.ring._ring import ConduitReader, ConduitWriter

pytestmark = pytest.mark.skipif(not CONDUIT, reason="no sealed memory on this system")

HEAD, RING = 65536, 262144
TAIL_AT, HEAD_AT, READER_WAITS_AT, WRITER_WAITS_AT = 0, 128, 256, 384
SECOND = 4096
BOUND = 20.0


class Ends:
    """Both ends of a pipe, and the memory itself for who wants to do harm."""

    def __init__(self, max_size: int = 0) -> None:
        self.one, self.other = socket.socketpair()
        for each in (self.one, self.other):
            each.setblocking(False)
        memory = conduit_memory()
        self.first, self.second = Conduit(memory, self.one.fileno(), True), Conduit(memory, self.other.fileno(), False)
        self.raw = mmap.mmap(memory, HEAD + 2 * RING)
        os.close(memory)
        self.writer, self.answers = self.first.writer(), self.first.reader()
        self.reader, self.replies = self.second.reader(max_size), self.second.writer()

    def rung(self, sock: socket.socket) -> bool:
        return bool(select.select([sock], [], [], 0)[0])

    def set(self, at: int, value: int, form: str = "<Q") -> None:
        struct.pack_into(form, self.raw, at, value)

    def get(self, at: int, form: str = "<Q") -> int:
        return int(struct.unpack_from(form, self.raw, at)[0])

    def write(self, data: bytes) -> None:
        """As a peer that has a mind of its own."""
        self.raw[HEAD : HEAD + len(data)] = data
        self.set(TAIL_AT, len(data))

    def close(self) -> None:
        self.raw.close()
        self.one.close()
        self.other.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    with closing(Ends()) as made:
        yield made


# --- What is carried


def test_messages_go_both_ways(ends: Ends) -> None:
    bodies = [b"", b"x", bytes(40_000), os.urandom(300)]
    for writer, reader in ((ends.writer, ends.reader), (ends.replies, ends.answers)):
        for body in bodies:
            writer.push_bytes(body)
        assert writer.flush()
        assert everything(reader) == bodies
        assert (writer.frames, reader.frames) == (4, 4)
        assert writer.sent == reader.received == 4 * 8 + 1 + 40_000 + 300


def test_a_message_larger_than_the_ring_goes_through_it_in_parts(ends: Ends) -> None:
    body = os.urandom(3 * RING + 12_345)
    ends.writer.push_bytes(body)
    found: list[bytes] = []
    parts = 0
    while not ends.writer.flush():
        parts += 1
        found += everything(ends.reader)
    assert found + everything(ends.reader) == [body]
    assert parts >= 3


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 3000), st.integers(30_000, 300_000), st.sampled_from(["flush", "read"]))))
def test_whatever_the_order_everything_arrives(script: list[int | str]) -> None:
    ends = Ends()
    try:
        sent: list[bytes] = []
        found: list[bytes] = []
        for step in script:
            if step == "flush":
                ends.writer.flush()
            elif step == "read":
                found += ends.reader.read()
            else:
                sent.append(bytes([len(sent) % 251]) * int(step))
                ends.writer.push_bytes(sent[-1])
        while not ends.writer.flush():
            found += ends.reader.read()
        assert found + everything(ends.reader) == sent
        assert ends.writer.queued == ends.writer.pending == 0
    finally:
        ends.close()


# --- When it rings


def test_a_reader_is_rung_when_it_waits_and_once(ends: Ends) -> None:
    ends.writer.push_bytes(b"nobody waits yet")
    ends.writer.flush()
    assert not ends.rung(ends.other)
    assert ends.reader.more == 1, "a fresh reader looks by itself"
    everything(ends.reader)
    assert ends.reader.more == 0
    for _ in range(3):
        ends.writer.push_bytes(b"now it does")
        ends.writer.flush()
    assert ends.other.recv(10, socket.MSG_PEEK) == b"\0"
    ends.second.hush()
    assert not ends.rung(ends.other)
    assert everything(ends.reader) == [b"now it does"] * 3


def test_a_writer_that_waits_is_rung_when_there_is_room(ends: Ends) -> None:
    ends.writer.push_bytes(bytes(2 * RING))
    assert not ends.writer.flush()
    assert not ends.rung(ends.one)
    ends.reader.read()
    assert ends.rung(ends.one)
    ends.first.hush()
    assert not ends.writer.flush()
    ends.reader.read()
    assert ends.rung(ends.one)
    assert ends.writer.flush()


def test_a_full_socket_has_bells_enough(ends: Ends) -> None:
    everything(ends.reader)
    with pytest.raises(BlockingIOError):
        while True:
            ends.one.send(bytes(65536))
    ends.writer.push_bytes(b"heard all the same")
    assert ends.writer.flush()
    ends.second.hush()
    assert everything(ends.reader) == [b"heard all the same"]


# --- The end of the other side


def test_what_a_dead_peer_wrote_is_read_to_the_end(ends: Ends) -> None:
    ends.writer.push_bytes(b"last words")
    ends.writer.push_bytes(bytes(2 * RING))  # of which half is there
    ends.writer.flush()
    everything(ends.reader)
    ends.one.close()
    assert ends.rung(ends.other)
    ends.second.hush()
    assert ends.second.hung_up
    assert ends.reader.more == 0 or everything(ends.reader) == []
    assert ends.reader.read() == []
    assert (ends.reader.more, ends.reader.error, ends.reader.eof) == (2, None, True)
    assert ends.reader.frames == 1


def test_a_peer_that_dies_before_it_has_heard_our_bells_is_gone_too(ends: Ends) -> None:
    everything(ends.answers)
    everything(ends.reader)
    ends.writer.push_bytes(b"unheard")
    ends.writer.flush()
    ends.other.close()
    ends.first.hush()  # ECONNRESET
    assert ends.first.hung_up
    ends.answers.read()
    assert ends.answers.more == 2


def test_writing_to_a_dead_peer_fails_when_its_ring_is_full(ends: Ends) -> None:
    ends.other.close()
    ends.first.hush()
    ends.writer.push_bytes(bytes(2 * RING))
    with pytest.raises(BrokenPipeError):
        ends.writer.flush()
    assert ends.writer.discard() == 1


def test_after_close_no_bell_goes_to_a_number_that_somebody_else_may_have(ends: Ends) -> None:
    everything(ends.reader)
    ends.first.close()
    ends.writer.push_bytes(b"x")
    assert ends.writer.flush()
    assert not ends.rung(ends.other)
    ends.first.hush()
    assert (ends.first.fd, ends.first.hung_up) == (-1, True)


def test_readers_and_writers_are_made_by_conduits(ends: Ends) -> None:
    assert ConduitReader(ends.other.fileno(), STREAM).read() == []
    with pytest.raises(InternalError):
        ConduitWriter(ends.one.fileno(), STREAM).flush()


# --- A hostile other side


@pytest.mark.parametrize("tail", [RING + 1, 1 << 63, (1 << 64) - 1])
def test_a_tail_beyond_the_room_there_is(tail: int, ends: Ends) -> None:
    ends.set(TAIL_AT, tail)
    assert ends.reader.read() == []
    assert isinstance(ends.reader.error, GarbledError)
    assert ends.reader.more == 2
    assert ends.reader.read() == []


def test_a_tail_that_goes_back(ends: Ends) -> None:
    ends.writer.push_bytes(bytes(100))
    ends.writer.flush()
    everything(ends.reader)
    ends.set(TAIL_AT, 50)
    assert ends.reader.read() == []
    assert isinstance(ends.reader.error, GarbledError)


@pytest.mark.parametrize("head", [1, RING, 1 << 63])
def test_a_head_beyond_what_was_written(head: int, ends: Ends) -> None:
    ends.set(HEAD_AT, head)
    ends.writer.push_bytes(b"x")
    with pytest.raises(OSError, match="not in order"):
        ends.writer.flush()
    assert ends.writer.discard() == 1


@pytest.mark.parametrize(
    ("length", "error"),
    [(1 << 63, GarbledError), ((1 << 64) - 1, GarbledError), (101, TooLongError), (1 << 50, TooLongError)],
)
def test_a_length_that_cannot_be(length: int, error: type[Exception]) -> None:
    ends = Ends(max_size=100)
    ends.write((3).to_bytes(8, "big") + b"one" + length.to_bytes(8, "big") + b"rest")
    assert ends.reader.read() == [b"one"]
    assert isinstance(ends.reader.error, error)
    assert ends.reader.more == 2
    ends.close()


def test_a_length_beyond_this_machine(ends: Ends) -> None:
    ends.write((1 << 62).to_bytes(8, "big"))
    assert ends.reader.read() == []
    assert isinstance(ends.reader.error, TooLongError)


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=200),
    st.integers(0, (1 << 64) - 1) | st.integers(0, 2 * RING),
    st.integers(0, (1 << 64) - 1) | st.integers(0, 2 * RING),
    st.integers(0, 8),
)
def test_whatever_is_in_the_memory_nothing_but_the_pipe_ends(junk: bytes, tail: int, head: int, rounds: int) -> None:
    ends = Ends(max_size=1 << 20)
    try:
        ends.raw[HEAD : HEAD + len(junk) * 100] = junk * 100
        ends.set(TAIL_AT, tail)
        ends.set(SECOND + HEAD_AT, head)
        ends.set(READER_WAITS_AT, 0xFFFFFFFF, "<I")
        for _ in range(rounds):
            assert all(len(body) <= 1 << 20 for body in ends.reader.read())
            ends.replies.push_bytes(junk)
            try:
                ends.replies.flush()
            except OSError:
                assert 0 < head
        assert ends.reader.error is None or isinstance(ends.reader.error, (GarbledError, TooLongError))
    finally:
        ends.close()


def memfd(size: int, seals: int = 0, flags: int = 0) -> int:
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags)
    os.ftruncate(fd, size)
    if seals:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def plain_file(folder: str | None) -> int:
    fd, path = tempfile.mkstemp(dir=folder)
    os.unlink(path)
    os.ftruncate(fd, HEAD + 2 * RING)
    return fd


SIZE = HEAD + 2 * RING
SHRINK = fcntl.F_SEAL_SHRINK if hasattr(fcntl, "F_SEAL_SHRINK") else 0


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: memfd(SIZE), "not sealed"),
        (lambda: memfd(SIZE, fcntl.F_SEAL_GROW), "not sealed"),
        (lambda: memfd(SIZE - 4096, SHRINK), "bytes instead of"),
        (lambda: memfd(0, SHRINK), "bytes instead of"),
        (lambda: memfd(1 << 40, SHRINK), "bytes instead of"),
        (lambda: memfd(SIZE, SHRINK | fcntl.F_SEAL_WRITE), "cannot map"),
        (lambda: plain_file("/dev/shm"), "not sealed"),  # tmpfs, but a file that can be resized
        (lambda: plain_file(os.path.dirname(__file__)), "no memory"),
        (lambda: os.open("/dev/zero", os.O_RDWR), "no memory|bytes instead"),
        (lambda: os.open("/", os.O_RDONLY), "no memory|bytes instead|not sealed"),
        (lambda: os.pipe()[0], "no memory"),
    ],
)
def test_what_is_no_memory_to_be_shared_with_a_stranger(make: object, error: str) -> None:
    fd = make()  # type: ignore[operator]
    one, other = socket.socketpair()
    with one, other, pytest.raises((GarbledError, OSError), match=error):
        Conduit(fd, one.fileno(), False)
    os.close(fd)


def test_memory_of_huge_pages_which_may_not_be_there(ends: Ends) -> None:
    try:
        fd = os.memfd_create("huge", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | os.MFD_HUGETLB)
    except OSError as error:
        pytest.skip(f"no huge pages here: {error}")
    with pytest.raises(GarbledError, match="no memory"):
        Conduit(fd, ends.one.fileno(), False)
    os.close(fd)


def test_our_own_memory_cannot_be_resized_by_who_gets_it() -> None:
    fd = conduit_memory()
    for size in (0, SIZE - 1, SIZE + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    os.close(fd)


def test_a_peer_that_punches_holes_into_it(ends: Ends) -> None:
    """It cannot be kept from that; what is read there are zeros."""
    ends.writer.push_bytes(bytes([7]) * 100_000)
    ends.writer.flush()
    ends.raw.madvise(mmap.MADV_REMOVE)
    assert ends.reader.read() == []
    assert ends.reader.error is None


# --- Two processes


def pour(sock: socket.socket, conduit: Conduit, count: int) -> None:
    """Write numbered messages of all sizes, sleeping whenever there is no room."""
    writer = conduit.writer()
    for number in range(count):
        writer.push_bytes(number.to_bytes(4, "big") * (1 + number * number % 5000))
        while not writer.flush():
            select.select([sock], [], [], BOUND)
            conduit.hush()


def collect(sock: socket.socket, conduit: Conduit, found: list[bytes]) -> None:
    """Read until the other side is gone, sleeping whenever there is nothing."""
    reader = conduit.reader()
    while reader.more != 2:
        if reader.more == 0:
            assert select.select([sock], [], [], BOUND)[0], "nobody rang"
            conduit.hush()
        found += reader.read()


@pytest.mark.parametrize("kill_after", [None, 1, 700])
def test_another_process_that_ends_or_is_killed(kill_after: int | None) -> None:
    one, other = socket.socketpair()
    memory = conduit_memory()
    pid = os.fork()
    if pid == 0:
        other.close()
        one.setblocking(False)
        pour(one, Conduit(memory, one.fileno(), True), 3000)
        os._exit(0)
    one.close()
    other.setblocking(False)
    found: list[bytes] = []
    conduit = Conduit(memory, other.fileno(), False)
    os.close(memory)
    reading = threading.Thread(target=collect, args=(other, conduit, found))
    reading.start()
    if kill_after is not None:
        while len(found) < kill_after and reading.is_alive():
            os.sched_yield()
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    reading.join(BOUND)
    assert not reading.is_alive()
    other.close()
    assert found == [n.to_bytes(4, "big") * (1 + n * n % 5000) for n in range(len(found))]
    assert len(found) == 3000 if kill_after is None else len(found) >= kill_after
