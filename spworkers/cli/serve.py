"""`spworkers serve`: serve the App of a module until it is told to end."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from types import FrameType
from typing import Any

import click

from spworkers.cli.failures import fail, told
from spworkers.cli.tlsoptions import tls_options
from spworkers.errors import SPError
from spworkers.workers import origin
from spworkers.workers.app import App
from spworkers.workers.contextpool import BACKLOG, DRAIN
from spworkers.workers.server import Server

__all__ = ["serve"]


@click.command()
@click.argument("target", metavar="MODULE:APP")
@click.option(
    "--listen", "-l", "listen", multiple=True, required=True, metavar="ADDRESS", help="Where; may be repeated."
)
@click.option("--workers", "-w", type=click.IntRange(1), help="Worker processes.  [default: one per processor]")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Kill a worker that takes longer for one request.",
)
@click.option(
    "--retries", type=click.IntRange(0), default=1, show_default=True, help="Give a request to another worker so often."
)
@click.option(
    "--backlog", type=click.IntRange(0), default=BACKLOG, show_default=True, help="Requests that may wait for a worker."
)
@click.option(
    "--drain",
    type=click.FloatRange(0),
    default=DRAIN,
    show_default=True,
    metavar="SECONDS",
    help="At the end, wait so long for requests at hand.",
)
@tls_options
@click.option("--json", "as_json", is_flag=True, help="Say where it serves as JSON.")
def serve(target: str, listen: tuple[str, ...], drain: float, as_json: bool, **options: Any) -> None:
    """Serve the handlers of an App in worker processes.

    MODULE:APP names the App, for instance calc:app; modules of the current folder are found. Ctrl-C and SIGTERM end the
    server when the requests at hand are answered, a second Ctrl-C at once.
    """
    signal.signal(signal.SIGTERM, _as_interrupt)  # until the server is up; then both drain it
    server: Server | None = None
    try:
        with told():
            server = Server(_load(target), listen, **options)
            _announce(server, as_json)
            server.wait()
            server.close(drain)
    except KeyboardInterrupt:
        if server is not None:
            server.close(0)


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _load(target: str) -> App:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return origin.find(target)
    except SPError:
        raise
    except Exception as error:  # the user's module raised it: their traceback, without our frames
        trace = error.__traceback__
        while trace is not None and not _is_users(trace.tb_frame.f_code.co_filename):
            trace = trace.tb_next
        click.echo("".join(traceback.format_exception(type(error), error, trace)).rstrip(), err=True)
        fail(f"importing {target.partition(':')[0]} raised {type(error).__name__}")


def _is_users(filename: str) -> bool:
    ours = (
        os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        os.path.dirname(os.__file__) + os.sep + "importlib",
    )
    return not filename.startswith((*ours, "<frozen importlib"))


def _announce(server: Server, as_json: bool) -> None:
    workers = server.workers
    if as_json:
        pids = [worker.pid for worker in workers]
        click.echo(
            json.dumps({"app": server.app.name, "addresses": server.addresses, "pid": os.getpid(), "workers": pids})
        )
    else:
        many = f"{len(workers)} worker{'' if len(workers) == 1 else 's'}"
        click.echo(f"serving {server.app.name} on {', '.join(server.addresses)} with {many}")
    sys.stdout.flush()
