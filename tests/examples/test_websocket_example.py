"""REP, PUB and a page on one HTTP server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import spworkers as sp

SCRIPT = Path(__file__).parents[2] / "examples" / "websocket.py"
HOME = str(Path(sp.__file__).parents[1])  # of the package that is tested: installed, or the source tree
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([HOME, os.environ.get("PYTHONPATH", "")])}


def test_the_example() -> None:
    command = [sys.executable, str(SCRIPT)]
    server = subprocess.Popen([*command, "server", "0", "--every", "0.05"], env=ENV, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        port = server.stdout.readline().strip().rpartition(":")[2]
        said = {
            role: subprocess.run(
                [*command, role, port], env=ENV, stdout=subprocess.PIPE, text=True, timeout=30, check=True
            ).stdout
            for role in ("req", "sub", "static")
        }
        assert re.fullmatch(r"REPLY #0 .+\n", said["req"])
        assert re.fullmatch(r"PUB #[0-9]+ .+\n", said["sub"])
        assert said["static"] == "STATIC\n"
    finally:
        server.send_signal(signal.SIGINT)
        try:
            assert server.wait(20) == 0
        finally:
            server.kill()
            server.wait()
            server.stdout.close()
