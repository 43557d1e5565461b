"""Connecting to the first of several addresses that answers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator

import pytest
from helpers import aeventually
from transport.support import on_loops, turns

from spworkers.transport import race
from spworkers.transport.race import AllFailedError, Target, connect_first, interleave

V4, V6 = socket.AF_INET, socket.AF_INET6


def target(sockaddr: tuple[object, ...], family: int = V4) -> Target:
    return Target(family, sockaddr, f"{sockaddr[0]}:{sockaddr[1]}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def silent_server() -> Iterator[tuple[str, int]]:
    """An address where connecting takes for ever: the backlog is full, so the kernel drops what else comes."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()


def test_families_take_turns() -> None:
    four = [target((f"127.0.0.{n}", 1)) for n in range(3)]
    six = [target((f"::{n}", 1), V6) for n in range(2)]
    assert interleave([*four, *six]) == [four[0], six[0], four[1], six[1], four[2]]
    assert interleave([*six, *four]) == [six[0], four[0], six[1], four[1], four[2]]
    assert interleave([]) == []


@on_loops
async def test_one_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = await connect_first([target(server.getsockname())])
        with sock:
            assert sock.getpeername() == server.getsockname()
            assert not sock.getblocking()


@on_loops
async def test_the_next_one_starts_at_once_when_one_fails() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        dead = [target(("127.0.0.1", free_port())), target(("127.0.0.1", free_port()))]
        # Nobody waits for this stagger: the test would time out.
        sock = await connect_first([*dead, target(server.getsockname())], stagger=1000)
        sock.close()


@on_loops
async def test_a_silent_address_holds_up_the_next_one_by_the_stagger_only() -> None:
    with silent_server() as silent, socket.create_server(("127.0.0.1", 0)) as server:
        sock = await connect_first([target(silent), target(server.getsockname())], stagger=0.01)
        with sock:
            assert sock.getpeername() == server.getsockname()


@on_loops
async def test_all_failed() -> None:
    # A link-local address without its interface: the kernel refuses to think about it.
    refused, other = target(("127.0.0.1", free_port())), target(("fe80::1", 1, 0, 0), V6)
    with pytest.raises(AllFailedError) as caught:
        await connect_first([other, refused])
    assert [each.target for each in caught.value.failures] == [other, refused]
    assert caught.value.chief.errno == errno.ECONNREFUSED
    assert refused.text in str(caught.value)


@on_loops
async def test_no_descriptors() -> None:
    def none_left(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(race.socket, "socket", none_left)
        with pytest.raises(AllFailedError) as caught:
            await connect_first([target(("127.0.0.1", 1)), target(("127.0.0.1", 2))])
    assert caught.value.chief.errno == errno.EMFILE
    assert len(caught.value.failures) == 2


@on_loops
async def test_a_cancelled_race_leaves_nothing() -> None:
    with silent_server() as silent:
        contest = race._Race(asyncio.get_running_loop(), [target(silent)] * 2, 0.001)
        running = asyncio.ensure_future(contest.run())
        await aeventually(lambda: len(contest._running) == 2)
        attempts = list(contest._running)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert [sock.fileno() for sock in attempts] == [-1, -1]


@on_loops
async def test_a_race_that_is_cancelled_when_it_is_won() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        contest = race._Race(asyncio.get_running_loop(), [target(server.getsockname())], 1)
        running = asyncio.ensure_future(contest.run())
        won = contest._winner
        won.add_done_callback(lambda _: running.cancel())  # it comes before the task goes on
        with pytest.raises(asyncio.CancelledError):
            await running
        assert won.result().fileno() == -1


@on_loops
async def test_the_losers_are_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        targets = [target(server.getsockname()) for _ in range(3)]
        contest = race._Race(asyncio.get_running_loop(), targets, 0)
        for _ in targets:  # all of them at once
            contest._start_next()
        sock = await contest.run()
        sock.close()
        await turns()


@on_loops
async def test_a_socket_never_connects_to_itself() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    contest = race._Race(asyncio.get_running_loop(), [], 1)
    itself = socket.socket()
    itself.bind(("127.0.0.1", port))
    itself.connect(("127.0.0.1", port))  # TCP's simultaneous open
    assert not contest._connected(itself, target(("127.0.0.1", port)))
    assert itself.fileno() == -1
    assert [each.error.errno for each in contest._failures] == [errno.ECONNREFUSED]


class Instant(socket.socket):
    """Connects without any delay, as some systems do on loopback."""

    def connect_ex(self, sockaddr: object) -> int:
        self.setblocking(True)
        self.connect(sockaddr)  # type: ignore[arg-type]
        self.setblocking(False)
        return 0


@on_loops
async def test_a_connect_that_succeeds_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(race.socket, "socket", Instant)
        sock = await connect_first([target(server.getsockname())] * 2)
        sock.close()


@on_loops
async def test_a_connection_that_is_gone_before_it_is_looked_at() -> None:
    """Whether it was reset, or is one with itself, the next address is tried."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        contest = race._Race(asyncio.get_running_loop(), [target(server.getsockname())] * 2, 1000)
        real, first = contest._connected, []

        def gone_once(sock: socket.socket, where: Target) -> bool:
            if not first:
                first.append(sock)
                sock.close()
                sock = socket.socket()  # not connected
            return real(sock, where)

        contest._connected = gone_once  # type: ignore[method-assign]
        sock = await contest.run()
        assert [each.error.errno for each in contest._failures] == [errno.ENOTCONN]
        sock.close()
