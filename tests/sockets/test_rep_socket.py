"""REP, from the user's side: a reply goes back where its request came from, and only then."""

from __future__ import annotations

import itertools

import pytest
from helpers import eventually
from sockets.kit import (
    BOUND,
    REQ,
    SOON,
    ask,
    background,
    callers_in,
    drops,
    error_of,
    inproc,
    rep_and_req,
    request_id,
    serve,
    wait_blocked,
    wait_pipes,
)

import spworkers as sp
from spworkers.testing import RawPeer


def test_send_without_a_request_is_out_of_turn() -> None:
    with rep_and_req() as (rep, req):
        with pytest.raises(sp.ProtoStateError, match="no request to reply to; call recv first"):
            rep.send(b"x")
        req.send(b"x")
        rep.recv(timeout=BOUND)
        rep.send(b"once")
        with pytest.raises(sp.ProtoStateError):
            rep.send(b"twice")
        assert req.recv(timeout=BOUND) == b"once"


def test_recv_again_abandons_the_request_before() -> None:
    with rep_and_req() as (rep, req):
        with req.open_context() as other:
            req.send(b"first")
            assert rep.recv(timeout=BOUND) == b"first"
            other.send(b"second")
            assert rep.recv(timeout=BOUND) == b"second"
            rep.send(b"for the second")
            assert other.recv(timeout=BOUND) == b"for the second"
            with pytest.raises(sp.RecvTimeoutError):
                req.recv(timeout=SOON)


def test_a_second_recv_on_one_context_is_out_of_turn() -> None:
    with sp.Rep() as rep:
        first = background(rep.recv)
        wait_blocked(rep)
        with pytest.raises(sp.ProtoStateError, match="another recv waits"):
            rep.recv()
        rep.close()
        assert isinstance(error_of(first), sp.ClosedError)


def test_a_reply_to_a_peer_that_is_gone_is_dropped_and_counted() -> None:
    with sp.Rep(listen=inproc()) as rep:
        with sp.Req(dial=rep.listeners[0].address) as req:
            req.send(b"x")
            assert rep.recv(timeout=BOUND) == b"x"
        wait_pipes(rep, 0)
        rep.send(b"nobody there")
        eventually(lambda: drops(rep) == {"no_pipe": 1})


def test_requests_wait_with_their_peer_until_they_are_wanted() -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep, RawPeer.dial(rep.listeners[0].address, REQ) as wire:
        for number in range(9):
            wire.send(request_id(number) + str(number).encode())
        for number in range(9):
            assert rep.recv(timeout=BOUND) == str(number).encode()
            rep.send(b"done")
            assert wire.recv() == request_id(number) + b"done"


def test_several_peers_are_served_in_turn() -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
        address = rep.listeners[0].address
        with RawPeer.dial(address, REQ) as busy, RawPeer.dial(address, REQ) as modest:
            wait_pipes(rep, 2)
            for number in range(50):
                busy.send(request_id(number) + b"busy")
            assert rep.recv(timeout=BOUND) == b"busy"
            modest.send(request_id(1) + b"modest")
            eventually(lambda: all(info["received"] for info in rep._request("pipes")), what="both to be heard")
            seen = [rep.recv(timeout=BOUND) for _ in range(10)]  # 8 at most lie ready when it comes
            assert b"modest" in seen


@pytest.mark.parametrize("queue", [0, 5])
def test_a_peer_that_does_not_read_its_replies_blocks_send_until_its_deadline(queue: int) -> None:
    """As many replies as its kernel takes go out at once; then WRITEQ-LEN of them wait, at least one."""
    with sp.Rep(listen="tcp://127.0.0.1:0", writeq_len=queue, send_deadline=0.2) as rep:
        with RawPeer.dial(rep.listeners[0].address, REQ) as wire:
            for number in range(1000):
                wire.send(request_id(number))
            with pytest.raises(sp.SendTimeoutError, match="does not read its replies"):
                for sent in itertools.count(1):
                    rep.recv(timeout=BOUND)
                    rep.send(bytes(100_000))
            with pytest.raises(sp.ProtoStateError):
                rep.send(b"the request was used up")
            rep.recv(timeout=BOUND)
            waiting = background(rep.send, bytes(100_000), timeout=BOUND)
            wait_blocked(rep)
            for number in range(sent - 1):
                assert wire.recv()[:4] == request_id(number)
            waiting.result(BOUND)
            assert wire.recv()[:4] == request_id(sent)


def test_a_peer_that_does_not_read_holds_up_no_other() -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0", send_deadline=0.02) as rep:
        address = rep.listeners[0].address
        with RawPeer.dial(address, REQ) as wire, sp.Req(dial=address) as req:
            for number in range(60):
                wire.send(request_id(number))

            def serve_all() -> None:
                while True:
                    if rep.recv(timeout=BOUND) == b"end":
                        rep.send(b"bye")
                        return
                    try:
                        rep.send(bytes(100_000))
                    except sp.SendTimeoutError:
                        continue

            serving = background(serve_all)
            for _ in range(5):
                assert len(ask(req, b"x")) == 100_000
            assert ask(req, b"end") == b"bye"
            serving.result(BOUND)


def test_best_effort_drops_the_reply_that_finds_no_room() -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0", best_effort=True) as rep:
        with RawPeer.dial(rep.listeners[0].address, REQ) as wire:
            for number in range(300):
                wire.send(request_id(number))
            for _ in range(300):
                rep.recv(timeout=BOUND)
                rep.send(bytes(100_000))
            assert sum(drops(rep).values()) > 0


def test_closing_the_socket_aborts_a_reply_that_waits() -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0", linger=-1) as rep, RawPeer.dial(rep.listeners[0].address, REQ) as wire:
        for number in range(1000):
            wire.send(request_id(number))

        def flood() -> None:
            while True:
                rep.recv(timeout=BOUND)
                rep.send(bytes(100_000))

        flooding = background(flood)
        eventually(lambda: callers_in(rep) and rep.stats()["sent"] > 2)
        rep.close()
        assert isinstance(error_of(flooding), sp.ClosedError)


def test_a_pipe_that_is_lost_takes_its_waiting_replies_along_and_frees_the_sender() -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
        with RawPeer.dial(rep.listeners[0].address, REQ) as wire:
            for number in range(1000):
                wire.send(request_id(number))

            def flood() -> int:
                for count in itertools.count():
                    if rep.recv(timeout=BOUND) == b"end":
                        return count
                    rep.send(bytes(100_000))
                return 0

            flooding = background(flood)
            eventually(lambda: callers_in(rep) and rep.stats()["sent"] > 2)
        with sp.Req(dial=rep.listeners[0].address) as req:
            req.send(b"end")
            assert flooding.result(BOUND) > 2
            assert sum(drops(rep).values()) > 0


# ---- contexts


def test_contexts_serve_side_by_side() -> None:
    with sp.Rep(listen=inproc()) as rep, sp.Req(dial=rep.listeners[0].address) as req:
        servers = [rep.open_context() for _ in range(30)]
        served = [serve(server, 20) for server in servers]
        clients = [req.open_context() for _ in range(30)]

        def run(client: sp.Context, number: int) -> None:
            for turn in range(20):
                body = f"{number}-{turn}x"
                assert ask(client, body.encode()) == body.upper().encode()

        running = [background(run, client, number) for number, client in enumerate(clients)]
        for future in running:
            future.result(60)
        for each in served:
            each.result(BOUND)
        for context in [*servers, *clients]:
            context.close()


def test_a_request_goes_to_the_context_that_waits() -> None:
    with rep_and_req() as (rep, req):
        idle, busy = rep.open_context(), rep.open_context()
        waiting = background(busy.recv)
        wait_blocked(busy)
        req.send(b"x")
        assert waiting.result(BOUND) == b"x"
        busy.send(b"y")
        assert req.recv(timeout=BOUND) == b"y"
        idle.close()
        busy.close()


def test_a_request_that_lies_untaken_is_not_lost_when_a_second_context_wants_one() -> None:
    """A sole context has a request in advance; it is taken back as soon as it is not the only one any more."""
    with rep_and_req() as (rep, req):
        req.send(b"x")
        eventually(lambda: rep.stats()["received"] == 1)
        with rep.open_context() as context:
            assert context.recv(timeout=BOUND) == b"x"
            context.send(b"y")
            assert req.recv(timeout=BOUND) == b"y"
        served = serve(rep)
        assert ask(req, b"z") == b"Z"
        served.result(BOUND)


def test_a_context_that_is_closed_gives_back_the_request_that_it_did_not_take() -> None:
    with rep_and_req() as (rep, req):
        for number in range(50):
            body = str(number).encode()
            context = rep.open_context()
            waiting = background(context.recv)
            wait_blocked(context)
            sending = background(req.send, body)  # while the context is being closed
            context.close()
            sending.result(BOUND)
            try:
                assert waiting.result(BOUND) == body
            except sp.ClosedError:
                assert rep.recv(timeout=BOUND) == body


def test_recv_with_timeout_zero_on_one_of_several_contexts_finds_a_request() -> None:
    """It cannot wait for what it asks for, but what it asked for is there the next time."""
    with rep_and_req() as (rep, req):
        with rep.open_context() as context:
            req.send(b"x")

            def poll() -> bytes | None:
                try:
                    return context.recv(timeout=0)
                except sp.RecvTimeoutError:
                    return None

            assert eventually(poll) == b"x"
            context.send(b"y")
            assert req.recv(timeout=BOUND) == b"y"


# ---- TTL


@pytest.mark.parametrize(
    ("ttl", "hops", "passes"), [(1, 0, True), (1, 1, False), (3, 2, True), (3, 3, False), (255, 254, True)]
)
def test_a_request_that_passed_too_many_devices_is_dropped(ttl: int, hops: int, passes: bool) -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0", ttl=ttl) as rep, RawPeer.dial(rep.listeners[0].address, REQ) as wire:
        words = b"".join(number.to_bytes(4, "big") for number in range(1, hops + 1))
        wire.send(words + request_id(1) + b"x")
        if passes:
            assert rep.recv(timeout=BOUND) == b"x"
            rep.send(b"y")
            assert wire.recv() == words + request_id(1) + b"y"
        else:
            eventually(lambda: drops(rep) == {"ttl": 1})
            wire.send(request_id(2) + b"the pipe lives")
            assert rep.recv(timeout=BOUND) == b"the pipe lives"


@pytest.mark.parametrize("junk", [b"", b"\0", b"\0\1", b"\0\1\2\3", bytes(8)])
def test_a_request_without_an_id_closes_its_pipe(junk: bytes) -> None:
    with sp.Rep(listen="tcp://127.0.0.1:0") as rep, sp.Req(dial=rep.listeners[0].address) as req:
        with RawPeer.dial(rep.listeners[0].address, REQ) as wire:
            wire.send(junk)
            assert wire.ended()
        assert drops(rep)["garbled"] == 1
        served = serve(rep)
        assert ask(req, b"x") == b"X"
        served.result(BOUND)
