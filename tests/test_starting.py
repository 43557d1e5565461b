"""Starting a thread whatever Ctrl-C does meanwhile."""

from __future__ import annotations

import threading

import pytest

from spworkers.starting import start_thread

WAIT = 20.0


def test_it_runs_and_has_its_name() -> None:
    names: list[str] = []
    over = threading.Event()

    def life() -> None:
        names.append(threading.current_thread().name)
        over.set()

    assert start_thread(life, "a thread") is None
    assert over.wait(WAIT)
    assert names == ["a thread"]


@pytest.mark.parametrize("runs", [False, True])
def test_interrupted_it_runs_once_and_says_so(monkeypatch: pytest.MonkeyPatch, runs: bool) -> None:
    start = threading.Thread.start
    errors = [KeyboardInterrupt("first"), KeyboardInterrupt("second")]
    left = list(errors)
    begun: list[threading.Thread] = []
    lives = []

    def interrupted(thread: threading.Thread) -> None:
        if not left or runs:
            begun.append(thread)
            start(thread)
        if left:
            raise left.pop(0)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    assert start_thread(lambda: lives.append(1), "a thread") is errors[1]
    assert len(begun) == (3 if runs else 1)
    for thread in begun:
        thread.join(WAIT)
    assert lives == [1]


def test_without_room_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        start_thread(lambda: None, "a thread")
