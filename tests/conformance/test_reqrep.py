"""REQ and REP, cooked and raw: what tests/sockets does not have already."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from helpers import eventually
from sockets.kit import BOUND, SOON, background, drops, error_of, wait_blocked, wait_pipes

import spworkers as sp
from conformance.common import Far, thirty_contexts_answer
from spworkers import Rep, Req, Respondent
from spworkers.testing import Mock


def test_req_best_effort_twice_then_a_send_without_it_times_out() -> None:
    with Req(best_effort=True, linger=-1) as req:
        req.send(b"first")
        req.send(b"second")
        req.best_effort = False
        with pytest.raises(sp.SendTimeoutError):
            req.send(b"third", timeout=SOON)


def test_req_reconnects_and_resends_to_a_different_peer_at_once() -> None:
    """Neither RETRY-TIME nor RECONNECT-TIME is waited for: both are minutes here."""
    with Mock("rep") as one, Mock("rep") as other, Req(retry_time=600, reconnect_time=600) as req:
        req.dial(one.address)
        first = one.accept()
        req.send(b"query", timeout=BOUND)
        request = first.recv()
        req.dial(other.address)
        second = other.accept()
        first.close()
        assert second.recv() == request
        second.send(request[:4] + b"answer")
        assert req.recv(timeout=BOUND) == b"answer"


def test_req_retries_until_the_reply_and_not_after(far: Far) -> None:
    with Req(retry_time=0.01) as req:
        peer = far.meet(req)
        req.send(b"query", timeout=BOUND)
        requests = [peer.recv() for _ in range(2)]
        assert requests[0] == requests[1]
        assert requests[0][4:] == b"query"
        peer.send(requests[0][:4] + b"answer")
        assert req.recv(timeout=BOUND) == b"answer"
        sent = req.stats()["sent"]
        with pytest.raises(sp.ProtoStateError):
            req.recv(timeout=SOON)
        assert req.stats()["sent"] == sent


def test_req_ignores_garbage_replies(far: Far) -> None:
    with Req() as req:
        peer = far.meet(req)
        req.send(b"query", timeout=BOUND)
        request = peer.recv()
        for junk in (b"", b"\0", b"\0\1\2\3", b"\0\1\2\3\x80", request[:3], b"\x80\0\0\0nobody's"):
            peer.send(junk)
        peer.send(request[:4] + b"answer")
        assert req.recv(timeout=BOUND) == b"answer"
        assert sum(drops(req).values()) == 6


def test_req_reply_that_was_not_received_is_discarded_by_a_new_query(far: Far) -> None:
    with Req() as req:
        peer = far.meet(req)
        req.send(b"first", timeout=BOUND)
        peer.send(peer.recv()[:4] + b"unwanted")
        eventually(lambda: req.stats()["received"] == 1, BOUND)
        req.send(b"second", timeout=BOUND)
        peer.send(peer.recv()[:4] + b"wanted")
        assert req.recv(timeout=BOUND) == b"wanted"
        eventually(lambda: drops(req) == {"canceled": 1}, BOUND)


def test_req_fail_no_peers_send_without_any() -> None:
    with Req(fail_no_peers=True) as req, pytest.raises(sp.NoPeersError):
        req.send(b"x")


def test_req_fail_no_peers_recv_without_any(far: Far) -> None:
    with Req(fail_no_peers=True) as req:
        peer = far.meet(req)
        req.send(b"x", timeout=BOUND)
        peer.recv()
        peer.close()
        wait_pipes(req, 0)
        with pytest.raises(sp.NoPeersError):
            req.recv()


def test_req_fail_no_peers_ends_a_waiting_recv(far: Far) -> None:
    with Req(fail_no_peers=True) as req:
        peer = far.meet(req)
        req.send(b"x", timeout=BOUND)
        peer.recv()
        waiting = background(req.recv)
        wait_blocked(req)
        peer.close()
        assert isinstance(error_of(waiting), sp.NoPeersError)


def test_req_fail_no_peers_ends_a_waiting_send(mock_far: Far) -> None:
    with Req(fail_no_peers=True) as req:
        peer = mock_far.meet(req)
        contexts = [req.open_context() for _ in range(200)]

        def ask_all() -> None:
            for context in contexts:
                context.send(bytes(10_000))

        sending = background(ask_all)
        eventually(lambda: any(context._port.sleepers.asleep for context in contexts), BOUND)
        peer.close()
        assert isinstance(error_of(sending), sp.NoPeersError)


def test_req_closing_a_context_aborts_its_send_and_recv(far: Far) -> None:
    with Req() as req:
        context = req.open_context()
        sending = background(context.send, b"x")
        wait_blocked(context)
        context.close()
        assert isinstance(error_of(sending), sp.ClosedError)
        far.meet(req)
        context = req.open_context()
        context.send(b"x", timeout=BOUND)
        receiving = background(context.recv)
        wait_blocked(context)
        context.close()
        assert isinstance(error_of(receiving), sp.ClosedError)


def test_rep_pushes_back_on_a_peer_that_does_not_read_until_its_context_is_closed(mock_far: Far) -> None:
    with Rep(linger=-1) as rep:
        peer = mock_far.meet(rep)
        context = rep.open_context()
        served = 0

        def serve() -> None:
            nonlocal served
            for served in itertools.count():
                context.recv()
                context.send(bytes(100_000))

        serving = background(serve)
        asked = 0

        def pushed_back() -> bool:
            nonlocal asked
            if asked < served + 10:  # until the I/O process has seen that the peer is full, some replies go at once
                peer.send((asked | 0x80000000).to_bytes(4, "big") + b"%d" % asked)
                asked += 1
            # It waits for room, not for the next request.
            return context._port.sleepers.asleep and not context._half.receiving

        eventually(pushed_back, BOUND)
        context.close()
        assert isinstance(error_of(serving), sp.ClosedError)
        assert served < 100


@pytest.mark.parametrize("what", ["pipe", "socket"])
@pytest.mark.parametrize("make", [Rep, Respondent])
def test_rep_and_respondent_close_with_questions_waiting(make: Any, what: str, far: Far) -> None:
    rep = make()
    peer = far.meet(rep)
    for number in range(20):
        peer.send((number | 0x80000000).to_bytes(4, "big") + b"%d" % number)
    assert rep.recv(timeout=BOUND) == b"0"
    if what == "pipe":
        rep.pipes[0].close()
        assert peer.ended()
        rep.send(b"to nobody", timeout=BOUND)
        another = far.meet(rep)
        another.send(b"\x80\0\0\1again")
        while (body := rep.recv(timeout=BOUND)) != b"again":
            assert int(body) < 20
        rep.send(b"answer")
        assert another.recv() == b"\x80\0\0\1answer"
    rep.close()
    assert peer.ended()


def test_rep_thirty_contexts_with_twenty_requests_each(far: Far) -> None:
    thirty_contexts_answer(far, Rep())


def test_xreq_drops_replies_without_a_word_and_sends_nothing_without_a_header(far: Far) -> None:
    with Req(raw=True) as req:
        peer = far.meet(req)
        for junk in (b"", b"\0", b"\0\1\2"):
            peer.send(junk)
        peer.send(b"\0\1\2\3")
        peer.send(b"\0\1\2\3\x80")
        got = [req.recv_msg(timeout=BOUND) for _ in range(2)]
        assert [(message.header, message.body) for message in got] == [(b"\0\1\2\3", b""), (b"\0\1\2\3", b"\x80")]
        for header in (b"", b"\x80\0\0"):
            req.send_msg(sp.Message(b"lost", header))
        req.send_msg(sp.Message(b"kept", b"\x80\0\0\1"))
        assert peer.recv() == b"\x80\0\0\1kept"
        eventually(lambda: drops(req) == {"garbled": 3, "bad_header": 2}, BOUND)


def test_xrep_drops_replies_that_lead_nowhere(far: Far) -> None:
    with Rep(raw=True) as rep:
        peer = far.meet(rep)
        peer.send(b"\x80\0\0\1question")
        request = rep.recv_msg(timeout=BOUND)
        for header in (b"", b"\0\0\0", b"\x7f\xff\xff\xff\x80\0\0\1"):
            rep.send_msg(sp.Message(b"lost", header))
        rep.send_msg(sp.Message(b"kept", request.header))
        assert peer.recv() == b"\x80\0\0\1kept"
        assert drops(rep) == {"bad_header": 2, "no_pipe": 1}


@pytest.mark.parametrize("raw", [False, True], ids=["cooked", "raw"])
def test_rep_closes_a_pipe_that_sends_junk(raw: bool, far: Far) -> None:
    """As nng; mangos drops the message and keeps the pipe."""
    with Rep(raw=raw) as rep:
        for junk in (b"", b"\0\1", b"\0\1\2\3", b"\0\1\2\3\0"):
            peer = far.meet(rep)
            peer.send(junk)
            assert peer.ended()
        good = far.meet(rep)
        good.send(b"\0\1\2\3\x80\0\0\1good")
        assert rep.recv(timeout=BOUND) == b"good"
        assert drops(rep) == {"garbled": 4}
