"""What was delivered to a context and not taken yet, oldest first, for machines that may want it back.

The lane knows what was taken; here it is found out whenever something new is put. So little more is kept than what
waits, and a message that was taken does not occupy the memory of two processes for long.
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
        self._payloads: deque[bytes] = deque()

    def put(self, ticket: int, payload: bytes) -> None:
        """Something was delivered."""
        while len(self._tickets) > 0 and not self._out.waits(self._context, self._tickets[0]):
            self._pop()
        self._tickets.append(ticket)
        self._payloads.append(payload)

    def take_oldest(self) -> bool:
        """Take the oldest one back. False: there is none."""
        while len(self._tickets) > 0:
            if self._out.revoke(self._context, self._pop()):
                return True
        return False

    def take_all(self) -> int:
        """Take all of them back. Returns how many there were."""
        taken = 0
        while self.take_oldest():
            taken += 1
        return taken

    def payloads(self) -> list[bytes]:
        """What they are; some may have been taken."""
        return list(self._payloads)

    def keep(self, wanted: list[bool]) -> int:
        """Take back those for which `wanted`, in the order of `payloads`, says no. Returns how many there were."""
        taken = 0
        for want in wanted:
            payload = self._payloads[0]
            ticket = self._pop()
            if want:
                self._tickets.append(ticket)
                self._payloads.append(payload)
            elif self._out.revoke(self._context, ticket):
                taken += 1
        return taken

    def __len__(self) -> int:
        return len(self._tickets)

    def _pop(self) -> int:
        self._payloads.popleft()
        return self._tickets.popleft()
