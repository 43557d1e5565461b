"""Clients that differ between peers only in how a request is made: in turn, in sixteen threads, in sixteen tasks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from benchmarks.contract import BUNDLE, PAYLOAD, Step

LOST = 1.0  # seconds after which a publication counts as lost
PAUSE = 0.1  # seconds without a publication: what was late has come
JOINING = 20.0  # seconds that the subscribers may take to have all that is published
LOOK_EVERY = 0.05  # seconds between two looks at what free-running clients have done


class Messenger(Protocol):
    """What can have one request on its way: a socket, a context, a connection."""

    def send(self, data: bytes, /) -> object: ...

    def recv(self) -> object: ...


@contextmanager
def one_by_one(peer: Messenger) -> Iterator[Step]:
    """Each step is one request and its reply."""
    send, recv = peer.send, peer.recv

    def step() -> int:
        send(PAYLOAD)
        recv()
        return 1

    yield step


@contextmanager
def in_turn(peers: Sequence[Messenger]) -> Iterator[Step]:
    """All have a request on its way; one thread receives from them in turn, the order in which one server answers."""
    for peer in peers:
        peer.send(PAYLOAD)

    def step() -> int:
        for _ in range(BUNDLE // len(peers)):
            for peer in peers:
                peer.recv()
                peer.send(PAYLOAD)
        return BUNDLE

    yield step


@contextmanager
def taking(take: Callable[[], object]) -> Iterator[Step]:
    """Each step takes a bundle of what comes by itself."""

    def step() -> int:
        for _ in range(BUNDLE):
            take()
        return BUNDLE

    yield step


class Subscriber(Protocol):
    """What receives publications. `recv` raises `late` when none comes for LOST seconds."""

    late: type[Exception]

    def recv(self) -> object: ...

    def takes(self, seconds: float) -> bool:
        """Receive one. False: none came for so long."""


def received(subscriber: Subscriber) -> int:
    """How many publications of a bundle come. After one that is not whole, what comes too late is taken too."""
    n = 0
    while n < BUNDLE and subscriber.takes(LOST):
        n += 1
    while n < BUNDLE and subscriber.takes(PAUSE):
        pass
    return n


@contextmanager
def paced(ask: Callable[[], object], subscribers: Sequence[Subscriber]) -> Iterator[Step]:
    """Each step asks for a bundle, which all subscribers receive before the next is asked for."""
    whole = 0
    limit = time.monotonic() + JOINING
    while whole < 3:  # until the last of them has subscribed for good
        ask()
        heard = [received(subscriber) for subscriber in subscribers]
        whole = whole + 1 if all(n == BUNDLE for n in heard) else 0
        if time.monotonic() > limit:
            raise RuntimeError(f"the subscribers received {heard} of {BUNDLE} messages each")

    def step() -> int:
        ask()
        done = 0
        for subscriber in subscribers:
            try:
                for _ in range(BUNDLE):
                    subscriber.recv()
                    done += 1
            except subscriber.late:  # lost: that time is the peer's, and the next bundle is asked for all the same
                while subscriber.takes(PAUSE):
                    pass
        return done

    yield step


@contextmanager
def in_threads(peers: Sequence[Messenger]) -> Iterator[Step]:
    """A thread for each, running freely; a step looks how many requests were answered since the last."""
    done = [0] * len(peers)
    failures: list[BaseException] = []
    stop = threading.Event()

    def work(n: int, peer: Messenger) -> None:
        try:
            while not stop.is_set():
                peer.send(PAYLOAD)
                peer.recv()
                done[n] += 1
        except BaseException as error:
            if not stop.is_set():
                failures.append(error)
                stop.set()

    threads = [threading.Thread(target=work, args=job, daemon=True) for job in enumerate(peers)]
    for thread in threads:
        thread.start()
    before = 0

    def step() -> int:
        nonlocal before
        if stop.wait(LOOK_EVERY):
            raise RuntimeError("a client thread failed") from failures[0]
        now = sum(done)
        new, before = now - before, now
        return new

    try:
        yield step
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=5.0)


@contextmanager
def in_tasks(loop: asyncio.AbstractEventLoop, exchanges: Sequence[Callable[[], Awaitable[object]]]) -> Iterator[Step]:
    """A task for each exchange, repeating it; a step lets the loop run for a while and looks how many were done."""
    done = [0] * len(exchanges)

    async def work(n: int, exchange: Callable[[], Awaitable[object]]) -> None:
        while True:
            await exchange()
            done[n] += 1

    tasks = [loop.create_task(work(n, exchange)) for n, exchange in enumerate(exchanges)]
    before = 0

    def step() -> int:
        nonlocal before
        loop.run_until_complete(asyncio.wait(tasks, timeout=LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED))
        for task in tasks:
            if task.done():
                task.result()  # raises what ended it
        now = sum(done)
        new, before = now - before, now
        return new

    try:
        yield step
    finally:
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
