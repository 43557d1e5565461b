"""Control channels: messages and descriptors arrive whole, once, or not at all; nothing that arrives does harm."""

from __future__ import annotations

import array
import gc
import os
import resource
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from helpers import eventually

from spworkers import channel as channel_module
from spworkers import packet as packet_module
from spworkers.channel import INLINE_LIMIT, Channel, Packet, anonymous_file, close_fds
from spworkers.errors import (
    ChannelClosedError,
    ClosedError,
    ConnTimeoutError,
    GarbledError,
    InternalError,
    ResourceError,
    SerializationError,
)
from spworkers.messages import MESSAGE_LIMIT, BadPacketError, DescriptorsLostError, answer, encode

BOUND = 20.0  # seconds; nothing takes that long
STOP = {"t": "stop", "grace": 1.5}
Pair = tuple[Channel, Channel]


def open_fds() -> set[int]:
    directory = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    found = {int(name) for name in os.listdir(directory)}
    return {fd for fd in found if os.path.lexists(f"{directory}/{fd}")}


@pytest.fixture(autouse=True)
def _nothing_left_open() -> Iterator[None]:
    gc.collect()
    before = open_fds()
    yield
    assert open_fds() <= before


@pytest.fixture(params=["native", "datagrams"])
def pair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    """Two ends; also of the kind of socket that there is on systems without SOCK_SEQPACKET."""
    if request.param == "datagrams":
        monkeypatch.setattr(channel_module, "KIND", socket.SOCK_DGRAM)
    one, other = Channel.pair()
    with one, other:
        yield one, other


@pytest.fixture
def ends() -> Iterator[Pair]:
    one, other = Channel.pair()
    with one, other:
        yield one, other


def throw(end: Channel, data: bytes, fds: list[int] | None = None) -> None:
    """Send bytes that no channel would send."""
    with socket.socket(fileno=os.dup(end.fileno())) as sock:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sock.sendmsg([data], ancillary)


# --- What arrives


def test_a_message_arrives(pair: Pair) -> None:
    one, other = pair
    one.send(STOP)
    other.send(answer(1, {"x": [None, b"\xff", "\udcff"]}))
    assert other.recv() == (STOP, [])
    received = one.recv()
    assert (received.message["value"], received.fds) == ({"x": [None, b"\xff", "\udcff"]}, [])


def test_messages_stay_apart_and_in_order(pair: Pair) -> None:
    one, other = pair
    for number in range(100):
        one.send(answer(number))
    assert [other.recv().message["id"] for _ in range(100)] == list(range(100))


def test_descriptors_arrive_and_are_not_inherited(pair: Pair) -> None:
    one, other = pair
    read, write = os.pipe()
    one.send(answer(1), [read, write])
    close_fds([read, write])
    _, fds = other.recv()
    assert not any(os.get_inheritable(fd) for fd in fds)
    os.write(fds[1], b"x")
    assert os.read(fds[0], 1) == b"x"
    close_fds(fds)


def test_so_many_descriptors_and_no_more(pair: Pair) -> None:
    one, other = pair
    one.send(answer(1, b"x" * 100_000), [0] * 250)
    message, fds = other.recv()
    assert (len(message["value"]), len(fds)) == (100_000, 250)
    close_fds(fds)
    with pytest.raises(InternalError, match="251 descriptors"):
        one.send(answer(1), [0] * 251)


@pytest.mark.parametrize("size", [INLINE_LIMIT - 100, INLINE_LIMIT, INLINE_LIMIT + 100, 5_000_000])
def test_big_messages_go_another_way(pair: Pair, size: int) -> None:
    one, other = pair
    value = os.urandom(size)
    one.send(answer(1, value), [0])
    message, fds = other.recv()
    assert message == answer(1, value)
    assert len(fds) == 1
    close_fds(fds)


def test_a_packet_that_the_system_finds_too_big_goes_the_other_way(pair: Pair) -> None:
    one, other = pair
    packet = Packet(answer(1, b"x" * 1_000_000), [0], inline=10_000_000)
    assert len(packet.fds) == 1
    assert one.transmit(packet)
    assert len(packet.fds) == 2
    packet.close()
    message, fds = other.recv()
    assert len(message["value"]) == 1_000_000
    close_fds(fds)


def test_files_without_memfd(ends: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    one, other = ends
    one.send(answer(1, b"x" * 200_000))
    assert len(other.recv().message["value"]) == 200_000


def test_there_is_a_limit(ends: Pair) -> None:
    with pytest.raises(SerializationError, match="is the limit"):
        ends[0].send(answer(1, bytes(MESSAGE_LIMIT)))


# --- Waiting, and not waiting


def test_nothing_is_there(pair: Pair) -> None:
    assert pair[1].recv_ready() is None
    pair[0].send(STOP)
    assert pair[1].recv_ready() == (STOP, [])
    assert pair[1].recv_ready() is None


def test_a_full_channel(pair: Pair) -> None:
    one, other = pair
    sent = 0
    while one.try_send(answer(sent, b"x" * 5000)):
        sent += 1
    assert sent >= 10
    with pytest.raises(ConnTimeoutError, match="sending"):
        one.send(STOP, timeout=0.05)
    for number in range(sent):
        assert other.recv().message["id"] == number
    assert one.try_send(STOP)
    assert other.recv().message == STOP


def test_send_waits_for_room(pair: Pair) -> None:
    one, other = pair
    sent = 0
    while one.try_send(answer(sent)):
        sent += 1
    reader = threading.Thread(target=lambda: [other.recv() for _ in range(sent)])
    reader.start()
    one.send(STOP, timeout=20.0)
    reader.join()
    assert other.recv(timeout=20.0).message == STOP


def test_recv_times_out(pair: Pair) -> None:
    with pytest.raises(ConnTimeoutError, match="receiving"):
        pair[0].recv(timeout=0.05)
    with pytest.raises(ConnTimeoutError):
        pair[0].recv(timeout=0)
    pair[1].send(STOP)
    assert pair[0].recv(timeout=0).message == STOP


def test_recv_waits_for_a_message(pair: Pair) -> None:
    one, other = pair
    timer = threading.Timer(0.05, lambda: one.send(STOP))
    timer.start()
    assert other.recv(timeout=20.0).message == STOP
    timer.join()


@pytest.mark.parametrize("blocking", [True, False])
def test_the_mode_of_the_open_file_is_of_no_account(ends: Pair, blocking: bool) -> None:
    # It belongs to every duplicate in every process; somebody's event loop may have set it.
    one, other = ends
    os.set_blocking(other.fileno(), blocking)
    assert other.recv_ready() is None
    timer = threading.Timer(0.05, lambda: one.send(STOP))
    timer.start()
    assert other.recv().message == STOP
    timer.join()


def test_an_interruption_ends_the_waiting(ends: Pair) -> None:
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        ends[0].recv()
    assert time.monotonic() - began < 5.0
    timer.join()


def test_a_signals_handler_may_use_the_channel_that_it_interrupts(ends: Pair) -> None:
    one, other = ends
    main = threading.main_thread().ident
    assert main is not None
    over = threading.Event()
    sent: list[object] = []  # a count could miss some: a handler may be interrupted by the next one
    got = 0

    def handle(*_: object) -> None:
        if other.try_send(STOP):  # it may find the channel full: nobody reads while it runs
            sent.append(None)

    def interrupt() -> None:
        while not over.wait(0.001):
            signal.pthread_kill(main, signal.SIGUSR1)

    interrupter = threading.Thread(target=interrupt)
    # Not by a timer and SIGALRM: those are what ends a test that hangs.
    former = signal.signal(signal.SIGUSR1, handle)
    try:
        interrupter.start()
        deadline = time.monotonic() + BOUND
        n = 0
        while n < 200 or len(sent) < 50:
            assert time.monotonic() < deadline
            if other.try_send(answer(n)):
                n += 1
            while (received := one.recv_ready()) is not None:
                got += received.message["t"] == "stop"
    finally:
        over.set()
        interrupter.join()
        signal.signal(signal.SIGUSR1, former)
    while (received := one.recv_ready()) is not None:
        got += received.message["t"] == "stop"
    assert got == len(sent)


def test_threads_share_a_channel(ends: Pair) -> None:
    one, other = ends
    got: list[int] = []

    def send(start: int) -> None:
        for number in range(start, start + 200):
            one.send(answer(number))

    def receive() -> None:
        got.extend(other.recv(timeout=20.0).message["id"] for _ in range(200))

    threads = [threading.Thread(target=send, args=(i * 1000,)) for i in range(3)]
    threads += [threading.Thread(target=receive) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == [start + i for start in (0, 1000, 2000) for i in range(200)]


# --- Ends


def test_the_end_comes_after_everything_that_was_sent(ends: Pair) -> None:
    one, other = ends
    one.send(answer(1))
    one.send(answer(2))
    one.close()
    assert [other.recv().message["id"] for _ in range(2)] == [1, 2]
    for _ in range(2):
        with pytest.raises(ChannelClosedError, match="other end is gone"):
            other.recv()
    with pytest.raises(EOFError):
        other.recv_ready()


def test_so_it_does_when_the_other_end_left_something_unread(ends: Pair) -> None:
    # Linux tells that first, as ECONNRESET: whoever took this for the end would lose what comes after.
    one, other = ends
    other.send(STOP)
    one.send(answer(1))
    one.close()
    assert other.recv().message["id"] == 1
    with pytest.raises(ChannelClosedError):
        other.recv()


def test_a_reset_that_stays_is_the_end(ends: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on systems whose datagram sockets tell the end so.
    class Reset:
        def recvmsg(self, *args: object) -> Any:
            raise ConnectionResetError(104, "reset")

    with pytest.raises(ChannelClosedError):
        packet_module.receive(Reset())  # type: ignore[arg-type]


def test_sending_to_nobody(pair: Pair) -> None:
    one, other = pair
    other.close()
    with pytest.raises(ChannelClosedError):
        one.send(STOP)
    with pytest.raises(ChannelClosedError):
        one.try_send(answer(1), [0])


def test_a_closed_channel(pair: Pair) -> None:
    one, _ = pair
    assert not one.closed
    assert repr(one) == f"<Channel on descriptor {one.fileno()}>"
    one.close()
    one.close()
    assert one.closed
    assert one.fileno() == -1
    assert repr(one) == "<Channel closed>"
    for call in (lambda: one.send(STOP), lambda: one.try_send(STOP), one.recv, one.recv_ready):
        with pytest.raises(ClosedError):
            call()


def test_closing_ends_the_waiting_of_another_thread(ends: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "_POLL_SLICE", 0.05)
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            ends[0].recv()
        except ClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0)
    ends[0].close()
    thread.join(10.0)
    assert errors


def test_a_closed_descriptor_cannot_go_along(ends: Pair) -> None:
    read, write = os.pipe()
    close_fds([read, write])
    with pytest.raises(ClosedError, match="a descriptor that goes with it"):
        ends[0].send(answer(1), [read])


def test_closing_in_a_forked_child_needs_no_lock(ends: Pair) -> None:
    one, _ = ends
    holder = threading.Thread(target=one._lock.acquire)
    holder.start()
    holder.join()  # held for ever, by a thread that is gone
    one.close_in_child()
    assert one.closed
    one.close()


def test_a_descriptor_becomes_a_channel(ends: Pair) -> None:
    one, other = ends
    fd = one.detach()
    assert one.closed
    with Channel.from_fd(fd) as again:
        again.send(STOP)
        assert other.recv().message == STOP
    read, write = os.pipe()
    with pytest.raises(BadPacketError, match="is no control channel"):
        Channel.from_fd(read)
    with socket.socket() as tcp:
        with pytest.raises(BadPacketError, match="of another kind"):
            Channel.from_fd(tcp.fileno())
        assert tcp.fileno() in open_fds()
    close_fds([read, write])


def test_no_descriptors_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "socketpair", full)
    with pytest.raises(ResourceError, match="no descriptor is left for a control channel"):
        Channel.pair()
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ResourceError, match="cannot put a message of 3 bytes into a file"):
        anonymous_file(b"abc")


# --- Hostile packets


def refused(end: Channel, match: str) -> None:
    before = open_fds()
    with pytest.raises(GarbledError, match=match):
        end.recv(timeout=10.0)
    assert open_fds() <= before


@pytest.mark.parametrize("fds", [0, 3])
@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"\xc1", "no msgpack"),
        (os.urandom(1) + b"\xc1" * 500, "no msgpack"),
        (msgpack.packb([1]), "no map"),
        (msgpack.packb({"v": 2, "t": "recycle"}), "version 2"),
        (msgpack.packb({"v": 1, "t": "nonsense"}), "no message type 'nonsense'"),
        (msgpack.packb({"v": 1, "t": "listen", "key": "one"}), "listen"),
        (b"x" * (INLINE_LIMIT + 10), "more than 61440 bytes"),
        (encode({"t": "client", "key": "k"}, 1), "'client' with"),
        (msgpack.packb({"v": 1, "t": "@file"}), "@file"),
    ],
)
def test_garbage(ends: Pair, data: bytes, match: str, fds: int) -> None:
    one, other = ends
    throw(one, data, [0] * fds)
    one.send(STOP)
    refused(other, match)
    assert other.recv().message == STOP  # the next packet is another matter


def test_an_empty_packet_is_the_end_and_its_descriptors_are_closed(ends: Pair) -> None:
    throw(ends[0], b"", [0, 1])
    before = open_fds()
    with pytest.raises(ChannelClosedError):
        ends[1].recv()
    assert open_fds() <= before


def file_packet(size: int, fds: int = 1) -> bytes:
    return encode({"t": "@file", "size": size}, fds)


def test_files_that_are_not_what_they_should_be(ends: Pair) -> None:
    one, other = ends
    inner = encode(answer(1, b"x"))
    read, write = os.pipe()
    short, good = anonymous_file(b"x" * 10), anonymous_file(inner)
    nested, garbage = anonymous_file(file_packet(10)), anonymous_file(b"\xc1" * 10)
    directory = os.open("/", os.O_RDONLY)
    unreadable = os.open("/dev/null", os.O_WRONLY)
    for file, size in [
        (short, 11),
        (short, 0),
        (good, len(inner) - 1),
        (good, MESSAGE_LIMIT + 1),
        (good, 2**63),
        (garbage, 10),
        (read, 10),
        (directory, 10),
        (unreadable, 10),
        (0, 10),
    ]:
        throw(one, file_packet(size), [file])
        refused(other, "control message")
    throw(one, file_packet(len(file_packet(10))), [nested])
    refused(other, "'@file' with 0 descriptors")
    throw(one, file_packet(len(file_packet(10)), 2), [nested, 0])
    refused(other, "file inside a file")
    throw(one, file_packet(len(inner), 2), [good, 0])  # a descriptor more: an answer may have that
    message, fds = other.recv()
    assert (message, len(fds)) == (answer(1, b"x"), 1)
    close_fds([*fds, read, write, short, good, nested, garbage, directory, unreadable])


def test_a_file_that_is_shortened_while_it_is_read(ends: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = ends
    file = anonymous_file(b"x" * 100)
    throw(one, file_packet(100), [file])
    pread = os.pread

    def slow(fd: int, size: int, offset: int) -> bytes:
        os.ftruncate(file, 50)
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", slow)
    refused(other, "was shortened")
    throw(one, file_packet(10), [file])

    def broken(fd: int, size: int, offset: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    refused(other, "cannot be read")
    os.close(file)


def test_descriptors_for_which_there_is_no_room(ends: Pair) -> None:
    one, other = ends
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = open_fds()
    one.send({"t": "keep", "id": 7, "name": "n", "blob": b""}, [0] * 20)
    one.send(answer(8), [0] * 20)
    one.send(STOP)
    free = [number for number in range(1000) if number not in before]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[4], hard))
    try:
        with pytest.raises(DescriptorsLostError, match="raise `ulimit -n`") as asked:
            other.recv()
        with pytest.raises(DescriptorsLostError) as answered:
            other.recv()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (asked.value.request_id, asked.value.answered_id) == (7, None)
    assert (answered.value.request_id, answered.value.answered_id) == (None, 8)
    assert isinstance(asked.value, ResourceError)
    assert open_fds() <= before
    assert other.recv().message == STOP


def test_it_can_be_polled(pair: Pair) -> None:
    one, other = pair
    poll = select.poll()
    poll.register(other, select.POLLIN)
    assert not poll.poll(0)
    one.send(STOP)
    assert eventually(lambda: poll.poll(0)) == [(other.fileno(), select.POLLIN)]
    other.recv()
