"""Sources and sinks that are files: lines, CSV, JSON lines.

A source opens its files when it is read, one after another, and can be read again; so a checkpoint works over it.

A sink writes in the order in which values come through. With a checkpoint its file's length belongs to the state that
is saved: a run that goes on cuts off what was written after that, so that the file has each value once.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import json
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from spworkers.errors import BadValueError, CheckpointError
from spworkers.workers.pipeline.ends import End

__all__ = [
    "CSVSink",
    "CSVSource",
    "FileSink",
    "FileSource",
    "JSONLinesSink",
    "JSONLinesSource",
    "LinesSink",
    "LinesSource",
    "Written",
    "delimiter_of",
    "encoding_of",
    "fields_of",
    "written",
]

PathLike = str | os.PathLike[str]

OPENERS: Final[dict[str, Callable[..., IO[Any]]]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
"""Endings of files that are unpacked while they are read."""


def path_of(path: Any, what: str) -> Path:
    """A path, or BadValueError."""
    if not isinstance(path, (str, os.PathLike)):
        raise BadValueError(f"{what}: {path!r:.80} is no path of a file")
    return Path(path)


def encoding_of(encoding: Any, what: str) -> str:
    """An encoding's name, judged."""
    try:
        "".encode(encoding)
    except (LookupError, TypeError):
        raise BadValueError(f"{what}: encoding is {encoding!r:.80}, and there is none of that name") from None
    return str(encoding)


class FileSource(Iterable[Any]):
    """Items of one or several text files. Each iteration reads them anew.

    Args:
        paths: one, or some that are read one after another.
        encoding: of the text.
    """

    what = ""
    newline: str | None = None

    def __init__(self, paths: PathLike | Iterable[PathLike], encoding: str) -> None:
        several = not isinstance(paths, (str, os.PathLike)) and isinstance(paths, Iterable)
        self.paths = [path_of(path, f"sources.{self.what}") for path in (paths if several else [paths])]  # type: ignore[union-attr]
        self.encoding = encoding_of(encoding, f"sources.{self.what}")

    def __iter__(self) -> Iterator[Any]:
        # A byte order mark, as some programs of Windows write it, is no part of the first item.
        encoding = "utf-8-sig" if codecs.lookup(self.encoding).name == "utf-8" else self.encoding
        for path in self.paths:
            opener = OPENERS.get(path.suffix, open)
            with opener(path, "rt", encoding=encoding, newline=self.newline) as file:
                try:
                    yield from self.items(file, path)
                except UnicodeDecodeError as error:
                    raise BadValueError(f"{path} is not {self.encoding}: {error}; give its encoding=") from error
                except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
                    raise BadValueError(f"{path} cannot be read: {error}") from error

    def items(self, file: IO[str], path: Path) -> Iterator[Any]:
        """What is in one of the files."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<sources.{self.what}: {', '.join(map(str, self.paths[:3]))}{', …' if len(self.paths) > 3 else ''}>"


class LinesSource(FileSource):
    """Lines, without their ends."""

    what = "lines"

    def items(self, file: IO[str], path: Path) -> Iterator[str]:
        for line in file:
            yield line.removesuffix("\n")


class CSVSource(FileSource):
    """Rows as maps of text, by the names in the first row of each file or those that are given."""

    what = "csv"
    newline = ""

    def __init__(
        self, paths: PathLike | Iterable[PathLike], fields: Sequence[str] | None, delimiter: str, encoding: str
    ) -> None:
        super().__init__(paths, encoding)
        self.fields = fields_of(fields, "sources.csv")
        self.delimiter = delimiter_of(delimiter, "sources.csv")

    def items(self, file: IO[str], path: Path) -> Iterator[dict[str, str]]:
        rows = csv.reader(file, delimiter=self.delimiter, strict=True)
        try:
            fields = self.fields or next(rows, None)
            if fields is not None and len(set(fields)) < len(fields):
                raise BadValueError(f"{path}: its first row names a field twice: {fields!r:.200}; give fields=")
            for row in rows:
                if not row:  # an empty line
                    continue
                if fields is None or len(row) != len(fields):
                    raise BadValueError(
                        f"{path}, line {rows.line_num}: {len(row)} fields, and there are {len(fields or ())} names:"
                        f" {row!r:.200}"
                    )
                yield dict(zip(fields, row, strict=True))
        except csv.Error as error:
            raise BadValueError(f"{path}, line {rows.line_num} is no CSV: {error}") from error


class JSONLinesSource(FileSource):
    """The value of each line, which is JSON; empty lines are passed over."""

    what = "jsonl"

    def items(self, file: IO[str], path: Path) -> Iterator[Any]:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise BadValueError(
                        f"{path}, line {number} is no JSON: {error}: {line.strip()!r:.80}; with "
                        "read(sp.sources.lines(path)).map(json.loads) such a line is a failure, and the rest goes on"
                    ) from error


class FileSink(End):
    """Writes values into a text file, which is made anew by each run that does not go on from a checkpoint.

    Args:
        path: of the file.
        encoding: of the text.
    """

    what = ""

    def __init__(self, path: Path, encoding: str) -> None:
        self.path = path
        self.encoding = encoding
        self._file: IO[bytes] | None = None

    def take(self, value: Any) -> None:
        text = self.text(value)
        file = self._file or self._open()
        try:
            file.write(text.encode(self.encoding))
        except OSError as error:
            raise self._of_this_file(error) from None

    def _of_this_file(self, error: OSError) -> OSError:
        """The error with the file's name: a disk that is full, for instance, does not say which."""
        error.filename = str(self.path)
        return error

    def text(self, value: Any) -> str:
        """What is written for a value; BadValueError: it cannot be."""
        raise NotImplementedError

    def _open(self) -> IO[bytes]:
        self._file = open(self.path, "wb")  # noqa: SIM115  # close() does
        return self._file

    def finish(self) -> None:
        if self._file is None:  # it is there also if nothing came through
            self._open()

    def close(self) -> None:
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                raise self._of_this_file(error) from None

    def state(self) -> Any:
        file = self._file or self._open()
        try:
            file.flush()
        except OSError as error:
            raise self._of_this_file(error) from None
        return {"length": file.tell()}

    def restore(self, state: Any, results: list[Any]) -> None:
        try:
            file = open(self.path, "r+b")  # noqa: SIM115  # close() does
        except FileNotFoundError:
            raise CheckpointError(
                f"{self.path} is gone, and the checkpoint says what was written into it: remove that to begin anew"
            ) from None
        length = file.seek(0, os.SEEK_END)
        if length < state["length"]:
            file.close()
            raise CheckpointError(
                f"{self.path} has {length} bytes, and the checkpoint knows of {state['length']}: it was changed "
                "meanwhile; remove the checkpoint to begin anew"
            )
        file.truncate(state["length"])
        file.seek(state["length"])
        self._file = file


class LinesSink(FileSink):
    """Text, a line each."""

    what = "lines"

    def text(self, value: Any) -> str:
        if not isinstance(value, str):
            raise BadValueError(f"sinks.lines({str(self.path)!r}): {value!r:.80} is no text: map(str) before it")
        if "\n" in value or "\r" in value:
            raise BadValueError(
                f"sinks.lines({str(self.path)!r}): {value!r:.80} is more than a line; sinks.jsonl can it"
            )
        return value + "\n"


class JSONLinesSink(FileSink):
    """JSON, a line each."""

    what = "jsonl"

    def text(self, value: Any) -> str:
        try:
            return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
        except (TypeError, ValueError) as error:
            raise BadValueError(
                f"sinks.jsonl({str(self.path)!r}): {value!r:.80} cannot be written as JSON: {error}"
            ) from error


class CSVSink(FileSink):
    """Rows: maps, whose names are the first row, or sequences."""

    what = "csv"

    def __init__(self, path: Path, fields: list[str] | None, delimiter: str, encoding: str) -> None:
        super().__init__(path, encoding)
        self.fields = fields
        self._begun = False
        self._rows: list[str] = []
        # RFC 4180 2.1: a row ends with CR LF; then both are quoted where they stand in a field.
        self._writer = csv.writer(self, delimiter=delimiter, lineterminator="\r\n")

    def write(self, text: str) -> None:
        """What the csv module calls."""
        self._rows.append(text)

    def text(self, value: Any) -> str:
        if isinstance(value, Mapping):
            if self.fields is None and not self._begun:
                self.fields = [str(name) for name in value]
            if self.fields is None or set(value) != set(self.fields):
                raise self._wrong(f"{dict(value)!r:.80} has not the fields {self.fields}: each has to have all of them")
            row: Sequence[Any] = [value[name] for name in self.fields]
        elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
            row = value
            if self.fields is not None and len(row) != len(self.fields):
                raise self._wrong(f"{value!r:.80} has {len(row)} values, and the fields are {self.fields}")
        else:
            raise self._wrong(f"{value!r:.80} is no row: a map, or a sequence of values")
        if not self._begun and self.fields is not None:
            self._writer.writerow(self.fields)
        self._begun = True
        self._writer.writerow(row)
        text = "".join(self._rows)
        self._rows.clear()
        return text

    def _wrong(self, what: str) -> BadValueError:
        return BadValueError(f"sinks.csv({str(self.path)!r}): {what}")

    def finish(self) -> None:
        super().finish()
        # A table without rows has its head, if the names were given.
        if self.fields is not None and not self._begun and self._file is not None:
            self._writer.writerow(self.fields)
            self._file.write("".join(self._rows).encode(self.encoding))
            self._rows.clear()
            self._begun = True

    def state(self) -> Any:
        return {**super().state(), "fields": self.fields, "begun": self._begun}

    def restore(self, state: Any, results: list[Any]) -> None:
        super().restore(state, results)
        self.fields, self._begun = state["fields"], state["begun"]


class Written(NamedTuple):
    """A sink that is a file, as it was declared: each run makes one."""

    what: str
    path: Path
    make: Callable[[], FileSink]

    def __repr__(self) -> str:
        return f"<sinks.{self.what}: {self.path}>"


def written(what: str, path: Any, make: Callable[[Path], FileSink]) -> Written:
    """A sink that writes a file, its path judged."""
    found = path_of(path, f"sinks.{what}")
    if found.suffix in OPENERS:
        raise BadValueError(
            f"sinks.{what}: {str(found)!r}: a sink does not pack what it writes, for a run that goes on has to "
            "cut its file at any length; pack it when the run is through"
        )
    return Written(what, found, lambda: make(found))


def fields_of(fields: Any, what: str) -> list[str] | None:
    """Names of a table's columns, judged."""
    if fields is None:
        return None
    good = isinstance(fields, Iterable) and not isinstance(fields, (str, bytes))
    names = list(fields) if good else []
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise BadValueError(f"{what}: fields is {fields!r:.80}; it has to be a list of texts, each another, or None")
    return names


def delimiter_of(delimiter: Any, what: str) -> str:
    """What stands between two fields, judged."""
    if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '\r\n"':
        raise BadValueError(f"{what}: delimiter is {delimiter!r:.80}; it has to be one character, such as ',' or '\\t'")
    return delimiter
