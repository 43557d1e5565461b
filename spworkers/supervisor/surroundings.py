"""What a child of this process would inherit, were it forked here: it is sent along, since it is forked elsewhere."""

from __future__ import annotations

import os
import threading
from typing import Any

from spworkers.supervisor.boot import environment
from spworkers.supervisor.launch import absolute_path

__all__ = ["surroundings", "whereabouts"]

_umask_lock = threading.Lock()


def whereabouts() -> tuple[int, ...]:
    """What a supervisor has to share with this thread: process, user, group, network and mount namespace."""
    return (os.getpid(), os.geteuid(), os.getegid(), _namespace("net"), _namespace("mnt"))


def _namespace(name: str) -> int:
    try:
        return os.stat(f"/proc/thread-self/ns/{name}").st_ino  # namespaces belong to threads
    except OSError:  # no Linux, or no /proc
        return 0


def surroundings() -> dict[str, Any]:
    """Environment, working directory, umask and sys.path, as fields of `spawn`."""
    found: dict[str, Any] = {"env": environment(), "umask": current_umask(), "path": absolute_path()}
    try:
        found["cwd"] = os.getcwd()
    except OSError:  # it was removed under our feet
        return found
    return found


def current_umask() -> int:
    """The mask of this process."""
    try:
        with open("/proc/self/status", "rb") as file:
            for line in file:
                if line.startswith(b"Umask:"):
                    return int(line.split()[1], 8)
    except OSError:
        pass
    with _umask_lock:  # the system tells it only to who changes it: for a moment, no file is made that others may read
        mask = os.umask(0o077)
        os.umask(mask)
        return mask
