"""The library's own futures: what they promise beside what `concurrent.futures` does."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, InvalidStateError, as_completed, wait
from pathlib import Path
from typing import Any

import pytest
from helpers import eventually, interrupted_at

import spworkers as sp
from spworkers._locks import Gates
from spworkers.workers import futures
from spworkers.workers.futures import CallFuture, SturdyFuture

WAIT = 20.0


def in_thread(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_result_is_there_for_all_who_wait() -> None:
    future = SturdyFuture()
    assert not future.done()
    assert not future.running()
    got: list[Any] = []
    threads = [in_thread(lambda: got.append(future.result(WAIT))) for _ in range(3)]
    eventually(lambda: future._gates is not None and len(future._gates) == 3, WAIT)
    assert future._finish("it", None)
    for thread in threads:
        thread.join(WAIT)
    assert got == ["it"] * 3
    assert future.result(0) == future.result() == "it"
    assert future.exception() is None
    assert future.done()
    assert not future.cancelled()
    assert not future.cancel()


def test_an_error_is_raised_and_keeps_nothing_alive_but_itself() -> None:
    future = SturdyFuture()
    future.set_exception(KeyError("no such thing"))
    with pytest.raises(KeyError, match="no such thing") as caught:
        future.result()
    assert future.exception() is caught.value
    trace = caught.value.__traceback__
    while trace is not None:
        assert trace.tb_frame.f_code is not SturdyFuture.result.__code__ or "self" not in trace.tb_frame.f_locals
        trace = trace.tb_next


def test_what_is_decided_stays() -> None:
    future = SturdyFuture()
    assert future.cancel()
    assert future.cancel()
    assert future.cancelled()
    assert future.done()
    assert not future.set_running_or_notify_cancel()
    assert not future._finish(1, None)
    for ask in (future.result, future.exception):
        with pytest.raises(CancelledError):
            ask()
    with pytest.raises(InvalidStateError, match="cancelled"):
        future.set_result(1)
    with pytest.raises(InvalidStateError, match="cancelled"):
        future.set_exception(ValueError())


def test_time_runs_out() -> None:
    future = SturdyFuture()
    for timeout in (0, 0.01, -1.0):
        with pytest.raises(concurrent.futures.TimeoutError):
            future.result(timeout)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.exception(0.01)


@pytest.mark.parametrize("wrong", ["soon", float("nan"), True, object()])
def test_a_wrong_timeout_is_told(wrong: Any) -> None:
    future = SturdyFuture()
    future.set_result(1)
    for ask in (future.result, future.exception):
        with pytest.raises(sp.BadValueError, match="timeout wants seconds"):
            ask(wrong)


def test_callbacks_are_called_once_in_their_order(caplog: pytest.LogCaptureFixture) -> None:
    future, called = SturdyFuture(), []
    future.add_done_callback(lambda done: called.append(("first", done)))
    future.add_done_callback(lambda done: 1 / 0)
    future.add_done_callback(lambda done: called.append(("second", done)))
    future.set_result(1)
    future.add_done_callback(lambda done: called.append(("late", done)))
    assert called == [("first", future), ("second", future), ("late", future)]
    assert "exception calling callback" in caplog.text


def test_a_callback_that_comes_as_it_is_decided_is_called_once() -> None:
    for _ in range(300):
        future, called = SturdyFuture(), []
        begin = threading.Barrier(2)

        def decide(future: SturdyFuture = future, begin: threading.Barrier = begin) -> None:
            begin.wait()
            future.set_result(1)

        thread = in_thread(decide)
        begin.wait()
        future.add_done_callback(called.append)
        thread.join(WAIT)
        assert called == [future]


def test_the_standard_functions_know_it() -> None:
    done, failed, cancelled, open_ = (SturdyFuture() for _ in range(4))
    in_thread(lambda: (done.set_result(1), failed.set_exception(ValueError()), cancelled.cancel()))
    assert set(as_completed([done, failed, cancelled], WAIT)) == {done, failed, cancelled}
    over, left = wait([done, failed, cancelled, open_], 0.01)
    assert (over, left) == ({done, failed, cancelled}, {open_})
    first, second = SturdyFuture(), SturdyFuture()
    in_thread(lambda: second.set_result(1))
    over, left = wait([first, second], WAIT, concurrent.futures.FIRST_COMPLETED)
    assert (over, left) == ({second}, {first})


def test_many_waits_while_it_is_decided() -> None:
    for _ in range(200):
        future = SturdyFuture()
        thread = in_thread(lambda future=future: future.set_result(1))  # type: ignore[misc]
        assert wait([future], WAIT).done == {future}
        thread.join(WAIT)


def test_asyncio_knows_it() -> None:
    async def main() -> None:
        future, given_up = SturdyFuture(), SturdyFuture()
        in_thread(lambda: future.set_result("it"))
        assert await asyncio.wait_for(asyncio.wrap_future(future), WAIT) == "it"
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(given_up), 0.01)
        assert given_up.cancelled()

    asyncio.run(main())


def test_what_becomes_of_it_is_not_for_others_to_say() -> None:
    future = CallFuture("add")
    with pytest.raises(InvalidStateError):
        future._state = "FINISHED"
    with pytest.raises(InvalidStateError):
        future._condition = threading.Condition()
    assert repr(future) == "<CallFuture add: pending>"
    future.cancel()
    assert repr(future) == "<CallFuture add: cancelled>"
    assert repr(SturdyFuture()) == "<SturdyFuture: pending>"


# --- Ctrl-C


def ways_to_wait(future: SturdyFuture) -> Iterator[tuple[set[Any], Callable[[], object]]]:
    ours = {
        each.__code__
        for each in (
            SturdyFuture.result,
            SturdyFuture._fate_within,
            SturdyFuture._await,
            SturdyFuture.block,
            SturdyFuture.ready,
            SturdyFuture.add_done_callback,
            SturdyFuture.done,
            Gates.wait,
            Gates.open,
        )
    }
    yield ours, lambda: future.result(0.001)
    yield ours, lambda: future.add_done_callback(lambda done: None)


def check_every_step(which: int) -> int:
    step = 0
    while True:
        step += 1
        future, called = SturdyFuture(), []
        future.add_done_callback(called.append)
        codes, work = list(ways_to_wait(future))[which]
        more = interrupted_at(step, codes, work) >= step
        other: list[Any] = []
        thread = in_thread(lambda future=future, other=other: other.append(future.result(WAIT)))  # type: ignore[misc]
        assert future._finish("it", None)
        assert future.result(0) == "it"
        thread.join(WAIT)
        assert other == ["it"], step
        assert called == [future], step
        if not more:
            return step


@pytest.mark.parametrize("which", [0, 1])
def test_an_interrupt_at_any_moment_of_a_wait_harms_nobody_else(which: int) -> None:
    steps: list[int] = []
    thread = threading.Thread(target=lambda: steps.append(check_every_step(which)))  # the test's own may be traced
    thread.start()
    thread.join()
    assert steps
    assert steps[0] > 10


def test_the_standard_lock_may_be_left_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(futures, "_INSTANT", 0.05)
    future, called = SturdyFuture(), []
    future.add_done_callback(called.append)
    thread = in_thread(lambda: future._condition.acquire())
    thread.join(WAIT)
    future.add_done_callback(called.append)
    future.set_result("it")
    assert future.result(0) == "it"
    assert called == [future, future]


def test_the_event_of_a_standard_waiter_may_be_left_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(futures, "_INSTANT", 0.05)
    future, called = SturdyFuture(), []
    future.add_done_callback(called.append)
    enter = threading.Condition.__enter__

    def interrupted(self: threading.Condition) -> bool:
        enter(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Condition, "__enter__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            wait([future], WAIT)
    future.set_result("it")
    assert future.result(0) == "it"
    assert called == [future]


def acquire_and_be_interrupted(monkeypatch: pytest.MonkeyPatch, future: Any) -> None:
    def interrupted(self: Any) -> None:
        for each in self.futures:
            each._condition.acquire()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(concurrent.futures._base._AcquireFutures, "__enter__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            wait([future], WAIT)


def test_a_canceled_call_is_given_up_and_leaves_its_place_whatever_comes_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C just after it was decided, before anybody is told."""
    app = sp.App("canceled")

    @app.handler
    async def nap(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "rested"

    def interrupted(self: SturdyFuture) -> None:
        raise KeyboardInterrupt

    with (
        app.serve("tcp://127.0.0.1:0", workers=1, block=False) as server,
        sp.Client(server.address, in_flight=1) as client,
        sp.Pool(1) as pool,
    ):
        call, task = client.submit("nap", 600), pool.submit(time.sleep, 600)
        with monkeypatch.context() as patch:
            patch.setattr(SturdyFuture, "_tell", interrupted)
            for future in (call, task):
                with pytest.raises(KeyboardInterrupt):
                    future.cancel()
        assert call.cancelled()
        assert task.cancelled()
        assert client.submit("nap", 0).result(WAIT) == "rested"
        assert client._slots.take()
        assert not client._slots.take()
        client._slots.give()
        assert len(client._line.collector) == 0
        assert pool.submit(pow, 2, 3).result(WAIT) == 8


def test_a_callback_may_wait_for_another_call_and_raise_anything(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    app, got, done, gate = sp.App("callbacks"), list[Any](), threading.Event(), tmp_path / "gate"

    @app.handler
    def hold() -> None:
        while not gate.exists():
            time.sleep(0.01)

    @app.handler
    def double(number: int) -> int:
        return 2 * number

    def wait_for_another(future: Any) -> None:
        with contextlib.suppress(concurrent.futures.TimeoutError):
            client.submit("double", 0).result(0)
        got.append(client.submit("double", future.result()).result(WAIT))
        done.set()

    def leave(future: Any) -> None:
        raise SystemExit

    with app.serve("tcp://127.0.0.1:0", workers=1, block=False) as server, sp.Client(server.address) as client:
        client.submit("double", 1).add_done_callback(wait_for_another)
        assert done.wait(WAIT)
        assert got == [4]
        held = client.submit("hold")  # one that is done already has its callbacks called in this thread
        client.submit("double", 1).add_done_callback(leave)
        gate.touch()
        assert held.result(WAIT) is None
        assert client.submit("double", 2).result(WAIT) == 4
    gate.unlink()
    with sp.Pool(1) as pool:
        pool.submit(hold)
        pool.submit(pow, 2, 2).add_done_callback(leave)
        gate.touch()
        eventually(lambda: caplog.text.count("exception calling callback") == 2, WAIT)  # in its collector
        assert pool.submit(pow, 2, 3).result(WAIT) == 8


def test_a_future_that_is_done_is_freed_with_its_last_reference() -> None:
    app = sp.App("freed")

    @app.handler
    def double(number: int) -> int:
        return 2 * number

    with (
        app.serve("tcp://127.0.0.1:0", workers=1, block=False) as server,
        sp.Client(server.address) as client,
        sp.Pool(1) as pool,
    ):
        for submit in (lambda: client.submit("double", 1), lambda: pool.submit(pow, 2, 1)):
            future: Any = submit()
            assert future.result(WAIT) == 2
            assert repr(future).endswith((" double: finished>", " pow: finished>"))
            known = weakref.ref(future)
            del future
            eventually(lambda known=known: known() is None, WAIT)  # type: ignore[misc]


def test_a_greedy_thread_starves_nobody() -> None:
    app, over = sp.App("greedy"), threading.Event()

    @app.handler
    async def nap(seconds: float) -> None:
        await asyncio.sleep(seconds)

    with (
        app.serve("tcp://127.0.0.1:0", workers=1, block=False) as server,
        sp.Client(server.address, in_flight=1, timeout=WAIT) as client,
    ):

        def greedy() -> None:
            while not over.is_set():
                client.call("nap", 0.001)

        thread = in_thread(greedy)
        try:
            for _ in range(20):
                client.submit("nap", 0).result(WAIT)
                client.call("nap", 0)
                assert len(list(client.map("nap", [0, 0, 0]))) == 3
        finally:
            over.set()
            thread.join(WAIT)


def test_a_client_and_a_pool_go_on_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can be helped whose own thread has the lock; all others, and the end, must not wait for it."""
    app = sp.App("futures")

    @app.handler
    def held(seconds: float) -> str:
        time.sleep(seconds)
        return "held"

    with app.serve("tcp://127.0.0.1:0", workers=1, block=False) as server, sp.Client(server.address) as client:
        future = client.submit("held", 0.3)
        in_thread(lambda: acquire_and_be_interrupted(monkeypatch, future)).join(WAIT)
        assert future.result(WAIT) == "held"
        assert client.submit("held", 0).result(WAIT) == "held"
        assert client.call("held", 0, timeout=WAIT) == "held"
    with sp.Pool(1) as pool:
        task = pool.submit(pow, 2, 70)
        in_thread(lambda: acquire_and_be_interrupted(monkeypatch, task)).join(WAIT)
        assert task.result(WAIT) == 2**70
        assert pool.submit(pow, 2, 3).result(WAIT) == 8
