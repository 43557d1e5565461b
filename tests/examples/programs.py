"""Examples as processes, whose lines a test waits for."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from helpers import eventually

import spworkers as sp

WAIT = 30.0
UNSENT = "not sent within its LINGER"
"""In what one says whose peer was interrupted before it: no fault of the example."""
EXAMPLES = Path(__file__).parents[2] / "examples"
HOME = str(Path(sp.__file__).parents[1])  # of the package that is tested: installed, or the source tree
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([HOME, os.environ.get("PYTHONPATH", "")])}


class Program:
    """One that runs until it is interrupted, or by itself; in both cases it must end well and complain of nothing."""

    def __init__(self, name: str, *arguments: str) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / name), *arguments],
            env=ENV,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def shows(self, pattern: str) -> str:
        """Wait for a line that is just this, and return it."""
        return str(eventually(lambda: self._found(pattern), WAIT, what=f"a line {pattern!r}; it printed {self.lines}"))

    def _found(self, pattern: str) -> str | None:
        return next((line for line in list(self.lines) if re.fullmatch(pattern, line)), None)

    def ended(self) -> list[str]:
        """Wait for its end, and return what it printed."""
        self.process.wait(WAIT)
        self.reader.join(WAIT)
        return self.lines

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(WAIT)
        finally:
            self.process.kill()
            self.reader.join(WAIT)
            assert self.process.stdout is not None
            assert self.process.stderr is not None
            complaints = [line for line in self.process.stderr if UNSENT not in line]
            self.process.stdout.close()
            self.process.stderr.close()
        assert (self.process.returncode, complaints) == (0, [])


@contextmanager
def addresses(count: int) -> Iterator[list[str]]:
    """Unix sockets, whose paths are short: a hundred bytes is their limit."""
    with tempfile.TemporaryDirectory(prefix="spw") as name:
        yield [f"ipc://{name}/{number}" for number in range(count)]


def listening(url: str) -> None:
    """Wait until an example listens there."""
    path = Path(url.removeprefix("ipc://"))
    eventually(path.exists, WAIT, what=f"a listener at {url}")
