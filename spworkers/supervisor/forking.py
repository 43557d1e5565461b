"""A fork without the repairs that only a process with several threads needs.

After a fork the standard library makes anew what another thread might have held at that moment: the locks of threading
and of logging, asyncio's running loop. A supervisor has one thread, which holds nothing of that when it forks, and the
repair costs each child 170 pages, a third of all that it copied up to its first task. What others register, and what is
registered later, is called as ever; and so is everything when a child of ours forks.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

__all__ = ["fork", "repairs_left_out"]

LEFT_OUT: Final = frozenset({"threading", "logging", "asyncio.events"})
"""Modules whose repairs a process with one thread does without. Not `random`, say: children would draw the same
numbers."""

_register: Final = os.register_at_fork
_forking = False
"""This process is being forked by `fork`."""


def repairs_left_out(how: bool) -> None:
    """Whether modules that are imported from now on have their repairs left out of `fork`."""
    os.register_at_fork = _guarded if how else _register  # type: ignore[assignment]


def _guarded(**calls: Callable[[], object]) -> None:
    # All or none of what belongs together: what takes a lock before a fork, and what releases it on either side.
    left_out = all(getattr(call, "__module__", "") in LEFT_OUT for call in calls.values())
    _register(**{when: _unless_forking(call) if left_out else call for when, call in calls.items()})


def _unless_forking(call: Callable[[], object]) -> Callable[[], None]:
    def repair() -> None:
        if not _forking:
            call()

    return repair


def fork() -> int:
    """`os.fork`, in a process that has one thread.

    Raises:
        OSError: the system has no room for another process.
    """
    global _forking
    _forking = True
    try:
        return os.fork()
    finally:
        _forking = False
