"""The names in Python's own library, counted by `tokenize`, in worker processes and, to compare, in one.

    python examples/wordcount.py
    python examples/wordcount.py --workers 4 --files 0 --database names.db

Counting is pure Python, so threads would not help. The counts of all files are added up here and written to SQLite.
"""

from __future__ import annotations

import argparse
import collections
import sqlite3
import sysconfig
import time
import tokenize
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import spworkers as sp

Counts = collections.Counter[str]


def count(path: str) -> Counts:
    """How often each name occurs in a source file; what cannot be read counts as empty."""
    try:
        with tokenize.open(path) as file:
            tokens = tokenize.generate_tokens(file.readline)
            return collections.Counter(token.string for token in tokens if token.type == tokenize.NAME)
    except (SyntaxError, UnicodeDecodeError, OSError):
        return collections.Counter()


def sources(limit: int | None) -> list[str]:
    """Python's own sources."""
    folder = Path(sysconfig.get_path("stdlib"))
    found = (path for path in sorted(folder.rglob("*.py")) if "site-packages" not in path.parts)
    return [str(path) for path in found][:limit]


def add_up(parts: Iterable[Counts]) -> Counts:
    """One count of many."""
    total: Counts = collections.Counter()
    for part in parts:
        total.update(part)
    return total


def by_workers(paths: list[str], workers: int | None) -> Counts:
    """The counts of all files, each file in whichever worker is free."""
    with sp.Pool(workers) as pool:
        return add_up(pool.map_unordered(count, paths, progress="files"))


def by_one(paths: list[str]) -> Counts:
    """The same, here."""
    parts: Iterator[Counts] = map(count, paths)
    return add_up(parts)


def store(total: Counts, path: str) -> None:
    """Write the counts into a database."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("create table if not exists names (name text primary key, occurrences integer)")
        database.executemany("insert or replace into names values (?, ?)", total.items())


def main() -> None:
    """Do it both ways, and say how long each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, help="processes (default: as many as there are processors)")
    parser.add_argument("--files", type=int, default=300, help="read only the first so many (300); 0: all")
    parser.add_argument("--database", default=":memory:", help="SQLite file for the counts")
    options = parser.parse_args()
    paths = sources(options.files or None)
    begun = time.perf_counter()
    total = by_workers(paths, options.workers)
    store(total, options.database)
    pool_time = time.perf_counter() - begun
    begun = time.perf_counter()
    same = by_one(paths)
    one_time = time.perf_counter() - begun
    assert same == total
    print(f"{len(paths)} files, {total.total()} names, {len(total)} different ones")
    print("the most frequent:", ", ".join(f"{name} {number}" for name, number in total.most_common(5)))
    print(f"workers: {pool_time:.2f} s, one process: {one_time:.2f} s, {one_time / pool_time:.1f} times as fast")


if __name__ == "__main__":
    main()
