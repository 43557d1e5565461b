"""The command `spworkers run`: what it prints, its exit codes, and that it goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import ENV, HOME, eventually

from spworkers.cli.main import main

WAIT = 30.0
Asked = Callable[..., subprocess.CompletedProcess[str]]

JOBS = """
import time
from pathlib import Path

import spworkers as sp

def number(text):
    return int(text)

def add(so_far, value):
    with open("done", "a") as done:
        done.write(f"{value}\\n")
    return so_far + value

def hold(value):
    if value == "30":
        Path("holds").touch()
        while not Path("go").exists():
            time.sleep(0.01)
    return int(value)

def boom(value):
    raise KeyError(value)

good = sp.Pipeline("good").read(["1", "2"]).map(number, workers=1).fold(add, 0)
bad = sp.Pipeline("bad").read(["1", "x"] * 7).map(number, workers=1).collect()
long = sp.Pipeline("long", window=8).read(map(str, range(60))).map(hold, workers=1).fold(add, 0)
sinks = sp.Pipeline("sinks").read(["1"]).map(number, workers=1).sink(boom)
endless = sp.Pipeline("endless").read(["1"]).map(number)
def burn():
    yield "1"
    raise OSError("disk on fire")

burns = sp.Pipeline("burns").read(burn()).map(number, workers=1).collect()
lost = sp.Pipeline("lost").read(sp.sources.lines("nowhere.txt")).map(number, workers=1).collect()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """This process is where the modules are, and knows none of them afterwards."""
    (tmp_path / "jobs.py").write_text(JOBS)
    (tmp_path / "faulty.py").write_text("import jobs\n1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    terminate = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, terminate)
    for name in ("jobs", "faulty"):
        sys.modules.pop(name, None)


@pytest.fixture
def asked(folder: Path, capfd: pytest.CaptureFixture[str]) -> Asked:
    """As the command would, but in this process: without the half second that its start takes."""

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        with pytest.raises(SystemExit) as ended:
            main(["run", *arguments], prog_name="spworkers")
        shown = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), shown.out, shown.err)

    return ask


def test_a_job_that_goes_through(asked: Asked) -> None:
    done = asked("jobs:good")
    assert (done.returncode, done.stderr) == (0, "")
    head, stage, result = done.stdout.splitlines()
    assert head.startswith("good: 2 read, 0 failed, ")
    assert stage.strip() == "number  2 in, 2 out, 0 failed, 0 retried"
    assert result == "result: 3"


def test_options_of_the_pool_and_a_report_for_programs(asked: Asked, folder: Path) -> None:
    done = asked("jobs:bad", "--workers", "2", "--memory-limit", "2GB", "--json", "--failures", "failed.jsonl")
    assert done.returncode == 1
    facts = json.loads(done.stdout)
    assert (facts["read"], facts["result"], len(facts["failures"])) == (14, [1] * 7, 7)
    assert done.stderr.count("failed: number('x'): ValueError") == 5
    assert "and 2 more" in done.stderr
    assert "Traceback" not in done.stderr
    lines = [json.loads(line) for line in (folder / "failed.jsonl").read_text().splitlines()]
    assert lines == facts["failures"]
    trace = lines[0]["traceback"]
    assert trace.startswith("Traceback (most recent call last)")
    assert "jobs.py" in trace
    assert trace.count("invalid literal") == 1, "the worker's traceback, and nothing else"


def test_a_picture(asked: Asked, folder: Path) -> None:
    done = asked("jobs:good", "--graph")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "good")
    assert "map jobs.number, 1 worker" in done.stdout
    assert asked("jobs:good", "--graph", "good.svg").returncode == 0
    assert (folder / "good.svg").read_text().startswith("<svg")
    assert not (folder / "done").exists(), "nothing was run"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["jobs"], 2, "'jobs' names no job: write module:attribute, words:job for instance"),
        (["jobs.py:good"], 2, "did you mean jobs:good?"),
        (["./jobs.py:good"], 2, "a module's is wanted: jobs:good"),
        (["nowhere:job"], 2, "there is no module 'nowhere'"),
        (["jobs:god"], 2, "did you mean 'good'?"),
        (["jobs:number"], 2, "is no Pipeline but function"),
        (["jobs:endless"], 2, "has no end: use collect()"),
        (["jobs:good", "--workers", "0"], 2, "--workers"),
        (["jobs:good", "--memory-limit", "much"], 2, "--memory-limit"),
        (["jobs:good", "--nothing"], 2, "--nothing"),
        (["jobs:good", "--graph", "good.png"], 2, "has to end in .svg or .txt"),
        (["jobs:good", "--failures", "none/failed"], 2, "none/failed cannot be written: No such file"),
        (["jobs:good", "--checkpoint", "none/checkpoint"], 2, "none/checkpoint: there is no folder none; make it"),
        (["jobs:good", "--checkpoint", "."], 2, "'.' is a directory"),
        (["jobs:good", "--graph", "none/good.svg"], 2, "none/good.svg cannot be written: No such file"),
        (["jobs:good", "--graph", "--json"], 2, "--graph only draws"),
        (["jobs:good", "--workers", "abc"], 2, "'abc' is no whole number"),
        (["jobs:good", "--checkpoint", "jobs.py"], 2, "jobs.py is not a checkpoint"),
        (["jobs:lost"], 1, "nowhere.txt: No such file"),
    ],
)
def test_mistakes_are_said_in_a_sentence(asked: Asked, arguments: list[str], code: int, words: str) -> None:
    done = asked(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("target", "frame", "words"),
    [
        ("jobs:sinks", "in boom", "error: the source or the end of sinks raised KeyError"),
        ("jobs:burns", "in burn", "error: the source or the end of burns raised OSError"),
        ("faulty:job", "1 / 0", "error: importing faulty raised ZeroDivisionError"),
    ],
)
def test_what_the_users_code_raises_comes_with_its_own_frames(
    asked: Asked, target: str, frame: str, words: str
) -> None:
    done = asked(target)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == words
    assert frame in done.stderr
    assert f"{os.sep}spworkers{os.sep}" not in done.stderr.replace(HOME, "")


@pytest.mark.once
def test_a_folder_that_has_another_spworkers(folder: Path) -> None:
    """As a clone of the repository has: the workers import the package that runs, and the folder's jobs."""
    (folder / "spworkers").mkdir()
    (folder / "spworkers" / "__init__.py").write_text("raise ImportError('not compiled')\n")
    start = "import sys; del sys.path[0]; from spworkers.cli.entry import spworkers; spworkers()"  # like the script
    command = [sys.executable, "-c", start, "run", "jobs:good"]
    done = subprocess.run(command, cwd=folder, env=ENV, capture_output=True, text=True, timeout=WAIT, check=False)
    assert (done.returncode, done.stderr, done.stdout.splitlines()[-1:]) == (0, "", ["result: 3"])


@pytest.mark.once
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_job_that_is_stopped_goes_on(asked: Asked, folder: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "spworkers.cli", "run", "jobs:long", "--checkpoint", "kept"]
    with subprocess.Popen(command, cwd=folder, env=ENV, stderr=subprocess.PIPE, text=True) as process:
        eventually(lambda: (folder / "holds").exists() or process.poll() is not None, WAIT)
        process.send_signal(number)
        _, err = process.communicate(timeout=WAIT)
    if number == signal.SIGTERM:
        assert (process.returncode, err) == (1, "error: interrupted; the same command goes on where it was\n")
    (folder / "go").touch()
    done = asked("jobs:long", "-c", "kept")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"result: {sum(range(60))}")
    lines = (folder / "done").read_text().split()
    assert set(lines) == set(map(str, range(60)))
    assert len(lines) - 60 <= 8, "what is done again is a window at most"
