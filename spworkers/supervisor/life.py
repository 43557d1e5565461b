"""One supervisor process, as the process that started it sees it: from its exec to its burial."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Sequence
from typing import Final

from spworkers.channel import Channel
from spworkers.supervisor.brood import Brood, Origin
from spworkers.supervisor.launch import launch
from spworkers.supervisor.watch import ProcessWatch, reason_of

__all__ = ["Life"]

BURIAL: Final = 2.0
"""Seconds to wait for killed processes; a kill is a matter of milliseconds, unless the machine is on its knees."""
_PAUSE: Final = 0.002
_UNKNOWN: Final = "ended, and somebody else took note of how"


class Life:
    """A supervisor that was started.

    Args:
        preload: modules that it imports before its first fork.

    Raises:
        SupervisorError, ResourceError: it cannot be started.
    """

    def __init__(self, preload: Sequence[str]) -> None:
        launched = launch(preload)
        self.pid: int = launched.pid
        self._origin = Origin.of(self.pid, launched.mark)
        self.channel: Channel = launched.channel
        self.watch: ProcessWatch | None = launched.watch
        self.started = time.monotonic()
        self.ready: bool = False
        """It has said that it serves requests."""
        self._children: dict[str, int] = {}  # those that live, as far as it has told: by their keys, the processes
        self.claims: str = ""
        """The address of its claim socket, once there is one."""

    def note(self, kind: str, key: str, pid: int) -> None:
        """It has told of a child: that it was "spawned", or as in `ChildEvent`."""
        if kind == "spawned":
            self._children.setdefault(key, pid)  # a successor may have been told of before
        elif kind == "started":
            self._children[key] = pid
        elif kind == "ended" or self._children.get(key) == pid:
            self._children.pop(key, None)

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self.started

    def leave(self, timeout: float) -> str:
        """Hang up, so that it ends and takes its children along, and bury it. Returns how it ended.

        Args:
            timeout: seconds after which it is killed.
        """
        self.channel.close()
        self._await_end(timeout)
        return self.bury()

    def bury(self) -> str:
        """Kill it if it still lives, wait until nobody of its brood does, and reap it. Returns how it ended."""
        leader = None
        if self._is_ours():
            # Not reaped, so its number is nobody else's, neither as a process nor as a group or session.
            leader = self.pid
            with contextlib.suppress(ProcessLookupError):
                os.kill(leader, signal.SIGKILL)
            self._await_end(BURIAL)
        brood = Brood(leader, self._origin, tuple(self._children.values()))
        deadline = time.monotonic() + BURIAL
        while brood.kill() and time.monotonic() < deadline:
            time.sleep(_PAUSE)
        reason = self._reap()
        self.forget()
        return reason

    def _is_ours(self) -> bool:
        """Whether it is our child still: somebody's wait() for any child, or SIGCHLD ignored, may have reaped it."""
        if not hasattr(os, "waitid"):
            return self.watch is not None and not self.watch.ended()
        try:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    def _await_end(self, timeout: float) -> None:
        if self.watch is not None:
            poll = select.poll()
            poll.register(self.watch.fileno(), select.POLLIN)
            poll.poll(timeout * 1000)
            return
        deadline = time.monotonic() + timeout
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(self.pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
                time.sleep(_PAUSE)

    def _reap(self) -> str:
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return _UNKNOWN
        return reason_of(status) if pid else "killed, but it does not die"

    def forget(self) -> None:
        """Close the descriptors."""
        self.channel.close()
        if self.watch is not None:
            self.watch.close()

    def close_in_child(self) -> None:
        """In a forked child: close the copies of the parent's descriptors."""
        self.channel.close_in_child()
        if self.watch is not None:
            self.watch.close()
