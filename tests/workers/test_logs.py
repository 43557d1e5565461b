"""Log records of workers, where more come than anybody reads."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator

import pytest
from helpers import eventually

import spworkers as sp
from spworkers.workers.logs import _Forwarder
from spworkers.workers.stops import Stopped

WAIT = 60.0
RECORDS = 6000
"""Of a kilobyte, more than there is room for between a worker and its parent."""
QUIET = 3
"""A level that no other logger lets through."""

log = logging.getLogger("spworkers-test-flood")
app = sp.App("flood")


@app.handler
def flood(count: int) -> int:
    for number in range(count):
        log.info("%d %s", number, "x" * 1000)
    return count


class Unspeakable:
    """An argument of which no text can be made."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __str__(self) -> str:
        raise self.error


@app.handler
def misspelt(way: str) -> str:
    if way == "format":
        log.warning("%d files", "three")
    elif way == "argument":
        log.warning("%s", Unspeakable(ZeroDivisionError("no text")))
    else:
        log.warning("a record that comes after them")
    return way


@app.handler
def whisper(text: str) -> str:
    log.log(QUIET, text)
    return text


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


# --- records of which no text can be made

WAYS = ["format", "argument", "none"]


def test_a_mistake_in_a_log_call_does_not_fail_its_request(caplog: pytest.LogCaptureFixture) -> None:
    with app.serve("tcp://127.0.0.1:0", workers=1, block=False) as server, sp.Client(server.address) as client:
        assert [client.call("misspelt", way, timeout=WAIT) for way in WAYS] == WAYS
    assert "a record that comes after them" in caplog.text


def test_nor_a_task_of_a_pool() -> None:
    with sp.Pool(1) as pool:
        assert [pool.submit(misspelt, way).result(WAIT) for way in WAYS] == WAYS


@pytest.mark.parametrize("arguments", [("three",), (Unspeakable(ZeroDivisionError("no text")),)])
def test_it_is_shown_on_stderr(arguments: tuple[object, ...], capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("mine", logging.WARNING, __file__, 1, "%d files", arguments, None)
    _Forwarder().handle(record)
    assert "--- Logging error ---" in capsys.readouterr().err


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, Stopped])
def test_what_stops_the_caller_is_not_kept_from_it(stop: type[BaseException]) -> None:
    record = logging.LogRecord("mine", logging.WARNING, __file__, 1, "%s", (Unspeakable(stop()),), None)
    with pytest.raises(stop):
        _Forwarder().handle(record)


# --- levels


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Its handler shows everything; the logger's level is put back."""
    caplog.handler.setLevel(0)
    level = log.level
    yield caplog
    log.setLevel(level)


def test_a_lowered_level_counts_for_workers_that_start_later(quiet: pytest.LogCaptureFixture) -> None:
    with app.serve("tcp://127.0.0.1:0", workers=1, block=False) as server, sp.Client(server.address) as client:
        client.call("whisper", "before", timeout=WAIT)
        log.setLevel(QUIET)
        client.call("whisper", "lowered", timeout=WAIT)
        server.restart(timeout=WAIT)
        client.call("whisper", "restarted", timeout=WAIT)
    assert [record.getMessage() for record in quiet.records if record.levelno == QUIET] == ["restarted"]


def test_a_raised_level_counts_at_once(quiet: pytest.LogCaptureFixture) -> None:
    log.setLevel(QUIET)
    with app.serve("tcp://127.0.0.1:0", workers=1, block=False) as server, sp.Client(server.address) as client:
        client.call("whisper", "before", timeout=WAIT)
        eventually(lambda: "before" in quiet.text, WAIT, what="its record")
        log.setLevel(logging.WARNING)
        client.call("whisper", "raised", timeout=WAIT)
    assert [record.getMessage() for record in quiet.records if record.levelno == QUIET] == ["before"]
