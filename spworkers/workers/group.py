"""A group of worker processes on one socket: started, counted, ended. Whoever dies meanwhile, the supervisor replaces.

group            supervisor              worker                    I/O process
start ──spawn──▶ fork ────────────────▶ loads the app
                                         join ───────────────────▶ a context of its own
      ◀──────────────── ready, or why not
... requests: between the worker and the I/O process; nobody else is asked or told ...
end ────────────▶ stop ───────────────▶ finishes what it has, ends
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from spworkers.errors import RemoteError, SPError, WorkerDiedError
from spworkers.socket import Rep
from spworkers.supervisor.client import ChildEvent, Supervisor
from spworkers.workers.origin import Origin
from spworkers.workers.report import DIED, FAILED, ReportDesk
from spworkers.workers.settings import Settings
from spworkers.workers.tally import Stage, Tally
from spworkers.workers.watchdog import Watchdog
from spworkers.workers.worker import WorkerSpec

__all__ = ["WorkerGroup", "WorkerInfo"]

_groups = itertools.count(1)

_ENDED_WELL = "exit code 0"
"""What the supervisor says of a worker that ended on SIGTERM."""

_log = logging.getLogger("spworkers.workers")


@dataclass(frozen=True)
class WorkerInfo:
    """One worker at one moment.

    Attributes:
        name: `calc-1`; it stays when the process is replaced.
        pid: of its process; 0: it has none yet.
        state: starting, idle, busy or stopped.
        seconds: how long it has been in that state.
        answered: requests answered since the start, by all processes of that name.
        failed: those among them that were answered with an error.
    """

    name: str
    pid: int
    state: str
    seconds: float
    answered: int
    failed: int


class WorkerGroup:
    """Workers that answer the requests of one socket.

    Args:
        rep: the socket, whose requests are dealt to workers already.
        name: what the workers' names begin with.
        origin: where they get the app.
        count: how many.
        settings: how they run requests.
    """

    def __init__(self, rep: Rep, name: str, origin: Origin, count: int, settings: Settings) -> None:
        self._rep = rep
        self._name = name
        self._origin = origin
        self._serial = next(_groups)
        self._desk = ReportDesk()
        self._memory = Tally.memory(count)
        self._tally = Tally(self._memory)
        self._count = count
        self._settings = settings
        self._running = False
        self._closed = False
        self._watchdog: Watchdog | None = None

    def start(self, timeout: float = math.inf) -> None:
        """Start all workers and wait until each is ready.

        Args:
            timeout: seconds that they may take.

        Raises:
            RemoteError: one could not load the app, or its `on_start` raised; with the worker's traceback.
            WorkerDiedError: one died at its start.
            RecvTimeoutError: one was not ready in time.
        """
        deadline = time.monotonic() + timeout
        try:
            self.spawn()
            for _ in range(self._count):
                self._await_one(deadline)
            self._running = True
            if self._settings.memory_limit is not None:
                self._watchdog = Watchdog(self._settings.memory_limit, self._busy_pids, self._kill)
        except BaseException:
            self.close(0.0)
            raise

    def spawn(self) -> None:
        """Have the supervisor start the workers; also a new supervisor, when the old one died."""
        link = self._rep._link
        assert link.supervisor is not None
        for number in range(self._count):
            spec = WorkerSpec(
                link.key, number, self._origin, list(sys.argv), self._worker(number), self._settings.to_map()
            )
            link.supervisor.spawn(
                self._key(number),
                "worker",
                spec.to_map(),
                restart=True,
                fds=[self._desk.worker_fd, self._memory],
                on_event=functools.partial(self._on_event, number),
            )

    def _key(self, number: int) -> str:
        return f"{self._worker(number)}#{self._serial}"

    def _worker(self, number: int) -> str:
        return f"{self._name}-{number + 1}"

    def _on_event(self, number: int, event: ChildEvent) -> None:
        """On the control thread: a worker died, or its successor was started."""
        if not self._running:
            if event.kind == "died":
                self._desk.tell(DIED, number, event.pid, message=event.reason)
        elif event.kind == "died" and event.reason == _ENDED_WELL:
            _log.info("%s (pid %d) ended; it is replaced", self._worker(number), event.pid)
        elif event.kind == "died":
            _log.warning("%s (pid %d) died: %s; it is replaced", self._worker(number), event.pid, event.reason)
        elif event.kind == "failed":
            _log.error(
                "%s dies at its start, again and again: %s; the next attempt is in %.1f s",
                self._worker(number),
                event.reason,
                event.retry,
            )

    def _await_one(self, deadline: float) -> None:
        report = self._desk.next(deadline)
        who = self._worker(report["number"])
        if report["kind"] == FAILED:
            what = f"{who} could not start: {report['message']}"
            raise RemoteError(report["type"], what, report["traceback"])
        if report["kind"] == DIED:
            raise WorkerDiedError(f"{who} died while it started: {report['message']}", f"start of {who}", report["pid"])

    @property
    def workers(self) -> list[WorkerInfo]:
        """Each worker as it is now."""
        infos = []
        for number in range(self._count):
            pid, stage, answered, failed, seconds = self._tally.row(number).counts
            infos.append(WorkerInfo(self._worker(number), pid, stage.name.lower(), seconds, answered, failed))
        return infos

    @property
    def busy(self) -> int:
        """Workers with a request in hand."""
        return sum(self._tally.row(number).counts[1] == Stage.BUSY for number in range(self._count))

    def _busy_pids(self) -> dict[int, int]:
        rows = {number: self._tally.row(number).counts for number in range(self._count)}
        return {number: pid for number, (pid, stage, *_) in rows.items() if stage == Stage.BUSY}

    def _kill(self, number: int, pid: int, reason: str) -> None:
        supervisor = self._rep._link.supervisor
        if supervisor is not None:
            with contextlib.suppress(SPError):  # it is gone with its supervisor
                supervisor.kill(self._key(number), pid, reason)

    def close(self, grace: float) -> None:
        """End the workers, each after the request that it has in hand.

        Args:
            grace: seconds after which those that are left are killed.
        """
        if self._closed:
            return
        self._closed = True
        if self._watchdog is not None:
            self._watchdog.close()
        supervisor = self._rep._link.supervisor
        if supervisor is not None:
            with ThreadPoolExecutor(self._count, "spworkers-end") as threads:  # side by side: `end` waits for each
                list(threads.map(lambda number: _end(supervisor, self._key(number), grace), range(self._count)))
        self._desk.close()
        os.close(self._memory)


def _end(supervisor: Supervisor, key: str, grace: float) -> None:
    with contextlib.suppress(SPError):  # it is gone with its supervisor
        supervisor.end(key, grace=grace)
