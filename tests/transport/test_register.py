"""Transports of a third party: the one of the examples, and whatever may be wrong with one."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sockets.kit import BOUND, ask, serve

import spworkers as sp
from spworkers import schemes
from spworkers.testing import eventually

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPT = EXAMPLES / "exec_transport.py"
HOME = str(Path(sp.__file__).parents[1])
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([HOME, os.environ.get("PYTHONPATH", "")])}


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield
    schemes._registered.clear()


def through_a_relay(rep: sp.Rep) -> str:
    port = rep.listeners[0].address.rpartition(":")[2]
    return f"exec://{shlex.join([sys.executable, str(SCRIPT), 'relay', port])}"


def test_the_example() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], env=ENV, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "who is there? it is 127.0.0.1\n", "")


def commands() -> list[int]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if str(SCRIPT) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def test_it_is_dialled_again_by_a_successor_and_ends_with_its_socket() -> None:
    sp.register_transport("exec", "exec_transport:ExecTransport")
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
        with sp.Req(dial=through_a_relay(rep), reconnect_time=0.05) as req:
            assert req.pipes[0].address.startswith("exec://")
            served = serve(rep, 2)
            assert ask(req, b"a") == b"A"
            first = commands()
            for process in psutil.Process(first[0]).parents():
                if process.name() == "spw-io":
                    process.kill()
                    break
            assert ask(req, b"b") == b"B"
            served.result(BOUND)
            os.kill(eventually(lambda: set(commands()) - set(first), BOUND).pop(), signal.SIGKILL)
            served = serve(rep)
            assert ask(req, b"c") == b"C"
            served.result(BOUND)
        eventually(lambda: not commands(), BOUND)  # that of the killed process saw the end of its input


@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        ("exec://", sp.BadAddrError, "give the command"),
        ("exec://'", sp.BadAddrError, "quotation"),
        ("exec:///does/not/exist", sp.ConnRefusedError, "No such file"),
    ],
)
def test_its_errors_reach_who_dials(address: str, error: type[sp.SPError], words: str) -> None:
    sp.register_transport("exec", "exec_transport:ExecTransport")
    with sp.Req() as req, pytest.raises(error, match=words):
        req.dial(address)


def test_it_may_be_unable_to_listen() -> None:
    sp.register_transport("exec", "exec_transport:ExecTransport")
    with sp.Rep() as rep, pytest.raises(sp.BadAddrError, match="not listened on"):
        rep.listen("exec://cat")


def test_a_socket_that_is_open_already_may_use_it_too() -> None:
    with sp.Req() as req:
        with pytest.raises(sp.BadTranError, match="no transport 'exec'"):
            req.dial("exec://cat")
        sp.register_transport("exec", "exec_transport:ExecTransport")
        with pytest.raises(sp.ConnRefusedError):
            req.dial("exec:///does/not/exist")


@pytest.mark.parametrize(
    ("scheme", "target", "words"),
    [
        ("tcp", "mine:Tcp", "spworkers itself"),
        ("Exec", "mine:Exec", "lower-case"),
        ("exec", "mine", "'module:Class'"),
        ("exec", object, "'module:Class'"),
        ("exec", "__main__:Exec", "another main module"),
    ],
)
def test_what_can_be_no_transport_is_refused_at_once(scheme: str, target: str, words: str) -> None:
    with pytest.raises(sp.BadValueError, match=words):
        sp.register_transport(scheme, target)


@pytest.mark.parametrize("target", ["no_such_module:Exec", "exec_transport:Exec", "shlex:shlex"])
def test_a_class_that_is_none_is_told_at_its_first_use(target: str) -> None:
    sp.register_transport("exec", target)
    with sp.Req() as req, pytest.raises(sp.BadTranError, match=target):
        req.dial("exec://cat")
