"""Raw REQ and REP: headers are the program's; relays made of them; threads that share one socket."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import Counter
from collections.abc import Iterator

import pytest
from helpers import eventually
from sockets.kit import (
    BOUND,
    REP,
    REQ,
    SOON,
    ask,
    background,
    callers_in,
    drops,
    inproc,
    number_of,
    numbered,
    raw_stream,
    request_id,
    serve,
    wait_pipes,
)

import spworkers as sp
from spworkers.testing import RawListener, RawPeer


def test_a_raw_rep_gets_the_way_back_as_its_header() -> None:
    with sp.Rep(raw=True, listen="tcp://127.0.0.1:0") as rep, RawPeer.dial(rep.listeners[0].address, REQ) as wire:
        wire.send(b"\0\0\0\7" + request_id(1) + b"body")
        message = rep.recv_msg(timeout=BOUND)
        assert message.body == b"body"
        assert message.header == message.pipe.id.to_bytes(4, "big") + b"\0\0\0\7" + request_id(1)
        rep.send_msg(sp.Message(b"reply", message.header))
        assert wire.recv() == b"\0\0\0\7" + request_id(1) + b"reply"


def test_a_raw_req_sends_its_header_as_it_is_and_gets_one_word_back() -> None:
    with RawListener() as server, sp.Req(raw=True, dial=server.address, dial_asynch=True) as req:
        with server.accept(REP) as wire:
            req.send_msg(sp.Message(b"body", b"\0\0\0\7" + request_id(1)))
            assert wire.recv() == b"\0\0\0\7" + request_id(1) + b"body"
            wire.send(request_id(1) + b"reply")
            message = req.recv_msg(timeout=BOUND)
            assert (message.header, message.body) == (request_id(1), b"reply")
            wire.send(b"\0\0\0")
            eventually(lambda: drops(req) == {"garbled": 1})


def test_raw_messages_with_a_header_that_leads_nowhere_are_dropped_and_counted() -> None:
    with sp.Rep(raw=True) as rep, sp.Req(raw=True) as req:
        for header in (b"", b"\0\0\0"):
            rep.send_msg(sp.Message(b"x", header))
            req.send_msg(sp.Message(b"x", header))
        rep.send_msg(sp.Message(b"x", b"\1\2\3\4" + request_id(1)))
        eventually(lambda: drops(rep) == {"bad_header": 2, "no_pipe": 1} and drops(req) == {"bad_header": 2})


@pytest.mark.parametrize("junk", [b"", b"\0\1", b"\0\1\2\3", b"\0\1\2\3\x80"])
def test_a_raw_rep_closes_a_pipe_that_sends_junk(junk: bytes) -> None:
    with sp.Rep(raw=True, listen="tcp://127.0.0.1:0") as rep, RawPeer.dial(rep.listeners[0].address, REQ) as wire:
        wire.send(junk)
        assert wire.ended()
        assert drops(rep) == {"garbled": 1}


def test_raw_sockets_have_no_contexts() -> None:
    with sp.Rep(raw=True) as rep, sp.Req(raw=True) as req:
        for sock in (rep, req):
            with pytest.raises(sp.NoContextError, match="raw sockets have no contexts"):
                sock.open_context()
            with pytest.raises(sp.ProtoOpError):
                sock.open_context()


def test_a_raw_rep_answers_cooked_requests_in_any_order() -> None:
    with sp.Rep(raw=True, listen=inproc()) as rep, sp.Req(dial=rep.listeners[0].address) as req:
        contexts = [req.open_context() for _ in range(5)]
        for number, context in enumerate(contexts):
            context.send(str(number).encode())
        messages = [rep.recv_msg(timeout=BOUND) for _ in contexts]
        for message in reversed(messages):
            rep.send_msg(sp.Message(bytes(message.body) * 2, message.header))
        for number, context in enumerate(contexts):
            assert context.recv(timeout=BOUND) == str(number).encode() * 2
            context.close()


def test_a_raw_reps_replies_to_a_peer_that_does_not_read_hold_up_no_other() -> None:
    with sp.Rep(raw=True, listen="tcp://127.0.0.1:0", writeq_len=2) as rep:
        address = rep.listeners[0].address
        with RawPeer.dial(address, REQ) as lazy, RawPeer.dial(address, REQ) as quick:
            lazy.send(request_id(1))
            way_to_lazy = bytes(rep.recv_msg(timeout=BOUND).header)
            quick.send(request_id(2))
            way_to_quick = bytes(rep.recv_msg(timeout=BOUND).header)
            with pytest.raises(sp.SendTimeoutError):
                for _ in itertools.count():
                    rep.send_msg(sp.Message(bytes(100_000), way_to_lazy), timeout=0.1)
            for _ in range(20):
                rep.send_msg(sp.Message(b"quick", way_to_quick), timeout=BOUND)
                assert quick.recv() == request_id(2) + b"quick"


# ---- relays: what sp.device does, done by hand


@contextlib.contextmanager
def relay(backend: str, ttl: int = 8) -> Iterator[str]:
    """A raw REP that passes requests on to a backend by a raw REQ, and replies back. Yields its address."""
    with sp.Rep(raw=True, listen=inproc(), ttl=ttl) as front, sp.Req(raw=True, dial=backend) as back:

        def forward(source: sp.Socket, target: sp.Socket) -> None:
            with contextlib.suppress(sp.ClosedError):
                while True:
                    message = source.recv_msg()
                    target.send_msg(message)

        threads = [threading.Thread(target=forward, args=way) for way in ((front, back), (back, front))]
        for thread in threads:
            thread.start()
        yield front.listeners[0].address
        front.close()
        back.close()
        for thread in threads:
            thread.join(BOUND)


def test_requests_and_replies_find_their_way_through_relays() -> None:
    with sp.Rep(listen=inproc()) as rep, relay(rep.listeners[0].address) as one, relay(one) as two:
        with sp.Req(dial=two) as req, sp.Req(dial=two) as other:
            served = serve(rep, 20)
            for number in range(10):
                assert ask(req, b"a%d" % number) == b"A%d" % number
                assert ask(other, b"b%d" % number) == b"B%d" % number
            served.result(BOUND)


@pytest.mark.parametrize(("ttl", "passes"), [(3, True), (2, False)])
def test_ttl_counts_relays_and_the_last_socket(ttl: int, passes: bool) -> None:
    with sp.Rep(listen=inproc(), ttl=ttl) as rep, relay(rep.listeners[0].address) as one, relay(one) as two:
        with sp.Req(dial=two) as req:
            req.send(b"x")
            if passes:
                assert rep.recv(timeout=BOUND) == b"x"
                rep.send(b"y")
                assert req.recv(timeout=BOUND) == b"y"
            else:
                eventually(lambda: drops(rep) == {"ttl": 1})


def test_ttl_holds_for_relays_too() -> None:
    with sp.Rep(listen=inproc()) as rep, relay(rep.listeners[0].address, ttl=1) as one, relay(one) as two:
        with sp.Req(dial=two) as req:
            req.send(b"x")
            with pytest.raises(sp.RecvTimeoutError):
                rep.recv(timeout=10 * SOON)


# ---- threads


def test_threads_that_share_raw_sockets_lose_and_double_nothing() -> None:
    senders, receivers, each = 6, 4, 500
    with raw_stream("tcp://127.0.0.1:0", sender={"writeq_len": 8}, receiver={"readq_len": 8}) as (sender, receiver):

        def send_all(number: int) -> None:
            for turn in range(each):
                sender.send_msg(numbered(number * each + turn, 300 if turn % 7 == 0 else 0), timeout=BOUND)

        def receive_all() -> list[int]:
            seen = []
            while (number := number_of(receiver.recv(timeout=BOUND))) < senders * each:
                seen.append(number)
            return seen

        receiving = [background(receive_all) for _ in range(receivers)]
        sending = [background(send_all, number) for number in range(senders)]
        for future in sending:
            future.result(60)
        for _ in range(receivers):
            sender.send_msg(numbered(senders * each))
        seen = [future.result(60) for future in receiving]
        assert Counter(itertools.chain(*seen)) == Counter(range(senders * each))
        for numbers in seen:  # each thread sees each sender's messages in order
            for sender_number in range(senders):
                own = [number for number in numbers if number // each == sender_number]
                assert own == sorted(own)


def test_threads_that_share_raw_sockets_without_queues_lose_and_double_nothing() -> None:
    senders, receivers, each = 4, 3, 150
    with raw_stream(sender={"writeq_len": 0}, receiver={"readq_len": 0}) as (sender, receiver):

        def send_all(number: int) -> None:
            for turn in range(each):
                sender.send_msg(numbered(number * each + turn), timeout=BOUND)

        def receive_all() -> list[int]:
            seen = []
            while (number := number_of(receiver.recv(timeout=BOUND))) < senders * each:
                seen.append(number)
            return seen

        receiving = [background(receive_all) for _ in range(receivers)]
        sending = [background(send_all, number) for number in range(senders)]
        for future in sending:
            future.result(60)
        for _ in range(receivers):
            sender.send_msg(numbered(senders * each), timeout=BOUND)
        assert Counter(itertools.chain(*(future.result(60) for future in receiving))) == Counter(range(senders * each))


def test_threads_that_wait_for_room_all_get_it() -> None:
    for _ in range(10):
        with sp.Req(raw=True, writeq_len=1) as req:
            req.send_msg(numbered(0))
            sending = [background(req.send_msg, numbered(number)) for number in range(1, 7)]
            eventually(lambda: callers_in(req) == 6)
            with sp.Rep(raw=True, listen=inproc()) as rep:
                req.dial(rep.listeners[0].address)
                assert sorted(number_of(rep.recv(timeout=BOUND)) for _ in range(7)) == list(range(7))
                for future in sending:
                    future.result(BOUND)


def test_threads_that_hand_over_all_finish() -> None:
    for _ in range(10):
        with sp.Req(raw=True, writeq_len=0) as req:
            sending = [background(req.send_msg, numbered(number)) for number in range(6)]
            eventually(lambda: callers_in(req) == 6)
            with sp.Rep(raw=True, listen=inproc()) as rep:
                req.dial(rep.listeners[0].address)
                assert sorted(number_of(rep.recv(timeout=BOUND)) for _ in range(6)) == list(range(6))
                for future in sending:
                    future.result(BOUND)


def test_one_thread_for_each_context_works_without_any_lock_of_the_users() -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep, sp.Req(dial=rep.listeners[0].address) as req:
        wait_pipes(rep)
        servers = [rep.open_context() for _ in range(3)]
        served = [serve(context, 200) for context in servers]

        def client(number: int) -> None:
            with req.open_context() as context:
                for turn in range(100):
                    body = f"{number} {turn}x".encode()
                    assert ask(context, body) == body.upper()

        clients = [background(client, number) for number in range(6)]
        for future in [*clients, *served]:
            future.result(60)
        for context in servers:
            context.close()
