"""pynng. No public call gives a raw message its header: one call of its C layer starts each message off."""

from __future__ import annotations

import asyncio
import importlib
import select
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Any

from benchmarks import forms
from benchmarks.contract import BUNDLE, IN_FLIGHT, PAYLOAD, SIZES, SUBSCRIBERS, Announce, Form, Step

pynng: Any = importlib.import_module("pynng")

REQUEST = 0x80000000  # the bit by which the last word of a backtrace is known


def announced(server: Any, announce: Announce) -> Any:
    server.listen("tcp://127.0.0.1:0")
    announce(str(server.listeners[0].url))
    return server


def serve_rep(announce: Announce) -> None:
    server = announced(pynng.Rep0(), announce)
    while True:
        server.send(server.recv())


def serve_raw(announce: Announce) -> None:
    server = announced(pynng.Socket(opener=pynng.lib.nng_rep0_open_raw), announce)
    while True:
        server.send_msg(server.recv_msg())


@contextmanager
def roundtrip(address: str) -> Iterator[Step]:
    with pynng.Req0(dial=address) as peer, forms.one_by_one(peer) as step:
        yield step


@contextmanager
def contexts(address: str, **options: Any) -> Iterator[list[Any]]:
    with ExitStack() as stack:
        peer = stack.enter_context(pynng.Req0(dial=address, **options))
        yield [stack.enter_context(peer.new_context()) for _ in range(IN_FLIGHT)]


@contextmanager
def raw(address: str) -> Iterator[Step]:
    """Sixteen messages that go out again as they come back, request ids and all."""
    with pynng.Socket(opener=pynng.lib.nng_req0_open_raw, dial=address) as peer:
        for number in range(IN_FLIGHT):
            message = pynng.Message(PAYLOAD)
            pynng.lib.nng_msg_header_append_u32(message._nng_msg, REQUEST | number)
            peer.send_msg(message)

        def step() -> int:
            for _ in range(BUNDLE):
                peer.send_msg(peer.recv_msg())
            return BUNDLE

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
        contexts(address, async_backend="asyncio") as peers,
        forms.in_tasks(loop, [partial(exchange, peer) for peer in peers]) as step,
    ):
        yield step


def pushing(size: int) -> Callable[[Announce], None]:
    body = bytes(size)

    def serve(announce: Announce) -> None:
        server = announced(pynng.Push0(), announce)
        while True:
            server.send(body)

    return serve


@contextmanager
def pulling(address: str) -> Iterator[Step]:
    with pynng.Pull0(dial=address, recv_max_size=0) as peer, forms.taking(peer.recv) as step:
        yield step


class Subscriber:
    late = pynng.Timeout

    def __init__(self, address: str) -> None:
        self.socket = pynng.Sub0(topics=b"", dial=address, recv_buffer_size=BUNDLE, recv_timeout=int(forms.LOST * 1000))
        self.recv = self.socket.recv
        self.close = self.socket.close

    def takes(self, seconds: float) -> bool:
        if not select.select([self.socket.recv_fd], [], [], seconds)[0]:
            return False
        self.recv()
        return True


def publish(announce: Announce) -> None:
    pub = pynng.Pub0(listen="tcp://127.0.0.1:0", send_buffer_size=BUNDLE)
    rep = announced(pynng.Rep0(), lambda address: announce(f"{pub.listeners[0].url} {address}"))
    while True:
        rep.send(rep.recv())
        for _ in range(BUNDLE):
            pub.send(PAYLOAD)


@contextmanager
def subscribers(address: str) -> Iterator[Step]:
    pub, rep = address.split()
    with ExitStack() as stack:
        req = stack.enter_context(pynng.Req0(dial=rep))
        peers = [stack.enter_context(closing(Subscriber(pub))) for _ in range(SUBSCRIBERS)]

        def ask() -> None:
            req.send(b"?")  # not empty: pynng's recv raises RuntimeError for a message without a body
            req.recv()

        yield stack.enter_context(forms.paced(ask, peers))


FORMS = {
    "reqrep_roundtrip": Form("Req0 to Rep0", serve_rep, roundtrip),
    "inflight16_raw": Form("raw req0 to raw rep0, message objects sent back as they come", serve_raw, raw),
    "inflight16_contexts": Form(
        "16 contexts in one thread, received from in turn; the server one Rep0", serve_rep, in_turn
    ),
    "inflight16_threads": Form("16 contexts, a thread for each; the server one Rep0", serve_rep, threads),
    "inflight16_asyncio": Form(
        "16 contexts, asend and arecv in a task for each; the server one Rep0", serve_rep, tasks
    ),
    **{f"oneway_{name}": Form("Push0.send to Pull0.recv", pushing(size), pulling) for name, size in SIZES.items()},
    "pub4": Form("Pub0 to four Sub0s, a Req0 that asks for the next 64", publish, subscribers),
}
