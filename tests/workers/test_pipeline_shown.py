"""What a pipeline shows of itself: bars while it runs, and a picture of its stages."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from workers.executors import Immediate

import spworkers as sp
from spworkers.workers.pipeline import watching
from spworkers.workers.pipeline.running import BatchStage, WorkStage
from spworkers.workers.pipeline.stages import Batch, Work
from spworkers.workers.pool.terms import terms_of


def three(x: int) -> range:
    return range(3)


def no_twos(x: int) -> bool:
    if x == 2:
        raise ValueError("two")
    return x > 0


def job() -> sp.Pipeline:
    return sp.Pipeline("shown").read(range(40)).flat_map(three).filter(no_twos, ordered=False).batch(7).map(len)


class Recording:
    """Bars that nobody sees."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.shown: list[list[tuple[int, int | None, str]]] = []
        self.closed = 0

    def add(self, title: str, total: int | None) -> Any:
        self.titles.append(title)
        lines: list[tuple[int, int | None, str]] = []
        self.shown.append(lines)

        class Line:
            def show(self, done: int, total: int | None = None, text: str = "") -> None:
                lines.append((done, total, text))

        return Line()

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> Recording:
    bars = Recording()
    monkeypatch.setattr("spworkers.workers.pipeline.pipeline.bars_of", lambda how: bars)
    monkeypatch.setattr(watching, "LOOK", 0.0)
    return bars


def test_a_bar_for_each_stage(bars: Recording) -> None:
    report = job().collect().run(executor=Immediate(), progress=True)
    assert sum(report.result) == 40
    assert bars.titles == ["shown", "  three", "  no_twos", "  batch(7)", "  len"]
    assert bars.closed == 1
    assert [lines[-1][:2] for lines in bars.shown] == [(40, 40), (40, 40), (120, 120), (40, 40), (6, 6)]
    assert "under way, 40 failed" in bars.shown[0][-1][2]
    assert "/s, 0 waiting, 40 failed" in bars.shown[2][-1][2]
    for lines in bars.shown:
        done = [each[0] for each in lines]
        assert done == sorted(done)
        assert len(lines) > 1, "they moved"


def test_bars_of_a_run_that_ends_early_and_one_that_goes_on(bars: Recording, tmp_path: Path) -> None:
    def source() -> Iterator[int]:
        yield from range(10)
        raise LookupError("source")

    def run(items: Any) -> sp.Report:
        pipeline = sp.Pipeline(window=2).read(items).map(abs).collect()
        return pipeline.run(executor=Immediate(), progress="a title", checkpoint=tmp_path / "c")

    with pytest.raises(LookupError):
        run(source())
    assert (bars.titles[0], bars.closed) == ("a title", 1)
    through, total, _ = bars.shown[0][-1]
    assert total is None, "an iterator does not say how many there are"
    assert 0 < through <= 10
    run(range(12))
    assert bars.shown[2][0][0] >= through - 2, "what an earlier run has done counts"
    assert bars.shown[2][-1][:2] == (12, 12)


def stage(kind: str, taken: int, given: int) -> WorkStage:
    work = Work(kind, kind, abs, None, True, terms_of(None, 0, 0, ()))
    made = WorkStage(work, Immediate(), 1, eager=False)
    made.count.taken, made.count.given = taken, given
    return made


def test_what_is_expected_of_each_stage() -> None:
    batch = BatchStage(Batch("batch", 10))
    stages = [stage("map", 10, 9), stage("flat_map", 9, 90), batch, stage("filter", 0, 0), stage("map", 0, 0)]
    assert watching.expected(100, stages) == [100, 90, 900, 90, None]
    assert watching.expected(None, stages) == [None] * 5
    assert watching.expected(3, stages[:1]) == [10], "a source may have had more than it said"


def test_bars_on_a_terminal(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    job().collect().run(executor=Immediate(), progress=True)
    assert capfd.readouterr().err == "", "it is none"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    job().collect().run(executor=Immediate(), progress=True)
    err = capfd.readouterr().err
    assert all(words in err for words in ("shown", "  no_twos", "120/120", "40 failed"))


def test_bars_by_tqdm(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    job().collect().run(executor=Immediate(), progress="tqdm")
    err = capfd.readouterr().err
    assert all(words in err for words in ("shown", "  no_twos", "120/120", "40 failed"))


def test_progress_of_another_kind() -> None:
    source = iter(range(3))
    with pytest.raises(sp.BadValueError, match="progress is 3"):
        sp.Pipeline().read(source).map(abs).collect().run(executor=Immediate(), progress=3)  # type: ignore[arg-type]
    assert next(source) == 0


# --- The picture

PICTURE = """\
shown
  read        [1, 2], key=str
    │
  abs         map abs, 2 workers, timeout 1.5 s, 1 retry
    │
  <lambda>    filter {module}.whole.<locals>.<lambda>, unordered, chunks of 9
    │
  batch(2)    lists of 2
    │
  len         map len
    │
  sink        print"""


def whole() -> sp.Pipeline:
    read = sp.Pipeline("shown").read([1, 2], key=str).map(abs, workers=2, timeout=1.5, retries=1)
    return read.filter(lambda x: x < 2, ordered=False, chunksize=9).batch(2).map(len).sink(print)


def test_a_picture_as_text() -> None:
    graph = whole().graph()
    assert [line.split() for line in str(graph).splitlines()] == [
        line.split() for line in PICTURE.format(module=__name__).splitlines()
    ]
    assert repr(graph) == "<Graph shown: read → abs → <lambda> → batch(2) → len → sink>"
    assert str(sp.Pipeline("empty").graph()) == "empty\n  read"


def test_a_picture_with_the_counts_of_a_run() -> None:
    pipeline = job().collect()
    report = pipeline.run(executor=Immediate())
    lines = str(pipeline.graph(report)).splitlines()
    assert [line.strip("│ ") for line in lines[2::2]] == ["40", "120", "40, 40 failed", "6", "6"]
    with pytest.raises(sp.BadValueError, match="another pipeline"):
        sp.Pipeline().graph(report)
    wrong: Any = "svg"
    with pytest.raises(sp.BadValueError, match="graph: report is 'svg'; it has to be what"):
        sp.Pipeline().graph(wrong)


def test_a_picture_as_svg(tmp_path: Path) -> None:
    graph = whole().graph()
    root = ElementTree.fromstring(graph.svg())
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[:3] == ["shown", "read", "[1, 2], key=str"]
    assert "<lambda>" in texts, "escaped"
    boxes = [element for element in root.iter("{http://www.w3.org/2000/svg}rect") if element.get("rx")]
    assert len(boxes) == 6
    assert all(float(box.get("y", 0)) + 44 <= float(root.get("height", 0)) for box in boxes)
    assert graph._repr_svg_() == graph.svg()
    graph.save(tmp_path / "job.svg")
    graph.save(str(tmp_path / "job.txt"))
    assert (tmp_path / "job.svg").read_text(encoding="utf-8") == graph.svg()
    assert (tmp_path / "job.txt").read_text(encoding="utf-8") == f"{graph}\n"
    with pytest.raises(sp.BadValueError, match=r"has to end in \.svg or \.txt"):
        graph.save("job.png")
