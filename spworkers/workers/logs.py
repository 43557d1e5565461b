"""Log records of the workers come out of the parent, where its logging is configured, in the order in which they came.

    worker 1 ─┐                              parent
    worker 2 ─┼─▶ one socket of packets ──▶ a thread ──▶ logging.getLogger(name).handle(record)
    worker n ─┘

A worker never waits for that: a packet for which there is no room is dropped, and the next one says how many were, or a
last one before the worker ends; the parent tells of it, once a second at most, and at the end. Its records have what a
worker's had, and `request` (the call's id, 16 hexadecimal digits; empty outside of a handler), `handler` and `worker`.

What no logger of the parent would let through is not sent: a worker is told the lowest of their levels when it starts;
a server's worker that replaces a dead one, what that was told. A level that is lowered later counts for later workers.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import signal
import socket
import threading
import time
from collections import Counter
from typing import Any, Final

import msgpack

from spworkers.channel import KIND
from spworkers.errors import ResourceError
from spworkers.workers.currentrequest import current_request

__all__ = ["LogDesk", "clear_loggers", "end_forwarding", "forward_logs", "lowest_level"]

_LONGEST: Final = 32 << 10  # characters of one record's text
_PACKET: Final = 160 << 10  # bytes of a packet: four for each character, and the rest

_PAUSE: Final = 1.0
"""Seconds at least between two warnings of what was dropped."""
_LAST_WORDS: Final = 0.2
"""Seconds for which a worker waits at its end for room to say what was dropped."""

_log = logging.getLogger("spworkers.workers")


def lowest_level() -> int:
    """The lowest level that any logger of this process lets through: what is below it need not come."""
    known = logging.root.manager.loggerDict.values()
    levels = [logger.level for logger in known if isinstance(logger, logging.Logger) and logger.level]
    return min([logging.root.level, *levels]) or logging.WARNING


class _Forwarder(logging.Handler):
    """A worker's only handler."""

    def __init__(self) -> None:
        super().__init__()
        self._dropped = 0

    def begin(self, fd: int, worker: str) -> None:
        """Forward to that socket, in that worker's name."""
        self._fd = fd
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        """Send it, or drop it; a record of which no text can be made is shown on stderr, as every handler does."""
        try:
            if not self._send(self._packet(record)):
                self._dropped += 1
        except RecursionError:  # as logging's own handlers have it: there is no room to say anything here
            raise
        except Exception:
            self.handleError(record)

    def _packet(self, record: logging.LogRecord) -> dict[str, Any]:
        request = current_request()
        text = record.getMessage()
        if record.exc_info:
            record.exc_text = record.exc_text or logging.Formatter().formatException(record.exc_info)
        return {
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

    def _send(self, packet: dict[str, Any]) -> bool:
        try:
            os.write(self._fd, msgpack.packb(packet, unicode_errors="replace"))  # which does not wait: see LogDesk
        except OSError:
            return False
        self._dropped = 0
        return True

    def end(self) -> None:
        """Say what was dropped, and not told yet."""
        with self.lock or contextlib.nullcontext():
            if self._dropped:
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll(_LAST_WORDS * 1000)
                self._send({"worker": self._worker, "dropped": self._dropped})


_forwarder = _Forwarder()  # made with the module, in the supervisor: its pages are every worker's


def clear_loggers() -> None:
    """Have every logger leave its records to the root's handler."""
    known = logging.root.manager.loggerDict.values()
    for logger in [logger for logger in known if isinstance(logger, logging.Logger)]:
        logger.handlers.clear()
        logger.propagate = True


def forward_logs(fd: int, worker: str, level: int) -> None:
    """In a worker: all records of this level and above go to the parent, if they reach the root (`clear_loggers`).

    Args:
        fd: of the socket; it belongs to the logging from now on.
        worker: the worker's name.
    """
    _forwarder.begin(fd, worker)
    root = logging.root
    root.handlers[:] = [_forwarder]
    if root.level != level:  # to say it again would go through all loggers
        root.setLevel(level)


def end_forwarding() -> None:
    """In a worker, before it ends: see `_Forwarder.end`."""
    _forwarder.end()


class LogDesk:
    """The parent's end; a thread reads it, from `begin` on. What comes before waits in the socket.

    Raises:
        ResourceError: no descriptor is left.
    """

    def __init__(self) -> None:
        try:
            self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, KIND)
        except OSError as error:
            raise ResourceError(f"cannot make a socket for the workers' log: {error.strerror}") from error
        for end in (self._ours, self._theirs):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._ours.setblocking(False)
        self._theirs.setblocking(False)  # for all workers: it is the open file's, whoever has a duplicate
        self._wake_read, self._wake_write = os.pipe()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._dropped: Counter[str] = Counter()  # by each worker, and not told yet
        self._told = -math.inf

    def begin(self) -> None:
        """Start the thread, unless it is closed already."""
        with self._lock:
            if self._thread is None and not self._closed:
                thread = threading.Thread(target=self._run, name="spworkers-logs", daemon=True)
                thread.start()
                self._thread = thread

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
            over = any(fd == self._wake_read for fd, _ in poll.poll(_PAUSE * 1000 if self._dropped else None))
            self._drain()

    def _drain(self) -> None:
        while True:
            try:
                packet = self._ours.recv(_PACKET)
            except OSError:
                break
            with contextlib.suppress(Exception):  # a handler of the user's, or a packet of who knows whom
                self._take(msgpack.unpackb(packet))
            self._tell_dropped()
        self._tell_dropped()

    def _take(self, packet: dict[str, Any]) -> None:
        dropped = packet.pop("dropped")
        if dropped:
            self._dropped[packet["worker"]] += dropped
        if "name" in packet:
            _emit(packet)

    def _tell_dropped(self, *, at_last: bool = False) -> None:
        if not self._dropped or (time.monotonic() - self._told < _PAUSE and not at_last):
            return
        dropped, self._dropped = self._dropped, Counter()
        for worker, count in dropped.items():
            with contextlib.suppress(Exception):  # of a handler of the user's
                _log.warning("%s: %d log records were dropped, as nobody read them in time", worker, count)
        self._told = time.monotonic()

    def close(self) -> None:
        """Let out what has come, and end the thread."""
        with self._lock:
            self._closed = True
        if self._thread is None:
            self._drain()
        else:
            os.write(self._wake_write, b"\0")
            self._thread.join()
        self._tell_dropped(at_last=True)
        self._ours.close()
        self._theirs.close()
        os.close(self._wake_read)
        os.close(self._wake_write)


def _emit(packet: dict[str, Any]) -> None:
    logger = logging.getLogger(packet["name"])
    if logger.isEnabledFor(packet["levelno"]):
        record = logging.makeLogRecord(packet)
        created = packet["created"]
        record.created, record.msecs = created, (created - int(created)) * 1000
        record.filename = os.path.basename(record.pathname)
        record.module = os.path.splitext(record.filename)[0]
        logger.handle(record)
