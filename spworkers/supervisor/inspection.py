"""What a program consists of, for who looks at it from outside: every child, and what each I/O process says of itself.

    who looks           supervisor                        I/O processes
    inspect ──────────▶ look ────────────────────────────▶ each one
                        seen{facts} ◀──────────────────── counters, endpoints, pipes, rings
    ◀── answer ──────── when all have answered, or after PATIENCE

Nothing can be changed this way. An I/O process that is stopped or hung has its place in the answer, without facts; it
is asked once, and not again until it answers, however often somebody looks.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Final

from spworkers.supervisor.loop import Loop, Timer
from spworkers.supervisor.record import Child

__all__ = ["PATIENCE", "Inspections"]

PATIENCE: Final = 1.0
"""Seconds that the I/O processes have to answer."""
_TOLD: Final = ("protocol", "raw", "name", "number", "attach")
"""What is told of a child's specification; it may hold keys and functions, which are nobody's business."""

Tell = Callable[[dict[str, Any]], None]


class Inspections:
    """All looks that are not answered yet.

    Args:
        loop: that the time comes from.
        children: all children of the supervisor.
    """

    def __init__(self, loop: Loop, children: Callable[[], list[Child]]) -> None:
        self._loop = loop
        self._children = children
        self._asked: dict[str, int] = {}  # key of an I/O process that has not answered → its pid
        self._open: list[_Look] = []

    def begin(self, tell: Tell) -> None:
        """Find out, and call `tell` once with a map: `pid`, `parent` and `children`, one map for each."""
        look = _Look(tell)
        for child in self._children():
            if child.role == "io" and child.process is not None:
                look.waits.add(child.key)
                if self._asked.get(child.key) != child.process.pid:
                    self._asked[child.key] = child.process.pid
                    child.process.peer.notify({"t": "look"})
        self._open.append(look)
        look.timer = self._loop.after(PATIENCE, lambda: self._end(look))
        self._end_if_complete(look)

    def seen(self, child: Child, facts: dict[str, Any]) -> None:
        """An I/O process answers."""
        self._asked.pop(child.key, None)
        for look in self._open[:]:
            if child.key in look.waits:
                look.waits.discard(child.key)
                look.facts[child.key] = facts
                self._end_if_complete(look)

    def _end_if_complete(self, look: _Look) -> None:
        if not look.waits:
            self._end(look)

    def _end(self, look: _Look) -> None:
        if look not in self._open:
            return
        self._open.remove(look)
        if look.timer is not None:
            look.timer.cancel()
        children = [_described(child, look.facts.get(child.key)) for child in self._children()]
        look.tell({"pid": os.getpid(), "parent": os.getppid(), "children": children})

    def __repr__(self) -> str:
        return f"<Inspections: {len(self._open)} open>"


class _Look:
    """One of them."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        self.waits: set[str] = set()
        self.facts: dict[str, dict[str, Any]] = {}
        self.timer: Timer | None = None


def _described(child: Child, facts: dict[str, Any] | None) -> dict[str, Any]:
    process = child.process
    return {
        "key": child.key,
        "role": child.role,
        "pid": process.pid if process is not None else 0,
        "age": time.monotonic() - process.started if process is not None else 0.0,
        "generation": child.generation,
        "spec": {name: child.spec[name] for name in _TOLD if name in child.spec},
        "fds": list(child.fds),
        "facts": facts,
    }
