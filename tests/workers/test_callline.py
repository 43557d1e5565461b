"""Answers that a reader has taken reach everybody, at whatever instruction it is interrupted."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import pytest
from helpers import interrupted_at

from spworkers.ring import DATA, ERROR
from spworkers.workers.answer import Reply
from spworkers.workers.callline import CallLine
from spworkers.workers.callwaiting import FutureWaiting, Waiting


class Answer:
    """A record."""

    def __init__(self, kind: int, body: bytes) -> None:
        self.kind, self.pipe = kind, 7
        self._body = body
        self.released = 0

    def body(self) -> bytes:
        assert not self.released
        return self._body

    def release(self) -> None:
        self.released += 1


class Lane:
    """A receiver, which has these answers, and one that nobody waits for."""

    def __init__(self) -> None:
        self.answers = [Answer(DATA, b"one"), Answer(ERROR, b"CanceledError"), Answer(DATA, b"three")]

    def take_for(self, waiting: dict[int, Any], found: list[Any]) -> int:
        for serial, answer in enumerate(self.answers):
            if (who := waiting.pop(serial, None)) is not None:
                found.append((who, answer))
        return 1


class Port:
    closed = False

    def __init__(self) -> None:
        self.dropped = 0

    def drop(self, cause: str) -> None:
        self.dropped += 1

    def describe(self) -> str:
        return "client"


def drain_interrupted_at(step: int) -> int:
    """How many opcodes a reader's way through three answers has, if it is not interrupted at one of them before."""
    line = CallLine.__new__(CallLine)
    lane, ready = Lane(), deque[Any]()
    parts: Any = line
    parts._rx, parts.port = lane, Port()
    over: list[bool] = []
    future = FutureWaiting(
        "add",
        0,
        ready.append,
        lambda waiting, canceled: over.append(canceled),
        lambda there, seconds: False,
        lambda reply: reply.body,
        lambda error: error,
        0.0,
    )
    waiting = [Waiting(0), Waiting(0), future]
    parts._waiting = dict(enumerate(waiting))
    ours = {CallLine.drain.__code__, CallLine._tell.__code__, Waiting.end.__code__, FutureWaiting.end.__code__}
    seen = interrupted_at(step, ours, line.drain, lambda: parts._waiting != dict(enumerate(waiting)))
    assert [each.over for each in waiting] == [True] * 3, step
    assert isinstance(waiting[0].reply, Reply)
    assert (waiting[0].reply.body, waiting[0].reply.pipe) == (b"one", 7)
    assert type(waiting[1].error).__name__ == "CanceledError"
    assert ready, step
    while ready:
        ready.popleft().complete()  # once or twice
    assert future.future.result(0) == b"three"
    assert over == [False], "it is told once"
    return seen


@pytest.mark.skipif(not hasattr(CallLine.drain, "__code__"), reason="compiled, it has no opcodes")
def test_an_interrupted_reader_tells_everybody_first() -> None:
    thread = threading.Thread(target=check)  # the test's own thread may be traced already
    thread.start()
    thread.join()
    assert results == ["whole"], results


results: list[object] = []


def check() -> None:
    try:
        steps = drain_interrupted_at(0)
        assert steps > 50
        for step in range(1, steps + 1):
            drain_interrupted_at(step)
        results.append("whole")
    except BaseException as error:
        results.append(error)
