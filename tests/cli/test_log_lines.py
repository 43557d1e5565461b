"""What a log line of a command looks like."""

from __future__ import annotations

import logging

from spworkers.cli.logs import FORMAT, Lines


def test_a_line_names_the_request_where_there_is_one() -> None:
    record = logging.LogRecord("calc", logging.INFO, __file__, 1, "it is %s", ("so",), None)
    record.processName = "calc-1"
    lines = Lines(FORMAT)
    assert lines.format(record).endswith(" calc-1 INFO calc: it is so")
    for request in ("", object(), "a\nb", None):  # of other libraries, too
        record.request = request
        assert lines.format(record).endswith(" calc-1 INFO calc: it is so")
    record.handler, record.request = "add", ""
    assert lines.format(record).endswith(" calc-1 INFO calc: it is so")
    record.request = f"{7:016x}"
    assert lines.format(record).endswith(" calc-1 [add 0000000000000007] INFO calc: it is so")
