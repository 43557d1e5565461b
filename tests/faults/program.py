"""A user's program in a process of its own, which a test may stop and kill."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
from helpers import eventually

BOUND = 30.0
"""Seconds after which what a program was to do has failed."""

PREAMBLE = """
import json, os, signal, sys, threading, time
import spworkers as sp

def say(**what):
    sys.stdout.write(json.dumps(what) + "\\n")
    sys.stdout.flush()

def told():
    return json.loads(sys.stdin.readline())
"""


class Program:
    """It says what it has to say by `say(...)`, a line of JSON each, and is told something by `told()`.

    Args:
        text: the program.
        arguments: `sys.argv[1:]`.
    """

    def __init__(self, text: str, *arguments: str) -> None:
        # A session of its own, so that a signal to its process group is what a terminal sends, and none of ours.
        self.process = subprocess.Popen(
            # From Python 3.12 on it warns of every fork of a program with threads; ours forks in spite of them.
            [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", PREAMBLE + text, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self.process.pid
        self._said: queue.Queue[str | None] = queue.Queue()
        self._errors: list[str] = []
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_words, self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read_words(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._said.put(line)
        self._said.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self._errors.extend(self.process.stderr)

    def hear(self, timeout: float = BOUND) -> dict[str, Any]:
        """What it says next."""
        try:
            line = self._said.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"the program said nothing for {timeout:g} s; on stderr: {self.stderr}") from None
        assert line is not None, f"the program ended: {self.stderr}"
        found: dict[str, Any] = json.loads(line)
        return found

    def tell(self, **what: Any) -> None:
        """Tell it something."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()

    @property
    def stderr(self) -> str:
        """What it has written there so far."""
        return "".join(self._errors)

    def family(self) -> list[psutil.Process]:
        """All of its descendants."""
        return psutil.Process(self.pid).children(recursive=True)

    def signal(self, number: int, *, group: bool = False) -> None:
        """Send a signal to it, or (as a terminal does) to its process group."""
        (os.killpg if group else os.kill)(self.pid, number)

    def wait(self, timeout: float = BOUND) -> int:
        """Wait for its end; returns its exit code."""
        code = self.process.wait(timeout)
        for reader in self._readers:
            reader.join(timeout)
        return code

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGCONT)
        self.process.kill()
        self.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()


def gone(processes: list[psutil.Process], timeout: float = BOUND) -> float:
    """Wait until none of them lives; returns how long that took."""
    before = time.monotonic()
    eventually(lambda: not any(lives(process) for process in processes), timeout, what=f"{processes} are gone")
    return time.monotonic() - before


def lives(process: psutil.Process) -> bool:
    """Whether it runs, or could."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stopped(process: psutil.Process) -> bool:
    """Whether it was stopped."""
    return bool(process.status() == psutil.STATUS_STOPPED)


def killed(pid: int) -> psutil.Process:
    """Kill a process, and wait until it is gone."""
    process = psutil.Process(pid)
    process.kill()
    gone([process])
    return process


def successor(socket: Any, before: dict[str, Any]) -> dict[str, Any]:
    """Wait until another I/O process serves a socket; its statistics.

    Args:
        before: its statistics before.
    """

    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = socket.stats()
        return found if found["pid"] != before["pid"] else None

    found = eventually(look, BOUND, what=f"another I/O process of {socket!r}")
    assert found is not None
    return found


def every(seconds: float, call: Callable[[], object], times: int) -> threading.Thread:
    """Call it again and again on a thread; started."""

    def run() -> None:
        for _ in range(times):
            threading.Event().wait(seconds)
            call()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
