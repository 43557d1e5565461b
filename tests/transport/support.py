"""What the tests of transports and drivers share: loops, waiting, peers made of plain sockets, fakes."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import socket
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from spworkers.errors import AddrInUseError, ConnRefusedError
from spworkers.transport.base import Acceptor, Address, Link, Options, Transport
from spworkers.transport.frames import Decoder, encode
from spworkers.transport.handshake import Handshake, shake
from spworkers.transport.waiting import readable, writable

try:
    import uvloop
except ImportError:  # not everywhere
    uvloop = None

BOUND = 20.0
"""Seconds after which a test that waits has failed; nothing takes that long."""

PAIR = 0x10
PUSH, PULL = 0x50, 0x51


def greeting(number: int) -> bytes:
    """A good handshake of that protocol."""
    return b"\0SP\0" + number.to_bytes(2, "big") + b"\0\0"


def _loops() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if uvloop is not None:
        loops["uvloop"] = uvloop.new_event_loop
    return loops


LOOPS = _loops()


def open_sockets() -> set[str]:
    """The sockets that this process has open."""
    found = set()
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(f"{name} {target}")
    return found


def run(make_loop: Callable[[], asyncio.AbstractEventLoop], coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on a loop of its own. It must leave no task, no socket and no unhandled error behind."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        _run(make_loop, coroutine)
    forgotten = [str(each.message) for each in caught if issubclass(each.category, ResourceWarning)]
    assert not forgotten, f"closed by the garbage collector only: {forgotten}"


def _run(make_loop: Callable[[], asyncio.AbstractEventLoop], coroutine: Coroutine[Any, Any, None]) -> None:
    before = open_sockets()
    unhandled: list[dict[str, Any]] = []
    loop = make_loop()
    loop.set_exception_handler(lambda _, context: unhandled.append(context))
    try:
        loop.run_until_complete(asyncio.wait_for(coroutine, BOUND))
        left = asyncio.all_tasks(loop)
        assert not left, f"left running: {left}"
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    assert not unhandled, unhandled
    left_open = open_sockets() - before
    assert not left_open, f"left open: {left_open}"


def on_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test of a coroutine function: it runs on every kind of loop, and may take fixtures as usual."""

    @functools.wraps(test)
    def runner(make_loop: Callable[[], asyncio.AbstractEventLoop], **fixtures: Any) -> None:
        run(make_loop, test(**fixtures))

    own = list(inspect.signature(test).parameters.values())
    extra = inspect.Parameter("make_loop", inspect.Parameter.KEYWORD_ONLY)
    runner.__signature__ = inspect.Signature([*own, extra])  # type: ignore[attr-defined]
    return pytest.mark.parametrize("make_loop", LOOPS.values(), ids=LOOPS)(runner)


async def turns(count: int = 10) -> None:
    """Give everything that is ready its turns, to see that something does *not* happen."""
    for _ in range(count):
        await asyncio.sleep(0)


class Client:
    """A peer made of a plain non-blocking socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock

    @classmethod
    async def to(cls, sockaddr: Any, family: int = socket.AF_INET) -> Client:
        client = cls(socket.socket(family, socket.SOCK_STREAM))
        try:
            client.sock.connect(sockaddr)
        except BlockingIOError:
            await writable(asyncio.get_running_loop(), client.sock.fileno())
        assert client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        return client

    async def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                await writable(asyncio.get_running_loop(), self.sock.fileno())

    async def recv(self, size: int = 65536) -> bytes:
        while True:
            try:
                return self.sock.recv(size)
            except BlockingIOError:
                await readable(asyncio.get_running_loop(), self.sock.fileno())

    async def recv_exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = await self.recv(size - len(data))
            assert more, f"the end after {data!r}"
            data += more
        return data

    async def ended(self) -> bool:
        """Wait until the other side has closed, whatever it sends before."""
        while True:
            try:
                if not await self.recv():
                    return True
            except ConnectionError:
                return True

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Wire(Client):
    """Messages over a link, by the reference codec."""

    def __init__(self, link: Link, max_size: int = 0) -> None:
        super().__init__(link.sock)
        self.link = link
        self.bell = link.bell
        self._messages: list[bytes] = []
        if self.bell is None:
            self._decoder = Decoder(link.framing, max_size)
        else:
            self.reader, self.writer = link.reader(max_size), link.writer()

    async def heard(self) -> None:
        """Wait for a bell, where the messages do not go through the socket."""
        assert self.bell is not None
        await readable(asyncio.get_running_loop(), self.sock.fileno())
        self.bell.hush()

    async def send_message(self, payload: bytes) -> None:
        if self.bell is None:
            await self.send(encode(self.link.framing, payload))
            return
        self.writer.push_bytes(payload)
        while not self.writer.flush():
            await self.heard()

    async def recv_message(self) -> bytes:
        while self.bell is not None and not self._messages:
            self._messages += self.reader.read()
            if self.reader.error is not None:
                raise self.reader.error
            if not self._messages and self.reader.more == 0:
                await self.heard()
        while not self._messages:
            data = await self.recv()
            assert data, "the end"
            self._messages += self._decoder.feed(data)
        return self._messages.pop(0)


def host_port(address: str) -> tuple[str, int]:
    """Of a `tcp://` URL."""
    host, _, port = address.partition("://")[2].rpartition(":")
    return host.strip("[]"), int(port)


async def connect(transport: Transport, dialled: str, acceptor: Acceptor) -> tuple[Link, Link]:
    """A pair of links, without handshakes: the dialler's, the acceptor's."""
    target = transport.parse(dialled)
    both = await asyncio.gather(transport.dial(target, {}), acceptor.accept())
    return both[0], both[1]


async def shake_both(one: Link, other: Link) -> None:
    """Handshakes of a pair with a pair."""
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(shake(loop, link, Handshake(PAIR, PAIR)) for link in (one, other)))


class LocalBroker:
    """The supervisor's table of inproc names, in one process."""

    def __init__(self) -> None:
        self.names: dict[str, asyncio.Queue[int]] = {}
        self.closed: list[str] = []

    async def listen(self, name: str) -> None:
        await asyncio.sleep(0)
        if name in self.names:
            raise AddrInUseError(f"inproc://{name}: in use")
        self.names[name] = asyncio.Queue()

    async def dial(self, name: str) -> int:
        if name not in self.names:
            raise ConnRefusedError(f"inproc://{name}: nobody listens")
        ours, theirs = socket.socketpair()
        self.names[name].put_nowait(theirs.detach())
        return ours.detach()

    def incoming(self, name: str) -> Awaitable[int]:
        return self.names[name].get()

    def close(self, name: str) -> None:
        self.closed.append(name)
        queue = self.names.pop(name)
        while not queue.empty():
            os.close(queue.get_nowait())


class FakeAddress(Address):
    """Any text."""


class ScriptedTransport(Transport):
    """A transport that does as it is told: one answer per dial, in order.

    An answer is an exception to raise, bytes that the peer will say after it was connected, or a future to wait for
    before (its result is an answer again).
    """

    def __init__(self, *answers: Any) -> None:
        super().__init__("fake")
        self.answers = list(answers)
        self.dials = 0
        self.cancelled = 0
        self.peers: list[socket.socket] = []

    def parse(self, address: str) -> Address:
        return FakeAddress(address)

    async def dial(self, address: Address, options: Options) -> Link:
        self.dials += 1
        answer = self.answers.pop(0)
        if isinstance(answer, asyncio.Future):
            try:
                answer = await answer
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if isinstance(answer, BaseException):
            raise answer
        ours, theirs = socket.socketpair()
        theirs.sendall(answer)
        self.peers.append(theirs)
        return Link(ours, "stream", local="here", remote="there")

    async def listen(self, address: Address, options: Options, inherited: int | None = None) -> Acceptor:
        raise NotImplementedError

    def close(self) -> None:
        """Close the peers' ends."""
        for peer in self.peers:
            peer.close()


class VirtualClock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        """Every wait that was asked for, in seconds."""
        self._timers: list[VirtualTimer] = []

    def __call__(self, delay: float, callback: Callable[[], None]) -> VirtualTimer:
        self.waits.append(delay)
        timer = VirtualTimer(self, self.now + delay, callback)
        self._timers.append(timer)
        return timer

    @property
    def pending(self) -> int:
        return len(self._timers)

    def forget(self, timer: VirtualTimer) -> None:
        if timer in self._timers:
            self._timers.remove(timer)

    def advance(self) -> None:
        """Go on to the next timer, and let it fire."""
        timer = min(self._timers, key=lambda each: each.due)
        self._timers.remove(timer)
        self.now = timer.due
        timer.callback()


class VirtualTimer:
    """A callback to come."""

    def __init__(self, clock: VirtualClock, due: float, callback: Callable[[], None]) -> None:
        self.clock = clock
        self.due = due
        self.callback = callback

    def cancel(self) -> None:
        self.clock.forget(self)
