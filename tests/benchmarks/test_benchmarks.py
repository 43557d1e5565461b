"""The benchmark runner itself: what it makes of figures, and one short run of the one peer that is always there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="the benchmarks are in the source tree only"),
    pytest.mark.slow,
    pytest.mark.once,
]


@pytest.fixture(autouse=True)
def _source_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def measured(value: float) -> Any:
    from benchmarks.runner import Measurement

    return Measurement(value=value, p99=2 * value, rate=1000.0, cpu_us=5.0, count=100, seconds=0.1, gc=True)


def results(case: str, **rounds: list[float | None]) -> Any:
    from benchmarks.contract import CASES
    from benchmarks.runner import Results

    runs = {peer: [None if value is None else measured(value) for value in values] for peer, values in rounds.items()}
    return Results(CASES[case], runs, [])


def test_ratio_of_rates_is_taken_within_each_round() -> None:
    from benchmarks.report import ratio

    found = ratio(
        results("inflight16_raw", spworkers=[10.0, 40.0, 90.0], pynng=[10.0, 20.0, 30.0]), "spworkers", "pynng"
    )
    assert found is not None
    assert (found.median, found.least, found.greatest) == (2.0, 1.0, 3.0)


def test_ratio_of_times_says_how_many_times_shorter() -> None:
    from benchmarks.report import ratio

    found = ratio(results("reqrep_roundtrip", spworkers=[50.0], pynng=[100.0]), "spworkers", "pynng")
    assert found is not None
    assert found.median == 2.0


def test_a_round_in_which_one_failed_is_left_out_of_the_ratio() -> None:
    from benchmarks.report import ratio, summary

    some = results("inflight16_raw", spworkers=[10.0, None, 30.0], pynng=[10.0, 10.0, None])
    found = ratio(some, "spworkers", "pynng")
    assert found is not None
    assert found.greatest == 1.0
    assert summary(some)["spworkers"]["rounds"] == 2
    assert ratio(results("inflight16_raw", spworkers=[None], pynng=[1.0]), "spworkers", "pynng") is None


def test_a_peer_that_cannot_play_a_case_is_left_out_with_the_reason() -> None:
    from benchmarks.contract import CASES
    from benchmarks.runner import present

    names, notes = present(["pynng", "sockets"], CASES["inflight16_polled"])
    assert names == ["sockets"]
    assert notes[0].startswith("pynng is left out: ")


def test_every_peer_that_is_here_plays_every_case() -> None:
    from benchmarks.contract import CASES
    from benchmarks.peers import PEERS
    from benchmarks.runner import present

    for case in CASES.values():
        names, _ = present(list(PEERS), case)
        assert "spworkers" in names
        assert ("sockets" in names) == (case.lacks("sockets") is None)
        for name in {"sockets", "spworkers"} & set(names):
            assert case.name in PEERS[name].forms()


def test_a_short_run_writes_what_it_found(tmp_path: Path) -> None:
    from benchmarks.contract import CASES

    file = tmp_path / "out.json"
    done = run("run", "--peer", "sockets", "--rounds", "2", "--seconds", "0.05", "--json", str(file))
    assert done.returncode == 0, done.stderr
    document = json.loads(file.read_text())
    for name, case in document["cases"].items():
        assert f"### {name}" in done.stdout
        if CASES[name].lacks("sockets"):
            assert "sockets" not in case["rounds"]
            continue
        runs = case["rounds"]["sockets"]
        assert len(runs) == 2
        assert all(one["count"] > 0 and one["cpu_us"] >= 0 and one["gc"] for one in runs)
        value = case["summary"]["sockets"]["value"]
        assert value["least"] <= value["median"] <= value["greatest"]
    assert document["cases"]["reqrep_roundtrip"]["summary"]["sockets"]["p99"]["median"] > 0


def test_spworkers_takes_part() -> None:
    from benchmarks.contract import CASES

    done = run("run", "--peer", "spworkers", "--peer", "sockets", "--rounds", "1", "--seconds", "0.25")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stderr
    assert done.stdout.count("| spworkers |") == len(CASES)
    assert done.stdout.count("| sockets |") == sum(not case.lacks("sockets") for case in CASES.values())


def test_a_peer_that_fails_is_noted_and_the_exit_code_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer whose server cannot start: its module is there, and breaks."""
    (tmp_path / "pynng.py").write_text("raise RuntimeError('broken on purpose')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", ""))))
    done = run(
        "run", "--peer", "pynng", "--peer", "sockets", "--case", "inflight16_raw", "--rounds", "1", "--seconds", "0.05"
    )
    assert done.returncode == 1
    assert "* round 1: pynng inflight16_raw serve ended with status 1: RuntimeError: broken on purpose" in done.stdout
    assert "| sockets |" in done.stdout


def test_instructions_need_whole_batches() -> None:
    done = run("instructions", "--messages", "100")
    assert done.returncode == 2
    assert "100" in done.stderr or "valgrind" in done.stderr


def test_pools_side_by_side() -> None:
    line = [sys.executable, "-m", "benchmarks.pools", "--rounds", "1", "--scale", "0.02"]
    peers = ["--peer", "spworkers", "--peer", "ProcessPoolExecutor fork", "--peer", "multiprocessing.Pool fork"]
    path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
    done = subprocess.run(
        [*line, *peers],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [row.split(" | ") for row in done.stdout.splitlines()]
    assert rows[0][1:] == ["spworkers", *peers[3::2], "spworkers is better by |"]
    assert len(rows) == 13
    # So short a run may take less processor time than the system's clock shows.
    assert all(float(row[1].replace(",", "")) > 0 or "processor time" in row[0] for row in rows[2:]), done.stdout
