"""An app's handlers through its own client, and through the runner behind it."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import functools
import logging
import math
import sys
import threading
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import trio

from spworkers import errors
from spworkers.workers import callformat
from spworkers.workers.app import App
from spworkers.workers.localclient import LocalClient
from spworkers.workers.packing import encode
from spworkers.workers.runner import Runner

app = App("calc")


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Odd(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@app.handler
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@app.handler
async def later(value: Any, seconds: float = 0.0) -> Any:
    await asyncio.sleep(seconds)
    return value


@app.handler
async def cancel_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


@app.handler
async def await_cancelled() -> None:
    task = asyncio.ensure_future(asyncio.sleep(60))
    await asyncio.sleep(0)
    task.cancel()
    await task


@app.handler(name="geometry.mirror")
def mirror(point: Point) -> Point:
    return Point(point.y, point.x)


@app.handler
def fail(how: Literal["plain", "deep", "odd"] = "plain") -> None:
    if how == "odd":
        raise Odd
    if how == "deep":
        fail("plain")
    raise ValueError("no such luck")


@app.handler
async def fail_later() -> None:
    await asyncio.sleep(0)
    raise ValueError("no such luck")


@app.handler
def unsendable() -> object:
    return object()


@app.handler
def waits(timeout: float) -> float:
    return timeout


@app.handler
def count(*, state: Any) -> int:
    state.calls += 1
    return int(state.calls)


@app.raw
def reverse(body: bytes) -> bytes:
    if body == b"fail":
        raise ValueError("no such luck")
    return body[::-1]


@app.on_start
def begin(state: Any) -> None:
    state.calls = 0
    state.stopped = []


@app.on_start
async def begin_async(state: Any) -> None:
    state.loop = asyncio.get_running_loop()
    state.background = asyncio.create_task(asyncio.sleep(math.inf))


@app.on_stop
def end(state: Any) -> None:
    state.stopped.append("first")
    raise RuntimeError("this is logged")


@app.on_stop
async def end_async(state: Any) -> None:
    state.stopped.append("second")


@pytest.fixture
def calc() -> Iterator[LocalClient]:
    with app.client() as client:
        yield client


def test_the_ways_to_call(calc: LocalClient) -> None:
    assert calc.add(2, 3) == 5
    assert calc.add(a=2, b=3) == 5
    assert calc.call("add", 2, 3) == 5
    assert calc.call("add", 2, b=3, timeout=1.0) == 5
    assert calc.submit("add", 2, 3).result() == 5
    assert calc.geometry.mirror({"x": 1, "y": 2}) == {"x": 2, "y": 1}
    assert calc.later("x", 0.001) == "x"


def test_values_travel_as_over_a_socket(calc: LocalClient) -> None:
    day = datetime.date(2026, 11, 23)
    assert calc.later((day, {1})) == (day, {1})
    sent = [1]
    assert calc.later(sent) is not sent


@pytest.mark.parametrize("run", [asyncio.run, trio.run])
def test_tasks_call_too(calc: LocalClient, run: Any) -> None:
    async def main() -> int:
        return int(await calc.acall("add", 2, 3, timeout=1.0))

    assert run(main) == 5 if run is trio.run else run(main()) == 5


def test_async_handlers_run_in_the_callers_loop(calc: LocalClient) -> None:
    async def main() -> None:
        assert await calc.acall("later", 1) == 1
        with pytest.raises(errors.RemoteError, match="no such luck"):
            await calc.acall("fail")
        with pytest.raises(errors.UnknownHandlerError):
            await calc.acall("nothing")

    asyncio.run(main())


def test_plain_calls_of_async_handlers_work_inside_a_loop(calc: LocalClient) -> None:
    async def main() -> Any:
        return calc.later("x")

    assert asyncio.run(main()) == "x"


def test_a_handlers_own_timeout_is_its_own(calc: LocalClient) -> None:
    assert calc.waits(timeout=2.5) == 2.5
    with pytest.raises(errors.BadArgumentsError):
        calc.call("waits", timeout=2.5)


def test_exceptions_come_with_the_handlers_traceback(calc: LocalClient) -> None:
    with pytest.raises(errors.RemoteError) as caught:
        calc.fail("deep")
    assert caught.value.type == "ValueError"
    assert caught.value.message == "no such luck"
    lines = caught.value.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert "in fail" in lines[1]  # it begins with the handler
    assert "runner.py" not in caught.value.traceback


def test_exceptions_of_async_handlers_too(calc: LocalClient) -> None:
    with pytest.raises(errors.RemoteError) as caught:
        calc.fail_later()
    assert caught.value.type == "ValueError"
    assert "in fail_later" in caught.value.traceback.splitlines()[1]


def test_a_cancellation_of_its_own_is_its_answer(calc: LocalClient) -> None:
    with pytest.raises(errors.RemoteError, match="CancelledError"):
        calc.cancel_itself()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="a task does not say whether it was cancelled")
def test_a_cancelled_task_of_a_handlers_own_is_no_cancellation_of_the_caller(calc: LocalClient) -> None:
    with pytest.raises(errors.RemoteError, match="CancelledError"):
        asyncio.run(calc.acall("await_cancelled"))


def test_an_exception_without_text_arrives(calc: LocalClient) -> None:
    with pytest.raises(errors.RemoteError, match="its text cannot be had") as caught:
        calc.fail("odd")
    assert caught.value.type.endswith("Odd")


def test_arguments_are_checked_before_the_function_is_touched(calc: LocalClient) -> None:
    with pytest.raises(errors.BadArgumentsError, match=r"add\(\): a: expected int, got str 'x'"):
        calc.add("x", 1)
    with pytest.raises(errors.BadArgumentsError, match="missing"):
        calc.add(1)


def test_unknown_names_are_told_the_nearest(calc: LocalClient) -> None:
    with pytest.raises(errors.UnknownHandlerError, match="did you mean 'add'") as caught:
        calc.ad(1, 2)
    assert caught.value.nearest == ["add"]


def test_results_that_cannot_be_sent_are_told(calc: LocalClient) -> None:
    with pytest.raises(errors.RemoteError, match=r"unsendable\(\) returned what cannot be sent"):
        calc.unsendable()


def test_ctrl_c_in_a_handler_is_the_callers() -> None:
    own = App("interrupted")

    @own.handler
    def plain() -> None:
        raise KeyboardInterrupt

    @own.handler
    def numbers() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    with own.client() as client:
        with pytest.raises(KeyboardInterrupt):
            client.plain()
        got: list[int] = []
        with pytest.raises(KeyboardInterrupt):
            got.extend(client.numbers())


def test_arguments_that_cannot_be_sent_never_leave(calc: LocalClient) -> None:
    with pytest.raises(errors.SerializationError):
        calc.later(object())


def test_state_is_kept(calc: LocalClient) -> None:
    assert [calc.count(), calc.count()] == [1, 2]
    calc.state.calls = 10
    assert calc.count() == 11


def test_what_is_served(calc: LocalClient) -> None:
    served = {each["name"]: each for each in calc.handlers()}
    assert served["add"] == {"name": "add", "signature": "(a: int, b: int) -> int", "doc": "Adds two numbers."}
    assert "sp.handlers" not in served
    assert "state" not in served["count"]["signature"]


def test_raw(calc: LocalClient, caplog: pytest.LogCaptureFixture) -> None:
    assert calc.raw(b"abc") == b"cba"
    with caplog.at_level(logging.ERROR):
        assert calc.raw(b"fail") == b""
    assert "raw handler reverse failed" in caplog.text


def test_raw_handlers_that_return_no_bytes(caplog: pytest.LogCaptureFixture) -> None:
    other = App("other")
    other.raw(lambda body: 5)
    with other.client() as client, caplog.at_level(logging.ERROR):
        assert client.raw(b"x") == b""
    assert "not bytes" in caplog.text


def test_without_a_raw_handler_a_request_that_is_no_call_is_an_error() -> None:
    other = App("other")
    with other.client() as client:
        with pytest.raises(errors.BadArgumentsError, match="does not begin as a call"):
            callformat.decode_answer(client.raw(b"hello"), "raw")


def test_a_broken_call_is_answered() -> None:
    runner = Runner(app)
    head = callformat.encode_call(5, "add", [], {})[: callformat.CALL_HEAD]
    answer = runner.answer(head + encode([1]))
    assert not answer.ok
    with pytest.raises(errors.BadArgumentsError):
        callformat.decode_answer(answer.body, "add", 5)


def test_the_end(caplog: pytest.LogCaptureFixture) -> None:
    others = set(threading.enumerate())
    client = app.client()
    assert client.add(1, 2) == 3
    background = client.state.background
    with caplog.at_level(logging.ERROR):
        client.close()
        client.close()
    assert client.state.stopped == ["first", "second"]
    assert "on_stop function end failed" in caplog.text
    assert background.cancelled()
    assert client.state.loop.is_closed()
    assert not [thread for thread in set(threading.enumerate()) - others if thread.name == "spworkers-async"]
    for call in (functools.partial(client.add, 1, 2), functools.partial(client.raw, b"")):
        with pytest.raises(errors.ClosedError, match=r"LocalClient of \w+ is closed$"):
            call()


def test_failures_of_on_start_are_told() -> None:
    other = App("other")

    @other.on_start
    def load(state: Any) -> None:
        raise FileNotFoundError("model.bin")

    with pytest.raises(FileNotFoundError):
        other.client()


def test_annotations_that_cannot_be_read_are_told_at_the_start() -> None:
    other = App("other")

    @other.handler
    def early(value: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(errors.BadValueError, match="Nowhere"):
        other.client()


def test_attributes_of_python_are_no_handlers(calc: LocalClient) -> None:
    with pytest.raises(AttributeError, match="call"):
        calc._private
    assert not hasattr(calc, "__deepcopy__")
    with pytest.raises(AttributeError):
        calc.add._private
    with pytest.raises(errors.BadValueError):
        calc.call("")


def test_the_reprs(calc: LocalClient) -> None:
    assert repr(calc) == "<LocalClient of <App calc: 10 handlers, raw>>"
    assert repr(calc.geometry.mirror) == f"<handler geometry.mirror of {calc!r}>"


def test_calls_have_ids_of_their_own() -> None:
    seen = []

    class Spy(LocalClient):
        def _exchange(self, payload: bytes, *rest: Any) -> Any:
            seen.append(callformat.call_id_of(payload))
            return super()._exchange(payload, *rest)

    with Spy(app) as one, Spy(app) as other:
        for client in (one, other, one):
            client.add(1, 2)
    assert len(set(seen)) == 3
    assert seen[2] == (seen[0] + 1) % 2**64
