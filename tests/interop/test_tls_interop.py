"""tls+tcp and wss against other implementations: either end listening, small and large, and mutual authentication."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from interop_peers import MIB, PATIENCE, PEERS, Peer, Running, each_peer, free_port

import spworkers as sp
from spworkers.testing import CertificateAuthority, CertificateFiles

WITH_TLS = [param for peer, param in zip(PEERS, each_peer(), strict=True) if peer.name != "nanocat"]

pytestmark = [
    pytest.mark.interop,
    pytest.mark.parametrize("peer", WITH_TLS),
    pytest.mark.parametrize("we", ["listen", "dial"]),
    pytest.mark.parametrize("scheme", ["tls+tcp", "wss"]),
]

Where = tuple[str, str]

OPTIONS: dict[str, Any] = {
    "max_rcv_size": 0,
    "recv_deadline": PATIENCE,
    "send_deadline": PATIENCE,
    "dial_asynch": True,  # a peer that listens may not be there yet
    "reconnect_time": 0.02,
}


class World:
    """One authority, and certificates for both ends."""

    def __init__(self, ca: CertificateAuthority) -> None:
        self.ca = ca
        self.server: CertificateFiles = ca.server("localhost")
        self.client: CertificateFiles = ca.client("client")

    def ours(self, listens: bool, mutual: bool) -> sp.TLSConfig:
        if listens:
            return sp.TLSConfig(self.server.cert, self.server.key, self.ca.cert if mutual else None)
        own = (self.client.cert, self.client.key) if mutual else (None, None)
        return sp.TLSConfig(*own, self.ca.cert)

    def theirs(self, listens: bool, mutual: bool) -> list[str]:
        files = self.server if listens else self.client
        own = ["--cert", str(files.cert), "--key", str(files.key)] if listens or mutual else []
        return own + (["--cacert", str(self.ca.cert)] if mutual or not listens else [])


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with CertificateAuthority() as ca:
        yield World(ca)


@pytest.fixture
def where(scheme: str) -> Where:
    """What stands before and behind a port."""
    return f"{scheme}://localhost:", "/sp" if scheme == "wss" else ""


def start(
    peer: Peer,
    protocol: str,
    we: str,
    where: Where,
    world: World,
    socket: sp.Socket,
    file: Path,
    *,
    mutual: bool = False,
) -> Running:
    """Bring both ends together."""
    listens = we == "listen"
    config = world.ours(listens, mutual)
    address = str(0 if listens else free_port()).join(where)
    if listens:
        address = socket.listen(address, tls_config=config).address.replace("127.0.0.1", "localhost")
    arguments = peer.arguments(protocol, not listens, address, file)
    if protocol == "pull":  # which has nothing to send
        del arguments[arguments.index("--file") :]
    running = Running(arguments + world.theirs(not listens, mutual))
    if not listens:
        socket.dial(address, tls_config=config)
    return running


@pytest.mark.parametrize("size", [1, 1024, MIB], ids=["1B", "1KiB", "1MiB"])
def test_a_request_and_its_reply(peer: Peer, we: str, where: Where, world: World, size: int, tmp_path: Path) -> None:
    """They ask and we answer, so that both ends send as much."""
    request, reply = random.Random(1).randbytes(size), random.Random(2).randbytes(size)
    file = tmp_path / "data"
    file.write_bytes(request)
    with sp.Rep(**OPTIONS) as rep, start(peer, "req", we, where, world, rep, file) as running:
        assert rep.recv() == request
        state = rep.pipes[0].tls_state
        assert state.version in ("TLSv1.2", "TLSv1.3")
        assert state.verified == (we == "dial")
        rep.send(reply)
        assert running.read(len(reply)) == reply


def test_mutual_authentication(peer: Peer, we: str, where: Where, world: World, tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(b"theirs")
    with sp.Req(**OPTIONS) as req, start(peer, "rep", we, where, world, req, file, mutual=True) as running:
        req.send(b"ours")
        assert req.recv() == b"theirs"
        assert running.read(4) == b"ours"
        state = req.pipes[0].tls_state
        assert (state.verified, state.common_name) == (True, "client" if we == "listen" else "localhost")


def test_much_in_a_row(peer: Peer, we: str, where: Where, world: World, tmp_path: Path) -> None:
    """More than any buffer holds, one way: records cut anywhere."""
    file = tmp_path / "data"
    file.write_bytes(b"")
    messages = [random.Random(n).randbytes(50_000) for n in range(200)]
    options = {name: value for name, value in OPTIONS.items() if name != "recv_deadline"}
    with sp.Push(**options) as push, start(peer, "pull", we, where, world, push, file) as running:
        for message in messages:
            push.send(message)
        assert running.read(sum(map(len, messages))) == b"".join(messages)
