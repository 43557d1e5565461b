"""The half of those who send to everybody: PUB, BUS, STAR, raw SURVEYOR."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spworkers.halves.raw import RawHalf
from spworkers.waiting import Deadline, Steps

if TYPE_CHECKING:
    from spworkers.port import Port

__all__ = ["FanoutHalf"]

LANE = 4096
"""Messages on their way to the I/O process. WRITEQ-LEN is counted there, pipe by pipe; this is for a burst."""
PATIENCE = 1.0
"""Seconds that a send waits for the I/O process at least, whatever its timeout. That is about peers, and there is none
to wait for; that the system has just not let a process run is no reason to lose a message."""


def patient(port: Port, lane: int, deadline: Deadline) -> Deadline:
    """When to give up a send to everybody: not before `PATIENCE` if so many messages wait for the I/O process; when its
    time is over if it is the byte budget that is used up."""
    return Deadline(max(deadline.left(), PATIENCE)) if port.tx.queued >= lane else deadline


class FanoutHalf(RawHalf):
    """A send waits for no peer; at most, in a long burst, for the I/O process."""

    def __init__(self, port: Port) -> None:
        super().__init__(port)
        self.keeps_header = False
        self.queue_length = LANE
        port.tx.window = LANE

    def configure(self, name: str, value: Any) -> None:
        if name != "WRITEQ-LEN":
            super().configure(name, value)

    def send_steps(self, body: Any, header: bytes, deadline: Deadline) -> Steps[None]:
        yield from self._queue(body, header, patient(self.port, LANE, deadline))

    def reservable(self) -> bool:
        return True
