"""macat with nngcat and nanocat as the other end: each protocol and every flag, over tcp, ipc, ws and tls+tcp.

Beside nngcat flags are given by their long names, beside nanocat by their short ones.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import eventually
from interop_peers import PATIENCE, PEERS, Peer, Running, free_port

import spworkers as sp
from spworkers.testing import CertificateAuthority

COMMAND = [sys.executable, "-m", "spworkers.cli.macat"]
HOME = str(Path(sp.__file__).parents[1])  # of the package that is tested: installed, or the source tree
PEERS_IN_C = [peer for peer in PEERS if peer.name != "pynng"]

pytestmark = [
    pytest.mark.interop,
    pytest.mark.parametrize(
        "peer",
        [
            pytest.param(peer, id=peer.name, marks=[pytest.mark.skip(reason=peer.missing)] if peer.missing else [])
            for peer in PEERS_IN_C
        ],
    ),
]


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([HOME, os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def ipc() -> Iterator[str]:
    """A short path: a unix socket's may have about a hundred bytes."""
    with tempfile.TemporaryDirectory(prefix="spw") as name:
        yield f"{name}/s"


@pytest.fixture
def port() -> str:
    return str(free_port())


SHORT = {
    "--verbose": "-v",
    "--silent": "-q",
    "--bind-ipc": "-X",
    "--connect-ipc": "-x",
    "--bind-local": "-L",
    "--connect-local": "-l",
    "--ascii": "-A",
    "--quoted": "-Q",
    "--data": "-D",
    "--file": "-F",
    "--send-interval": "-i",
    "--send-delay": "-d",
}


def spelt(peer: Peer, arguments: tuple[str, ...]) -> list[str]:
    return [SHORT.get(each, each) if peer.name == "nanocat" else each for each in arguments]


def macat(peer: Peer, *arguments: str) -> Running:
    return Running([*COMMAND, *spelt(peer, arguments)])


def theirs(peer: Peer, protocol: str, *arguments: str) -> Running:
    return Running([*peer.command, f"--{protocol}", *arguments])


def ended(peer: Peer, *arguments: str) -> tuple[int, bytes, bytes]:
    """macat, which ends by itself."""
    done = subprocess.run([*COMMAND, *spelt(peer, arguments)], capture_output=True, timeout=PATIENCE, check=False)
    return done.returncode, done.stdout, done.stderr


def there(address: str) -> None:
    """Wait until somebody listens there: neither macat nor nngcat dials twice.

    On ipc by its file, as an nngcat that is probed while it starts shows nothing afterwards, whoever sends.
    """
    scheme, _, where = address.partition("://")

    def answers() -> bool:
        if scheme == "ipc":
            return Path(where).exists()
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.connect(("127.0.0.1", int(where.rpartition(":")[2])))
            return True
        return False

    eventually(answers, PATIENCE, what=f"a listener at {address}")


def test_pull_bind_local_raw(peer: Peer, port: str) -> None:
    with macat(peer, "--pull", "--bind-local", port, "--raw", "--verbose") as ours:
        there(f"tcp://127.0.0.1:{port}")
        with theirs(peer, "push", peer.dial, f"tcp://127.0.0.1:{port}", "--data", "pushed"):
            assert ours.read(6) == b"pushed"


def test_push_connect_local_data_count(peer: Peer, port: str) -> None:
    with theirs(peer, "pull", peer.listen, f"tcp://127.0.0.1:{port}", "--raw") as other:
        there(f"tcp://127.0.0.1:{port}")
        begin = time.monotonic()
        when = ["--count", "3", "--send-delay", "100ms", "--send-timeout", "5"]
        assert ended(peer, "--push", "--connect-local", port, "--data", "pushed", *when) == (0, b"", b"")
        assert time.monotonic() - begin >= 0.1
        assert other.read(18) == b"pushed" * 3


def test_sub_bind_ipc_subscribe_ascii(peer: Peer, ipc: str) -> None:
    with macat(peer, "--sub", "--bind-ipc", ipc, "--subscribe", "a", "--subscribe", "b", "--ascii") as ours:
        there(f"ipc://{ipc}")
        interval = ["--interval", "1"]
        with theirs(peer, "pub", peer.dial, f"ipc://{ipc}", "--data", "no", *interval):
            with theirs(peer, "pub", peer.dial, f"ipc://{ipc}", "--data", "b\1", *interval):
                assert ours.read(3) == b"b.\n"


def test_pub_connect_ipc_file_interval(peer: Peer, ipc: str, tmp_path: Path) -> None:
    body = b"published\0" * 1000  # more than nngcat's buffer, which it flushes when it is full
    (tmp_path / "data").write_bytes(body)
    with theirs(peer, "sub", peer.listen, f"ipc://{ipc}", "--raw") as other:
        there(f"ipc://{ipc}")
        with macat(peer, "--pub", "--connect-ipc", ipc, "--file", str(tmp_path / "data"), "--send-interval", "20ms"):
            assert other.read(len(body)) == body


def test_req_connect_quoted(peer: Peer, port: str) -> None:
    address = f"tcp://127.0.0.1:{port}"
    with theirs(peer, "rep", peer.listen, address, "--data", 'a "pong"', "--raw") as other:
        there(address)
        code, out, err = ended(peer, "--req", "--connect", address, "--data", "ping", "--quoted", "--stats", "--silent")
        assert (code, out) == (0, b'a \\"pong\\"\n')
        assert err.splitlines() == [b"sent: 1 messages, 16 bytes", b"received: 1 messages, 20 bytes"]
        assert other.read(4) == b"ping"


def test_rep_bind_data_msgpack(peer: Peer, ipc: str) -> None:
    with macat(peer, "--rep", "--bind", f"ipc://{ipc}", "--data=pong", "--msgpack") as ours:
        there(f"ipc://{ipc}")
        with theirs(peer, "req", peer.dial, f"ipc://{ipc}", "--data", "ping", "--raw") as other:
            assert other.read(4) == b"pong"
        assert ours.read(6) == b"\xc4\x04ping"


def test_raw_mode_shows_headers_and_replies_by_them(peer: Peer, port: str) -> None:
    address = f"tcp://127.0.0.1:{port}"
    with macat(peer, "--rep", "--raw-mode", "--bind", address, "--data", "pong", "--format", "raw") as ours:
        there(address)
        with theirs(peer, "req", peer.dial, address, "--data", "ping", "--raw") as other:
            assert other.read(4) == b"pong"
        header = ours.read(12).removesuffix(b"ping")
    assert len(header) == 8
    assert (header[0] >> 7, header[4] >> 7) == (0, 1)  # the pipe, and the request, whose number ends the way


def test_surveyor_ends_with_its_survey(peer: Peer, port: str) -> None:
    address = f"tcp://127.0.0.1:{port}"
    with theirs(peer, "respondent", peer.listen, address, "--data", "me", "--raw") as other:
        there(address)
        assert ended(peer, "--surveyor", "--connect", address, "--data", "who?", "--ascii") == (0, b"me\n", b"")
        assert other.read(4) == b"who?"


def test_respondent(peer: Peer, port: str) -> None:
    """Theirs asks again and again: its first survey may go out before it is connected, to nobody."""
    address = f"tcp://127.0.0.1:{port}"
    with macat(peer, "--respondent", "--bind", address, "--data", "me", "--format", "ascii") as ours:
        there(address)
        with theirs(peer, "surveyor", peer.dial, address, "--data", "who?", "--raw", "--interval", "1") as other:
            assert other.read(2) == b"me"
        assert ours.read(5) == b"who?\n"


@pytest.mark.parametrize(("protocol", "transport"), [("pair", "tcp"), ("pair1", "ipc"), ("bus", "ipc"), ("bus", "tcp")])
def test_both_ways(peer: Peer, protocol: str, transport: str, ipc: str, port: str) -> None:
    if peer.name == "nanocat" and protocol == "pair1":
        pytest.skip("nanomsg has no PAIR1")
    address = f"tcp://127.0.0.1:{port}" if transport == "tcp" else f"ipc://{ipc}"
    called = {"pair": "pair0"}.get(protocol, protocol) if peer.name == "nngcat" else protocol
    with macat(
        peer, f"--{protocol}", "--bind", address, "--data", "ours", "--ascii", "--send-interval", "100ms"
    ) as ours:
        there(address)
        with theirs(peer, called, peer.dial, address, "--data", "theirs", "--ascii", "--interval", "1") as other:
            assert ours.read(7) == b"theirs\n"
            assert b"ours" in other.read(7)


def test_recv_timeout_and_a_peer_of_the_wrong_kind(peer: Peer, port: str) -> None:
    address = f"tcp://127.0.0.1:{port}"
    with theirs(peer, "pull", peer.listen, address, "--raw"):
        there(address)
        code, out, err = ended(peer, "--pull", "--connect", address, "--recv-timeout", "100ms")
        assert (code, out) == (1, b"")  # two of a kind do not talk
        assert err.startswith(f"macat: dial({address}): invalid or unsupported protocol".encode())
    other_port = free_port()
    with theirs(peer, "push", peer.listen, f"tcp://127.0.0.1:{other_port}", "--data", "x", "--delay", "5"):
        there(f"tcp://127.0.0.1:{other_port}")
        assert ended(peer, "--pull", "-l", str(other_port), "--recv-timeout", "100ms") == (0, b"", b"")


def test_websockets(peer: Peer, port: str) -> None:
    """nanocat binds no path and nngcat dials none without."""
    address = f"ws://127.0.0.1:{port}/x"
    with macat(peer, "--rep", "--bind", address, "-D", "pong", "-A") as ours:
        there(f"tcp://127.0.0.1:{port}")
        with theirs(peer, "req", peer.dial, address, "--data", "ping", "--ascii") as other:
            assert other.read(5) in (b"pong\n", b"pong")
        assert ours.read(5) == b"ping\n"
    address = f"ws://127.0.0.1:{free_port()}" + ("/y" if peer.name == "nngcat" else "")
    with theirs(peer, "pull", peer.listen, address, "--raw") as other:
        there(address.removesuffix("/y").replace("ws", "tcp"))
        assert ended(peer, "--push", "--connect", address, "-D", "pushed") == (0, b"", b"")
        assert other.read(6) == b"pushed"


@pytest.fixture(scope="module")
def authority() -> Iterator[CertificateAuthority]:
    with CertificateAuthority() as made:
        yield made


@pytest.mark.parametrize("mutual", [False, True])
def test_tls(peer: Peer, port: str, mutual: bool, authority: CertificateAuthority, tmp_path: Path) -> None:
    if peer.name == "nanocat":
        pytest.skip("nanocat has no TLS")
    server, client = authority.server("localhost"), authority.client("alice")
    trust = ["--cacert", str(authority.cert)]
    binds = ["--cert", str(server.cert), "--key", str(server.key), *(trust if mutual else [])]
    dials = [*trust, *(["--cert", str(client.cert), "--key", str(client.key)] if mutual else [])]
    (tmp_path / "both.pem").write_bytes(server.cert.read_bytes() + server.key.read_bytes())
    one_file = ["-E", str(tmp_path / "both.pem"), *trust]
    address = f"tls+tcp://localhost:{port}"
    with macat(peer, "--rep", "--bind", address, "-D", "pong", "-A", *(one_file if mutual else binds)) as ours:
        there(f"tcp://127.0.0.1:{port}")
        with theirs(peer, "req", peer.dial, address, "--data", "ping", "--ascii", *dials) as other:
            assert other.read(4) == b"pong"
        assert ours.read(5) == b"ping\n"
    address = f"tls+tcp://localhost:{free_port()}"
    with theirs(peer, "rep", peer.listen, address, "--data", "pong", "--ascii", *binds):
        there(address.removeprefix("tls+"))
        asks = ["--req", "--connect", address, "-D", "ping", "-A"]
        assert ended(peer, *asks, *dials) == (0, b"pong\n", b"")
        if not mutual:
            assert ended(peer, *asks, "--insecure") == (0, b"pong\n", b"")
            nobody = ended(peer, *asks, "-k", "--cacert", str(client.cert))  # who is named is asked, all the same
            assert (nobody[0], nobody[1]) == (1, b"")
