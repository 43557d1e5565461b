"""The example of a pool."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from examples.programs import Program


def test_wordcount(tmp_path: Path) -> None:
    database = tmp_path / "names.db"
    with Program("wordcount.py", "--files", "40", "--workers", "2", "--database", str(database)) as program:
        program.shows(r"40 files, \d+ names, \d+ different ones")
        program.shows(r"the most frequent: .*self \d+.*")
        program.shows(r"workers: [\d.]+ s, one process: [\d.]+ s, [\d.]+ times as fast")
        program.ended()
    with closing(sqlite3.connect(database)) as found:
        (names,) = found.execute("select count(*) from names where occurrences > 0").fetchone()
    assert names > 1000
