"""Messages that wait for a pipe, in order, and unclaimed, so that their senders can still take them back.

What a sender took back stays here as a dead entry until its turn comes. A pipe that never takes anything again, and
senders that give up again and again, would therefore fill the memory; so from a certain length on the waiting messages
are claimed, which shows the dead ones. The live ones are bounded by the senders' windows.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from spworkers.protocol.machine import Actions, Outgoing

__all__ = ["Outbox"]

# From this many entries on dead ones are looked for: several times WRITEQ-LEN's default of 128, so that in ordinary use
# every message that waits can be taken back.
_SWEEP: Final = 1024


class Outbox:
    """A queue of messages to send."""

    def __init__(self) -> None:
        self._messages: deque[Outgoing] = deque()
        self._claimed = 0  # so many of them, the first ones, were claimed by a sweep
        self._limit: int = _SWEEP

    def append(self, message: Outgoing) -> None:
        """Let it wait, after all others."""
        self._messages.append(message)
        if len(self._messages) > self._limit:
            self._sweep()

    def next(self) -> Outgoing | None:
        """The first one that its sender has not taken back, claimed now; None: there is none."""
        while self._messages:
            message = self._messages.popleft()
            if self._claimed > 0:
                self._claimed -= 1
                return message
            if message.claim():
                return message
        self._limit = _SWEEP
        return None

    def drop(self, out: Actions, cause: str, pipe: int) -> None:
        """Drop and count all of them."""
        message = self.next()
        while message is not None:
            out.count(cause, pipe)
            message.release()
            message = self.next()

    def __len__(self) -> int:
        """How many wait, those included that were taken back and not found out yet."""
        return len(self._messages)

    def _sweep(self) -> None:
        """Claim all, and forget those that cannot be. It pays for itself: the queue has doubled since the last time."""
        claimed = self._claimed
        live: deque[Outgoing] = deque()
        for message in self._messages:
            if claimed > 0:
                claimed -= 1
                live.append(message)
            elif message.claim():
                live.append(message)
        self._messages = live
        self._claimed = len(live)
        self._limit = max(_SWEEP, 2 * len(live))
