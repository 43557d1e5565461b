"""How a request that a plain handler is busy with is stopped: by an exception, raised where the handler is.

    I/O process ── cancel ──▶ the worker's channel ── SIGIO ──▶ handler of the signal ── raises ──▶ the handler

The channel is told to signal the worker's main thread (O_ASYNC), so nothing runs, and nothing costs, until there is
something to say. A handler that blocks signals, or stays in C code, does not notice; the dispatcher then kills the
worker. What it leaves blocked, or handled otherwise, is put right when it returns: the next request is somebody else's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import sys
import threading
from _signal import getsignal  # type: ignore[import-not-found]  # what `signal` has makes an enumeration of it
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

from spworkers.ring import SignalMask
from spworkers.workers.stops import Stopped

__all__ = ["Interrupter"]

_SIGNAL: Final = signal.SIGIO
_REMEMBERED: Final = 64

# fcntl.h of Linux: the signal goes to a certain thread. Elsewhere it goes to the process.
_F_SETOWN_EX: Final = 15
_F_OWNER_TID: Final = 0


class Interrupter:
    """Stops the main thread in the midst of a request; to be made there.

    Args:
        look: called from the signal's handler while a request runs, to read what there is to say; it calls `stop`.
            None: another thread reads, and calls `stop`.
    """

    def __init__(self, look: Callable[[], object] | None = None) -> None:
        self._look = look
        self._current = 0
        self._target = 0
        self._missed = False
        self._early: dict[int, None] = {}  # given up before they were begun
        self._watched: list[int] = []
        self._main = threading.get_ident()
        self._handler: Final[Any] = self._on_signal
        self._former = signal.signal(_SIGNAL, self._handler)
        self._mask: Final = SignalMask()

    def watch(self, fd: int) -> None:
        """Have this descriptor signal us whenever there is something to read."""
        if sys.platform == "linux":
            fcntl.fcntl(fd, _F_SETOWN_EX, struct.pack("ii", _F_OWNER_TID, threading.get_native_id()))
        else:
            fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
        self._watched.append(fd)

    def begin(self, serial: int) -> None:
        """A request begins; from here to `end`, which has to follow whatever happens, `Stopped` may be raised."""
        if self._early and self._early.pop(serial, self) is None:
            raise Stopped
        self._current = serial
        if self._missed and self._look is not None:
            self._missed = False
            self._look()
            self._raise_if_meant()

    def end(self) -> None:
        """It is over."""
        self._current = self._target = 0
        self.restore()

    def restore(self) -> None:
        """Hear again, whatever code that is not ours has done to signals."""
        self._mask.restore()
        if getsignal(_SIGNAL) is not self._handler:
            signal.signal(_SIGNAL, self._handler)
            self._missed = True

    @contextlib.contextmanager
    def running(self, serial: int) -> Iterator[None]:
        """Around a request: `begin` and `end`."""
        try:
            self.begin(serial)
            yield
        finally:
            self.end()

    def stop(self, serial: int) -> bool:
        """Stop this request, now or, if it has not begun, as soon as it does. False: it is not the one that runs.

        Any thread may say so.
        """
        if serial != self._current:
            self._early[serial] = None
            if len(self._early) > _REMEMBERED:
                self._early.pop(next(iter(self._early)))
            return False
        self._target = serial
        if threading.get_ident() != self._main:
            signal.pthread_kill(self._main, _SIGNAL)
        return True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._current == 0:
            self._missed = True
            return
        if self._look is not None:
            self._look()
        self._raise_if_meant()

    def _raise_if_meant(self) -> None:
        if self._target and self._target == self._current:
            self._target = 0
            raise Stopped

    def close(self) -> None:
        """Leave the signal alone: nobody sends it any more, as its default is to end the process."""
        for fd in self._watched:
            with contextlib.suppress(OSError):  # it was closed meanwhile
                fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_ASYNC)
        signal.signal(_SIGNAL, self._former)
