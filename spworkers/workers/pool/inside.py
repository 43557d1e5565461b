"""A worker process from its start to its end, and what a task can learn about the worker that it runs in.

start ─▶ SETUP: affinity, threads, shared objects, initializer ─▶ READY ─▶ jobs ... ─▶ STOP ─▶ finalizer
                              │ raises
                              └▶ UNFIT: the pool fails its tasks with that
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import traceback
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final

from spworkers.errors import ProtoStateError
from spworkers.ring import Receiver, Record, Region, Sender, wait_readable
from spworkers.supervisor.boot import Boot
from spworkers.workers.logs import clear_loggers, end_forwarding, forward_logs
from spworkers.workers.pool.bench import Bench
from spworkers.workers.pool.kinds import KIND, MEMORY, READY, SETUP, STOP, UNFIT
from spworkers.workers.pool.ledger import Ledger
from spworkers.workers.pool.shared import attach
from spworkers.workers.pool.values import values_of
from spworkers.workers.resident import check_limit

__all__ = ["ThisWorker", "live", "run", "this_worker"]

THREADS: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""What the libraries that start threads of their own look at when they are loaded."""


@dataclass
class ThisWorker:
    """The worker that runs the task which asks.

    Attributes:
        name: `pool-1`; a successor has the same.
        number: which worker of its pool it is, from 0.
        shared: the pool's `shared=`, in memory that all workers map.
        state: whatever the initializer wants to keep for the tasks.
    """

    name: str
    number: int
    shared: Any = None
    state: SimpleNamespace = field(default_factory=SimpleNamespace)


_this: ThisWorker | None = None


def this_worker() -> ThisWorker:
    """The worker that this code runs in.

    Raises:
        ProtoStateError: it is no worker of a pool.
    """
    if _this is None:
        raise ProtoStateError("this is no worker of a pool: this_worker() can be called by a pool's tasks only")
    return _this


warm_up = clear_loggers  # in the supervisor, for all workers


def run(boot: Boot) -> int:
    """The entry point of the role `pool`."""
    return _live(boot.fds, boot.spec)


def live(fds: list[int], spec: dict[str, Any]) -> int:
    """Be a worker in a process that may have loggers: the user's, forked, or a fresh interpreter. As `_live`."""
    clear_loggers()
    return _live(fds, spec)


def _live(fds: list[int], spec: dict[str, Any]) -> int:
    """Be a worker.

    Args:
        fds: the pool's memory, our receive and send bell, the pool's bell, the ledger, the socket of log records;
            perhaps what is shared.
        spec: plain values: `segment`, `number`, `name`, `argv`, `serializer`, `cpus`, `threads`, `shared`,
            `memory_limit`, `log_level`.
    """
    global _this
    memory, receive_bell, send_bell, pool_bell, ledger_fd, log_fd = fds[:6]
    forward_logs(log_fd, spec["name"], spec["log_level"])
    _surround(spec)
    region = Region.attach(memory)
    segment = region.segment(spec["segment"])
    receiver = Receiver(segment, receive_bell, pool_bell)
    sender = Sender(segment, send_bell, pool_bell)
    sender.window = 1024
    row = Ledger(ledger_fd).row(spec["segment"])
    bench = Bench(receiver, sender, values_of(spec["serializer"]), row)
    _this = ThisWorker(spec["name"], spec["number"])
    first = _first(receiver)
    if first is None:
        return 0
    finalizer = _set_up(first, sender, _this, fds[6:], spec)
    if finalizer is _FAILED:
        return 0
    os.register_at_fork(after_in_child=lambda: setattr(bench, "forked", True))
    sender.publish(b"", b"", os.getpid(), 0, READY, True)
    bench.work()
    if finalizer is not None:
        finalizer()
    end_forwarding()
    return 0


_FAILED: Final = object()


def _surround(spec: dict[str, Any]) -> None:
    sys.argv[:] = spec["argv"]
    cpus = spec["cpus"]
    if cpus:
        with contextlib.suppress(AttributeError):  # not Linux; the pool has checked that
            os.sched_setaffinity(0, cpus[spec["number"] % len(cpus)])
    if spec["threads"]:
        os.environ.update(dict.fromkeys(THREADS, str(spec["threads"])))
        if "threadpoolctl" in sys.modules or "numpy" in sys.modules:  # forked from who had them loaded
            with contextlib.suppress(ImportError):
                import threadpoolctl

                threadpoolctl.threadpool_limits(spec["threads"])


def _first(receiver: Receiver) -> Record | None:
    """The record SETUP; None: the pool ended before that."""
    while True:
        record = receiver.take()
        if record is not None:
            if record.kind & KIND == STOP:
                return None
            assert record.kind & KIND == SETUP, record
            return record
        receiver.wait(float("inf"), -1, True)


def _set_up(record: Record, sender: Sender, this: ThisWorker, more: list[int], spec: dict[str, Any]) -> Any:
    """Do as SETUP says; returns the finalizer."""
    what = "setup"
    try:
        initializer_blob, finalizer_blob = pickle.loads(record.body())
        record.release()
        if more:
            what = "shared="
            this.shared = attach(more[0], spec["shared"])
        what = "finalizer"
        finalizer = pickle.loads(finalizer_blob) if finalizer_blob is not None else None
        what = "initializer"
        if initializer_blob is not None:
            initializer, arguments = pickle.loads(initializer_blob)
            initializer(*arguments)
        what = MEMORY
        check_limit(spec["memory_limit"], this.name.rpartition("-")[0])
    except Exception as error:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        body = pickle.dumps((what, type(error).__name__, str(error), text))
        while not sender.publish(body, b"", 0, 0, UNFIT, True):
            if not sender.arm(len(body)):
                wait_readable(sender.bell, float("inf"))
        return _FAILED
    return finalizer
