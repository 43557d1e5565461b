"""Errors on the command line: a sentence on stderr and an exit code; tracebacks are of the user's own code only."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Final, NoReturn

import click

from spworkers.cli.advice import for_commands
from spworkers.errors import (
    ConnRefusedError,
    RecvTimeoutError,
    RemoteError,
    SendTimeoutError,
    SPError,
    TLSNoCertError,
    TLSNoConfigError,
    UsageError,
    WorkerDiedError,
)

__all__ = ["as_interrupt", "exit_code", "fail", "show_traceback", "told", "words"]


_ADVICE: Final[dict[type[SPError], str]] = {
    ConnRefusedError: "start the listener first",
    RecvTimeoutError: "nothing came within --timeout",
    SendTimeoutError: "nobody took it within --timeout",
    TLSNoCertError: "give --cert FILE, and --key FILE if that has no key; `spworkers cert` makes them",
    TLSNoConfigError: "to dial give --cacert FILE (and --cert FILE if it is asked for), to listen give --cert FILE",
    WorkerDiedError: "the pool goes on with another",
}
"""What to do about it on the command line, where the library's advice speaks of arguments of Python's."""


def words(error: SPError) -> str:
    """The error's sentence, with advice that can be followed on the command line."""
    text = str(error)
    ours = next((advice for kind, advice in _ADVICE.items() if isinstance(error, kind)), None)
    advice = type(error).advice
    return for_commands(text.removesuffix(advice) + ours if ours and advice and text.endswith(advice) else text)


def exit_code(error: SPError) -> int:
    """2 for what was asked wrongly; 1 for what could not be done, the operating system's refusals among it."""
    return 2 if isinstance(error, UsageError) and not isinstance(error, OSError) else 1


def fail(message: str, code: int = 1) -> NoReturn:
    """Say what went wrong and end."""
    click.echo(f"error: {message}", err=True)
    raise click.exceptions.Exit(code)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Turn errors of the library into their sentence and exit code; a handler's exception comes with its traceback."""
    try:
        yield
    except RemoteError as error:
        if error.traceback:
            click.echo(error.traceback.rstrip(), err=True)
        fail(words(error))
    except SPError as error:
        fail(words(error), exit_code(error))


def show_traceback(error: BaseException) -> None:
    """The traceback of an exception in the user's code, without our frames above it."""
    trace = error.__traceback__
    while trace is not None and not _is_users(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    click.echo("".join(traceback.format_exception(type(error), error, trace)).rstrip(), err=True)


def _is_users(filename: str) -> bool:
    ours = (
        os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        os.path.dirname(os.__file__) + os.sep + "importlib",
    )
    return not filename.startswith((*ours, "<frozen importlib"))


def as_interrupt(number: int, frame: FrameType | None) -> None:
    """A signal's handler: as if Ctrl-C had been pressed."""
    raise KeyboardInterrupt
