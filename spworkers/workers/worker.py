"""A worker process: from its boot to its end.

    boot ─▶ the app is loaded, on_start runs ─▶ ready ─▶ take, answer, take, answer ... ─▶ told to stop ─▶ on_stop
                │ fails, the first time                        │ the process dies
                ▼                                              ▼
         told to the group, which ends us          the supervisor starts another, the dispatcher hands
                                                   the request out again

It ends when the supervisor says `stop`, on SIGTERM or SIGINT, and when its I/O process is gone; always after the
request at hand. Nothing of it writes to stdout.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import sys
import traceback
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final

from spworkers.channel import Channel, close_fds
from spworkers.errors import ChannelClosedError, SPError, UsageError
from spworkers.supervisor.boot import Boot
from spworkers.workers import origin
from spworkers.workers.hooks import Hooks
from spworkers.workers.logs import clear_loggers, end_forwarding, forward_logs
from spworkers.workers.measures import Measures
from spworkers.workers.middleware.base import Middleware
from spworkers.workers.middleware.logs import AccessLog
from spworkers.workers.middleware.memory import MemoryLimit
from spworkers.workers.middleware.metrics import Metrics
from spworkers.workers.middleware.retry import Retry
from spworkers.workers.middleware.tasks import MaxTasks
from spworkers.workers.middleware.timelimit import own_limits
from spworkers.workers.report import FAILED, READY, Reporter
from spworkers.workers.resident import check_limit
from spworkers.workers.runner import Runner
from spworkers.workers.settings import THREAD_VARIABLES, Settings
from spworkers.workers.tally import Tally
from spworkers.workers.workerport import RingPort
from spworkers.workers.working import work

__all__ = ["StopSignal", "WorkerSpec", "built_in", "run"]

_log: Final = logging.getLogger("spworkers.workers")
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class WorkerSpec:
    """What the group says to a worker; a map of plain values on the way.

    Attributes:
        attach: key of the I/O process whose requests it answers.
        number: which row of the group's tally is its own, from 0.
        origin: where the app comes from, as `origin.origin_of` says.
        argv: sys.argv of the user's process.
        name: what it is called.
        settings: as `Settings` has them.
        handlers: the names of those that are measured one by one.
        log_level: of records that go to the parent.
        part: which respondent, consumer or subscriber of the app it runs; empty: the handlers.
    """

    attach: str
    number: int
    origin: dict[str, Any]
    argv: list[str]
    name: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    handlers: list[str] = field(default_factory=list)
    log_level: int = logging.WARNING
    part: str = ""

    def to_map(self) -> dict[str, Any]:
        """Itself, for `spawn`."""
        return dict(vars(self))


warm_up = clear_loggers  # in the supervisor, for all workers


def run(boot: Boot) -> int:
    """The entry point of the role `worker`.

    Its descriptors are, in this order: the channel to the I/O process; the group's report socket, its tally, its socket
    of log records, and the memory of what is measured.
    """
    spec = WorkerSpec(**boot.spec)
    channel_fd, report_fd, tally_fd, log_fd, measures_fd = boot.fds
    forward_logs(log_fd, spec.name, spec.log_level)
    reporter = Reporter(report_fd)
    row = Tally(tally_fd).row(spec.number)
    row.begin(os.getpid())
    stop = StopSignal(boot.channel)
    sys.argv[:] = spec.argv
    settings = Settings(**spec.settings)
    try:
        _settle(settings, spec.number)
        app = origin.load(spec.origin)
        measuring = [Metrics(Measures(measures_fd, spec.handlers), spec.number)] if spec.handlers else []
        runner = Runner(app, Hooks([*built_in(settings), *measuring, *app.middleware]), spec.part)
        runner.start()
        if boot.generation == 1:
            check_limit(settings.memory_limit, app.name)
    except (Exception, SystemExit) as error:
        if boot.generation > 1:
            raise  # it worked once, so it may again: the supervisor prints this, waits a while, and tries once more
        _tell_failure(reporter, spec, error)
        reporter.close()
        stop.wait()
        return 0
    port = RingPort(Channel.from_fd(channel_fd))
    reporter.tell(READY, spec.number, os.getpid(), limits=json.dumps(own_limits(app, spec.part)))
    reporter.close()
    retired = work(port, runner, row, stop, spec.name)
    if retired:
        _log.info("%s (pid %d) is replaced: %s", spec.name, os.getpid(), retired)
    runner.stop()
    port.close()
    end_forwarding()
    if stop.by_signal or retired:  # what follows is no death of a bad start, however early it comes
        boot.channel.try_send({"t": "recycle"})
    return 0


def _settle(settings: Settings, number: int) -> None:
    """What has to be so before anything of the user's is imported."""
    if settings.threads_per_worker is not None:
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(settings.threads_per_worker)))
    if settings.affinity:
        os.sched_setaffinity(0, {settings.affinity[number % len(settings.affinity)]})


def built_in(settings: Settings) -> list[Middleware]:
    """The middleware that settings ask for."""
    found: list[Middleware] = [Retry(settings.retries)]
    if settings.access_log:
        found.append(AccessLog())
    if settings.memory_limit is not None:
        found.append(MemoryLimit(settings.memory_limit))
    if settings.max_tasks is not None:
        found.append(MaxTasks(settings.max_tasks, settings.max_tasks_jitter))
    return found


def _tell_failure(reporter: Reporter, spec: WorkerSpec, error: BaseException) -> None:
    """A first start that fails is the user's mistake: the group raises it where they see it, and nobody tries again."""
    trace = _beyond_ours(error)
    text = "".join(traceback.format_exception(type(error), error, trace))
    if trace is None and isinstance(error, UsageError):
        text = ""  # none of the user's lines is in it, and the message says everything
    reporter.tell(FAILED, spec.number, os.getpid(), type=type(error).__name__, message=str(error), traceback=text)


def _beyond_ours(error: BaseException) -> Any:
    """The traceback from the user's code on: how we came to import it is of no use to them."""
    ours = (
        os.path.dirname(os.path.abspath(__file__)),
        os.path.join("spworkers", "workers", ""),  # what is compiled has the path that it had then
    )
    trace = error.__traceback__
    while trace is not None and _is_ours(trace.tb_frame.f_code.co_filename, ours):
        trace = trace.tb_next
    return trace


def _is_ours(filename: str, ours: tuple[str, ...]) -> bool:
    return filename.startswith((*ours, "<frozen importlib", os.path.dirname(os.__file__) + os.sep + "importlib"))


class StopSignal:
    """Whether this worker is to end: told by its supervisor, by a signal, or by the supervisor's death.

    Args:
        channel: to the supervisor.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.told = False
        self.by_signal = False
        self._settled = False
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        # A handler of Python's runs between two instructions, so a signal that comes just before a poll would wait for
        # its end; the interpreter's own handler writes into this pipe at once.
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)

    def settled(self) -> None:
        """Say that this process has got through its start, so that its death is none of that."""
        if not self._settled:
            self._settled = True
            with contextlib.suppress(SPError):
                self._channel.try_send({"t": "settled"})

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.by_signal = True
        with contextlib.suppress(BlockingIOError):  # once more, should a handler's event loop have taken the pipe away
            os.write(self._write, b"\0")

    def signalled(self) -> bool:
        """Whether there is something to `drain`."""
        return bool(select.select([self._read], [], [], 0)[0])

    def drain(self) -> None:
        """Empty the pipe of signals: others than ours come through it too."""
        os.read(self._read, 4096)

    def filenos(self) -> tuple[int, int]:
        """What becomes readable when it may be time: `look`, and then `drain` if it was the second."""
        return self._channel.fileno(), self._read

    def look(self) -> bool:
        """Whether it is time; it reads what the supervisor has said."""
        try:
            while not self.told and (received := self._channel.recv_ready()) is not None:
                message, fds = received
                close_fds(fds)
                self.told = message["t"] == "stop"
        except ChannelClosedError:
            self.told = True
        return self.told or self.by_signal

    def wait(self) -> None:
        """Wait until it is time."""
        poll = select.poll()
        for fd in self.filenos():
            poll.register(fd, select.POLLIN)
        while not self.look():
            if any(fd == self._read for fd, _ in poll.poll()):
                self.drain()
