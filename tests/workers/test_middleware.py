"""Hooks around handlers, and what is built on them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from spworkers import errors
from spworkers.workers.app import App
from spworkers.workers.contextpool import dispatcher_options
from spworkers.workers.currentrequest import current_request
from spworkers.workers.hooks import Hooks
from spworkers.workers.middleware.base import Middleware
from spworkers.workers.middleware.logs import AccessLog
from spworkers.workers.middleware.memory import MemoryLimit
from spworkers.workers.middleware.retry import Retry
from spworkers.workers.middleware.tasks import MaxTasks
from spworkers.workers.middleware.tracing import Tracing
from spworkers.workers.requestinfo import RequestInfo
from spworkers.workers.settings import Settings


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
def test_spans_of_opentelemetry() -> None:
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

    with app.client() as calc:
        assert calc.add(1, 2) + calc.aadd(3, 4) == 10
        with pytest.raises(errors.RemoteError):
            calc.fail()
    spans = {span.name: span for span in exporter.get_finished_spans()}
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


def test_hooks_that_nobody_wrote_are_not_called() -> None:
    hooks = Hooks([Middleware(), Retry()])
    assert not hooks._before
    assert not hooks._after
    assert len(hooks._retry) == 1
