"""OpenSSL's own client at a listener: key updates (TLS 1.3) and renegotiation (TLS 1.2) in the midst of a session."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pytest
from helpers import eventually
from sockets.kit import BOUND, wait_pipes

import spworkers as sp
from spworkers.testing import CertificateAuthority, greeting

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed"),
]


class Client:
    """`openssl s_client`: what it is told goes out as it is, but for single letters, which are commands."""

    def __init__(self, port: str, ca: Path, version: str) -> None:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", str(ca), version]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
        )
        self.output = b""
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while data := self.process.stdout.read(65536):
            self.output += data

    def say(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def shows(self, words: bytes, times: int = 1) -> None:
        """Wait until it has printed something."""
        eventually(lambda: self.output.count(words) >= times, BOUND, what=f"{words!r} in {self.output!r}")

    def __enter__(self) -> Client:
        self.shows(b"Verify return code: 0 (ok)")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        self.thread.join(BOUND)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(8, "big") + body


@pytest.fixture
def pair() -> Iterator[tuple[sp.Pair, str, Path]]:
    with CertificateAuthority() as ca:
        files = ca.server()
        with sp.Pair(listen="tls+tcp://127.0.0.1:0", tls_config=sp.TLSConfig(files.cert, files.key)) as pair:
            yield pair, pair.listeners[0].address.rpartition(":")[2], ca.cert


def test_keys_may_change_in_the_midst_of_a_session(pair: tuple[sp.Pair, str, Path]) -> None:
    sock, port, ca = pair
    with Client(port, ca, "-tls1_3") as client:
        client.say(greeting("pair"))
        wait_pipes(sock)
        client.say(framed(b"before"))
        assert sock.recv(timeout=BOUND) == b"before"
        for times in range(1, 4):
            client.say(b"K\n")  # new keys for both directions: we have to answer
            client.shows(b"KEYUPDATE", times)
            client.say(framed(b"after %d" % times))
            assert sock.recv(timeout=BOUND) == b"after %d" % times
            sock.send(b"answer %d" % times)
            client.shows(b"answer %d" % times)
        assert len(sock.pipes) == 1


def test_a_renegotiation_is_refused_and_hurts_nobody(pair: tuple[sp.Pair, str, Path]) -> None:
    sock, port, ca = pair
    with Client(port, ca, "-tls1_2") as client:
        client.say(greeting("pair"))
        wait_pipes(sock)
        client.say(framed(b"before"))
        assert sock.recv(timeout=BOUND) == b"before"
        client.say(b"R\n")
        client.shows(b"RENEGOTIATING")
        client.shows(b"no renegotiation")
    wait_pipes(sock, 0)
    with sp.Pair(dial=sock.listeners[0].address, tls_config=sp.TLSConfig(ca=ca)) as good:
        good.send(b"good", timeout=BOUND)
        assert sock.recv(timeout=BOUND) == b"good"
