"""The end of something that lasts (a device, a server), as what is waited for."""

from __future__ import annotations

import os

from spworkers.options import Seconds, timeout_seconds
from spworkers.ring import make_bell, ring_bell
from spworkers.waiting import Deadline, Sleepers, Steps, Wait

__all__ = ["End"]


class End:
    """A bell that is rung once and never silenced: any number of threads and tasks wait for it.

    Unlike a `threading.Event`, a signal's handler may set it while the thread that it interrupts waits for it: that
    one's lock would be held by the very thread, and a signal that comes just before the wait would not end it.
    """

    def __init__(self) -> None:
        self.is_set = False
        self.bell = make_bell()
        self.hushed = False
        self.sleepers = Sleepers()

    def set(self) -> None:
        """It has come."""
        self.is_set = True
        ring_bell(self.bell)

    def steps(self, timeout: Seconds = None) -> Steps[bool]:
        """Wait for it, `timeout` seconds at most (None: for ever); False: the time is over."""
        deadline = Deadline(timeout_seconds(timeout))
        while not self.is_set:
            if not (yield Wait(self, deadline.left())):
                break
        return self.is_set

    def __del__(self) -> None:
        os.close(self.bell)
