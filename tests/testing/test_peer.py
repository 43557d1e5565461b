"""Raw peers: every byte is the test's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import eventually

import spworkers as sp
from spworkers.testing import RawListener, RawPeer, greeting

BOUND = 20.0
SOON = 0.05


@pytest.fixture(params=["tcp", "ipc", "abstract ipc"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    name = f"ipc://@test-{os.getpid()}-{tmp_path.name}"
    return {"tcp": "tcp://127.0.0.1:0", "ipc": f"ipc://{tmp_path}/s", "abstract ipc": name}[str(request.param)]


def test_a_peer_dials(address: str) -> None:
    with sp.Rep(listen=address) as rep, RawPeer.dial(rep.listeners[0].address, "req") as peer:
        peer.send(b"\x80\0\0\1ping")
        assert rep.recv(timeout=BOUND) == b"ping"
        rep.send(b"")
        assert peer.recv() == b"\x80\0\0\1"


def test_a_peer_listens(address: str) -> None:
    with RawListener(address) as server, sp.Req(dial=server.address, dial_asynch=True) as req:
        peer = server.accept(0x31)
        with peer:
            req.send(b"ping", timeout=BOUND)
            request = peer.recv()
            assert request[4:] == b"ping"
            peer.send(request[:4] + b"pong")
            assert req.recv(timeout=BOUND) == b"pong"
    if "/" in address[6:]:
        assert not os.path.exists(address[6:]), "the socket's file is left"


def test_a_greeting_is_eight_bytes_by_name_or_number() -> None:
    assert greeting("star") == greeting(0x640) == b"\0SP\0\x06\x40\0\0"
    with pytest.raises(sp.BadValueError, match="one of pair"):
        greeting("pairs")


def test_by_hand_it_says_nothing_until_told() -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep, RawPeer.dial(rep.listeners[0].address) as peer:
        assert peer.read(8) == greeting("rep")
        assert rep.pipes == []
        peer.write(greeting("req"))
        eventually(lambda: len(rep.pipes) == 1)


def test_the_wrong_protocol_ends_it() -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep, RawPeer.dial(rep.listeners[0].address) as peer:
        assert peer.shake("sub") == greeting("rep")
        assert peer.ended()
        with pytest.raises(sp.ConnResetError, match="after 0 of 8 bytes"):
            peer.recv()


def test_the_close_is_as_late_as_the_test_wants() -> None:
    with sp.Pair(listen="tcp://127.0.0.1:0") as pair, RawPeer.dial(pair.listeners[0].address, "pair") as peer:
        eventually(lambda: len(pair.pipes) == 1)
        pair.pipes[0].close()
        assert peer.ended()
        with RawPeer.dial(pair.listeners[0].address, "pair") as second:  # the first one is open, and hinders nobody
            second.send(b"x")
            assert pair.recv(timeout=BOUND) == b"x"


def test_who_has_finished_still_reads() -> None:
    with RawListener() as server, sp.Pair(dial=server.address, dial_asynch=True) as pair:
        peer = server.accept("pair")
        with peer:
            pair.send(b"last words", timeout=BOUND)
            eventually(lambda: pair.stats()["sent"] == 1, BOUND)
            peer.finish()
            assert peer.recv() == b"last words"
            assert peer.ended()


def test_a_reset_is_the_connections_end() -> None:
    with sp.Pair(listen="tcp://127.0.0.1:0") as pair:
        peer = RawPeer.dial(pair.listeners[0].address, "pair")
        eventually(lambda: len(pair.pipes) == 1)
        peer.reset()
        peer.reset()
        eventually(lambda: pair.pipes == [])


def test_refusing_is_for_unix_sockets(tmp_path: Path) -> None:
    with sp.Push(listen=f"ipc://{tmp_path}/s") as push:
        push.listen("tcp://127.0.0.1:0")
        with RawPeer.dial(push.listeners[0].address, "pull") as peer:
            eventually(lambda: len(push.pipes) == 1)
            peer.refuse()
            push.send(b"lost", timeout=BOUND)
            eventually(lambda: push.pipes == [])
        with RawPeer.dial(push.listeners[1].address) as peer, pytest.raises(sp.BadValueError, match="unix socket"):
            peer.refuse()


def test_errors_are_of_our_tree(tmp_path: Path) -> None:
    for scheme in ("tcp://127.0.0.1:1", f"ipc://{tmp_path}/nobody"):
        with pytest.raises(sp.ConnRefusedError):
            RawPeer.dial(scheme)
    for make in (RawPeer.dial, RawListener):
        with pytest.raises(sp.BadAddrError, match="Mock"):
            make("inproc://x")
    with RawListener(timeout=SOON) as server:
        with pytest.raises(sp.ConnTimeoutError):
            server.accept()
        with pytest.raises(sp.AddrInUseError):
            RawListener(server.address)
        with sp.Req(dial=server.address, dial_asynch=True, handshake_timeout=0), server.accept() as peer:
            assert len(peer.read(8)) == 8
            with pytest.raises(sp.RecvTimeoutError):
                peer.read(1)


def test_they_say_what_they_are() -> None:
    with RawListener() as server:
        assert repr(server) == f"<RawListener {server.address}: listening>"
        with RawPeer.dial(server.address) as peer:
            assert repr(peer) == f"<RawPeer stream: fd {peer.sock.fileno()}>"
        assert repr(peer) == "<RawPeer stream: closed>"
    assert "closed" in repr(server)
    server.close()
