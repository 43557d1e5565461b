"""Making way: who is woken waits until whoever runs sleeps, instead of taking the processor from him (`SCHED_BATCH`).

Among many that run for some microseconds each, that is quicker for everybody: each finishes what he began while it is
in the processor's caches, and there are half as many switches. Beside one who computes and does not sleep it is a wait
of milliseconds for each message. Nothing tells the two apart from outside, but the kernel counts how long we waited.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

__all__ = ["Deference", "WaitingTimes"]

_LONG: Final = 1_000_000
"""Nanoseconds: who waits that long for each of his turns has met one who computes. In a crowd it is some 100 µs."""
_PAUSE: Final = 0.1
"""Seconds until the next attempt after that; twice as many after the next one."""
_PAUSE_MOST: Final = 30.0
_PROVED: Final = 1.0
"""Seconds without such a wait, after which those before are forgotten."""

Waited = tuple[int, int]
"""How long a thread that wanted to run has waited since its start, in nanoseconds, and how often it got to run."""


class Deference:
    """Has this thread make way for others, as long as they are soon done.

    Args:
        waited: as `WaitingTimes`.
    """

    def __init__(self, waited: Callable[[], Waited | None]) -> None:
        self._waited = waited
        self._before: Waited | None = None  # what there was at the last look; None: it does not make way
        self._since = 0.0
        self._until = 0.0
        self._pause = _PAUSE

    def __call__(self, crowded: bool) -> bool:
        """Whether it makes way from now on.

        Args:
            crowded: there are others to make way for.
        """
        if self._before is None:
            if crowded and time.monotonic() >= self._until:
                self._begin()
        elif not crowded or self._is_long(self._before):
            self._end()
        return self._before is not None

    def _begin(self) -> None:
        before = self._waited()
        if before is None or not _change(os.SCHED_OTHER, os.SCHED_BATCH):
            self._until = time.monotonic() + _PAUSE_MOST
            return
        self._before, self._since = before, time.monotonic()

    def _is_long(self, before: Waited) -> bool:
        """Since the look before."""
        after = self._waited()
        now = time.monotonic()
        if after is None or after[0] - before[0] > _LONG * (after[1] - before[1]):
            self._until = now + self._pause
            self._pause = min(2 * self._pause, _PAUSE_MOST)
            return True
        if now - self._since > _PROVED:
            self._pause = _PAUSE
        self._before = after
        return False

    def _end(self) -> None:
        self._before = None
        _change(os.SCHED_BATCH, os.SCHED_OTHER)


def _change(before: int, after: int) -> bool:
    """This thread's policy; False: it is another one than `before`, somebody else's choice, or forbidden."""
    try:
        if os.sched_getscheduler(0) != before:
            return False
        os.sched_setscheduler(0, after, os.sched_param(0))
    except OSError:
        return False
    return True


class WaitingTimes:
    """Tells of the waits of this thread; None: the system does not say."""

    def __init__(self) -> None:
        try:  # now, so that a process has as many descriptors in a crowd as alone
            self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = -1

    def __call__(self) -> Waited | None:
        try:
            _, waited, turns = os.pread(self._file, 100, 0).split()
            return (int(waited), int(turns)) if turns != b"0" else None  # a kernel that does not count says 0
        except (OSError, ValueError):
            return None

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)
