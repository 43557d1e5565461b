"""The half of those who send to everybody: PUB, BUS, STAR, raw SURVEYOR."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spworkers.halves.raw import RawHalf

if TYPE_CHECKING:
    from spworkers.port import Port

__all__ = ["FanoutHalf"]

LANE = 4096
"""Messages on their way to the I/O process. WRITEQ-LEN is counted there, pipe by pipe; this is for a burst."""


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

    def reservable(self) -> bool:
        return True
