"""The examples for asyncio and trio."""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys

import pytest
from examples.programs import EXAMPLES, Program


def test_with_asyncio() -> None:
    with Program("with_asyncio.py", "25") as program:
        (line,) = program.ended()
    assert re.fullmatch(r"25 replies in \d+\.\d\d s, the last one: REQUEST 24", line)


@pytest.mark.skipif(not importlib.util.find_spec("trio"), reason="trio is not installed")
def test_with_trio() -> None:
    with Program("with_trio.py") as program:
        lines = program.ended()
    assert sorted(lines) == ["sport: four to two", "sport: rain stops play", "weather: rain"]
    assert [line for line in lines if line.startswith("sport")] == ["sport: four to two", "sport: rain stops play"]


@pytest.mark.parametrize(
    ("example", "missing", "command"),
    [("with_trio.py", "trio", "pip install trio"), ("dask_job.py", "distributed", "pip install 'spworkers[dask]'")],
)
def test_what_an_example_needs_is_said(
    example: str, missing: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)  # an import of it raises ModuleNotFoundError
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / example))
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.endswith(f": {command}\n")
    assert said.count("\n") == 1


def test_an_argument_of_an_example_that_takes_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["handlers.py", "bogus"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / "handlers.py"))["main"]()
    assert ended.value.code == 2
    assert "unrecognized arguments: bogus" in capsys.readouterr().err
