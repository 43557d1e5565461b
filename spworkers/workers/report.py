"""How workers tell their group that they are ready, or why they cannot be: packets on one socket that all share."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Any, Final

import msgpack

from spworkers.channel import KIND
from spworkers.errors import RecvTimeoutError, ResourceError
from spworkers.ring import wait_readable

__all__ = ["DIED", "FAILED", "READY", "Report", "ReportDesk", "Reporter"]

READY: Final = "ready"
FAILED: Final = "failed"
DIED: Final = "died"

_LONGEST: Final = 48 << 10  # bytes; a packet's bound is beyond it on every system
_TRACEBACK: Final = 16 << 10  # characters, the last ones: there is the line that failed

Report = dict[str, Any]
"""`kind`, the worker's `number` and `pid`.

Of a failure also the exception's `type`, `message` and `traceback`; of a start `limits`, what its handlers say
themselves, as JSON.
"""


def _tell(sock: socket.socket, kind: str, number: int, pid: int, more: dict[str, str]) -> None:
    """Send a report. Where nobody reads any more it is lost, and nothing waits."""
    cut = {name: text[-_TRACEBACK:] for name, text in more.items()}
    packet = msgpack.packb({"kind": kind, "number": number, "pid": pid, **cut}, unicode_errors="replace")
    with contextlib.suppress(OSError):
        sock.send(packet, socket.MSG_DONTWAIT)


class Reporter:
    """A worker's end.

    Args:
        fd: it belongs to the reporter from now on.
    """

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)

    def tell(self, kind: str, number: int, pid: int, **more: str) -> None:
        """Say something about this worker."""
        _tell(self._socket, kind, number, pid, more)

    def close(self) -> None:
        """It tells nothing any more."""
        self._socket.close()


class ReportDesk:
    """The group's end."""

    def __init__(self) -> None:
        try:
            self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, KIND)
        except OSError as error:
            raise ResourceError(f"cannot make a socket for the workers' reports: {error.strerror}") from error

    @property
    def worker_fd(self) -> int:
        """What every worker gets a duplicate of."""
        return self._theirs.fileno()

    def tell(self, kind: str, number: int, pid: int, **more: str) -> None:
        """Say something about a worker that cannot do so itself; any thread may."""
        _tell(self._theirs, kind, number, pid, more)

    def next(self, deadline: float) -> Report:
        """Wait for the next report.

        Args:
            deadline: of `time.monotonic`.

        Raises:
            RecvTimeoutError: none came in time.
        """
        while True:
            if not wait_readable(self._ours.fileno(), max(deadline - time.monotonic(), 0.0)):
                raise RecvTimeoutError("no worker reported in time")
            with contextlib.suppress(BlockingIOError):
                report: Report = msgpack.unpackb(self._ours.recv(_LONGEST, socket.MSG_DONTWAIT))
                return report

    def close(self) -> None:
        """Close both ends; workers that live have duplicates of theirs."""
        self._ours.close()
        self._theirs.close()
