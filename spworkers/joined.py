"""A line to somebody else's I/O process: for workers, and for a context that was handed to this process."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Sequence
from typing import Any

from spworkers.channel import Channel, close_fds
from spworkers.errors import ClosedError, ForkedError, UnsupportedOptionError, from_name
from spworkers.port import Port
from spworkers.ring import Region

__all__ = ["JoinedLink", "join"]


class JoinedLink:
    """Asks an I/O process by a channel of its own, one question at a time; there is no thread behind it.

    Args:
        channel: to the I/O process; it is owned from now on.
        region: the socket's shared memory.
        io_bell: the I/O process's doorbell; owned from now on.
    """

    def __init__(self, channel: Channel, region: Region, io_bell: int) -> None:
        self.channel = channel
        self.region = region
        self.io_bell = io_bell
        self.pid = os.getpid()
        self.closed = False
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)

    def request(self, kind: str, fds: Sequence[int] = (), **fields: Any) -> Any:
        """Ask, and wait for the answer; raises the error that is answered."""
        if self.pid != os.getpid():
            raise ForkedError(f"this context belongs to process {self.pid}: pickle it (pickle.dumps) before the fork")
        if self.closed:
            raise ClosedError("the context is closed")
        with self._lock:
            value, found = ask(self.channel, next(self._numbers), kind, fds, fields)
        close_fds(found)
        return value

    def close_context(self, index: int) -> bool:
        """A context is closed on this side."""
        return not self.closed and bool(self.request("close_context", index=index))

    def ticket(self, blob: bytes, port: Port) -> tuple[str, bytes]:
        """A context moves once: UnsupportedOptionError."""
        raise UnsupportedOptionError("a context that was handed to this process cannot be handed on to another one")

    def close(self) -> None:
        """Give up this side's descriptors."""
        if not self.closed and self.pid == os.getpid():
            self.closed = True
            self.channel.close()
            os.close(self.io_bell)


def ask(channel: Channel, number: int, kind: str, fds: Sequence[int], fields: dict[str, Any]) -> tuple[Any, list[int]]:
    """One question and its answer, with descriptors both ways; asked again when another I/O process takes over."""
    question = {"t": kind, "id": number, **fields}
    channel.send(question, fds)
    while True:
        message, found = channel.recv()
        if message["t"] == "hello":
            if message["generation"] > 1:
                channel.send(question, fds)
        elif message.get("id") != number:
            close_fds(found)
        elif message["t"] == "error":
            close_fds(found)
            raise from_name(message["name"], message["args"])
        else:
            return message["value"], found


def join(channel: Channel) -> tuple[JoinedLink, Port, dict[str, Any]]:
    """Become a further client of a socket's I/O process and open a context of one's own there.

    Returns:
        The line, the context's port, and facts of the socket: `protocol`, `name`, `options`.
    """
    facts, (region_fd, io_bell) = ask(channel, 0, "join", (), {})
    region = Region.attach(region_fd)
    os.close(region_fd)
    link = JoinedLink(channel, region, io_bell)
    port = Port(region, facts["index"], io_bell)
    try:
        link.request("open_context", port.bells, index=facts["index"], options={})
    except BaseException:
        port.close()
        link.close()
        raise
    return link, port, facts
