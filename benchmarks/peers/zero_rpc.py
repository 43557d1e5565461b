"""Zero (zeroapi), with 2 workers. Its handlers take one argument."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
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
    """Serve in a process of its own, as Zero takes over signals and logging, and announce it when it answers."""
    port = free_port()
    command = [sys.executable, "-c", f"from benchmarks.peers import zero_rpc; zero_rpc.run({port})"]
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    address = f"127.0.0.1:{port}"
    while server.poll() is None:
        with suppress(Exception), calls(address) as call:
            if call() == 5:
                break
        time.sleep(0.2)
    announce(address)
    server.wait()


def run(port: int) -> None:
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    server = zero.ZeroServer(host="127.0.0.1", port=port)
    server.register_rpc(add)
    server.run(workers=WORKERS)


def _end_with_stdin() -> None:
    """Whoever started us has gone: so do we, with all workers."""
    while os.read(0, 4096):  # not sys.stdin: a worker that is forked meanwhile closes that, and would wait for its lock
        pass
    os.killpg(0, signal.SIGKILL)


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
    "handlers_inflight16_asyncio": Form("the same", serve, inflight),
    "handlers_clients16": Form("16 processes with a ZeroClient each; the server the same", serve, clients),
}
