"""pyzmq with 2 worker processes behind ROUTER and DEALER: what one would write by hand for handlers."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgpack

from benchmarks.clients import many_clients
from benchmarks.contract import BUNDLE, IN_FLIGHT, Announce, Step

zmq: Any = importlib.import_module("zmq")

WORKERS = 2
CALL = ("add", [2, 3])


def add(a: int, b: int) -> int:
    return a + b


HANDLERS = {"add": add}


def work(address: str, parent: int) -> None:
    with zmq.Context() as context, context.socket(zmq.REP) as socket:
        socket.rcvtimeo = 1000  # ms, to see whether its parent is still there
        socket.connect(address)
        while True:
            try:
                name, arguments = msgpack.unpackb(socket.recv())
            except zmq.Again:
                if os.getppid() != parent:
                    os._exit(0)
                continue
            socket.send(msgpack.packb(HANDLERS[name](*arguments)))


def serve(announce: Announce) -> None:
    address = f"ipc://@spworkers-bench-{os.getpid()}"
    parent = os.getpid()
    for _ in range(WORKERS):
        if not os.fork():
            work(address, parent)
    context = zmq.Context()
    front, back = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    back.bind(address)
    front.bind("tcp://127.0.0.1:*")
    announce(front.getsockopt_string(zmq.LAST_ENDPOINT))
    zmq.proxy(front, back)


@contextmanager
def calls(address: str) -> Iterator[Callable[[], object]]:
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.linger = 0
        socket.connect(address)

        def call() -> object:
            socket.send(msgpack.packb(CALL))
            return msgpack.unpackb(socket.recv())

        yield call


@contextmanager
def one(address: str) -> Iterator[Step]:
    with calls(address) as call:

        def step() -> int:
            call()
            return 1

        yield step


@contextmanager
def inflight(address: str) -> Iterator[Step]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(address)
        for _ in range(IN_FLIGHT):
            socket.send_multipart([b"", msgpack.packb(CALL)])

        def step() -> int:
            for _ in range(BUNDLE):
                msgpack.unpackb(socket.recv_multipart()[1])
                socket.send_multipart([b"", msgpack.packb(CALL)])
            return BUNDLE

        yield step


@contextmanager
def clients(address: str) -> Iterator[Step]:
    with many_clients(lambda: calls(address)) as step:
        yield step
