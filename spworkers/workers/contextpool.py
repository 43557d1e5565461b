"""A context pool: a REP socket whose requests are answered in worker processes, without the parent on their way.

    network ─▶ I/O process ─▶ worker ─▶ I/O process ─▶ network

The dispatcher in the I/O process deals the requests; each worker is attached to it by rings of its own. The parent
starts the workers and reads their counters. It may be busy, or stopped: requests go on being answered, and dead workers
replaced.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any, Final

from spworkers._coerce import Seconds
from spworkers.closing import Closing
from spworkers.errors import BadValueError, ClosedError, SPError
from spworkers.socket import Rep
from spworkers.workers.app import App
from spworkers.workers.caller import deadline_of, left_until
from spworkers.workers.group import WorkerGroup, WorkerInfo
from spworkers.workers.handler import HandlerOptions, check_count
from spworkers.workers.origin import origin_of

__all__ = ["BACKLOG", "DRAIN", "ContextPool"]

BACKLOG: Final = 1024
"""Requests that wait for a worker, by default."""
DRAIN: Final = 10.0
"""Seconds that `close` gives the requests at hand, by default."""

_LOOK: Final = 0.01  # seconds between two looks whether all requests are answered
_ERRORS: Final = "spworkers.workers.callformat:CALL_ERRORS"


class ContextPool(Closing):
    """N worker processes that answer the requests of a REP socket.

    ```python
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep, sp.ContextPool(rep, str.encode, workers=4) as pool:
        ...
    ```

    A request whose worker dies goes to another one. From here on the socket's own `recv` gets nothing; close the pool
    before the socket.

    Args:
        rep: a `Rep` that is not raw.
        handler: a function of bytes that returns bytes, or an App.
        workers: how many processes; None: as many as there are processors for us.
        name: what the workers are called; None: the app's or the function's name.
        timeout: seconds after which a request's worker is killed; None: never.
        retries: how often a request goes to another worker after one died of it, or ran past `timeout`.
        backlog: requests that may wait for a worker; what comes beyond them is answered busy.

    Raises:
        BadValueError: an argument is wrong.
        SerializationError: the handler cannot be sent to the workers.
        RemoteError, WorkerDiedError: a worker could not start; the pool has ended again.
    """

    def __init__(
        self,
        rep: Rep,
        handler: App | Callable[[bytes], bytes],
        workers: int | None = None,
        *,
        name: str | None = None,
        timeout: Seconds = None,
        retries: int = 1,
        backlog: int = BACKLOG,
    ) -> None:
        self.app = handler if isinstance(handler, App) else _raw_app(handler)
        self._rep = rep
        self._name = name or self.app.name
        self._closed = False
        count = processors() if workers is None else check_count(workers, "workers", least=1)
        checked = HandlerOptions.check({"timeout": timeout, "retries": retries}, f"{self._name}")
        self._options: dict[str, Any] = {
            "TIMEOUT": _time_limit(checked.timeout),
            "RETRIES": checked.retries,
            "BACKLOG": check_count(backlog, "backlog"),
            "LIMITS": _limits(self.app, checked),
        }
        origin = origin_of(self.app)
        self._check(rep)
        self._group = WorkerGroup(rep, self._name, origin, count)
        rep._request("dispatch", errors=_ERRORS, options=self._options)
        self._group.start()
        self._supervisor = rep._link.supervisor
        if self._supervisor is not None:
            self._supervisor.on_restart(self._restarted)

    def _check(self, rep: Any) -> None:
        if not isinstance(rep, Rep) or rep.get_option("RAW"):
            raise BadValueError(f"a ContextPool answers the requests of a Rep that is not raw, not of {rep!r}")

    def _restarted(self) -> None:
        """The supervisor died and took everybody along; the socket is there again, with a new one."""
        if not self._closed:
            self._rep._link.tell("dispatch", errors=_ERRORS, options=self._options)
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
        if self._closed:
            raise ClosedError(f"{self!r} is closed")
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
        """
        if self._closed:
            return
        deadline = deadline_of(drain)
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

    def __repr__(self) -> str:
        if self._closed:
            return f"<ContextPool {self._name}: closed>"
        workers = self._group.workers
        busy = sum(worker.state == "busy" for worker in workers)
        return f"<ContextPool {self._name}: {len(workers)} workers, {busy} busy, {self.answered} answered>"


def _time_limit(timeout: float | None) -> float:
    """A time limit as the dispatcher has it: 0 is none."""
    return 0.0 if timeout is None or timeout == math.inf else timeout


def _limits(app: App, default: HandlerOptions) -> dict[str, list[Any]]:
    """Time limit and retries of the handlers that have their own, by name; the raw handler's name is empty."""
    handlers = {**app.handlers, **({"": app.raw_handler} if app.raw_handler is not None else {})}
    limits = {}
    for name, handler in handlers.items():
        own = handler.options
        if own.timeout is not None or own.retries is not None:
            timeout = default.timeout if own.timeout is None else own.timeout
            limits[name] = [_time_limit(timeout), default.retries if own.retries is None else own.retries]
    return limits


def _raw_app(function: Any) -> App:
    if not callable(function):
        raise BadValueError(f"a ContextPool's handler is a function or an App, not {function!r:.80}")
    app = App(getattr(function, "__name__", type(function).__name__))
    app.raw(function)
    return app


def processors() -> int:
    """How many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
