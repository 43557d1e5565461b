"""The async twins, on asyncio, uvloop and trio; and that cancelling them loses and leaks nothing."""

from __future__ import annotations

import ast
import functools
import inspect
import math
import random
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from helpers import aeventually
from sockets.kit import (
    BOUND,
    SOON,
    callers_in,
    inproc,
    number_of,
    numbered,
    open_fds,
    raw_stream,
    rep_and_req,
    serve,
    wait_fds,
)

import spworkers as sp

END = 1_000_000

BACKENDS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}


def on_backends(test: Callable[[], Awaitable[None]]) -> Callable[..., None]:
    """Make a test of a coroutine function: it runs on every backend, within a bound."""

    @pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
    @functools.wraps(test)
    def runner(backend: dict[str, Any]) -> None:
        async def bounded() -> None:
            with anyio.fail_after(60):
                await test()

        anyio.run(bounded, **backend)

    del runner.__wrapped__  # type: ignore[attr-defined]  # its signature is this one's
    return runner


async def aserve(rep: Any, times: int) -> None:
    """Answer so many requests."""
    for _ in range(times):
        await rep.asend((await rep.arecv()).upper())


@on_backends
async def test_every_blocking_method_has_an_async_twin() -> None:
    with rep_and_req() as (rep, req):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(req.asend, b"1")
            assert await rep.arecv() == b"1"
        await rep.asend_msg(sp.Message(b"one"))
        message = await req.arecv_msg()
        assert (message.body, message.pipe) == (b"one", req.pipes[0])
        await req.asend_msg(sp.Message(b"2"))
        buffer = bytearray(4)
        assert await rep.arecv_into(buffer) == 1
        assert buffer == b"2\0\0\0"


@on_backends
async def test_sockets_and_contexts_are_async_context_managers() -> None:
    async with sp.Rep(listen=inproc()) as rep, sp.Req(dial=rep.listeners[0].address) as req:
        async with req.open_context() as context, anyio.create_task_group() as tasks:
            tasks.start_soon(aserve, rep, 1)
            await context.asend(b"x")
            assert await context.arecv() == b"X"
        with pytest.raises(sp.ClosedError):
            await context.arecv()
    with pytest.raises(sp.ClosedError):
        await req.asend(b"x")


@on_backends
async def test_async_iteration_receives_until_the_socket_is_closed() -> None:
    with raw_stream() as (sender, receiver):
        for number in range(5):
            await sender.asend_msg(numbered(number))
        seen = []
        async for body in receiver:
            seen.append(number_of(body))
            if len(seen) == 5:
                receiver.close()
        assert seen == list(range(5))


@on_backends
async def test_timeouts_hold() -> None:
    with sp.Rep(recv_deadline=SOON) as rep, sp.Req(send_deadline=SOON) as req:
        for timeout in (None, SOON, 0):
            with pytest.raises(sp.RecvTimeoutError):
                await rep.arecv(timeout=timeout)
            with pytest.raises(sp.SendTimeoutError):
                await req.asend(b"x", timeout=timeout)
        with anyio.move_on_after(SOON) as scope:
            await rep.arecv(timeout=math.inf)
        assert scope.cancelled_caught


@on_backends
async def test_mistakes_are_the_same_as_without_async() -> None:
    with rep_and_req() as (rep, req):
        with pytest.raises(sp.ProtoStateError):
            await req.arecv()
        with pytest.raises(sp.ProtoStateError):
            await rep.asend(b"x")
        with pytest.raises(sp.BadValueError, match="encode"):
            await req.asend("text")  # type: ignore[arg-type]
        with pytest.raises(sp.BadValueError, match="writable"):
            await rep.arecv_into(b"x")


@on_backends
async def test_many_contexts_run_in_many_tasks() -> None:
    with rep_and_req("tcp://127.0.0.1:0") as (rep, req):
        servers = [rep.open_context() for _ in range(5)]
        clients = [req.open_context() for _ in range(20)]

        async def ask(number: int, client: sp.Context) -> None:
            for turn in range(20):
                body = f"{number}-{turn}x".encode()
                await client.asend(body)
                assert await client.arecv(timeout=BOUND) == body.upper()

        async def serve_all(server: sp.Context) -> None:
            async for body in server:
                await server.asend(body.upper())

        async with anyio.create_task_group() as tasks:
            for server in servers:
                tasks.start_soon(serve_all, server)
            async with anyio.create_task_group() as asking:
                for number, client in enumerate(clients):
                    asking.start_soon(ask, number, client)
            for context in [*servers, *clients]:
                context.close()


@on_backends
async def test_close_wakes_every_task_that_waits() -> None:
    with sp.Rep(raw=True) as rep, sp.Req() as req:
        errors: list[type[BaseException]] = []

        async def wait(call: Callable[[], Awaitable[object]]) -> None:
            try:
                await call()
            except sp.SPError as error:
                errors.append(type(error))

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(wait, rep.arecv)
            tasks.start_soon(wait, lambda: req.asend(b"x"))
            await aeventually(lambda: callers_in(rep) == 5 and callers_in(req) == 1)
            rep.close()
            req.close()
        assert errors == [sp.ClosedError] * 6


@on_backends
async def test_tasks_that_share_a_raw_socket_lose_and_double_nothing() -> None:
    with raw_stream(sender={"writeq_len": 4}, receiver={"readq_len": 4}) as (sender, receiver):
        seen: list[int] = []

        async def receive() -> None:
            while (number := number_of(await receiver.arecv(timeout=BOUND))) < END:
                seen.append(number)

        async def send(first: int) -> None:
            for number in range(first, first + 100):
                await sender.asend_msg(numbered(number), timeout=BOUND)

        async with anyio.create_task_group() as receiving:
            for _ in range(4):
                receiving.start_soon(receive)
            async with anyio.create_task_group() as sending:
                for turn in range(4):
                    sending.start_soon(send, 100 * turn)
            for _ in range(4):
                await sender.asend_msg(numbered(END))
        assert sorted(seen) == list(range(400))


@on_backends
async def test_a_thread_and_tasks_share_a_socket() -> None:
    with raw_stream() as (sender, receiver):
        seen: list[int] = []

        def take_in_a_thread() -> None:
            while (number := number_of(receiver.recv(timeout=BOUND))) < END:
                seen.append(number)

        async def take() -> None:
            while (number := number_of(await receiver.arecv(timeout=BOUND))) < END:
                seen.append(number)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, take_in_a_thread)
            tasks.start_soon(take)
            for number in range(200):
                await sender.asend_msg(numbered(number))
                await anyio.lowlevel.checkpoint()
            for _ in range(2):
                await sender.asend_msg(numbered(END))
        assert sorted(seen) == list(range(200))


@on_backends
async def test_a_blocked_async_call_lets_the_loop_run() -> None:
    with rep_and_req() as (rep, req):
        turns = 0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(aserve, rep, 1)
            await aeventually(lambda: callers_in(rep) == 1)
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
                turns += 1
            await req.asend(b"x")
            assert await req.arecv() == b"X"
        assert turns == 10


# ---- a thousand cancellations


@on_backends
async def test_a_thousand_cancelled_arecvs_lose_no_message_and_leak_nothing() -> None:
    chance = random.Random(1)
    with raw_stream(receiver={"readq_len": 2}) as (sender, receiver):
        before = open_fds()
        seen: list[int] = []
        cancelled = sent = 0

        async def send_now_and_then() -> None:
            nonlocal sent
            for sent in range(1, 501):
                await sender.asend_msg(numbered(sent))
                await anyio.sleep(chance.choice((0, 0, 0.001)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send_now_and_then)
            while cancelled < 1000:
                with anyio.CancelScope() as scope:
                    if chance.random() < 0.5:
                        scope.cancel()
                    else:
                        scope.deadline = anyio.current_time() + chance.choice((0, 0.0001, 0.001))
                    seen.append(number_of(await receiver.arecv()))
                cancelled += scope.cancelled_caught
        while len(seen) < 500:
            seen.append(number_of(await receiver.arecv(timeout=BOUND)))
        assert seen == list(range(1, 501))
        assert callers_in(receiver) == 0
        wait_fds(before, more=10)  # other tests' leftovers may still come or go


@on_backends
async def test_a_thousand_cancelled_arecvs_of_rep_contexts_lose_no_request() -> None:
    """Each of them announces that it waits, and takes the announcement back."""
    chance = random.Random(2)
    with rep_and_req() as (rep, req):
        servers = [rep.open_context() for _ in range(3)]
        cancelled = answered = 0
        done = anyio.Event()

        async def serve_on_and_off(server: sp.Context) -> None:
            nonlocal cancelled, answered
            while not (done.is_set() and cancelled >= 1000):
                body = None
                with anyio.move_on_after(chance.choice((0, 0.0002, 0.002))) as scope:
                    body = await server.arecv()
                cancelled += scope.cancelled_caught
                if body is not None:
                    await server.asend(body.upper())
                    answered += 1

        async with anyio.create_task_group() as tasks:
            for server in servers:
                tasks.start_soon(serve_on_and_off, server)
            for number in range(200):
                await req.asend(b"x%d" % number)
                assert await req.arecv(timeout=BOUND) == b"X%d" % number
            done.set()
        assert answered == 200
        for server in servers:
            server.close()


@on_backends
async def test_a_thousand_cancelled_asends_send_their_message_whole_or_not_at_all() -> None:
    chance = random.Random(3)
    with raw_stream(sender={"writeq_len": 1}, receiver={"readq_len": 1}) as (sender, receiver):
        before = open_fds()
        sent: list[int] = []
        seen: list[int] = []
        cancelled = number = 0
        size = 100_000  # so that the queues and the kernel are soon full

        async def receive_now_and_then() -> None:
            while True:
                message = await receiver.arecv()
                assert len(message) in (1, size)
                if len(message) == 1:
                    return
                seen.append(number_of(message))
                await anyio.sleep(chance.choice((0, 0.0005)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive_now_and_then)
            while cancelled < 1000:
                with anyio.CancelScope() as scope:
                    if chance.random() < 0.5:
                        scope.cancel()
                    else:
                        scope.deadline = anyio.current_time() + chance.choice((0, 0.0001, 0.001))
                    await sender.asend_msg(numbered(number, size))
                    sent.append(number)
                cancelled += scope.cancelled_caught
                number += 1
            await sender.asend_msg(sp.Message(b"0", b"\x80\0\0\0"))
        assert seen == sent  # what is waiting for a place in the queue is nowhere yet
        wait_fds(before, more=10)  # other tests' leftovers may still come or go


@on_backends
async def test_cancelled_hand_offs_are_taken_back() -> None:
    chance = random.Random(4)
    with sp.Req(raw=True, writeq_len=0) as req:
        for number in range(300):
            with anyio.move_on_after(chance.choice((0, 0.0005))):
                await req.asend_msg(numbered(number))
        assert req._port.tx.queued == 0
        with sp.Rep(raw=True, listen=inproc()) as rep:
            req.dial(rep.listeners[0].address)
            await req.asend_msg(numbered(1000))
            assert number_of(await rep.arecv(timeout=BOUND)) == 1000


@on_backends
async def test_a_thousand_cancelled_requests_leave_nothing_behind() -> None:
    chance = random.Random(5)
    with rep_and_req() as (rep, req):
        before = open_fds()

        def serve_until_the_last() -> None:
            while True:
                body = rep.recv(timeout=BOUND)
                rep.send(body.upper(), timeout=BOUND)
                if body == b"last":
                    return

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, serve_until_the_last)
            for number in range(1000):
                answer = None
                with anyio.move_on_after(chance.choice((0, 0, 0.0002, 0.002))):
                    await req.asend(b"x%d" % number)
                    answer = await req.arecv()
                assert answer in (None, b"X%d" % number)
            await req.asend(b"last")
            assert await req.arecv(timeout=BOUND) == b"LAST"
        await aeventually(lambda: req._port.tx.queued == 0)
        wait_fds(before, more=10)  # anyio's thread has bells of its own; and see above


def test_asyncio_closes_nothing_that_others_use_when_its_loop_ends() -> None:
    with rep_and_req() as (rep, req):
        for number in range(5):

            async def one_request() -> None:
                await req.asend(b"x")
                with anyio.move_on_after(0.01):
                    await req.arecv()

            anyio.run(one_request, backend=("asyncio", "trio")[number % 2])
        served = serve(rep, 6)
        req.send(b"last")
        assert req.recv(timeout=BOUND) == b"LAST"
        assert served.result(BOUND) == [b"x"] * 5 + [b"last"]


CELLS = """
rep = sp.Rep(listen="inproc://notebook")
req = sp.Req(dial="inproc://notebook")
---
req.send(b"by hand")          # blocking calls, though a loop runs in this very thread
body = rep.recv(timeout=20)
rep.send(body.upper())
seen.append(req.recv(timeout=20))
---
await req.asend(b"awaited")
await rep.asend((await rep.arecv(timeout=20)).upper())
seen.append(await req.arecv(timeout=20))
---
req.close(); rep.close()
"""


def test_sockets_work_in_the_cells_of_a_notebook() -> None:
    """It runs cells, one after the other, in a loop of its own, in a module that is no file."""
    seen: list[bytes] = []
    names: dict[str, Any] = {"sp": sp, "seen": seen, "__name__": "__main__"}

    async def kernel() -> None:
        for cell in CELLS.split("---"):
            code = compile(cell, "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            found = eval(code, names)
            if inspect.isawaitable(found):
                await found

    anyio.run(kernel)
    assert seen == [b"BY HAND", b"AWAITED"]


@on_backends
async def test_async_with_takes_what_was_closed_inside() -> None:
    async with sp.Rep(listen=inproc()) as rep, rep.open_context() as context:
        context.close()
        rep.close()
    with pytest.raises(sp.ClosedError):
        rep.close()
