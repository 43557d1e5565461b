"""The main job, as the README's first command runs it."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from helpers import eventually

import spworkers

WAIT = 60.0
ROOT = Path(__file__).parents[2]
# Runs a command on a terminal of its own.
TERMINAL = [sys.executable, "-c", "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"]
SCRIPT = str(ROOT / "examples" / "digest.py")
HOME = str(Path(spworkers.__file__).parents[1])  # of the package that is tested: installed, or the source tree
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([HOME, os.environ.get("PYTHONPATH", "")])}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    for number in range(300):
        file = tmp_path / f"{number % 7}" / f"file {number}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes([number % 256]) * number * 50)
    yield tmp_path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, *arguments]
    return subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=WAIT, check=False)


def test_the_job(folder: Path) -> None:
    done = run("--folder", str(folder), "--workers", "2", "--clients", "3")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == f"300 files below {folder}, 3 clients"
    assert lines[1].startswith("300 digests in ")
    assert "files/s" in lines[1]
    shares = [int(line.split(": ")[1].partition(",")[0]) for line in lines[2:4]]
    assert sum(shares) == 300
    assert min(shares) > 0
    assert lines[-1] == "every digest is what hashlib says"


def test_pythons_own_library() -> None:
    done = run("--limit", "200")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("200 files below ")


def test_a_wrong_digest_is_found(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """With a hashlib in the workers that is not ours."""
    script = Path(SCRIPT).read_text().replace("Path(path).read_bytes()).hexdigest()\n\n", "b'').hexdigest()\n\n", 1)
    other = tmp_path_factory.mktemp("other") / "digest.py"
    other.write_text(script)
    done = subprocess.run(
        [sys.executable, str(other), "--folder", str(folder), "--workers", "1"],
        env=ENV,
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert done.returncode == 1
    assert "299 digests are wrong" in done.stdout  # one file is empty


def test_a_terminal_shows_a_progress_bar(folder: Path) -> None:
    command = [*TERMINAL, sys.executable, SCRIPT, "--folder", str(folder)]
    env = {**ENV, "TERM": "xterm"}
    done = subprocess.run(command, env=env, stdin=subprocess.PIPE, capture_output=True, timeout=WAIT, check=True)
    assert b"100%" in done.stdout
    assert b"every digest is what hashlib says" in done.stdout


def test_ctrl_c_ends_it_quietly() -> None:
    process = subprocess.Popen(
        [sys.executable, SCRIPT], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    # It has children (the supervisor, its processes) as soon as the job runs.
    eventually(lambda: len(psutil.Process(process.pid).children(recursive=True)) > 3, WAIT)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=WAIT)
    assert (process.returncode, err) == (1, b"")


def test_the_app_is_served_by_name(folder: Path) -> None:
    """As the README has it: `spworkers serve examples.digest:app`."""
    command = [
        sys.executable,
        "-m",
        "spworkers.cli",
        "serve",
        "digest:app",
        "-l",
        "tcp://127.0.0.1:0",
        "-w",
        "1",
    ]
    process = subprocess.Popen(command, cwd=ROOT / "examples", env=ENV, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[3]
        file = folder / "3" / "file 3.txt"
        call = [sys.executable, "-m", "spworkers.cli", "call", address, "digest", str(file), "-k", "algorithm=md5"]
        done = subprocess.run(call, env=ENV, capture_output=True, text=True, timeout=WAIT, check=True)
        assert done.stdout.strip() == hashlib.md5(file.read_bytes()).hexdigest()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=WAIT)
    assert process.returncode == 0
