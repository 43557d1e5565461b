"""pyzmq. Another wire and no contexts: where others use a context, it uses a REQ socket."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Any

from benchmarks import forms
from benchmarks.contract import BUNDLE, IN_FLIGHT, PAYLOAD, SIZES, SUBSCRIBERS, Announce, Form, Step
from benchmarks.peers import zmtp_calls

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


def pushing(size: int, copy: bool = True) -> Callable[[Announce], None]:
    body = bytes(size)

    def serve(announce: Announce) -> None:
        server = listener(zmq.PUSH, announce)
        while True:
            server.send(body, copy=copy)

    return serve


@contextmanager
def pulling(address: str) -> Iterator[Step]:
    with connected(zmq.PULL, address) as peer, forms.taking(peer.recv) as step:
        yield step


@contextmanager
def frames(address: str) -> Iterator[Step]:
    with connected(zmq.PULL, address) as peer:

        def take() -> None:
            peer.recv(copy=False).buffer[-1]

        with forms.taking(take) as step:
            yield step


class Subscriber:
    late = zmq.Again

    def __init__(self, address: str) -> None:
        self.socket = zmq.Context.instance().socket(zmq.SUB)
        self.socket.linger = 0
        self.socket.rcvtimeo = int(forms.LOST * 1000)
        self.socket.subscribe(b"")
        self.socket.connect(address)
        self.recv = self.socket.recv
        self.close = self.socket.close

    def takes(self, seconds: float) -> bool:
        if not self.socket.poll(int(seconds * 1000)):
            return False
        self.recv()
        return True


def publish(announce: Announce) -> None:
    pub = zmq.Context.instance().socket(zmq.PUB)
    pub.bind("tcp://127.0.0.1:*")
    where = pub.getsockopt_string(zmq.LAST_ENDPOINT)
    rep = listener(zmq.REP, lambda address: announce(f"{where} {address}"))
    while True:
        rep.send(rep.recv())
        for _ in range(BUNDLE):
            pub.send(PAYLOAD)


@contextmanager
def subscribers(address: str) -> Iterator[Step]:
    pub, rep = address.split()
    with ExitStack() as stack:
        req = stack.enter_context(connected(zmq.REQ, rep))
        peers = [stack.enter_context(closing(Subscriber(pub))) for _ in range(SUBSCRIBERS)]

        def ask() -> None:
            req.send(b"?")
            req.recv()

        yield stack.enter_context(forms.paced(ask, peers))


FORMS = {
    "reqrep_roundtrip": Form("REQ to REP", serve_rep, roundtrip),
    "inflight16_raw": Form("one DEALER to ROUTER", serve_router, dealer),
    "inflight16_contexts": Form("16 REQ sockets in one thread, in turn; the server one REP", serve_rep, in_turn),
    "inflight16_polled": Form("16 REQ sockets and a Poller in one thread; the server one REP", serve_rep, polled),
    "inflight16_threads": Form("16 REQ sockets, a thread for each; the server one REP", serve_rep, threads),
    "inflight16_asyncio": Form(
        "16 REQ sockets of its asyncio Context, a task for each; the server one REP", serve_rep, tasks
    ),
    **{f"oneway_{name}": Form("PUSH.send to PULL.recv", pushing(size), pulling) for name, size in SIZES.items()},
    "oneway_1m_views": Form("send and recv with copy=False", pushing(1 << 20, copy=False), frames),
    "handlers_one": Form("REQ to ROUTER/DEALER and 2 REP workers, msgpack", zmtp_calls.serve, zmtp_calls.one),
    "handlers_inflight16": Form("one DEALER; the server the same", zmtp_calls.serve, zmtp_calls.inflight),
    "handlers_inflight16_asyncio": Form("one DEALER, no tasks", zmtp_calls.serve, zmtp_calls.inflight),
    "handlers_clients16": Form(
        "16 processes with a REQ each; the server the same", zmtp_calls.serve, zmtp_calls.clients
    ),
    "pub4": Form("PUB to four SUBs, a REQ that asks for the next 64", publish, subscribers),
}
