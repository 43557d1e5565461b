"""The examples of pipelines: what they print, and what they write."""

from __future__ import annotations

import runpy
import sqlite3
import subprocess
import sys
import zlib
from contextlib import closing
from pathlib import Path

from examples.programs import ENV, EXAMPLES, WAIT, Program

SPEED = r"workers: [\d.]+ s, one process: [\d.]+ s, [\d.]+ times as fast"


def test_wordcount() -> None:
    with Program("wordcount.py", "--files", "40", "--workers", "2") as program:
        program.ended()
        program.shows(r"40 files, \d+ names, \d+ different ones")
        program.shows(r"the most frequent: .*self \d+.*")
        program.shows(SPEED)


def test_wordcount_goes_on(tmp_path: Path) -> None:
    """The second run has nothing to do, and its database is that of the first."""
    database, checkpoint = tmp_path / "names.db", tmp_path / "names.ckpt"
    arguments = ["--files", "30", "--workers", "1", "--database", str(database), "--checkpoint", str(checkpoint)]
    shown = []
    for _ in range(2):
        with Program("wordcount.py", *arguments) as program:
            shown.append(program.ended())
    assert shown[0] == shown[1]
    with closing(sqlite3.connect(database)) as found:
        (names,) = found.execute("select count(distinct name) from names where occurrences > 0").fetchone()
    assert names > 1000


def test_a_thumbnail_is_the_mean_and_a_broken_picture_fails_alone(tmp_path: Path) -> None:
    square = bytes([0, 100, 255, 16, 100, 255] * 8)  # four lines of four pixels, two colours by turns
    (tmp_path / "good.ppm").write_bytes(b"P6 4 4 255\n" + square)
    (tmp_path / "bad.ppm").write_bytes(b"P6 4 4 255\nnothing")
    with Program("thumbnails.py", "--folder", str(tmp_path), "--workers", "1") as program:
        program.ended()
        program.shows(r"1 thumbnails, \d+ bytes")
        program.shows(r"not made: .*bad.ppm is no PPM of 8 bits")
        program.shows(SPEED)
    made = (tmp_path / "good.png").read_bytes()
    body = made[made.index(b"IDAT") + 4 :]
    assert zlib.decompressobj().decompress(body) == bytes([0, 8, 100, 255])
    assert not (tmp_path / "bad.png").exists()


def test_pictures_of_its_own(tmp_path: Path) -> None:
    names = runpy.run_path(str(EXAMPLES / "thumbnails.py"))
    names["paint"](tmp_path, 2)
    first, second = sorted(tmp_path.glob("*.ppm"))
    assert names["thumbnail"](first) == first.with_suffix(".png").stat().st_size
    assert first.read_bytes() != second.read_bytes()


def test_no_pictures(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "thumbnails.py"), "--folder", str(tmp_path)]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=WAIT, check=False)
    assert (done.returncode, done.stderr) == (1, f"thumbnails.py: there is no *.ppm in {tmp_path}\n")
