"""Mutual TLS, as the example shows it: who is answered, who is not, and why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from examples.programs import ENV, Program


def test_the_whole_of_it_in_one_program() -> None:
    with Program("mtls.py") as program:
        lines = program.ended()
    told = {line.partition(":")[0]: line.partition(": ")[2] for line in lines}
    assert told["alice"] == "hello alice (TLSv1.3; the server is localhost, 127.0.0.1)"
    assert told["refused"] == "CN=mallory"
    assert "no reply came within " in told["mallory"]
    assert "it demands a certificate of us" in told["nobody"]
    assert "name the authority that made it" in told["stranger"]
    assert told["alice, after a renewal"] == "hello alice (TLSv1.3; the server is renewed.localhost, 127.0.0.1)"


def test_with_files_of_the_command(tmp_path: Path) -> None:
    for words in ("ca", "server localhost 127.0.0.1", "client alice"):
        command = [sys.executable, "-m", "spworkers.cli", "cert", *words.split(), "--dir", str(tmp_path)]
        subprocess.run(command, env=ENV, check=True, capture_output=True, timeout=60)
    certs = ("--certs", str(tmp_path), "--cert")
    serve = ("--serve", "tls+tcp://127.0.0.1:0", "--allow", "alice")
    with Program("mtls.py", *serve, *certs, "localhost") as server:
        address = server.shows(r"listening at tls\+tcp://.*").split()[-1]
        with Program("mtls.py", "--ask", address, *certs, "alice") as client:
            assert client.ended() == ["hello alice (TLSv1.3; the server is localhost, 127.0.0.1)"]
