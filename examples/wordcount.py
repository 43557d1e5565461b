"""The names in Python's own library, counted by `tokenize` in a pipeline, and written to SQLite.

    python examples/wordcount.py
    python examples/wordcount.py --workers 4 --files 0 --database names.db
    python examples/wordcount.py --files 0 --database names.db --checkpoint names.ckpt     # killed? The same again

Counting is pure Python, so threads would not help. Each file is one item; the counts of twenty files are stored here,
in one transaction. Without a checkpoint one process does the same afterwards, to compare.
"""

from __future__ import annotations

import argparse
import collections
import sqlite3
import sys
import sysconfig
import time
import tokenize
from contextlib import closing
from pathlib import Path

import spworkers as sp

Counts = collections.Counter[str]


def sources(limit: int | None) -> list[str]:
    """Python's own sources."""
    folder = Path(sysconfig.get_path("stdlib"))
    found = (path for path in sorted(folder.rglob("*.py")) if "site-packages" not in path.parts)
    return [str(path) for path in found][:limit]


def count(path: str) -> tuple[str, Counts]:
    """How often each name occurs in a source file; one that is no Python raises an error."""
    with tokenize.open(path) as file:
        tokens = tokenize.generate_tokens(file.readline)
        return path, collections.Counter(token.string for token in tokens if token.type == tokenize.NAME)


class Table:
    """The counts in a database. A file that was counted before, by a run that was killed then, is replaced.

    Args:
        path: of the database.
    """

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path)
        with self._database:
            self._database.execute(
                "create table if not exists names (file, name, occurrences, primary key (file, name))"
            )

    def store(self, parts: list[tuple[str, Counts]]) -> None:
        """Write the counts of some files."""
        rows = [(path, name, number) for path, counts in parts for name, number in counts.items()]
        with self._database:
            self._database.executemany("insert or replace into names values (?, ?, ?)", rows)

    def most_frequent(self, limit: int) -> list[tuple[str, int]]:
        """Names and their occurrences in all files."""
        total = "select name, sum(occurrences) as total from names group by name order by total desc, name limit ?"
        return self._database.execute(total, (limit,)).fetchall()

    def sums(self) -> tuple[int, int]:
        """How many names, and how many different ones."""
        names, different = self._database.execute("select sum(occurrences), count(distinct name) from names").fetchone()
        return names or 0, different

    def close(self) -> None:
        """Close the database."""
        self._database.close()


def job(paths: list[str], workers: int | None, table: Table) -> sp.Pipeline:
    """Count each file, store the counts of twenty at a time. The path names a file in the checkpoint."""
    return sp.Pipeline("names").read(paths, key=str).map(count, workers=workers).sink(table.store, batch=20)


def by_one(paths: list[str], table: Table) -> None:
    """The same in this process."""
    for start in range(0, len(paths), 20):
        table.store([counted for path in paths[start : start + 20] if (counted := counted_or_none(path))])


def counted_or_none(path: str) -> tuple[str, Counts] | None:
    """What the pipeline has as a failure."""
    try:
        return count(path)
    except (SyntaxError, UnicodeDecodeError, OSError):
        return None


def main() -> None:
    """Do it both ways, and say how long each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, help="processes (default: as many as there are processors)")
    parser.add_argument("--files", type=int, default=300, help="read only the first so many (300); 0: all")
    parser.add_argument("--database", default=":memory:", help="SQLite file for the counts")
    parser.add_argument("--checkpoint", help="file from which a run that was killed goes on")
    options = parser.parse_args()
    if options.files < 0:
        parser.error(f"--files {options.files}: it is a number of files, or 0 for all")
    if options.checkpoint and options.database == ":memory:":
        parser.error("--checkpoint needs --database: counts in memory end with the run that is to be gone on with")
    paths = sources(options.files or None)
    with closing(Table(options.database)) as table, closing(Table(":memory:")) as same:
        report = job(paths, options.workers, table).run(checkpoint=options.checkpoint)
        names, different = table.sums()
        if not names and len(report.failures) < len(paths):
            sys.exit(f"wordcount.py: {options.checkpoint} is of a run whose counts are in another database")
        print(f"{report.read} files, {names} names, {different} different ones")
        print("the most frequent:", ", ".join(f"{name} {number}" for name, number in table.most_frequent(5)))
        for failure in report.failures:
            print(f"not counted: {failure.item}: {type(failure.error).__name__}: {failure.error}")
        if options.checkpoint:  # perhaps only the rest was done now: there is nothing to compare
            return
        begun = time.perf_counter()
        by_one(paths, same)
        seconds = time.perf_counter() - begun
        assert same.sums() == (names, different)
        faster = seconds / report.seconds
        print(f"workers: {report.seconds:.2f} s, one process: {seconds:.2f} s, {faster:.1f} times as fast")


if __name__ == "__main__":
    try:
        main()
    except (sp.SPError, sqlite3.Error) as error:
        sys.exit(f"wordcount.py: {error}")
    except KeyboardInterrupt:
        sys.exit(1)
