"""Large messages on their way to one lane from several peers: in order, whole, and nobody is held up by who is slow."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from sockets.kit import BOUND, background, drops, wait_pipes

import spworkers as sp
from spworkers.ring import CONDUIT

LARGE = 100_000
PEERS = 3


def body_of(peer: int, number: int) -> bytes:
    """Every third one is small."""
    return bytes([peer, number]) + bytes([number]) * (10 if number % 3 == 2 else LARGE + number)


def push(address: str, peer: int, count: int, kind: type[Any]) -> None:
    with kind(dial=address, linger=BOUND) as sock:
        for number in range(count):
            sock.send(body_of(peer, number))


def pushing(pull: sp.Pull) -> socket.socket:
    """A PUSH socket, by hand."""
    host, port = pull.listeners[0].address.removeprefix("tcp://").split(":")
    sock = socket.create_connection((host, int(port)), BOUND)
    sock.sendall(b"\0SP\0\0\x50\0\0")
    assert sock.recv(8, socket.MSG_WAITALL) == b"\0SP\0\0\x51\0\0"
    return sock


@pytest.fixture(params=["tcp", "shm"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "shm" and not CONDUIT:
        pytest.skip("no memory that could be shared")
    return "tcp://127.0.0.1:0" if request.param == "tcp" else f"shm://{tmp_path}/s"


@pytest.mark.parametrize("window", [0, 1, 2, 128])
def test_from_several_peers(window: int, address: str) -> None:
    count = 40
    with sp.Pull(listen=address, readq_len=window) as pull:
        pushes = [background(push, pull.listeners[0].address, peer, count, sp.Push) for peer in range(PEERS)]
        got: dict[int, list[bytes]] = {peer: [] for peer in range(PEERS)}
        for _ in range(PEERS * count):
            message = pull.recv(timeout=BOUND)
            got[message[0]].append(message)
        for done in pushes:
            done.result(BOUND)
        assert got == {peer: [body_of(peer, number) for number in range(count)] for peer in range(PEERS)}
        assert not any(drops(pull).values())


def test_a_budget_that_holds_few_of_them(address: str) -> None:
    with sp.Pull(listen=address, byte_budget=5 * LARGE // 2) as pull:
        pushed = background(push, pull.listeners[0].address, 0, 60, sp.Push)
        assert [pull.recv(timeout=BOUND) for _ in range(60)] == [body_of(0, number) for number in range(60)]
        pushed.result(BOUND)


def test_peers_that_begin_and_do_not_end_hold_nobody_up() -> None:
    """Not by the window, which is one, nor by the budget, of which their bodies would take more than there is."""
    with sp.Pull(listen="tcp://127.0.0.1:0", readq_len=1, byte_budget=4 * LARGE) as pull:
        stalled = []
        push(pull.listeners[0].address, 0, 2, sp.Push)  # from now on its I/O process knows where they go
        assert [pull.recv(timeout=BOUND) for _ in range(2)] == [body_of(0, number) for number in range(2)]
        for _ in range(6):
            sock = pushing(pull)
            whole = body_of(1, 0)
            sock.sendall(len(whole).to_bytes(8, "big") + whole + len(whole).to_bytes(8, "big") + whole[: LARGE // 2])
            assert pull.recv(timeout=BOUND) == whole
            stalled.append(sock)
        pushed = background(push, pull.listeners[0].address, 2, 20, sp.Push)
        assert [pull.recv(timeout=BOUND) for _ in range(20)] == [body_of(2, number) for number in range(20)]
        pushed.result(BOUND)
        for sock in stalled:
            sock.sendall(body_of(1, 0)[LARGE // 2 :])
            assert pull.recv(timeout=BOUND) == body_of(1, 0)
        for sock in stalled:
            sock.close()


def test_views_of_them_stay_while_more_come() -> None:
    with sp.Pull(listen="tcp://127.0.0.1:0") as pull:
        pushed = background(push, pull.listeners[0].address, 0, 30, sp.Push)
        with pull.recv_view(timeout=BOUND) as first, pull.recv_view(timeout=BOUND) as second:
            rest = [pull.recv(timeout=BOUND) for _ in range(28)]
            assert (first, second) == (body_of(0, 0), body_of(0, 1))
        assert rest == [body_of(0, number) for number in range(2, 30)]
        pushed.result(BOUND)


def test_a_device_that_begins_while_one_is_on_its_way() -> None:
    """What had found its block already goes over the device."""
    with (
        sp.Pull(raw=True, listen="tcp://127.0.0.1:0", readq_len=1) as front,
        sp.Push(raw=True, listen="tcp://127.0.0.1:0") as back,
    ):
        sender = background(push, front.listeners[0].address, 0, 9, sp.Push)
        assert front.recv(timeout=BOUND) == body_of(0, 0)
        with sp.device(front, back), sp.Pull(dial=back.listeners[0].address) as sink:
            assert [sink.recv(timeout=BOUND) for _ in range(8)] == [body_of(0, number) for number in range(1, 9)]
        sender.result(BOUND)


def test_pair_both_ways() -> None:
    with sp.Pair(listen="tcp://127.0.0.1:0", readq_len=2) as one, sp.Pair(dial=one.listeners[0].address) as other:
        wait_pipes(one)
        sent = [background(sock.send, body_of(0, number)) for number in range(9) for sock in (one, other)]
        for sock in (one, other):
            got = [sock.recv(timeout=BOUND) for _ in range(9)]
            assert sorted(got) == sorted(body_of(0, number) for number in range(9))
        for done in sent:
            done.result(BOUND)


def test_a_peer_that_goes_in_the_midst_of_one() -> None:
    with sp.Pull(listen="tcp://127.0.0.1:0", byte_budget=4 * LARGE) as pull:
        for _ in range(12):  # more than there is memory for, were it not given back
            sock = pushing(pull)
            whole = body_of(1, 0)
            sock.sendall(len(whole).to_bytes(8, "big") + whole + len(whole).to_bytes(8, "big") + whole[: LARGE // 2])
            assert pull.recv(timeout=BOUND) == whole
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b"", "our end has seen it"
            sock.close()
        pushed = background(push, pull.listeners[0].address, 2, 9, sp.Push)
        assert [pull.recv(timeout=BOUND) for _ in range(9)] == [body_of(2, number) for number in range(9)]
        pushed.result(BOUND)
