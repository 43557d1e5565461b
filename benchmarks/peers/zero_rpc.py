"""Zero (zeroapi), with 2 workers. Its handlers take one argument."""

from __future__ import annotations

import asyncio
import importlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from benchmarks import tasks
from benchmarks.clients import many_clients
from benchmarks.contract import Announce, Form, Step

zero: Any = importlib.import_module("zero")

WORKERS = 2


def add(pair: list[int]) -> int:
    return pair[0] + pair[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(announce: Announce) -> None:
    port = free_port()

    def tell() -> None:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 0.2).close()
            except OSError:
                time.sleep(0.05)
            else:
                time.sleep(1.0)  # its workers connect to its broker after that has bound
                announce(f"127.0.0.1:{port}")
                return

    threading.Thread(target=tell, daemon=True).start()
    server = zero.ZeroServer(host="127.0.0.1", port=port)
    server.register_rpc(add)
    server.run(workers=WORKERS)


@contextmanager
def calls(address: str) -> Iterator[Callable[[], object]]:
    host, port = address.split(":")
    client = zero.ZeroClient(host, int(port))
    yield lambda: client.call("add", [2, 3])


@contextmanager
def one(address: str) -> Iterator[Step]:
    with calls(address) as call:

        def step() -> int:
            call()
            return 1

        yield step


@contextmanager
def inflight(address: str) -> Iterator[Step]:
    host, port = address.split(":")
    with closing(asyncio.new_event_loop()) as loop:
        asyncio.set_event_loop(loop)
        client = zero.AsyncZeroClient(host, int(port))
        with tasks.calling(lambda: client.call("add", [2, 3]), loop) as step:
            yield step


@contextmanager
def clients(address: str) -> Iterator[Step]:
    with many_clients(lambda: calls(address)) as step:
        yield step


FORMS = {
    "handlers_one": Form("ZeroClient.call; ZeroServer with 2 workers", serve, one),
    "handlers_inflight16": Form("one AsyncZeroClient, 16 tasks; the server the same", serve, inflight),
    "handlers_clients16": Form("16 processes with a ZeroClient each; the server the same", serve, clients),
}
