"""The typed client that `spworkers stubs` writes."""

from __future__ import annotations

import ast
import dataclasses
import datetime
import enum
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import anyio
import pytest
from examples.programs import ENV

import spworkers as sp
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


@app.handler(name="map")
def drawn(scale: int) -> str:
    return f"a map, 1:{scale}"


@app.handler
def untyped(x, y=1):  # type: ignore[no-untyped-def]
    return x


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    colour: Colour = Colour.RED


@app.handler
def locate(name: str) -> Point | None:
    return Point(3) if name else None


@app.handler
def corners(n: int) -> Iterator[Point]:
    yield from map(Point, range(n))


@app.handler
async def colours(only: Literal[Colour.RED] = Colour.RED) -> list[Colour]:
    return [only]


@app.handler
def wrong() -> Point:
    return "no point"  # type: ignore[return-value]


@app.handler(name="geometry.mirror")
def mirror() -> None: ...


TEXT = client_module(app, "calc:app")


def test_what_it_says() -> None:
    ast.parse(TEXT)
    for line in (
        "class MyCalc(\n    sp.Client,\n    results={\n",
        f'        "locate": {__name__}.Point | None,',
        f'        "corners": {__name__}.Point,',
        f"def colours(self, only: typing.Literal[{__name__}.Colour.RED] = ...) -> list[{__name__}.Colour]: ...",
        "def add(self, a: int, b: int = ..., *, scale: float | None = ...) -> int:",
        '"""Adds."""',
        "def when(self, day: datetime.date, /, mode: typing.Literal['a', 1], *rest: list[bytes | None],"
        " **more: typing.Any) -> dict[str, set[int]]: ...",
        "def count(self, n: int) -> sp.Stream[tuple[int, ...]]: ...",
        "def acount(self) -> sp.Stream[str]: ...",
        "def untyped(self, x: typing.Any, y: typing.Any = ...) -> typing.Any: ...",
        "# By call() only: map, geometry.mirror",
    ):
        assert line in TEXT


@pytest.fixture(scope="module")
def calc() -> Iterator[Any]:
    names: dict[str, Any] = {}
    exec(compile(TEXT, "calc_client.py", "exec"), names)
    with app.serve("inproc://stubs", workers=1, block=False), names["MyCalc"]("inproc://stubs", timeout=30.0) as calc:
        yield calc


def test_it_is_a_client(calc: Any) -> None:
    assert calc.add(1, 2) == 3


def test_results_have_their_types(calc: Any) -> None:
    assert calc.locate("here") == Point(3)
    assert calc.call("locate", "") is None
    assert calc.submit("locate", "here").result() == Point(3)
    assert anyio.run(calc.acall, "colours") == [Colour.RED]
    assert list(calc.corners(2)) == list(calc.stream("corners", 2)) == [Point(0), Point(1)]


def test_a_result_of_another_type_is_told(calc: Any) -> None:
    with pytest.raises(
        sp.GarbledError, match=r"wrong\(\) answered with another type: its result: expected Point, got str"
    ):
        calc.wrong()


def test_a_client_names_its_results(calc: Any) -> None:
    class Places(sp.Client, results={"locate": Point}): ...

    class More(Places, results={"corners": Point}): ...

    with More("inproc://stubs", timeout=30.0) as places:
        assert places.locate("here") == Point(3)
        assert list(places.corners(1)) == [Point(0)]
    with pytest.raises(sp.BadValueError, match=r"the result of locate: .* is no type that a call can carry"):
        type("Wrong", (sp.Client,), {}, results={"locate": object.__init__.__class__})
    with pytest.raises(sp.BadValueError, match=r"results of Wrong is a int; it has to be a mapping"):
        type("Wrong", (sp.Client,), {}, results=3)


@pytest.mark.once
@pytest.mark.slow
def test_a_type_checker_knows_it(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "calc_client.py").write_text(TEXT)
    (tmp_path / f"{__name__}.pyi").write_text(
        "import enum\nclass Point: x: int\nclass Colour(enum.Enum):\n    RED = 'red'\n"
    )
    (tmp_path / "use.py").write_text(
        "from calc_client import MyCalc\n"
        "calc = MyCalc('inproc://x')\n"
        "total: int = calc.add(1, b=2)\n"
        "calc.add('one')\n"
        "for row in calc.count(3):\n    reveal_type(row)\n"
        "for corner in calc.corners(3):\n    corner.y\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "use.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert 'use.py:4: error: Argument 1 to "add"' in done.stdout
    assert "int, ...]" in done.stdout
    assert """use.py:8: error: "Point" has no attribute "y\"""" in done.stdout
    assert "Found 2 errors" in done.stdout


def test_a_file_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "calc.py").write_text("import spworkers as sp\napp = sp.App('calc')\napp.handler(abs, name='size')\n")
    line = [sys.executable, "-m", "spworkers.cli", "stubs", "calc:app", "-o", str(tmp_path / "none" / "x.py")]
    done = subprocess.run(line, cwd=tmp_path, env=ENV, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("x.py cannot be written: No such file or directory\n")
    assert done.stderr.startswith("error: ")
