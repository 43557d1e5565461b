"""A worker's place at the I/O process: requests come and answers go through shared memory, with nobody in between.

    I/O process ──▶ receive lane ──▶ take()        reply() ──▶ send lane ──▶ I/O process
                 bell wakes fileno()                    doorbell

The dispatcher numbers each request that it hands out (its serial); an answer names the request by that number. Its last
bit says whether the request runs beside others.

What is not claimed yet (`Offer`) the dispatcher may take back, and if this worker dies it was not begun. So it may lie
here before it is its turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Protocol

from spworkers.channel import Channel, close_fds
from spworkers.errors import ChannelClosedError
from spworkers.joined import join
from spworkers.lookaround import crowded
from spworkers.ring import CANCEL, DATA, Record, wait_readable

__all__ = ["Offer", "Request", "RingPort", "WorkerPort"]

MORE: Final = 3
LEAVE: Final = 4
DONE: Final = 5
"""Kinds of messages, as `spworkers.protocol.machine` has them."""

_BESIDE: Final = 1
"""The bit of a serial, which is the crew in `spworkers.protocol.crew`."""

ANSWER_WINDOW: Final = 1024
"""Answers that may lie in the lane. Those that wait for their connections the dispatcher keeps below WRITEQ-LEN (128);
but each connection that takes nothing has one more in hand, which is not to keep the worker from answering others."""


class Request:
    """A request that a worker has taken."""

    def __init__(self, serial: int, body: bytes, pipe: int = 0) -> None:
        self.serial: Final = serial
        self.body: Final = body
        self.pipe: Final = pipe


class Offer:
    """A request that a worker may take.

    Attributes:
        beside: it is to be run beside others. Only of what can be claimed that is certain.
    """

    def __init__(self, record: Record) -> None:
        self._record: Final = record
        self.beside: Final = record.serial & _BESIDE != 0

    def claim(self) -> bool:
        """Take it for good. False: it was taken back."""
        return self._record.claim()

    def request(self) -> Request:
        """The request, once it is claimed."""
        return Request(self._record.serial, self._record.take_body(), self._record.pipe)


class WorkerPort(Protocol):
    """What the worker's loop needs of the I/O process; tests have one of their own."""

    def take(self) -> Request | None:
        """The next request, if there is one."""

    def next(self) -> Offer | None:
        """The next one, not taken yet."""

    def look(self, seconds: float) -> bool:
        """Wait for the next one without sleeping, at most so many seconds. Whether there may be one.

        In a crowd only while others run meanwhile: who waits in vain keeps them from his processor.
        """

    def arm(self) -> bool:
        """Have `fileno()` wake us for the next one. True: look again first, something is there."""

    def fileno(self) -> int:
        """A descriptor that is readable when there may be a request."""

    def control(self) -> int:
        """A descriptor that is readable when `attend` is to be called."""

    def attend(self, canceled: Callable[[int], None]) -> bool:
        """Read what the I/O process says beside requests. False: it is gone for good.

        Args:
            canceled: called with the serial of every request, or stream, that is given up; 0: all streams.
        """

    def reply(self, request: Request, body: bytes, more: bool = False) -> None:
        """Send a request's answer, waiting for room; any thread may. `more`: it opens a stream, or goes on with it."""

    def done(self, request: Request) -> None:
        """Say that a request was run, and has no answer."""

    def give_back(self, request: Request) -> None:
        """Say that a request was not run, or that it was stopped."""

    def leave(self) -> None:
        """Take no more requests; those that this worker has taken, and the streams that it has, it finishes."""

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
        taken = self._port.rx.take_whole()
        return None if taken is None else Request(taken[0], taken[1], taken[2])

    def next(self) -> Offer | None:
        record = self._port.rx.next()
        return None if record is None else Offer(record)

    def look(self, seconds: float) -> bool:
        return self._port.rx.look(seconds, crowded())

    def arm(self) -> bool:
        return self._port.rx.arm()

    def fileno(self) -> int:
        return self._port.rx.bell

    def control(self) -> int:
        return self._link.channel.fileno()

    def attend(self, canceled: Callable[[int], None]) -> bool:
        try:
            while (received := self._link.channel.recv_ready()) is not None:
                message, fds = received
                close_fds(fds)
                if message["t"] == "cancel":
                    canceled(message["serial"])
                elif message["t"] == "hello" and message["generation"] > 1:
                    canceled(0)  # whoever read them was connected to its predecessor
        except ChannelClosedError:
            return False
        return True

    def reply(self, request: Request, body: bytes, more: bool = False) -> None:
        self._publish(body, request.serial, MORE if more else DATA)

    def done(self, request: Request) -> None:
        self._publish(b"", request.serial, DONE)

    def give_back(self, request: Request) -> None:
        self._publish(b"", request.serial, CANCEL)

    def leave(self) -> None:
        self._publish(b"", 0, LEAVE)

    def _publish(self, body: bytes, serial: int, kind: int) -> None:
        tx = self._port.tx
        while not tx.publish(body, b"", 0, serial, kind):
            if not tx.arm(len(body)):
                wait_readable(tx.bell, math.inf)

    def close(self) -> None:
        self._port.close()
        self._link.close()
