"""The thread that does what takes its time: start processes, kill them, look how much memory they use.

engine ─▶ "launch this worker" ─▶ keeper ─▶ supervisor ─▶ "it has this pid" ─▶ engine
"""

from __future__ import annotations

import contextlib
import os
import queue
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from spworkers._locks import Latch
from spworkers.errors import ShutdownError, SPError
from spworkers.starting import start_thread
from spworkers.workers.logs import LogDesk, lowest_level
from spworkers.workers.pool.crew import Worker
from spworkers.workers.pool.launch import Launcher, lives
from spworkers.workers.resident import resident

if TYPE_CHECKING:
    from spworkers.workers.pool.engine import Engine

__all__ = ["Keeper"]

PATIENCE: Final = 30.0
"""Seconds in which the first process is there, whatever happens."""

EXITING: Final = 0.05
"""Seconds between two attempts to start a worker while the interpreter exits."""

_LOOK: Final = 0.1  # seconds between two looks at the workers' memory


class Keeper:
    """One for each pool.

    Args:
        make: makes the launcher, on the keeper's thread, at first need.
        spec: what every worker is told at its start.
        fds: descriptors for every worker, beside those of its own; they belong to the keeper.
        memory_limit: bytes of resident memory that a worker may use; 0: as many as it likes.
    """

    def __init__(
        self,
        make: Callable[[Engine], Launcher],
        spec: dict[str, Any],
        fds: list[int],
        memory_limit: int,
    ) -> None:
        self._make = make
        self._spec = spec
        self._fds = fds
        self._memory_limit = memory_limit
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._engine: Engine | None = None
        self._launcher: Launcher | None = None
        self._tried = Latch()
        self._logs: LogDesk | None = None
        self._begun = False

    def prepare(self, engine: Engine) -> None:
        """Work for that engine.

        Raises:
            ResourceError: there is no descriptor left for the workers' log.
        """
        self._engine = engine
        self._logs = LogDesk()

    def begin(self) -> BaseException | None:
        """Start the thread; returns what `start_thread` does.

        Raises:
            RuntimeError: the system has no room for another, or the interpreter exits.
        """
        assert self._engine is not None
        interrupt = start_thread(self._main, f"{self._engine.name}-keeper")
        self._begun = True
        return interrupt

    def await_first(self) -> None:
        """Wait until the first worker has its process, or has none for a reason."""
        self._tried.wait(PATIENCE)

    def launch(self, worker: Worker) -> None:
        """Start a process for it, soon."""
        self._jobs.put(lambda: self._launch(worker))

    def do(self, job: Callable[[], None]) -> bool:
        """Have the thread do something after what it has to do. False: it was not started."""
        if self._begun:
            self._jobs.put(job)
        return self._begun

    def kill(self, worker: Worker) -> None:
        """Kill it now. Any thread may; nothing happens while it has no process: `Engine.launched` comes back to it."""
        if self._launcher is not None:
            self._launcher.kill(worker)

    def lives(self, worker: Worker) -> bool:
        """Whether its process is there."""
        return lives(worker)

    def forget(self, worker: Worker) -> None:
        """It is buried."""
        if self._launcher is not None:
            self._launcher.forget(worker)

    def end(self, engine: Engine) -> None:
        """The pool has ended: what its workers have logged comes out, then the thread ends."""
        if self._logs is not None:
            self._logs.close()
        if self._begun:
            self._jobs.put(None)
        else:
            self._leave(engine)

    def _main(self) -> None:
        timeout = _LOOK if self._memory_limit else None
        while True:
            try:
                job = self._jobs.get(timeout=timeout)
            except queue.Empty:
                self._measure()
                continue
            if job is None:
                break
            job()
            if not self._tried.is_set():
                self._tried.set()
                self._read_logs()
        self._tried.set()
        assert self._engine is not None
        self._leave(self._engine)

    def _leave(self, engine: Engine) -> None:
        if self._launcher is not None:
            self._launcher.close()
        engine.release()
        for fd in self._fds:
            os.close(fd)

    def _read_logs(self) -> None:
        """Have the workers' log read; not before the first of them was asked for, who is waited for."""
        assert self._logs is not None
        with contextlib.suppress(RuntimeError):  # no room for a thread, or the interpreter exits: it is read at the end
            self._logs.begin()

    def _launch(self, worker: Worker) -> None:
        engine = self._engine
        assert engine is not None
        if worker.stopped and not worker.jobs:  # it is not needed any more
            engine.died(worker, "exit code 0", 0)
            return
        assert self._logs is not None
        own = [engine.region.fd, worker.receive_bell, worker.send_bell, engine.bell, engine.ledger_fd]
        fds = [*own, self._logs.worker_fd, *self._fds]
        spec = {**self._spec, "segment": worker.segment, "number": worker.number, "name": worker.name}
        spec["log_level"] = lowest_level()
        try:
            if self._launcher is None:
                self._launcher = self._make(engine)
            pid, handle = self._launcher.launch(worker, fds, spec)
        except ShutdownError as error:
            others = [each for each in engine.dispatcher.workers if each is not worker and each.pid]
            if others:  # they do what there is to do
                time.sleep(EXITING)
                engine.died(worker, "exit code 0", 0)
            else:
                engine.died(worker, f"it could not be started: {error}", None)
            return
        except SPError as error:
            engine.died(worker, f"it could not be started: {error}", None)
            return
        except Exception as error:  # a bug: the pool must not wait for ever for this worker
            engine.died(worker, f"it could not be started: {type(error).__name__}: {error}", None)
            return
        engine.launched(worker, pid, handle)

    def _measure(self) -> None:
        engine = self._engine
        assert engine is not None
        for worker in list(engine.dispatcher.workers):
            if worker.ready and worker.pid:
                used = resident(worker.pid)
                if used > self._memory_limit:
                    engine.exceeds(worker, used, self._memory_limit)
