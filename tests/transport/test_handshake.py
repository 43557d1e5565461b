"""The SP handshake: bytes and order of checks, and the coroutine on real sockets."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transport.support import PAIR, PULL, PUSH, Client, greeting, on_loops

from spworkers.errors import (
    BadHeaderError,
    BadProtoError,
    BadValueError,
    BadVersionError,
    ConnResetError,
    ConnTimeoutError,
    NetworkError,
    SPError,
    TLSError,
)
from spworkers.protocols import PROTOCOLS
from spworkers.transport.base import Link
from spworkers.transport.handshake import CAUSES, GREETING_SIZE, Handshake, cause_of, shake


def feed(handshake: Handshake, data: bytes, step: int = 8) -> bool:
    done = False
    for start in range(0, len(data), step):
        done = handshake.receive(data[start : start + step])
    return done


def test_the_bytes_are_those_of_the_captures() -> None:
    assert Handshake(0x50, 0x51).greeting == bytes.fromhex("0053500000500000")
    assert Handshake(0x640, 0x640).greeting == bytes.fromhex("0053500006400000")


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("step", [1, 3, 8])
def test_every_protocol_understands_its_peer(name: str, step: int) -> None:
    info = PROTOCOLS[name]
    mine, theirs = Handshake(info.number, info.peer_number), Handshake(info.peer_number, info.number)
    assert feed(mine, theirs.greeting, step)
    assert feed(theirs, mine.greeting, step)
    assert mine.done and mine.missing == 0


BAD = [
    ("0053510000510000", BadHeaderError),
    ("0153500000510000", BadHeaderError),
    ("0052500000510000", BadHeaderError),
    ("0053500000510001", BadHeaderError),
    ("0053500000510100", BadHeaderError),
    ("ffffffffffffffff", BadHeaderError),
    ("0000000000000000", BadHeaderError),
    ("474554202f204854", BadHeaderError),  # "GET / HT"
    ("1603010200010001", BadHeaderError),  # a TLS client
    ("0053500100510000", BadVersionError),
    ("005350ff00510000", BadVersionError),
    ("0053500000500000", BadProtoError),  # push
    ("0053500000000000", BadProtoError),
    ("005350000051ffff", BadHeaderError),
    ("0053500051000000", BadProtoError),  # in the wrong byte order
    # What is wrong in several ways gets the first of the errors in mangos's order.
    ("0053500100510001", BadHeaderError),
    ("0053500100500000", BadVersionError),
    ("0053500000500001", BadHeaderError),
]


@pytest.mark.parametrize(("text", "error"), BAD)
@pytest.mark.parametrize("step", [1, 8])
def test_bad_handshakes(text: str, error: type[SPError], step: int) -> None:
    with pytest.raises(error):
        feed(Handshake(PUSH, PULL), bytes.fromhex(text), step)


@given(st.binary(min_size=8, max_size=8), st.integers(1, 8))
def test_anything_else_is_one_of_three_errors_however_it_is_cut(data: bytes, step: int) -> None:
    outcomes = set()
    for size in (8, step):
        try:
            outcomes.add(feed(Handshake(PUSH, PULL), data, size))
        except (BadHeaderError, BadVersionError, BadProtoError) as error:
            outcomes.add(type(error))
    assert len(outcomes) == 1
    assert (True in outcomes) == (data == greeting(PULL))


def test_what_cannot_become_right_is_refused_at_once() -> None:
    with pytest.raises(BadHeaderError):
        Handshake(PUSH, PULL).receive(b"G")


def test_names_are_in_the_text() -> None:
    with pytest.raises(BadProtoError, match=r"speaks req \(0x30\).*only pull \(0x51\)"):
        Handshake(PUSH, PULL).receive(greeting(0x30))
    with pytest.raises(BadProtoError, match=r"unknown protocol \(0x1234\)"):
        Handshake(PUSH, PULL).receive(greeting(0x1234))


def test_it_never_takes_more_than_its_eight_bytes() -> None:
    handshake = Handshake(PAIR, PAIR)
    assert handshake.missing == GREETING_SIZE
    assert handshake.receive(greeting(PAIR)[:5]) is False
    assert handshake.missing == 3
    with pytest.raises(BadValueError):
        handshake.receive(b"\x10\0\0x")
    assert "3 bytes missing" in repr(handshake)
    assert handshake.receive(b"\x10\0\0") is True
    assert "done" in repr(handshake)


def test_every_failure_has_a_cause_to_count() -> None:
    errors = [
        BadHeaderError(),
        BadVersionError(),
        BadProtoError(),
        TLSError(),
        ConnTimeoutError(),
        ConnResetError(),
        NetworkError(),
    ]
    assert [cause_of(error) for error in errors] == list(CAUSES)
    assert cause_of(ValueError("whatever")) == "handshake_failed"


def pair() -> tuple[Link, Client]:
    ours, theirs = socket.socketpair()
    return Link(ours, "stream", remote="there"), Client(theirs)


@on_loops
async def test_the_driver_leaves_the_first_frame_alone() -> None:
    link, peer = pair()
    await peer.send(greeting(PAIR) + b"first frame")
    await shake(asyncio.get_running_loop(), link, Handshake(PAIR, PAIR))
    assert await peer.recv_exactly(8) == greeting(PAIR)
    assert link.sock.recv(100) == b"first frame"
    link.close()
    peer.close()


@on_loops
async def test_a_greeting_may_come_byte_by_byte() -> None:
    link, peer = pair()
    shaking = asyncio.ensure_future(shake(asyncio.get_running_loop(), link, Handshake(PUSH, PULL), 0))
    assert await peer.recv_exactly(8) == greeting(PUSH)  # at once: it does not wait for the other side's
    for byte in greeting(PULL):
        await peer.send(bytes([byte]))
        await asyncio.sleep(0)
    await shaking
    link.close()
    peer.close()


@on_loops
async def test_silence_ends_with_the_timeout() -> None:
    for sent in (b"", greeting(PAIR)[:7]):
        link, peer = pair()
        await peer.send(sent)
        with pytest.raises(ConnTimeoutError, match=f"there: {8 - len(sent)} of 8 bytes missing after 0.02 s"):
            await shake(asyncio.get_running_loop(), link, Handshake(PAIR, PAIR), 0.02)
        assert link.sock.fileno() == -1
        assert await peer.ended()
        peer.close()


@on_loops
async def test_a_peer_that_reads_nothing_ends_with_the_timeout() -> None:
    link, peer = pair()
    try:
        while True:
            link.sock.send(bytes(1 << 16))
    except BlockingIOError:
        pass
    with pytest.raises(ConnTimeoutError):
        await shake(asyncio.get_running_loop(), link, Handshake(PAIR, PAIR), 0.02)
    peer.close()


@on_loops
async def test_an_early_end_is_a_reset_connection() -> None:
    for sent in (b"", greeting(PAIR)[:7]):
        link, peer = pair()
        await peer.send(sent)
        peer.sock.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnResetError, match=f"there: .*after {len(sent)} of 8 bytes"):
            await shake(asyncio.get_running_loop(), link, Handshake(PAIR, PAIR))
        assert link.sock.fileno() == -1
        peer.close()


@on_loops
async def test_errors_of_the_system_are_mapped() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        link = Link(socket.create_connection(server.getsockname()), "stream", remote="there")
        peer, _ = server.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()  # a reset, not an end
        with pytest.raises(ConnResetError, match="handshake with there") as caught:
            await shake(asyncio.get_running_loop(), link, Handshake(PAIR, PAIR))
        assert isinstance(caught.value.__cause__, OSError)
        assert link.sock.fileno() == -1


@on_loops
async def test_a_mismatch_is_seen_by_both_sides() -> None:
    ours, theirs = (Link(sock, "stream") for sock in socket.socketpair())
    loop = asyncio.get_running_loop()
    outcomes = await asyncio.gather(
        shake(loop, ours, Handshake(PUSH, PULL)), shake(loop, theirs, Handshake(PAIR, PAIR)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [BadProtoError, BadProtoError]


@on_loops
async def test_a_cancelled_handshake_closes_its_link() -> None:
    link, peer = pair()
    shaking = asyncio.ensure_future(shake(asyncio.get_running_loop(), link, Handshake(PAIR, PAIR)))
    await peer.recv_exactly(8)
    shaking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await shaking
    assert link.sock.fileno() == -1
    peer.close()
