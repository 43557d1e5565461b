"""Requests whose handlers run on somebody's executor: the sockets, the backlog and the deadlines stay here.

    I/O process ──▶ this process ── submit ──▶ the executor's worker
                ◀──               ◀── result ──

In the place of worker processes there is one context in this process, whose requests go to the executor: a few more
than it has workers, so that none of those waits for us. What an executor cannot do for a server is refused.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import select
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final, NoReturn

from spworkers._locks import Gates
from spworkers.channel import Channel
from spworkers.errors import (
    QuarantinedError,
    RemoteError,
    SPError,
    TaskTimeoutError,
    UnsupportedOptionError,
    WorkerDiedError,
)
from spworkers.socket import Socket
from spworkers.workers import callformat, elsewhere
from spworkers.workers.app import App
from spworkers.workers.elsewhere import Errand, Ran
from spworkers.workers.engines.remote import RemoteExecutor
from spworkers.workers.group import WorkerInfo
from spworkers.workers.measures import Measure, Measures
from spworkers.workers.middleware.logs import AccessLog
from spworkers.workers.origin import origin_of
from spworkers.workers.pool.executor import PoolView
from spworkers.workers.settings import Settings
from spworkers.workers.workerport import Request, RingPort

__all__ = ["ExecutorGroup", "crew_text", "refuse_unsupported", "slots_of"]

UNKNOWN_WORKERS: Final = 16
"""How many workers an executor is taken to have that does not say."""

_SETTINGS: Final = (
    "max_tasks",
    "max_tasks_jitter",
    "max_async_tasks",
    "memory_limit",
    "affinity",
    "threads_per_worker",
    "quarantine",
)
"""What is done to worker processes of ours, and to nobody else's."""

_UNHEARD: Final = 5.0  # seconds after which an executor that has not begun is spoken of
_ATTEND: Final = 0.02  # seconds of one request after another between two looks at what else the I/O process says

_numbers: Final = itertools.count(1)
_log: Final = logging.getLogger("spworkers.workers")


def refuse_unsupported(
    app: App, executor: Any, given: Mapping[str, Any], part: str = "", workers: int | None = None
) -> None:
    """Raise what this executor cannot do for this app.

    Args:
        given: the settings as the user wrote them.
        workers: likewise.

    Raises:
        BadValueError: it is no executor.
        UnsupportedOptionError: a setting, or a kind of handler, asks for more than it can do.
    """
    kind = type(executor).__name__
    pool = isinstance(executor, PoolView)
    own = _workers_of(executor)
    if workers is not None and own is not None and workers != own:
        raise UnsupportedOptionError(
            f"workers={workers}: this {kind} has {own} of its own, whose number is said where they are made: leave"
            " workers= out"
        )
    for name in _SETTINGS:
        if given.get(name) not in (None, False):
            where = ", or give it to the Pool itself" if pool else ", or leave executor= out"
            raise UnsupportedOptionError(
                f"{name}={given[name]!r}: the workers of a {kind} are not ours: leave it out{where}"
            )
    handlers = [app.parts[part].handler] if part else [*app.handlers.values(), *filter(None, [app.raw_handler])]
    for handler in handlers:
        if handler.streams:
            raise UnsupportedOptionError(
                f"handler {handler.name} is a generator: a {kind} may run each part of its stream in another process"
            )
        who = f"{handler.kind_text if part else 'handler'} {handler.name}"
        _check_timeout(handler.options.timeout, who, executor)
        _check_retries(handler.options.retries, who, executor)
    _check_timeout(given.get("timeout"), app.name, executor)
    _check_retries(given.get("retries"), app.name, executor)
    if app.stoppers and not isinstance(executor, ThreadPoolExecutor):
        raise UnsupportedOptionError(
            f"{app.name} has @on_stop functions, and a {kind} does not say when its workers end"
        )


def _check_retries(retries: Any, who: str, executor: Any) -> None:
    if retries == 0 and isinstance(executor, RemoteExecutor) and executor.repeats:
        raise UnsupportedOptionError(
            f"{who}: retries=0: a {type(executor).__name__}'s engine gives what a worker died of to others, whatever"
            " we say; leave it out if the handler may run more than once, or use an sp.Pool"
        )


def _check_timeout(timeout: Any, who: str, executor: Any) -> None:
    if timeout not in (None, 0.0, float("inf")) and not isinstance(executor, PoolView):
        raise UnsupportedOptionError(
            f"{who}: timeout={timeout!r}: a {type(executor).__name__} cannot stop a task that runs; leave it out, or"
            " use an sp.Pool (the callers' own timeouts hold all the same)"
        )


def slots_of(executor: Any, workers: int | None) -> int:
    """How many requests it has at once: twice as many as it runs, so that it always has one more to run."""
    return 2 * int(_workers_of(executor) or workers or UNKNOWN_WORKERS)


def crew_text(count: int, executor: Any) -> str:
    """Who runs requests, for a repr: so many workers of ours, or the executor's, as far as it says how many."""
    own = count if executor is None else _workers_of(executor)
    crew = "workers" if own is None else f"{own} worker{'' if own == 1 else 's'}"
    return crew if executor is None else f"{crew} of a {type(executor).__name__}"


def _workers_of(executor: Any) -> int | None:
    """How many workers it has at most, if it says that."""
    if isinstance(executor, PoolView):
        return executor._engine.dispatcher.limit
    return getattr(executor, "_max_workers", None)


class _Task:
    """A request that the executor has."""

    __slots__ = ("attempt", "began", "future", "port", "request")

    def __init__(self, request: Request, port: RingPort) -> None:
        self.request = request
        self.port = port
        self.attempt = 0
        self.began = time.monotonic()
        self.future: Future[Ran] | None = None


class ExecutorGroup:
    """In the place of a `WorkerGroup`: the workers of an executor, which belongs to its user.

    Args:
        rep: the socket, whose requests are dealt to workers already.
        name: what they are called together.
        app: whose handlers run.
        executor: where.
        settings: how.
        terms: of a request's handler, by its name: its time (0: none), and how often it goes to the executor again
            when that did not run it to its end.
        handlers: names of the handlers that are measured one by one; none: they are not.
        part: which part of the app they run, as `WorkerSpec` has it.
    """

    def __init__(
        self,
        rep: Socket,
        name: str,
        app: App,
        executor: Executor,
        settings: Settings,
        terms: Callable[[str], tuple[float, int]],
        handlers: Sequence[str] = (),
        part: str = "",
    ) -> None:
        self._rep = rep
        self._name = name
        self._app = app
        self._executor = executor
        self._terms = terms
        self._part = part
        key = f"{os.getpid()}-{next(_numbers)}-{os.urandom(8).hex()}"
        # Threads have the very app, and so may what cannot be sent to anybody.
        origin = {} if isinstance(executor, ThreadPoolExecutor) else origin_of(app)
        self._errand = Errand(key, origin, part, settings.retries)
        self._access = AccessLog() if settings.access_log else None
        self._handlers = list(handlers)
        self._measures_fd = Measures.memory(1, len(self._handlers))
        self._measures = Measures(self._measures_fd, self._handlers) if self._handlers else None
        self._views: dict[tuple[float, int], Executor] = {}
        self._port: RingPort | None = None
        self._thread: threading.Thread | None = None
        self._wake, self._waker = os.pipe()
        self._tasks: dict[int, _Task] = {}  # by serial
        self._again: deque[_Task] = deque()  # to be submitted once more, by our thread
        self._lock = threading.RLock()  # guards what follows, and the tasks
        self._settled = Gates()  # for who waits until there are fewer tasks, or answers on their way
        self._answering = 0
        self._answered = 0
        self._failed = 0
        self._since = time.monotonic()
        self._closed = False
        self._broken = False  # and that was logged

    # --- started

    def start(self) -> None:
        """Try whether the executor can run the app, then begin to take requests.

        Raises:
            RemoteError: the app cannot be loaded there, or its `on_start` raised; with the traceback.
        """
        elsewhere.adopt(self._errand.key, self._app)
        try:
            self._try()
            channel = self._channel(self._rep._link.request)
            self._begin_with(channel, RingPort(channel))
        except BaseException:
            self.close(0.0)
            raise

    def _try(self) -> None:
        try:
            future = self._executor.submit(elsewhere.try_start, self._errand)
            there = threading.Event()
            future.add_done_callback(lambda _: there.set())
            if not there.wait(_UNHEARD):
                _log.warning(
                    "%s: %.80r has not loaded it for %g s: has it a free worker?", self._name, self._executor, _UNHEARD
                )
            found = future.result()
        except Exception as error:
            text = "".join(traceback.format_exception(error))
            what = f"{self._executor!r:.80} cannot run {self._name}: {error}"
            raise RemoteError(type(error).__name__, what, text) from error
        if found is not None:
            kind, message, text = found
            raise RemoteError(kind, f"{self._name} could not start: {message}", text)

    def spawn(self) -> None:
        """There is a new supervisor, and with it a new I/O process: take its requests. On the control thread."""
        self._begin_with(self._channel(self._rep._link.tell))

    def _channel(self, say: Callable[..., Any]) -> Channel:
        """A channel to the I/O process, which is told of it."""
        ours, theirs = Channel.pair()
        try:
            say("client", [theirs.fileno()], key=f"executor-{next(_numbers)}")
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    def _begin_with(self, channel: Channel, port: RingPort | None = None) -> None:
        name = f"spworkers-{self._name}"
        self._thread = threading.Thread(target=self._run, args=(channel, port, self._thread), name=name, daemon=True)
        self._thread.start()

    # --- requests

    def _run(self, channel: Channel, port: RingPort | None, former: threading.Thread | None) -> None:
        """What the thread does.

        Args:
            channel: to the I/O process.
            port: made of it already; None: not yet.
            former: the thread that served that one's predecessor, which ends by itself.
        """
        if former is not None:
            former.join()
            self._leave()
        try:
            port = port or RingPort(channel)
        except SPError as error:
            if not self._closed:
                _log.error("%s takes no more requests: %s", self._name, error)
            return
        self._port = port
        self._take(port)

    def _take(self, port: RingPort) -> None:
        """Requests to the executor, until the end or until the I/O process is gone for good."""
        poll = select.poll()
        control = port.control()
        for fd in (port.fileno(), control, self._wake):
            poll.register(fd, select.POLLIN)
        looked = time.monotonic()
        while not self._closed:
            while self._again:
                again = self._again.popleft()
                if self._is_wanted(again):
                    self._submit(again)
            request = port.take()
            if request is not None:
                self._begin(_Task(request, port))
                if time.monotonic() - looked < _ATTEND:
                    continue
            elif port.arm():
                continue
            found = poll.poll(0 if request is not None else None)
            looked = time.monotonic()
            ready = {fd for fd, _ in found}
            if self._wake in ready:
                os.read(self._wake, 4096)
            if control in ready and not port.attend(self._canceled):
                return

    def _begin(self, task: _Task) -> None:
        with self._lock:
            self._note_stage()
            self._tasks[task.request.serial] = task
        self._submit(task)

    def _submit(self, task: _Task) -> None:
        task.attempt += 1
        try:
            executor = self._view(self._terms(callformat.handler_of(task.request.body)))
            future: Future[Ran] = executor.submit(
                elsewhere.answer, self._errand, task.request.serial, task.request.body
            )
        except Exception as error:  # it was shut down, or is broken
            self._gave_up(task, error)
            return
        task.future = future
        future.add_done_callback(partial(self._done, task))

    def _view(self, terms: tuple[float, int]) -> Executor:
        """The executor, told of a handler's limits if it can be."""
        if not isinstance(self._executor, PoolView):
            return self._executor
        view = self._views.get(terms)
        if view is None:
            timeout, retries = terms
            limits = {"timeout": timeout} if timeout else {}
            view = self._views[terms] = self._executor.options(retries=retries, **limits)
        return view

    def _done(self, task: _Task, future: Future[Ran]) -> None:
        """In whatever thread the executor calls back."""
        if not self._is_wanted(task):  # it was we who have cancelled it, perhaps
            return
        if future.cancelled():
            self._gave_up(task, RuntimeError("the executor was shut down"))
            return
        error = future.exception()
        if error is None:
            self._answer(task, future.result())
        elif isinstance(self._executor, PoolView) or task.attempt > self._retries_of(task) or self._closed:
            self._gave_up(task, error)
        else:
            self._submit_again(task)

    def _submit_again(self, task: _Task) -> None:
        """Not in this thread: an executor may hold a lock while it calls back, and want it for `submit`."""
        with self._lock:
            if not self._closed and self._is_wanted(task):
                self._again.append(task)
                os.write(self._waker, b"\0")

    def _retries_of(self, task: _Task) -> int:
        return self._terms(callformat.handler_of(task.request.body))[1]

    def _answer(self, task: _Task, ran: Ran) -> None:
        if not self._may_answer(task, ran.ok):
            return
        try:
            if ran.silent:
                task.port.done(task.request)
            else:
                task.port.reply(task.request, ran.body)
        finally:
            self._was_answered()
        if ran.handler:
            self._count(task, ran)

    def _count(self, task: _Task, ran: Ran) -> None:
        if self._access is not None:
            number = callformat.call_id_of(task.request.body)
            context = {"worker": self._name, "handler": ran.handler, "request": f"{number:016x}"}
            self._access.write(ran.handler, ran.seconds, ran.error, context)
        if self._measures is not None:
            with self._lock:
                self._measures.add(0, ran.handler, ran.seconds, bool(ran.error))

    def _gave_up(self, task: _Task, error: BaseException) -> None:
        """The executor did not run it to its end."""
        body = task.request.body
        handler = callformat.handler_of(body)
        kind, detail = _reason(error, self._executor, task.attempt, handler)
        if _is_broken(error):
            with self._lock:
                first, self._broken = not self._broken, True
            if first:
                _log.error("%s: every request from now on fails: %s", self._name, detail["message"])
        reply = None if self._part else callformat.CALL_ERRORS.error_reply(body, 0, kind, detail)
        _log.warning("%s: %s was not answered: %s", self._name, handler or "a request", detail["message"])
        self._answer(task, Ran(reply or b"", False, silent=reply is None))

    # --- what is given up

    def _canceled(self, serial: int) -> None:
        """Nobody waits for it. Running bodies of most executors go on; the I/O process need not know that."""
        if serial == 0:  # a new I/O process: what it does not know any more is answered in vain
            return
        with self._lock:
            task = self._tasks.pop(serial, None)
            self._note_stage()
            self._settled.open()
        if task is not None:
            if task.future is not None:
                task.future.cancel()
            task.port.give_back(task.request)

    def _is_wanted(self, task: _Task) -> bool:
        """Whether it is neither answered nor given up."""
        return self._tasks.get(task.request.serial) is task

    def _may_answer(self, task: _Task, ok: bool) -> bool:
        """Whether somebody waits for it still; then `_was_answered` has to be called."""
        with self._lock:
            if self._tasks.pop(task.request.serial, None) is not task or task.port is not self._port:
                self._settled.open()
                return False
            self._answering += 1
            self._answered += 1
            self._failed += not ok
            return True

    def _was_answered(self) -> None:
        with self._lock:
            self._answering -= 1
            self._note_stage()
            self._settled.open()

    def _note_stage(self) -> None:
        if not self._tasks:
            self._since = time.monotonic()

    # --- counted

    @property
    def workers(self) -> list[WorkerInfo]:
        """One entry: the executor."""
        with self._lock:
            state = "stopped" if self._closed else "busy" if self._tasks else "idle"
            seconds = time.monotonic() - self._since
            kind = type(self._executor).__name__
            return [WorkerInfo(f"{self._name}-{kind}", os.getpid(), state, seconds, self._answered, self._failed)]

    @property
    def busy(self) -> int:
        """Requests that the executor has."""
        return len(self._tasks)

    def measures(self) -> dict[str, Measure]:
        """What was measured of each handler."""
        return self._measures.totals() if self._measures is not None else {}

    def replace(self, grace: float, timeout: float = 0.0) -> NoReturn:
        """Not for us to do.

        Raises:
            UnsupportedOptionError: always.
        """
        raise UnsupportedOptionError(
            f"{self._name}: the workers of a {type(self._executor).__name__} cannot be replaced; serve it anew"
        )

    # --- ended

    def close(self, grace: float) -> None:
        """Wait for what the executor has, and take no more; the executor itself goes on.

        Args:
            grace: seconds after which what it still has is cancelled, and not answered.
        """
        if self._closed:
            return
        deadline = time.monotonic() + grace
        self._settled.wait(self._end_if_idle, deadline - time.monotonic())
        with self._lock:
            self._closed = True
            left = list(self._tasks.values())
            self._tasks.clear()
        os.write(self._waker, b"\0")
        for task in left:
            if task.future is not None:
                task.future.cancel()
        if self._thread is not None:
            self._thread.join()
        self._leave()
        elsewhere.dismiss(self._errand.key)
        for fd in (self._wake, self._waker, self._measures_fd):
            os.close(fd)

    def _end_if_idle(self) -> bool:
        with self._lock:
            if not self._tasks:
                self._closed = True
            return self._closed

    def _leave(self) -> None:
        """Give up the port, and what came by it."""
        with self._lock:
            port, self._port = self._port, None
            self._tasks.clear()
        self._settled.wait(lambda: not self._answering, math.inf)
        if port is not None:
            port.close()


def _is_broken(error: BaseException) -> bool:
    """Whether an executor says that it can run nothing any more."""
    return isinstance(error, BrokenExecutor) and not isinstance(error, SPError)


def _reason(error: BaseException, executor: Executor, attempts: int, handler: str) -> tuple[str, dict[str, Any]]:
    """Why a request was not run to its end, as the call format has it."""
    text = str(error) if isinstance(error, SPError) else f"{type(error).__name__}: {error}"
    if isinstance(error, (QuarantinedError, TaskTimeoutError, WorkerDiedError)) and error.task:
        # To a Pool it is a function of ours.
        text = text.replace(error.task, f"{handler}()" if handler else "the request")
    if isinstance(error, TaskTimeoutError):
        return "timeout", {"message": text, "deaths": attempts, "seconds": error.seconds}
    detail: dict[str, Any] = {"deaths": error.deaths if isinstance(error, QuarantinedError) else attempts}
    if isinstance(error, WorkerDiedError):
        detail.update(pid=error.pid, status=error.status)
    if _is_broken(error):
        text += "; this executor is broken for good: serve the app anew with another, or with an sp.Pool, which goes on"
    return "died", {"message": f"the {type(executor).__name__} did not run it to its end: {text}", **detail}
