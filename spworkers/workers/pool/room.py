"""Whether a processor is to spare for looking around: who spins where others wait to run takes from them, and from the
very process whose answer it waits for."""

from __future__ import annotations

import os
import time
from typing import Final

__all__ = ["roomy"]

_LOOK: Final = 0.05
"""Seconds for which an answer is good."""

_until = 0.0
_room = False


def roomy() -> bool:
    """No more threads want to run at this moment than there are processors. False where the system does not tell."""
    global _until, _room
    now = time.monotonic()
    if now >= _until:
        _room = _look()
        _until = now + _LOOK
    return _room


def _look() -> bool:
    try:
        with open("/proc/loadavg", "rb") as file:  # "0.20 0.18 0.12 1/80 11206": one of 80 is running
            running = int(file.read().split()[3].partition(b"/")[0])
    except (OSError, ValueError, IndexError):
        return False
    return running <= (os.cpu_count() or 1)
