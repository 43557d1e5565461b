"""What the control thread holds of each channel: its callbacks, what waits to be sent, and who waits for an answer."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from spworkers._locks import in_pieces
from spworkers.channel import Channel
from spworkers.errors import ChannelClosedError, ClosedError, SPError, from_name, to_wire
from spworkers.messages import Message
from spworkers.outbox import Outbox
from spworkers.packet import Packet

__all__ = ["OUTBOX", "Errand", "Link", "OnClosed", "OnMessage", "Pending", "fail"]

OnMessage = Callable[[Message, list[int]], None]
OnClosed = Callable[[], None]

OUTBOX: Final = 4096
"""Messages that may wait in one channel: one per thread that makes a request, and verdicts."""


class Pending:
    """A request that is not answered yet.

    Args:
        packet: the request; it owns its descriptors, and belongs to this from now on.
        carried: it may be sent again on another channel.
    """

    __slots__ = ("_done", "carried", "error", "link", "packet", "value")

    def __init__(self, packet: Packet, *, carried: bool) -> None:
        self.packet = packet
        self.carried = carried
        self.link: Link | None = None
        """In whose table it is."""
        self.value: Any = None
        self.error: SPError | None = None
        self._done = threading.Lock()  # held until it is answered: the cheapest thing that a thread can wait for
        self._done.acquire()

    def complete(self, value: Any, error: SPError | None = None) -> None:
        """Wake who waits. Once only, by whoever took it out of its table."""
        self.packet.close_all()
        self.value, self.error = value, error
        self._done.release()

    def wait(self, timeout: float | None) -> bool:
        """Whether it was answered in time."""
        return in_pieces(self._acquire, math.inf if timeout is None else timeout)

    def _acquire(self, seconds: float) -> bool:
        return self._done.acquire(timeout=seconds)


class Errand(Pending):
    """A request whose answer nobody waits for: it is only to be done."""

    __slots__ = ()

    def complete(self, value: Any, error: SPError | None = None) -> None:
        """Tell the log if it could not be done, unless nobody is there any more for whom it was to be."""
        super().complete(value, error)
        if error is not None and not isinstance(error, (ChannelClosedError, ClosedError)):
            logging.getLogger("spworkers.supervisor").warning("%s", error)


class Link:
    """A registered channel.

    Args:
        channel: to listen to.
        on_message: gets every message that is no answer.
        on_closed: called when the other end is gone.
        carry: what is not answered then waits here, for another channel.
    """

    def __init__(self, channel: Channel, on_message: OnMessage, on_closed: OnClosed | None, *, carry: bool) -> None:
        self.channel = channel
        self.fd = channel.fileno()
        self.on_message = on_message
        self.on_closed = on_closed
        self.carry = carry
        self.outbox = Outbox(channel, limit=OUTBOX)
        self.pending: dict[int, Pending] = {}  # by id, in the order in which they were asked
        self.closed: bool = False
        """No more events and no more sending."""
        self.mute: bool = False
        """No more callbacks; its owner has turned away."""


def fail(pending: Mapping[int, Pending], error: SPError) -> None:
    """Wake everybody who waits, with an error."""
    for each in pending.values():
        each.complete(None, from_name(*to_wire(error)))  # one for each: raising writes the traceback into it
