"""A group of worker processes on one socket: started, counted, ended. Whoever dies meanwhile, the supervisor replaces.

group            supervisor              worker                    I/O process
start ──spawn──▶ fork ────────────────▶ loads the app
                                         join ───────────────────▶ a context of its own
      ◀──────────────── ready, or why not
... requests: between the worker and the I/O process; nobody else is asked or told ...
end ────────────▶ stop ───────────────▶ finishes what it has, ends

To be replaced (`replace`), a worker goes on until its successor is ready: only then it is told to stop.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from spworkers.errors import ClosedError, RemoteError, SPError, WorkerDiedError
from spworkers.socket import Socket
from spworkers.supervisor.client import ChildEvent, Supervisor
from spworkers.workers.logs import LogDesk, lowest_level
from spworkers.workers.measures import Measure, Measures
from spworkers.workers.origin import Origin
from spworkers.workers.report import DIED, FAILED, ReportDesk
from spworkers.workers.settings import DRAIN, WORKERS_LIMIT, Settings
from spworkers.workers.tally import Stage, Tally
from spworkers.workers.watchdog import Watchdog
from spworkers.workers.worker import WorkerSpec

__all__ = ["WorkerGroup", "WorkerInfo"]

_serials = itertools.count(1)

_ENDED_WELL = "exit code 0"
"""What the supervisor says of a worker that ended on SIGTERM."""

_GENERATIONS = 9
"""Processes of one worker that there may be, with those that finish what they have."""

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
        handlers: names of the handlers that are measured one by one; none: they are not.
        part: which part of the app they run, as `WorkerSpec` has it.

    Attributes:
        limits: what the handlers say themselves, as the worker that has started last told it.
    """

    def __init__(
        self,
        rep: Socket,
        name: str,
        origin: Origin,
        count: int,
        settings: Settings,
        handlers: Sequence[str] = (),
        part: str = "",
    ) -> None:
        self._rep = rep
        self._name = name
        self._origin = origin
        self._count = count
        self._settings = settings
        self._handlers = list(handlers)
        self._part = part
        self._desk = ReportDesk()
        self._logs = LogDesk()
        self._logs.begin()
        # Rows for each worker and for those of its predecessors that have not finished yet.
        self._generations = max(2, min(_GENERATIONS, WORKERS_LIMIT // count))
        self._memory = Tally.memory(self._generations * count)
        self._tally = Tally(self._memory)
        self._measures = Measures.memory(self._generations * count, len(self._handlers))
        self._keys = [self._new_key(number) for number in range(count)]
        self._rows = list(range(count))
        self._awaited: set[int] = set()  # rows of the workers that start
        self._closed = False
        self._watchdog: Watchdog | None = None
        self._replacing = threading.Lock()
        self._leaving: dict[str, int] = {}  # rows of workers that were replaced, and finish what they have
        self._ends_by = math.inf
        self.limits = ""

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
        self._awaited = set(self._rows)
        try:
            self.spawn()
            while self._awaited:
                self._await_one(deadline)
            if self._settings.memory_limit is not None:
                self._watchdog = Watchdog(self._settings.memory_limit, self._busy, self._kill)
        except BaseException:
            self.close(0.0)
            raise

    def spawn(self) -> None:
        """Have the supervisor start the workers; also a new supervisor, when the old one died."""
        for number in range(self._count):
            self._spawn(number, self._keys[number], self._rows[number])

    def _spawn(self, number: int, key: str, row: int) -> None:
        link: Any = self._rep._link
        assert link.supervisor is not None
        name = self._worker(number)
        spec = WorkerSpec(
            link.key,
            row,
            self._origin,
            list(sys.argv),
            name,
            self._settings.to_map(),
            self._handlers,
            lowest_level(),
            self._part,
        )
        link.supervisor.spawn(
            key,
            "worker",
            spec.to_map(),
            restart=True,
            fds=[self._desk.worker_fd, self._memory, self._logs.worker_fd, self._measures],
            on_event=functools.partial(self._on_event, name, row),
        )

    def _new_key(self, number: int) -> str:
        return f"{self._worker(number)}#{next(_serials)}"

    def _worker(self, number: int) -> str:
        return f"{self._name}-{number + 1}"

    def _on_event(self, name: str, row: int, event: ChildEvent) -> None:
        """On the control thread: a worker died, or its successor was started."""
        if row in self._awaited:
            if event.kind == "died":
                self._desk.tell(DIED, row, event.pid, message=event.reason)
        elif event.kind == "died" and event.reason == _ENDED_WELL:
            _log.info("%s (pid %d) ended; it is replaced", name, event.pid)
        elif event.kind == "died":
            _log.warning("%s (pid %d) died: %s; it is replaced", name, event.pid, event.reason)
        elif event.kind == "failed":
            _log.error(
                "%s dies at its start, again and again: %s; the next attempt is in %.1f s",
                name,
                event.reason,
                event.retry,
            )

    def _await_one(self, deadline: float) -> None:
        """Wait for the next report of a worker that starts."""
        report = self._desk.next(deadline)
        row = report["number"]
        if row not in self._awaited:
            return  # of a worker that was replaced after a death
        who = self._worker(row % self._count)
        if report["kind"] == FAILED:
            what = f"{who} could not start: {report['message']}"
            raise RemoteError(report["type"], what, report["traceback"])
        if report["kind"] == DIED:
            raise WorkerDiedError(f"{who} died while it started: {report['message']}", f"start of {who}", report["pid"])
        self.limits = str(report.get("limits", ""))
        self._awaited.discard(row)

    # --- replaced

    def replace(self, grace: float, timeout: float = math.inf) -> list[threading.Thread]:
        """Replace every worker by a new process, one after another; the others go on meanwhile.

        A worker that has much to finish does not keep the others from being replaced for longer than DRAIN seconds,
        nor its successor; only where too many predecessors go on the oldest one is ended, with DRAIN seconds more.

        Args:
            grace: seconds that each gets for the requests and streams that it has, before it is killed; math.inf: as
                many as it takes.
            timeout: seconds that each successor may take to start.

        Returns:
            Threads that end with the workers that were replaced.

        Raises:
            RemoteError, WorkerDiedError, RecvTimeoutError: a successor could not start. The worker whose it was goes
                on, and so do all that come after it.
            ClosedError: the group has ended.
        """
        ends = []
        with self._replacing:
            for number in range(self._count):
                if self._closed:
                    raise ClosedError("the workers have ended")
                ends.append(self._replace(number, grace, timeout))
                ends[-1].join(min(grace, DRAIN))
        return ends

    def _replace(self, number: int, grace: float, timeout: float) -> threading.Thread:
        supervisor = self._supervisor
        former_key, former_row = self._keys[number], self._rows[number]
        key, row = self._new_key(number), self._free_row(number, min(grace, DRAIN))
        deadline = time.monotonic() + timeout
        self._awaited.add(row)
        try:
            self._spawn(number, key, row)
            while row in self._awaited:
                self._await_one(deadline)
        except BaseException as error:
            if supervisor is not None:
                _end(supervisor, key, 0.0)
            if self._closed and isinstance(error, SPError):
                raise ClosedError("the workers have ended") from error
            raise
        finally:
            self._awaited.discard(row)
        self._leaving[former_key] = former_row
        self._keys[number], self._rows[number] = key, row
        # The end of all may have begun, and have looked for those that leave already.
        grace = min(grace, max(self._ends_by - time.monotonic(), 0.0))
        end = threading.Thread(target=self._end, args=(former_key, grace), name="spworkers-end", daemon=True)
        end.start()
        if self._generations > 2:  # now, as the next one may fail to start: then nobody has to end for it
            self._free_row(number, min(grace, DRAIN))
        return end

    def _free_row(self, number: int, grace: float) -> int:
        """A row for the next process of this worker; if there is none its oldest predecessor ends."""
        rows = self._rows_of(number)
        leaving = {row: key for key, row in list(self._leaving.items()) if row in rows}
        for row in rows:
            if row != self._rows[number] and row not in leaving:
                return row
        row, key = next(iter(leaving.items()))
        self._end(key, grace)
        return row

    def _rows_of(self, number: int) -> range:
        return range(number, self._generations * self._count, self._count)

    def _end_all(self, keys: Sequence[str], grace: float) -> None:
        """`_end` for each of them, side by side, as it waits."""
        with ThreadPoolExecutor(len(keys) + 1, "spworkers-end") as threads:
            list(threads.map(lambda key: self._end(key, grace), keys))

    def _end(self, key: str, grace: float) -> None:
        """End a worker, and wait for that."""
        supervisor = self._supervisor
        if supervisor is not None:
            _end(supervisor, key, grace)
        self._leaving.pop(key, None)

    @property
    def _supervisor(self) -> Supervisor | None:
        supervisor: Supervisor | None = self._rep._link.supervisor
        return supervisor

    # --- counted

    @property
    def workers(self) -> list[WorkerInfo]:
        """Each worker as it is now."""
        infos = []
        for number in range(self._count):
            pid, stage, _, _, seconds = self._tally.row(self._rows[number]).counts
            all_counts = [self._tally.row(row).counts for row in self._rows_of(number)]
            answered = sum(each[2] for each in all_counts)
            failed = sum(each[3] for each in all_counts)
            infos.append(WorkerInfo(self._worker(number), pid, stage.name.lower(), seconds, answered, failed))
        return infos

    @property
    def busy(self) -> int:
        """Workers with a request in hand."""
        return sum(self._tally.row(row).counts[1] == Stage.BUSY for row in range(self._generations * self._count))

    def measures(self) -> dict[str, Measure]:
        """What was measured of each handler, in all workers."""
        return Measures(self._measures, self._handlers).totals()

    def _busy(self) -> dict[str, tuple[int, int]]:
        keys = {**self._leaving, **dict(zip(self._keys, self._rows, strict=True))}
        rows = {key: self._tally.row(row).counts for key, row in keys.items()}
        return {key: (pid, answered) for key, (pid, stage, answered, *_) in rows.items() if stage == Stage.BUSY}

    def _kill(self, key: str, pid: int, reason: str) -> None:
        supervisor = self._supervisor
        if supervisor is not None:
            with contextlib.suppress(SPError):  # it is gone with its supervisor
                supervisor.kill(key, pid, reason)

    # --- ended

    def close(self, grace: float) -> None:
        """End the workers, each after the request that it has in hand.

        Args:
            grace: seconds after which those that are left are killed.
        """
        if self._closed:
            return
        self._ends_by = time.monotonic() + grace
        self._closed = True
        if self._watchdog is not None:
            self._watchdog.close()
        supervisor = self._supervisor
        if supervisor is not None:
            leaving = list(self._leaving)  # who waits for the end of one, or for a start, has the lock
            for row in list(self._awaited):
                self._desk.tell(DIED, row, 0, message="all workers end")
            self._end_all(leaving, grace)
        with self._replacing:
            if supervisor is not None:
                self._end_all(self._keys, grace)
        self._desk.close()
        self._logs.close()
        os.close(self._memory)
        os.close(self._measures)


def _end(supervisor: Supervisor, key: str, grace: float) -> None:
    with contextlib.suppress(SPError):  # it is gone with its supervisor
        supervisor.end(key, grace=grace)
