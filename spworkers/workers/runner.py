"""From a request's bytes to its answer's bytes: what a worker does between `recv` and `send`.

It knows nothing of sockets and processes, so that `App.client()` and the tests run exactly what a worker runs.
"""

from __future__ import annotations

import inspect
import logging
import traceback
import types
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from spworkers.errors import BadArgumentsError, GarbledError, SerializationError
from spworkers.workers import callformat
from spworkers.workers.app import App
from spworkers.workers.callformat import Failure
from spworkers.workers.handler import RESERVED, Handler
from spworkers.workers.portal import Portal
from spworkers.workers.shapes import closest

__all__ = ["HANDLERS", "Runner", "State"]

HANDLERS: Final = RESERVED + "handlers"
"""The built-in handler that tells what is served."""

AnyHandler: TypeAlias = Handler[..., Any]

_log = logging.getLogger("spworkers.workers")


class State(types.SimpleNamespace):
    """What `on_start` keeps for the handlers of one worker: an object to put attributes on."""


class Answer(NamedTuple):
    """An answer's bytes, and whether the handler returned (False: the answer is an error)."""

    body: bytes
    ok: bool


class _Job(Protocol):
    """A request that is understood: what to call, and what to make of how it ends."""

    def run(self) -> Any:
        """Call the handler; an async one gives its coroutine."""

    def done(self, value: Any) -> Answer:
        """The answer when it returned."""

    def failed(self, error: Exception) -> Answer:
        """The answer when it raised."""


class _CallJob:
    """A call of a handler, its arguments checked."""

    __slots__ = ("_app", "_args", "_call_id", "_handler", "_kwargs")

    def __init__(self, app: str, call_id: int, handler: AnyHandler, args: list[Any], kwargs: dict[str, Any]) -> None:
        self._app = app
        self._call_id = call_id
        self._handler = handler
        self._args = args
        self._kwargs = kwargs

    def run(self) -> Any:
        return self._handler.function(*self._args, **self._kwargs)

    def done(self, value: Any) -> Answer:
        try:
            return Answer(callformat.encode_value(self._call_id, value), True)
        except SerializationError as error:
            message = f"{self._handler.name}() returned what cannot be sent: {error}"
            return _failure(self._call_id, Failure("exception", message, type(error).__name__))

    def failed(self, error: Exception) -> Answer:
        text = _text_of(error)
        _log.info("%s: handler %s raised %s: %s", self._app, self._handler.name, type(error).__name__, text)
        trace = _traceback_of(error, self._handler)
        return _failure(self._call_id, Failure("exception", text, _name_of(error), trace))


class _RawJob:
    """A request for the raw handler."""

    __slots__ = ("_app", "_body", "_handler", "_state")

    def __init__(self, app: str, handler: AnyHandler, body: bytes, state: dict[str, State]) -> None:
        self._app = app
        self._handler = handler
        self._body = body
        self._state = state

    def run(self) -> Any:
        return self._handler.function(self._body, **self._state)

    def done(self, value: Any) -> Answer:
        if isinstance(value, (bytes, bytearray, memoryview)):
            return Answer(bytes(value), True)
        _log.error("%s: raw handler %s returned %r, not bytes", self._app, self._handler.name, value)
        return Answer(b"", False)

    def failed(self, error: Exception) -> Answer:
        _log.error("%s: raw handler %s failed", self._app, self._handler.name, exc_info=error)
        return Answer(b"", False)


class Runner:
    """Answers requests with the handlers of one app.

    Args:
        app: whose handlers.

    Attributes:
        state: what `on_start` got, and handlers with a parameter `state` get.
    """

    def __init__(self, app: App) -> None:
        self.app = app
        self.state = State()
        self._portal = Portal()
        built_in: AnyHandler = Handler(self._describe_all, name=HANDLERS)
        self._handlers = {**app.handlers, HANDLERS: built_in}

    def start(self) -> None:
        """Get ready for requests: understand the annotations, then run the `on_start` functions.

        Raises:
            BadValueError: an annotation cannot be understood.
            Exception: whatever an `on_start` function raises.
        """
        for handler in self.app.handlers.values():
            handler.parameters.resolve()
        for hook in self.app.starters:
            self._wait_for(hook(self.state))

    def stop(self) -> None:
        """Run the `on_stop` functions, all of them: what one raises is logged."""
        for hook in self.app.stoppers:
            try:
                self._wait_for(hook(self.state))
            except Exception:
                _log.exception("%s: on_stop function %s failed", self.app.name, getattr(hook, "__name__", hook))
        self._portal.close()

    def answer(self, body: bytes) -> Answer:
        """The answer to a request; it raises nothing but what ends the process (SystemExit, KeyboardInterrupt)."""
        job = self._understand(body)
        if isinstance(job, Answer):
            return job
        try:
            result = self._wait_for(job.run())
        except Exception as error:
            return job.failed(error)
        return job.done(result)

    async def aanswer(self, body: bytes) -> Answer:
        """As `answer`, in the caller's own event loop: async handlers are awaited there."""
        job = self._understand(body)
        if isinstance(job, Answer):
            return job
        try:
            result = job.run()
            if inspect.isawaitable(result):
                result = await result
        except Exception as error:
            return job.failed(error)
        return job.done(result)

    def _wait_for(self, result: Any) -> Any:
        return self._portal.run(result) if inspect.isawaitable(result) else result

    def _understand(self, body: bytes) -> _Job | Answer:
        if not callformat.is_call(body) and self.app.raw_handler is not None:
            handler = self.app.raw_handler
            return _RawJob(self.app.name, handler, body, self._state_of(handler))
        try:
            return self._call_job(callformat.decode_call(body))
        except (GarbledError, BadArgumentsError) as error:
            return _failure(callformat.call_id_of(body), Failure("arguments", str(error)))

    def _call_job(self, call: callformat.Call) -> _Job | Answer:
        handler = self._handlers.get(call.name)
        if handler is None:
            return self._unknown(call)
        args, kwargs = handler.parameters.bind(call.args, call.kwargs)
        if handler.parameters.takes_state:
            kwargs = {**kwargs, "state": self.state}
        return _CallJob(self.app.name, call.id, handler, args, kwargs)

    def _unknown(self, call: callformat.Call) -> Answer:
        nearest = closest(call.name, self.app.handlers)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        message = f"{self.app.name} has no handler {call.name!r}{hint}"
        return _failure(call.id, Failure("unknown", message, detail={"nearest": nearest}))

    def _state_of(self, handler: AnyHandler) -> dict[str, State]:
        return {"state": self.state} if handler.parameters.takes_state else {}

    def _describe_all(self) -> list[dict[str, Any]]:
        """The handlers that are served: name, signature and documentation of each."""
        return [
            {"name": handler.name, "signature": handler.parameters.text, "doc": handler.doc}
            for handler in self.app.handlers.values()
        ]


def _failure(call_id: int, failure: Failure) -> Answer:
    return Answer(callformat.encode_failure(call_id, failure), False)


def _name_of(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # its __str__ is the user's code too
        return f"(its text cannot be had: {type(broken).__name__})"


def _traceback_of(error: BaseException, handler: AnyHandler) -> str:
    """The traceback as text, beginning with the handler: how the worker came to call it is nobody's business."""
    frames = error.__traceback__
    code = getattr(inspect.unwrap(handler.function), "__code__", None)
    start = frames
    while start is not None and start.tb_frame.f_code is not code:
        start = start.tb_next
    try:
        return "".join(traceback.format_exception(type(error), error, start or frames))
    except Exception as broken:
        return f"(its traceback cannot be had: {type(broken).__name__})"
