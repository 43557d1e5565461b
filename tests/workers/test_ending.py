"""A server's end may come at any instruction of the wait for it."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from helpers import eventually

from spworkers.ending import End
from spworkers.waiting import run
from spworkers.workers.server import _signals_to

WAIT = 20.0  # seconds


@contextlib.contextmanager
def signal_at(step: int) -> Iterator[list[int]]:
    """Send this process SIGTERM at that opcode, from the moment on in which its handler is the End's."""
    seen = [0]

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_opcodes = True
        if event == "opcode" and signal.getsignal(signal.SIGTERM) is not before:
            seen[0] += 1
            if seen[0] == step:
                signal.raise_signal(signal.SIGTERM)
        return trace

    before = signal.getsignal(signal.SIGTERM)
    sys.settrace(trace)
    try:
        yield seen
    finally:
        sys.settrace(None)


def wait_with_signal_at(step: int, end: End) -> list[int]:
    with signal_at(step) as seen, _signals_to(end):
        run(end.steps(WAIT), end.sleepers)
    return seen


def test_a_signal_ends_the_wait_wherever_it_comes() -> None:
    quiet = End()
    run(End().steps(0), quiet.sleepers)  # what a thread's first wait does is done
    counted: list[int] = []
    with signal_at(0) as seen:

        def count() -> None:
            eventually(lambda: quiet.sleepers.asleep, WAIT)
            counted.append(seen[0])
            quiet.set()

        counter = threading.Thread(target=count)
        counter.start()
        with _signals_to(quiet):
            run(quiet.steps(WAIT), quiet.sleepers)
    counter.join()
    assert quiet.is_set
    for step in range(1, counted[0] + 1):
        end = End()
        wait_with_signal_at(step, end)
        assert end.is_set, f"a signal at opcode {step} of {counted[0]} was lost"


def test_a_signal_that_another_thread_takes_ends_the_wait() -> None:
    """The kernel gives a signal to any thread of a process; its handler runs in the main one, when that looks."""
    end = End()
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()

    def take() -> None:
        eventually(lambda: end.sleepers.asleep, WAIT)
        time.sleep(0.02)  # past the first, short wait, which looks by itself
        assert other.ident is not None
        signal.pthread_kill(other.ident, signal.SIGTERM)

    sender = threading.Thread(target=take)
    begin = time.monotonic()
    with _signals_to(end):
        sender.start()
        run(end.steps(WAIT), end.sleepers)
    assert end.is_set
    assert time.monotonic() - begin < WAIT / 2
    over.set()
    other.join()
    sender.join()
    assert signal.set_wakeup_fd(-1) == -1  # nothing is left of it
