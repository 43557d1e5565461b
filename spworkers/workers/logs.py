"""Log records of the workers come out of the parent, where its logging is configured, in the order in which they came.

    worker 1 ─┐                              parent
    worker 2 ─┼─▶ one socket of packets ──▶ a thread ──▶ logging.getLogger(name).handle(record)
    worker n ─┘

A worker never waits for that: a packet for which there is no room is dropped, and the next one says how many were. The
parent's records have what a worker's had, and `request` (the call's id, 16 hexadecimal digits; empty outside of a
handler), `handler` and `worker`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import threading
from typing import Any, Final

import msgpack

from spworkers.channel import KIND
from spworkers.errors import ResourceError
from spworkers.workers.requestinfo import current_request

__all__ = ["LogDesk", "forward_logs", "lowest_level"]

_LONGEST: Final = 32 << 10  # characters of one record's text
_PACKET: Final = 160 << 10  # bytes of a packet: four for each character, and the rest

_log = logging.getLogger("spworkers.workers")


def lowest_level() -> int:
    """The lowest level that any logger of this process lets through: what is below it need not come."""
    known = logging.root.manager.loggerDict.values()
    levels = [logger.level for logger in known if isinstance(logger, logging.Logger) and logger.level]
    return min([logging.root.level, *levels]) or logging.WARNING


class _Forwarder(logging.Handler):
    """A worker's only handler."""

    def __init__(self, fd: int, worker: str) -> None:
        super().__init__()
        self._socket = socket.socket(fileno=fd)
        self._worker = worker
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        request = current_request()
        text = record.getMessage()
        if record.exc_info:
            record.exc_text = record.exc_text or logging.Formatter().formatException(record.exc_info)
        packet = {
            "name": record.name,
            "levelno": record.levelno,
            "levelname": record.levelname,
            "msg": text[:_LONGEST],
            "created": record.created,
            "pathname": record.pathname,
            "lineno": record.lineno,
            "funcName": record.funcName,
            "process": record.process,
            "processName": self._worker,
            "threadName": record.threadName,
            "exc_text": (record.exc_text or "")[-_LONGEST:] or None,
            "worker": self._worker,
            "handler": request.handler if request is not None else "",
            "request": request.hex_id if request is not None else "",
            "dropped": self._dropped,
        }
        try:
            self._socket.send(msgpack.packb(packet, unicode_errors="replace"), socket.MSG_DONTWAIT)
            self._dropped = 0
        except OSError:
            self._dropped += 1


def forward_logs(fd: int, worker: str, level: int) -> None:
    """In a worker: all records of this level and above go to the parent.

    Args:
        fd: of the socket; it belongs to the logging from now on.
        worker: the worker's name.
    """
    known = logging.root.manager.loggerDict.values()
    for logger in [logger for logger in known if isinstance(logger, logging.Logger)]:
        logger.handlers.clear()  # of a worker that was forked from the user's process: they are at work there
        logger.propagate = True
    logging.root.handlers[:] = [_Forwarder(fd, worker)]
    logging.root.setLevel(level)


class LogDesk:
    """The parent's end; a thread reads it."""

    def __init__(self) -> None:
        try:
            self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, KIND)
        except OSError as error:
            raise ResourceError(f"cannot make a socket for the workers' log: {error.strerror}") from error
        for end in (self._ours, self._theirs):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._ours.setblocking(False)
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._run, name="spworkers-logs", daemon=True)
        self._thread.start()

    @property
    def worker_fd(self) -> int:
        """What every worker gets a duplicate of."""
        return self._theirs.fileno()

    def _run(self) -> None:
        # Signals are for the main thread: one that came here would not interrupt what it waits for.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        poll = select.poll()
        poll.register(self._ours, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        over = False
        while not over:
            over = any(fd == self._wake_read for fd, _ in poll.poll())
            self._drain()

    def _drain(self) -> None:
        while True:
            try:
                packet = self._ours.recv(_PACKET)
            except OSError:
                return
            with contextlib.suppress(Exception):  # a handler of the user's, or a packet of who knows whom
                _emit(msgpack.unpackb(packet))

    def close(self) -> None:
        """Let out what has come, and end the thread."""
        os.write(self._wake_write, b"\0")
        self._thread.join()
        self._ours.close()
        self._theirs.close()
        os.close(self._wake_read)
        os.close(self._wake_write)


def _emit(packet: dict[str, Any]) -> None:
    dropped = packet.pop("dropped")
    if dropped:
        _log.warning("%s: %d log records were dropped, as nobody read them in time", packet["worker"], dropped)
    logger = logging.getLogger(packet["name"])
    if logger.isEnabledFor(packet["levelno"]):
        record = logging.makeLogRecord(packet)
        created = packet["created"]
        record.created, record.msecs = created, (created - int(created)) * 1000
        record.filename = os.path.basename(record.pathname)
        record.module = os.path.splitext(record.filename)[0]
        logger.handle(record)
