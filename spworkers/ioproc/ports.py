"""What the hub knows of each context and of each pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spworkers.ring import FrameReader, FrameWriter, Inlet, Outlet, Segment, ring_bell
from spworkers.transport.base import Link, Reader, Writer

if TYPE_CHECKING:
    from spworkers.ioproc.bridge import Deliveries


class ContextPort:
    """A context seen from the I/O process: the two ends of its lanes, and the client that owns it."""

    def __init__(self, index: int, segment: Segment, recv_bell: int, send_bell: int, client: str) -> None:
        self.index = index
        self.client = client
        self.segment = segment
        self.bells = (recv_bell, send_bell)
        self.outlet = Outlet(segment, send_bell)
        self.inlet: Deliveries = Inlet(segment, recv_bell)

    def ring(self) -> None:
        """Have both sides look again, after a death on either."""
        for bell in self.bells:
            ring_bell(bell)


class PipePort:
    """A pipe seen from the hub: its link, what reads and writes it, and where it stands."""

    def __init__(
        self,
        number: int,
        link: Link,
        max_size: int,
        address: str,
        dialer: int,
        listener: int,
        properties: dict[str, Any],
    ) -> None:
        self.id = number
        self.link = link
        self.fd = link.sock.fileno()
        self.reader: Reader = link.reader(max_size)
        self.writer: Writer = link.writer()
        # Its bytes come from the kernel as they are: then what it reads can go straight to where it is for.
        self.straight: FrameReader | None = self.reader if type(self.reader) is FrameReader else None
        self.bell = link.bell
        # Where bytes are plain frames, many messages can go in one call.
        self.batches: FrameWriter | None = self.writer if isinstance(self.writer, FrameWriter) else None
        # And large ones can be read into the lane that they are for.
        direct = self.reader if isinstance(self.reader, FrameReader) else getattr(self.reader, "direct", None)
        self.direct: FrameReader | None = direct
        self.lands: object = None  # that lane's end
        self.address = address
        self.local = link.local
        self.remote = link.remote
        self.dialer = dialer  # its key, or -1
        self.listener = listener  # likewise
        self.properties = properties
        self.backlog: list[Any] = []  # payloads (bytes, or landings) that the machine did not take yet,
        self.taken = 0  # but for so many at its beginning
        self.waiting = 0  # how many those were when that was written into shared memory
        self.attached = False  # the machine knows it
        self.reading = False
        self.congested = False
        self.under_way = 0  # messages that it has since it is, and that take no place in the send queue
        self.dirty = False  # something was written to it since the last flush
        self.closed = False
        self.hung_up = False  # its peer is gone, but not everything that it had sent has been delivered
        self.left = False  # nobody watches it any more
        self.ending = False  # it stays until the socket's close has drained it

    def info(self) -> dict[str, Any]:
        """The pipe as the control channel tells of it."""
        return {
            "id": self.id,
            "address": self.address,
            "local": self.local,
            "remote": self.remote,
            "dialer": None if self.dialer < 0 else self.dialer,
            "listener": None if self.listener < 0 else self.listener,
            "properties": self.properties,
            "sent": self.writer.frames,
            "received": self.reader.frames,
            "sent_bytes": self.writer.sent,
            "received_bytes": self.reader.received,
        }
