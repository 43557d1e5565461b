"""spworkers itself."""

from __future__ import annotations

import asyncio
import importlib
import os
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from typing import Any

from benchmarks import forms
from benchmarks.contract import BUNDLE, IN_FLIGHT, PAYLOAD, SIZES, SUBSCRIBERS, Announce, Form, Step
from benchmarks.peers import handling

sp: Any = importlib.import_module("spworkers")

QUEUE = 1000  # messages at either end, as many as pyzmq's default; ours is mangos', 128
REQUEST = 0x80000000  # the bit by which the last word of a backtrace is known


def serve_rep(announce: Announce) -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0") as server:
        announce(server.listeners[0].address)
        while True:
            server.send(server.recv())


def serve_raw(announce: Announce) -> None:
    with sp.Rep(raw=True, listen="tcp://127.0.0.1:0") as server:
        announce(server.listeners[0].address)
        while True:
            server.send_msg(server.recv_msg())


@contextmanager
def roundtrip(address: str) -> Iterator[Step]:
    with sp.Req(dial=address) as peer, forms.one_by_one(peer) as step:
        yield step


@contextmanager
def contexts(address: str) -> Iterator[list[Any]]:
    with ExitStack() as stack:
        peer = stack.enter_context(sp.Req(dial=address))
        yield [stack.enter_context(peer.open_context()) for _ in range(IN_FLIGHT)]


@contextmanager
def raw(address: str) -> Iterator[Step]:
    with sp.Req(raw=True, dial=address) as peer:
        for number in range(IN_FLIGHT):
            peer.send_msg(sp.Message(PAYLOAD, header=(REQUEST | number).to_bytes(4, "big")))

        def step() -> int:
            for _ in range(BUNDLE):
                peer.send_msg(peer.recv_msg())
            return BUNDLE

        yield step


@contextmanager
def polled(address: str) -> Iterator[Step]:
    with contexts(address) as peers, select.epoll() as poller:
        by_descriptor = {peer.fileno(): peer for peer in peers}
        for descriptor, peer in by_descriptor.items():
            poller.register(descriptor, select.EPOLLIN)
            peer.send(PAYLOAD)

        def step() -> int:
            done = 0
            while done < BUNDLE:
                for descriptor, _ in poller.poll():
                    peer = by_descriptor[descriptor]
                    try:
                        peer.recv(timeout=0)
                    except sp.RecvTimeoutError:  # a readiness may be told once too often
                        continue
                    peer.send(PAYLOAD)
                    done += 1
            return done

        yield step


@contextmanager
def in_turn(address: str) -> Iterator[Step]:
    with contexts(address) as peers, forms.in_turn(peers) as step:
        yield step


@contextmanager
def threads(address: str) -> Iterator[Step]:
    with contexts(address) as peers, forms.in_threads(peers) as step:
        yield step


@contextmanager
def tasks(address: str) -> Iterator[Step]:
    loop = asyncio.new_event_loop()

    async def exchange(peer: Any) -> None:
        await peer.asend(PAYLOAD)
        await peer.arecv()

    with (
        closing(loop),
        contexts(address) as peers,
        forms.in_tasks(loop, [partial(exchange, peer) for peer in peers]) as step,
    ):
        yield step


def pushing(size: int, listen: str = "tcp://127.0.0.1:0") -> Callable[[Announce], None]:
    body = bytes(size)

    def serve(announce: Announce) -> None:
        with sp.Push(listen=listen, writeq_len=QUEUE) as socket:
            announce(socket.listeners[0].address)
            while True:
                socket.send(body)

    return serve


@contextmanager
def pulling(address: str) -> Iterator[Step]:
    with sp.Pull(dial=address, readq_len=QUEUE) as socket, forms.taking(socket.recv) as step:
        yield step


def inside(scheme: str) -> Form:
    """Both sockets in the client's process, a thread each; the server only waits."""

    def serve(announce: Announce) -> None:
        announce(f"{scheme}://@{os.getpid()}-inside")
        threading.Event().wait()

    @contextmanager
    def both(address: str) -> Iterator[Step]:
        body = bytes(1 << 16)
        with sp.Push(listen=address, writeq_len=QUEUE) as source, pulling(address) as step:

            def pour() -> None:
                with suppress(sp.ClosedError):
                    while True:
                        source.send(body)

            threading.Thread(target=pour, daemon=True).start()
            yield step

    return Form("Push.send to Pull.recv, a thread each, queues of 1000", serve, both)


def serve_reserved(announce: Announce) -> None:
    with sp.Push(listen="tcp://127.0.0.1:0") as socket:
        announce(socket.listeners[0].address)
        while True:
            with socket.reserve(1 << 20):
                pass


@contextmanager
def leasing(address: str) -> Iterator[Step]:
    with sp.Pull(dial=address) as socket:

        def take() -> None:
            with socket.recv_view() as view:
                view[-1]

        with forms.taking(take) as step:
            yield step


class Subscriber:
    late = sp.RecvTimeoutError

    def __init__(self, address: str) -> None:
        self.socket = sp.Sub(subscribe=b"", dial=address, recv_deadline=forms.LOST)
        self.recv = self.socket.recv
        self.close = self.socket.close

    def takes(self, seconds: float) -> bool:
        try:
            self.recv(timeout=seconds)
        except self.late:
            return False
        return True


def publish(announce: Announce) -> None:
    with sp.Pub(listen="tcp://127.0.0.1:0") as pub, sp.Rep(listen="tcp://127.0.0.1:0") as rep:
        announce(f"{pub.listeners[0].address} {rep.listeners[0].address}")
        while True:
            rep.send(rep.recv())
            for _ in range(BUNDLE):
                pub.send(PAYLOAD)


@contextmanager
def subscribers(address: str) -> Iterator[Step]:
    pub, rep = address.split()
    with ExitStack() as stack:
        req = stack.enter_context(sp.Req(dial=rep))
        peers = [stack.enter_context(closing(Subscriber(pub))) for _ in range(SUBSCRIBERS)]

        def ask() -> None:
            req.send(b"?")
            req.recv()

        yield stack.enter_context(forms.paced(ask, peers))


FORMS = {
    "reqrep_roundtrip": Form("Req to Rep", serve_rep, roundtrip),
    "inflight16_raw": Form("raw Req to raw Rep", serve_raw, raw),
    "inflight16_contexts": Form(
        "16 contexts in one thread, received from in turn; the server one Rep", serve_rep, in_turn
    ),
    "inflight16_polled": Form(
        "16 contexts and epoll on their fileno() in one thread; the server one Rep", serve_rep, polled
    ),
    "inflight16_threads": Form("16 contexts, a thread for each; the server one Rep", serve_rep, threads),
    "inflight16_asyncio": Form("16 contexts, asend and arecv in a task for each; the server one Rep", serve_rep, tasks),
    **{
        f"oneway_{name}": Form("Push.send to Pull.recv, queues of 1000", pushing(size), pulling)
        for name, size in SIZES.items()
    },
    **{
        f"oneway_64k_{scheme}": Form("Push.send to Pull.recv", pushing(1 << 16, f"{scheme}://@"), pulling)
        for scheme in ("ipc", "shm")  # the system chooses a name
    },
    **{f"inside_64k_{scheme}": inside(scheme) for scheme in ("ipc", "inproc")},
    "oneway_1m_views": Form("Push.reserve to Pull.recv_view", serve_reserved, leasing),
    "handlers_one": Form("Client.call; App.serve with 2 workers", handling.serve, handling.one),
    "handlers_inflight16": Form("one Client, map with in_flight=16", handling.serve, handling.mapped),
    "handlers_inflight16_asyncio": Form("one Client, 16 tasks that acall", handling.serve, handling.inflight),
    "handlers_clients16": Form("16 processes with a Client each", handling.serve, handling.clients),
    "pub4": Form("Pub to four Subs, a Req that asks for the next 64", publish, subscribers),
}
