"""What many tests need: waiting for a condition with a deadline, and a process of their own."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import spworkers
from spworkers.testing.waiting import PAUSE, aeventually, eventually

__all__ = ["ENV", "HOME", "PAUSE", "aeventually", "alone", "eventually", "printed"]

HOME = str(Path(spworkers.__file__).parents[1])  # of the package that is tested: installed, or the source tree
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([HOME, os.environ.get("PYTHONPATH", "")])}
"""For processes that are to import it, too."""


def printed(script: Path, *arguments: str) -> str:
    """What a program of Python's has printed, which has to end well."""
    line = [sys.executable, str(script), *arguments]
    done = subprocess.run(line, capture_output=True, text=True, timeout=100, env=ENV, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout


def alone(test: Callable[[], None]) -> Callable[[], None]:
    """Run a test in a process of its own: it counts what is open, and here other tests' threads are at work."""

    @functools.wraps(test)
    def runner() -> None:
        script = f"""if True:
            import sys
            sys.path[:] = {sys.path!r}
            from spworkers.ring import make_bell, wait_readable
            from {test.__module__} import {test.__name__} as test
            wait_readable(make_bell(), 0.01)  # who waits once has a pipe for signals, for good
            test.__wrapped__()
        """
        line = [sys.executable, "-c", script]
        done = subprocess.run(line, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        assert not done.stderr, done.stderr

    return runner
