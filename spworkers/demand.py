"""What a context's receivers have asked its I/O process for.

A lane without room for messages that nobody waits for is given one only when somebody has announced that he wants it.
Announcements are a number in shared memory, and a message that is given for one says so, but not for whose. So whoever
takes such a message and had not announced himself has to ask again in the name of who did. This holds, if the I/O
process does not die:

    announcements + messages given for them and not taken = receivers that wait + 1 if one stands + answered too late
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spworkers.ring import Receiver

__all__ = ["NONE", "Demand"]

NONE = -1
"""The epoch of no announcement. With each I/O process a new epoch begins, in which all announcements are made anew."""


class Demand:
    """The announcements of one context in this process.

    Args:
        rx: its receiving end.
    """

    def __init__(self, rx: Receiver) -> None:
        self.rx = rx
        self.lock = threading.Lock()
        self.waiting = 0  # receivers that have announced themselves
        self.standing = NONE  # the epoch of the announcement that nobody waits on
        self.watched = False  # by fileno(): one announcement stands always
        self.late = 0  # messages that were given to receivers that had given up

    def wait(self, epoch: int) -> int:
        """A receiver waits from now on, or goes on waiting. Returns the epoch to say in the next call.

        Args:
            epoch: of its announcement, or NONE.
        """
        now = self.rx.epoch
        if epoch == now:
            return epoch
        with self.lock:
            self.waiting += epoch == NONE
            return self.rx.announce()

    def give_up(self, epoch: int) -> bool:
        """A receiver does not want to wait any longer. False: it must, a message is on its way to it."""
        with self.lock:
            if epoch != NONE and not self.rx.withdraw(epoch) and self.rx.epoch == epoch:
                return False
            self.waiting -= epoch != NONE
            return True

    def end(self, epoch: int, given: bool) -> None:
        """A receiver stops waiting, with a message that was given for an announcement (`given`), or without."""
        with self.lock:
            if epoch != NONE:
                self.waiting -= 1
                if not given and not self.rx.withdraw(epoch) and self.rx.epoch == epoch:
                    self.late += 1
                given = False
        if given:
            self.taken()

    def taken(self) -> None:
        """Who had not announced himself took a message that was given for an announcement."""
        with self.lock:
            if self.late:
                self.late -= 1
            elif self.standing != NONE:
                self.standing = NONE
                if self.watched:
                    self.standing = self.rx.announce()
            elif self.waiting:
                self.rx.announce()

    def stand(self) -> None:
        """One announcement stands from now on until it is answered."""
        with self.lock:
            if self.standing != self.rx.epoch:
                self.standing = self.rx.announce()
