"""Messages that wait for room in a control channel, so that a loop that serves many never waits for one of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from spworkers.channel import Channel
from spworkers.errors import ResourceError
from spworkers.packet import Packet

__all__ = ["OUTBOX_LIMIT", "Outbox"]

OUTBOX_LIMIT: Final = 1024
"""Packets that wait, unless said otherwise. A reader that is this far behind is stopped or hung."""


class Outbox:
    """A bounded queue in front of a channel. It never waits; its owner polls for POLLOUT while `waiting` and calls
    `flush`.

    It is not locked: one thread uses it, or its users share a lock.

    Args:
        channel: where the messages go; it stays its owner's.
        limit: packets that may wait.
    """

    __slots__ = ("_channel", "_queue", "dropped", "limit")

    def __init__(self, channel: Channel, *, limit: int = OUTBOX_LIMIT) -> None:
        self._channel = channel
        self._queue: deque[Packet] = deque()
        self.limit = limit
        self.dropped: int = 0
        """Notices refused so far, over the limit; the owner may set it to 0 again."""

    @property
    def waiting(self) -> int:
        """How many packets wait."""
        return len(self._queue)

    def put(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Send a message now, or as soon as there is room. The descriptors stay the caller's, who may close them at
        once.

        Raises:
            ResourceError: `limit` packets wait already, or the system has no room; it was not sent.
            ChannelClosedError: the other end is gone.
            Others as `Channel.send`.
        """
        packet = Packet(message, fds)
        try:
            self.put_packet(packet)
        finally:
            packet.close()

    def put_packet(self, packet: Packet) -> None:
        """As `put`, with a packet that stays the caller's."""
        if not self._queue and self._channel.transmit(packet):
            return
        if len(self._queue) >= self.limit:
            raise ResourceError(f"control message not sent: {self.limit} wait already, its receiver does not read")
        self._queue.append(packet.copy())

    def notify(self, message: Mapping[str, Any]) -> bool:
        """As `put`, for news that may be lost: beyond half of the limit it is dropped and counted, and the answer is
        False."""
        if self.waiting >= self.limit // 2:
            self.dropped += 1
            return False
        self.put(message)
        return True

    def flush(self) -> bool:
        """Send what there is room for; True: nothing waits any more.

        Raises:
            ChannelClosedError: the other end is gone.
        """
        while self._queue:
            packet = self._queue[0]
            if not self._channel.transmit(packet):
                return False
            self._queue.popleft().close_all()
        return True

    def close(self) -> None:
        """Forget what waits, and close its descriptors."""
        while self._queue:
            self._queue.popleft().close_all()

    def __repr__(self) -> str:
        return f"<Outbox: {self.waiting} of {self.limit} wait, {self.dropped} dropped>"
