"""A context pool: a REP socket whose requests are answered in worker processes, without the parent on their way.

    network ─▶ I/O process ─▶ worker ─▶ I/O process ─▶ network

The dispatcher in the I/O process deals the requests; each worker is attached to it by rings of its own. The parent
starts the workers and reads their counters. It may be busy, or stopped: requests go on being answered, and dead workers
replaced.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Final

from spworkers._coerce import Seconds
from spworkers.closing import Closing
from spworkers.errors import BadValueError, ClosedError, SPError
from spworkers.lookaround import processors
from spworkers.socket import Socket
from spworkers.sockets import Pull, Rep, Respondent, Sub
from spworkers.workers.app import App
from spworkers.workers.caller import deadline_of
from spworkers.workers.callwaiting import left_until
from spworkers.workers.dispatching import AUTO, check_dispatching
from spworkers.workers.group import WorkerGroup, WorkerInfo
from spworkers.workers.lending import ExecutorGroup, crew_text, refuse_unsupported, slots_of
from spworkers.workers.middleware.timelimit import TimeLimit, own_limits
from spworkers.workers.origin import origin_of
from spworkers.workers.prometheus import Measured, exposition
from spworkers.workers.quantities import check_count
from spworkers.workers.settings import BACKLOG, DRAIN, Settings, drain_of, workers_of

__all__ = ["BACKLOG", "DRAIN", "ContextPool", "dispatcher_options"]

_pools: Final[weakref.WeakKeyDictionary[Socket, weakref.ref[ContextPool]]] = weakref.WeakKeyDictionary()
"""The last pool of each socket."""

_log: Final = logging.getLogger("spworkers.workers")
_LOOK: Final = 0.01  # seconds between two looks whether all requests are answered
_ERRORS: Final = "spworkers.workers.callformat:CALL_ERRORS"


class ContextPool(Closing):
    """N worker processes that answer the requests of a REP socket, or deal with what another one receives.

    ```python
    def shout(body: bytes) -> bytes:
        return body.upper()

    with sp.Rep(listen="tcp://127.0.0.1:5555") as rep, sp.ContextPool(rep, shout, workers=4):
        ...  # a Req that sends b"hey" receives b"HEY"
    ```

    A function for a Respondent returns the answer to a survey, or None for none; for a Pull or a Sub it does not matter
    what it returns. A request whose worker dies goes to another one; a message is kept until a worker is done with it.
    From here on the socket's own `recv` gets nothing, also when the pool has ended; close the pool before the socket,
    which has one at a time. A pool that is only forgotten goes on, without a warning: the socket's requests are
    answered until one of both is closed, or the program ends.

    Args:
        rep: a `Rep`, `Respondent`, `Pull` or `Sub` that is not raw. Subscribe before.
        handler: a function of bytes that returns bytes, or an App (for a Rep).
        workers: how many processes; None: as many as there are processors for us.
        name: what the workers are called; None: the app's or the function's name.
        part: the name of a respondent, consumer or subscriber of the App.
        executor: any `concurrent.futures.Executor`, in whose workers the handler runs, instead of processes of the
            pool's own; it stays its user's. `workers` is then how many requests it runs at once, if it
            does not say; if it says another number, that is refused.
        settings: how requests are run: `timeout`, `retries`, `backlog`, `max_tasks`, `memory_limit` … (`Settings`).

    Raises:
        BadOptionError, BadValueError: an argument is wrong.
        UnsupportedOptionError: the executor cannot do what a setting or a handler asks for.
        SerializationError: the handler cannot be sent to the workers.
        RemoteError, WorkerDiedError: a worker could not start; the pool has ended again.
    """

    def __init__(
        self,
        rep: Rep | Respondent | Pull | Sub,
        handler: App | Callable[[bytes], Any],
        workers: int | None = None,
        *,
        name: str | None = None,
        part: str = "",
        executor: Executor | None = None,
        **settings: Any,
    ) -> None:
        kind = _kind_of(rep)
        if part:
            _check_part(handler, part, kind, rep)
        elif isinstance(handler, App) and kind != "raw":
            raise BadValueError(f"an App's handlers answer requests of a Rep; for {rep!r} give one function, or part=")
        self.app = handler if isinstance(handler, App) else _raw_app(handler, kind)
        part = part or (self.app.name if kind != "raw" else "")
        self.part = part
        self._rep = rep
        self._name = name or self.app.name
        self._closed = False
        if workers is None:
            count = processors()
        else:  # of an executor they are requests at once
            count = workers_of(workers, "workers") if executor is None else check_count(workers, "workers", least=1)
        self.settings = Settings.check(settings, self._name)
        other = _pools.get(rep)
        other_pool = None if other is None else other()
        if other_pool is not None and not other_pool._closed:
            raise BadValueError(f"{rep!r} has a pool already, {other_pool!r}: close that first")
        self._errors = _ERRORS if kind == "raw" else ""  # surveys and messages have no answer that is an error
        self._options = dispatcher_options(self.app, self.settings, part)
        # Of the handlers themselves, whatever other middleware has made of them.
        self._limits = TimeLimit(self.settings.timeout, self.settings.retries).limits(own_limits(self.app))
        raw = [self.app.raw_handler.name] if self.app.raw_handler is not None else []
        measured = ([part] if part else [*self.app.handlers, *raw]) if self.settings.metrics else []
        self._process = os.getpid()
        self._executor = executor
        self._group: WorkerGroup | ExecutorGroup
        if executor is None:
            origin = origin_of(self.app)
            self._group = WorkerGroup(rep, self._name, origin, count, self.settings, measured, part)
        else:
            if not isinstance(executor, Executor):
                raise BadValueError(
                    f"executor is {executor!r:.80}; it has to be a concurrent.futures.Executor, or None"
                )
            refuse_unsupported(self.app, executor, settings, part, workers)
            terms = _lend(self._options, slots_of(executor, workers))
            self._group = ExecutorGroup(rep, self._name, self.app, executor, self.settings, terms, measured, part)
        rep._request("dispatch", errors=self._errors, options=self._options)
        self._group.start()
        _pools[rep] = weakref.ref(self)
        self._supervisor = rep._link.supervisor
        if self._supervisor is not None:
            self._supervisor.on_restart(self._restarted)

    def _restarted(self) -> None:
        """The supervisor died and took everybody along; the socket is there again, with a new one."""
        if not self._closed:
            self._rep._link.tell("dispatch", errors=self._errors, options=self._options)
            self._group.spawn()

    # --- what it does

    @property
    def workers(self) -> list[WorkerInfo]:
        """Each worker as it is now: name, pid, state, how many requests it has answered."""
        return self._group.workers

    @property
    def answered(self) -> int:
        """Requests answered so far."""
        return sum(worker.answered for worker in self._group.workers)

    def stats(self) -> dict[str, Any]:
        """The socket's statistics, with `workers`: one map for each."""
        return {**self._rep.stats(), "workers": [dict(vars(worker)) for worker in self._group.workers]}

    def metrics(self) -> str:
        """What is counted, in Prometheus' text format; of each handler too, if the setting `metrics` is on."""
        return exposition(self._name, [self.measured()])

    def measured(self) -> Measured:
        """The same as numbers."""
        measures = self._group.measures() if self.settings.metrics else {}
        return Measured(self.part if self.part != self.app.name else "", self.stats(), measures)

    def restart(self, drain: Seconds = None, timeout: Seconds = None) -> None:
        """Replace the workers by new processes, with new code, one after another. No request fails of that.

        A worker is told to end when its successor is ready, and finishes what it has. When all are replaced the
        handlers' own `timeout` and `retries` are those of the new code.

        Args:
            drain: seconds that each worker gets for that, before it is killed; None: as many as it takes.
            timeout: seconds that each successor may take to start; None: for ever.

        Raises:
            RemoteError, WorkerDiedError, RecvTimeoutError: a successor could not start; the workers that were not
                replaced yet go on.
            ClosedError: the pool is closed.
            BadValueError: `drain` or `timeout` is no time, or less than 0.
        """
        for end in self.replace(drain, timeout):
            end.join()

    def replace(self, drain: Seconds = None, timeout: Seconds = None) -> list[threading.Thread]:
        """As `restart`, without waiting until the workers that were replaced have ended, which these threads do."""
        self._check_open()
        limit = math.inf if timeout is None else left_until(deadline_of(drain_of(timeout, "timeout")))
        ends = self._group.replace(left_until(deadline_of(drain_of(drain, "drain"))), limit)
        if isinstance(self._group, WorkerGroup):
            self._take_limits(self._group.limits)
        return ends

    def _take_limits(self, told: str) -> None:
        """Have the dispatcher keep to what the handlers of new code say themselves."""
        try:
            own = {name: (each[0], each[1], each[2]) for name, each in json.loads(told).items()}
        except ValueError:  # an App of more handlers than a report holds
            _log.warning(
                "%s: its workers could not tell the options of their handlers; the former ones hold", self._name
            )
            return
        builtin = TimeLimit(self.settings.timeout, self.settings.retries)
        if self._options.get("LIMITS") is None:  # a part: it has one handler
            timeout, retries, _ = builtin.limit(own[""])
            new: dict[str, Any] = {"TIMEOUT": timeout, "RETRIES": retries}
        else:  # what other middleware has said of a handler holds on
            others = {name: each for name, each in self._options["LIMITS"].items() if self._limits.get(name) != each}
            self._limits = builtin.limits(own)
            new = {"LIMITS": {**self._limits, **others}}
        for name, value in new.items():
            if self._options[name] != value:
                self._options[name] = value
                self._rep._request("set_option", place="socket", key=0, name=name, value=value)

    # --- its end

    def drain(self, timeout: Seconds = DRAIN) -> bool:
        """Take no new requests, and wait until those at hand are answered.

        Args:
            timeout: seconds to wait at most.

        Returns:
            Whether all are answered.

        Raises:
            ClosedError: the pool or its socket is closed.
        """
        self._check_open()
        deadline = deadline_of(timeout)
        self._rep._request("set_option", place="socket", key=0, name="DRAINING", value=True)
        while not self._rep.stats().get("idle", not self._group.busy):
            if not left_until(deadline):
                return False
            time.sleep(min(_LOOK, left_until(deadline)))
        return True

    def close(self, drain: Seconds = DRAIN) -> None:
        """Answer the requests at hand, then end the workers; the socket stays open. A second time, nothing happens.

        Args:
            drain: seconds that those requests get; 0: none.

        Raises:
            BadValueError: that is no time, or less than 0.
        """
        deadline = deadline_of(drain_of(drain, "drain"))
        if self._closed or os.getpid() != self._process:  # a forked child has no part in it
            return
        try:
            if left_until(deadline) > 0:
                self.drain(left_until(deadline))
        except SPError:
            pass  # the socket is gone, and with it whoever waited
        except BaseException:  # Ctrl-C: whoever asks for the end a second time wants it now
            deadline = 0.0
            raise
        finally:
            self._closed = True
            if self._supervisor is not None:
                self._supervisor.forget_restart(self._restarted)
            self._group.close(left_until(deadline))

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"context pool {self._name} is closed")

    def __repr__(self) -> str:
        if self._closed:
            return f"<ContextPool {self._name}: closed>"
        workers = self._group.workers
        busy = sum(worker.state == "busy" for worker in workers) if self._executor is None else self._group.busy
        crew = crew_text(len(workers), self._executor)
        return f"<ContextPool {self._name}: {crew}, {busy} busy, {self.answered} answered>"


def _kind_of(socket: Any) -> str:
    """What kind of handler a socket's messages are for."""
    for kind, cls in (("raw", Rep), ("respondent", Respondent), ("consumer", Pull), ("subscriber", Sub)):
        if isinstance(socket, cls) and not socket.get_option("RAW"):
            return kind
    raise BadValueError(f"a ContextPool works for a Rep, Respondent, Pull or Sub that is not raw, not for {socket!r}")


def _check_part(handler: Any, part: Any, kind: str, socket: Socket) -> None:
    """Make sure that it names a part of an App, and that the socket receives what is for that part.

    Raises:
        BadValueError: it does not.
    """
    if not isinstance(handler, App):
        raise BadValueError(f"part={part!r:.80} names a part of an App; {handler!r:.80} is none: leave part= out")
    known = {name: each.handler.kind for name, each in handler.parts.items()}
    if not isinstance(part, str) or part not in known:
        there_are = ", ".join(f"{name} ({each})" for name, each in known.items()) or "no parts"
        raise BadValueError(
            f"{handler.name} has no respondent, consumer or subscriber {part!r:.80}; it has {there_are}"
        )
    if known[part] != kind:
        raise BadValueError(f"part={part!r} is a {known[part]} of {handler.name}, which {socket!r} is not for")


def dispatcher_options(app: App, settings: Settings, part: str = "") -> dict[str, Any]:
    """What the dispatcher is told, after all middleware has had its say.

    Raises:
        BadOptionError, BadValueError: a middleware has left an option that there is not, or a value that is none.
    """
    access = {"ACCESS-LOG": True} if settings.access_log else {}
    if part:
        (own,) = own_limits(app, part).values()
        timeout, retries, concurrent = TimeLimit(settings.timeout, settings.retries).limit(own)
        return {
            "TIMEOUT": timeout,
            "RETRIES": retries,
            "BACKLOG": settings.backlog,
            "QUARANTINE": settings.quarantine,
            "PREFETCH": settings.max_async_tasks if concurrent else 1,
            **access,
        }
    handlers = [*app.handlers.values(), *([app.raw_handler] if app.raw_handler is not None else [])]
    options: dict[str, Any] = {
        **access,
        "BACKLOG": settings.backlog,
        "QUARANTINE": settings.quarantine,
        "PREFETCH": AUTO,
        "CONCURRENT": settings.max_async_tasks if any(handler.concurrent for handler in handlers) else 0,
    }
    TimeLimit(settings.timeout, settings.retries).serving(app, options)
    for middleware in app.middleware:
        middleware.serving(app, options)
        check_dispatching(options, f"{app.name}: {type(middleware).__qualname__}.serving")
    return options


def _lend(options: dict[str, Any], slots: int) -> Callable[[str], tuple[float, int]]:
    """Make the dispatcher's options those of a socket whose handlers run on an executor.

    Deaths and the time that a body takes are the executor's business; what is given up is never killed.

    Returns:
        A handler's time and retries, by its name.
    """
    default = (float(options.get("TIMEOUT", 0.0)), int(options.get("RETRIES", 1)))
    limits = {name: (float(own[0]), int(own[1])) for name, own in options.get("LIMITS", {}).items()}
    options.update({"TIMEOUT": 0.0, "LIMITS": {}, "PREFETCH": slots, "CONCURRENT": 0, "GRACE": math.inf})
    return lambda name: limits.get(name, default)


def _raw_app(function: Any, kind: str) -> App:
    if not callable(function):
        raise BadValueError(f"a ContextPool's handler is a function or an App, not {function!r:.80}")
    app = App(getattr(function, "__name__", type(function).__name__))
    if kind == "raw":
        app.raw(function)
    else:
        app.add_part(kind, function, app.name, {})
    return app
