"""What it costs to open sockets, what an idle one costs, and how fast a killed I/O process is back.

    python -m benchmarks.opening [--runs 9]

Every run is a fresh interpreter, which has to start its supervisor. The figures are medians over the runs, with the
least and the greatest beside them: on a machine that others use only the least says what the code costs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

IDLE: Final = 2.0
"""Seconds for which the idle process is watched."""
SOCKETS: Final = 20
"""Sockets that are opened after the first one."""
DEATHS: Final = 4
"""Times that the I/O process is killed; the supervisor thinks nothing of it up to five quick deaths in a row."""

FIGURES: Final = {
    "import": ("import spworkers", "ms"),
    "first": ("first socket, listening (with the supervisor's start)", "ms"),
    "next": (f"each of the next {SOCKETS} sockets, listening", "ms"),
    "close": ("close of a socket", "ms"),
    "uss": ("memory of an idle I/O process (USS)", "MB"),
    "supervisor": ("memory of the supervisor (USS)", "MB"),
    "cpu": (f"CPU time of an idle I/O process in {IDLE:g} s", "ms"),
    "back": ("killed I/O process until its successor answers", "ms"),
}
"""Name of a figure → what it is, and its unit."""


def main() -> None:
    """Run it as often as asked for, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=9, help="fresh interpreters (9)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure()))
        return
    runs = [run() for _ in range(arguments.runs)]
    print(f"{'':56} {'median':>8} {'least':>8} {'greatest':>8}")
    for name, (words, unit) in FIGURES.items():
        values = [each[name] for each in runs]
        middle = statistics.median(values)
        print(f"{words:56} {middle:8.2f} {min(values):8.2f} {max(values):8.2f} {unit}")


def run() -> dict[str, float]:
    """One fresh interpreter's figures."""
    command = [sys.executable, "-m", "benchmarks.opening", "--one"]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and the milliseconds that it took."""
    before = time.perf_counter()
    value = call()
    return value, (time.perf_counter() - before) * 1000


def measure() -> dict[str, float]:
    """The figures of this process, in the units of FIGURES."""
    sp, imported = timed(lambda: __import__("spworkers"))

    def opened() -> Any:
        return sp.Rep(listen="tcp://127.0.0.1:0")

    first, first_took = timed(opened)
    others = [timed(opened) for _ in range(SOCKETS)]
    closes = [timed(sock.close)[1] for sock, _ in others]
    idle = watch_idle(first.stats()["pid"])
    back = statistics.median(recovery(first) for _ in range(DEATHS))
    first.close()
    return {
        "import": imported,
        "first": first_took,
        "next": statistics.median(took for _, took in others),
        "close": statistics.median(closes),
        "back": back,
        **idle,
    }


def watch_idle(pid: int) -> dict[str, float]:
    """Memory and CPU time of an I/O process to which nothing happens, and its supervisor's memory."""
    import psutil

    process = psutil.Process(pid)
    before = process.cpu_times()
    time.sleep(IDLE)
    after = process.cpu_times()
    return {
        "uss": process.memory_full_info().uss / 1e6,
        "supervisor": process.parent().memory_full_info().uss / 1e6,
        "cpu": (after.user + after.system - before.user - before.system) * 1000,
    }


def recovery(sock: Any) -> float:
    """Milliseconds from the death of a socket's I/O process until another one answers."""
    import logging

    logging.disable(logging.WARNING)
    former = sock.stats()["pid"]
    time.sleep(1.1)  # one that dies younger counts as dead of its start

    def back() -> None:
        os.kill(former, signal.SIGKILL)
        while sock.stats()["pid"] == former:
            pass

    return timed(back)[1]


if __name__ == "__main__":
    main()
