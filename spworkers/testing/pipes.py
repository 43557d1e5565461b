"""Connections as a machine sees them, without a network."""

from __future__ import annotations

from collections import deque

from spworkers.testing.messages import FakeMessage

__all__ = ["FakePipe"]


class FakePipe:
    """A connection.

    `room` is how many frames it takes until it is congested; None: any number. `sent` are the frames that it took,
    `unread` those of its peer that were not read from it; the first of them may be one that the machine refused. Set
    `breaks`, and the next frame finds the connection broken.
    """

    def __init__(self, number: int, room: int | None = None) -> None:
        self.id = number
        self.room = room
        self.breaks = False
        self.sent: list[bytes] = []
        self.unread: deque[bytes] = deque()
        self.never_read: list[bytes] = []
        """What was unread when it went."""
        self.accepted = True
        self.attached = True
        self.congested = False
        self.taken = 0
        """What it took while it was congested, in bytes, say."""
        self.paused = False
        self.closed_for = ""
        """The cause for which the machine closed it, if it did; with `defer_close` it is attached still."""
        self.in_flight: list[FakeMessage] = []
        """Messages that the kernel does not have yet, while the harness holds them."""

    def take(self) -> list[bytes]:
        """What was sent since the last time."""
        sent, self.sent = self.sent, []
        return sent

    def flush(self) -> None:
        """The kernel has all that was sent."""
        for message in self.in_flight:
            message.release()
        self.in_flight.clear()

    def __repr__(self) -> str:
        state = "congested" if self.congested else "ready"
        return f"<FakePipe {self.id}: {state if self.attached else 'gone'}, {len(self.sent)} sent>"
