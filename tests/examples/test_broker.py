"""The broker: requesters and repliers that know one address each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from sockets.kit import BOUND, ask, serve, wait_pipes

import spworkers as sp

SCRIPT = Path(__file__).parents[2] / "examples" / "broker.py"
HOME = str(Path(sp.__file__).parents[1])  # of the package that is tested: installed, or the source tree
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([HOME, os.environ.get("PYTHONPATH", "")])}


def test_the_broker() -> None:
    command = [sys.executable, str(SCRIPT), "--front", "tcp://127.0.0.1:0", "--back", "tcp://127.0.0.1:0"]
    process = subprocess.Popen(
        [*command, "--every", "0.01"], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        _, front, _, back = process.stdout.readline().replace(",", "").split()
        with sp.Req(dial=front) as req, sp.Rep(dial=back) as one, sp.Rep(dial=back) as other:
            for sock in (req, one, other):
                wait_pipes(sock)
            served = serve(one, 5), serve(other, 5)
            assert [ask(req, b"%dx" % number) for number in range(10)] == [b"%dX" % number for number in range(10)]
            for each in served:
                assert len(each.result(BOUND)) == 5
        line = process.stdout.readline()
        while line != "10 requests, 10 replies\n":
            assert line.endswith(" replies\n")
            line = process.stdout.readline()
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=BOUND)
    assert (process.returncode, errors) == (0, "")
