"""Hooks around handlers, and what is built on them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import pytest
from helpers import eventually

from spworkers import errors
from spworkers.workers.app import App
from spworkers.workers.client import Client
from spworkers.workers.contextpool import dispatcher_options
from spworkers.workers.currentrequest import current_request
from spworkers.workers.hooks import Hooks
from spworkers.workers.middleware.base import Middleware, WorkerControl
from spworkers.workers.middleware.logs import AccessLog
from spworkers.workers.middleware.memory import MemoryLimit
from spworkers.workers.middleware.retry import Retry
from spworkers.workers.middleware.tasks import MaxTasks
from spworkers.workers.middleware.tracing import Tracing
from spworkers.workers.requestinfo import RequestInfo
from spworkers.workers.settings import Settings
from spworkers.workers.stops import Stopped
from spworkers.workers.streams import PART_BYTES, PART_TIME

WAIT = 60.0


class Spy(Middleware):
    """Writes down what it is called with."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.seen: list[Any] = []

    def before(self, request: RequestInfo) -> None:
        self.seen.append((self.name + "before", request.handler, request.args))

    def after(self, request: RequestInfo, error: BaseException | None, seconds: float) -> None:
        assert 0.0 <= seconds < 20.0
        self.seen.append((self.name + "after", request.handler, type(error).__name__))


class FakeWorker:
    name = "calc-1"

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def retire(self, reason: str) -> None:
        self.reasons.append(reason)


def handlers(app: App) -> App:
    @app.handler
    def add(a: int, b: int) -> int:
        return a + b

    @app.handler
    async def aadd(a: int, b: int) -> int:
        await asyncio.sleep(0)
        return a + b

    @app.handler
    def fail() -> None:
        raise ValueError("no")

    @app.handler
    def who() -> str:
        request = current_request()
        assert request is not None
        return f"{request.handler} {request.attempt} {request.hex_id}"

    return app


@pytest.mark.parametrize("name", ["add", "aadd"])
def test_before_and_after(name: str) -> None:
    one, two = Spy("1 "), Spy("2 ")
    one.seen = two.seen
    with handlers(App("calc", middleware=[one, two])).client() as calc:
        assert calc.call(name, 1, 2) == 3
        with pytest.raises(errors.RemoteError):
            calc.fail()
    begun = [("1 before", name, [1, 2]), ("2 before", name, [1, 2])]
    assert one.seen[:4] == [*begun, ("2 after", name, "NoneType"), ("1 after", name, "NoneType")]
    assert one.seen[-1] == ("1 after", "fail", "ValueError")


def test_the_request_is_known_to_its_handler() -> None:
    assert current_request() is None
    with handlers(App("calc")).client() as calc:
        name, attempt, id_ = calc.who().split()
        assert (name, attempt, len(id_)) == ("who", "1", 16)
    assert current_request() is None


@pytest.mark.parametrize("name", ["args", "kwargs", "notes"])
def test_what_a_hook_puts_elsewhere_may_look_at_the_request_at_its_end(name: str) -> None:
    class Looks:
        def __del__(self) -> None:
            seen.append(repr(getattr(request, name)))

    def of(value: object) -> object:
        return [value] if name == "args" else {"it": value}

    seen: list[str] = []
    request = RequestInfo("add", 1, [], {})
    setattr(request, name, of(Looks()))
    setattr(request, name, of(5))
    assert seen == [repr(of(5))]


def test_before_may_refuse() -> None:
    class Guard(Middleware):
        def before(self, request: RequestInfo) -> None:
            if request.handler == "add":
                raise PermissionError("not you")

    with handlers(App("calc", middleware=[Guard()])).client() as calc:
        with pytest.raises(errors.RemoteError, match="not you"):
            calc.add(1, 2)
        assert calc.aadd(1, 2) == 3


def test_a_hook_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Middleware):
        def after(self, request: RequestInfo, error: BaseException | None, seconds: float) -> None:
            raise RuntimeError("broken hook")

    with handlers(App("calc", middleware=[Broken()])).client() as calc:
        assert calc.add(1, 2) == 3
    assert "Broken.after failed" in caplog.text


# --- generators


def generators(app: App) -> App:
    """Each in two kinds; their items are as long as a part, so that there are several."""

    @app.handler
    def rows(count: int, fails: bool = False) -> Iterator[bytes]:
        for _ in range(count):
            yield bytes(PART_BYTES)
        if fails:
            raise ValueError("late")

    @app.handler
    async def arows(count: int, fails: bool = False) -> AsyncIterator[bytes]:
        for _ in range(count):
            await asyncio.sleep(0)
            yield bytes(PART_BYTES)
        if fails:
            raise ValueError("late")

    @app.handler
    def who() -> Iterator[tuple[str, bytes]]:
        for _ in range(3):
            yield f"{current_request()} {mark.get()}", bytes(PART_BYTES)
            mark.set(mark.get() + 1)

    @app.handler
    async def awho() -> AsyncIterator[tuple[str, bytes]]:
        for _ in range(3):
            yield f"{current_request()} {mark.get()}", bytes(PART_BYTES)

    return app


mark: ContextVar[int] = ContextVar("mark", default=0)


@pytest.mark.parametrize("name", ["rows", "arows"])
def test_after_comes_with_the_end_of_the_stream(name: str) -> None:
    spy = Spy()
    with generators(App("streams", middleware=[spy])).client() as client:
        stream = client.stream(name, 3)
        next(stream)
        assert [each[0] for each in spy.seen] == ["before"]
        assert len(list(stream)) == 2
        assert spy.seen[1:] == [("after", name, "NoneType")]
        with pytest.raises(errors.RemoteError, match="late"):
            list(client.stream(name, 3, True))
        assert spy.seen[3:] == [("after", name, "ValueError")]


@pytest.mark.parametrize("name", ["rows", "arows"])
def test_after_comes_with_a_stream_that_nobody_wants_more_of(name: str) -> None:
    spy = Spy()
    with generators(App("streams", middleware=[spy])).client() as client:
        with client.stream(name, 3) as stream:
            next(stream)
        eventually(lambda: spy.seen[1:] == [("after", name, "NoneType")])
        with client.stream(name, 3):  # it was not begun
            pass
    assert len(spy.seen) == 2


@pytest.mark.parametrize("name", ["who", "awho"])
def test_all_parts_of_a_stream_have_its_context(name: str) -> None:
    with generators(App("streams")).client() as client:
        items = [item[0] for item in client.stream(name)]
        others = [item[0] for item in client.stream(name)]
    assert len(items) == 3
    assert all(f"of {name}, attempt 1" in item for item in items)
    if name == "who":  # what it sets itself stays, and is nobody else's
        assert [item.split()[-1] for item in items + others] == ["0", "1", "2"] * 2
    assert current_request() is None
    assert mark.get() == 0


@pytest.mark.parametrize("name", ["plain", "beside"])
def test_a_generator_that_raises_at_once_is_retried(name: str) -> None:
    spy = Spy()
    app = App("streams", middleware=[spy])
    left = [2]

    @app.handler(retry_on=ConnectionError, retries=2)
    def plain() -> Iterator[int]:
        left[0] -= 1
        if left[0] >= 0:
            raise ConnectionError("not yet")
        yield from range(3)

    @app.handler(retry_on=ConnectionError, retries=2)
    async def beside() -> AsyncIterator[int]:
        for number in plain.function():
            yield number

    with app.client() as client:
        assert list(client.stream(name)) == [0, 1, 2]
        left[0] = 9
        with pytest.raises(errors.RemoteError, match="not yet"):
            list(client.stream(name))
        assert left[0] == 6
        assert len(client._runner.streams) == 0
    assert [each[0] + each[-1] for each in spy.seen if each[0] == "after"] == ["afterNoneType", "afterConnectionError"]


@pytest.mark.parametrize("name", ["plain", "beside"])
@pytest.mark.parametrize("first", [True, False])
def test_a_generator_whose_item_cannot_be_sent_is_closed_and_not_run_again(name: str, first: bool) -> None:
    spy = Spy()
    app = App("streams", middleware=[spy])
    done: list[str] = []

    @app.handler(retry_on=Exception, retries=2)
    def plain() -> Iterator[Any]:
        done.append("begun")
        try:
            if not first:
                yield bytes(PART_BYTES)
            yield object()
        finally:
            done.append("closed")

    @app.handler(retry_on=Exception, retries=2)
    async def beside() -> AsyncIterator[Any]:
        with contextlib.closing(plain.function()) as items:
            for item in items:
                yield item

    with app.client() as client:
        with pytest.raises(errors.RemoteError, match=f"{name}.. yielded what cannot be sent"):
            list(client.stream(name))
        assert done == ["begun", "closed"]
    assert spy.seen[1:] == [("after", name, "SerializationError")]


def test_a_generator_that_is_returned_has_one_context_too_and_leaves_nothing() -> None:
    app = App("streams")

    def numbers() -> Iterator[tuple[int, bytes]]:
        mark.set(7)
        for _ in range(3):
            yield mark.get(), bytes(PART_BYTES)

    app.handler(name="plain")(lambda: numbers())

    @app.handler
    async def beside() -> Iterator[tuple[int, bytes]]:
        return numbers()

    with app.client() as client:
        for name in ("plain", "beside"):
            assert [item[0] for item in client.stream(name)] == [7, 7, 7]

        async def main() -> list[int]:
            return [item[0] async for item in client.stream("plain")]

        assert asyncio.run(main()) == [7, 7, 7]
    assert mark.get() == 0


def test_hooks_hear_of_a_call_that_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """Else a span would be open for good; the access log and the metrics leave that to who has given it up."""
    caplog.set_level(logging.INFO, "spworkers.access")
    spy = Spy()
    app = App("given up", middleware=[spy, AccessLog()])

    begun = asyncio.Event()

    @app.handler
    async def nap() -> None:
        begun.set()
        await asyncio.sleep(60)

    @app.handler
    def stopped() -> None:
        raise Stopped

    async def main() -> None:
        with app.client() as client:
            task = asyncio.ensure_future(client.acall("nap"))
            await begun.wait()
            task.cancel()
            await asyncio.wait([task])

    asyncio.run(main())
    assert spy.seen[1:] == [("after", "nap", "Stopped")]
    with app.client() as client, pytest.raises(Stopped):
        client.stopped()
    assert spy.seen[3:] == [("after", "stopped", "Stopped")]
    assert caplog.records == []


@pytest.mark.parametrize("name", ["plain", "beside"])
def test_hooks_hear_of_a_generator_that_is_given_up_before_it_runs_again(name: str) -> None:
    class Paused(Spy):
        def retry(self, request: RequestInfo, error: BaseException, handler: Any) -> float | None:
            if not handler.concurrent:
                raise Stopped  # as if it came in the pause
            begun.set()
            return 60.0

    spy = Paused()
    app = App("streams", middleware=[spy])
    begun = asyncio.Event()

    @app.handler
    def plain() -> Iterator[int]:
        raise ConnectionError
        yield 1

    @app.handler
    async def beside() -> AsyncIterator[int]:
        raise ConnectionError
        yield 1

    async def main() -> None:
        with app.client() as client:
            task = asyncio.ensure_future(client.acall(name))
            await begun.wait()
            task.cancel()
            await asyncio.wait([task])

    if name == "beside":
        asyncio.run(main())
    else:
        with app.client() as client, pytest.raises(Stopped):
            client.call(name)
    assert spy.seen[1:] == [("after", name, "Stopped")]


def test_a_result_that_cannot_be_sent_is_an_error() -> None:
    spy = Spy()
    app = App("calc", middleware=[spy])
    app.handler(name="thing")(object)
    with app.client() as client, pytest.raises(errors.RemoteError, match="cannot be sent"):
        client.thing()
    assert spy.seen[-1] == ("after", "thing", "SerializationError")


class BrokenAtBothEnds(Middleware):
    def worker_started(self, worker: WorkerControl) -> None:
        raise RuntimeError("broken at its start")

    def worker_stopping(self, worker: WorkerControl) -> None:
        raise RuntimeError("broken at its end")


@pytest.mark.parametrize("beside", [False, True])
def test_a_worker_outlives_its_start_and_end_hooks(beside: bool, caplog: pytest.LogCaptureFixture) -> None:
    app = App("calc", middleware=[BrokenAtBothEnds()])
    app.handler(name="pid")(os.getpid)
    if beside:
        handlers(app)
    with app.serve("tcp://127.0.0.1:0", workers=1, block=False) as server, Client(server.address) as calc:
        first = calc.call("pid", timeout=WAIT)
        assert calc.call("pid", timeout=WAIT) == first
    for hook, words in (("worker_started", "broken at its start"), ("worker_stopping", "broken at its end")):
        assert caplog.text.count(f"hook BrokenAtBothEnds.{hook} failed") == 1
        assert words in caplog.text


def test_so_does_an_executors(caplog: pytest.LogCaptureFixture) -> None:
    app = App("calc", middleware=[BrokenAtBothEnds()])
    app.handler(name="pid")(os.getpid)
    with (
        ThreadPoolExecutor(1) as threads,
        app.serve("tcp://127.0.0.1:0", executor=threads, block=False) as server,
        Client(server.address) as calc,
    ):
        assert calc.call("pid", timeout=WAIT) == os.getpid()
    assert caplog.text.count("hook BrokenAtBothEnds.worker_started failed") == 1


def test_middleware_is_middleware() -> None:
    with pytest.raises(errors.BadValueError, match=r"sp\.Middleware"):
        App("calc", middleware=[Spy])  # type: ignore[list-item]


# --- retry_on


def flaky(app: App, failures: int, error: type[Exception] = ConnectionError, **options: Any) -> Callable[[], int]:
    count = 0

    @app.handler(name="plain", **options)
    def plain() -> int:
        nonlocal count
        count += 1
        if count <= failures:
            raise error("flaky")
        return count

    @app.handler(name="later", **options)
    async def later() -> int:
        return plain.function()

    return lambda: count


@pytest.mark.parametrize("name", ["plain", "later"])
def test_what_may_be_retried_is(name: str) -> None:
    app = App("calc")
    count = flaky(app, 2, retries=2, retry_on=ConnectionError)
    with app.client() as calc:
        assert calc.call(name) == 3
    assert count() == 3


@pytest.mark.parametrize("name", ["plain", "later"])
def test_no_more_often_than_it_may(name: str) -> None:
    app = App("calc")
    count = flaky(app, 9, retries=1, retry_on=(ConnectionError, TimeoutError))
    with app.client() as calc, pytest.raises(errors.RemoteError, match="flaky"):
        calc.call(name)
    assert count() == 2


def test_other_exceptions_are_not() -> None:
    app = App("calc")
    count = flaky(app, 9, error=KeyError, retries=5, retry_on=ConnectionError)
    with app.client() as calc, pytest.raises(errors.RemoteError, match="flaky"):
        calc.plain()
    assert count() == 1


@pytest.mark.parametrize("value", ["ConnectionError", 1, (ConnectionError, None), KeyboardInterrupt])
def test_retry_on_takes_exceptions(value: Any) -> None:
    with pytest.raises(errors.BadValueError, match="retry_on"):
        App("calc").handler(name="f", retry_on=value)(lambda: None)


class Says(Middleware):
    """Its `retry` gives this answer, once for each request."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def retry(self, request: RequestInfo, error: BaseException, handler: Any) -> Any:
        return self.answer if request.attempt == 1 else None


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("name", ["plain", "later"])
@pytest.mark.parametrize("answer", ["x", math.nan, -1, math.inf, pytest.param(10**400, id="huge"), True, b"", []])
def test_a_pause_that_is_none_is_its_hooks_mistake(name: str, answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    app = App("calc", middleware=[Says(answer)])
    count = flaky(app, 9)
    with app.client() as calc, pytest.raises(errors.RemoteError, match="ConnectionError: flaky"):
        calc.call(name)
    assert count() == 1
    assert "hook Says.retry returned" in caplog.text


def test_nor_does_one_that_cannot_be_shown_replace_the_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "spworkers.workers")  # pytest's handler raises where others print
    app = App("calc", middleware=[Says(Unspeakable())])
    flaky(app, 9)
    with app.client() as calc, pytest.raises(errors.RemoteError, match="ConnectionError: flaky"):
        calc.plain()


@pytest.mark.parametrize("answer", [0, 0.001, timedelta(milliseconds=1)])
def test_a_pause_is_a_time(answer: Any) -> None:
    app = App("calc", middleware=[Says(answer)])
    count = flaky(app, 1)
    with app.client() as calc:
        assert calc.plain() == 2
    assert count() == 2


def test_pauses_grow() -> None:
    app = App("calc")
    flaky(app, 0, retries=99, retry_on=ConnectionError)
    request = RequestInfo("plain", 1, [], {})
    pauses = []
    for request.attempt in range(1, 12):
        pauses.append(Retry().retry(request, ConnectionError(), app.handlers["plain"]))
    assert all(pause is not None and pause <= 5.0 for pause in pauses)
    assert 0.025 <= (pauses[0] or 0) <= 0.05
    assert (pauses[-1] or 0) >= 2.5


# --- the others


def test_max_tasks() -> None:
    worker, limit = FakeWorker(), MaxTasks(10, 5)
    limit.worker_started(worker)
    answered = 0
    while not worker.reasons:
        limit.settled(worker)
        answered += 1
    assert 10 <= answered <= 15
    assert MaxTasks(100).jitter == 10


def test_memory_limit() -> None:
    worker = FakeWorker()
    MemoryLimit(1 << 50).settled(worker)
    assert worker.reasons == []
    MemoryLimit(1 << 20).settled(worker)
    assert "limit is 1 MiB" in worker.reasons[0]


def test_the_access_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "spworkers.access")
    with handlers(App("calc", middleware=[AccessLog()])).client() as calc:
        calc.add(1, 2)
        with pytest.raises(errors.RemoteError):
            calc.fail()
    records = [r for r in caplog.records if r.name == "spworkers.access"]
    assert [(r.levelname, r.getMessage().split()[0]) for r in records] == [("INFO", "add"), ("WARNING", "fail")]
    assert records[1].getMessage().endswith("ms ValueError")


@pytest.mark.once
def test_spans_of_opentelemetry(caplog: pytest.LogCaptureFixture) -> None:
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = memory.InMemorySpanExporter()
    provider = trace.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    app = App("calc", middleware=[Tracing(provider)])

    @app.handler
    def add(a: int, b: int) -> int:
        with provider.get_tracer("mine").start_as_current_span("inner"):
            return a + b

    @app.handler
    async def aadd(a: int, b: int) -> int:
        await asyncio.sleep(0)
        with provider.get_tracer("mine").start_as_current_span("ainner"):
            return a + b

    @app.handler(retries=1, retry_on=KeyError)
    def fail() -> None:
        raise KeyError("no")

    @app.handler
    def count() -> Iterator[int]:
        for number in range(3):
            with provider.get_tracer("mine").start_as_current_span(f"part {number}"):
                time.sleep(PART_TIME)
            yield number

    @app.handler
    async def acount() -> AsyncIterator[int]:
        for number in range(3):
            with provider.get_tracer("mine").start_as_current_span(f"apart {number}"):
                await asyncio.sleep(PART_TIME)
            yield number

    with app.client() as calc:
        streams = [calc.count(), calc.acount()]
        assert calc.add(1, 2) + calc.aadd(3, 4) == 10
        with pytest.raises(errors.RemoteError):
            calc.fail()
        assert [list(stream) for stream in streams] == [[0, 1, 2]] * 2
    assert caplog.records == [], "no context was left in the midst of another"
    parts = [span for span in exporter.get_finished_spans() if "part " in span.name]
    wholes = {span.name: span for span in exporter.get_finished_spans() if "count" in span.name}
    assert sorted(wholes) == ["acount", "count"]
    assert len(parts) == 6
    for part in parts:
        whole = wholes["acount" if part.name.startswith("a") else "count"]
        assert part.parent.span_id == whole.context.span_id
        assert part.end_time <= whole.end_time
    more = {*wholes, *(part.name for part in parts)}
    spans = {span.name: span for span in exporter.get_finished_spans() if span.name not in more}
    assert spans.keys() == {"add", "inner", "aadd", "ainner", "fail"}
    for inner, outer in (("inner", "add"), ("ainner", "aadd")):  # what a handler does is part of its request
        assert spans[inner].parent.span_id == spans[outer].context.span_id
        assert spans[inner].context.trace_id == spans[outer].context.trace_id
    assert spans["add"].parent is None
    assert spans["add"].kind.name == "SERVER"
    assert spans["add"].status.status_code.name == "UNSET"
    attributes = dict(spans["add"].attributes)
    assert len(attributes.pop("spworkers.request")) == 16
    assert attributes == {"rpc.system": "spworkers", "rpc.method": "add", "spworkers.attempts": 1}
    assert spans["fail"].attributes["spworkers.attempts"] == 2
    assert (spans["fail"].status.status_code.name, spans["fail"].status.description) == ("ERROR", "KeyError")
    assert spans["fail"].events[0].attributes["exception.type"] == "KeyError"


def test_traces_without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with handlers(App("calc", middleware=[Tracing()])).client() as calc:
        with pytest.raises(errors.RemoteError, match=r"UsageError.*pip install 'spworkers\[otel\]'"):
            calc.add(1, 2)


def test_limits_reach_the_dispatcher() -> None:
    class Wider(Middleware):
        def serving(self, app: App, options: dict[str, Any]) -> None:
            options["BACKLOG"] = 7

    app = handlers(App("calc", middleware=[Wider()]))
    app.handler(name="slow", timeout=9, retries=3)(lambda: None)
    options = dispatcher_options(app, Settings.check({"timeout": 2, "retries": 0, "max_async_tasks": 5}, "calc"))
    assert options == {
        "TIMEOUT": 2.0,
        "RETRIES": 0,
        "BACKLOG": 7,
        "QUARANTINE": 3,
        "PREFETCH": -1,
        "CONCURRENT": 5,
        "LIMITS": {"aadd": [2.0, 0, True], "slow": [9.0, 3, False]},
    }


class Sets(Middleware):
    """Its `serving` sets this option."""

    def __init__(self, name: Any, value: Any) -> None:
        self.name = name
        self.value = value

    def serving(self, app: App, options: dict[str, Any]) -> None:
        options[self.name] = self.value


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("TIMEOUT", "x", "wants seconds .* not 'x'"),
        ("TIMEOUT", -1, "is -1 s"),
        ("STREAM-TIMEOUT", None, "not None"),
        ("GRACE", -1, "is -1 s"),
        ("RETRIES", 1.5, "whole number from 0, not 1.5"),
        ("BACKLOG", -1, "whole number from 0, not -1"),
        ("QUARANTINE", "3", "whole number from 0, not '3'"),
        ("PREFETCH", 0, "whole number from 1, not 0 .int.; or -1, by each worker's pace"),
        ("CONCURRENT", 1 << 20, "16384 at most"),
        ("ACCESS-LOG", 1, "True or False, not 1"),
        ("LIMITS", [], r"a mapping .* not \[\]"),
        ("LIMITS", {1: [0, 0]}, "a mapping .* not {1:"),
        ("LIMITS", {"add": 3}, "of 'add' .* not 3"),
        ("LIMITS", {"add": ["x", 0]}, "of 'add', its time, wants seconds .* not 'x'"),
        ("LIMITS", {"add": [1, -1]}, "of 'add', its retries, wants a whole number from 0, not -1"),
        ("LIMITS", {"add": [1, 1, 1]}, "of 'add', whether it is async, is True or False, not 1"),
    ],
)
def test_a_wrong_value_for_the_dispatcher_names_who_set_it(name: str, value: Any, words: str) -> None:
    app = handlers(App("calc", middleware=[Sets(name, value)]))
    with pytest.raises(errors.BadValueError, match=rf"^calc: Sets\.serving: {name}.* {words}"):
        app.serve("tcp://127.0.0.1:0", workers=1, block=False)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("FOO", "there are TIMEOUT, RETRIES"),
        ("time_out", "did you mean 'TIMEOUT'"),
        (3, "there are"),
        ("", "there are"),
    ],
)
def test_so_does_an_option_that_there_is_not(name: Any, hint: str) -> None:
    app = handlers(App("calc", middleware=[Sets(name, 1)]))
    with pytest.raises(errors.BadOptionError, match=rf"^calc: Sets\.serving: .* no option {name!r}; {hint}"):
        app.serve("tcp://127.0.0.1:0", workers=1, block=False)


def test_values_for_the_dispatcher_come_in_several_forms() -> None:
    sets = {"TIMEOUT": timedelta(seconds=2), "STREAM-TIMEOUT": math.inf, "LIMITS": {"add": (1, 2)}, "GRACE": math.inf}
    app = handlers(App("calc", middleware=[Sets(*each) for each in sets.items()]))
    options = dispatcher_options(app, Settings())
    assert {name: options[name] for name in sets} == {
        "TIMEOUT": 2.0,
        "STREAM-TIMEOUT": 0.0,
        "LIMITS": {"add": [1.0, 2, False]},
        "GRACE": math.inf,
    }


def test_what_serving_raises_is_not_touched() -> None:
    class Divides(Middleware):
        def serving(self, app: App, options: dict[str, Any]) -> None:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        handlers(App("calc", middleware=[Divides()])).serve("tcp://127.0.0.1:0", workers=1, block=False)


def test_hooks_that_nobody_wrote_are_not_called() -> None:
    hooks = Hooks([Middleware(), Retry()])
    assert not hooks._before
    assert not hooks._after
    assert len(hooks._retry) == 1
