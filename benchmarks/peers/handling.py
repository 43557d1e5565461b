"""spworkers' handlers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import spworkers as sp
from benchmarks import tasks
from benchmarks.clients import many_clients
from benchmarks.contract import BUNDLE, IN_FLIGHT, Announce, Step

app = sp.App("bench")


@app.handler
def add(a: int, b: int) -> int:
    return a + b


def serve(announce: Announce) -> None:
    with app.serve("tcp://127.0.0.1:0", workers=2, block=False) as server:
        announce(server.address)
        server.wait()


@contextmanager
def calls(address: str) -> Iterator[Callable[[], object]]:
    with sp.Client(address) as client:
        yield lambda: client.call("add", 2, 3)


@contextmanager
def one(address: str) -> Iterator[Step]:
    with calls(address) as call:

        def step() -> int:
            call()
            return 1

        yield step


@contextmanager
def mapped(address: str) -> Iterator[Step]:
    with sp.Client(address) as client:
        results = client.map("add", itertools.repeat(2), itertools.repeat(3), in_flight=IN_FLIGHT)

        def step() -> int:
            for _ in range(BUNDLE):
                next(results)
            return BUNDLE

        yield step


@contextmanager
def inflight(address: str) -> Iterator[Step]:
    with (
        sp.Client(address) as client,
        closing(asyncio.new_event_loop()) as loop,
        tasks.calling(lambda: client.acall("add", 2, 3), loop) as step,
    ):
        yield step


@contextmanager
def clients(address: str) -> Iterator[Step]:
    with many_clients(lambda: calls(address)) as step:
        yield step
