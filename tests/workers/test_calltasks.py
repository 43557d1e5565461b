"""Tasks of asyncio that wait for answers: a reader lets them go on by itself, as their loop would."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import anyio
import pytest
from helpers import aeventually

from spworkers import errors
from spworkers.sockets import Rep
from spworkers.workers import callformat
from spworkers.workers.answer import Reply
from spworkers.workers.callwaiting import TaskWaiting
from spworkers.workers.client import Client
from spworkers.workers.loopreader import LoopReader

WAIT = 20.0

Main = Callable[[], Coroutine[Any, Any, Any]]


def run_in_uvloop(main: Main) -> Any:
    uvloop = pytest.importorskip("uvloop")
    loop = uvloop.new_event_loop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


def run_in_python(main: Main) -> Any:
    """With the tasks that asyncio has where there is no C."""
    loop = asyncio.new_event_loop()
    python_task: Any = asyncio.tasks._PyTask  # type: ignore[attr-defined]
    loop.set_task_factory(lambda loop, coro, **more: python_task(coro, loop=loop, **more))
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


def run_in_debug(main: Main) -> Any:
    return asyncio.run(main(), debug=True)


@pytest.fixture(params=[lambda main: asyncio.run(main()), run_in_uvloop, run_in_python, run_in_debug])
def run(request: pytest.FixtureRequest) -> Any:
    return request.param


class Gate:
    """A server that answers all that it was asked when it is told to, each call with its argument."""

    def __init__(self) -> None:
        self.rep = Rep(raw=True, listen="tcp://127.0.0.1:0")
        self.open = threading.Event()
        self.open.set()
        self.asked = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(errors.ClosedError):
            while True:
                message = self.rep.recv_msg()
                self.asked += 1
                self.open.wait()
                if not callformat.is_call(bytes(message.body)):
                    continue  # one is given up
                call = callformat.decode_call(bytes(message.body))
                message.body = callformat.encode_value(call.id, call.args[0])
                self.rep.send_msg(message)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()
    made.rep.close(linger=0)
    made._thread.join(WAIT)


@pytest.fixture
def client(gate: Gate) -> Iterator[Client]:
    with Client(gate.rep.listeners[0].address, timeout=WAIT) as made:
        yield made


async def held(gate: Gate, client: Client, tasks: list[Coroutine[Any, Any, Any]]) -> list[asyncio.Task[Any]]:
    """Tasks, each of which calls at once; the server has all calls and has answered none."""
    await client.acall("echo", 0)  # the first call of a loop goes the long way
    gate.open.clear()
    before = len(client._line)
    made = [asyncio.create_task(each) for each in tasks]
    await aeventually(lambda: len(client._line) == before + len(made))
    await asyncio.sleep(0.05)
    return made


def test_each_goes_on_in_its_own_context(gate: Gate, client: Client, run: Any) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=-1)

    async def call(number: int) -> tuple[int, int, bool]:
        variable.set(number)
        answer = await client.acall("echo", number)
        return answer, variable.get(), asyncio.current_task() is tasks[number]

    tasks: list[asyncio.Task[Any]] = []

    async def main() -> list[Any]:
        tasks.extend(await held(gate, client, [call(number) for number in range(8)]))
        gate.open.set()
        return await asyncio.gather(*tasks)

    assert run(main) == [(number, number, True) for number in range(8)]
    assert len(client._line) == 0


def test_who_goes_on_may_call_again_and_hold_up_the_loop(gate: Gate, client: Client, run: Any) -> None:
    async def call(number: int) -> list[int]:
        found = [await client.acall("echo", number)]
        found.append(client.call("echo", number + 100))  # it reads for the others, who are about to go on
        found.append(await client.acall("echo", number + 200))
        return found

    async def main() -> list[Any]:
        tasks = await held(gate, client, [call(number) for number in range(8)])
        gate.open.set()
        return await asyncio.gather(*tasks)

    assert run(main) == [[number, number + 100, number + 200] for number in range(8)]


def test_who_goes_on_may_close_the_client(gate: Gate, client: Client) -> None:
    async def call(number: int) -> Any:
        answer = await client.acall("echo", number)
        client.close()
        return answer

    async def main() -> list[Any]:
        tasks = await held(gate, client, [call(number) for number in range(4)])
        gate.open.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(main())
    assert 0 in found
    assert all(isinstance(each, (int, errors.ClosedError)) for each in found)


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt])
def test_what_ends_the_loop_keeps_nobody_from_going_on(gate: Gate, client: Client, ending: type[BaseException]) -> None:
    went_on: list[int] = []

    async def call(number: int) -> None:
        await client.acall("echo", number)
        went_on.append(number)
        if number == 1:
            raise ending

    loop = asyncio.new_event_loop()
    tasks = loop.run_until_complete(held(gate, client, [call(number) for number in range(4)]))
    gate.open.set()
    with pytest.raises(ending):
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), WAIT))
    loop.close()
    assert sorted(went_on) == [0, 1, 2, 3]


def test_cancelling_says_why(gate: Gate, client: Client, run: Any) -> None:
    async def main() -> tuple[Any, ...]:
        (task,) = await held(gate, client, [client.acall("echo", 1)])
        assert "TaskWaiting" in repr(task) or sys.implementation.name != "cpython"
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError) as canceled:
            await task
        gate.open.set()
        return canceled.value.args, len(client._line), await client.acall("echo", 5)

    told, left, answer = run(main)
    assert (left, answer) == (0, 5)
    assert told in ((), ("enough",))  # 3.10 says it where the task was cancelled only


def test_cancelled_in_the_moment_of_the_answer(gate: Gate, client: Client) -> None:
    """The answer was taken, but its task has not gone on yet: as with any future, it is cancelled all the same."""

    async def first(others: list[asyncio.Task[Any]]) -> None:
        await client.acall("echo", 0)
        for other in others:
            other.cancel()

    async def main() -> list[Any]:
        others: list[asyncio.Task[Any]] = []
        tasks = await held(gate, client, [first(others), *[client.acall("echo", number) for number in (1, 2)]])
        others.extend(tasks[1:])
        gate.open.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        return [*found, await client.acall("echo", 7)]

    none, *canceled, answer = asyncio.run(main())
    assert none is None
    assert [type(each) for each in canceled] == [asyncio.CancelledError] * 2
    assert answer == 7
    assert len(client._line) == 0


def test_its_time_is_over(gate: Gate, client: Client, run: Any) -> None:
    async def main() -> int:
        (task,) = await held(gate, client, [client.acall("echo", 1, timeout=0.2)])
        with pytest.raises(errors.RecvTimeoutError):
            await task
        gate.open.set()
        with anyio.move_on_after(WAIT):
            return int(await client.acall("echo", 2, timeout=WAIT))
        return -1

    assert run(main) == 2
    assert len(client._line) == 0


def test_no_more_than_its_places(gate: Gate) -> None:
    async def main() -> tuple[int, int, list[int]]:
        with Client(gate.rep.listeners[0].address, timeout=WAIT, in_flight=2) as client:
            await client.acall("echo", 0)
            gate.open.clear()
            tasks = [asyncio.create_task(client.acall("echo", number)) for number in range(6)]
            await aeventually(lambda: len(client._line) == 2)
            await asyncio.sleep(0.05)
            most = len(client._line)
            tasks[5].cancel()
            gate.open.set()
            found = await asyncio.gather(*tasks[:5])
            again = await asyncio.gather(*[client.acall("echo", number) for number in range(6)])
            return most, len(again), found

    assert asyncio.run(main()) == (2, 6, [0, 1, 2, 3, 4])


def test_it_is_a_future_for_who_asks_early_or_late(client: Client) -> None:
    async def main() -> list[str]:
        seen: list[str] = []
        reader = LoopReader(client._line, asyncio.get_running_loop())
        reader.thread = threading.get_ident()
        waiting = TaskWaiting(1, reader)
        assert asyncio.isfuture(waiting)
        assert waiting.get_loop() is asyncio.get_running_loop()
        waiting.add_done_callback(lambda whose: seen.append("early" if whose is waiting else "whose?"))
        waiting.end(Reply(b""), None)
        waiting.end(Reply(b""), None)  # told twice
        assert seen == []
        assert not waiting.cancel()
        await asyncio.sleep(0)
        waiting.add_done_callback(lambda whose: seen.append("late"))
        await asyncio.sleep(0)
        await waiting  # at once
        waiting.result()
        return seen

    assert asyncio.run(main()) == ["early", "late"]
