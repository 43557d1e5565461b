"""`spworkers run`: run the Pipeline of a module until it is through."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Final

import click

from spworkers.cli.failures import as_interrupt, fail, show_traceback, told, words
from spworkers.cli.kinds import FILE, whole
from spworkers.cli.loading import load_job
from spworkers.cli.logs import log_from, log_option
from spworkers.cli.rendering import as_json as jsonable
from spworkers.errors import ExecutorBrokenError, SPError
from spworkers.workers.pipeline.pipeline import Pipeline
from spworkers.workers.pipeline.report import Report
from spworkers.workers.pool.executor import Pool
from spworkers.workers.pool.terms import WORKERS_LIMIT
from spworkers.workers.quantities import memory_of

__all__ = ["run"]

_SHOWN: Final = 5
"""Failures that are told one by one."""


@click.command()
@click.argument("target", metavar="MODULE:JOB")
@click.option(
    "--checkpoint",
    "-c",
    type=FILE,
    metavar="FILE",
    help="Keep the run's state there. Killed? The same command goes on where it was.",
)
@click.option(
    "--workers",
    "-w",
    type=whole(1, WORKERS_LIMIT),
    help="Worker processes.  [default: what the stages ask for]",
)
@click.option("--memory-limit", metavar="BYTES", help="Replace a worker that has grown larger, e.g. 512MB.")
@click.option("--max-tasks", type=whole(1), help="Replace a worker after so many items.")
@click.option(
    "--threads-per-worker",
    type=whole(1),
    help="Threads of BLAS, OpenMP and the like in each worker.  [default: theirs]",
)
@click.option("--progress/--no-progress", default=True, help="Bars, on a terminal.  [default: progress]")
@click.option(
    "--failures",
    "failures_file",
    type=FILE,
    metavar="FILE",
    help="Write each item that failed there, with its traceback: JSON, a line each.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--graph",
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    help="Only draw the stages: print them, or write them to a FILE that ends in .svg or .txt.",
)
@log_option("warning")
def run(
    target: str,
    checkpoint: Path | None,
    progress: bool,
    failures_file: Path | None,
    as_json: bool,
    graph: str | None,
    log_level: str,
    **options: Any,
) -> None:
    """Run a Pipeline in worker processes, and print its report.

    MODULE:JOB names the Pipeline, for instance words:job; modules of the current folder are found. The exit code is 0
    if everything went through, 1 if items failed or the run ended early, 2 if it was asked wrongly. Ctrl-C and SIGTERM
    end it; with --checkpoint the same command goes on.
    """
    if graph is not None and as_json:
        fail("--graph only draws, and runs nothing that --json could report; give one of them", 2)
    log_from(log_level)
    signal.signal(signal.SIGTERM, as_interrupt)
    with told():
        job = load_job(target)
        if graph is not None:
            _draw(job, graph)
            return
        given = {name: value for name, value in options.items() if value is not None}
        if "memory_limit" in given:
            given["memory_limit"] = memory_of(given["memory_limit"], "--memory-limit")
        with ExitStack() as stack:
            file = None if failures_file is None else stack.enter_context(_writable(failures_file))
            report = _run(job, given, checkpoint, progress)
            if file is not None:
                file.writelines(json.dumps(each) + "\n" for each in json.loads(report.json())["failures"])
    _tell(report, as_json)
    if report.failures:
        raise click.exceptions.Exit(1)


def _run(job: Pipeline, options: dict[str, Any], checkpoint: Path | None, progress: bool) -> Report:
    """The job's report; whatever ends the run early ends the command."""
    try:
        with ExitStack() as stack:
            pool = None
            if options:
                pool = stack.enter_context(Pool(**{"workers": job.workers, "name": job.name, **options}))
            return job.run(executor=pool, checkpoint=checkpoint, progress=progress)
    except KeyboardInterrupt:
        again = "; the same command goes on where it was" if checkpoint is not None else ""
        fail(f"interrupted{again}")
    except ExecutorBrokenError as error:
        _show_failures(error.report)
        fail(words(error))
    except (SPError, BrokenPipeError):  # told as everywhere
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:  # the file of a source or sink says enough
            raise
        show_traceback(error)
        fail(f"the source or the end of {job.name} raised {type(error).__name__}")


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[IO[str]]:
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}", 2)
    with file:
        yield file


def _draw(job: Pipeline, graph: str) -> None:
    if graph == "-":
        click.echo(str(job.graph()))
    else:
        try:
            job.graph().save(graph)
        except OSError as error:
            fail(f"{graph} cannot be written: {error.strerror}", 2)


def _tell(report: Report, as_json: bool) -> None:
    if as_json:
        facts = json.loads(report.json())
        if report.result is not None:
            facts["result"] = json.loads(jsonable(report.result))
        click.echo(json.dumps(facts, ensure_ascii=False))
    else:
        click.echo(str(report))
        if report.result is not None:
            text = jsonable(report.result)
            click.echo(f"result: {text if len(text) <= 500 else text[:500] + '…'}")
    sys.stdout.flush()
    _show_failures(report)


def _show_failures(report: Report) -> None:
    for failure in report.failures[:_SHOWN]:
        click.echo(
            f"failed: {failure.stage}({failure.item!r:.100}): {type(failure.error).__name__}: {failure.error}", err=True
        )
    if len(report.failures) > _SHOWN:
        click.echo(f"... and {len(report.failures) - _SHOWN} more: --failures FILE has all, with tracebacks", err=True)
