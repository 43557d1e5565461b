"""How a worker process comes into being, and how it is killed.

| start method | the process is | its parent |
|---|---|---|
| `"supervisor"` | forked by the supervisor, with our code imported | the supervisor |
| `"spawn"` | forked there, then a fresh interpreter by exec | the supervisor |
| `"fork"` | forked from this process, with all that it holds | this process |
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from spworkers.supervisor.client import ChildEvent, Supervisor, get_supervisor
from spworkers.workers.pool.crew import Worker

__all__ = ["START_METHODS", "Forker", "Launcher", "Spawner", "lives", "status_of"]

START_METHODS: Final = ("supervisor", "spawn", "fork")

Died = Callable[[Worker, str, "int | None"], None]

_numbers = itertools.count(1)

_LOOK: Final = 0.25  # seconds between two looks at the parent, where nobody tells of its end


class Launcher(Protocol):
    """Starts and kills worker processes. The keeper's thread calls it."""

    def launch(self, worker: Worker, fds: list[int], spec: dict[str, Any]) -> tuple[int, Any]:
        """Start a process for this worker: its pid, and a handle for `kill`.

        Raises:
            SPError: it cannot be started.
        """

    def kill(self, worker: Worker) -> None:
        """Kill it; nothing happens if it is dead. Any thread may."""

    def forget(self, worker: Worker) -> None:
        """It is dead and buried."""

    def close(self) -> None:
        """No worker is left."""


class Spawner:
    """From the supervisor, forked or by exec.

    Args:
        fresh: by exec.
        died: told of deaths, on the control thread.
        bereft: told that the supervisor died, and every worker with it.
    """

    def __init__(self, *, fresh: bool, died: Died, bereft: Callable[[], None]) -> None:
        self._fresh = fresh
        self._died = died
        self._bereft = bereft
        self._supervisor: Supervisor | None = None

    def launch(self, worker: Worker, fds: list[int], spec: dict[str, Any]) -> tuple[int, Any]:
        supervisor = self._supervisor
        if supervisor is None:
            supervisor = self._supervisor = get_supervisor()
            supervisor.on_restart(self._bereft)
        entry = {"entry": "spworkers.workers.pool.fresh:run"} if self._fresh else {}
        pid = supervisor.spawn(
            f"{worker.name}#{next(_numbers)}",
            "pool",
            {**spec, **entry},
            restart=False,
            fds=fds,
            on_event=lambda event: self._on_event(worker, event),
        )
        return pid, _pidfd(pid)

    def _on_event(self, worker: Worker, event: ChildEvent) -> None:
        if event.kind == "died":
            self._died(worker, event.reason, status_of(event.reason))
        elif event.kind == "lost" and worker.launched and not lives(worker):
            self._died(worker, "died, and nobody knows how: news of the supervisor were lost", None)

    def kill(self, worker: Worker) -> None:
        _kill(worker)

    def forget(self, worker: Worker) -> None:
        _close(worker)

    def close(self) -> None:
        if self._supervisor is not None:
            self._supervisor.forget_restart(self._bereft)


class Forker:
    """Forked here: the child has whatever this process has, as it is at that moment.

    Args:
        died: told of deaths, on a thread of its own.
        run: the child's life; it gets the descriptors and the specification.
    """

    def __init__(self, *, died: Died, run: Callable[[list[int], dict[str, Any]], int]) -> None:
        self._died = died
        self._run = run

    def launch(self, worker: Worker, fds: list[int], spec: dict[str, Any]) -> tuple[int, Any]:
        from spworkers.errors import ResourceError, ShutdownError

        parent = os.getpid()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, ValueError, OSError):
                stream.flush()
        try:
            pid = os.fork()
        except OSError as error:
            raise ResourceError(f"cannot fork {worker.name}: {error.strerror}") from error
        except RuntimeError as error:  # from Python 3.12 on
            raise ShutdownError(f"cannot fork {worker.name}: {error}") from error
        if pid == 0:
            code = 1
            try:
                os.setpgid(0, 0)  # Ctrl-C at the terminal is the parent's business
                _die_with(parent)
                code = self._run(fds, spec)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                with contextlib.suppress(BaseException):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        handle = _pidfd(pid)  # before anybody waits for it, after which the number may be another's
        threading.Thread(target=self._await, args=(worker, pid), name=f"{worker.name}-watch", daemon=True).start()
        return pid, handle

    def _await(self, worker: Worker, pid: int) -> None:
        status: int | None = None
        reason = "ended, and somebody else took note of how"
        with contextlib.suppress(ChildProcessError):
            if hasattr(os, "waitid"):  # dead but not reaped: its group's number is still its own
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            reason = f"exit code {status}" if status >= 0 else f"killed by {_signal_name(-status)}"
        self._died(worker, reason, status)

    def kill(self, worker: Worker) -> None:
        _kill(worker)

    def forget(self, worker: Worker) -> None:
        _close(worker)

    def close(self) -> None:
        """Nothing is held."""


def _die_with(parent: int) -> None:
    """In a forked child: end when the parent does, whatever a task is doing then.

    The kernel sees to it where it can (Linux: when the thread ends that forked, the keeper's, which outlives the
    workers); elsewhere a thread does.
    """
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(1, ctypes.c_ulong(signal.SIGKILL))  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it was faster
            os._exit(1)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _pidfd(pid: int) -> int:
    """A descriptor of the process, as its number may be another's when it is killed; -1 where there are none."""
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            return os.pidfd_open(pid)
    return -1


def _kill(worker: Worker) -> None:
    if worker.gone or not worker.launched:
        return
    with contextlib.suppress(OSError):
        if worker.handle >= 0:
            signal.pidfd_send_signal(worker.handle, signal.SIGKILL)
        else:
            os.kill(worker.pid, signal.SIGKILL)


def lives(worker: Worker) -> bool:
    """Whether a worker's process is there."""
    try:
        os.kill(worker.pid, 0)
    except OSError:
        return False
    return True


def _close(worker: Worker) -> None:
    handle, worker.handle = worker.handle, -1
    if isinstance(handle, int) and handle >= 0:
        os.close(handle)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def status_of(reason: str) -> int | None:
    """The exit code in a supervisor's words: 3 of "exit code 3", -9 of "killed by SIGKILL"; None: it says neither."""
    words = reason.strip("()").replace(")", "").split()
    for before, word in itertools.pairwise(words):
        if before == "code" and word.lstrip("-").isdigit():
            return int(word)
        if before == "by" and word.startswith("SIG"):
            return -int(getattr(signal, word, 0)) or None
    return None
