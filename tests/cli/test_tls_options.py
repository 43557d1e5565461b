"""`spworkers serve` and `call` over TLS: --cert, --key and --cacert."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import ENV

from spworkers.testing import CertificateAuthority

WAIT = 30.0
COMMAND = [sys.executable, "-m", "spworkers.cli"]


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=ENV, capture_output=True, text=True, timeout=WAIT, check=False)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CertificateAuthority]:
    folder = tmp_path_factory.mktemp("tls")
    (folder / "hello.py").write_text(
        "import spworkers as sp\napp = sp.App('hello')\n\n@app.handler\ndef greet(name: str) -> str:\n"
        "    return f'hello {name}'\n"
    )
    with CertificateAuthority(folder=folder) as authority:
        yield authority


def test_a_server_that_demands_certificates(ca: CertificateAuthority) -> None:
    server, alice = ca.server(), ca.client("alice")
    files = ["--cert", server.cert, "--key", server.key, "--cacert", ca.cert]
    serve = ["serve", "hello:app", "-l", "tls+tcp://127.0.0.1:0", "-w", "1", "--json", *files]
    process = subprocess.Popen([*COMMAND, *map(str, serve)], cwd=ca.folder, env=ENV, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        (address,) = json.loads(process.stdout.readline())["addresses"]
        assert address.startswith("tls+tcp://127.0.0.1:")
        ours = ["--cacert", ca.cert, "--cert", alice.cert, "--key", alice.key]
        assert run("call", *ours, address, "greet", "alice", cwd=ca.folder).stdout == "hello alice\n"
        done = run("call", "--cacert", ca.cert, address, "greet", "bob", cwd=ca.folder)
        assert done.returncode == 1
        assert "it demands a certificate of us" in done.stderr
        done = run("call", address, "greet", "bob", cwd=ca.folder)
        assert "missing TLS configuration" in done.stderr or "TLS needs certificates" in done.stderr
    finally:
        process.terminate()
        process.communicate(timeout=WAIT)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["call", "tcp://127.0.0.1:1", "--cacert", "none.pem"], "ca '{folder}/none.pem' cannot be read"),
        (["call", "tcp://127.0.0.1:1", "--key", "ca.pem"], "without cert="),
        (["serve", "hello:app", "-l", "tls+tcp://127.0.0.1:0", "--cacert", "ca.pem"], "needs a certificate"),
        (["serve", "hello:app", "-l", "tls+tcp://127.0.0.1:0"], "to listen give --cert FILE"),
    ],
)
def test_mistakes(ca: CertificateAuthority, arguments: list[str], words: str) -> None:
    done = run(*arguments, cwd=ca.folder)
    assert done.returncode == 2
    assert words.format(folder=ca.folder) in done.stderr
    assert "Traceback" not in done.stderr
