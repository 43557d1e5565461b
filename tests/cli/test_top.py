"""`spworkers top`: what it tells of running programs, this one among them, and that looking changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from helpers import ENV, eventually

import spworkers as sp
from spworkers.cli.top import top
from spworkers.cli.top.finding import supervisors
from spworkers.cli.top.sampling import Sampler
from spworkers.cli.top.tables import amount
from spworkers.supervisor.claims import inspect

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="top needs Linux")

WAIT = 30.0
ME = frozenset({os.getpid()})


def socket_named(name: str, sampler: Sampler | None = None) -> dict[str, Any]:
    """What is told of a socket of this program."""
    (program,) = (sampler or Sampler(ME)).look()
    assert program["pid"] == os.getpid()
    (found,) = (each for each in program["sockets"] if each["name"] == name)
    return dict(found)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(top, arguments)


@pytest.fixture
def pair() -> Iterator[tuple[sp.Push, sp.Pull]]:
    with sp.Pull(name="top-pull", listen="tcp://127.0.0.1:0", readq_len=4) as pull:
        with sp.Push(name="top-push", dial=pull.listeners[0].address) as push:
            yield push, pull


# --- what it tells


def test_sockets_pipes_and_rings(pair: tuple[sp.Push, sp.Pull]) -> None:
    push, pull = pair
    sampler = Sampler(ME)
    sampler.look()
    for _ in range(10):
        push.send(b"1234")
    told = eventually(lambda: (found := socket_named("top-pull", sampler))["received"] >= 4 and found, WAIT)
    address = pull.listeners[0].address
    assert (told["protocol"], told["raw"], told["generation"], told["answers"]) == ("pull", False, 1, True)
    assert told["pid"] == pull.stats()["pid"]
    assert told["rss"] > 1_000_000
    assert told["listeners"] == [{"address": address, "state": "listening"}]
    assert told["contexts"][0]["window"] == 4
    assert told["contexts"][0]["receiving"] == 4
    assert told["received_bytes_per_second"] >= 0
    (pipe,) = told["pipes"]
    assert pipe["local"] == address.removeprefix("tcp://")
    dialed = socket_named("top-push", sampler)
    assert dialed["dialers"] == [{"address": address, "state": "attached"}]
    assert dialed["pipes"][0]["local"] == pipe["remote"]
    assert [pull.recv(WAIT) for _ in range(10)] == [b"1234"] * 10
    eventually(lambda: socket_named("top-push")["sent"] == 10, WAIT)


def test_drops_by_cause() -> None:
    with sp.Pub(name="top-pub") as pub:
        for _ in range(3):
            pub.send(b"to nobody")
        eventually(lambda: socket_named("top-pub")["drops"] == {"no_peers": 3}, WAIT)


def test_workers(tmp_path: Path) -> None:
    def hold(path: bytes) -> bytes:
        (tmp_path / "began").touch()
        while not Path(os.fsdecode(path)).exists():
            time.sleep(0.01)
        return b"done"

    with (
        sp.Rep(name="top-rep", listen="inproc://top-rep") as rep,
        sp.ContextPool(rep, hold, workers=2, name="holder") as pool,
        sp.Req(dial="inproc://top-rep") as req,
    ):
        req.send(os.fsencode(tmp_path / "go"))
        eventually((tmp_path / "began").exists, WAIT)
        told = {each["name"]: each for each in Sampler(ME).look()[0]["workers"]}
        assert set(told) == {"holder-1", "holder-2"}
        assert {each["pid"] for each in told.values()} == {worker.pid for worker in pool.workers}
        assert sorted(each["state"] for each in told.values()) == ["busy", "idle"]
        assert all(each["sockets"] == ["rep top-rep"] and each["role"] == "worker" for each in told.values())
        shown = run("--once", str(os.getpid())).output
        assert "holder-1" in shown
        assert "busy " in shown
        (tmp_path / "go").touch()
        assert req.recv(WAIT) == b"done"
        eventually(lambda: sum(each["answered"] for each in Sampler(ME).look()[0]["workers"]) == 1, WAIT)


def test_pools() -> None:
    with sp.Pool(1, name="top-pool") as pool:
        pid = pool.submit(os.getpid).result(WAIT)
        (told,) = (each for each in Sampler(ME).look()[0]["workers"] if each["pid"] == pid)
        assert told["role"] == "pool"
        assert told["name"].startswith("top-pool")
        assert told["rss"] > 1_000_000


def test_a_replaced_io_process_says_so(pair: tuple[sp.Push, sp.Pull]) -> None:
    _, pull = pair
    os.kill(pull.stats()["pid"], signal.SIGKILL)
    told = eventually(lambda: (found := socket_named("top-pull"))["generation"] == 2 and found, WAIT)
    assert f"{told['pid']} (+1)" in run("--once", str(os.getpid())).output


@pytest.mark.slow
def test_one_that_is_stopped_does_not_answer_and_is_left_alone(pair: tuple[sp.Push, sp.Pull]) -> None:
    _, pull = pair
    pid = pull.stats()["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(2):
            begin = time.monotonic()
            assert not socket_named("top-pull")["answers"]
            assert time.monotonic() - begin < 5.0
        assert socket_named("top-push")["answers"]
        assert "does not answer" in run("--once", str(os.getpid())).output
    finally:
        os.kill(pid, signal.SIGCONT)
    told = eventually(lambda: (found := socket_named("top-pull"))["answers"] and found, WAIT)
    assert (told["pid"], told["generation"]) == (pid, 1)


# --- how it finds programs


def test_programs_come_and_go() -> None:
    script = (
        "import spworkers as sp; p = sp.Pull(name='elsewhere', listen='inproc://x'); print('up', flush=True); input()"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", script], env=ENV, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "up\n"
        (told,) = Sampler(frozenset({program.pid})).look()
        assert "elsewhere" in told["command"]
        assert [each["name"] for each in told["sockets"]] == ["elsewhere"]
        supervisor = told["supervisor"]["pid"]
        (address,) = (found.address for found in supervisors() if found.pid == supervisor)
        assert inspect(address)["parent"] == program.pid
        os.kill(supervisor, signal.SIGSTOP)
        try:
            (told,) = Sampler(frozenset({program.pid})).look()
            assert (told["answers"], told["sockets"]) == (False, [])
        finally:
            os.kill(supervisor, signal.SIGCONT)
    finally:
        program.kill()  # it gets to close nothing
        program.communicate(timeout=WAIT)
    eventually(lambda: all(found.pid != supervisor for found in supervisors()), WAIT)
    assert Sampler(frozenset({program.pid})).look() == []
    assert address not in Path("/proc/net/unix").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_users_programs_are_not_told() -> None:
    with sp.Pull(listen="inproc://top-mine"):
        (told,) = Sampler(ME).look()
        (address,) = (found.address for found in supervisors() if found.pid == told["supervisor"]["pid"])
        script = f"""
import os
from spworkers.cli.top.finding import supervisors
from spworkers.supervisor.claims import inspect
os.setuid(65534)
print(list(supervisors()))
try:
    inspect({address!r})
except Exception as error:
    print(type(error).__name__)
"""
        done = subprocess.run(
            [sys.executable, "-c", script], env=ENV, capture_output=True, text=True, timeout=WAIT, check=False
        )
    assert done.stdout.split() == ["[]", "AccessDeniedError"]


# --- the command


def test_json() -> None:
    with sp.Pull(name="top-json", listen="inproc://top-json"):
        done = run("--once", "--json", str(os.getpid()))
    assert done.exit_code == 0
    (line,) = done.output.splitlines()
    (program,) = json.loads(line)["programs"]
    assert "top-json" in [each["name"] for each in program["sockets"]]


def test_json_goes_on_until_it_is_interrupted() -> None:
    with sp.Pull(listen="inproc://top-lines"):
        command = [sys.executable, "-m", "spworkers.cli", "top", "--json", "-i", "0.1", str(os.getpid())]
        process = subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        times = [json.loads(process.stdout.readline())["time"] for _ in range(3)]
        assert times == sorted(times)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WAIT)
        assert (process.returncode, err) == (0, "")


def test_on_a_terminal_it_is_live_until_q() -> None:
    """In a pseudo-terminal; afterwards the terminal is as it was."""
    with sp.Pull(name="top-live", listen="inproc://top-live"):
        inner = f"{sys.executable} -m spworkers.cli top -i 0.1 {os.getpid()}; stty -a"
        terminal = [sys.executable, "-c", "import pty, sys; pty.spawn(['sh', '-c', sys.argv[1]])", inner]
        env = {**ENV, "TERM": "xterm", "COLUMNS": "150", "LINES": "40"}
        process = subprocess.Popen(terminal, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        shown = b""
        while shown.count(b"top-live") < 2:  # it was drawn, and drawn again
            data = process.stdout.read1()  # type: ignore[attr-defined]
            assert data, shown
            shown += data
        process.stdin.write(b"q")
        process.stdin.flush()
        rest, _ = process.communicate(timeout=WAIT)
    assert b"\x1b[?1049l" in rest  # the screen is as it was before
    words = rest.split()
    assert b"icanon" in words
    assert b"echo" in words


def test_a_terminal_that_knows_only_ascii() -> None:
    with sp.Pull(name="top-äscii", listen="inproc://top-ascii"):
        command = [sys.executable, "-m", "spworkers.cli", "top", "--once", str(os.getpid())]
        env = {**ENV, "PYTHONIOENCODING": "ascii"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=WAIT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "top-?scii" in done.stdout


def test_nobody_there() -> None:
    done = run("--once", "1")
    assert done.exit_code == 1
    assert done.output.startswith("error: 1: no program of yours that uses spworkers")
    done = run("--once", "4194305")  # more than any kernel gives
    assert done.exit_code == 1
    assert done.output.startswith("error: there is no process 4194305; ")
    assert json.loads(run("--once", "--json", "1").output)["programs"] == []


@pytest.mark.parametrize("arguments", [["nobody"], ["0"], ["--interval", "0"], ["--nothing"]])
def test_mistakes(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0"), (999, "999"), (1000, "1.0k"), (12_345, "12.3k"), (99_990, "100k"), (999_900, "1.0M"), (5e15, "5000T")],
)
def test_amounts(number: float, shown: str) -> None:
    assert amount(number) == shown
