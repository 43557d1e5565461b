"""Log records of the I/O process come out of the user's process, where its logging is configured."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, Final

ACCESS: Final = "spworkers.access"
WORKERS: Final = "spworkers.workers"
"""Loggers of the user's process: of requests, and of what becomes of workers."""

_ENDS: Final = {
    "died": "WorkerDiedError",
    "timeout": "TaskTimeoutError",
    "quarantined": "QuarantinedError",
    "lost": "StreamLostError",
    "busy": "BusyError",
    "expired": "nobody waits for it any more",
    "canceled": "its caller gave it up",
}
"""What a caller gets, by the cause for which no worker has answered."""

Notify = Callable[[dict[str, Any]], bool]


class Forwarder(logging.Handler):
    """Sends records over the control channel; they never hold up the loop: what does not fit is dropped and counted."""

    notify: Notify
    """Sends a message; False: nobody listens."""

    def __init__(self) -> None:
        super().__init__()
        self._sending = False

    def emit(self, record: logging.LogRecord) -> None:
        """Forward a record, or print it where there is nobody to forward it to."""
        if self._sending:  # a record about a failure to send a record
            return
        self._sending = True
        try:
            text = record.getMessage()
            if record.exc_info:
                text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
            message = {"t": "log", "level": record.levelno, "logger": record.name, "message": text[:8192]}
            if not self.notify(message):
                print(f"spworkers: {text}", file=sys.stderr)
        except Exception:
            self.handleError(record)
        finally:
            self._sending = False


_forwarder = Forwarder()  # made with the module, in the supervisor: its pages are every I/O process's


def forward_logs(notify: Notify, level: int) -> None:
    """All of this process's records of level WARNING and above go to the user's process; our own from `level` on."""
    _forwarder.notify = notify
    root = logging.root
    root.handlers[:] = [_forwarder]
    if root.level != logging.WARNING:  # which it begins with; to say it again would go through all loggers
        root.setLevel(logging.WARNING)
    if level < logging.WARNING:
        logging.getLogger("spworkers").setLevel(level)


def unanswered(socket: str, cause: str, handler: str, call: bytes, seconds: float, text: str) -> dict[str, Any]:
    """A record of a request that no worker has answered.

    Args:
        socket: whose name stands where a worker's would.
        cause, handler, call, seconds, text: as for `Actions.report`; with a text it is a warning about workers.
    """
    name = handler or "a request"
    if not name.isprintable():  # whoever sent it may have meant to write lines of their own
        name = ascii(name)
    message = f"{socket}: {name}: {text}" if text else f"{name} {seconds * 1000:.1f} ms {_ENDS.get(cause, cause)}"
    extra = {"worker": socket, "handler": handler, "request": call.hex()}
    logger = WORKERS if text else ACCESS
    return {"t": "log", "level": logging.WARNING, "logger": logger, "message": message, "extra": extra}
