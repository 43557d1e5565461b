"""The listener: the accept loop, handshakes beside it, what it does when accepting fails, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from helpers import aeventually
from transport.support import PAIR, Client, FakeAddress, greeting, host_port, on_loops, turns

from spworkers.errors import (
    AddrInUseError,
    BadAddrError,
    BadTranError,
    ClosedError,
    InternalError,
    NetworkError,
    ResourceError,
)
from spworkers.ioproc import admission
from spworkers.ioproc.listener import FIRST_PAUSE, LONGEST_PAUSE, ListenerDriver, State
from spworkers.transport import Acceptor, Address, Link, Transport
from spworkers.transport.base import Options


class Rig:
    """A listener, and a hub that remembers what it was offered."""

    def __init__(self, address: str = "tcp://127.0.0.1:0", **arguments: Any) -> None:
        self.links: list[Link] = []
        self.causes: list[str] = []
        self.options: dict[str, object] = {}
        self.verdicts: list[Any] = []
        self.clients: list[Client] = []
        self.driver = ListenerDriver(
            3,
            address,
            self.options,
            own=PAIR,
            peer=PAIR,
            on_link=self.on_link,
            loop=asyncio.get_running_loop(),
            count=self.causes.append,
            **arguments,
        )

    def on_link(self, link: Link, driver: ListenerDriver) -> Any:
        assert driver is self.driver
        self.links.append(link)
        verdict = self.verdicts.pop(0) if self.verdicts else True
        if isinstance(verdict, BaseException):
            raise verdict
        return verdict

    async def client(self, greets: bool = True) -> Client:
        """A connected peer."""
        client = await Client.to(host_port(self.driver.address))
        self.clients.append(client)
        if greets:
            await client.send(greeting(PAIR))
        return client


@contextlib.asynccontextmanager
async def rig(*args: Any, **arguments: Any) -> AsyncIterator[Rig]:
    made = Rig(*args, **arguments)
    try:
        yield made
    finally:
        made.driver.close()
        await made.driver.wait_closed()
        for each in (*made.links, *made.clients):
            each.close()


# --- Accepting


@on_loops
async def test_every_good_peer_becomes_a_link() -> None:
    async with rig() as it:
        bound = await it.driver.listen()
        assert bound == it.driver.address
        assert it.driver.state is State.LISTENING
        assert it.driver.fileno() >= 0
        for count in range(1, 4):
            client = await it.client()
            assert await client.recv_exactly(8) == greeting(PAIR)
            await aeventually(lambda: len(it.links) == count)
        assert it.links[0].framing == "stream"
        assert it.causes == []
        assert it.driver.handshakes == 0


@on_loops
async def test_a_crowd_at_once() -> None:
    async with rig() as it:
        await it.driver.listen()
        await asyncio.gather(*(it.client() for _ in range(150)))
        await aeventually(lambda: len(it.links) == 150)


@on_loops
async def test_a_refused_link_is_closed() -> None:
    async with rig() as it:
        verdict: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        it.verdicts += [False, RuntimeError("our bug"), verdict, True]
        await it.driver.listen()
        logging.getLogger("spworkers.ioproc.offering").disabled = True
        try:
            for _ in range(2):
                client = await it.client()
                assert await client.recv_exactly(8) == greeting(PAIR)
                assert await client.ended()
            client = await it.client()
            await aeventually(lambda: len(it.links) == 3)
            verdict.set_result(False)
            assert await client.ended()
            await it.client()
            await aeventually(lambda: len(it.links) == 4)
            assert [link.sock.fileno() >= 0 for link in it.links] == [False, False, False, True]
        finally:
            logging.getLogger("spworkers.ioproc.offering").disabled = False


@on_loops
async def test_the_timeout_is_live_and_holds_for_each_peer() -> None:
    async with rig() as it:
        it.options["HANDSHAKE-TIMEOUT"] = 0.02
        await it.driver.listen()
        for _ in range(2):
            client = await it.client(greets=False)
            assert await client.ended()
        it.options["HANDSHAKE-TIMEOUT"] = 0  # none
        client = await it.client(greets=False)
        await aeventually(lambda: it.driver.handshakes == 1)
        await client.send(greeting(PAIR))
        await aeventually(lambda: it.links)
        assert it.causes == ["handshake_timeout"] * 2


@on_loops
async def test_too_many_handshakes_cost_the_oldest() -> None:
    async with rig() as it:
        it.options["MAX-HANDSHAKES"] = 3
        await it.driver.listen()
        clients = []
        for count in range(1, 4):
            clients.append(await it.client(greets=False))
            await aeventually(lambda: it.driver.handshakes == count)
        good = await it.client()
        assert await clients[0].ended()
        await aeventually(lambda: len(it.links) == 1)
        assert it.causes == ["handshake_overflow"]
        assert it.driver.handshakes == 2
        assert await good.recv_exactly(8) == greeting(PAIR)
        await clients[2].send(greeting(PAIR))
        await clients[1].send(greeting(PAIR))
        await aeventually(lambda: len(it.links) == 3)


@on_loops
async def test_a_flood_of_silent_peers_does_not_keep_out_the_good_ones() -> None:
    async with rig() as it:
        it.options["MAX-HANDSHAKES"] = 4
        await it.driver.listen()
        flood = [await it.client(greets=False) for _ in range(40)]
        await it.client()
        await aeventually(lambda: len(it.links) == 1)
        await aeventually(lambda: it.driver.handshakes <= 4)
        assert it.causes.count("handshake_overflow") >= 36
        for client in flood[:30]:
            assert await client.ended()


@on_loops
async def test_what_a_crowd_took_is_given_back_when_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[None] = []
    monkeypatch.setattr(admission, "CROWD", 4)
    monkeypatch.setattr(admission, "TIDY", 0.0)
    monkeypatch.setattr(admission, "give_back", lambda: given.append(None))
    async with rig() as it:
        await it.driver.listen()
        for size, times in ((3, 0), (4, 1), (3, 1), (5, 2)):
            crowd = [await it.client(greets=False) for _ in range(size)]
            await aeventually(lambda size=size: it.driver.handshakes == size)
            for client in crowd:
                client.close()
            await aeventually(lambda: it.driver.handshakes == 0)
            await aeventually(lambda times=times: len(given) == times)


@on_loops
async def test_pipes_beyond_the_limit_are_turned_away_until_one_goes(caplog: pytest.LogCaptureFixture) -> None:
    async with rig() as it:
        it.options["MAX-PIPES"] = 2
        await it.driver.listen()
        for count in (1, 2):
            await it.client()
            await aeventually(lambda: len(it.links) == count)
        for count in (1, 2, 3):
            client = await it.client()
            assert await client.ended()
            assert it.causes == ["listener_full"] * count
        assert caplog.text.count("has 2 pipes (MAX-PIPES); more are turned away") == 1
        it.driver.pipe_closed()
        await it.client()
        await aeventually(lambda: len(it.links) == 3)
        assert it.driver.pipes == 2
        it.options["MAX-PIPES"] = 0
        await it.client()
        await aeventually(lambda: len(it.links) == 4)


@on_loops
async def test_handshakes_at_the_same_time_do_not_get_past_the_limit() -> None:
    async with rig() as it:
        it.options["MAX-PIPES"] = 1
        await it.driver.listen()
        clients = [await it.client(greets=False) for _ in range(3)]
        await aeventually(lambda: it.driver.handshakes == 3)
        for client in clients:
            await client.send(greeting(PAIR))
        await aeventually(lambda: it.causes == ["listener_full"] * 2)
        assert (len(it.links), it.driver.pipes) == (1, 1)


@on_loops
async def test_a_link_that_is_refused_takes_no_room() -> None:
    async with rig() as it:
        it.options["MAX-PIPES"] = 1
        it.verdicts += [False, False, True]
        await it.driver.listen()
        for count in (1, 2, 3):
            await it.client()
            await aeventually(lambda: len(it.links) == count)
            await aeventually(lambda: it.driver.pipes == (count == 3))
        assert it.causes == []


@on_loops
async def test_connections_are_accepted_no_faster_than_that() -> None:
    """A second's worth at once, then evenly; the time is the test's."""
    waits: list[float] = []
    gate = asyncio.Event()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await gate.wait()

    async with rig(sleep=sleep) as it:
        it.options["ACCEPT-RATE"] = 5
        await it.driver.listen()
        for _ in range(30):
            await it.client()
        # Some more are due already on a slow machine, one less by the rounding of a clock that stands still (uvloop's).
        await aeventually(lambda: len(it.links) >= 4 and waits)
        await turns()
        assert 4 <= len(it.links) < 30
        assert 0 < waits[0] <= 0.2
        gate.set()
        await aeventually(lambda: len(it.links) == 30)
        assert len(waits) > 1
        it.options["ACCEPT-RATE"] = 0
        await it.client()
        await aeventually(lambda: len(it.links) == 31)


@on_loops
async def test_a_link_that_waits_for_its_verdict_is_no_handshake_any_more() -> None:
    async with rig() as it:
        it.options["MAX-HANDSHAKES"] = 1
        verdict: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        it.verdicts.append(verdict)
        await it.driver.listen()
        await it.client()
        await aeventually(lambda: len(it.links) == 1)
        assert it.driver.handshakes == 0
        await it.client()
        await aeventually(lambda: len(it.links) == 2)
        it.driver.close()  # and its listener's end is none of its business
        verdict.set_result(True)
        await it.driver.wait_closed()
        assert it.links[0].sock.fileno() >= 0
        assert it.causes == []


# --- When accepting fails


class Scripted(Acceptor):
    """An acceptor that answers as it is told: errors, links, or futures of these."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.accepts = 0
        self.closed: list[bool] = []
        self.empty = asyncio.Event()

    @property
    def address(self) -> str:
        return "fake://bound"

    def fileno(self) -> int:
        return -1

    async def accept(self) -> Link:
        self.accepts += 1
        if not self.answers:
            await asyncio.get_running_loop().create_future()
        answer = self.answers.pop(0)
        if not self.answers:
            self.empty.set()
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, Link)
        return answer

    def close(self, unlink: bool = True) -> None:
        self.closed.append(unlink)


class FakeTransport(Transport):
    """Gives the acceptors that it was made with, one per listen; or errors."""

    def __init__(self, *outcomes: Any) -> None:
        super().__init__("fake")
        self.outcomes = list(outcomes)
        self.inherited: list[int | None] = []

    def parse(self, address: str) -> Address:
        return FakeAddress(address)

    async def dial(self, address: Address, options: Options) -> Link:
        raise NotImplementedError

    async def listen(self, address: Address, options: Options, inherited: int | None = None) -> Acceptor:
        self.inherited.append(inherited)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, asyncio.Future):
            outcome = await outcome
        if isinstance(outcome, BaseException):
            raise outcome
        assert isinstance(outcome, Acceptor)
        return outcome


class Naps:
    """A sleep that notes its seconds and takes none, or until it is allowed to end."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await self.gate.wait()


def emfile() -> OSError:
    return OSError(errno.EMFILE, "Too many open files")


@contextlib.contextmanager
def recorded() -> Any:
    """The listener's log, from INFO on."""
    records: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(f"{record.levelname} {record.getMessage()}")

    logger, handler = logging.getLogger("spworkers.ioproc.listener"), Handler(logging.INFO)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield records
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@on_loops
async def test_out_of_descriptors_it_waits_longer_and_longer_and_says_so_once() -> None:
    ours, theirs = socket.socketpair()
    theirs.send(greeting(PAIR))
    acceptor, naps = Scripted(*[emfile() for _ in range(10)], Link(ours, "stream"), emfile()), Naps()
    with recorded() as records:
        async with rig("fake://x", transport=FakeTransport(acceptor), sleep=naps) as it:
            await it.driver.listen()
            await aeventually(lambda: it.links and acceptor.accepts == 13)
            assert naps.seconds == [*(min(FIRST_PAUSE * 2**power, LONGEST_PAUSE) for power in range(10)), FIRST_PAUSE]
            assert it.causes == ["accept_exhausted"] * 2
            assert isinstance(it.driver.failure, ResourceError)
            assert "ResourceError at accept" in repr(it.driver)
    assert [record.split()[0] for record in records] == ["WARNING", "INFO", "WARNING"]
    assert "accept on fake://bound: Too many open files" in records[0]
    theirs.close()


@on_loops
async def test_other_failures_of_accept_do_not_end_it_either() -> None:
    ours, theirs = socket.socketpair()
    theirs.send(greeting(PAIR))
    errors = [NetworkError("down"), ZeroDivisionError("a bug of a third party's"), ClosedError("by itself")]
    acceptor = Scripted(*errors, Link(ours, "stream"))
    async with rig("fake://x", transport=FakeTransport(acceptor), sleep=Naps()) as it:
        await it.driver.listen()
        await aeventually(lambda: it.links)
        assert it.causes == ["accept_failed"]
        assert it.driver.failure is None
    theirs.close()


@on_loops
async def test_close_ends_a_pause() -> None:
    acceptor, naps = Scripted(emfile()), Naps()
    naps.gate.clear()
    async with rig("fake://x", transport=FakeTransport(acceptor), sleep=naps) as it:
        await it.driver.listen()
        await aeventually(lambda: naps.seconds)
        it.driver.close(unlink=False)
        await it.driver.wait_closed()
        assert acceptor.closed == [False]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@on_loops
async def test_a_real_shortage_of_descriptors() -> None:
    """The listener survives it, does not spin, and takes the waiting peers when it is over."""
    naps = Naps()
    naps.gate.clear()
    async with rig(sleep=naps) as it:
        await it.driver.listen()
        await it.client()
        await aeventually(lambda: len(it.links) == 1)
        late = Client(socket.socket())
        it.clients.append(late)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with full_table():
            with contextlib.suppress(BlockingIOError):
                late.sock.connect(host_port(it.driver.address))
            for _ in range(2000):  # no new descriptor can be had here, not even by a helper
                if naps.seconds:
                    break
                await asyncio.sleep(0.001)
            await turns(100)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)
        assert naps.seconds == [FIRST_PAUSE]
        assert it.causes == ["accept_exhausted"]
        naps.gate.set()
        await late.send(greeting(PAIR))
        await aeventually(lambda: len(it.links) == 2)


@contextlib.contextmanager
def full_table() -> Any:
    """No descriptor can be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        for number in taken:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@on_loops
async def test_a_flood_of_connections_leaves_the_loop_its_turns() -> None:
    """An acceptor that never waits must not keep everything else from running."""
    pairs = [socket.socketpair() for _ in range(300)]
    seen: list[int] = []
    acceptor = Scripted(*(Link(ours, "stream") for ours, _ in pairs))
    async with rig("fake://x", transport=FakeTransport(acceptor)) as it:
        asyncio.get_running_loop().call_soon(lambda: asyncio.get_running_loop().call_soon(note))

        def note() -> None:
            seen.append(len(acceptor.answers))
            if acceptor.answers:
                asyncio.get_running_loop().call_soon(note)

        await it.driver.listen()
        await aeventually(lambda: not acceptor.answers)
        assert any(0 < left < 300 for left in seen)
    for _, theirs in pairs:
        theirs.close()


# --- Listening: once, again, and cut short


@on_loops
async def test_listening_twice() -> None:
    async with rig() as it:
        await it.driver.listen()
        with pytest.raises(AddrInUseError, match="is active"):
            await it.driver.listen()


@on_loops
async def test_a_failure_may_be_tried_again() -> None:
    transport = FakeTransport(
        AddrInUseError("taken"), OSError(errno.EACCES, "Permission denied"), ZeroDivisionError("a bug"), Scripted()
    )
    async with rig("fake://x", transport=transport) as it:
        with pytest.raises(AddrInUseError, match="taken"):
            await it.driver.listen()
        with pytest.raises(PermissionError, match="listen fake://x: Permission denied") as caught:
            await it.driver.listen()
        assert isinstance(caught.value.__cause__, OSError)
        with pytest.raises(InternalError, match="ZeroDivisionError: a bug"):
            await it.driver.listen()
        assert it.driver.state is State.IDLE
        assert it.driver.address == "fake://x"
        assert await it.driver.listen() == "fake://bound"


@on_loops
async def test_close_ends_a_pending_listen() -> None:
    never: asyncio.Future[Acceptor] = asyncio.get_running_loop().create_future()
    async with rig("fake://x", transport=FakeTransport(never)) as it:
        listening = asyncio.ensure_future(it.driver.listen())
        await aeventually(lambda: it.driver.state is State.BINDING)
        with pytest.raises(AddrInUseError):
            await it.driver.listen()
        it.driver.close()
        with pytest.raises(ClosedError, match="listen fake://x: this listener is closed"):
            await listening
        assert it.driver.state is State.CLOSED


@on_loops
async def test_a_cancelled_listen_may_be_tried_again() -> None:
    never: asyncio.Future[Acceptor] = asyncio.get_running_loop().create_future()
    async with rig("fake://x", transport=FakeTransport(never, Scripted())) as it:
        listening = asyncio.ensure_future(it.driver.listen())
        await turns()
        listening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listening
        assert it.driver.state is State.IDLE
        await it.driver.listen()


@on_loops
async def test_wrong_addresses_are_refused_when_it_is_made() -> None:
    with pytest.raises(BadTranError):
        Rig("TCP://127.0.0.1:0")
    with pytest.raises(BadAddrError):
        Rig("tcp://127.0.0.1")


# --- The end


@on_loops
async def test_pipes_outlive_their_listener_and_handshakes_do_not() -> None:
    async with rig() as it:
        await it.driver.listen()
        established = await it.client()
        await aeventually(lambda: it.links)
        pending = [await it.client(greets=False) for _ in range(3)]
        await aeventually(lambda: it.driver.handshakes == 3)
        bound = it.driver.address
        it.driver.close()
        assert it.driver.address == bound
        assert it.driver.fileno() == -1
        for client in pending:
            assert await client.ended()
        await established.recv_exactly(8)
        it.links[0].sock.send(b"alive")
        assert await established.recv_exactly(5) == b"alive"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(host_port(bound))
        assert it.causes == []


@on_loops
async def test_close_before_a_handshake_has_had_its_first_step() -> None:
    ours, theirs = socket.socketpair()
    acceptor = Scripted(Link(ours, "stream"))
    async with rig("fake://x", transport=FakeTransport(acceptor)) as it:
        await it.driver.listen()
        await acceptor.empty.wait()
        it.driver.close()
        await it.driver.wait_closed()
        assert ours.fileno() == -1
    theirs.close()


@on_loops
async def test_what_it_says() -> None:
    async with rig() as it:
        assert repr(it.driver) == "<ListenerDriver 3 tcp://127.0.0.1:0: idle, 0 handshakes>"
        await it.driver.listen()
        assert repr(it.driver) == f"<ListenerDriver 3 {it.driver.address}: listening, 0 handshakes>"
        it.driver.close()
        assert "closed" in repr(it.driver)


# --- A descriptor of a predecessor


@on_loops
async def test_a_successor_takes_over(tmp_path: Path) -> None:
    for address in ("tcp://127.0.0.1:0", f"ipc://{tmp_path / 'x'}"):
        async with rig(address) as first, rig(address) as second:
            bound = await first.driver.listen()
            kept = os.dup(first.driver.fileno())
            first.driver.close(unlink=False)  # it died; its connections wait
            target = host_port(bound) if bound.startswith("tcp") else bound.partition("://")[2]
            family = socket.AF_INET if bound.startswith("tcp") else socket.AF_UNIX
            with await Client.to(target, family) as client:
                await client.send(greeting(PAIR))
                assert await second.driver.listen(kept) == bound
                await aeventually(lambda: second.links)


@on_loops
async def test_a_descriptor_that_comes_too_late_is_closed() -> None:
    async with rig() as it:
        it.driver.close()
        number = socket.socket().detach()
        with pytest.raises(ClosedError):
            await it.driver.listen(number)
        with pytest.raises(OSError):
            os.fstat(number)
