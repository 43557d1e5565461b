"""CPU time of whole process trees: a peer may do its work in processes and threads of its own."""

from __future__ import annotations

from collections.abc import Iterable

import psutil


def tree(pid: int) -> list[psutil.Process]:
    """The process and all its descendants that live."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def seconds(pids: Iterable[int]) -> float:
    """User and system time that the trees of these processes have used so far, dead and reaped descendants included."""
    total = 0.0
    for process in {process.pid: process for pid in pids for process in tree(pid)}.values():
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue  # its parent has, or will have, its time among its children's
        total += times.user + times.system + times.children_user + times.children_system
    return total
