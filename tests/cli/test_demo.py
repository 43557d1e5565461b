"""`spworkers demo`: what it shows, on any machine."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from helpers import ENV

COMMAND = [sys.executable, "-m", "spworkers.cli", "demo"]
WAIT = 100.0


@pytest.mark.once
def test_every_part_is_shown_and_nothing_is_lost() -> None:
    done = subprocess.run(
        [*COMMAND, "--quick", "--workers", "2"], capture_output=True, text=True, timeout=WAIT, env=ENV
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    shown = done.stdout
    assert re.search(r"100 requests, one at a time: [\d,]+ µs each", shown)
    victim = re.search(r"kill -9 (\d+), amid 300 calls", shown)
    assert victim, shown
    assert f"(pid {victim[1]}) died" in done.stderr
    assert "300 answers of 300, all right" in shown
    successor = re.search(r"its successor is (\d+)\n", shown)
    assert successor, shown
    assert successor[1] != victim[1]
    assert "fails alone: WorkerDiedError" in shown
    assert "25 primes below 100" in shown
    assert re.search(r"primes_from +40 in, 39 out, 1 failed", shown), shown
    assert "ValueError: not a good number" in shown
    assert re.search(r"one kills its worker +19 done, pool goes on +\d+ done, pool broken", shown), shown


def test_it_says_what_it_does_and_refuses_nonsense() -> None:
    helped = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, timeout=WAIT, env=ENV)
    assert helped.returncode == 0
    assert "a worker killed" in " ".join(helped.stdout.split())
    wrong = subprocess.run([*COMMAND, "--workers", "0"], capture_output=True, text=True, timeout=WAIT, env=ENV)
    assert wrong.returncode == 2
    assert "0 is not in the range" in wrong.stderr
