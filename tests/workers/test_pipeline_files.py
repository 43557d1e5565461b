"""Pipelines from files and into files: what is read, what is written, once, whatever is killed."""

from __future__ import annotations

import bz2
import csv
import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workers.executors import Immediate, stopped

import spworkers as sp

LETTERS = "a0 ,;\"'\t\v\f\x1c\x85\u2028é😀\ufeff\\"
LINE = st.text(LETTERS, max_size=6)
TEXT = st.text(LETTERS + "\r\n", max_size=6)


def same(value: Any) -> Any:
    return value


def through(source: Any, sink: Any, **options: Any) -> sp.Report:
    return sp.Pipeline(**options).read(source).map(same).sink(sink).run(executor=Immediate())


def test_lines_of_files_packed_or_not(tmp_path: Path) -> None:
    text = "one\n\n two \r\nünf"
    opened: list[tuple[str, Callable[..., Any]]] = [("a", open), ("b.gz", gzip.open), ("c.bz2", bz2.open)]
    for name, opener in [*opened, ("d.xz", lzma.open)]:
        with opener(tmp_path / name, "wb") as file:
            file.write(text.encode())
        source = sp.sources.lines(tmp_path / name)
        assert list(source) == list(source) == ["one", "", " two ", "ünf"], "it can be read again"
    assert list(sp.sources.lines([tmp_path / "a", str(tmp_path / "b.gz")])) == ["one", "", " two ", "ünf"] * 2
    assert repr(sp.sources.lines("x")) == "<sources.lines: x>"
    with pytest.raises(FileNotFoundError):
        list(sp.sources.lines(tmp_path / "none"))
    with pytest.raises(sp.BadValueError, match=r"is not ascii: .*give its encoding="):
        list(sp.sources.lines(tmp_path / "a", encoding="ascii"))


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfname,age\r\nAda,36\r\n")
    (tmp_path / "b").write_bytes(b"\xef\xbb\xbf[1]\n")
    assert list(sp.sources.csv(tmp_path / "a")) == [{"name": "Ada", "age": "36"}]
    assert list(sp.sources.lines(tmp_path / "a", encoding="UTF8")) == ["name,age", "Ada,36"]
    assert list(sp.sources.jsonl(tmp_path / "b")) == [[1]]


@settings(deadline=None, max_examples=25)
@given(st.lists(LINE))
def test_lines_there_and_back(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    path = tmp_path_factory.mktemp("lines") / "lines"
    through(lines, sp.sinks.lines(path))
    assert list(sp.sources.lines(path)) == lines


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1))
def test_rows_there_and_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    maps = [{"a": a, "b;": b} for a, b in rows]
    through(maps, sp.sinks.csv(path, fields=["a", "b;"], delimiter=";"))
    source = sp.sources.csv(path, delimiter=";")
    assert list(source) == list(source) == maps
    with path.open(newline="") as file:
        assert list(csv.DictReader(file, delimiter=";")) == maps, "as Python's own module reads it"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, max_examples=25)
@given(st.lists(JSON))
def test_json_there_and_back(tmp_path_factory: pytest.TempPathFactory, values: list[Any]) -> None:
    path = tmp_path_factory.mktemp("json") / "values.jsonl"
    through(values, sp.sinks.jsonl(path))
    assert list(sp.sources.jsonl(path)) == values
    assert len(path.read_text(encoding="utf-8").split("\n")) == len(values) + 1


def test_tables(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('1,"a, b"\n\n2,"two\nlines"\n')
    assert list(sp.sources.csv(path, fields=["n", "text"])) == [
        {"n": "1", "text": "a, b"},
        {"n": "2", "text": "two\nlines"},
    ]
    through([(1, "x"), [2, None]], sp.sinks.csv(path))
    assert path.read_bytes().decode() == "1,x\r\n2,\r\n", "sequences have no names"
    through([], sp.sinks.csv(path, fields=["a", "b"]))
    assert path.read_bytes().decode() == "a,b\r\n"
    assert list(sp.sources.csv(path)) == []
    through([], sp.sinks.csv(path))
    assert path.read_bytes().decode() == ""
    assert list(sp.sources.csv(path)) == []
    through([{"b": 1, "a": 2}, {"a": 3, "b": 4}], sp.sinks.csv(path))
    assert path.read_bytes().decode() == "b,a\r\n1,2\r\n4,3\r\n"


@pytest.mark.parametrize(
    ("text", "read", "says"),
    [
        ("a,b\n1,2\n3\n", sp.sources.csv, "line 3: 1 fields, and there are 2 names"),
        ("a,a\n1,2\n", sp.sources.csv, "names a field twice"),
        ('a,b\n1,"2\n', sp.sources.csv, "is no CSV"),
        ('{"a": 1}\n\n{"a": \n', sp.sources.jsonl, r"line 3 is no JSON.*map\(json.loads\)"),
    ],
)
def test_what_a_file_should_not_have(text: str, read: Any, says: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_text(text)
    with pytest.raises(sp.BadValueError, match=says):
        list(read(tmp_path / "f"))


@pytest.mark.parametrize(
    ("value", "sink", "says"),
    [
        (1, sp.sinks.lines, "1 is no text"),
        ("a\nb", sp.sinks.lines, "more than a line"),
        ({1}, sp.sinks.jsonl, "cannot be written as JSON"),
        (float("nan"), sp.sinks.jsonl, "cannot be written as JSON"),
        ("text", sp.sinks.csv, "is no row"),
        ({"b": 1}, sp.sinks.csv, "has not the fields"),
        ([1, 2], sp.sinks.csv, "has 2 values"),
    ],
)
def test_what_a_file_cannot_have(value: Any, sink: Any, says: str, tmp_path: Path) -> None:
    first = [{"a": 1}] if sink is sp.sinks.csv else []
    with pytest.raises(sp.BadValueError, match=says):
        through([*first, value], sink(tmp_path / "f"))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: sp.sources.lines(3), "3 is no path"),
        (lambda: sp.sources.lines(["a", 3]), "3 is no path"),
        (lambda: sp.sources.csv("a", fields="ab"), "fields is 'ab'"),
        (lambda: sp.sources.csv("a", fields=["b", "b"]), "fields is"),
        (lambda: sp.sources.csv("a", delimiter=", "), "delimiter is ', '"),
        (lambda: sp.sources.jsonl("a", encoding="utf-9"), "encoding is 'utf-9'"),
        (lambda: sp.sinks.lines(3), "3 is no path"),
        (lambda: sp.sinks.lines("a", encoding="utf-9"), "encoding is 'utf-9'"),
        (lambda: sp.sinks.csv("a", fields=[]), "fields is"),
        (lambda: sp.sinks.jsonl("a.gz"), "does not pack"),
        (lambda: sp.Pipeline().sink(sp.sinks.jsonl("a"), batch=3), "writes value by value"),
        (lambda: sp.Pipeline().sink(print, batch=0), "batch is 0"),
    ],
)
def test_mistakes_are_named(make: Any, says: str) -> None:
    with pytest.raises(sp.BadValueError, match=says):
        make()


def test_a_file_is_not_overwritten_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("a\n")
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(sp.BadValueError, match="would overwrite"):
        through(sp.sources.lines(path), sp.sinks.lines(tmp_path / "link"))
    assert path.read_bytes().decode() == "a\n"


@settings(deadline=None, max_examples=40)
@given(kills=st.lists(st.integers(0, 40), max_size=5), kind=st.sampled_from(["csv", "jsonl"]), window=st.integers(1, 9))
def test_killed_runs_write_what_one_writes(
    tmp_path_factory: pytest.TempPathFactory, kills: list[int], kind: str, window: int
) -> None:
    folder = tmp_path_factory.mktemp("killed")
    (folder / "in").write_text("".join(f"{number}\n" for number in range(40)))

    def job(name: str) -> sp.Pipeline:
        read = sp.Pipeline(window=window).read(sp.sources.lines(folder / "in"))
        return read.map(lambda line: {"n": int(line)}, chunksize=1).sink(getattr(sp.sinks, kind)(folder / name))

    job("whole").run(executor=Immediate())
    stopped(lambda executor: job("killed").run(executor=executor, checkpoint=folder / "checkpoint"), kills)
    for _ in range(2):
        job("killed").run(executor=Immediate(), checkpoint=folder / "checkpoint")
        assert (folder / "killed").read_bytes() == (folder / "whole").read_bytes()


def test_a_file_that_was_changed_meanwhile(tmp_path: Path) -> None:
    job = sp.Pipeline().read("ab").map(same).sink(sp.sinks.lines(tmp_path / "f"))

    def run() -> None:
        job.run(executor=Immediate(), checkpoint=tmp_path / "checkpoint")

    run()
    (tmp_path / "f").write_text("a\n")
    with pytest.raises(sp.CheckpointError, match="has 2 bytes, and the checkpoint knows of 4"):
        run()
    (tmp_path / "f").unlink()
    with pytest.raises(sp.CheckpointError, match="is gone"):
        run()


@settings(deadline=None, max_examples=25)
@given(kills=st.lists(st.integers(0, 30), max_size=4), size=st.integers(1, 7))
def test_a_sink_in_batches(tmp_path_factory: pytest.TempPathFactory, kills: list[int], size: int) -> None:
    path = tmp_path_factory.mktemp("batches") / "checkpoint"
    lists: list[list[int]] = []
    job = sp.Pipeline(window=4).read(range(30)).map(same, chunksize=1).sink(lists.append, batch=size)
    stopped(lambda executor: job.run(executor=executor, checkpoint=path), kills)
    job.run(executor=Immediate(), checkpoint=path)
    if not any(kill < 30 for kill in kills):
        assert lists == [list(range(i, min(i + size, 30))) for i in range(0, 30, size)]
    stored = [value for each in lists for value in each]
    assert set(stored) == set(range(30))
    assert all(0 < len(each) <= size for each in lists)
    assert len(stored) - 30 <= (4 + size) * len(kills)


def test_a_batch_goes_when_a_socket_has_nothing_more() -> None:
    with sp.Push(listen="inproc://pipeline-batch") as feed, sp.Pull(dial="inproc://pipeline-batch") as source:
        seen: list[list[int]] = []

        def store(values: list[int]) -> None:
            seen.append(values)
            if sum(map(len, seen)) == 2:
                source.close()

        feed.send(b"a")
        feed.send(b"bc")
        report = sp.Pipeline().read(source).map(len).sink(store, batch=100).run(executor=Immediate())
    assert [value for each in seen for value in each] == [1, 2]
    assert report.read == 2


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
@pytest.mark.parametrize("cut", [False, True])
def test_a_packed_file_that_is_broken(tmp_path: Path, suffix: str, cut: bool) -> None:
    path = tmp_path / f"broken{suffix}"
    whole = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix](os.urandom(1000).hex().encode())
    path.write_bytes(whole[:-20] if cut else b"no")
    with pytest.raises(sp.BadValueError, match=rf"broken\{suffix} cannot be read"):
        list(sp.sources.lines(path))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_named() -> None:
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
        sp.Pipeline().read(["x" * 100_000]).sink(sp.sinks.lines("/dev/full")).run(executor=Immediate())
