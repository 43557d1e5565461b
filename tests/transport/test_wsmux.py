"""A web server's line to the socket at one of its paths."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest
from transport.support import LocalBroker, on_loops, turns

from spworkers.errors import ClosedError, ConnRefusedError
from spworkers.transport.base import Link
from spworkers.transport.inproc import InprocAcceptor, InprocTransport
from spworkers.transport.wsmux import WINDOW, MuxAcceptor, MuxLine

BOUND = 30.0
pytestmark = pytest.mark.once


def make_link(sock: socket.socket, *, local: str, remote: str, early: bytes) -> Link:
    return Link(sock, "ws", local=local, remote=remote, properties={"EARLY": early})


class Mux:
    """Both ends."""

    def __init__(self) -> None:
        self.broker = LocalBroker()
        self.transport = InprocTransport(broker=self.broker)
        self.ended = 0

    async def listen(self) -> MuxAcceptor:
        names = await self.transport.listen(self.transport.parse("inproc://x"), {})
        assert isinstance(names, InprocAcceptor)
        return MuxAcceptor(names, "ws://h/x", make_link)

    async def line(self) -> MuxLine:
        return MuxLine(asyncio.get_running_loop(), socket.socket(fileno=await self.broker.dial("x")), self.end)

    def end(self) -> None:
        self.ended += 1


class Connection:
    """What a web server has accepted, and the other end of it."""

    def __init__(self) -> None:
        self.peer, self.sock = socket.socketpair()

    def give(self, line: MuxLine, number: int) -> asyncio.Task[bool]:
        facts: dict[str, Any] = {
            "local": "l",
            "remote": str(number),
            "early": b"\xff" * number,
            "properties": {"N": number},
        }
        return asyncio.get_running_loop().create_task(line.give(self.sock, **facts))

    def close(self) -> None:
        self.peer.close()
        self.sock.close()


@on_loops
async def test_connections_go_over_in_order_and_wait_until_they_are_accepted() -> None:
    mux = Mux()
    acceptor, line = await mux.listen(), await mux.line()
    connections = [Connection() for _ in range(WINDOW + 20)]
    given = [each.give(line, number) for number, each in enumerate(connections)]
    await turns(50)
    assert not any(task.done() for task in given), "nobody has accepted any"
    assert repr(line) == f"<MuxLine: open, 20 waiting, {WINDOW} sent>"
    for number, each in enumerate(connections):
        link = await asyncio.wait_for(acceptor.accept(), BOUND)
        assert await asyncio.wait_for(given[number], BOUND)
        assert (link.remote, link.properties) == (str(number), {"EARLY": b"\xff" * number, "N": number})
        each.sock.close()
        each.peer.send(b"hello")
        assert link.sock.recv(9) == b"hello"
        link.close()
        each.close()
    line.close()
    acceptor.close()
    await turns()
    assert (mux.ended, repr(line)) == (1, "<MuxLine: ended, 0 waiting, 0 sent>")


@on_loops
async def test_who_gives_up_leaves_nothing_behind() -> None:
    mux = Mux()
    acceptor, line = await mux.listen(), await mux.line()
    connections = [Connection() for _ in range(WINDOW + 5)]
    given = [each.give(line, number) for number, each in enumerate(connections)]
    await turns(50)
    for task, each in zip(given[:-1], connections, strict=False):
        task.cancel()
        each.close()
    await turns()
    assert repr(line) == f"<MuxLine: open, 1 waiting, {WINDOW} sent>"
    for _ in range(WINDOW):  # these are over already, as their links will find
        link = await asyncio.wait_for(acceptor.accept(), BOUND)
        assert link.sock.recv(1) == b""
        link.close()
    link = await asyncio.wait_for(acceptor.accept(), BOUND)
    assert link.remote == str(WINDOW + 4)
    assert await asyncio.wait_for(given[-1], BOUND)
    link.close()
    connections[-1].close()
    acceptor.close()
    await turns()
    assert mux.ended == 1


@on_loops
async def test_what_a_socket_has_not_accepted_when_it_goes_is_the_web_servers_still() -> None:
    mux = Mux()
    acceptor, line = await mux.listen(), await mux.line()
    connections = [Connection() for _ in range(3)]
    given = [each.give(line, number) for number, each in enumerate(connections)]
    (await asyncio.wait_for(acceptor.accept(), BOUND)).close()
    await turns()
    waiting = asyncio.get_running_loop().create_task(acceptor.accept())
    link = await asyncio.wait_for(waiting, BOUND)
    waiting = asyncio.get_running_loop().create_task(acceptor.accept())
    link.close()
    (await asyncio.wait_for(waiting, BOUND)).close()
    more = Connection()
    given.append(more.give(line, 3))
    await turns()
    acceptor.close()
    assert await asyncio.wait_for(asyncio.gather(*given), BOUND) == [True, True, True, False]
    assert mux.ended == 1
    assert await more.give(line, 4) is False
    more.peer.send(b"x")
    assert more.sock.recv(1) == b"x"
    with pytest.raises(ClosedError):
        await acceptor.accept()
    with pytest.raises(ConnRefusedError):
        await mux.line()
    for each in [*connections, more]:
        each.close()


@on_loops
async def test_who_waits_to_accept_is_told_of_the_end() -> None:
    mux = Mux()
    acceptor = await mux.listen()
    waiting = asyncio.get_running_loop().create_task(acceptor.accept())
    await turns()
    acceptor.close()
    with pytest.raises(ClosedError):
        await asyncio.wait_for(waiting, BOUND)


@pytest.mark.parametrize(
    "packet",
    [b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"\0\0\0\2\x93\0", b"\0\0\0\1\0"],
    ids=["too long", "no msgpack", "half", "no descriptor"],
)
@on_loops
async def test_nonsense_ends_a_line_and_the_next_one_is_read(packet: bytes) -> None:
    mux = Mux()
    acceptor = await mux.listen()
    with socket.socket(fileno=await mux.broker.dial("x")) as wrong:
        wrong.sendall(packet)
        wrong.shutdown(socket.SHUT_WR)
        line = await mux.line()
        each = Connection()
        given = each.give(line, 1)
        link = await asyncio.wait_for(acceptor.accept(), BOUND)
        assert await asyncio.wait_for(given, BOUND)
        assert link.remote == "1"
        link.close()
        each.close()
    line.close()
    acceptor.close()
    await turns()


@on_loops
async def test_a_second_descriptor_in_one_packet_is_closed() -> None:
    mux = Mux()
    acceptor = await mux.listen()
    read, write = os.pipe()
    with socket.socket(fileno=await mux.broker.dial("x")) as wrong:
        socket.send_fds(wrong, [b"\0\0"], [write])
        socket.send_fds(wrong, [b"\0\1\x80"], [write])
        os.close(write)
        wrong.setblocking(False)
        while True:  # until the line is ended
            try:
                assert wrong.recv(1) == b""
                break
            except BlockingIOError:
                await asyncio.sleep(0)
    assert os.read(read, 1) == b"", "the writing end is closed over there"
    os.close(read)
    acceptor.close()
    await turns()
