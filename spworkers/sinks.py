"""Ends of pipelines that are files: `.sink(sp.sinks.jsonl("found.jsonl"))`.

The file is made anew by each run. One that goes on from a checkpoint cuts off what was written after the last save, and
goes on writing there: the file has each value once, whenever the run before was killed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from spworkers.workers.pipeline.files import (
    CSVSink,
    JSONLinesSink,
    LinesSink,
    Written,
    delimiter_of,
    encoding_of,
    fields_of,
    written,
)

__all__ = ["csv", "jsonl", "lines"]


def lines(path: str | os.PathLike[str], *, encoding: str = "utf-8") -> Written:
    """Text, a line each. What comes through has to be text of one line; anything else ends the run (BadValueError).

    Args:
        path: of the file.
        encoding: of the text.

    Raises:
        BadValueError: an argument is wrong.
    """
    encoding_of(encoding, "sinks.lines")
    return written("lines", path, lambda found: LinesSink(found, encoding))


def csv(
    path: str | os.PathLike[str],
    *,
    fields: Sequence[str] | None = None,
    delimiter: str = ",",
    encoding: str = "utf-8",
) -> Written:
    """Rows of CSV. What comes through has to be maps with the same names, or sequences; else the run ends.

    Args:
        path: of the file.
        fields: names, which become the first row; None: those of the first map; sequences have none.
        delimiter: what stands between two fields.
        encoding: of the text.

    Raises:
        BadValueError: an argument is wrong.
    """
    encoding_of(encoding, "sinks.csv")
    names, between = fields_of(fields, "sinks.csv"), delimiter_of(delimiter, "sinks.csv")
    return written("csv", path, lambda found: CSVSink(found, names, between, encoding))


def jsonl(path: str | os.PathLike[str]) -> Written:
    """JSON, a value on each line, in UTF-8. What JSON has no form for ends the run (BadValueError).

    Args:
        path: of the file.

    Raises:
        BadValueError: that is no path.
    """
    return written("jsonl", path, lambda found: JSONLinesSink(found, "utf-8"))
