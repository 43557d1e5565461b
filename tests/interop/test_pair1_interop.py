"""PAIR1 against nng: its pairs, and its polyamorous sockets, which are one peer like any other to us."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from interop_peers import PATIENCE, Peer, Running, each_peer, place

import spworkers as sp

pytestmark = [
    pytest.mark.interop,
    pytest.mark.parametrize("transport", ["tcp", "ipc"]),
    pytest.mark.parametrize("we", ["listen", "dial"]),
]

NNG = [param for param in each_peer() if getattr(param, "id", "") != "nanocat"]  # nanomsg has no pair1
PYNNG = [param for param in each_peer() if getattr(param, "id", "") == "pynng"]
OPTIONS: dict[str, Any] = {"dial_asynch": True, "reconnect_time": 0.02, "recv_deadline": PATIENCE}


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path: a unix socket's may have about a hundred bytes."""
    with tempfile.TemporaryDirectory(prefix="spw") as name:
        yield Path(name)


@contextmanager
def meeting(
    peer: Peer, we: str, transport: str, directory: Path, sockets: list[sp.Pair1], *more: str
) -> Iterator[Running]:
    """Sockets of ours and one peer that says "theirs"; if we listen there is one socket only."""
    file = directory / "data"
    file.write_bytes(b"theirs")
    with place(transport, directory) as where:
        address = sockets[0].listen(where.ours).address if we == "listen" else where.theirs
        with Running([*peer.arguments("pair1", we != "listen", address, file), *more]) as running:
            if we == "dial":
                for sock in sockets:
                    sock.dial(address)
            yield running


@pytest.mark.parametrize("peer", NNG)
@pytest.mark.parametrize("raw", [False, True], ids=["cooked", "raw"])
def test_both_ways(raw: bool, peer: Peer, we: str, transport: str, directory: Path) -> None:
    """A raw socket sees nng's count of hops, which begins at 1, with the one more that we are."""
    with sp.Pair1(raw=raw, **OPTIONS) as pair:
        with meeting(peer, we, transport, directory, [pair]) as running:
            message = pair.recv_msg()
            assert (message.body, message.header) == (b"theirs", b"\0\0\0\2" if raw else b"")
            pair.send_msg(sp.Message(b"ours", b"\0\0\0\1" if raw else b""))
            assert running.read(4) == b"ours"


@pytest.mark.parametrize("peer", PYNNG)
def test_a_polyamorous_peer_answers_each_of_us(peer: Peer, we: str, transport: str, directory: Path) -> None:
    with ExitStack() as stack:
        sockets = [stack.enter_context(sp.Pair1(**OPTIONS)) for _ in range(1 if we == "listen" else 3)]
        with meeting(peer, we, transport, directory, sockets, "--poly"):
            for turn in range(3):
                for number, sock in enumerate(sockets):
                    sock.send(b" %d %d" % (turn, number))
                for number, sock in enumerate(sockets):
                    assert sock.recv() == b"theirs %d %d" % (turn, number)


@pytest.mark.parametrize("peer", PYNNG)
def test_a_polyamorous_peer_behind_a_device(peer: Peer, we: str, transport: str, directory: Path) -> None:
    inner, outer = sp.Pair1(raw=True, **OPTIONS), sp.Pair1(raw=True, listen="tcp://127.0.0.1:0")
    with inner, outer, sp.device(inner, outer), sp.Pair1(dial=outer.listeners[0].address, **OPTIONS) as pair:
        with meeting(peer, we, transport, directory, [inner], "--poly"):
            for turn in range(3):
                pair.send(b" %d" % turn)
                assert pair.recv() == b"theirs %d" % turn
