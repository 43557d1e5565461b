"""Plain sockets: messages of one known size over tcp, no framing, no protocol. The gauge of machine and moment."""

from __future__ import annotations

import asyncio
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial

from benchmarks import forms
from benchmarks.contract import BUNDLE, IN_FLIGHT, PAYLOAD, SIZES, Announce, Form, Step

SIZE = len(PAYLOAD)


def listener(announce: Announce) -> socket.socket:
    server = socket.create_server(("127.0.0.1", 0), backlog=64)
    announce(f"127.0.0.1:{server.getsockname()[1]}")
    return server


class Wire:
    """The client's end of a connection. `send` is the socket's own sendall."""

    def __init__(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.send = self.socket.sendall
        self.close = self.socket.close
        self.fileno = self.socket.fileno

    def recv(self) -> bytes:
        """One message, whole."""
        data = self.socket.recv(SIZE)
        while data and len(data) < SIZE:
            data += self.socket.recv(SIZE - len(data))
        return data


@contextmanager
def wires(address: str) -> Iterator[list[Wire]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(Wire(address))) for _ in range(IN_FLIGHT)]


def send_back(peer: socket.socket) -> bool:
    """Echo what has arrived. False: the client has left."""
    try:
        data = peer.recv(65536)
        peer.sendall(data)
    except ConnectionError:
        return False
    return bool(data)


def echo(peer: socket.socket) -> None:
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while send_back(peer):
        pass


def serve_one(announce: Announce) -> None:
    """Connections one after the other, each echoed by this thread."""
    server = listener(announce)
    while True:
        echo(server.accept()[0])


def serve_threads(announce: Announce) -> None:
    server = listener(announce)
    while True:
        threading.Thread(target=echo, args=(server.accept()[0],), daemon=True).start()


def serve_many(announce: Announce) -> None:
    """All connections in one thread."""
    server = listener(announce)
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is server:
                    peer = server.accept()[0]
                    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    selector.register(peer, selectors.EVENT_READ, peer)
                elif not send_back(key.data):
                    selector.unregister(key.data)
                    key.data.close()


@contextmanager
def roundtrip(address: str) -> Iterator[Step]:
    with closing(Wire(address)) as peer, forms.one_by_one(peer) as step:
        yield step


@contextmanager
def stream(address: str) -> Iterator[Step]:
    """One connection with sixteen messages on it: each that comes back goes out again."""
    with closing(Wire(address)) as peer:
        peer.send(PAYLOAD * IN_FLIGHT)

        def step() -> int:
            for _ in range(BUNDLE):
                peer.send(peer.recv())
            return BUNDLE

        yield step


@contextmanager
def in_turn(address: str) -> Iterator[Step]:
    with wires(address) as peers, forms.in_turn(peers) as step:
        yield step


@contextmanager
def polled(address: str) -> Iterator[Step]:
    with wires(address) as peers, selectors.DefaultSelector() as selector:
        for peer in peers:
            selector.register(peer, selectors.EVENT_READ, peer)
            peer.send(PAYLOAD)

        def step() -> int:
            done = 0
            while done < BUNDLE:
                for key, _ in selector.select():
                    key.data.recv()
                    key.data.send(PAYLOAD)
                    done += 1
            return done

        yield step


@contextmanager
def threads(address: str) -> Iterator[Step]:
    with wires(address) as peers, forms.in_threads(peers) as step:
        yield step


@contextmanager
def tasks(address: str) -> Iterator[Step]:
    host, port = address.rsplit(":", 1)
    loop = asyncio.new_event_loop()

    async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(PAYLOAD)
        await reader.readexactly(SIZE)

    pairs = [loop.run_until_complete(asyncio.open_connection(host, int(port))) for _ in range(IN_FLIGHT)]
    try:
        with forms.in_tasks(loop, [partial(exchange, *pair) for pair in pairs]) as step:
            yield step
    finally:
        for _, writer in pairs:
            writer.close()
        loop.close()


def pushing(size: int) -> Callable[[Announce], None]:
    body = bytes(size)

    def serve(announce: Announce) -> None:
        peer = listener(announce).accept()[0]
        while True:
            peer.sendall(body)

    return serve


@contextmanager
def pulling(size: int, address: str) -> Iterator[Step]:
    with closing(Wire(address)) as peer, forms.taking(partial(peer.socket.recv, size, socket.MSG_WAITALL)) as step:
        yield step


FORMS = {
    "reqrep_roundtrip": Form("blocking send and recv, both sides", serve_one, roundtrip),
    "inflight16_raw": Form("one connection, sixteen messages on it", serve_one, stream),
    "inflight16_contexts": Form("16 connections in turn; the server one thread with a selector", serve_many, in_turn),
    "inflight16_polled": Form("16 connections and a selector, both sides", serve_many, polled),
    "inflight16_threads": Form("a thread for each connection, both sides", serve_threads, threads),
    "inflight16_asyncio": Form("asyncio streams; the server one thread with a selector", serve_many, tasks),
    **{
        f"oneway_{name}": Form("sendall to recv of one message", pushing(size), partial(pulling, size))
        for name, size in SIZES.items()
    },
}
