"""Errors on the command line: a sentence on stderr and an exit code; tracebacks are of the user's own code only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NoReturn

import click

from spworkers.errors import RemoteError, SPError, UsageError

__all__ = ["exit_code", "fail", "told"]


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
        fail(str(error))
    except SPError as error:
        fail(str(error), exit_code(error))
