"""Many client processes at once, for any peer: each calls as fast as it can, and counts in memory that all share."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from benchmarks.contract import Step

CLIENTS = 16


@contextmanager
def many_clients(connect: Callable[[], AbstractContextManager[Callable[[], object]]]) -> Iterator[Step]:
    """Fork CLIENTS processes.

    Args:
        connect: called in each; gives what makes one call.

    The step waits 50 ms and tells how many calls were answered meanwhile.
    """
    shared = mmap.mmap(-1, 8 * CLIENTS)
    counts = memoryview(shared).cast("Q")
    pids = [_fork(connect, counts, number) for number in range(CLIENTS)]

    def step() -> int:
        before = sum(counts)  # not of the last step: what was answered in between has no time of its own
        time.sleep(0.05)
        return sum(counts) - before

    try:
        while not all(counts):  # until each is connected
            time.sleep(0.01)
        yield step
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _fork(connect: Callable[[], AbstractContextManager[Callable[[], object]]], counts: memoryview, number: int) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        end_with(parent)
        with connect() as call:
            while True:
                call()
                counts[number] += 1
    finally:
        os._exit(1)


def end_with(parent: int) -> None:
    """Have this process killed when its parent ends, however that ends and whatever this one waits for."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it was faster
        os._exit(1)
