"""A supervisor's brood: its children, and what they forked, as long as that stays in its session.

On Linux all of them are in the session of the user's process. A session of their own would tell them from others, but
the kernel schedules sessions, not processes, where it may (`sched_autogroup`): each socket's I/O process had the weight
of a whole program, and who is woken from another session is dear (docs/architecture.md). So each of them carries a
mark in its environment, which its children inherit; who has lost that is known by its parent or its process group.
Elsewhere the supervisor leads a session.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any, Final

from spworkers.supervisor.system import LINUX

__all__ = ["MARK", "apart", "kill_brood", "mark", "set_apart"]

MARK: Final = "SPWORKERS_SUPERVISOR"
"""The environment variable that says whose brood a process is of."""


def mark() -> str:
    """A new supervisor's, unlike all others."""
    return os.urandom(8).hex()


def apart() -> dict[str, Any]:
    """How `os.posix_spawn` sets a supervisor apart from the processes that the terminal's signals go to."""
    return {"setpgroup": 0} if LINUX else {"setsid": True}


def set_apart() -> None:
    """Have this process be apart, if it is not yet."""
    with contextlib.suppress(PermissionError):  # it leads a session already
        if LINUX:
            os.setpgid(0, 0)
        else:
            os.setsid()


def kill_brood(leader: int, mark: str) -> set[int]:
    """SIGKILL to everybody in a supervisor's brood but itself; call it while the supervisor is not reaped.

    Args:
        leader: the supervisor.
        mark: its mark.

    Returns:
        Their pids. Who was just being forked is found by the next look only, so look until there is nobody.
    """
    found = _brood(leader, mark) if LINUX else _session(leader)
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return found


def _session(leader: int) -> set[int]:
    import psutil

    return {pid for pid in psutil.pids() if pid != leader and _session_of(pid) == leader}


def _brood(leader: int, mark: str) -> set[int]:
    session = _session_of(leader)
    others = {pid: family for pid in _pids() if _session_of(pid) == session and (family := _family(pid)) is not None}
    others.pop(leader, None)
    brood = {leader, *(pid for pid in others if _has_mark(pid, mark))}
    while found := {pid for pid in others.keys() - brood if not brood.isdisjoint(others[pid])}:
        brood |= found
    return brood - {leader}


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def _family(pid: int) -> tuple[int, int] | None:
    """A process's parent and process group; None: it is dead, if not reaped (an init may not care)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, parent, group = file.read().rpartition(b")")[2].split()[:3]
    except (OSError, ValueError):
        return None
    return None if state in (b"Z", b"X") else (int(parent), int(group))


def _has_mark(pid: int, mark: str) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return f"{MARK}={mark}".encode() in file.read().split(b"\0")
    except OSError:  # it is another user's by now, or has ended
        return False


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:  # no descriptor left, or no /proc: then those in groups of their own are not found
        return []
