"""`inproc://` over a broker of the test's."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest
from transport.support import LocalBroker, connect, on_loops, turns

from spworkers.errors import (
    AddrInUseError,
    BadValueError,
    ClosedError,
    ConnRefusedError,
    InternalError,
    NetworkError,
    SPError,
)
from spworkers.transport import inproc, transport_for
from spworkers.transport.inproc import InprocTransport, install_broker


def make() -> tuple[LocalBroker, InprocTransport]:
    broker = LocalBroker()
    return broker, InprocTransport(broker=broker)


@pytest.mark.parametrize("name", ["", "x", "a/b c:1", "ü", "://"])
@on_loops
async def test_every_name_is_a_name(name: str) -> None:
    broker, transport = make()
    address = transport.parse(f"inproc://{name}")
    acceptor = await transport.listen(address, {})
    assert acceptor.address == str(address) == f"inproc://{name}"
    assert acceptor.fileno() == -1
    assert "listening" in repr(acceptor)
    ours, theirs = await connect(transport, acceptor.address, acceptor)
    for link in (ours, theirs):
        assert (link.local, link.remote, link.framing, link.properties) == (name, name, "shm", {})
    ours.sock.send(b"x")
    assert theirs.sock.recv(2) == b"x"
    for each in (ours, theirs, acceptor):
        each.close()
    assert broker.closed == [name]
    assert "closed" in repr(acceptor)


@on_loops
async def test_a_name_has_one_listener_at_a_time() -> None:
    broker, transport = make()
    address = transport.parse("inproc://x")
    acceptor = await transport.listen(address, {})
    with pytest.raises(AddrInUseError):
        await transport.listen(address, {})
    acceptor.close()
    acceptor.close()
    assert broker.closed == ["x"]
    (await transport.listen(address, {})).close()


@on_loops
async def test_nobody_listens_there() -> None:
    _, transport = make()
    with pytest.raises(ConnRefusedError):
        await transport.dial(transport.parse("inproc://x"), {})


@on_loops
async def test_close_ends_a_waiting_accept() -> None:
    _, transport = make()
    acceptor = await transport.listen(transport.parse("inproc://x"), {})
    waiting = asyncio.ensure_future(acceptor.accept())
    await turns()
    acceptor.close()
    with pytest.raises(ClosedError):
        await waiting
    with pytest.raises(ClosedError):
        await acceptor.accept()


@on_loops
async def test_a_handover_keeps_the_name() -> None:
    broker, transport = make()
    acceptor = await transport.listen(transport.parse("inproc://x"), {})
    acceptor.close(unlink=False)
    assert broker.closed == []
    assert "x" in broker.names


@on_loops
async def test_a_cancelled_accept_loses_no_connection() -> None:
    _, transport = make()
    acceptor = await transport.listen(transport.parse("inproc://x"), {})
    waiting = asyncio.ensure_future(acceptor.accept())
    await turns()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    dialled = await transport.dial(transport.parse("inproc://x"), {})
    await turns()  # the broker has answered the question of the cancelled accept
    accepted = await acceptor.accept()
    dialled.sock.send(b"x")
    assert accepted.sock.recv(2) == b"x"
    for each in (dialled, accepted, acceptor):
        each.close()


@on_loops
async def test_a_connection_that_came_too_late_is_closed() -> None:
    _, transport = make()
    acceptor = await transport.listen(transport.parse("inproc://x"), {})
    waiting = asyncio.ensure_future(acceptor.accept())
    await turns()
    dialled = await transport.dial(transport.parse("inproc://x"), {})
    acceptor.close()  # the answer is there, but accept() has not seen it
    with pytest.raises(ClosedError):
        await waiting
    await turns()
    assert dialled.sock.recv(1) == b""
    dialled.close()


@on_loops
async def test_an_answer_that_nobody_wants_any_more_is_closed() -> None:
    _, transport = make()
    acceptor = await transport.listen(transport.parse("inproc://x"), {})
    waiting = asyncio.ensure_future(acceptor.accept())
    await turns()
    waiting.cancel()
    dialled = await transport.dial(transport.parse("inproc://x"), {})
    await turns()
    acceptor.close()
    await turns()
    assert dialled.sock.recv(1) == b""
    dialled.close()


@on_loops
async def test_a_name_that_comes_when_nobody_wants_it_any_more_is_given_back() -> None:
    broker, transport = make()
    listening = asyncio.ensure_future(transport.listen(transport.parse("inproc://x"), {}))
    await asyncio.sleep(0)
    listening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listening
    await turns()
    assert broker.closed == ["x"]


@on_loops
async def test_a_broker_that_fails_once() -> None:
    broker, transport = make()
    acceptor = await transport.listen(transport.parse("inproc://x"), {})
    real = broker.incoming
    answers = [NetworkError("lost")]

    async def incoming(name: str) -> int:
        if answers:
            raise answers.pop()
        return await real(name)

    broker.incoming = incoming  # type: ignore[method-assign]
    with pytest.raises(NetworkError):
        await acceptor.accept()
    for each in (*await connect(transport, "inproc://x", acceptor), acceptor):
        each.close()


@on_loops
async def test_a_descriptor_that_is_no_socket() -> None:
    broker, transport = make()
    numbers = []

    async def dial(_: str) -> int:
        read, write = os.pipe()
        os.close(write)
        numbers.append(read)
        return read

    broker.dial = dial  # type: ignore[method-assign]
    with pytest.raises(SPError, match="dial inproc://x"):
        await transport.dial(transport.parse("inproc://x"), {})
    with pytest.raises(OSError):
        os.fstat(numbers[0])


@on_loops
async def test_nothing_can_be_inherited() -> None:
    _, transport = make()
    sock = socket.socket()
    with pytest.raises(BadValueError):
        await transport.listen(transport.parse("inproc://x"), {}, sock.detach())


@on_loops
async def test_the_broker_of_the_process() -> None:
    transport = transport_for("inproc://x")
    address = transport.parse("inproc://x")
    install_broker(None)
    with pytest.raises(InternalError, match="before its broker"):
        await transport.dial(address, {})
    install_broker(LocalBroker())
    try:
        acceptor = await transport.listen(address, {})
        acceptor.close()
    finally:
        install_broker(None)
    assert inproc._broker is None
