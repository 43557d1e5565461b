"""A run's state in one SQLite file, so that a run that was killed goes on where it was.

What is saved is a consistent cut of the whole run, in one transaction: which items were read, what of them is under way
and where, the counts, what came through to `collect` or `fold`, the failures. Whatever happened after the last cut
happens again: at most a window of items, since one that is through stays in the window until it is saved.

    head      name → value: of which pipeline, how much was read, the cut itself
    taken     keys of the items read, where they have keys
    results   what `collect` has, in its order
    failures  the failures, in theirs
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from spworkers.errors import CheckpointError

__all__ = ["Checkpoint"]

FORMAT = 2
TABLES = """
create table if not exists head (name text primary key, value blob) without rowid;
create table if not exists taken (key blob primary key, run integer) without rowid;
create table if not exists results (n integer primary key, value blob);
create table if not exists failures (n integer primary key, value blob);
"""


class Checkpoint:
    """The file. One run has it at a time.

    Args:
        path: where; made if it is not there, with mode 0600.
        plan: what the pipeline consists of; a file of another plan is refused.

    Raises:
        CheckpointError: it is no checkpoint, or that of another pipeline, or another run has it.
    """

    def __init__(self, path: str | os.PathLike[str], plan: Sequence[str]) -> None:
        self.path = Path(path)
        self._new_keys: set[bytes] = set()
        self._run = 1
        self._make()
        try:
            self._db = sqlite3.connect(self.path, isolation_level=None, timeout=0, check_same_thread=False)
        except sqlite3.Error as error:
            raise CheckpointError(f"checkpoint {self.path}: {self._reason(error)}") from None
        try:
            self._open(plan)
        except sqlite3.OperationalError as error:
            self._db.close()
            if "locked" in str(error):
                raise CheckpointError(f"checkpoint {self.path} is in use by another run") from None
            raise CheckpointError(f"checkpoint {self.path}: {self._reason(error)}") from None
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise CheckpointError(f"{self.path} is not a checkpoint: {error}") from None
        except BaseException:
            self._db.close()
            raise

    def _make(self) -> None:
        """Make the file for its owner's eyes only, as it holds users' data; those beside it get its mode of SQLite."""
        with contextlib.suppress(OSError):  # it is there, or cannot be made, which SQLite finds too
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))

    def _reason(self, error: sqlite3.Error) -> str:
        """What SQLite does not say: why a file cannot be opened."""
        if self.path.is_dir():
            return "that is a folder; name a file in it"
        if not self.path.parent.is_dir():
            return f"there is no folder {self.path.parent}; make it first"
        return str(error)

    def _open(self, plan: Sequence[str]) -> None:
        db = self._db
        db.execute("pragma locking_mode = exclusive")  # one run at a time; the lock ends with the process
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = normal")
        db.execute("begin exclusive")
        if (
            not db.execute("select 1 from sqlite_master where name = 'head'").fetchone()
            and db.execute("select 1 from sqlite_master").fetchone()
        ):
            raise CheckpointError(f"{self.path} is a database, and not a checkpoint")
        db.execute("commit")
        db.executescript(TABLES)
        self._run = int(self._get("runs") or 0) + 1
        self._put("runs", self._run)
        found = self._get("plan")
        mine = pickle.dumps((FORMAT, tuple(plan)))
        if found is None:
            self._put("plan", mine)
        elif found != mine:
            _, other = pickle.loads(found)
            raise CheckpointError(
                f"checkpoint {self.path} is of another pipeline ({' → '.join(other)}, and this is {' → '.join(plan)}): "
                "give another file, or remove this one to begin anew"
            )

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def load(self) -> Any:
        """The cut; None: nothing was saved yet."""
        found = self._get("cut")
        return None if found is None else pickle.loads(found)

    def results(self) -> list[Any]:
        """What `collect` had."""
        return [pickle.loads(value) for (value,) in self._db.execute("select value from results order by n")]

    def failures(self) -> list[Any]:
        """The failures so far."""
        return [pickle.loads(value) for (value,) in self._db.execute("select value from failures order by n")]

    def took(self, key: Any) -> None:
        """An item of this key was read."""
        self._new_keys.add(_key(key))

    def has(self, key: Any) -> bool:
        """Whether an item of this key was read before the last cut, in an earlier run.

        Raises:
            CheckpointError: in this run: two items have the same key; or the file cannot be read.
        """
        name = _key(key)
        with self._told():
            row = self._db.execute("select run from taken where key = ?", (name,)).fetchone()
        if name in self._new_keys or (row is not None and row[0] == self._run):
            raise CheckpointError(f"two items have the key {key!r}: key= has to give each another one")
        return row is not None

    def save(self, cut: Any, results: Sequence[Any], failures: Sequence[Any]) -> None:
        """Save a cut, and what has come to the results and the failures since the last one.

        Raises:
            CheckpointError: something that is under way cannot be pickled, or the file cannot be written.
        """
        try:
            value = pickle.dumps(cut, protocol=5)
            new_results = [(pickle.dumps(each, protocol=5),) for each in results]
            new_failures = [(pickle.dumps(each, protocol=5),) for each in failures]
        except Exception as error:
            raise CheckpointError(
                f"checkpoint {self.path}: an item, a result or a failure cannot be pickled: {error}"
            ) from error
        db = self._db
        with self._told():
            db.execute("begin immediate")
            try:
                db.executemany("insert into taken values (?, ?)", [(key, self._run) for key in self._new_keys])
                db.executemany("insert into results (value) values (?)", new_results)
                db.executemany("insert into failures (value) values (?)", new_failures)
                self._put("cut", value)
                db.execute("commit")
            except BaseException:
                if db.in_transaction:  # of a full disk SQLite has rolled it back already
                    db.execute("rollback")
                raise
        self._new_keys.clear()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:  # the disk is full, say; what was saved before is there still
            raise CheckpointError(
                f"checkpoint {self.path}: {error}; the run can go on from what was saved before, when that is mended"
            ) from error

    def _get(self, name: str) -> Any:
        row = self._db.execute("select value from head where name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def _put(self, name: str, value: bytes | int) -> None:
        self._db.execute("insert or replace into head values (?, ?)", (name, value))


def _key(key: Any) -> bytes:
    """The same bytes for equal keys, in every run."""
    parts = tuple(os.fspath(part) if isinstance(part, os.PathLike) else part for part in _parts(key))
    if not all(part is None or type(part) in (str, bytes, int, float, bool) for part in parts):
        raise CheckpointError(
            f"key= gave {key!r}: a checkpoint needs a text, bytes, a number, a path or a tuple of those"
        )
    return repr(parts if isinstance(key, tuple) else parts[0]).encode("utf-8", "surrogatepass")


def _parts(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)
