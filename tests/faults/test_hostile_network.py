"""Garbage, half handshakes, huge lengths and silence: that pipe is closed and counted, everything else goes on."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Iterator

import psutil
import pytest
from helpers import eventually
from sockets.kit import BOUND, REP, REQ, ask, background, drops, inproc, request_id, serve, wait_pipes

import spworkers as sp
from spworkers.testing import RawListener, RawPeer, greeting


@contextlib.contextmanager
def server_and_client(address: str = "tcp://127.0.0.1:0", **options: object) -> Iterator[tuple[sp.Rep, sp.Req]]:
    """A server with a well-behaved client, who is answered before and after."""
    with sp.Rep(listen=address, **options) as rep:  # type: ignore[arg-type]
        with sp.Req(dial=rep.listeners[0].address) as req:
            answered(rep, req)
            pipe = rep.pipes[0].id
            yield rep, req
            answered(rep, req)
            assert pipe in [each.id for each in rep.pipes], "the good client was disconnected"


def answered(rep: sp.Rep, req: sp.Req) -> None:
    served = serve(rep)
    assert ask(req, b"good") == b"GOOD"
    served.result(BOUND)


BAD_GREETINGS = {
    "nothing": b"",
    "one byte": b"\0",
    "half": b"\0SP\0",
    "all but one byte": greeting(REQ)[:7],
    "another version": b"\0SP\1\0\x30\0\0",
    "reserved bytes": b"\0SP\0\0\x30\0\1",
    "not ours": b"GET / HTTP/1.1\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\0\x01\0\x01",
    "zeros": bytes(8),
    "ones": b"\xff" * 8,
    "our own protocol": greeting(REP),
    "another protocol": greeting(0x50),
    "an unknown protocol": greeting(0xFFFF),
    "a wrong last byte of three": b"\0Sp\0\0\x30\0\0",
}


@pytest.mark.parametrize("words", BAD_GREETINGS.values(), ids=BAD_GREETINGS)
@pytest.mark.parametrize("scheme", ["tcp", "ipc"])
def test_a_bad_handshake_is_counted_and_hurts_nobody(scheme: str, words: bytes, tmp_path: object) -> None:
    address = "tcp://127.0.0.1:0" if scheme == "tcp" else f"ipc://{tmp_path}/s"
    with server_and_client(address, handshake_timeout=0.3) as (rep, _):
        with RawPeer.dial(rep.listeners[0].address) as wire:
            wire.write(words)
            assert wire.ended()
        eventually(lambda: rep.stats()["bad_handshakes"] == 1)
        assert len(rep.pipes) == 1


@pytest.mark.parametrize("words", [b"", b"\0SP", greeting(REQ)], ids=["silence", "half a handshake", "a handshake"])
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_caller_that_hangs_up_early_hurts_nobody(words: bytes, how: str) -> None:
    with server_and_client() as (rep, _):
        for _ in range(10):
            wire = RawPeer.dial(rep.listeners[0].address)
            wire.write(words)
            wire.reset() if how == "reset" else wire.sock.close()
        wait_pipes(rep)


def test_a_crowd_of_silent_callers_holds_up_nobody() -> None:
    with server_and_client() as (rep, _):
        wires = [RawPeer.dial(rep.listeners[0].address) for _ in range(200)]
        with sp.Req(dial=rep.listeners[0].address) as late:
            answered(rep, late)
        for wire in wires:
            wire.sock.close()
        eventually(lambda: rep.stats()["bad_handshakes"] == 200)


def ends_the_pipe(rep: sp.Rep, words: bytes, cause: str) -> None:
    with RawPeer.dial(rep.listeners[0].address, REQ) as wire:
        wire.write(words)
        assert wire.ended()
    eventually(lambda: drops(rep) == {cause: 1})


HUGE = {
    "just too long": (1 << 20) + 1,
    "a gigabyte": 1 << 30,
    "an exabyte": 1 << 60,
    "the largest": (1 << 63) - 1,
}


@pytest.mark.parametrize("size", HUGE.values(), ids=HUGE)
def test_a_huge_length_closes_the_pipe_before_any_memory_is_taken(size: int) -> None:
    with server_and_client() as (rep, _):
        process = psutil.Process(rep.stats()["pid"])
        before = process.memory_info().rss
        ends_the_pipe(rep, size.to_bytes(8, "big") + request_id(1), "too_long")
        assert process.memory_info().rss - before < 16 << 20


@pytest.mark.parametrize("size", [1 << 63, (1 << 64) - 1])
def test_a_negative_length_is_garbage(size: int) -> None:
    with server_and_client() as (rep, _):
        ends_the_pipe(rep, size.to_bytes(8, "big"), "garbled")


@pytest.mark.parametrize("size", [1 << 40, 1 << 62])
def test_a_length_that_no_machine_has_is_refused_also_without_a_limit(size: int) -> None:
    with server_and_client(max_rcv_size=0) as (rep, _):
        ends_the_pipe(rep, size.to_bytes(8, "big") + bytes(100), "too_long")


def test_a_long_message_that_never_ends_holds_up_nobody() -> None:
    with server_and_client() as (rep, req):
        with RawPeer.dial(rep.listeners[0].address, REQ) as wire:
            wire.write((1 << 20).to_bytes(8, "big") + request_id(1) + bytes(1000))
            for _ in range(5):
                answered(rep, req)
        wait_pipes(rep)


def test_the_wrong_type_byte_of_ipc_closes_the_pipe(tmp_path: object) -> None:
    with server_and_client(f"ipc://{tmp_path}/s") as (rep, _):
        ends_the_pipe(rep, b"\2" + (8).to_bytes(8, "big") + request_id(1) + b"body", "garbled")


@pytest.mark.parametrize("payload", [b"", b"\0", b"\0\0\0", bytes(4), b"\x7f\xff\xff\xff" * 3])
def test_a_request_that_is_none_closes_the_pipe(payload: bytes) -> None:
    with server_and_client() as (rep, _):
        ends_the_pipe(rep, len(payload).to_bytes(8, "big") + payload, "garbled")


def test_random_bytes_hurt_nobody() -> None:
    chance = random.Random(1)
    with server_and_client(handshake_timeout=0.5) as (rep, req):
        for turn in range(60):
            with RawPeer.dial(rep.listeners[0].address) as wire, contextlib.suppress(OSError):
                if turn % 2:
                    wire.write(greeting(REQ))
                wire.write(chance.randbytes(chance.choice((1, 7, 8, 100, 5000))))
                if turn % 3 == 0:
                    wire.reset()
        answered(rep, req)
        wait_pipes(rep)


def test_frames_in_the_smallest_pieces_arrive_whole() -> None:
    with server_and_client() as (rep, _), RawPeer.dial(rep.listeners[0].address) as wire:
        wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in greeting(REQ) + (9).to_bytes(8, "big") + request_id(1) + b"bytes":
            wire.write(bytes([byte]))
        assert rep.recv(timeout=BOUND) == b"bytes"
        rep.send(b"reply")
        assert wire.read(8) == greeting(REP)
        assert wire.recv() == request_id(1) + b"reply"


def test_many_frames_in_one_piece_are_all_seen() -> None:
    with server_and_client() as (rep, _), RawPeer.dial(rep.listeners[0].address) as wire:
        frames = b"".join((5).to_bytes(8, "big") + request_id(n) + b"%d" % n for n in range(8))
        wire.write(greeting(REQ) + frames)
        for number in range(8):
            assert rep.recv(timeout=BOUND) == b"%d" % number


def test_a_peer_that_sends_on_after_the_pipe_was_closed_hurts_nobody() -> None:
    with server_and_client() as (rep, _):
        with RawPeer.dial(rep.listeners[0].address, REQ) as wire, contextlib.suppress(OSError):
            wire.write((1 << 62).to_bytes(8, "big"))
            for _ in range(100):
                wire.write(bytes(100_000))
        eventually(lambda: drops(rep) == {"too_long": 1})


def test_two_big_messages_to_a_peer_that_stops_reading_and_hangs_up() -> None:
    with server_and_client(max_rcv_size=0) as (rep, _):
        with RawPeer.dial(rep.listeners[0].address, REQ) as wire:
            wire.send(request_id(0))
            rep.recv(timeout=BOUND)
            rep.send(bytes(2 << 20), timeout=BOUND)
            wire.send(request_id(1))
            rep.recv(timeout=BOUND)
            # It waits where the kernel did not take the first one whole: a reply is handed over (WRITEQ-LEN 0).
            second = background(rep.send, bytes(2 << 20), timeout=BOUND)
        second.result(BOUND)
        wait_pipes(rep)
        eventually(lambda: sum(drops(rep).values()) >= 1)


@pytest.mark.parametrize(
    "words", [b"", b"\0", bytes(7), (9).to_bytes(8, "big") + b"half", (5).to_bytes(8, "big") + request_id(1) + b"x"]
)
@pytest.mark.parametrize("how", ["close", "reset", "close with unread bytes"])
def test_a_peer_that_hangs_up_leaves_no_pipe_behind(words: bytes, how: str) -> None:
    """Unread bytes make the kernel send a reset, which overtakes nothing that came before it."""
    with server_and_client(max_rcv_size=0) as (rep, _):
        for _ in range(5):
            with RawPeer.dial(rep.listeners[0].address) as wire:
                wire.write(greeting(REQ) + words)
                if how != "close with unread bytes":
                    wire.read(8)
                if how == "reset":
                    wire.reset()
        wait_pipes(rep)
        for _ in range(5 if words[7:8] == b"\5" else 0):
            with contextlib.suppress(sp.RecvTimeoutError):  # those that were reset may have come, or not
                rep.recv(timeout=0.2)
                rep.send(b"to nobody")


# ---- at the dialling side


SERVERS: dict[str, tuple[bytes, type[sp.SPError]]] = {
    "garbage": (b"HTTP/1.1 400 Bad Request\r\n", sp.BadHeaderError),
    "another version": (b"\0SP\7\0\x31\0\0", sp.BadVersionError),
    "another protocol": (greeting(0x21), sp.BadProtoError),
    "half": (b"\0SP\0", sp.ConnTimeoutError),
    "nothing": (b"", sp.ConnTimeoutError),
}


@pytest.mark.parametrize(("words", "error"), SERVERS.values(), ids=SERVERS)
def test_dialling_a_bad_server_says_what_is_bad(words: bytes, error: type[sp.SPError]) -> None:
    with RawListener() as server, sp.Req(handshake_timeout=0.3) as req:
        dialing = background(req.dial, server.address)
        with server.accept() as wire:
            wire.write(words)
            caught = dialing.exception(BOUND)
            assert isinstance(caught, error)
            assert server.address in str(caught) or "peer" in str(caught) or "handshake" in str(caught)
        assert req.stats()["bad_handshakes"] == 1


def test_a_server_that_hangs_up_at_once_is_dialled_again_and_again() -> None:
    with RawListener() as server, sp.Req(reconnect_time=0.005) as req:
        req.dial(server.address, dial_asynch=True)
        for turn in range(10):
            wire = server.accept(REP if turn % 2 else None)
            wire.reset() if turn % 3 else wire.sock.close()
        with server.accept(REP) as wire:
            req.send(b"x", timeout=BOUND)
            frame = wire.recv()
            wire.send(frame[:4] + b"y")
            assert req.recv(timeout=BOUND) == b"y"


def test_a_server_that_answers_garbage_is_closed_and_another_gets_the_request() -> None:
    with RawListener() as bad, sp.Rep(listen=inproc()) as good, sp.Req(reconnect_time=BOUND) as req:
        req.dial(bad.address, dial_asynch=True)
        with bad.accept(REP) as wire:
            req.send(b"x", timeout=BOUND)
            wire.recv()
            req.dial(good.listeners[0].address)
            wire.write((1 << 63).to_bytes(8, "big"))
            served = serve(good)
            assert req.recv(timeout=BOUND) == b"X"
            served.result(BOUND)
        assert drops(req) == {"garbled": 1}


def test_running_out_of_descriptors_is_survived() -> None:
    program = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (80, 4096))
rep = sp.Rep(listen="tcp://127.0.0.1:0")
say(address=rep.listeners[0].address)
for body in rep:
    rep.send(body.upper())
    if body == b"end":
        break
say(drops=rep.stats()["drops"])
rep.close()
"""
    from faults.program import Program

    with Program(program) as user:
        address = user.hear()["address"]
        with sp.Req(dial=address) as req:
            assert ask(req, b"x") == b"X"
            wires = [RawPeer.dial(address, None) for _ in range(150)]
            assert ask(req, b"y") == b"Y"
            for wire in wires:
                wire.sock.close()
            with sp.Req(dial=address) as late:
                assert ask(late, b"z") == b"Z"
            assert ask(req, b"end") == b"END"
        assert isinstance(user.hear()["drops"], dict)
        assert user.wait() == 0
    assert os.getpid()


def test_a_flood_of_connections_finds_the_limit_and_the_good_client_stays() -> None:
    """MAX-PIPES, against those who shake hands well; the good client loses nothing, and a free place is taken."""
    with server_and_client(max_pipes=20) as (rep, _):
        wires = [RawPeer.dial(rep.listeners[0].address) for _ in range(60)]
        for wire in wires:
            wire.sock.sendall(greeting(REQ))
        eventually(lambda: drops(rep).get("listener_full") == 41, BOUND)
        assert len(rep.pipes) == 20
        assert rep.stats()["refused"] == 41
        assert rep.stats()["bad_handshakes"] == 0
        for wire in wires:
            wire.close()
        wait_pipes(rep)
        with sp.Req(dial=rep.listeners[0].address) as late:
            answered(rep, late)


def test_the_limit_is_of_one_listener_and_live() -> None:
    with sp.Rep(listen=["tcp://127.0.0.1:0", inproc()]) as rep:
        tcp, inside = rep.listeners
        tcp.max_pipes = 1
        with sp.Req(dial=tcp.address), sp.Req(dial=inside.address), sp.Req(dial=inside.address):
            with sp.Req() as other, pytest.raises(sp.ConnResetError):
                other.dial(tcp.address)
            tcp.max_pipes = 0
            with sp.Req(dial=tcp.address):
                wait_pipes(rep, 4)
        inside.accept_rate = 1000
        assert (inside.accept_rate, rep.accept_rate, rep.max_handshakes) == (1000, 0, 1024)
        with sp.Req(dial=inside.address) as req:
            answered(rep, req)
