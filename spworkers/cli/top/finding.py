"""Which programs of this user run at present, and how each is asked.

Nothing is registered anywhere. A supervisor is a process of ours that says so in its arguments; the kernel tells its
descriptors to nobody but its owner, and one of them is a listening socket whose name `/proc/net/unix` has. The name
ends with a random number, so nobody can have taken it before, and it is gone with the process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from spworkers.supervisor.claims import PREFIX

__all__ = ["Found", "supervisors"]

_LABEL: Final = "spworkers-supervisor"
"""What `supervisor.launch` puts on its command line."""


class Found(NamedTuple):
    """A supervisor: its pid, that of the program that it belongs to, and where it listens."""

    pid: int
    program: int
    address: str


def supervisors() -> Iterator[Found]:
    """Every supervisor of this user that listens already."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.uids().effective == os.geteuid() and _LABEL in process.cmdline():
                found = Found(process.pid, process.ppid(), _address(process.pid))
                if found.address:
                    yield found


def _address(pid: int) -> str:
    """Of its claim socket; empty if it has none (yet)."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            kind, _, inode = os.readlink(fd).partition(":")
            if kind == "socket":
                inodes.add(inode.strip("[]"))
    for line in Path(f"/proc/{pid}/net/unix").read_text(errors="replace").splitlines():
        # Num RefCount Protocol Flags Type St Inode Path
        words = line.split()
        if len(words) == 8 and words[6] in inodes and words[7].startswith(PREFIX):
            return words[7]
    return ""
