"""What many tests need: waiting for a condition with a deadline, and a process of their own."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import spworkers
from spworkers.testing.waiting import PAUSE, aeventually, eventually

__all__ = [
    "ENV",
    "HOME",
    "PAUSE",
    "aeventually",
    "alone",
    "eventually",
    "interrupted_at",
    "printed",
    "shared_memory",
    "soak",
    "soaking",
]

HOME = str(Path(spworkers.__file__).parents[1])  # of the package that is tested: installed, or the source tree
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([HOME, os.environ.get("PYTHONPATH", "")])}
"""For processes that are to import it, too."""


SHM = Path("/dev/shm")
OURS = ("spworkers", "psm_", "sem.", "pym-")  # what we, or Python's multiprocessing, call things there


def shared_memory() -> set[Path]:
    """What has a name in shared memory, and is not that of other programs of this machine."""
    return {path for path in SHM.iterdir() if path.name.startswith(OURS)} if SHM.is_dir() else set()


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


SECONDS = float(os.environ.get("SPWORKERS_TEST_SECONDS", "10"))
"""How long each test of a soak goes on."""


def soak(test: Callable[..., None]) -> Callable[..., None]:
    """A test that goes on as long as it is given (`soaking`), and that may take a while to come to its end then."""
    return pytest.mark.soak(pytest.mark.timeout(SECONDS + 240)(test))


def soaking() -> Iterator[int]:
    """Seeds of rounds, at least one, until the time is up.

    They begin at SPWORKERS_TEST_SEED (1), and each is printed, so that a failure can be had again.
    """
    end = time.monotonic() + SECONDS
    first = int(os.environ.get("SPWORKERS_TEST_SEED", "1"))
    for seed in itertools.count(first):
        print(f"SPWORKERS_TEST_SEED={seed}", flush=True)
        yield seed
        if time.monotonic() > end:
            return


def interrupted_at(
    step: int, codes: set[CodeType], work: Callable[[], object], begun: Callable[[], bool] = lambda: True
) -> int:
    """Do something, and have it interrupted by KeyboardInterrupt, in this thread and caught here.

    Args:
        step: at which opcode of these functions.
        codes: of the functions.
        work: what to do; it may run into a TimeoutError.
        begun: opcodes count from when this is true.

    Returns:
        How many opcodes there were, with the one at which it was interrupted: below `step`, it was not.
    """
    seen = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal seen
        if frame.f_code not in codes:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and begun():
            seen += 1
            if seen == step:
                raise KeyboardInterrupt
        return trace

    sys._getframe().f_trace_opcodes = True  # 3.12 looks, when tracing is set, whether any frame has asked for them
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        assert seen >= step
    except concurrent.futures.TimeoutError:
        pass
    finally:
        sys.settrace(None)
    return seen
