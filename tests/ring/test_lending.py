"""Large bodies that are lent: copied by the other side from where they lie, and given back when it has gone past."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ring.support import everything
from spworkers.errors import GarbledError, TooLongError
from spworkers.ring import (
    CONDUIT,
    Conduit,
    Inlet,
    Outlet,
    Receiver,
    Region,
    Sender,
    conduit_memory,
    make_bell,
)

pytestmark = pytest.mark.skipif(not CONDUIT, reason="no sealed memory on this system")

HEAD = 65536
TAIL_AT, HEAD_AT = 0, 128
LARGE = 40_000
LENT_MOST = 2 << 20
BORROW_MOST = 256 << 10
LENT = 1 << 63
BOUND = 20.0


class Lane:
    """A socket's memory with both ends of the lane that its user sends into."""

    def __init__(self, budget: int = 16 << 20) -> None:
        self.bells = [make_bell(), make_bell()]
        self.region = Region.create(budget)
        segment = self.region.segment(0)
        self.sender = Sender(segment, *self.bells)
        self.sender.window = 1000
        self.outlet = Outlet(segment, self.bells[0])

    def close(self) -> None:
        self.sender.unhook(own=True)
        for bell in self.bells:
            os.close(bell)


class Ends:
    """A pipe, of which the first end lends from its lane."""

    def __init__(self, max_size: int = 0, borrows: bool = True) -> None:
        self.lane = Lane()
        self.one, self.other = socket.socketpair()
        for each in (self.one, self.other):
            each.setblocking(False)
        self.memory = conduit_memory()
        self.first = Conduit(self.memory, self.one.fileno(), True)
        self.second = Conduit(self.memory, self.other.fileno(), False)
        if borrows:
            self.second.borrow(self.lane.region.fd)
            self.first.lends = self.lane.region
        self.writer, self.reader = self.first.writer(), self.second.reader(max_size)

    def send(self, body: bytes, prefix: bytes = b"") -> int:
        """As an I/O process does: from the lane into the pipe's queue. Returns the message's ticket."""
        ticket = self.lane.sender.publish(body)
        assert ticket
        self.writer.take(self.lane.outlet, prefix, 1 << 40)
        return ticket

    def held(self, ticket: int) -> bool:
        return self.lane.sender.state(ticket) == 3

    def in_ring(self) -> int:
        return int.from_bytes(os.pread(self.memory, 8, TAIL_AT), "little")

    def rung(self, sock: socket.socket) -> bool:
        return bool(select.select([sock], [], [], 0)[0])

    def close(self) -> None:
        self.writer.discard()
        os.close(self.memory)
        self.one.close()
        self.other.close()
        self.lane.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    with closing(Ends()) as made:
        yield made


# --- What is lent, and for how long


def test_a_large_body_stays_where_it_is_until_it_was_read(ends: Ends) -> None:
    body = os.urandom(LARGE)
    ticket = ends.send(body)
    assert ends.writer.flush()
    assert ends.in_ring() < 100
    assert ends.held(ticket)
    assert (ends.writer.queued, ends.writer.pending, ends.writer.frames) == (1, 0, 0)
    assert everything(ends.reader) == [body]
    assert ends.held(ticket), "nobody has looked yet"
    assert ends.writer.flush()
    assert not ends.held(ticket)
    assert (ends.writer.queued, ends.writer.frames) == (0, 1)
    assert ends.writer.sent == ends.reader.received == 8 + LARGE


def test_what_a_protocol_puts_before_it_goes_along(ends: Ends) -> None:
    ends.send(b"x" * LARGE, b"\x80\0\0\1")
    ends.writer.flush()
    assert everything(ends.reader) == [b"\x80\0\0\1" + b"x" * LARGE]
    assert ends.writer.flush()
    assert ends.writer.sent == ends.reader.received == 12 + LARGE


def test_it_is_copied_straight_to_where_it_is_delivered(ends: Ends) -> None:
    taker = Lane()
    inlet = Inlet(taker.region.segment(1), taker.bells[0])
    inlet.window = 10
    ends.reader.into = inlet
    ends.send(b"y" * LARGE)
    ends.writer.flush()
    landed = ends.reader.read()
    assert not isinstance(landed[0], bytes)
    assert inlet.offer_all(landed, 0, 7) == 1
    record = Receiver(taker.region.segment(1), *taker.bells).take()
    assert record is not None
    assert record.take_body() == b"y" * LARGE
    taker.close()


def test_nothing_is_lent_that_the_other_side_cannot_read() -> None:
    ends = Ends(borrows=False)
    body = os.urandom(LARGE)
    ends.send(body)
    assert ends.writer.flush()
    assert (ends.writer.queued, everything(ends.reader)) == (0, [body])
    ends.close()


def test_a_body_beyond_the_budget_goes_through_the_ring(ends: Ends) -> None:
    body = bytes(17 << 20)
    ends.send(body)
    found: list[bytes] = []
    while not ends.writer.flush():
        found += everything(ends.reader)
    assert ends.writer.queued == 0
    assert found + everything(ends.reader) == [body]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(st.integers(0, 3000), st.integers(30_000, 300_000), st.sampled_from(["flush", "read", "bytes"])),
        max_size=60,
    )
)
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
            elif step == "bytes":
                sent.append(os.urandom(50_000))
                ends.writer.push_bytes(sent[-1])
            else:
                sent.append(bytes([len(sent) % 251]) * int(step))
                ends.send(sent[-1], b"" if len(sent) % 3 else b"prefix")
                sent[-1] = (b"" if len(sent) % 3 else b"prefix") + sent[-1]
        while not ends.writer.flush():
            found += ends.reader.read()
        assert found + everything(ends.reader) == sent
        assert ends.writer.flush()
        assert ends.writer.queued == ends.writer.pending == ends.lane.sender.queued == 0
        assert ends.writer.sent == ends.reader.received == sum(8 + len(body) for body in sent)
    finally:
        ends.close()


# --- How much, and who is told


def test_so_much_is_lent_and_the_writer_is_rung_when_half_was_read(ends: Ends) -> None:
    count = 2 * LENT_MOST // (128 << 10)
    for number in range(count):
        ends.send(bytes([number]) * (128 << 10))
    assert not ends.writer.flush()
    assert ends.writer.pending == pytest.approx(LENT_MOST, abs=200 << 10)
    found = ends.reader.read()
    assert len(found) == BORROW_MOST // (128 << 10), "others have their turn, too"
    assert ends.reader.more == 1
    assert not ends.rung(ends.one)
    while not ends.rung(ends.one):
        assert ends.reader.more == 1
        found += ends.reader.read()
    assert len(found) == pytest.approx(count / 4, abs=2)
    ends.first.hush()
    while not ends.writer.flush():
        found += everything(ends.reader)
    assert [body[0] for body in found + everything(ends.reader)] == list(range(count))


def test_the_writer_is_rung_for_the_last_one(ends: Ends) -> None:
    everything(ends.reader)
    ends.send(bytes(LARGE))
    assert ends.writer.flush()
    assert not ends.rung(ends.one)
    ends.reader.read()
    assert ends.rung(ends.one)


def test_a_reader_that_rests_says_how_far_it_is(ends: Ends) -> None:
    for _ in range(20):
        ends.send(bytes(LARGE))
    assert ends.writer.flush()
    ends.reader.read()
    assert not ends.rung(ends.one)
    ends.second.rest()
    assert ends.rung(ends.one)
    ends.writer.flush()
    assert ends.writer.queued == 13
    ends.second.rest()
    ends.second.rest()
    ends.first.hush()
    assert not ends.rung(ends.one)


# --- Taken back


def test_a_pipe_that_is_given_up_counts_what_was_read(ends: Ends) -> None:
    tickets = [ends.send(bytes(LARGE)) for _ in range(10)]
    ends.writer.flush()
    assert len(ends.reader.read()) == 7
    assert ends.writer.discard() == 3
    assert not any(map(ends.held, tickets))
    assert ends.reader.read() == []
    assert (ends.reader.more, ends.reader.error, ends.reader.eof) == (2, None, True)


def test_a_block_that_holds_another_message_meanwhile(ends: Ends) -> None:
    ends.send(b"a" * LARGE)
    ends.writer.flush()
    ends.writer.discard()
    ends.lane.sender.publish(b"b" * LARGE)
    assert ends.reader.read() == []
    assert (ends.reader.frames, ends.reader.error, ends.reader.eof) == (0, None, True)


def test_memory_that_was_given_back_to_the_kernel(ends: Ends) -> None:
    ends.send(b"a" * LARGE)
    ends.writer.flush()
    ends.lane.region.punch(0)
    assert ends.reader.read() == []
    assert ends.reader.eof


def test_what_a_dead_peer_had_lent_is_read_to_the_end(ends: Ends) -> None:
    for _ in range(20):
        ends.send(b"z" * LARGE)
    ends.writer.flush()
    ends.one.close()
    ends.second.hush()
    assert ends.second.hung_up
    assert everything(ends.reader) == [b"z" * LARGE] * 20
    assert (ends.reader.more, ends.reader.error) == (2, None)


def churn(ends: Ends, line: socket.socket) -> None:
    """In each round lend bodies and take them back, and let others have their blocks; each body is of one letter.

    By turns the reader is told of them too late, has read one at least, or is at it.
    """
    number = 0
    while True:
        memory = conduit_memory()
        ends.first = Conduit(memory, ends.one.fileno(), True)
        ends.first.lends = ends.lane.region
        writer = ends.first.writer()
        turn = number % 3
        if turn:
            socket.send_fds(line, [b"n"], [memory])
        for _ in range(8):
            number += 1
            while not ends.lane.sender.publish(bytes([65 + number % 26]) * (64 << 10)):
                ends.lane.sender.queued
            writer.take(ends.lane.outlet, b"", 1 << 40)
            writer.flush()
        while turn == 1 and writer.queued == 8:
            writer.flush()
        writer.discard()
        if not turn:
            socket.send_fds(line, [b"n"], [memory])
        os.close(memory)


@pytest.mark.once
def test_no_body_is_ever_of_two_messages() -> None:
    """One process takes back what it has lent while another reads it, as the successor of a dead one may."""
    ends = Ends()
    line, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        try:
            line.close()
            churn(ends, theirs)
        finally:
            os._exit(1)  # there is nobody any more to send to
    theirs.close()
    line.settimeout(BOUND)
    whole = cut = 0
    try:
        for _ in range(100):
            _, fds, _, _ = socket.recv_fds(line, 1, 1)
            conduit = Conduit(fds[0], ends.other.fileno(), False)
            os.close(fds[0])
            conduit.borrow(ends.lane.region.fd)
            reader = conduit.reader()
            while reader.more != 2:
                for body in reader.read():
                    assert len(set(body)) == 1
                    whole += 1
                if select.select([line], [], [], 0)[0]:
                    break
            cut += reader.eof
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        line.close()
        ends.close()
    assert whole
    assert cut, "never was one taken back before it was read: this test shows nothing"


# --- A hostile other side


def loan(size: int, state: int, word: int, body: int, length: int, prefix: bytes = b"") -> bytes:
    return (size | LENT).to_bytes(8, "big") + struct.pack("<4Q", state, word, body, length) + prefix


SLOTS = 4096 + 65536 * 8
ARENA = SLOTS + 65536 * 256


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (loan(LARGE, 1, 0, 0, LARGE), GarbledError),  # not where a word can be
        (loan(LARGE, 1 << 40, 0, 0, LARGE), GarbledError),
        (loan(LARGE, (1 << 64) - 8, 0, 0, LARGE), GarbledError),
        (loan(LARGE, SLOTS, 0, 1 << 40, LARGE), GarbledError),
        (loan(LARGE, SLOTS, 0, (1 << 64) - 100, LARGE), GarbledError),
        (loan(LARGE, SLOTS, 0, 0, LARGE + 1), GarbledError),
        (loan(LARGE, SLOTS, 0, 0, (1 << 64) - 1), GarbledError),
        (loan(LARGE, SLOTS, 0, 0, LARGE - 4097), GarbledError),  # no header is so long
        (loan(100, SLOTS, 0, 0, 100), GarbledError),  # so small is not lent
        (loan((1 << 20) + 1, SLOTS, 0, 0, (1 << 20) + 1), TooLongError),
        (loan(LENT - 1, SLOTS, 0, 0, LENT - 1), TooLongError),
    ],
)
def test_loans_that_cannot_be(frame: bytes, error: type[Exception]) -> None:
    ends = Ends(max_size=1 << 20)
    os.pwrite(ends.memory, frame, HEAD)
    os.pwrite(ends.memory, len(frame).to_bytes(8, "little"), TAIL_AT)
    assert ends.reader.read() == []
    assert isinstance(ends.reader.error, error)
    assert ends.reader.more == 2
    ends.close()


def test_a_loan_to_who_cannot_borrow() -> None:
    ends = Ends(borrows=False)
    frame = loan(LARGE, SLOTS, 0, 0, LARGE)
    os.pwrite(ends.memory, frame, HEAD)
    os.pwrite(ends.memory, len(frame).to_bytes(8, "little"), TAIL_AT)
    assert ends.reader.read() == []
    assert isinstance(ends.reader.error, GarbledError)
    ends.close()


@pytest.mark.parametrize("there", [8, 39, 43])
def test_a_loan_of_which_a_part_is_there(there: int, ends: Ends) -> None:
    frame = loan(LARGE + 4, SLOTS, 0, ARENA, LARGE, b"head")
    os.pwrite(ends.memory, frame, HEAD)
    os.pwrite(ends.memory, there.to_bytes(8, "little"), TAIL_AT)
    assert ends.reader.read() == []
    assert ends.reader.more == 0
    os.pwrite(ends.memory, len(frame).to_bytes(8, "little"), TAIL_AT)
    assert ends.reader.read() == [b"head" + bytes(LARGE)], "a slot that nobody has used: generation 0, free"


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, (1 << 64) - 1) | st.integers(0, 300_000), min_size=4, max_size=4), st.integers(0, 1 << 20)
)
def test_whatever_is_lent_nothing_but_the_pipe_ends(words: list[int], size: int) -> None:
    ends = Ends(max_size=1 << 20)
    try:
        frame = (size | LENT).to_bytes(8, "big") + struct.pack("<4Q", *words) + bytes(5000)
        os.pwrite(ends.memory, frame, HEAD)
        os.pwrite(ends.memory, len(frame).to_bytes(8, "little"), TAIL_AT)
        assert all(len(body) <= 1 << 20 for body in ends.reader.read())
        assert ends.reader.error is None or isinstance(ends.reader.error, (GarbledError, TooLongError))
    finally:
        ends.close()


def test_a_head_that_gives_back_what_was_not_read(ends: Ends) -> None:
    """It can only be believed of a peer of the same user, and costs him alone."""
    ticket = ends.send(bytes(LARGE))
    ends.writer.flush()
    os.pwrite(ends.memory, ends.in_ring().to_bytes(8, "little"), HEAD_AT)
    ends.writer.flush()
    assert not ends.held(ticket)
    os.pwrite(ends.memory, (1 << 40).to_bytes(8, "little"), HEAD_AT)
    ends.send(bytes(LARGE))
    with pytest.raises(OSError, match="not in order"):
        ends.writer.flush()
    assert ends.writer.discard() == 1


def memfd(content: bytes, size: int, seals: int) -> int:
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    os.pwrite(fd, content, 0)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


MAGIC = b"SPwring1"
SHRINK = getattr(fcntl, "F_SEAL_SHRINK", 0)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: os.pipe()[0], "no sealed memory"),
        (lambda: os.open("/", os.O_RDONLY), "no sealed memory"),
        (lambda: memfd(MAGIC + bytes(16), 1 << 30, 0), "no sealed memory"),
        (lambda: memfd(b"", 1 << 30, SHRINK), "not the memory of a socket"),
        (lambda: memfd(b"", 0, SHRINK), "not the memory of a socket"),
        (lambda: memfd(MAGIC + bytes(16), 1 << 20, SHRINK), "not the memory of a socket"),
        (lambda: memfd(MAGIC + bytes(8) + b"\xff" * 8, 1 << 40, SHRINK), "not the memory of a socket"),
    ],
)
def test_what_nobody_can_borrow_from(make: object, error: str, ends: Ends) -> None:
    fd = make()  # type: ignore[operator]
    with pytest.raises((GarbledError, OSError), match=error):
        ends.second.borrow(fd)
    os.close(fd)
