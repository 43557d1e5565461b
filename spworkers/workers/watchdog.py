"""Kills workers that have grown beyond their memory limit in the midst of a request.

Between two requests the worker looks itself, and leaves in order (`middleware/memory.py`). This is for those that never
come to that: a thread of the parent looks at the resident memory of each.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Final

import psutil

from spworkers.workers.quantities import size_text

__all__ = ["Watchdog"]

_LOOK: Final = 0.1  # seconds


class Watchdog:
    """The thread.

    Args:
        limit: bytes of resident memory.
        busy: of the workers that have a request in hand, by key: pid, and how many requests it has answered.
        kill: called with key, pid and reason.

    Killed is who was beyond the limit at two looks in the same request: between two requests it would leave in order.
    Who is beyond twice the limit is killed at once.
    """

    def __init__(
        self, limit: int, busy: Callable[[], dict[str, tuple[int, int]]], kill: Callable[[str, int, str], None]
    ) -> None:
        self._limit = limit
        self._busy = busy
        self._kill = kill
        self._suspects: dict[str, tuple[int, int]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="spworkers-watchdog", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(_LOOK):
            former, self._suspects = self._suspects, {}
            for key, facts in self._busy().items():
                self._look_at(key, facts, former.get(key) == facts)

    def _look_at(self, key: str, facts: tuple[int, int], suspect: bool) -> None:
        size = 0
        with contextlib.suppress(psutil.Error):
            size = psutil.Process(facts[0]).memory_info().rss
        if size <= self._limit:
            return
        self._suspects[key] = facts
        if suspect or size > 2 * self._limit:
            reason = f"it had grown to {size_text(size)} in a request, its memory_limit is {size_text(self._limit)}"
            self._kill(key, facts[0], reason)

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        self._thread.join()
