"""Pipelines with a checkpoint: whatever is killed, nothing is skipped, and little is done again."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workers.executors import Immediate, stopped

import spworkers as sp
from spworkers.testing import eventually
from spworkers.workers.pipeline.checkpoint import Checkpoint

WAIT = 60.0
PROGRAM = Path(__file__).with_name("pipeline_job.py")


def no_fives(x: int) -> int:
    if x == 5:
        raise ValueError("five")
    return x


def job(items: list[int], window: int, sizes: list[int]) -> sp.Pipeline:
    job = sp.Pipeline("job", window=window).read(items).map(no_fives).flat_map(lambda x: range(x % 4))
    for size in sizes:
        job = job.batch(size).map(tuple, ordered=False)
    return job


@settings(deadline=None, max_examples=40)
@given(
    items=st.lists(st.integers(0, 7), max_size=30),
    kills=st.lists(st.integers(0, 25), max_size=5),
    sizes=st.sampled_from([[], [2], [3, 2]]),
    spare=st.integers(0, 9),
    fold=st.booleans(),
)
def test_killed_runs_give_together_what_one_gives(
    tmp_path_factory: pytest.TempPathFactory,
    items: list[int],
    kills: list[int],
    sizes: list[int],
    spare: int,
    fold: bool,
) -> None:
    """`collect` and `fold` have each item once."""
    path = tmp_path_factory.mktemp("checkpoint") / "job.ckpt"
    plain = job(items, 6 + spare, sizes)
    whole = plain.fold(lambda so_far, value: [*so_far, value], []) if fold else plain.collect()
    expected = whole.run(executor=Immediate())
    stopped(lambda executor: whole.run(executor=executor, checkpoint=path), kills)
    for _ in range(2):  # a run that was through has nothing left to do
        report = whole.run(executor=Immediate(), checkpoint=path)
        assert report.result == expected.result
        assert report.read == len(items)
        assert report.failures.items() == expected.failures.items() == [5] * items.count(5)
        assert [stage.given for stage in report.stages] == [stage.given for stage in expected.stages]


@settings(deadline=None, max_examples=40)
@given(kills=st.lists(st.integers(0, 60), max_size=6), window=st.integers(1, 12))
def test_a_sink_has_everything_and_little_twice(
    tmp_path_factory: pytest.TempPathFactory, kills: list[int], window: int
) -> None:
    path = tmp_path_factory.mktemp("checkpoint") / "job.ckpt"
    stored: list[int] = []
    job = sp.Pipeline(window=window).read(range(50)).map(abs).map(abs).sink(stored.append)
    stopped(lambda executor: job.run(executor=executor, checkpoint=path), kills)
    job.run(executor=Immediate(), checkpoint=path)
    assert set(stored) == set(range(50))
    assert len(stored) - 50 <= window * len(kills)


def run(args: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(PROGRAM), *args], start_new_session=True)


def beyond(stored: Path, least: int, process: subprocess.Popen[bytes]) -> bool:
    return stored.stat().st_size > least or process.poll() is not None


@pytest.mark.slow
def test_everything_is_killed_at_random_instants(tmp_path: Path) -> None:
    """SIGKILL of the program and all of its processes, until a run is through."""
    stored, checkpoint = tmp_path / "stored", tmp_path / "ckpt"
    stored.touch()
    chance = random.Random(7)
    kills = 0
    for _ in range(6):
        before = stored.stat().st_size
        process = run([str(stored), str(checkpoint)])
        least = before + chance.randrange(1, 400)
        eventually(partial(beyond, stored, least, process), WAIT)
        kills += process.poll() is None
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait(WAIT)
    assert kills > 0
    assert run([str(stored), str(checkpoint)]).wait(WAIT) == 0
    lines = Counter(stored.read_text().split())
    assert set(lines) == {str(number) for number in range(600)}
    assert sum(lines.values()) - 600 <= 20 * kills
    assert (tmp_path / "ckpt.sum").read_text() == str(sum(range(600)))


def test_items_are_known_by_their_keys(tmp_path: Path) -> None:
    """What has come to the source meanwhile is done, wherever it stands."""
    path = tmp_path / "c"
    stored: list[str] = []

    def job(names: list[str]) -> sp.Report:
        pipeline = sp.Pipeline().read(names, key=lambda name: (Path(name), 1)).map(str.upper).sink(stored.append)
        return pipeline.run(executor=Immediate(), checkpoint=path)

    job(["b", "d"])
    job(["a", "b", "c", "d"])
    assert stored == ["B", "D", "A", "C"]
    with pytest.raises(sp.CheckpointError, match="two items have the key"):
        job(["x", "x"])
    with pytest.raises(sp.CheckpointError, match="needs a text"):
        sp.Pipeline().read([1], key=lambda x: [x]).map(str.upper).sink(print).run(
            executor=Immediate(), checkpoint=tmp_path / "d"
        )


def collect(name: str = "job") -> sp.Pipeline:
    return sp.Pipeline(name).read([1, 2]).map(abs).collect()


def test_a_checkpoint_of_another_pipeline(tmp_path: Path) -> None:
    path = tmp_path / "c"
    collect().run(executor=Immediate(), checkpoint=path)
    with pytest.raises(
        sp.CheckpointError, match=r"read → abs → collect, and this is read → abs → batch\(2\) → collect"
    ):
        sp.Pipeline().read([1]).map(abs).batch(2).collect().run(executor=Immediate(), checkpoint=path)
    assert collect().run(executor=Immediate(), checkpoint=str(path)).result == [1, 2]


def test_it_is_for_its_owners_eyes_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "c"
    before = os.umask(0)
    try:
        checkpoint = Checkpoint(path, ["plan"])
    finally:
        os.umask(before)
    checkpoint.save("cut", [], [])
    assert {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} in (
        {"c": 0o600, "c-wal": 0o600},
        {"c": 0o600, "c-wal": 0o600, "c-shm": 0o600},
    )
    checkpoint.close()
    path.chmod(0o640)  # what its owner has said counts
    Checkpoint(path, ["plan"]).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_full_disk(tmp_path: Path) -> None:
    """SQLite's own limit says the same as a disk does; the cut before stays."""
    checkpoint = Checkpoint(tmp_path / "c", ["plan"])
    checkpoint.save("one", [], [])
    checkpoint._db.execute("pragma max_page_count = 8")
    with pytest.raises(sp.CheckpointError, match=r"c: database or disk is full; the run can go on") as caught:
        checkpoint.save("two", ["x" * 100_000], [])
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    checkpoint.close()
    again = Checkpoint(tmp_path / "c", ["plan"])
    assert (again.load(), again.results()) == ("one", [])
    again.close()


def test_no_checkpoint(tmp_path: Path) -> None:
    text, database = tmp_path / "text", tmp_path / "database"
    text.write_text("something else, which is longer than the head of a database " * 20)
    with sqlite3.connect(database) as db:
        db.execute("create table users (name text)")
    db.close()
    for path, says in [(text, "not a checkpoint"), (database, "not a checkpoint"), (tmp_path, "that is a folder")]:
        with pytest.raises(sp.CheckpointError, match=says):
            collect().run(executor=Immediate(), checkpoint=path)
    assert text.read_text().startswith("something else")


def test_two_runs_at_once(tmp_path: Path) -> None:
    path = tmp_path / "c"

    def source() -> Iterator[int]:
        with pytest.raises(sp.CheckpointError, match="in use by another run"):
            sp.Pipeline().read([1]).map(abs).collect().run(executor=Immediate(), checkpoint=path)
        yield 1

    assert sp.Pipeline().read(source()).map(abs).collect().run(executor=Immediate(), checkpoint=path).result == [1]


@pytest.mark.parametrize("make", [lambda: iter(range(9)), lambda: (x for x in range(9)), lambda: map(abs, range(9))])
def test_an_iterator_that_was_read_cannot_be_read_again(tmp_path: Path, make: Callable[[], Iterator[int]]) -> None:
    """What a run that ended early had not read would be skipped, and nobody told."""

    stored: list[int] = []
    room = 3

    def store(item: int) -> None:
        if item >= room:
            raise OSError("no room")
        stored.append(item)

    def job() -> sp.Pipeline:
        return sp.Pipeline(window=2).read(make()).map(abs).sink(store)

    path = tmp_path / "c"
    first = job()
    with pytest.raises(OSError, match="no room"):
        first.run(executor=Immediate(), checkpoint=path)
    room = 100
    with pytest.raises(sp.UnsupportedOptionError, match="gives its items once"):
        first.run(executor=Immediate(), checkpoint=path)
    job().run(executor=Immediate(), checkpoint=path)
    assert sorted(set(stored)) == list(range(9))


def test_what_lies_in_a_sockets_queue_is_not_through_yet(tmp_path: Path) -> None:
    path = tmp_path / "c"
    with sp.Push(listen="tcp://127.0.0.1:0") as push, ThreadPoolExecutor(1) as thread:
        job = sp.Pipeline(window=4).read([b"one", b"two", b"three"]).map(bytes.upper).sink(push)
        report = thread.submit(job.run, executor=Immediate(), checkpoint=path)
        eventually(lambda: push._port.tx.queued == 3)
        assert not report.done()
        with sp.Pull(dial=push.listeners[0].address, recv_deadline=20) as pull:
            assert [pull.recv() for _ in range(3)] == [b"ONE", b"TWO", b"THREE"]
        assert report.result(20).read == 3


def test_what_cannot_be_saved_or_read_again(tmp_path: Path) -> None:
    with pytest.raises(sp.CheckpointError, match="cannot be pickled"):
        sp.Pipeline().read([1]).map(lambda x: lambda: x).collect().run(executor=Immediate(), checkpoint=tmp_path / "c")
    with sp.Pull(listen="inproc://checkpoint") as pull:
        with pytest.raises(sp.UnsupportedOptionError, match="cannot be read again"):
            sp.Pipeline().read(pull).map(len).collect().run(executor=Immediate(), checkpoint=tmp_path / "d")
    with pytest.raises(sp.UnsupportedOptionError, match="items given to run"):
        collect().run([1], executor=Immediate(), checkpoint=tmp_path / "e")
    assert not (tmp_path / "d").exists()


def test_a_cut_is_worth_its_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each holds the whole window: one for every few items would make the time grow with its square."""
    saved = 0
    save = Checkpoint.save

    def counting(*arguments: Any) -> None:
        nonlocal saved
        saved += 1
        save(*arguments)

    monkeypatch.setattr(Checkpoint, "save", counting)
    monkeypatch.setattr("spworkers.workers.pipeline.engine.SAVE_AFTER", WAIT)
    with ThreadPoolExecutor(1) as one:
        job = sp.Pipeline(window=200).read(range(2000)).map(abs, chunksize=1).collect()
        assert job.run(executor=one, checkpoint=tmp_path / "c").result == list(range(2000))
    assert 2000 / 200 <= saved <= 2000 / 50 + 1
