"""From a request's bytes to its answer's bytes: what a worker does between `recv` and `send`.

It knows nothing of sockets and processes, so that `App.client()` and the tests run exactly what a worker runs.

    understand(bytes) ─┬─▶ an answer at once: a broken call, an unknown handler, bad arguments
                       └─▶ a job ─┬─ plain:      run()    hooks, handler, hooks; or the next part of a stream
                                  └─ concurrent: arun()   the same in an event loop
"""

from __future__ import annotations

import inspect
import logging
import time
import traceback
from asyncio import CancelledError as AsyncCancelledError
from asyncio.events import _get_running_loop
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, wait
from contextvars import Context, copy_context
from typing import Any, Final, TypeAlias

from spworkers.errors import BadArgumentsError, GarbledError, SerializationError
from spworkers.workers import callformat
from spworkers.workers.answer import Answer
from spworkers.workers.app import App
from spworkers.workers.awaited import Awaited
from spworkers.workers.callformat import Failure
from spworkers.workers.handler import RESERVED, Handler
from spworkers.workers.hooks import Hooks
from spworkers.workers.middleware.retry import Retry
from spworkers.workers.portal import Portal
from spworkers.workers.requestinfo import RequestInfo, current
from spworkers.workers.shapes import closest
from spworkers.workers.state import State
from spworkers.workers.stops import Stopped, is_canceled, is_stop
from spworkers.workers.streams import AsyncStream, Opening, Streams, SyncStream, Unsendable
from spworkers.workers.timelimit import CLOSING

__all__ = ["HANDLERS", "HEALTH", "Job", "Runner"]

HANDLERS: Final = RESERVED + "handlers"
"""The built-in handler that tells what is served."""
HEALTH: Final = RESERVED + "health"
"""The built-in handler that answers when a worker does."""

AnyHandler: TypeAlias = Handler[..., Any]

_log = logging.getLogger("spworkers.workers")


_PLAIN: Final = frozenset({bool, bytes, dict, float, int, list, str, tuple, type(None)})
"""Types of results that need no closer look: nothing to wait for, no generator."""


class Job:
    """A request that is understood: it is run once, by `run` in a thread or by `arun` in an event loop."""

    concurrent = False

    def run(self) -> Answer:
        """The answer; it raises nothing but what stops it from outside."""
        raise NotImplementedError

    async def arun(self) -> Answer:
        """The same in an event loop."""
        return self.run()

    def stopped(self) -> None:
        """It was given up while it ran."""

    def canceled(self, error: BaseException) -> Answer:
        """The answer, if its task was cancelled by nobody but itself."""
        raise error


class _HandlerJob(Job):
    """A call of a handler, its arguments checked; or a request for the raw handler."""

    def __init__(
        self, runner: Runner, handler: AnyHandler, request: RequestInfo, pipe: int = 0, serial: int = 0
    ) -> None:
        self._runner = runner
        self._handler = handler
        self.request = request
        self._pipe = pipe
        self._serial = serial
        self._context: Context | None = None  # a generator's own, for all of its parts
        self._stream: SyncStream | AsyncStream | None = None  # it was begun
        self._unsent: BaseException | None = None  # why the result was not sent
        self.concurrent = handler.concurrent

    def run(self) -> Answer:
        if self._handler.streams:
            self._context = copy_context()
            answer: Answer = self._context.run(self._run)
            return answer
        return self._run()

    def _run(self) -> Answer:
        token = current.set(self.request)
        hooks, request = self._runner.hooks, self.request
        try:
            hooks.before(request)
            while True:
                try:
                    result = self._call()
                    if type(result) not in _PLAIN and inspect.isawaitable(result):
                        result = self._runner.portal.run(result)
                    answer = self._done(result)
                    if self._stream is None:
                        self._ended(self._unsent)
                    return answer
                except Stopped:
                    raise
                except BaseException as error:  # a KeyboardInterrupt is its own too: signals do not raise it here
                    self._stream = None  # it has failed at once, and says nothing of that
                    pause = hooks.retry(request, error, self._handler)
                    if pause is None:
                        raise
                    time.sleep(pause)
                    request.attempt += 1
        except Stopped as stop:
            if self._stream is None:
                self._ended(stop)
            raise
        except BaseException as error:
            self._ended(error)
            return self._failed(error)
        finally:
            if self._context is None:
                current.reset(token)

    async def arun(self) -> Answer:
        import asyncio

        token = current.set(self.request)
        hooks, request = self._runner.hooks, self.request
        try:
            if self._handler.streams:
                self._context = copy_context()
            self._inside(hooks.before, request)
            while True:
                try:
                    result = self._inside(self._call)
                    if inspect.isawaitable(result):
                        result = await Awaited(result)
                    answer = await self._adone(result)
                    if self._stream is None:
                        self._inside(self._ended, self._unsent)
                    return answer
                except BaseException as error:
                    if is_stop(error):
                        raise
                    self._stream = None
                    pause = self._inside(hooks.retry, request, error, self._handler)
                    if pause is None:
                        raise
                await Awaited(asyncio.sleep(pause))
                request.attempt += 1
        except BaseException as error:
            if is_stop(error):  # whose doing that was, is known to who awaits this
                raise
            self._inside(self._ended, error)
            return self._failed(error)
        finally:
            current.reset(token)

    def stopped(self) -> None:
        self._given_up(Stopped())

    def canceled(self, error: BaseException) -> Answer:
        self._given_up(error)
        return self._failed(error)

    def _given_up(self, error: BaseException) -> None:
        if self._stream is None:  # else that tells its end itself, when it is closed
            self._inside(self._ended, error)

    def _inside(self, what: Callable[..., Any], *args: Any) -> Any:
        """Call it where a generator's own code runs, too."""
        return what(*args) if self._context is None else self._context.run(what, *args)

    def _ended(self, error: BaseException | None) -> None:
        """The handler has raised this; or its stream has come to its end, perhaps with what the generator raised."""
        self._runner.hooks.after(self.request, error.__cause__ if isinstance(error, Unsendable) else error)

    def _call(self) -> Any:
        request, handler = self.request, self._handler
        if handler.parameters.takes_state:
            return handler.function(*request.args, **request.kwargs, state=self._runner.state)
        return handler.function(*request.args, **request.kwargs)

    def _done(self, value: Any) -> Answer:
        if self._handler.raw:
            return self._raw(value)
        if type(value) not in _PLAIN and inspect.isgenerator(value):
            stream = SyncStream(self._opening(), value)
            if self._context is None:
                return self._runner.begin(stream, self._pipe)
            self._stream = stream
            return self._runner.begin(stream, self._pipe, entered=True)
        return self._value(value)

    async def _adone(self, value: Any) -> Answer:
        if not self._handler.raw and inspect.isasyncgen(value):
            stream = AsyncStream(self._opening(), value)
            if self._context is not None:
                self._stream = stream
            return await self._runner.abegin(stream, self._pipe)
        answer: Answer = self._inside(self._done, value)
        return answer

    def _opening(self) -> Opening:
        """For the stream of a generator handler, whose end is the call's; or of one that has returned a generator."""
        if self._context is None:
            return Opening(self.request.id, self._serial, copy_context(), self._failed, _nothing)
        return Opening(self.request.id, self._serial, self._context, self._failed, self._ended)

    def _value(self, value: Any) -> Answer:
        try:
            return Answer(callformat.encode_value(self.request.id, value), True)
        except SerializationError as error:
            self._unsent = error
            return self._unsendable("returned", error)

    def _unsendable(self, how: str, error: Exception) -> Answer:
        message = f"{self._handler.name}() {how} what cannot be sent: {error}"
        return _failure(self.request.id, Failure("exception", message, SerializationError.__name__))

    def _raw(self, value: Any) -> Answer:
        if self._handler.kind in ("consumer", "subscriber") or (value is None and self._handler.kind == "respondent"):
            return Answer(b"", True, silent=True)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return Answer(bytes(value), True)
        kind = self._handler.kind_text
        _log.error("%s: %s %s returned %r, not bytes", self._runner.app.name, kind, self._handler.name, value)
        return Answer(b"", False, silent=self._handler.kind != "raw")

    def _failed(self, error: BaseException) -> Answer:
        if self._runner.local and isinstance(error, KeyboardInterrupt):
            raise error
        name = self._handler.name
        if self._handler.raw:
            _log.error("%s: %s %s failed", self._runner.app.name, self._handler.kind_text, name, exc_info=error)
            return Answer(b"", False, silent=self._handler.kind != "raw")
        if isinstance(error, Unsendable):
            return self._unsendable("yielded", error)
        text = _text_of(error)
        _log.info("%s: handler %s raised %s: %s", self._runner.app.name, name, type(error).__name__, text)
        trace = _traceback_of(error, self._handler)
        return _failure(self.request.id, Failure("exception", text, _name_of(error), trace))


class _PartJob(Job):
    """The next part of a stream."""

    def __init__(self, runner: Runner, stream: SyncStream | AsyncStream, pipe: int) -> None:
        self._runner = runner
        self._stream = stream
        self._pipe = pipe
        self.concurrent = isinstance(stream, AsyncStream)

    def run(self) -> Answer:
        if isinstance(self._stream, AsyncStream):
            answer: Answer = self._runner.portal.run(self.arun())
            return answer
        return self._runner.keep(self._stream, self._pipe, self._stream.context.run(self._stream.take))

    async def arun(self) -> Answer:
        if isinstance(self._stream, SyncStream):
            return self.run()
        return self._runner.keep(self._stream, self._pipe, await Awaited(self._stream.take()))


class Runner:
    """Answers requests with the handlers of one app.

    Args:
        app: whose handlers.
        hooks: what goes on around them; None: what the app says.
        part: the name of a respondent, consumer or subscriber, which then gets every request; empty: the others do.

    Attributes:
        state: what `on_start` got, and handlers with a parameter `state` get.
        portal: the event loop of what is async.
        streams: those that are open.
    """

    def __init__(self, app: App, hooks: Hooks | None = None, part: str = "") -> None:
        self.app = app
        self.raw_handler: AnyHandler | None = app.parts[part].handler if part else app.raw_handler
        self._only_raw = bool(part)
        self.local = False
        """Handlers run in a thread of their caller's, where Ctrl-C is his."""
        self.state = State()
        self.hooks = Hooks([Retry(), *app.middleware]) if hooks is None else hooks
        self.portal = Portal()
        self.streams = Streams()
        self._closings: dict[Future[None], Any] = {}  # of async streams, and in which loop
        built_in = {name: Handler(what, name=name) for name, what in self._built_in().items()}
        self._handlers: dict[str, AnyHandler] = {**app.handlers, **built_in}

    @property
    def concurrent(self) -> bool:
        """Some of what it may be asked for is async."""
        handlers = [] if self._only_raw else list(self.app.handlers.values())
        return any(handler.concurrent for handler in [*handlers, *([self.raw_handler] if self.raw_handler else [])])

    @property
    def only_concurrent(self) -> bool:
        """All of what it may be asked for is async."""
        return self._only_raw and self.concurrent

    def _built_in(self) -> dict[str, Any]:
        return {HANDLERS: self._describe_all, HEALTH: self._health}

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
        """Close the streams and run the `on_stop` functions, all of them: what one raises is logged."""
        for stream in self.streams.pop(0):
            self.close(stream)
        here = _get_running_loop()  # in which nothing can be waited for
        closings = list(self._closings.items())
        wait([each for each, loop in closings if loop is None or (loop is not here and loop.is_running())], CLOSING)
        for hook in self.app.stoppers:
            try:
                self._wait_for(hook(self.state))
            except BaseException:
                _log.exception("%s: on_stop function %s failed", self.app.name, getattr(hook, "__name__", hook))
        self.portal.close()

    # --- requests

    def answer(self, body: bytes, pipe: int = 0, serial: int = 0) -> Answer:
        """The answer to a request, in this thread; what is async runs in the portal."""
        job = self.understand(body, pipe, serial)
        return job if isinstance(job, Answer) else self.run(job)

    def run(self, job: Job) -> Answer:
        """Run a job in this thread, and in the portal what is async."""
        if not job.concurrent:
            return job.run()
        try:
            answer: Answer = self.portal.run(job.arun())
        except CancelledError as error:
            answer = job.canceled(error)
        return answer

    async def aanswer(self, body: bytes, pipe: int = 0, serial: int = 0) -> Answer:
        """As `answer`, in the caller's own event loop: async handlers are awaited there."""
        job = self.understand(body, pipe, serial)
        if isinstance(job, Answer):
            return job
        try:
            return await job.arun()
        except AsyncCancelledError as error:
            if is_canceled():
                job.stopped()
                raise
            return job.canceled(error)

    def understand(self, body: bytes, pipe: int = 0, serial: int = 0) -> Job | Answer:
        """What to do for a request, or the answer where there is nothing to do.

        Args:
            pipe: by which it came; a stream is continued by the same one only.
            serial: the dispatcher's number for it.
        """
        handler = self.raw_handler
        if self._only_raw or not callformat.is_call(body):
            if callformat.is_next(body) and not self._only_raw:
                return self._part_job(callformat.decode_next(body), pipe)
            if handler is not None:
                return _HandlerJob(self, handler, RequestInfo(handler.name, 0, [body], {}))
        try:
            return self._call_job(body, pipe, serial)
        except (GarbledError, BadArgumentsError) as error:
            return _failure(callformat.call_id_of(body), Failure("arguments", str(error)))
        except BaseException as error:  # of a type of the user's, whose making is the user's code too
            text = f"the arguments could not be checked: {_name_of(error)}: {_text_of(error)}"
            return _failure(callformat.call_id_of(body), Failure("arguments", text))

    def _call_job(self, body: bytes, pipe: int, serial: int) -> Job | Answer:
        call_id, name, given, keywords, _ = callformat.fields_of_call(body)
        handler = self._handlers.get(name)
        if handler is None:
            return self._unknown(call_id, name)
        if keywords or [type(each) for each in given] != handler.parameters.kinds:
            given, keywords = handler.parameters.bind(given, keywords)
        return _HandlerJob(self, handler, RequestInfo(name, call_id, given, keywords), pipe, serial)

    def _unknown(self, call_id: int, name: str) -> Answer:
        nearest = closest(name, self.app.handlers)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        message = f"{self.app.name} has no handler {name!r}{hint}"
        return _failure(call_id, Failure("unknown", message, detail={"nearest": nearest}))

    def _wait_for(self, result: Any) -> Any:
        return self.portal.run(result) if inspect.isawaitable(result) else result

    # --- streams

    def begin(self, stream: SyncStream, pipe: int, *, entered: bool = False) -> Answer:
        """Open a stream; its first part. Raises what the generator raises before its first item.

        Args:
            entered: this runs in the stream's context already.
        """
        self._put(stream, pipe)
        try:
            answer: Answer = stream.take() if entered else stream.context.run(stream.take)
        except Stopped:
            raise
        except BaseException:
            self.streams.remove(pipe, stream)
            raise
        return self.keep(stream, pipe, answer)

    async def abegin(self, stream: AsyncStream, pipe: int) -> Answer:
        """The same for an async generator. Cancelled before its first part, or without one, the stream is closed."""
        self._put(stream, pipe)
        try:
            return self.keep(stream, pipe, await Awaited(stream.take()))
        except BaseException as error:
            canceled = error
        # Not in there: compiled, what is raised again after an `await` in an `except` block may be freed memory.
        self.streams.remove(pipe, stream)
        await Awaited(stream.close())
        raise canceled

    def _put(self, stream: SyncStream | AsyncStream, pipe: int) -> None:
        former = self.streams.put(pipe, stream)
        if former is not None:
            self.close(former)

    def keep(self, stream: SyncStream | AsyncStream, pipe: int, answer: Answer) -> Answer:
        """A part is made: forget the stream if it was the last one."""
        if not answer.more:
            self.streams.remove(pipe, stream)
        return answer

    def _part_job(self, next_: callformat.Next, pipe: int) -> Job | Answer:
        stream = self.streams.get(pipe, next_.id)
        try:
            if stream is None:
                raise LookupError
            return stream.again(next_.number) or _PartJob(self, stream, pipe)
        except LookupError:
            return _failure(next_.id, Failure("lost", "this worker has no such stream, or not at that place"))

    def close_streams(self, serial: int) -> None:
        """Close the stream that the request of this serial began; 0: all."""
        for stream in self.streams.pop(serial):
            self.close(stream)

    def close(self, stream: SyncStream | AsyncStream, seconds: float = 0.0) -> None:
        """Close a stream that is not open any more, within so many seconds: here, or where its event loop is."""
        import asyncio

        if isinstance(stream, SyncStream):
            stream.close(seconds)
            return
        loop = stream.loop
        if loop is not None and not loop.is_running():  # a user's own, who has called by `acall`
            if loop.is_closed() or _get_running_loop() is not None:
                stream.forsake()
            else:
                loop.run_until_complete(stream.close(seconds))
            return
        closing = asyncio.run_coroutine_threadsafe(stream.close(seconds), loop or self.portal.loop)
        self._closings[closing] = loop
        closing.add_done_callback(self._closed)

    def _closed(self, closing: Future[None]) -> None:
        self._closings.pop(closing, None)

    # --- built-in handlers

    def _describe_all(self) -> list[dict[str, Any]]:
        """The handlers that are served: name, signature and documentation of each."""
        return [
            {"name": handler.name, "signature": handler.parameters.text, "doc": handler.doc}
            for handler in self.app.handlers.values()
        ]

    def _health(self) -> dict[str, Any]:
        """That a worker answers, and which."""
        import os

        return {"status": "ok", "app": self.app.name, "pid": os.getpid()}


def _nothing(error: BaseException | None) -> None:
    """Nobody hears of the end."""


def _failure(call_id: int, failure: Failure) -> Answer:
    return Answer(callformat.encode_failure(call_id, failure), False)


def _name_of(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Stopped:
        raise
    except BaseException as broken:  # its __str__ is the user's code too
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
    except Stopped:
        raise
    except BaseException as broken:
        return f"(its traceback cannot be had: {type(broken).__name__})"
