"""fileno(): readable while a receive would not time out, for select, poll and event loops."""

from __future__ import annotations

import asyncio
import select
from typing import Any

import pytest
from helpers import eventually
from sockets.kit import (
    BOUND,
    REQ,
    SOON,
    ask,
    background,
    inproc,
    number_of,
    numbered,
    raw_stream,
    rep_and_req,
    request_id,
    serve,
    wait_pipes,
)

import spworkers as sp
from spworkers.testing import RawPeer


def readable(handle: Any, seconds: float = 0.0) -> bool:
    """Whether select says that something is there."""
    return bool(select.select([handle], [], [], seconds)[0])


def settled(handle: Any) -> bool:
    """Whether it is readable, after one receive at most has shown that the ring was too early."""
    if readable(handle):
        try:
            handle.recv(timeout=0)
        except sp.RecvTimeoutError:
            return readable(handle)
        raise AssertionError("there was a message")
    return False


def test_it_is_readable_from_the_first_message_to_the_last() -> None:
    with raw_stream() as (sender, receiver):
        assert not readable(receiver)
        for number in range(5):
            sender.send_msg(numbered(number))
        for number in range(5):
            assert readable(receiver, BOUND)
            assert number_of(receiver.recv(timeout=0)) == number
            if number < 4:
                eventually(lambda: readable(receiver))
        assert not settled(receiver)


def test_it_stays_readable_while_nobody_receives() -> None:
    with raw_stream() as (sender, receiver):
        assert not readable(receiver)
        sender.send_msg(numbered(1))
        for _ in range(3):
            assert readable(receiver, BOUND)
        assert receiver.recv(timeout=0) == b"1"
        assert not settled(receiver)


def test_it_is_readable_at_once_if_a_message_waited_before_it_was_asked_for() -> None:
    with raw_stream() as (sender, receiver):
        sender.send_msg(numbered(1))
        eventually(lambda: receiver.stats()["received"] == 1)
        eventually(lambda: readable(receiver))
        assert receiver.recv(timeout=0) == b"1"


def test_a_server_can_be_driven_by_select_alone() -> None:
    with rep_and_req() as (rep, req):

        def serve_all() -> int:
            count = 0
            while True:
                assert readable(rep, BOUND)
                try:
                    body = rep.recv(timeout=0)
                except sp.RecvTimeoutError:
                    continue
                rep.send(body.upper())
                count += 1
                if body == b"end":
                    return count

        serving = background(serve_all)
        for number in range(200):
            assert ask(req, b"x%d" % number) == b"X%d" % number
        assert ask(req, b"end") == b"END"
        assert serving.result(BOUND) == 201


def test_a_client_can_be_driven_by_select_alone() -> None:
    with rep_and_req() as (rep, req):
        serve(rep, 50)
        for number in range(50):
            req.send(b"x%d" % number)
            assert readable(req, BOUND)
            assert eventually(lambda: _try(req)) == b"X%d" % number


def _try(handle: Any) -> bytes | None:
    if not readable(handle):
        return None
    found: bytes = handle.recv(timeout=0)
    return found


def test_each_of_several_contexts_is_readable_for_its_own_reply_only() -> None:
    with rep_and_req() as (rep, req):
        one, two = req.open_context(), req.open_context()
        one.send(b"one")
        two.send(b"two")
        assert not readable(one)
        assert not readable(two)
        first = rep.recv(timeout=BOUND)
        rep.send(first)
        mine, other = (one, two) if first == b"one" else (two, one)
        assert readable(mine, BOUND)
        assert not readable(other)
        assert mine.recv(timeout=0) == first
        rep.recv(timeout=BOUND)
        rep.send(b"now")
        assert readable(other, BOUND)
        assert other.recv(timeout=0) == b"now"
        one.close()
        two.close()


def test_several_rep_contexts_can_be_driven_by_select() -> None:
    """A descriptor that is watched counts as a receiver that waits, also when there are several contexts."""
    with sp.Rep(listen=inproc()) as rep, sp.Req(dial=rep.listeners[0].address) as req:
        servers = [rep.open_context() for _ in range(3)]

        def serve_all() -> int:
            count = 0
            while True:
                for server in select.select(servers, [], [], BOUND)[0]:
                    try:
                        body = server.recv(timeout=0)
                    except sp.RecvTimeoutError:
                        continue
                    server.send(body.upper())
                    count += 1
                    if body == b"end":
                        return count

        serving = background(serve_all)
        clients = [req.open_context() for _ in range(5)]
        for turn in range(40):
            for number, client in enumerate(clients):
                client.send(b"x%d" % (number + turn))
            for number, client in enumerate(clients):
                assert client.recv(timeout=BOUND) == b"X%d" % (number + turn)
        assert ask(req, b"end") == b"END"
        assert serving.result(BOUND) == 201
        for context in [*servers, *clients]:
            context.close()


def test_a_watched_sole_context_stays_watched_when_others_are_opened() -> None:
    with rep_and_req() as (rep, req):
        assert not readable(rep)
        with rep.open_context():
            req.send(b"x")
            assert readable(rep, BOUND)
            assert rep.recv(timeout=0) == b"x"
            rep.send(b"y")
            assert req.recv(timeout=BOUND) == b"y"


def test_what_a_watched_context_has_not_taken_is_not_lost_when_it_is_closed() -> None:
    with rep_and_req() as (rep, req):
        with rep.open_context() as context:
            assert not readable(context)
            req.send(b"x")
            assert readable(context, BOUND)
        assert rep.recv(timeout=BOUND) == b"x"


def test_a_reply_to_a_request_that_was_given_up_does_not_make_it_readable_for_long() -> None:
    with rep_and_req() as (rep, req):
        assert not readable(req)
        req.send(b"first")
        rep.recv(timeout=BOUND)
        rep.send(b"unwanted")
        assert readable(req, BOUND)
        req.send(b"second")
        assert not readable(req)
        rep.recv(timeout=BOUND)
        rep.send(b"wanted")
        assert readable(req, BOUND)
        assert req.recv(timeout=0) == b"wanted"


def test_a_blocking_recv_beside_it_works() -> None:
    with raw_stream() as (sender, receiver):
        assert not readable(receiver)
        waiting = background(receiver.recv, timeout=BOUND)
        sender.send_msg(numbered(1))
        assert waiting.result(BOUND) == b"1"
        with pytest.raises(sp.RecvTimeoutError):
            receiver.recv(timeout=SOON)
        sender.send_msg(numbered(2))
        assert readable(receiver, BOUND)
        assert receiver.recv(timeout=0) == b"2"


def test_a_queue_of_zero_can_be_watched() -> None:
    with raw_stream(receiver={"readq_len": 0}) as (sender, receiver):
        assert not readable(receiver)
        for number in range(5):
            sender.send_msg(numbered(number))
        for number in range(5):
            assert eventually(lambda: _try(receiver)) == str(number).encode()
        assert not settled(receiver)


def test_asyncio_can_watch_it() -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep, RawPeer.dial(rep.listeners[0].address, REQ) as wire:
        wait_pipes(rep)

        async def main() -> None:
            loop = asyncio.get_running_loop()
            got: list[bytes] = []
            done = asyncio.Event()

            def readable() -> None:
                try:
                    got.append(rep.recv(timeout=0))
                except sp.RecvTimeoutError:
                    return
                rep.send(b"ok")
                if len(got) == 20:
                    done.set()

            loop.add_reader(rep.fileno(), readable)
            for number in range(20):
                wire.send(request_id(number) + str(number).encode())
            await asyncio.wait_for(done.wait(), BOUND)
            loop.remove_reader(rep.fileno())
            assert got == [str(number).encode() for number in range(20)]

        asyncio.run(main())
