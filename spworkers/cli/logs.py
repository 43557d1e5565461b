"""--log-level, and what a log record looks like, of commands that have worker processes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import click

__all__ = ["FORMAT", "Lines", "log_from", "log_option"]

_LEVELS: Final = ("debug", "info", "warning", "error")
FORMAT: Final = "%(asctime)s %(processName)s%(spworkers)s %(levelname)s %(name)s: %(message)s"


class Lines(logging.Formatter):
    """Lines that name the request, where there is one, by its handler and its id."""

    def format(self, record: logging.LogRecord) -> str:
        request, handler = getattr(record, "request", ""), getattr(record, "handler", "")
        ours = isinstance(request, str) and isinstance(handler, str) and request.isalnum() and handler
        record.spworkers = f" [{handler} {request}]" if ours else ""
        return super().format(record)


def log_option(default: str) -> Callable[[Any], Any]:
    """The option; the command is called with `log_level`."""
    levels = click.Choice(_LEVELS, case_sensitive=False)
    return click.option("--log-level", type=levels, default=default, show_default=True)


def log_from(level: str) -> None:
    """Log to standard error from this level on."""
    lines = logging.StreamHandler()
    lines.setFormatter(Lines(FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[lines])
