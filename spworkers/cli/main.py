"""The command `spworkers`.

Exit codes: 0 it worked; 1 it did not (nobody listens, the handler raised, a worker could not start); 2 it was asked
wrongly.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import click

import spworkers
from spworkers.cli.bench import bench
from spworkers.cli.call import call
from spworkers.cli.cert import cert
from spworkers.cli.demo import demo
from spworkers.cli.failures import fail
from spworkers.cli.info import info
from spworkers.cli.run import run
from spworkers.cli.serve import serve
from spworkers.cli.stubs import stubs
from spworkers.cli.top import top

__all__ = ["main"]


class _Commands(click.Group):
    """A group whose commands end in a sentence also where the machine is what does not suffice."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read the arguments; of some (--help) that is all."""
        with _told():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _told():
            return super().invoke(ctx)


def _give_up_output() -> None:
    """What can't be written now can't be at the interpreter's exit, which would be another exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        with contextlib.suppress(OSError):
            sys.stdout.close()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # who read our output has seen enough: click's own way
        raise
    except OSError as error:  # a disk that is full, a terminal that is gone
        _give_up_output()
        # The name may be a descriptor's number.
        fail(": ".join(str(part) for part in (error.filename, error.strerror) if part) or str(error))
    except MemoryError:
        fail("there is not enough memory for that")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(spworkers.__version__, "-V", "--version", prog_name="spworkers")
def main() -> None:
    """Workers and sockets of the Scalability Protocols (nng, nanomsg, mangos)."""


main.add_command(demo)
main.add_command(serve)
main.add_command(call)
main.add_command(run)
main.add_command(info)
main.add_command(bench)
main.add_command(top)
main.add_command(cert)
main.add_command(stubs)
