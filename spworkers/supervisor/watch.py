"""Seeing processes end: a descriptor that becomes readable (pidfd on Linux, kqueue on macOS and the BSDs), and
reaping."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator
from typing import Any

from spworkers.packet import close_fds

__all__ = ["ProcessWatch", "own_pidfd", "reap", "reason_of", "watch_process"]


class ProcessWatch:
    """Readable from the moment at which its process has ended.

    Args:
        fd: what to poll; closed with the watch.
        owner: the object that closes it, where the descriptor is not ours alone.
    """

    __slots__ = ("_fd", "_owner")

    def __init__(self, fd: int, owner: Any = None) -> None:
        self._fd = fd
        self._owner = owner

    def fileno(self) -> int:
        """The descriptor; -1 when closed."""
        return self._fd

    def ended(self) -> bool:
        """Whether the process has ended, asked now."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Stop watching. Twice does no harm."""
        if self._owner is not None:
            self._owner.close()
        elif self._fd >= 0:
            close_fds([self._fd])
        self._fd, self._owner = -1, None


def own_pidfd() -> int | None:
    """A pidfd of this process, for another one to watch; None where there are none."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(os.getpid())
    except OSError:  # an old kernel, or a sandbox
        return None


def watch_process(pid: int) -> ProcessWatch | None:
    """Watch a process that is there, or not reaped yet; None where the system has no means, or it is gone.

    Args:
        pid: a child, or the parent, so that the number cannot have gone to another process meanwhile.
    """
    with contextlib.suppress(OSError):
        if hasattr(os, "pidfd_open"):
            return ProcessWatch(os.pidfd_open(pid))
        if hasattr(select, "kqueue"):
            return _kqueue_watch(pid)
    return None


def _kqueue_watch(pid: int) -> ProcessWatch:
    kq: Any = select.kqueue()  # type: ignore[attr-defined,unused-ignore]
    flags: Any = select
    try:
        event = flags.kevent(pid, flags.KQ_FILTER_PROC, flags.KQ_EV_ADD, flags.KQ_NOTE_EXIT)
        kq.control([event], 0)
    except BaseException:
        kq.close()
        raise
    return ProcessWatch(kq.fileno(), kq)


def reap(first: Callable[[int], None]) -> Iterator[tuple[int, int]]:
    """Reap every child that has ended, yielding pid and wait status.

    Args:
        first: called with a pid before it is reaped: its number is still taken, so what is left of its group can be
            killed.
    """
    while True:
        try:
            if hasattr(os, "waitid"):
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if found is None:
                    return
                first(found.si_pid)
                yield os.waitpid(found.si_pid, 0)
            else:  # macOS before Python 3.13: nothing looks without taking
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                first(pid)
                yield pid, status
        except ChildProcessError:
            return


def reason_of(status: int) -> str:
    """A wait status in words: `killed by SIGKILL`, `exit code 3`."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"killed by signal {-code}"
