"""Log records of workers, where more come than anybody reads."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator

import pytest

import spworkers as sp

WAIT = 60.0
RECORDS = 6000
"""Of a kilobyte, more than there is room for between a worker and its parent."""

log = logging.getLogger("spworkers-test-flood")
app = sp.App("flood")


@app.handler
def flood(count: int) -> int:
    for number in range(count):
        log.info("%d %s", number, "x" * 1000)
    return count


class Slow(logging.Handler):
    """It lets through what comes when its gate is open; the first record waits for that."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.numbers: list[int] = []
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.gate.wait(WAIT)
        if record.name == log.name:
            self.numbers.append(int(record.getMessage().partition(" ")[0]))
        elif "dropped" in record.getMessage():
            self.warnings.append(record.getMessage())


@pytest.fixture
def slow() -> Iterator[Slow]:
    handler = Slow()
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel("INFO")
    log.setLevel("INFO")
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


def dropped(handler: Slow) -> int:
    return sum(int(re.findall(r": (\d+) log records were dropped", each)[0]) for each in handler.warnings)


@pytest.mark.parametrize("again", [False, True])
def test_what_is_dropped_is_counted(slow: Slow, again: bool) -> None:
    """Also what comes last before the worker ends; and there are few warnings of it."""
    began = time.monotonic()
    with app.serve("tcp://127.0.0.1:0", workers=1, block=False) as server, sp.Client(server.address) as client:
        assert client.call("flood", RECORDS, timeout=WAIT) == RECORDS
        slow.gate.set()
        if again:
            assert client.call("flood", RECORDS, timeout=WAIT) == RECORDS
    sent = RECORDS * (1 + again)
    assert 0 < len(slow.numbers) < sent
    assert len(slow.numbers) + dropped(slow) == sent
    assert len(slow.warnings) <= time.monotonic() - began + 2


def test_a_pools_workers_count_them_too(slow: Slow) -> None:
    with sp.Pool(1) as pool:
        assert pool.submit(flood, RECORDS).result(WAIT) == RECORDS
        slow.gate.set()
    assert len(slow.numbers) + dropped(slow) == RECORDS
