"""A supervisor's brood: its children, and what they forked, as long as that stays in its session.

On Linux all of them are in the session of the user's process. A session of their own would tell them from others, but
the kernel schedules sessions, not processes, where it may (`sched_autogroup`): each socket's I/O process had the weight
of a whole program, and who is woken from another session is dear (docs/architecture.md). So each of them carries a
mark in its environment, which its children inherit; who has lost that is known by its parent or its process group.
Their terminal they give up: whatever a handler starts is to find none, as in a session of its own, instead of being
stopped for reading from it. Elsewhere the supervisor leads a session.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import termios
from collections.abc import Collection
from typing import Any, Final, NamedTuple

from spworkers.supervisor.system import LINUX

__all__ = ["MARK", "Brood", "Origin", "apart", "mark", "set_apart"]

MARK: Final = "SPWORKERS_SUPERVISOR"
"""The environment variable that says whose brood a process is of."""


def mark() -> str:
    """A new supervisor's, unlike all others."""
    return os.urandom(8).hex()


def apart() -> dict[str, Any]:
    """How `os.posix_spawn` sets a supervisor apart from the processes that the terminal's signals go to."""
    return {"setpgroup": 0} if LINUX else {"setsid": True}


def set_apart() -> None:
    """Have this process be apart, if it is not yet, and without a terminal; its children inherit that."""
    with contextlib.suppress(PermissionError):  # it leads a session already
        if LINUX:
            os.setpgid(0, 0)
        else:
            os.setsid()
    with contextlib.suppress(OSError):  # there is none
        fd = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, termios.TIOCNOTTY)
        finally:
            os.close(fd)


class Origin(NamedTuple):
    """What is known of a supervisor from its start on, also when its number is somebody else's."""

    mark: str
    session: int
    born: int

    @staticmethod
    def of(leader: int, mark: str) -> Origin:
        """That of a supervisor that is not reaped yet."""
        return Origin(mark, _session_of(leader), _born(leader))


class Brood:
    """Everybody in a supervisor's brood but itself.

    Args:
        leader: the supervisor; None: it was reaped, and its number may be somebody else's.
        origin: its own.
        groups: process groups that its children have led. Of a dead child nobody may be left who has the mark.
    """

    def __init__(self, leader: int | None, origin: Origin, groups: Collection[int] = ()) -> None:
        self._leaders = set() if leader is None else {leader}
        self._origin = origin
        self._mark = f"{MARK}={origin.mark}".encode()
        self._groups = groups
        self._strangers = set(self._leaders)

    def kill(self) -> set[int]:
        """SIGKILL to them.

        Returns:
            Their pids. Who was just being forked is found by the next look only, so look until there is nobody.
        """
        found = self._look() if LINUX else {pid for leader in self._leaders for pid in _session(leader)}
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        return found

    def _look(self) -> set[int]:
        session, born = self._origin.session, self._origin.born
        others: dict[int, _Fact] = {}
        for pid in _pids():
            if pid not in self._strangers and _session_of(pid) == session and (fact := _fact(pid)) is not None:
                others[pid] = fact
        old = {pid for pid, fact in others.items() if fact.born < born}
        environments = {pid: _environment(pid) for pid in others.keys() - old}
        marked = {pid for pid, environment in environments.items() if self._mark in environment}
        # As long as anybody is in a group, its number is nobody else's. Who has the number himself, and an environment
        # (one that is just dying has none any more) without our mark, is no child of ours: it was taken anew.
        anew = {pid for pid, environment in environments.items() if environment} | old
        kin = self._leaders | marked | (set(self._groups) - anew)
        while found := {pid for pid in environments.keys() - kin if kin & {others[pid].parent, others[pid].group}}:
            kin |= found
        self._strangers |= others.keys() - kin
        return kin & others.keys()


class _Fact(NamedTuple):
    """What /proc/PID/stat tells of a process that lives."""

    parent: int
    group: int
    born: int


def _session(leader: int) -> set[int]:
    import psutil

    return {pid for pid in psutil.pids() if pid != leader and _session_of(pid) == leader}


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def _stat(pid: int) -> list[bytes]:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()


def _fact(pid: int) -> _Fact | None:
    """None: it is dead, if not reaped (an init may not care)."""
    try:
        fields = _stat(pid)
        return None if fields[0] in (b"Z", b"X") else _Fact(int(fields[1]), int(fields[2]), int(fields[19]))
    except (OSError, ValueError, IndexError):
        return None


def _born(pid: int) -> int:
    """When, in ticks of the system's clock; 0: unknown."""
    try:
        return int(_stat(pid)[19])
    except (OSError, ValueError, IndexError):
        return 0


def _environment(pid: int) -> frozenset[bytes]:
    """As it was at the start of its program; nothing if it is another user's by now, or has ended."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return frozenset(file.read().split(b"\0")) - {b""}
    except OSError:
        return frozenset()


def _pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:  # no descriptor left, or no /proc: then those in groups of their own are not found
        return []
