"""What the tests of sockets share: threads with a result, connected pairs, peers made of plain sockets."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from helpers import eventually

import spworkers as sp

T = TypeVar("T")

BOUND = 20.0
"""Seconds after which something that waits has failed; nothing takes that long."""

SOON = 0.05
"""Seconds that a call is given which must time out: the shorter the better, as nothing is going to come."""

PAIR, SUB, REQ, REP, PUSH = 0x10, 0x21, 0x30, 0x31, 0x50

_numbers = itertools.count(1)


def inproc() -> str:
    """An inproc address that nobody else uses."""
    return f"inproc://{os.getpid()}-{next(_numbers)}"


def background(call: Callable[..., T], *args: Any, **keywords: Any) -> Future[T]:
    """Call it on a thread of its own. A thread that hangs does not hang the interpreter's exit."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            value = call(*args, **keywords)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(value)

    threading.Thread(target=run, daemon=True).start()
    return future


def error_of(future: Future[Any]) -> BaseException:
    """What a background call raised."""
    error = future.exception(BOUND)
    assert error is not None, f"it returned {future.result()!r}"
    return error


def callers_in(handle: Any) -> int:
    """How many callers sleep inside a handle."""
    return int(handle._port.sleepers.asleep)


def wait_blocked(handle: Any, callers: int = 1) -> None:
    """Wait until so many callers wait inside a handle."""
    eventually(lambda: callers_in(handle) >= callers, BOUND, what=f"{callers} blocked in {handle!r}")


def wait_pipes(sock: sp.Socket, count: int = 1) -> None:
    """Wait until a socket has so many connections."""
    eventually(lambda: len(sock.pipes) == count, BOUND, what=f"{count} pipes of {sock!r}")


def drops(sock: sp.Socket) -> dict[str, int]:
    """What a socket dropped, by cause."""
    found: dict[str, int] = sock.stats()["drops"]
    return found


@contextlib.contextmanager
def rep_and_req(
    address: str | None = None, *, rep: dict[str, Any] | None = None, req: dict[str, Any] | None = None
) -> Iterator[tuple[sp.Rep, sp.Req]]:
    """A REP socket and a REQ socket that is connected to it."""
    with sp.Rep(listen=address or inproc(), **(rep or {})) as one:
        with sp.Req(dial=one.listeners[0].address, **(req or {})) as other:
            wait_pipes(one)
            yield one, other


@contextlib.contextmanager
def raw_stream(
    address: str | None = None, *, sender: dict[str, Any] | None = None, receiver: dict[str, Any] | None = None
) -> Iterator[tuple[sp.Req, sp.Rep]]:
    """A raw REQ that can send as much as it likes, and the raw REP that receives it."""
    with sp.Rep(raw=True, listen=address or inproc(), **(receiver or {})) as one:
        with sp.Req(raw=True, dial=one.listeners[0].address, **(sender or {})) as other:
            wait_pipes(one)
            yield other, one


def request_id(number: int) -> bytes:
    """The last word of a request's header."""
    return (number | 0x80000000).to_bytes(4, "big")


def numbered(number: int, size: int = 0) -> sp.Message:
    """A message for a raw REQ, whose body says which one it is."""
    body = str(number).encode()
    return sp.Message(body + bytes(max(size - len(body), 0)), request_id(number))


def number_of(message: sp.Message | bytes) -> int:
    """Which one it is."""
    body = message.body if isinstance(message, sp.Message) else message
    return int(bytes(body).rstrip(b"\0"))


def serve(rep: Any, times: int = 1, answer: Callable[[bytes], bytes] = bytes.upper) -> Future[list[bytes]]:
    """Answer so many requests in the background; the requests are the result."""

    def loop() -> list[bytes]:
        seen = []
        for _ in range(times):
            seen.append(rep.recv(timeout=BOUND))
            rep.send(answer(seen[-1]), timeout=BOUND)
        return seen

    return background(loop)


def ask(req: Any, body: bytes, timeout: float = BOUND) -> bytes:
    """One request and its reply."""
    req.send(body, timeout=timeout)
    found: bytes = req.recv(timeout=timeout)
    return found


def open_fds() -> dict[int, str]:
    """The descriptors that this process has open, and what each is."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists them
            found[int(number)] = os.readlink(f"/proc/self/fd/{number}")
    return found


def wait_fds(before: dict[int, str], more: int = 0) -> None:
    """Wait until this process has no more descriptors open than then, or so many more."""

    def back() -> bool:
        gc.collect()
        now = open_fds()
        assert len(now) <= len(before) + more, {fd: now[fd] for fd in now if now[fd] != before.get(fd)}
        return True

    eventually(back, BOUND, what=f"no more than {len(before) + more} descriptors open")


@contextlib.contextmanager
def joined(listener: sp.Socket, *dialers: sp.Socket, address: str = "inproc") -> Iterator[None]:
    """Connect sockets to one; all are closed in the end. `inproc` is an inproc address that nobody else uses."""
    with contextlib.ExitStack() as stack:
        for each in (listener, *dialers):
            stack.enter_context(each)
        where = listener.listen(inproc() if address == "inproc" else address).address
        for each in dialers:
            each.dial(where)
        wait_pipes(listener, len(dialers))
        yield


class Record:
    """A hook that remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[sp.PipeEvent, int]] = []

    def __call__(self, event: sp.PipeEvent, pipe: sp.Pipe) -> None:
        self.events.append((event, pipe.id))

    def counts(self) -> tuple[int, int, int]:
        """How often each event came: attaching, attached, detached."""
        found = Counter(event for event, _ in self.events)
        return found[sp.PipeEvent.ATTACHING], found[sp.PipeEvent.ATTACHED], found[sp.PipeEvent.DETACHED]


class Stranger:
    """A peer made of a plain socket: it sends all at once."""

    def __init__(self, address: str, protocol: int, messages: list[bytes]) -> None:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self.socket = socket.create_connection((host, int(port)), BOUND)
        frames = b"".join(len(body).to_bytes(8, "big") + body for body in messages)
        self.socket.sendall(b"\0SP\0" + protocol.to_bytes(2, "big") + b"\0\0")
        greeting = b""
        while len(greeting) < 8:
            greeting += self.socket.recv(8 - len(greeting))
        self.socket.sendall(frames)

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
