"""`spworkers stubs`: a typed client of an App, as a Python module."""

from __future__ import annotations

from pathlib import Path

import click

from spworkers.cli.failures import fail, told
from spworkers.cli.kinds import FILE
from spworkers.cli.loading import load_app
from spworkers.workers.stubs import client_module

__all__ = ["stubs"]


@click.command()
@click.argument("target", metavar="MODULE:APP")
@click.option("--output", "-o", type=FILE, help="A file.  [default: stdout]")
def stubs(target: str, output: Path | None) -> None:
    """Write a module with a typed client of an App.

    The class in it is a Client whose handlers editors complete and type checkers check.
    """
    with told():
        text = client_module(load_app(target), target)
    if output is None:
        click.echo(text, nl=False)
    else:
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            fail(f"{output} cannot be written: {error.strerror}")
