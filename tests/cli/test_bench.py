"""`spworkers bench`: the original's commands end by themselves, and print its lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from helpers import eventually

import spworkers as sp
from spworkers.cli.bench import bench

WAIT = 30.0
NUMBER = r"\d+\.\d{3}"
LINES = {
    "lat": rf"message size: 16 \[B\]\nround trip count: 20\naverage latency: {NUMBER} \[us\]\n",
    "reqlat": rf"message size: 16 \[B\]\nround trip count: 20\naverage RTT: {NUMBER} \[us\]\n",
    "thr": rf"message size: 16 \[B\]\nmessage count: 20\nthroughput: \d+ \[msg/s\]\nthroughput: {NUMBER} \[Mb/s\]\n",
}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(bench, arguments)


@pytest.fixture
def beside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.mark.parametrize("what", LINES)
def test_inproc(what: str) -> None:
    done = run(f"inproc_{what}", "16", "20")
    assert (done.exit_code, done.stderr) == (0, "")
    assert re.fullmatch(LINES[what], done.stdout)


@pytest.mark.parametrize(
    ("what", "first", "second"),
    [
        ("lat", "local_lat", "remote_lat"),
        ("lat", "latency_server", "latency_client"),
        ("reqlat", "local_reqlat", "remote_reqlat"),
        ("thr", "local_thr", "remote_thr"),
        ("thr", "througput_server", "throughput_client"),
    ],
)
def test_two_ends(what: str, first: str, second: str, tmp_path: Path, beside: ThreadPoolExecutor) -> None:
    """Both in this process, which output is captured once: what they print together is what one of them prints."""
    address = f"ipc://{tmp_path}/s"
    runner = CliRunner()
    with runner.isolation() as (out, err, _):
        arguments = [address, "16", "20"]
        local = beside.submit(bench.main, [first, *arguments], standalone_mode=False)
        eventually(lambda: (tmp_path / "s").exists(), WAIT)
        bench.main([second, *arguments], standalone_mode=False)
        local.result(WAIT)
        printed = out.getvalue().decode()
    assert re.fullmatch(LINES[what], printed)
    assert err.getvalue() == b""


def test_sizes_beyond_the_default_limit() -> None:
    done = run("inproc_lat", str(3 << 20), "1")
    assert done.exit_code == 0
    assert run("inproc_thr", "0", "5").exit_code == 0


def test_mistakes() -> None:
    done = run("remote_lat", "tcp://127.0.0.1:1", "16", "20")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "error: nobody listens at tcp://127.0.0.1:1; start local_lat there first\n"
    for arguments, words in [
        (["local_lat", "nowhere", "16", "20"], "nowhere"),
        (["inproc_lat", "-1", "20"], "SIZE"),
        (["inproc_lat", "16", "0"], "COUNT"),
        (["inproc_lat", "16"], "COUNT"),
        (["local_all"], "local_all"),
    ]:
        done = run(*arguments)
        assert done.exit_code == 2
        assert words in done.stderr


def test_ends_that_do_not_fit(beside: ThreadPoolExecutor) -> None:
    with sp.Pair(listen="inproc://bench-mute") as mute:
        done = run("remote_lat", "inproc://bench-mute", "16", "20", "--timeout", "0.05")
        assert (done.exit_code, done.stderr) == (
            1,
            "error: nothing moved for 0.05 s; do both ends run, with the same size and count?\n",
        )
        assert mute.recv(WAIT) == bytes(16)
        other = beside.submit(lambda: mute.send(mute.recv(WAIT)[1:]))
        done = run("remote_lat", "inproc://bench-mute", "16", "20")
        assert "another size than 16" in done.stderr
        other.result(WAIT)


def test_a_start_that_is_none(beside: ThreadPoolExecutor) -> None:
    with sp.Pair(dial_asynch=True, reconnect_time=0.01) as pair:
        pair.dial("inproc://bench-start")
        pair.send(b"full")
        done = run("local_thr", "inproc://bench-start", "16", "20")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "no remote_thr" in done.stderr
