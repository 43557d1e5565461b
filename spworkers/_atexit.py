"""What is still to be done when the interpreter exits, and may be interrupted there."""

from __future__ import annotations

import atexit
import contextlib
import functools
import signal
from collections.abc import Callable

__all__ = ["at_exit"]


def at_exit(work: Callable[[], None]) -> Callable[[], None]:
    """Have it done at the exit, last registered first. Ctrl-C gives it up without a word.

    There is nobody left who could catch the exception, so a traceback would be all that it leads to; and whatever we
    have started ends with this process. The next Ctrl-C ends that at once.
    """

    @functools.wraps(work)
    def interruptible() -> None:
        try:
            work()
        except KeyboardInterrupt:
            with contextlib.suppress(ValueError):  # not the main thread of the main interpreter
                signal.signal(signal.SIGINT, signal.SIG_DFL)

    atexit.register(interruptible)
    return work
