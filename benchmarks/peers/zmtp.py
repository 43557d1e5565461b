"""pyzmq. Another wire and no contexts: where others use a context, it uses a REQ socket."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Any

from benchmarks import forms
from benchmarks.contract import BUNDLE, IN_FLIGHT, PAYLOAD, Announce, Form, Step

zmq: Any = importlib.import_module("zmq")


def listener(kind: int, announce: Announce) -> Any:
    server = zmq.Context.instance().socket(kind)
    server.bind("tcp://127.0.0.1:*")
    announce(server.getsockopt_string(zmq.LAST_ENDPOINT))
    return server


@contextmanager
def connected(kind: int, address: str, context: Any = None) -> Iterator[Any]:
    peer = (context or zmq.Context.instance()).socket(kind)
    peer.linger = 0
    peer.connect(address)
    try:
        yield peer
    finally:
        peer.close()


def serve_rep(announce: Announce) -> None:
    server = listener(zmq.REP, announce)
    while True:
        server.send(server.recv())


def serve_router(announce: Announce) -> None:
    server = listener(zmq.ROUTER, announce)
    while True:
        server.send_multipart(server.recv_multipart())


@contextmanager
def requesters(address: str, context: Any = None) -> Iterator[list[Any]]:
    with ExitStack() as stack:
        yield [stack.enter_context(connected(zmq.REQ, address, context)) for _ in range(IN_FLIGHT)]


@contextmanager
def roundtrip(address: str) -> Iterator[Step]:
    with connected(zmq.REQ, address) as peer, forms.one_by_one(peer) as step:
        yield step


@contextmanager
def dealer(address: str) -> Iterator[Step]:
    with connected(zmq.DEALER, address) as peer:
        for _ in range(IN_FLIGHT):
            peer.send(PAYLOAD)

        def step() -> int:
            for _ in range(BUNDLE):
                peer.recv()
                peer.send(PAYLOAD)
            return BUNDLE

        yield step


@contextmanager
def in_turn(address: str) -> Iterator[Step]:
    with requesters(address) as peers, forms.in_turn(peers) as step:
        yield step


@contextmanager
def polled(address: str) -> Iterator[Step]:
    with requesters(address) as peers:
        poller = zmq.Poller()
        for peer in peers:
            poller.register(peer, zmq.POLLIN)
            peer.send(PAYLOAD)

        def step() -> int:
            done = 0
            while done < BUNDLE:
                for peer, _ in poller.poll():
                    peer.recv()
                    peer.send(PAYLOAD)
                    done += 1
            return done

        yield step


@contextmanager
def threads(address: str) -> Iterator[Step]:
    with requesters(address) as peers, forms.in_threads(peers) as step:
        yield step


@contextmanager
def tasks(address: str) -> Iterator[Step]:
    loop = asyncio.new_event_loop()

    async def exchange(peer: Any) -> None:
        await peer.send(PAYLOAD)
        await peer.recv()

    with (
        closing(loop),
        requesters(address, importlib.import_module("zmq.asyncio").Context()) as peers,
        forms.in_tasks(loop, [partial(exchange, peer) for peer in peers]) as step,
    ):
        yield step


FORMS = {
    "reqrep_roundtrip": Form("REQ to REP", serve_rep, roundtrip),
    "inflight16_raw": Form("one DEALER to ROUTER", serve_router, dealer),
    "inflight16_contexts": Form("16 REQ sockets in one thread, in turn; the server one REP", serve_rep, in_turn),
    "inflight16_polled": Form("16 REQ sockets and a Poller in one thread; the server one REP", serve_rep, polled),
    "inflight16_threads": Form("16 REQ sockets, a thread for each; the server one REP", serve_rep, threads),
    "inflight16_asyncio": Form(
        "16 REQ sockets of its asyncio Context, a task for each; the server one REP", serve_rep, tasks
    ),
}
