"""A worker's place at the I/O process: requests come and answers go through shared memory, with nobody in between.

    I/O process ──▶ receive lane ──▶ take()        reply() ──▶ send lane ──▶ I/O process
                 bell wakes fileno()                    doorbell

The dispatcher numbers each request that it hands out (its serial); an answer names the request by that number.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple, Protocol

from spworkers.channel import Channel, close_fds
from spworkers.errors import ChannelClosedError
from spworkers.joined import join
from spworkers.ring import wait_readable

__all__ = ["Request", "RingPort", "WorkerPort"]

ANSWER_WINDOW: Final = 128
"""Answers that may wait in the lane for their connections: WRITEQ-LEN's default, and the dispatcher keeps below it."""


class Request(NamedTuple):
    """A request that a worker has taken."""

    serial: int
    body: bytes


class WorkerPort(Protocol):
    """What the worker's loop needs of the I/O process; tests have one of their own."""

    def take(self) -> Request | None:
        """The next request, if there is one."""

    def arm(self) -> bool:
        """Have `fileno()` wake us for the next one. True: look again first, something is there."""

    def fileno(self) -> int:
        """A descriptor that is readable when there may be a request."""

    def control(self) -> int:
        """A descriptor that is readable when `attend` is to be called."""

    def attend(self) -> bool:
        """Read what the I/O process says beside requests. False: it is gone for good."""

    def reply(self, request: Request, body: bytes) -> None:
        """Send a request's answer, waiting for room."""

    def close(self) -> None:
        """Leave."""


class RingPort:
    """The real one.

    Args:
        channel: to the I/O process, whose client this worker becomes; it belongs to the port.

    Raises:
        ChannelClosedError: the I/O process is gone.
        ResourceError: it has no context to give.
    """

    def __init__(self, channel: Channel) -> None:
        self._link, self._port, _ = join(channel)
        self._port.tx.window = ANSWER_WINDOW

    def take(self) -> Request | None:
        record = self._port.rx.take()
        return Request(record.serial, record.take_body()) if record is not None else None

    def arm(self) -> bool:
        return self._port.rx.arm()

    def fileno(self) -> int:
        return self._port.rx.bell

    def control(self) -> int:
        return self._link.channel.fileno()

    def attend(self) -> bool:
        try:
            while (received := self._link.channel.recv_ready()) is not None:
                close_fds(received[1])
        except ChannelClosedError:
            return False
        return True

    def reply(self, request: Request, body: bytes) -> None:
        tx = self._port.tx
        while not tx.publish(body, b"", 0, request.serial):
            if not tx.arm(len(body)):
                wait_readable(tx.bell, math.inf)

    def close(self) -> None:
        self._port.close()
        self._link.close()
