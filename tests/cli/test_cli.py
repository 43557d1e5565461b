"""The command `spworkers`: what it prints, and its exit codes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import runpy
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import ENV, eventually

from spworkers.cli import entry
from spworkers.cli.main import main
from spworkers.devices import device
from spworkers.errors import TaskTimeoutError
from spworkers.sockets import Rep, Req
from spworkers.workers.client import Client

WAIT = 30.0
ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "spworkers.cli"]
Asked = Callable[..., subprocess.CompletedProcess[str]]
# Runs a command on a terminal of its own, whose keys come from stdin.
TERMINAL = [sys.executable, "-c", "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"]

CALC = '''
import os, time
from pathlib import Path
from spworkers.workers.app import App

app = App("calc")

@app.handler
def add(a: int, b: int, *, scale: int = 1) -> int:
    """Adds two numbers.

    And more.
    """
    return (a + b) * scale

@app.handler
def pid() -> int:
    return os.getpid()

@app.handler
def same(value):
    return value

@app.handler
def fail() -> None:
    raise ValueError("no such luck")

@app.handler
def count(n: int):
    yield from range(n)
    if n > 3:
        raise ValueError("no more")

@app.handler
def hold(folder: Path) -> int:
    (folder / f"began-{os.getpid()}").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    return os.getpid()

@app.raw
def reverse(body: bytes) -> bytes:
    return body[::-1]

empty = App("empty")
number = 5
'''


@dataclass
class Served:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    facts: dict[str, Any]

    @property
    def address(self) -> str:
        return str(self.facts["addresses"][0])


def modules(folder: Path) -> Path:
    (folder / "calc.py").write_text(CALC)
    (folder / "broken.py").write_text("from calc import app\n1 / 0\n")
    (folder / "lame.py").write_text(
        "from spworkers.workers.app import App\napp = App('lame')\napp.handler(name='f')(lambda: None)\n"
        "@app.on_start\ndef load(state):\n    raise OSError('no model')\n"
    )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return modules(tmp_path_factory.mktemp("modules"))


@contextlib.contextmanager
def serving(folder: Path, *where: str) -> Iterator[Served]:
    where = where or ("--listen", "tcp://127.0.0.1:0")
    command = [*COMMAND, "serve", "calc:app", *where, "--workers", "2", "--json"]
    process = subprocess.Popen(
        command, cwd=folder, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    try:
        yield Served(process, json.loads(process.stdout.readline()))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        process.communicate(timeout=WAIT)


@pytest.fixture
def served(folder: Path) -> Iterator[Served]:
    """A server of the test's own."""
    with serving(folder) as found:
        yield found


@pytest.fixture(scope="module")
def shared(folder: Path) -> Iterator[Served]:
    """One for all tests that only call it."""
    with serving(folder) as found:
        yield found


def finished(command: list[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=ENV, capture_output=True, text=True, timeout=WAIT, check=False)


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return finished([*COMMAND, *arguments], cwd)


@pytest.fixture
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """This process is where the modules are, and knows none of them afterwards."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield folder
    for name in ("calc", "broken", "lame"):
        sys.modules.pop(name, None)


@pytest.fixture
def asked(capfd: pytest.CaptureFixture[str]) -> Asked:
    """`run`, but in this process: as the command would, without the half second that its start takes."""

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        with pytest.raises(SystemExit) as ended:
            main(arguments, prog_name="spworkers")
        shown = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), shown.out, shown.err)

    return ask


# --- serve


def test_the_parent_is_not_on_a_requests_way(served: Served, tmp_path: Path) -> None:
    """Stopped, it answers nothing; its workers answer, and the dead among them are replaced."""
    with Client(served.address, timeout=WAIT) as client:
        served.process.send_signal(signal.SIGSTOP)
        eventually(lambda: psutil.Process(served.process.pid).status() == psutil.STATUS_STOPPED, WAIT)
        assert client.add(2, 3) == 5
        with Client(served.address, timeout=WAIT) as newcomer:  # who connects meanwhile is served too
            assert {newcomer.pid() for _ in range(10)} == set(served.facts["workers"])
        answer = client.submit("hold", str(tmp_path))
        victim = eventually(lambda: began(tmp_path), WAIT)[0]
        os.kill(victim, signal.SIGKILL)
        (tmp_path / "go").touch()
        assert answer.result(WAIT) != victim
        eventually(lambda: client.pid() not in served.facts["workers"], WAIT)  # the dead one's successor
        assert psutil.Process(served.process.pid).status() == psutil.STATUS_STOPPED


def began(folder: Path) -> list[int]:
    return [int(path.name.partition("-")[2]) for path in folder.glob("began-*")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_server_quietly(served: Served, tmp_path: Path, number: signal.Signals) -> None:
    with Client(served.address, timeout=WAIT) as client:
        answer = client.submit("hold", str(tmp_path))
        worker = eventually(lambda: began(tmp_path), WAIT)[0]
        served.process.send_signal(number)
        (tmp_path / "go").touch()
        assert answer.result(WAIT) == worker  # what was at hand is answered
    out, err = served.process.communicate(timeout=WAIT)
    assert (served.process.returncode, out, err) == (0, "", "")
    assert not any(psutil.pid_exists(pid) for pid in served.facts["workers"])


LIFE = """
import pathlib, time
import spworkers as sp
app = sp.App("life")
app.handler(name="f")(lambda: 1)

@app.on_start
def start(state):
    pathlib.Path("began").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.01)

@app.on_stop
def stop(state):
    pathlib.Path("stopped").touch()
"""


def test_a_signal_at_the_very_begin_is_no_other(tmp_path: Path) -> None:
    """SIGHUP while workers start or end ends nothing; SIGTERM as soon as it says that it serves ends it in order."""
    (tmp_path / "life.py").write_text(LIFE)
    command = [*COMMAND, "serve", "life:app", "-l", "tcp://127.0.0.1:0", "-w", "1"]
    for _ in range(3):
        for name in ("began", "go", "stopped"):
            (tmp_path / name).unlink(missing_ok=True)
        process = subprocess.Popen(command, cwd=tmp_path, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            eventually((tmp_path / "began").exists, WAIT)
            process.send_signal(signal.SIGHUP)
            (tmp_path / "go").touch()
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"serving life on")
            process.send_signal(signal.SIGTERM)
            end = time.monotonic() + WAIT
            while process.poll() is None and time.monotonic() < end:
                process.send_signal(signal.SIGHUP)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.003)
            assert process.returncode == 0
            assert b"Traceback" not in process.communicate()[1]  # the first may have come before the end did
            assert (tmp_path / "stopped").exists()
        finally:
            process.kill()
            process.communicate()


def test_a_hang_up_while_the_command_is_imported_is_nothing() -> None:
    script = """
        import os, signal, sys
        from spworkers.cli.entry import spworkers

        class Finder:
            def find_spec(self, name, path, target=None):
                if name == "spworkers.cli.main":
                    os.kill(os.getpid(), signal.SIGHUP)

        sys.meta_path.insert(0, Finder())
        sys.argv = ["spworkers", "serve", "--help"]
        spworkers()
    """
    done = finished([sys.executable, "-c", textwrap.dedent(script)])
    assert done.returncode == 0, done.stderr
    assert "SIGHUP replaces the workers" in done.stdout


def test_ctrl_c_on_a_terminal_is_quiet(folder: Path) -> None:
    """There the whole foreground group gets the signal, not the parent alone."""
    command = [*TERMINAL, *COMMAND, "serve", "calc:app", "-l", "tcp://127.0.0.1:0", "-w", "2"]
    terminal = subprocess.Popen(command, cwd=folder, env=ENV, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert terminal.stdin is not None
    assert terminal.stdout is not None
    shown = terminal.stdout.readline()
    assert shown.startswith(b"serving calc on tcp://127.0.0.1:")
    assert shown.endswith(b" with 2 workers\r\n")
    terminal.stdin.write(b"\x03")
    terminal.stdin.flush()
    rest, _ = terminal.communicate(timeout=WAIT)
    assert (terminal.returncode, rest.strip()) == (0, b"^C")


def test_a_second_ctrl_c_ends_it_at_once(served: Served, tmp_path: Path) -> None:
    with Client(served.address, timeout=WAIT) as client:
        client.submit("hold", str(tmp_path))
        eventually(lambda: began(tmp_path), WAIT)
        begin = time.monotonic()
        served.process.send_signal(signal.SIGINT)
        eventually(lambda: "BusyError" in outcome(client), WAIT)
        served.process.send_signal(signal.SIGINT)
        _, err = served.process.communicate(timeout=WAIT)
        assert time.monotonic() - begin < 8  # --drain is 10
        assert "Traceback" not in err


@pytest.mark.parametrize("how", ["hup", "reload"])
def test_new_code_is_taken_up_without_an_end(folder: Path, how: str) -> None:
    module = folder / f"news_{how}.py"
    text = (
        "import time\nimport spworkers as sp\napp = sp.App('news')\n\n@app.handler\ndef edition():\n    return {!r}\n"
        "@app.handler(timeout={}, retries=0)\ndef wait(seconds: float):\n    time.sleep(seconds)\n"
    )
    module.write_text(text.format("morning", 0.3))
    command = [*COMMAND, "serve", f"news_{how}:app", "-l", "tcp://127.0.0.1:0", "-w", "1", "--json"]
    more = ["--metrics", "127.0.0.1:0"] if how == "hup" else ["--reload"]
    environment = {**ENV, "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        [*command, *more], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        with Client(facts["addresses"][0], timeout=WAIT) as client:
            assert client.edition() == "morning"
            module.write_text(text.format("evening edition", 60))
            if how == "hup":
                process.send_signal(signal.SIGHUP)
            eventually(lambda: client.edition() == "evening edition", WAIT)
            eventually(lambda: waited(client, 0.5), WAIT)  # its time is that of the new code, once all are replaced
            if how == "hup":
                with urllib.request.urlopen(f"http://{facts['metrics']}/metrics", timeout=WAIT) as page:
                    assert b"spworkers_worker_answers_total" in page.read()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=WAIT)
        assert process.returncode == 0
        assert "the workers were replaced" in err
    finally:
        process.kill()
        process.communicate()


def waited(client: Client, seconds: float) -> bool:
    with contextlib.suppress(TaskTimeoutError):
        client.wait(seconds)
        return True
    return False


def outcome(client: Client) -> str:
    try:
        return repr(client.call("add", 1, 2, timeout=1.0))
    except Exception as error:
        return repr(error)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere:app"], 2, "there is no module 'nowhere'"),
        (["calc"], 2, "module:attribute"),
        (["./calc.py:app"], 2, "a module's is wanted: calc:app"),
        (["../calc:app"], 2, "a module's is wanted: calc:app"),
        (["calc.py:app"], 2, "did you mean calc:app?"),
        (["calc:ap"], 2, "did you mean 'app'"),
        (["calc:number"], 2, "is no App but int"),
        (["calc:empty"], 2, "no handler to serve"),
        (["calc:app", "--workers", "0"], 2, "--workers"),
        (["calc:app", "--timeout", "0"], 2, "--timeout"),
        (["calc:app", "--nothing"], 2, "--nothing"),
        (["calc:app", "--listen", "nowhere"], 2, "nowhere"),
        (["broken:app"], 1, "importing broken raised ZeroDivisionError"),
        (["lame:app"], 1, "could not start: no model"),
        (["lame:app", "--metrics", "nowhere"], 2, "metrics wants an address like"),
    ],
)
def test_mistakes_of_serve(in_folder: Path, asked: Asked, arguments: list[str], code: int, words: str) -> None:
    command = ["serve", "--listen", "tcp://127.0.0.1:0", "--workers", "1", *arguments]
    done = asked(*command) if code == 2 else run(*command, cwd=in_folder)
    assert done.returncode == code
    assert words in done.stderr
    assert done.stdout == ""
    assert ("Traceback" in done.stderr) == (code == 1)
    assert "spworkers/" not in done.stderr.replace(str(ROOT / "tests"), "")  # a traceback shows the user's frames only


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["serve", "--help"]])
def test_an_output_that_takes_nothing(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "spworkers.cli", *arguments]
        done = subprocess.run(command, env=ENV, stdout=full, stderr=subprocess.PIPE, text=True, timeout=WAIT)
    assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")


def test_serve_needs_an_address(in_folder: Path, asked: Asked) -> None:
    done = asked("serve", "calc:app")
    assert done.returncode == 2
    assert "--listen" in done.stderr
    done = asked("serve", "calc:app", "--listen", "inproc://x")
    assert done.returncode == 2
    assert "inproc://x is for this process alone" in done.stderr


@pytest.mark.alike
def test_workers_dial_in_to_a_broker_that_starts_later(folder: Path, tmp_path: Path) -> None:
    inside = f"ipc://{tmp_path}/broker"
    with serving(folder, "--dial", inside) as served:
        assert (served.facts["addresses"], served.facts["dials"]) == ([], [inside])
        with Rep(raw=True, listen=f"ipc://{tmp_path}/front") as front, Req(raw=True, listen=inside) as back:
            with device(front, back), Client(front.listeners[0].address, timeout=WAIT) as client:
                assert client.add(2, 3) == 5


def test_an_address_in_use(shared: Served, folder: Path) -> None:
    done = run("serve", "calc:app", "--listen", shared.address, "--workers", "1", cwd=folder)
    assert done.returncode == 1
    assert "ddress already in use" in done.stderr
    assert "Traceback" not in done.stderr


# --- call


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["add", "2", "3"], "5"),
        (["add", "-2", "3"], "1"),
        (["add", "2", "3", "-k", "scale=10"], "50"),
        (["add", "2", "3", "--json"], '{"value": 5}'),
        (["--timeout", "20", "same", "two words"], "two words"),
        (["same", '"2"'], "2"),
        (["same", '["a", {"b": null}]'], '["a", {"b": null}]'),
        (["same", "NaN"], "NaN"),
        (["same", "null"], "null"),
        (["same", "grüße"], "grüße"),
        (["count", "3"], "0\n1\n2"),
        (["count", "2", "--json"], '{"value": 0}\n{"value": 1}'),
    ],
)
def test_call(shared: Served, asked: Asked, arguments: list[str], shown: str) -> None:
    done = asked("call", shared.address, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, shown + "\n", "")


def test_call_as_a_process(shared: Served) -> None:
    done = run("call", shared.address, "add", "2", "3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "5\n", "")


def test_call_without_a_name_shows_what_is_served(shared: Served, asked: Asked) -> None:
    done = asked("call", shared.address)
    assert done.stdout.startswith(
        "add(a: int, b: int, *, scale: int = 1) -> int\n    Adds two numbers.\npid() -> int\n"
    )
    names = [each["name"] for each in json.loads(asked("call", shared.address, "--json").stdout)["value"]]
    assert names == ["add", "pid", "same", "fail", "count", "hold"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["fail"], 1, "ValueError: no such luck"),
        (["add", "two", "3"], 2, "a: expected int, got str 'two'"),
        (["ad", "2", "3"], 2, "did you mean 'add'"),
        (["add", "2", "3", "-k", "scale"], 2, "NAME=VALUE"),
        (["--timeout", "0", "pid"], 2, "--timeout"),
        (["--tiemout", "add", "2", "3"], 2, "--tiemout"),
    ],
)
def test_mistakes_of_call(shared: Served, asked: Asked, arguments: list[str], code: int, words: str) -> None:
    done = asked("call", shared.address, *arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert done.stdout == ""
    assert ("Traceback" in done.stderr) == (arguments == ["fail"])  # the worker's


def test_a_generator_that_raises_has_printed_its_items(shared: Served, asked: Asked) -> None:
    done = asked("call", shared.address, "count", "4")
    assert (done.returncode, done.stdout) == (1, "0\n1\n2\n3\n")
    assert "ValueError: no more" in done.stderr


def test_errors_as_json(shared: Served, asked: Asked) -> None:
    done = asked("call", shared.address, "fail", "--json")
    error = json.loads(done.stdout)["error"]
    assert (error["name"], error["type"], error["message"]) == ("RemoteError", "ValueError", "no such luck")
    assert (done.returncode, done.stderr) == (1, "")


def test_nobody_there(asked: Asked) -> None:
    done = asked("call", "tcp://127.0.0.1:1", "add")
    assert done.returncode == 1
    assert done.stderr.startswith("error: dial tcp://127.0.0.1:1")
    assert done.stderr.endswith("; start the listener first\n"), "of Python's arguments it does not speak"
    assert "give --cacert FILE" in asked("call", "tls+tcp://127.0.0.1:1", "add").stderr
    assert asked("call", "nowhere", "add").returncode == 2


# --- the rest


def test_info(asked: Asked) -> None:
    done = asked("info")
    assert done.returncode == 0
    assert done.stdout.startswith("spworkers ")
    facts = json.loads(asked("info", "--json").stdout)
    assert facts["dependencies"]["msgpack"]
    assert set(facts["features"]) >= {"event loop", "protocols compiled", "shared memory"}


@pytest.mark.parametrize("command", [[], ["serve"], ["call"], ["info"]])
def test_help(asked: Asked, command: list[str]) -> None:
    done = asked(*command, "--help")
    assert done.returncode == 0
    assert "Usage: spworkers" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["top", "-i", "nan"], "nan is no time"),
        (["top", "-i", "inf", "--json"], "inf is no time"),
        (["call", "tcp://127.0.0.1:1", "add", "--timeout", "1e300"], "1e300 is no time"),
        (["call", "tcp://127.0.0.1:1", "add", "--timeout", "x"], "'x' is no time: give seconds"),
        (["serve", "calc:app", "-l", "tcp://127.0.0.1:0", "--drain", "nan"], "nan is no time"),
        (["serve", "calc:app", "-l", "tcp://127.0.0.1:0", "--retries", "9" * 30], "is not in the range"),
        (["bench", "inproc_lat", "9" * 30, "1"], "is not in the range"),
    ],
)
def test_numbers_that_are_none(asked: Asked, arguments: list[str], words: str) -> None:
    done = asked(*arguments)
    assert done.returncode == 2
    assert words in done.stderr


@pytest.mark.parametrize(("begin", "code", "said"), [(entry.spworkers, 1, "Aborted!\n"), (entry.macat, 130, "")])
def test_ctrl_c_before_a_command_has_begun(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    begin: Callable[[], None],
    code: int,
    said: str,
) -> None:
    def interrupted(**arguments: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("spworkers.cli.main.main", interrupted)
    monkeypatch.setattr("spworkers.cli.macat.app.main", interrupted)
    with pytest.raises(SystemExit) as ended:
        begin()
    assert (ended.value.code, capsys.readouterr().err) == (code, said)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (OSError(errno.EACCES, "Permission denied", "/there"), "/there: Permission denied"),
        (MemoryError(), "there is not enough memory for that"),
    ],
)
def test_what_the_machine_lacks_is_said(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, error: BaseException, words: str
) -> None:
    def refuse(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("spworkers.cli.info.collect", refuse)
    done = asked("info")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {words}\n")


def test_version(asked: Asked) -> None:
    assert asked("--version").stdout.startswith("spworkers, version ")


@pytest.mark.parametrize("module", ["spworkers", "spworkers.cli"])
def test_it_runs_as_a_module(module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [module, "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__", alter_sys=False)
    assert (ended.value.code, capsys.readouterr().out[:19]) == (0, "spworkers, version ")
