"""The command: looks at an interval, and prints tables or JSON."""

from __future__ import annotations

import contextlib
import io
import json
import select
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import click
import psutil

from spworkers.cli.failures import fail
from spworkers.cli.kinds import Seconds, whole
from spworkers.cli.top.sampling import Sampler
from spworkers.supervisor.claims import ABSTRACT

__all__ = ["top"]

_FIRST: Final = 0.25
"""Seconds between the first two looks, which rates and percentages need."""


@click.command()
@click.argument("pids", type=whole(1), nargs=-1, metavar="[PID]...")
@click.option(
    "--interval",
    "-i",
    type=Seconds(0.1, endless=False),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Look so often.",
)
@click.option("--once", is_flag=True, help="Print once, and end. So it does when the output is no terminal.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each look.")
def top(pids: tuple[int, ...], interval: float, once: bool, as_json: bool) -> None:
    """Show the sockets, pipes, rings and workers of running programs.

    PID is that of a program that uses spworkers; without any, all of yours are shown. q and Ctrl-C end it.

    OUT and IN are messages sent and received, RINGS those that wait to be sent / to be received, DROPS those lost, by
    cause; (+1) after a pid says how often the process was replaced.
    """
    if not ABSTRACT:
        fail("top needs Linux: there a program can be asked without leaving anything in a file system")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not every encoding has what sockets are called by
    sampler = Sampler(frozenset(pids))
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        if not sampler.look() and pids and not as_json:
            fail(_nothing(pids))
        if not as_json and not once and sys.stdout.isatty():
            _live(sampler, interval)
            return
        time.sleep(min(_FIRST, interval))
        while True:
            _print(sampler.look(), as_json)
            if once or not as_json:
                return
            time.sleep(interval)


def _nothing(pids: tuple[int, ...]) -> str:
    """Why none of these processes can be shown."""
    missing = [str(pid) for pid in pids if not psutil.pid_exists(pid)]
    if missing:
        return f"there is no process {', '.join(missing)}; without a PID all of your programs are shown"
    shown = ", ".join(map(str, pids))
    return f"{shown}: no program of yours that uses spworkers at present; without a PID all that do are shown"


def _print(programs: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"time": time.time(), "programs": programs}), flush=True)
    else:
        from rich.console import Console

        from spworkers.cli.top.tables import render

        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = 250
        console.print(render(programs))


def _live(sampler: Sampler, interval: float) -> None:
    from rich.console import Console
    from rich.live import Live

    from spworkers.cli.top.tables import render

    console = Console(highlight=False)
    with _keys() as key, Live(console=console, screen=True, auto_refresh=False) as live:
        pause = min(_FIRST, interval)
        while key(pause) not in ("q", "Q"):
            live.update(render(sampler.look()), refresh=True)
            pause = interval


def _no_key(seconds: float) -> str:
    time.sleep(seconds)
    return ""


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """A function that waits so many seconds for a key, and returns it, or nothing."""
    import termios
    import tty

    if not sys.stdin.isatty():
        yield _no_key
        return
    before = termios.tcgetattr(sys.stdin)

    def key(seconds: float) -> str:
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        return sys.stdin.read(1) if ready else ""

    try:
        tty.setcbreak(sys.stdin)
        yield key
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
