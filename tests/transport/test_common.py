"""What every transport has to do: the reference's checklist, as far as links and drivers go."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import aeventually
from transport.support import (
    PAIR,
    PULL,
    PUSH,
    Client,
    LocalBroker,
    Wire,
    connect,
    greeting,
    on_loops,
    shake_both,
    turns,
)

from spworkers.errors import AddrInUseError, BadProtoError, BadTranError, ClosedError, ConnRefusedError, TooLongError
from spworkers.ioproc.dialer import DialerDriver
from spworkers.ioproc.listener import ListenerDriver
from spworkers.transport import Link, Transport, transport_for
from spworkers.transport.frames import header
from spworkers.transport.inproc import install_broker

SCHEMES = ("tcp", "ipc", "shm", "inproc")


@dataclasses.dataclass
class Place:
    """A transport and an address of it that is free."""

    transport: Transport
    address: str


@pytest.fixture(params=SCHEMES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    install_broker(LocalBroker())
    address = {
        "tcp": "tcp://127.0.0.1:0",
        "ipc": f"ipc://{tmp_path / 'x'}",
        "shm": f"shm://{tmp_path / 'x'}",
        "inproc": "inproc://x",
    }[request.param]
    yield Place(transport_for(address), address)
    install_broker(None)


class Side:
    """A driver of one protocol, and the links that it made."""

    def __init__(self, place: Place, own: int = PAIR, peer: int = PAIR, **options: object) -> None:
        self.place = place
        self.links: list[Link] = []
        self.causes: list[str] = []
        self.numbers = {"own": own, "peer": peer}
        self.options = options
        self.drivers: list[Any] = []

    def make(self, kind: Callable[..., Any], address: str) -> Any:
        driver = kind(
            1,
            address,
            self.options,
            on_link=self._take,
            loop=asyncio.get_running_loop(),
            count=self.causes.append,
            **self.numbers,
        )
        self.drivers.append(driver)
        return driver

    def listener(self, address: str = "") -> ListenerDriver:
        return self.make(ListenerDriver, address or self.place.address)

    def dialer(self, address: str) -> DialerDriver:
        return self.make(DialerDriver, address)

    def _take(self, link: Link, _: object) -> bool:
        self.links.append(link)
        return True

    async def close(self) -> None:
        for driver in self.drivers:
            driver.close()
            await driver.wait_closed()
        for link in self.links:
            link.close()


@contextlib.asynccontextmanager
async def sides(place: Place, dialing: tuple[int, int] = (PAIR, PAIR)) -> AsyncIterator[tuple[Side, Side]]:
    """A listening side and a dialling one, neither started."""
    one, other = Side(place), Side(place, *dialing)
    try:
        yield one, other
    finally:
        await one.close()
        await other.close()


async def raw_client(address: str) -> Client:
    """A stream to a listener that speaks what the test wants."""
    transport = transport_for(address)
    return Client((await transport.dial(transport.parse(address), {})).sock)


@on_loops
async def test_scheme(place: Place) -> None:
    assert place.address.startswith(f"{place.transport.scheme}://")
    with pytest.raises(BadTranError):
        transport_for(place.address.upper())


@on_loops
async def test_refused(place: Place) -> None:
    async with sides(place) as (_, dialing):
        with pytest.raises(ConnRefusedError):
            await dialing.dialer(place.address).dial()
        assert dialing.causes == ["dial_failed"]


@on_loops
async def test_two_listeners(place: Place) -> None:
    async with sides(place) as (listening, other):
        bound = await listening.listener().listen()
        again = other.listener(bound)
        with pytest.raises(AddrInUseError):
            await again.listen()
        with pytest.raises(AddrInUseError):
            await again.listen()  # it failed, so it may be tried again
        listening.drivers[0].close()
        assert await again.listen() == bound
        with pytest.raises(AddrInUseError):
            await again.listen()


@on_loops
async def test_closed_before_it_listened(place: Place) -> None:
    async with sides(place) as (listening, _):
        driver = listening.listener()
        driver.close()
        driver.close()
        with pytest.raises(ClosedError):
            await driver.listen()
        assert driver.fileno() == -1


@on_loops
async def test_a_closed_listener_refuses(place: Place) -> None:
    async with sides(place) as (listening, dialing):
        driver = listening.listener()
        bound = await driver.listen()
        driver.close()
        with pytest.raises(ConnRefusedError):
            await dialing.dialer(bound).dial()
        with pytest.raises(ClosedError):
            await driver.listen()
        assert driver.address == bound


@on_loops
async def test_another_protocol(place: Place) -> None:
    async with sides(place, (PUSH, PULL)) as (listening, dialing):
        bound = await listening.listener().listen()
        with pytest.raises(BadProtoError, match="pair"):
            await dialing.dialer(bound).dial()
        await aeventually(lambda: listening.causes == ["bad_protocol"])
        assert dialing.causes == ["bad_protocol"]
        assert not listening.links and not dialing.links


@on_loops
async def test_ten_round_trips(place: Place) -> None:
    async with sides(place) as (listening, dialing):
        await dialing.dialer(await listening.listener().listen()).dial()
        await aeventually(lambda: listening.links)
        ours, theirs = Wire(dialing.links[0]), Wire(listening.links[0])
        for number in range(10):
            await ours.send_message(f"ping {number}".encode())
            assert await theirs.recv_message() == f"ping {number}".encode()
            await theirs.send_message(b"")
            assert await ours.recv_message() == b""


@on_loops
async def test_sizes_up_and_down(place: Place) -> None:
    async with sides(place) as (listening, dialing):
        await dialing.dialer(await listening.listener().listen()).dial()
        await aeventually(lambda: listening.links)
        ours, theirs = Wire(dialing.links[0]), Wire(listening.links[0])
        sizes = [1 << power for power in range(21)]
        for size in (*sizes, *reversed(sizes)):
            payload = os.urandom(16) * (size // 16) + bytes(size % 16)
            received = asyncio.ensure_future(theirs.recv_message())
            await ours.send_message(payload)
            assert await received == payload


@on_loops
async def test_addresses_mirror_each_other(place: Place) -> None:
    acceptor = await place.transport.listen(place.transport.parse(place.address), {})
    ours, theirs = await connect(place.transport, acceptor.address, acceptor)
    assert (ours.local, ours.remote) == (theirs.remote, theirs.local)
    assert ours.remote
    await shake_both(ours, theirs)
    for each in (ours, theirs, acceptor):
        each.close()


@on_loops
async def test_the_bound_address(place: Place) -> None:
    async with sides(place) as (listening, _):
        driver = listening.listener()
        assert driver.address == place.address
        bound = await driver.listen()
        assert driver.address == bound
        assert (bound != place.address) == place.address.endswith(":0")
        assert transport_for(bound) is place.transport


BAD_HANDSHAKES = [
    b"",
    b"\0",
    b"\0SP\0\0\x10\0",
    b"\x01SP\0\0\x10\0\0",
    b"\0TP\0\0\x10\0\0",
    b"\0SQ\0\0\x10\0\0",
    b"\0SP\x01\0\x10\0\0",
    b"\0SP\0\0\x11\0\0",
    b"\0SP\0\x10\0\0\0",
    b"\0SP\0\0\x10\0\x01",
    b"\0SP\0\0\x10\x01\0",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x16\x03\x01\x02\0\x01\0\x01\xfc",
    bytes(64),
]
FAULTS = sorted(["handshake_closed"] * 3 + ["bad_header"] * 8 + ["bad_version"] + ["bad_protocol"] * 2)


@on_loops
async def test_bad_handshakes_do_not_end_the_listener(place: Place) -> None:
    async with sides(place) as (listening, dialing):
        bound = await listening.listener().listen()
        for data in BAD_HANDSHAKES:
            with await raw_client(bound) as client:
                await client.send(data)
                client.sock.shutdown(socket.SHUT_WR)
                assert await client.ended()
        await aeventually(lambda: sorted(listening.causes) == FAULTS)
        await dialing.dialer(bound).dial()
        await aeventually(lambda: len(listening.links) == 1)


async def slow_clients(bound: str) -> list[Client]:
    """Peers that are silent, stop half-way, and stop one byte before the end."""
    clients = [await raw_client(bound) for _ in range(3)]
    await clients[1].send(greeting(PAIR)[:4])
    for byte in greeting(PAIR)[:7]:
        await clients[2].send(bytes([byte]))
    return clients


@on_loops
async def test_slow_and_silent_peers_hold_up_nobody(place: Place) -> None:
    async with sides(place) as (listening, dialing):
        bound = await listening.listener().listen()
        clients = await slow_clients(bound)
        await aeventually(lambda: listening.drivers[0].handshakes == 3)
        await dialing.dialer(bound).dial()
        await aeventually(lambda: listening.links)
        assert listening.drivers[0].handshakes == 3
        for client in clients:
            assert await client.recv_exactly(8) == greeting(PAIR)  # ours went out without waiting for theirs
            client.close()
        await aeventually(lambda: listening.causes == ["handshake_closed"] * 3)


@on_loops
async def test_slow_and_silent_peers_have_their_time(place: Place) -> None:
    async with sides(place) as (listening, _):
        listening.options["HANDSHAKE-TIMEOUT"] = 0.05
        clients = await slow_clients(await listening.listener().listen())
        for client in clients:
            assert await client.ended()
            client.close()
        await aeventually(lambda: listening.causes == ["handshake_timeout"] * 3)
        assert listening.drivers[0].handshakes == 0
        assert not listening.links


@on_loops
async def test_a_dial_to_a_silent_listener_ends(place: Place) -> None:
    acceptor = await place.transport.listen(place.transport.parse(place.address), {})
    side = Side(place, **{"HANDSHAKE-TIMEOUT": 0.2})
    with pytest.raises(TimeoutError, match="connected, but no handshake"):
        await side.dialer(acceptor.address).dial()
    assert side.causes == ["handshake_timeout"]
    with Client((await acceptor.accept()).sock) as accepted:
        assert await accepted.ended()
    acceptor.close()


@on_loops
async def test_close_ends_a_dial_to_a_silent_listener(place: Place) -> None:
    acceptor = await place.transport.listen(place.transport.parse(place.address), {})
    side = Side(place)
    driver = side.dialer(acceptor.address)
    dialing = asyncio.ensure_future(driver.dial())
    with Client((await acceptor.accept()).sock) as accepted:
        assert await accepted.recv_exactly(8) == greeting(PAIR)
        driver.close()
        with pytest.raises(ClosedError):
            await dialing
        assert await accepted.ended()
    await driver.wait_closed()
    assert side.causes == []
    acceptor.close()


@pytest.mark.parametrize("size", [98, 99, 100, 101])
@on_loops
async def test_the_size_of_messages(place: Place, size: int) -> None:
    acceptor = await place.transport.listen(place.transport.parse(place.address), {})
    ours, theirs = await connect(place.transport, acceptor.address, acceptor)
    await shake_both(ours, theirs)
    receiver, sender = Wire(theirs, 100), Wire(ours)
    await sender.send_message(bytes(size))
    if size > 100:
        with pytest.raises(TooLongError):
            await receiver.recv_message()
    else:
        assert await receiver.recv_message() == bytes(size)
    for each in (ours, theirs, acceptor):
        each.close()


@on_loops
async def test_a_huge_header_is_refused_without_its_body(place: Place) -> None:
    if place.transport.scheme in ("inproc", "shm"):
        pytest.skip("its headers are in memory: tests/ring/test_conduit.py")
    acceptor = await place.transport.listen(place.transport.parse(place.address), {})
    ours, theirs = await connect(place.transport, acceptor.address, acceptor)
    await Wire(ours).send(header(ours.framing, 1 << 50))
    with pytest.raises(TooLongError):
        await Wire(theirs, 1 << 20).recv_message()
    for each in (ours, theirs, acceptor):
        each.close()


@on_loops
async def test_a_dialer_finds_the_replacement_of_its_listener(place: Place) -> None:
    async with sides(place) as (listening, dialing):
        dialing.options["RECONNECT-TIME"] = 0.001
        first = listening.listener()
        bound = await first.listen()
        dialer = dialing.dialer(bound)
        await dialer.dial()
        first.close()
        await listening.listener(bound).listen()
        dialing.links[0].close()
        dialer.pipe_closed()
        await aeventually(lambda: len(dialing.links) == 2 and len(listening.links) == 2)


@on_loops
async def test_a_listener_that_comes_late(place: Place) -> None:
    async with sides(place) as (listening, dialing):
        first = listening.listener()
        bound = await first.listen()  # an address that can be had
        first.close()
        dialing.options.update({"DIAL-ASYNCH": True, "RECONNECT-TIME": 0.001})
        dialer = dialing.dialer(bound)
        await dialer.dial()
        await aeventually(lambda: dialing.causes)
        assert set(dialing.causes) == {"dial_failed"}
        await listening.listener(bound).listen()
        await aeventually(lambda: dialing.links and listening.links)
        await turns()
