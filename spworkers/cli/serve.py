"""`spworkers serve`: serve the App of a module until it is told to end."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from spworkers.cli.failures import as_interrupt, told
from spworkers.cli.kinds import Seconds, whole
from spworkers.cli.loading import load_app
from spworkers.cli.logs import log_from, log_option
from spworkers.cli.tlsoptions import tls_options
from spworkers.errors import ClosedError
from spworkers.workers.contextpool import DRAIN
from spworkers.workers.prometheus import MetricsServer, host_and_port
from spworkers.workers.reload import Reloader, source_files
from spworkers.workers.server import Server, nothing
from spworkers.workers.settings import BACKLOG, WORKERS_LIMIT
from spworkers.workers.timelimit import if_longer

__all__ = ["serve"]

SILENCE = 0.5
"""Seconds that an end may take before it says what it waits for."""


@click.command()
@click.argument("target", metavar="MODULE:APP")
@click.option("--listen", "-l", "listen", multiple=True, metavar="ADDRESS", help="Where; may be repeated.")
@click.option(
    "--dial",
    "-d",
    "dial",
    multiple=True,
    metavar="ADDRESS",
    help="A broker to dial in to, as soon as it is there; may be repeated.",
)
@click.option("--workers", "-w", type=whole(1, WORKERS_LIMIT), help="Worker processes.  [default: one per processor]")
@click.option(
    "--timeout",
    type=Seconds(more=True),
    metavar="SECONDS",
    help="Kill a worker that takes longer for one request.",
)
@click.option(
    "--retries", type=whole(0), default=1, show_default=True, help="Give a request to another worker so often."
)
@click.option(
    "--backlog", type=whole(0), default=BACKLOG, show_default=True, help="Requests that may wait for a worker."
)
@click.option(
    "--drain",
    type=Seconds(),
    default=DRAIN,
    show_default=True,
    metavar="SECONDS",
    help="At the end, wait so long for requests at hand.",
)
@tls_options
@click.option("--max-tasks", type=whole(1), help="Replace a worker after so many requests.")
@click.option("--max-tasks-jitter", type=whole(0), help="... and up to so many more, by chance.  [default: a tenth]")
@click.option(
    "--memory-limit", metavar="BYTES", help="Replace a worker that has grown larger, e.g. 512MB; kill it in a request."
)
@click.option(
    "--max-async-tasks",
    type=whole(1),
    default=100,
    show_default=True,
    help="Async requests that one worker runs beside each other.",
)
@click.option("--affinity", is_flag=True, help="Pin each worker to a processor.")
@click.option(
    "--threads-per-worker",
    type=whole(1),
    help="Threads of BLAS, OpenMP and the like in each worker.  [default: theirs]",
)
@click.option(
    "--quarantine",
    type=whole(0),
    default=3,
    show_default=True,
    help="Turn a request away when it has killed so many workers in a row; 0: never.",
)
@click.option("--access-log", is_flag=True, help="Log every request.")
@click.option("--metrics", "metrics_at", metavar="HOST:PORT", help="Show metrics for Prometheus, and /health, there.")
@click.option("--reload", "reloads", is_flag=True, help="Replace the workers when a source file has changed.")
@log_option("info")
@click.option("--json", "as_json", is_flag=True, help="Say where it serves as JSON.")
def serve(
    target: str,
    listen: tuple[str, ...],
    dial: tuple[str, ...],
    drain: float,
    as_json: bool,
    reloads: bool,
    metrics_at: str | None,
    log_level: str,
    **options: Any,
) -> None:
    """Serve the handlers of an App in worker processes.

    MODULE:APP names the App, for instance calc:app; modules of the current folder are found. Ctrl-C and SIGTERM end the
    server when the requests at hand are answered, a second Ctrl-C at once. SIGHUP replaces the workers one after
    another by processes with new code, without failing a request.

    With --dial it serves a broker: the back socket of a device (docs/handlers.md), to whose front clients dial.
    """
    signal.signal(signal.SIGTERM, as_interrupt)  # until the server is up; then both drain it
    signal.signal(signal.SIGHUP, nothing)  # it is not for workers that are new, or about to end
    server: Server | None = None
    try:
        with told():
            log_from(log_level)
            app = load_app(target)
            if not (listen or dial) and (app.handlers or app.raw_handler is not None):
                raise click.UsageError(f"{app.name} would be served nowhere: give --listen or --dial, an address")
            if not dial and listen and all(address.startswith("inproc://") for address in listen):
                raise click.UsageError(f"{', '.join(listen)} is for this process alone, and no client is in it")
            if dial:
                options["dial_asynch"] = True  # a broker may start later than who works for it
            if metrics_at is not None:
                host_and_port(metrics_at)  # before workers start, and would have to end again
            server = Server(app, listen, dial=dial, metrics=metrics_at is not None, **options)
            with contextlib.ExitStack() as around:
                metrics = ""
                if metrics_at is not None:
                    shown = around.enter_context(MetricsServer(metrics_at, server.metrics, server.healthy))
                    metrics = shown.address
                if reloads:
                    around.callback(_reloader(server, drain).close)
                server.wait(lambda: _announce(server, as_json, metrics))
            text = f"waiting up to {drain:g} s for the requests at hand; Ctrl-C drops them"
            with if_longer(SILENCE, lambda: click.echo(text, err=True)):
                server.close(drain)
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):  # it has done what it was told
                signal.signal(number, signal.SIG_IGN)
    except KeyboardInterrupt:
        if server is not None:
            server.close(0)
    except BaseException:
        if server is not None:
            server.close(0)
        raise


def _reloader(server: Server, drain: float) -> Reloader:
    def changed(path: Path) -> None:
        logging.getLogger("spworkers.workers").info("%s has changed: the workers are replaced", path)
        with contextlib.suppress(ClosedError):  # it ends
            server.reload(drain)

    return Reloader(lambda: source_files(server.app.module), changed)


def _announce(server: Server, as_json: bool, metrics: str) -> None:
    workers = server.workers
    if as_json:
        pids = [worker.pid for worker in workers]
        dials = {"dials": server.dials} if server.dials else {}
        facts = {"app": server.app.name, "addresses": server.addresses, **dials, "pid": os.getpid(), "workers": pids}
        click.echo(json.dumps({**facts, **({"metrics": metrics} if metrics else {})}))
    else:
        many = f"{len(workers)} worker{'' if len(workers) == 1 else 's'}"
        where = [f"on {', '.join(server.addresses)}"] if server.addresses else []
        where += [f"for {', '.join(server.dials)}"] if server.dials else []
        click.echo(" ".join(["serving", server.app.name, *where, "with", many]))
        if metrics:
            click.echo(f"metrics at http://{metrics}/metrics")
    sys.stdout.flush()
