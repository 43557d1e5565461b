"""What the supervisor and its children ask of the operating system, beyond Python's os module."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Collection
from typing import Any

from spworkers.packet import close_fds

__all__ = [
    "close_all_but",
    "die_with_parent",
    "kill_group",
    "name_process",
    "subreaper",
]

LINUX = sys.platform.startswith("linux")
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LAST = (1 << 31) - 1  # the highest number that a descriptor can have
_libc = ctypes.CDLL(None, use_errno=True) if LINUX else None
_close_range: Any = getattr(_libc, "close_range", None)  # Linux 5.9 and glibc 2.34
if _libc is not None:  # so that ctypes makes no objects for the arguments: this runs in each child
    _libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4


def _prctl(option: int, value: int) -> None:
    if _libc is None:
        return
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def subreaper() -> None:
    """Orphans among our descendants become our children, where the system has that (Linux)."""
    with contextlib.suppress(OSError):  # a sandbox may forbid it; then orphans go to init
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent's thread ends (Linux). Ends this process if it is too late.

    Args:
        parent: the process that forked this one.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above: no signal will come
        os._exit(1)


def name_process(name: str) -> None:
    """The name (15 bytes) that `top` and `ps` show, where it can be set (Linux)."""
    try:
        fd = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(fd, name[:15].encode())
    except OSError:
        pass
    finally:
        os.close(fd)


def close_all_but(keep: Collection[int]) -> None:
    """Close every descriptor of this process that is not in `keep`."""
    if _close_range is not None and _close_gaps(keep):
        return
    for directory in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            close_fds(fd for fd in map(int, os.listdir(directory)) if fd not in keep)
            return
    start = 0
    for fd in [*sorted(keep), os.sysconf("SC_OPEN_MAX")]:
        os.closerange(start, fd)
        start = fd + 1


def _close_gaps(keep: Collection[int]) -> bool:
    """As `close_all_but`, with one system call for each gap. False: the kernel does not know that call."""
    start = 0
    for fd in sorted(keep):
        if fd > start and _close_range(start, fd - 1, 0):
            return False
        start = max(start, fd + 1)
    return not _close_range(start, _LAST, 0)


def kill_group(pid: int) -> None:
    """SIGKILL to the process group that `pid` leads. Call it before `pid` is reaped: its number is still taken then."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
