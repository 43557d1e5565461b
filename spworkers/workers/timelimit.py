"""What happens when something takes too long: a limit for what a worker does that no dispatcher watches."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Final

__all__ = ["CLOSING", "if_longer", "time_limit"]

CLOSING: Final = 2.0
"""Seconds in which a stream that was given up has to end, as a request has (the dispatcher's GRACE)."""


@contextlib.contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Kill this worker, unless the block is left within so many seconds: another takes its place.

    It may be used in any thread, and around what an event loop awaits.

    Args:
        seconds: how many; 0: as long as it takes.
        what: did not end in time.
    """
    if seconds <= 0:
        yield
        return
    with if_longer(seconds, lambda: _die(f"spworkers: {what} did not end within {seconds:g} s; its worker ends\n")):
        yield


@contextlib.contextmanager
def if_longer(seconds: float, call: Callable[[], object]) -> Iterator[None]:
    """Call this, in a thread of its own, unless the block is left within so many seconds."""
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _die(text: str) -> None:
    with contextlib.suppress(OSError):  # not logging: its lock may be what is waited for
        os.write(2, text.encode())
    os.kill(os.getpid(), signal.SIGKILL)
