"""What an installed spworkers must be able to do with nothing beside it: imported, and one request answered.

A script, not a test: `python tests/smoke.py`. It runs where there is no pytest.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import spworkers as sp


def main() -> None:
    """Raise an AssertionError if something does not work."""
    for address in ("tcp://127.0.0.1:0", "inproc://smoke"):
        with sp.Rep(listen=address) as rep, sp.Req(dial=rep.listeners[0].address) as req:
            req.send(b"ping")
            assert rep.recv(timeout=10) == b"ping"
            rep.send(b"pong")
            assert req.recv(timeout=10) == b"pong"
    assert resources.files("spworkers").joinpath("py.typed").is_file(), "py.typed is not in the wheel"
    assert not resources.files("spworkers").joinpath("tests").is_dir(), "the tests are in the wheel"
    command = Path(sys.executable).with_name("spworkers")
    assert b"serve" in subprocess.run([command, "--help"], capture_output=True, check=True).stdout
    command = Path(sys.executable).with_name("macat")
    assert b"--req" in subprocess.run([command, "--help"], capture_output=True, check=True).stdout
    print(f"spworkers {metadata.version('spworkers')} on Python {sys.version.split()[0]} works: {sp.__file__}")


if __name__ == "__main__":
    main()
