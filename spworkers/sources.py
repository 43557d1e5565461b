"""Sources of pipelines that are files. Each can be read again, so a checkpoint works over it.

    import spworkers as sp

    job = sp.Pipeline("sizes").read(sp.sources.lines("paths.txt")).map(size).sink(sp.sinks.jsonl("sizes.jsonl"))

Files whose name ends in .gz, .bz2 or .xz are unpacked while they are read. They are read as there is room: they may be
larger than the memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from spworkers.workers.pipeline.files import CSVSource, JSONLinesSource, LinesSource

__all__ = ["csv", "jsonl", "lines"]

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def lines(paths: Paths, *, encoding: str = "utf-8") -> LinesSource:
    """The lines of text files, without their ends.

    Args:
        paths: a path, or several that are read one after another.
        encoding: of the text.

    Raises:
        BadValueError: an argument is wrong; while it is read: the text is not in this encoding.
        OSError: while it is read: a file cannot be opened.
    """
    return LinesSource(paths, encoding)


def csv(
    paths: Paths, *, fields: Sequence[str] | None = None, delimiter: str = ",", encoding: str = "utf-8"
) -> CSVSource:
    """The rows of CSV files, as maps from the fields' names to their text.

    Args:
        paths: a path, or several that are read one after another.
        fields: the names; None: they are the first row of each file.
        delimiter: what stands between two fields.
        encoding: of the text.

    Raises:
        BadValueError: an argument is wrong; while it is read: a row has more or fewer fields than there are names.
        OSError: while it is read: a file cannot be opened.
    """
    return CSVSource(paths, fields, delimiter, encoding)


def jsonl(paths: Paths, *, encoding: str = "utf-8") -> JSONLinesSource:
    """The values of files that have one on each line, as JSON.

    Args:
        paths: a path, or several that are read one after another.
        encoding: of the text.

    Raises:
        BadValueError: an argument is wrong; while it is read: a line is no JSON. `lines` and `.map(json.loads)` make
            such a line a failure of its own.
        OSError: while it is read: a file cannot be opened.
    """
    return JSONLinesSource(paths, encoding)
