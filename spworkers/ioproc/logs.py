"""Log records of the I/O process come out of the user's process, where its logging is configured."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

Notify = Callable[[dict[str, Any]], bool]


class Forwarder(logging.Handler):
    """Sends records over the control channel; they never hold up the loop: what does not fit is dropped and counted.

    Args:
        notify: sends a message; False: nobody listens.
    """

    def __init__(self, notify: Notify) -> None:
        super().__init__()
        self._notify = notify
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
            if not self._notify(message):
                print(f"spworkers: {text}", file=sys.stderr)
        except Exception:
            self.handleError(record)
        finally:
            self._sending = False


def forward_logs(notify: Notify) -> None:
    """All of this process's records of level WARNING and above go to the user's process."""
    root = logging.getLogger()
    root.handlers[:] = [Forwarder(notify)]
    root.setLevel(logging.WARNING)
