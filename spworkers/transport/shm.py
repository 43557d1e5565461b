"""`shm://PATH`, `shm://@NAME`: between programs of one machine, through shared memory. Both ends are spworkers.

It is found, and protected, like `ipc://`: by a unix socket, with its file's mode and owner and the peer's credentials.
Once two have found each other no byte of a message goes through the kernel (`sharedlink.py`).
"""

from __future__ import annotations

import socket

from spworkers.errors import BadTranError
from spworkers.transport.base import Link
from spworkers.transport.ipc import IpcAddress, IpcTransport, ends_of
from spworkers.transport.sharedlink import SHARING, SharedLink


class ShmTransport(IpcTransport):
    """Shared memory behind unix sockets. Options and addresses are those of ipc."""

    def parse(self, address: str) -> IpcAddress:
        if not SHARING:
            raise BadTranError(f"{address!r}: this system has no memory that can be shared safely; use ipc://")
        return super().parse(address)

    def _link(self, sock: socket.socket, dials: bool) -> Link:
        return SharedLink(sock, dials=dials, **ends_of(sock))
