"""Starting a thread that others rely on, whatever Ctrl-C does at that moment.

`Thread.start` waits for the new thread, and is Python's own code: a signal's handler that raises ends it, and then
nobody knows whether the thread runs. This module is compiled, so nothing is interrupted between two lines of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["start_thread"]


class Once:
    """The life of a thread, of which perhaps two were started: the first lives it."""

    def __init__(self, life: Callable[[], None]) -> None:
        self._life = life
        self._taken = threading.Lock()

    def __call__(self) -> None:
        if self._taken.acquire(False):
            self._life()


def start_thread(life: Callable[[], None], name: str) -> BaseException | None:
    """Start a daemon thread that runs `life`, once.

    Returns:
        What a signal's handler has raised meanwhile: the thread runs nevertheless, and the caller raises it when all is
        as it has to be; None: nothing.

    Raises:
        RuntimeError: the system has no room for another thread, or the interpreter exits.
    """
    once = Once(life)
    interrupt: BaseException | None = None
    while True:
        try:
            threading.Thread(target=once, name=name, daemon=True).start()
            return interrupt
        except RuntimeError:
            raise
        except BaseException as error:
            interrupt = error
