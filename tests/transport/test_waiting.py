"""Waiting for descriptors, and limits."""

from __future__ import annotations

import asyncio
import math
import socket
import sys

import pytest
from transport.support import on_loops, turns

from spworkers.errors import ClosedError, ConnTimeoutError
from spworkers.transport.waiting import Limit, readable, wake, writable


def too_late() -> Exception:
    return ConnTimeoutError("too late")


@on_loops
async def test_readable_and_writable() -> None:
    loop = asyncio.get_running_loop()
    one, other = socket.socketpair()
    with one, other:
        await writable(loop, one.fileno())
        waiting = asyncio.ensure_future(readable(loop, one.fileno()))
        await turns()
        assert not waiting.done()
        other.send(b"x")
        await waiting
        other.close()
        await readable(loop, one.fileno())  # an end can be read, too


@on_loops
async def test_a_cancelled_wait_leaves_nothing_on_the_loop() -> None:
    loop = asyncio.get_running_loop()
    one, other = socket.socketpair()
    with one, other:
        waiting = asyncio.ensure_future(readable(loop, one.fileno()))
        await turns()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not loop.remove_reader(one.fileno())


@on_loops
async def test_waking_twice_is_harmless() -> None:
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    wake(waiter)
    wake(waiter)
    await waiter


@on_loops
async def test_a_limit_ends_its_body() -> None:
    loop = asyncio.get_running_loop()
    with pytest.raises(ConnTimeoutError, match="too late"):
        async with Limit(loop, 0.01, too_late):
            await loop.create_future()
    await turns()  # nothing of the cancellation is left over


@on_loops
async def test_a_limit_that_is_kept_is_not_noticed() -> None:
    loop = asyncio.get_running_loop()
    for seconds in (5.0, 0, math.inf):
        limit = Limit(loop, seconds, too_late)
        async with limit:
            await turns()
        assert limit._timer is None or limit._timer.cancelled()
        limit.cut()  # too late for that
        await turns()


@on_loops
async def test_errors_of_the_body_pass_through() -> None:
    with pytest.raises(KeyError):
        async with Limit(asyncio.get_running_loop(), 5, too_late):
            raise KeyError


@on_loops
async def test_a_limit_can_be_cut() -> None:
    loop = asyncio.get_running_loop()
    limit = Limit(loop, 0, lambda: ClosedError("cut"))
    limit.cut()  # not begun: without effect

    async def body() -> None:
        async with limit:
            await loop.create_future()

    running = asyncio.ensure_future(body())
    await turns()
    limit.cut()
    limit.cut()
    with pytest.raises(ClosedError, match="cut"):
        await running


@on_loops
async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    loop = asyncio.get_running_loop()

    async def body() -> None:
        async with Limit(loop, 5, too_late):
            await loop.create_future()

    running = asyncio.ensure_future(body())
    await turns()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tasks do not count their cancellations yet")
@on_loops
async def test_a_cancellation_from_elsewhere_wins_over_a_limit() -> None:
    loop = asyncio.get_running_loop()
    limit = Limit(loop, 0, too_late)

    async def body() -> None:
        async with limit:
            await loop.create_future()

    running = asyncio.ensure_future(body())
    await turns()
    limit.cut()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tasks do not count their cancellations yet")
@on_loops
async def test_the_cancellation_of_a_limit_does_not_count() -> None:
    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(ConnTimeoutError):
        async with Limit(asyncio.get_running_loop(), 0.001, too_late):
            await asyncio.get_running_loop().create_future()
    assert task.cancelling() == 0


@on_loops
async def test_a_negative_limit_is_over_at_once() -> None:
    loop = asyncio.get_running_loop()
    with pytest.raises(ConnTimeoutError):
        async with Limit(loop, -1, too_late):
            await loop.create_future()
