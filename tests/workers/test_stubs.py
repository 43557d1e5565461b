"""The typed client that `spworkers stubs` writes."""

from __future__ import annotations

import ast
import datetime
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import pytest
from examples.programs import ENV

from spworkers.workers.app import App
from spworkers.workers.stubs import client_module

app = App("my calc")


@app.handler
def add(a: int, b: int = 0, *, scale: Optional[float] = None) -> int:  # noqa: UP045  # both spellings are shown
    """Adds.

    More of it.
    """
    return a + b


@app.handler
def when(day: datetime.date, /, mode: Literal["a", 1], *rest: list[bytes | None], **more: Any) -> dict[str, set[int]]:
    return {}


@app.handler
def count(n: Annotated[int, "up to"], *, state: Any) -> Iterator[tuple[int, ...]]:
    yield (n,)


@app.handler
async def acount() -> AsyncIterator[str]:
    yield ""


@app.handler
def untyped(x, y=1):  # type: ignore[no-untyped-def]
    return x


@app.handler(name="geometry.mirror")
def mirror() -> None: ...


TEXT = client_module(app, "calc:app")


def test_what_it_says() -> None:
    ast.parse(TEXT)
    for line in (
        "class MyCalc(sp.Client):",
        "def add(self, a: int, b: int = ..., *, scale: float | None = ...) -> int:",
        '"""Adds."""',
        "def when(self, day: datetime.date, /, mode: typing.Literal['a', 1], *rest: list[bytes | None],"
        " **more: typing.Any) -> dict[str, set[int]]: ...",
        "def count(self, n: int) -> sp.Stream[tuple[int, ...]]: ...",
        "def acount(self) -> sp.Stream[str]: ...",
        "def untyped(self, x: typing.Any, y: typing.Any = ...) -> typing.Any: ...",
        "# By call() only: geometry.mirror",
    ):
        assert line in TEXT


def test_it_is_a_client() -> None:
    names: dict[str, Any] = {}
    exec(compile(TEXT, "calc_client.py", "exec"), names)
    with app.serve("inproc://stubs", workers=1, block=False), names["MyCalc"]("inproc://stubs", timeout=30.0) as calc:
        assert calc.add(1, 2) == 3


@pytest.mark.once
@pytest.mark.slow
def test_a_type_checker_knows_it(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "calc_client.py").write_text(TEXT)
    (tmp_path / "use.py").write_text(
        "from calc_client import MyCalc\n"
        "calc = MyCalc('inproc://x')\n"
        "total: int = calc.add(1, b=2)\n"
        "calc.add('one')\n"
        "for row in calc.count(3):\n    reveal_type(row)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "use.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert 'use.py:4: error: Argument 1 to "add"' in done.stdout
    assert "int, ...]" in done.stdout
    assert "Found 1 error" in done.stdout


def test_a_file_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "calc.py").write_text("import spworkers as sp\napp = sp.App('calc')\napp.handler(abs, name='size')\n")
    line = [sys.executable, "-m", "spworkers.cli", "stubs", "calc:app", "-o", str(tmp_path / "none" / "x.py")]
    done = subprocess.run(line, cwd=tmp_path, env=ENV, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("x.py cannot be written: No such file or directory\n")
    assert done.stderr.startswith("error: ")
