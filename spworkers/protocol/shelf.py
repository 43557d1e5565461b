"""What was delivered to a context and not taken yet, oldest first, for machines that may want it back.

The lane knows what was taken; here it is found out whenever something new is put: little more is kept than
what waits.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from spworkers.protocol.machine import Actions

__all__ = ["Shelf"]


class Shelf:
    """The deliveries of one context."""

    def __init__(self, out: Actions, context: int) -> None:
        self._out: Final = out
        self._context: Final = context
        self._tickets: deque[int] = deque()

    def put(self, ticket: int) -> None:
        """Something was delivered."""
        while len(self._tickets) > 0 and not self._out.waits(self._context, self._tickets[0]):
            self._tickets.popleft()
        self._tickets.append(ticket)

    def take_all(self) -> int:
        """Take all of them back. Returns how many there were."""
        taken = 0
        while len(self._tickets) > 0:
            if self._out.revoke(self._context, self._tickets.popleft()):
                taken += 1
        return taken

    def __len__(self) -> int:
        return len(self._tickets)
