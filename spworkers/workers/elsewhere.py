"""What runs where an executor's tasks run: a request's bytes in, its answer's bytes out.

An App is loaded, and its `on_start` functions run, once in each process that gets a request. Where tasks run in the
process that serves (threads), it is the very App.
"""

from __future__ import annotations

import os
import threading
import traceback
from typing import Any, NamedTuple

from spworkers.errors import UnsupportedOptionError
from spworkers.workers import callformat, origin
from spworkers.workers.answer import Answer
from spworkers.workers.app import App
from spworkers.workers.callformat import Failure
from spworkers.workers.hooks import Hooks
from spworkers.workers.middleware.base import Middleware
from spworkers.workers.middleware.retry import Retry
from spworkers.workers.requestinfo import RequestInfo
from spworkers.workers.runner import Runner

__all__ = ["Errand", "Ran", "adopt", "answer", "dismiss", "try_start"]


class Errand(NamedTuple):
    """What every request of one server has in common.

    Attributes:
        key: the server's, of all that run anywhere.
        origin: where the app comes from, as `origin_of` says.
        part: the name of a respondent, consumer or subscriber; empty: the handlers.
        retries: after exceptions, where the handler does not say.
    """

    key: str
    origin: dict[str, Any]
    part: str
    retries: int


class Ran(NamedTuple):
    """What became of a request.

    Attributes:
        body: of the answer.
        ok: it is no error.
        silent: there is no answer.
        handler: which handler ran; empty: none, the request was no good.
        seconds: how long.
        error: the name of the exception that it raised; empty: none.
    """

    body: bytes
    ok: bool
    silent: bool = False
    handler: str = ""
    seconds: float = 0.0
    error: str = ""


_apps: dict[str, App] = {}
"""Apps that are served by this process."""
_runners: dict[str, Runner] = {}
_starting = threading.Lock()


def _forget_all() -> None:
    """In a forked child: what was started belongs to the parent, with its threads and connections."""
    global _starting
    _apps.clear()
    _runners.clear()
    _starting = threading.Lock()


os.register_at_fork(after_in_child=_forget_all)


def adopt(key: str, app: App) -> None:
    """Have this app run the server's requests in this process, should any come here."""
    _apps[key] = app


def dismiss(key: str) -> None:
    """The server has ended: run the `on_stop` functions, if its app was started in this process."""
    _apps.pop(key, None)
    runner = _runners.pop(key, None)
    if runner is not None:
        runner.hooks.stopping(_Place(runner.app.name))
        runner.stop()


def try_start(errand: Errand) -> tuple[str, str, str] | None:
    """Start the app here; why it cannot be: the exception's type, its text and the traceback."""
    try:
        _runner_of(errand)
    except (Exception, SystemExit) as error:
        text = "".join(traceback.format_exception(error))
        return type(error).__name__, str(error), text
    return None


def answer(errand: Errand, serial: int, body: bytes) -> Ran:
    """Answer a request."""
    try:
        runner = _runner_of(errand)
    except (Exception, SystemExit) as error:
        return _not_started(errand, body, error)
    job = runner.understand(body, 0, serial)
    if isinstance(job, Answer):
        return Ran(job.body, job.ok)
    found = runner.run(job)
    if found.more:
        runner.close_streams(serial)
        message = "it returned a generator, and an executor cannot stream"
        failure = Failure("exception", message, UnsupportedOptionError.__name__)
        found = Answer(callformat.encode_failure(callformat.call_id_of(body), failure), False)
    handler, seconds, error_name = _Noting.taken(job)
    return Ran(found.body, found.ok, found.silent, handler, seconds, error_name)


def _not_started(errand: Errand, body: bytes, error: BaseException) -> Ran:
    if errand.part or not callformat.is_call(body):
        raise error
    text = "".join(traceback.format_exception(error))
    failure = Failure("exception", f"the app could not start: {error}", type(error).__name__, text)
    return Ran(callformat.encode_failure(callformat.call_id_of(body), failure), False)


def _runner_of(errand: Errand) -> Runner:
    runner = _runners.get(errand.key)
    if runner is None:
        with _starting:  # threads: the others wait, nobody starts it twice
            runner = _runners.get(errand.key)
            if runner is None:
                app = _apps.get(errand.key) or origin.load(errand.origin)
                runner = Runner(app, Hooks([Retry(errand.retries), _Noting(), *app.middleware]), errand.part)
                runner.start()
                runner.hooks.started(_Place(app.name))
                _runners[errand.key] = runner
    return runner


class _Place:
    """The `WorkerControl` of hooks: a place among an executor's workers, which are not ours to replace."""

    def __init__(self, name: str) -> None:
        self.name = name

    def retire(self, reason: str) -> None:
        raise UnsupportedOptionError(f"{self.name}: the workers of an executor are not replaced ({reason})")


_NOTE = "spworkers"


class _Noting(Middleware):
    """Keeps what the serving process wants to know of a request."""

    def after(self, request: RequestInfo, error: BaseException | None, seconds: float) -> None:
        request.notes[_NOTE] = (seconds, "" if error is None else type(error).__name__)

    @staticmethod
    def taken(job: Any) -> tuple[str, float, str]:
        """Handler, seconds and exception of a job that was run."""
        request = getattr(job, "request", None)
        if request is None:
            return "", 0.0, ""
        seconds, error = request.notes.pop(_NOTE, (0.0, ""))
        return request.handler, seconds, error
