"""REQ, from the user's side: one request at a time, cancelled, retried, answered by whoever has it."""

from __future__ import annotations

import itertools
import time

import pytest
from helpers import eventually
from sockets.kit import (
    BOUND,
    REP,
    SOON,
    ask,
    background,
    drops,
    error_of,
    inproc,
    rep_and_req,
    serve,
    wait_blocked,
    wait_pipes,
)

import spworkers as sp
from spworkers.testing import RawListener


def test_recv_without_a_request_is_out_of_turn() -> None:
    with rep_and_req() as (rep, req):
        for _ in range(2):
            with pytest.raises(sp.ProtoStateError, match="no request is outstanding; call send first"):
                req.recv()
        serve(rep)
        assert ask(req, b"x") == b"X"
        with pytest.raises(sp.ProtoStateError):
            req.recv()


def test_a_second_recv_beside_one_that_waits_is_out_of_turn() -> None:
    with rep_and_req() as (rep, req):
        req.send(b"x")
        first = background(req.recv)
        wait_blocked(req)
        with pytest.raises(sp.ProtoStateError, match="another recv waits"):
            req.recv()
        serve(rep)
        assert first.result(BOUND) == b"X"


def test_a_deadline_gives_the_request_up_and_its_reply_is_dropped() -> None:
    with rep_and_req() as (rep, req):
        req.send(b"slow")
        assert rep.recv(timeout=BOUND) == b"slow"
        with pytest.raises(sp.RecvTimeoutError, match=r"no reply came within 0\.\d+ s: Req socket"):
            req.recv(timeout=SOON)
        with pytest.raises(sp.ProtoStateError):
            req.recv(timeout=SOON)
        rep.send(b"late")
        served = serve(rep)
        assert ask(req, b"quick") == b"QUICK"
        served.result(BOUND)
        # The second where it came before the I/O process had heard that the request is given up.
        eventually(lambda: drops(req) in ({"unknown_reply": 1}, {"canceled": 1}))


def test_recv_with_timeout_zero_gives_the_request_up_too() -> None:
    with rep_and_req() as (_rep, req):
        req.send(b"x")
        with pytest.raises(sp.RecvTimeoutError):
            req.recv(timeout=0)
        with pytest.raises(sp.ProtoStateError):
            req.recv(timeout=0)


def test_a_new_request_cancels_the_former_and_discards_its_reply() -> None:
    with rep_and_req() as (rep, req):
        req.send(b"first")
        assert rep.recv(timeout=BOUND) == b"first"
        rep.send(b"answer to the first")
        eventually(lambda: req.stats()["received"] == 1)
        req.send(b"second")
        served = serve(rep)
        assert req.recv(timeout=BOUND) == b"SECOND"
        assert served.result(BOUND) == [b"second"]


def test_many_cancelled_requests_leave_nothing_behind() -> None:
    with rep_and_req(rep={"recv_deadline": BOUND}) as (rep, req):

        def answer_all() -> None:
            while rep.recv() != b"last":
                rep.send(b"too late")
            rep.send(b"in time")

        answering = background(answer_all)  # first: the kernel's buffers do not take a thousand
        for number in range(1000):
            req.send(str(number).encode())
        assert ask(req, b"last") == b"in time"
        answering.result(BOUND)
        eventually(lambda: req._port.tx.queued == 0)


def test_send_waits_for_a_peer_and_goes_out_when_one_comes() -> None:
    with sp.Req() as req:
        blocked = background(req.send, b"patient")
        wait_blocked(req)
        with sp.Rep(listen=inproc()) as rep:
            req.dial(rep.listeners[0].address)
            blocked.result(BOUND)
            assert rep.recv(timeout=BOUND) == b"patient"


def test_send_times_out_without_a_peer_and_the_request_is_gone() -> None:
    with sp.Req(send_deadline=SOON) as req:
        with pytest.raises(sp.SendTimeoutError, match="no peer took the request"):
            req.send(b"nobody")
        with pytest.raises(sp.ProtoStateError):
            req.recv()
        with sp.Rep(listen=inproc()) as rep:
            req.dial(rep.listeners[0].address)
            with pytest.raises(sp.RecvTimeoutError):
                rep.recv(timeout=SOON)


def test_best_effort_keeps_the_request_until_a_peer_comes() -> None:
    """There is no queue that could be full: the request is the context's one."""
    with sp.Req(best_effort=True) as req:
        req.send(b"first")
        req.send(b"second")
        with sp.Rep(listen=inproc()) as rep:
            req.dial(rep.listeners[0].address)
            assert rep.recv(timeout=BOUND) == b"second"
            rep.send(b"yes")
            assert req.recv(timeout=BOUND) == b"yes"
        req.best_effort = False
        wait_pipes(req, 0)
        with pytest.raises(sp.SendTimeoutError):
            req.send(b"third", timeout=SOON)


# ---- fail-no-peers


def test_fail_no_peers_fails_send_and_recv_at_once() -> None:
    with sp.Req(fail_no_peers=True) as req:
        with pytest.raises(sp.NoPeersError, match="FAIL-NO-PEERS"):
            req.send(b"x")
        with pytest.raises(sp.NoPeersError):
            req.recv()


def test_fail_no_peers_lets_requests_through_while_there_is_a_peer() -> None:
    with rep_and_req(req={"fail_no_peers": True}) as (rep, req):
        served = serve(rep, 3)
        for _ in range(3):
            assert ask(req, b"x") == b"X"
        served.result(BOUND)


def test_fail_no_peers_ends_a_recv_when_the_last_peer_goes() -> None:
    with sp.Req(fail_no_peers=True, reconnect_time=BOUND) as req:
        with sp.Rep(listen=inproc()) as rep:
            req.dial(rep.listeners[0].address)
            req.send(b"x")
            waiting = background(req.recv)
            wait_blocked(req)
            assert rep.recv(timeout=BOUND) == b"x"
        assert isinstance(error_of(waiting), sp.NoPeersError)
        with pytest.raises(sp.NoPeersError):
            req.send(b"y")


def test_fail_no_peers_that_is_set_later_ends_a_send_that_waits() -> None:
    with sp.Req() as req:
        blocked = background(req.send, b"x")
        wait_blocked(req)
        req.fail_no_peers = True
        assert isinstance(error_of(blocked), sp.NoPeersError)


# ---- retries


def test_a_request_is_sent_again_after_retry_time_until_it_is_answered() -> None:
    with RawListener() as server, sp.Req(dial_asynch=True, dial=server.address, retry_time=0.02) as req:
        with server.accept(REP) as wire:
            req.send(b"query")
            first, second = wire.recv(), wire.recv()
            assert first == second
            assert first[4:] == b"query"
            assert first[0] & 0x80
            wire.send(first[:4] + b"answer")
            assert req.recv(timeout=BOUND) == b"answer"
            sent = req.stats()["sent"]
            time.sleep(0.1)  # nothing shall come: there is no event to wait for
            assert req.stats()["sent"] == sent


def test_a_retry_time_of_a_nanosecond_floods_nobody() -> None:
    with rep_and_req(req={"retry_time": 1e-9}) as (rep, req):
        served = serve(rep, 1)
        assert ask(req, b"x") == b"X"
        served.result(BOUND)
        assert req.stats()["sent"] < 5000


def test_retry_time_zero_never_sends_again_and_a_lost_peer_cancels() -> None:
    with sp.Req(retry_time=0, reconnect_time=0.01) as req:
        with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
            address = rep.listeners[0].address
            req.dial(address)
            req.send(b"not idempotent")
            waiting = background(req.recv)
            wait_blocked(req)
            assert rep.recv(timeout=BOUND) == b"not idempotent"
        error = error_of(waiting)
        assert isinstance(error, sp.CanceledError)
        assert "RETRY-TIME is 0" in str(error)
        with sp.Rep(listen=address) as rep:
            wait_pipes(rep)
            with pytest.raises(sp.RecvTimeoutError):
                rep.recv(timeout=SOON)


def test_a_request_whose_peer_died_goes_to_another_at_once() -> None:
    with sp.Rep(listen=inproc()) as second, sp.Req(retry_time=3600, reconnect_time=3600) as req:
        with sp.Rep(listen=inproc()) as first:
            req.dial(first.listeners[0].address)
            req.dial(second.listeners[0].address)
            req.send(b"x")
            assert first.recv(timeout=BOUND) == b"x"
        assert second.recv(timeout=BOUND) == b"x"
        second.send(b"from the second")
        assert req.recv(timeout=BOUND) == b"from the second"


def test_a_request_is_retried_at_a_peer_that_comes_back() -> None:
    with sp.Req(reconnect_time=0.01) as req:
        with sp.Rep(listen="tcp://127.0.0.1:0") as rep:
            address = rep.listeners[0].address
            req.dial(address)
            req.send(b"x")
            assert rep.recv(timeout=BOUND) == b"x"
        with sp.Rep(listen=address) as rep:
            served = serve(rep)
            assert req.recv(timeout=BOUND) == b"X"
            served.result(BOUND)


def test_a_late_listener_gets_the_request() -> None:
    address = inproc()
    with sp.Req(dial=address, dial_asynch=True, reconnect_time=0.01) as req:
        asking = background(ask, req, b"early")
        wait_blocked(req)
        with sp.Rep(listen=address) as rep:
            served = serve(rep)
            assert asking.result(BOUND) == b"EARLY"
            served.result(BOUND)


def test_only_the_first_reply_counts_and_garbage_is_counted() -> None:
    with RawListener() as server, sp.Req(dial=server.address, dial_asynch=True) as req:
        with server.accept(REP) as wire:
            req.send(b"x")
            key = wire.recv()[:4]
            wire.send(b"")
            wire.send(b"\x80\0\0")
            wire.send(b"\x7f\0\0\1no top bit")
            wire.send(b"\x80\0\0\1some other request" if key != b"\x80\0\0\1" else b"\x80\0\0\2some other request")
            wire.send(key + b"first")
            wire.send(key + b"second")
            assert req.recv(timeout=BOUND) == b"first"
            eventually(lambda: drops(req) == {"garbled": 3, "unknown_reply": 2})
            assert len(req.pipes) == 1


def test_request_ids_go_up_by_one() -> None:
    with RawListener() as server, sp.Req(dial=server.address, dial_asynch=True) as req, server.accept(REP) as wire:
        ids = []
        for _ in range(3):
            req.send(b"x")
            frame = wire.recv()
            ids.append(int.from_bytes(frame[:4], "big") & 0x7FFFFFFF)
            wire.send(frame)
            assert req.recv(timeout=BOUND) == b"x"
        assert all((a + 1) & 0x7FFFFFFF == b for a, b in itertools.pairwise(ids))


# ---- contexts


def test_contexts_are_independent_conversations() -> None:
    with rep_and_req() as (rep, req):
        with req.open_context() as one, req.open_context() as two:
            one.send(b"one")
            two.send(b"two")
            first = rep.recv(timeout=BOUND)
            with rep.open_context() as other:
                second = other.recv(timeout=BOUND)
                assert {first, second} == {b"one", b"two"}
                other.send(second.upper())
            rep.send(first.upper())
            assert (two.recv(timeout=BOUND), one.recv(timeout=BOUND)) == (b"TWO", b"ONE")


def test_closing_a_context_aborts_its_blocked_calls_only() -> None:
    with sp.Req() as req:
        one, two = req.open_context(), req.open_context()
        calls = [background(one.send, b"1"), background(two.send, b"2")]
        wait_blocked(one)
        wait_blocked(two)
        one.close()
        assert isinstance(error_of(calls[0]), sp.ClosedError)
        with sp.Rep(listen=inproc()) as rep:
            req.dial(rep.listeners[0].address)
            calls[1].result(BOUND)
            served = serve(rep)
            assert two.recv(timeout=BOUND) == b"2"
            served.result(BOUND)
        two.close()


def test_a_context_that_is_closed_takes_its_request_along() -> None:
    with rep_and_req() as (rep, req):
        with req.open_context() as context:
            context.send(b"x")
            assert rep.recv(timeout=BOUND) == b"x"
        rep.send(b"nobody there")
        eventually(lambda: drops(req) == {"unknown_reply": 1})


@pytest.mark.slow
def test_300_contexts_with_20_requests_each_get_their_own_replies() -> None:
    with sp.Rep(listen=inproc()) as rep, sp.Req(dial=rep.listeners[0].address) as req:
        servers = [rep.open_context() for _ in range(4)]
        served = [serve(server, 1500) for server in servers]
        contexts = [req.open_context() for _ in range(300)]
        for turn in range(20):
            for number, context in enumerate(contexts):
                context.send(f"{number}-{turn}x".encode(), timeout=BOUND)
            for number, context in enumerate(contexts):
                assert context.recv(timeout=BOUND) == f"{number}-{turn}X".encode()
        for each in served:
            each.result(BOUND)
        for context in [*contexts, *servers]:
            context.close()
        assert drops(req) == drops(rep) == {}


def test_contexts_are_reused_beyond_their_limit() -> None:
    with rep_and_req() as (rep, req):
        served = serve(rep, 30)
        for number in range(1100):
            with req.open_context() as context:
                if number % 37 == 0:
                    assert ask(context, b"x") == b"X"
        served.result(BOUND)


def test_one_context_too_many_is_refused_in_words() -> None:
    with sp.Req() as req:
        contexts = [req.open_context() for _ in range(1023)]
        with pytest.raises(sp.BadValueError, match="at most 1024 contexts"):
            req.open_context()
        contexts.pop().close()
        req.open_context().close()
        for context in contexts:
            context.close()
