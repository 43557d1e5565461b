"""REQ and REP against other implementations: either side, either end listening, tcp and ipc, small and large."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from interop_peers import MIB, PATIENCE, Peer, Place, Running, each_peer, place

import spworkers as sp

pytestmark = [
    pytest.mark.interop,
    pytest.mark.parametrize("peer", each_peer()),
    pytest.mark.parametrize("transport", ["tcp", "ipc", "ws"]),
    pytest.mark.parametrize("we", ["listen", "dial"]),
]

sizes = pytest.mark.parametrize("size", [1, 1024, MIB], ids=["1B", "1KiB", "1MiB"])

OPTIONS: dict[str, Any] = {
    "max_rcv_size": 0,  # header and body count, as in nanomsg: 1 MiB with a request id is more than the default
    "recv_deadline": PATIENCE,
    "send_deadline": PATIENCE,
    "dial_asynch": True,  # a peer that listens may not be there yet
    "reconnect_time": 0.02,
}


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path: a unix socket's may have about a hundred bytes."""
    with tempfile.TemporaryDirectory(prefix="spw") as name:
        yield Path(name)


@pytest.fixture
def meet(peer: Peer, transport: str, directory: Path) -> Iterator[Place]:
    with place(transport, directory, peer) as where:
        yield where


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def start(peer: Peer, protocol: str, we: str, where: Place, socket: sp.Socket, directory: Path, data: bytes) -> Running:
    """Bring both ends together: listen here and start a peer that dials, or start one that listens and dial it."""
    file = directory / "data"
    file.write_bytes(data)
    if we == "listen":
        address = socket.listen(where.ours).address
        return Running(peer.arguments(protocol, False, address, file))
    running = Running(peer.arguments(protocol, True, where.theirs, file))
    socket.dial(where.theirs)
    return running


@sizes
def test_we_request(peer: Peer, we: str, meet: Place, size: int, directory: Path) -> None:
    request, reply = noise(min(size, peer.largest), 1), noise(min(size, peer.largest), 2)
    with sp.Req(**OPTIONS) as req, start(peer, "rep", we, meet, req, directory, reply) as running:
        req.send(request)
        assert req.recv() == reply
        assert running.read(len(request)) == request


@sizes
def test_we_reply(peer: Peer, we: str, meet: Place, size: int, directory: Path) -> None:
    request, reply = noise(min(size, peer.largest), 3), noise(min(size, peer.largest), 4)
    with sp.Rep(**OPTIONS) as rep, start(peer, "req", we, meet, rep, directory, request) as running:
        assert rep.recv() == request
        rep.send(reply)
        assert running.read(len(reply)) == reply


def test_one_request_after_the_other(peer: Peer, we: str, meet: Place, directory: Path) -> None:
    requests = [b"%03d" % n for n in range(200)]
    with sp.Req(**OPTIONS) as req, start(peer, "rep", we, meet, req, directory, b"reply") as running:
        for request in requests:
            req.send(request)
            assert req.recv() == b"reply"
        everything = b"".join(requests)
        assert running.read(len(everything)) == everything


def test_contexts_have_requests_on_their_way_together(peer: Peer, we: str, meet: Place, directory: Path) -> None:
    with sp.Req(**OPTIONS) as req, start(peer, "rep", we, meet, req, directory, b"reply") as running:
        contexts = [req.open_context() for _ in range(16)]
        for number, context in enumerate(contexts):
            context.send(b"%02d" % number)
        assert [context.recv() for context in contexts] == [b"reply"] * 16
        seen = running.read(2 * len(contexts))
        assert sorted(seen[n : n + 2] for n in range(0, len(seen), 2)) == [b"%02d" % n for n in range(16)]


def test_raw_sees_the_backtrace(peer: Peer, we: str, meet: Place, directory: Path) -> None:
    """A raw REP gets the request's id, marked as the last word, behind the pipe's own; sent back, it finds its way."""
    with sp.Rep(raw=True, **OPTIONS) as rep, start(peer, "req", we, meet, rep, directory, b"request") as running:
        message = rep.recv_msg()
        header = bytes(message.header)
        assert message.body == b"request"
        assert len(header) == 8
        assert header[4] & 0x80
        rep.send_msg(sp.Message(b"reply", header=header))
        assert running.read(5) == b"reply"


def test_a_request_outlives_its_replier(peer: Peer, we: str, meet: Place, directory: Path) -> None:
    """The peer dies before it can answer; the request goes to the next one that is there."""
    with sp.Req(**OPTIONS) as req:
        with start(peer, "rep", we, meet, req, directory, b"first") as running:
            req.send(b"ping")
            assert req.recv() == b"first"
            running.process.kill()
            running.process.wait()
        file = directory / "second"
        file.write_bytes(b"second")
        context = req.open_context()
        address = req.listeners[0].address if we == "listen" else meet.theirs
        with Running(peer.arguments("rep", we != "listen", address, file)):
            context.send(b"pong")
            assert context.recv() == b"second"
