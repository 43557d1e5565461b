"""What programs do, as plain maps: what their supervisors tell, with processor time, memory and rates added."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import psutil

from spworkers.cli.top.finding import Found, supervisors
from spworkers.errors import SPError
from spworkers.supervisor.claims import inspect
from spworkers.workers.tally import counts_in

__all__ = ["Sampler"]

_TALLY: Final = "/memfd:spworkers-tally"
_PATIENCE: Final = 2.0
"""Seconds that a supervisor has to answer; it gives its I/O processes one."""
_AT_ONCE: Final = 16
"""Programs that are asked at the same time."""
_TOTALS: Final = ("sent", "sent_bytes", "received", "received_bytes")


class Sampler:
    """Looks at running programs, again and again; rates are of the time between two looks.

    Args:
        pids: of the programs to look at; none: all of this user.
    """

    def __init__(self, pids: frozenset[int] = frozenset()) -> None:
        self._pids = pids
        self._processes: dict[int, psutil.Process] = {}
        self._totals: dict[tuple[int, str], tuple[float, dict[str, int]]] = {}

    def look(self) -> list[dict[str, Any]]:
        """Every program, by its pid; one that ends while it is looked at is left out."""
        found = [each for each in supervisors() if not self._pids or each.program in self._pids]
        seen: set[tuple[int, str]] = set()
        programs = []
        with ThreadPoolExecutor(_AT_ONCE) as threads:  # who is hung holds up nobody else
            for each, facts in zip(found, threads.map(_ask, found), strict=True):
                if psutil.pid_exists(each.pid):
                    programs.append(self._program(each, facts, seen))
        self._totals = {key: totals for key, totals in self._totals.items() if key in seen}
        self._processes = {pid: process for pid, process in self._processes.items() if process.is_running()}
        return sorted(programs, key=lambda program: program["pid"])

    def _program(self, found: Found, facts: dict[str, Any] | None, seen: set[tuple[int, str]]) -> dict[str, Any]:
        children = facts["children"] if facts is not None else []
        supervisor = found.pid
        sockets = [self._socket(supervisor, child, seen) for child in children if child["role"] == "io"]
        names = {socket["key"]: _name(socket) for socket in sockets}
        workers = [self._worker(supervisor, child, names) for child in children if child["role"] != "io"]
        return {
            "pid": found.program,
            "command": self._command(found.program),
            **self._usage(found.program),
            "supervisor": {"pid": supervisor, **self._usage(supervisor)},
            "answers": facts is not None,
            "sockets": sockets,
            "workers": workers,
        }

    def _socket(self, supervisor: int, child: dict[str, Any], seen: set[tuple[int, str]]) -> dict[str, Any]:
        spec, facts = child["spec"], child["facts"]
        described = {
            "key": child["key"],
            "name": spec.get("name", ""),
            "protocol": spec.get("protocol", ""),
            "raw": spec.get("raw", False),
            "pid": child["pid"],
            "generation": child["generation"],
            "age": round(child["age"], 1),
            **self._usage(child["pid"]),
            "answers": facts is not None,
        }
        if facts is None:
            return described
        stats = facts["stats"]
        key = (supervisor, child["key"])
        seen.add(key)
        return {
            **described,
            **{name: stats[name] for name in _TOTALS},
            **self._rates(key, {name: stats[name] for name in _TOTALS}),
            "drops": stats["drops"],
            "refused": stats["refused"],
            "bad_handshakes": stats["bad_handshakes"],
            "listeners": facts["listeners"],
            "dialers": facts["dialers"],
            "pipe_count": stats["pipes"],
            "pipes": facts["pipes"],
            "contexts": facts["contexts"],
        }

    def _rates(self, key: tuple[int, str], totals: dict[str, int]) -> dict[str, float]:
        now = time.monotonic()
        then, before = self._totals.get(key, (now, totals))
        self._totals[key] = (now, totals)
        return {f"{name}_per_second": _rate(totals[name] - before[name], now - then) for name in _TOTALS}

    def _worker(self, supervisor: int, child: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
        attach = child["spec"].get("attach", [])
        keys = [attach] if isinstance(attach, str) else attach
        described = {
            "name": child["key"].rpartition("#")[0] or child["key"],
            "role": child["role"],
            "pid": child["pid"],
            "generation": child["generation"],
            "age": round(child["age"], 1),
            **self._usage(child["pid"]),
            "sockets": [names.get(key, key) for key in keys],
        }
        counts = _tallied(supervisor, child)
        if counts is not None:
            _, stage, answered, failed, seconds = counts
            described |= {
                "state": stage.name.lower(),
                "seconds": round(seconds, 3),
                "answered": answered,
                "failed": failed,
            }
        return described

    def _usage(self, pid: int) -> dict[str, Any]:
        """Processor time since the last look, in percent of one processor, and resident memory in bytes."""
        try:
            process = self._process(pid)
            with process.oneshot():
                return {"cpu": process.cpu_percent(None), "rss": process.memory_info().rss}
        except psutil.Error:  # it has none at present, or has just died
            return {"cpu": 0.0, "rss": 0}

    def _command(self, pid: int) -> str:
        try:
            return shlex.join(self._process(pid).cmdline())
        except psutil.Error:
            return ""

    def _process(self, pid: int) -> psutil.Process:
        """The same one each time, as it remembers its processor time."""
        process = self._processes.get(pid)
        if process is None:
            process = self._processes[pid] = psutil.Process(pid)
        return process


def _ask(found: Found) -> dict[str, Any] | None:
    """What a supervisor tells; None if it says nothing: it is stopped, or has just ended."""
    try:
        return inspect(found.address, timeout=_PATIENCE)
    except SPError:
        return None


def _name(socket: dict[str, Any]) -> str:
    kind = f"{'x' if socket['raw'] else ''}{socket['protocol']}"
    return f"{kind} {socket['name']}".rstrip()


def _rate(count: int, seconds: float) -> float:
    return round(max(count, 0) / seconds, 1) if seconds > 0 else 0.0


def _tallied(supervisor: int, child: dict[str, Any]) -> Any:
    """What a worker has counted, read in the memory that the supervisor keeps for it; None if there is none."""
    for fd in child["fds"]:
        path = Path(f"/proc/{supervisor}/fd/{fd}")
        with contextlib.suppress(OSError):  # the program has just closed it
            if os.readlink(path).startswith(_TALLY):
                return counts_in(path.read_bytes(), child["spec"].get("number", -1))
    return None
