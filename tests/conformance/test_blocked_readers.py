"""Pipes that are not read from because the receive queue is full: what a resize, a close and an end do to them.

Every receiving socket that pushes back; SUB never does, REQ and SURVEYOR cooked have queues of another kind.
"""

from __future__ import annotations

from typing import Any

import pytest
from helpers import eventually
from sockets.kit import BOUND, SOON, Record, background, wait_blocked, wait_pipes

import spworkers as sp
from conformance.common import Far, name_of, wire
from spworkers import Bus, Pair, Pair1, Pull, Rep, Req, Respondent, Star, Sub, Surveyor
from spworkers.testing import RawPeer

PUSHING_BACK = [
    *((make, raw) for make in (Bus, Pair, Pair1, Pull, Star) for raw in (False, True)),
    *((make, True) for make in (Req, Rep, Surveyor, Respondent)),
]
sockets = pytest.mark.parametrize(("make", "raw"), PUSHING_BACK, ids=[name_of(make, raw) for make, raw in PUSHING_BACK])
COUNT = 20


def fill(sock: Any, peer: RawPeer, make: Any, raw: bool) -> None:
    """Send more than the receive queue takes, and wait until the socket reads no further."""
    for number in range(COUNT):
        peer.send(wire(make, raw, b"%d" % number))
    eventually(lambda: sock.pipes[0]._info["received"] > sock.readq_len, BOUND, what="one too many is read")


def receive(sock: Any, count: int = COUNT) -> list[int]:
    return [int(sock.recv_msg(timeout=BOUND).body) for _ in range(count)]


@sockets
@pytest.mark.parametrize("length", [64, 2, 0], ids=["longer", "shorter", "none"])
def test_a_resize_while_a_reader_is_blocked_loses_nothing(make: Any, raw: bool, length: int, mock_far: Far) -> None:
    with make(raw=raw, readq_len=5) as sock:
        peer = mock_far.meet(sock)
        fill(sock, peer, make, raw)
        sock.readq_len = length
        assert receive(sock) == list(range(COUNT))
        peer.send(wire(make, raw, b"99"))
        assert receive(sock, 1) == [99]
        assert sock.stats()["drops"] == {}


@sockets
def test_closing_the_pipe_while_its_reader_is_blocked(make: Any, raw: bool, mock_far: Far) -> None:
    with make(raw=raw, readq_len=2) as sock:
        hook = Record()
        sock.set_pipe_event_hook(hook)
        peer = mock_far.meet(sock)
        fill(sock, peer, make, raw)
        sock.pipes[0].close()
        assert peer.ended()
        eventually(lambda: hook.counts() == (1, 1, 1), BOUND)
        assert receive(sock, 2) == [0, 1], "what lay in the queue is there"
        another = mock_far.meet(sock)
        another.send(wire(make, raw, b"99"))
        assert receive(sock, 1) == [99]


@sockets
def test_closing_the_socket_while_a_reader_is_blocked(make: Any, raw: bool, mock_far: Far) -> None:
    sock = make(raw=raw, readq_len=2)
    peer = mock_far.meet(sock)
    fill(sock, peer, make, raw)
    closing = background(sock.close, linger=0)
    closing.result(BOUND)
    assert peer.ended()


@pytest.mark.parametrize("raw", [False, True], ids=["cooked", "raw"])
def test_over_real_transports_too(raw: bool, far: Far) -> None:
    with Pull(raw=raw, readq_len=1) as pull:
        peer = far.meet(pull)
        fill(pull, peer, Pull, raw)
        pull.readq_len = 64
        assert receive(pull) == list(range(COUNT))
        pull.readq_len = 1
        for number in range(COUNT):
            peer.send(b"%d" % number)
        pull.pipes[0].close()
        assert peer.ended()
        wait_pipes(pull, 0)
        pull.close()


WAITING = [*PUSHING_BACK, (Sub, False), (Sub, True), (Respondent, False), (Surveyor, False)]


@pytest.mark.parametrize(("make", "raw"), WAITING, ids=[name_of(make, raw) for make, raw in WAITING])
@pytest.mark.parametrize("length", [1, 500])
def test_a_waiting_recv_survives_a_resize(make: Any, raw: bool, length: int, mock_far: Far) -> None:
    with make(raw=raw) as sock:
        peer = mock_far.meet(sock)
        answer = wire(make, raw, b"x")
        if make is Sub and not raw:
            sock.subscribe("")
        if make is Surveyor and not raw:
            sock.survey_time = 0
            sock.send(b"who?")
            answer = peer.recv()[:4] + b"x"
        waiting = background(sock.recv_msg, timeout=BOUND)
        wait_blocked(sock)
        sock.readq_len = length
        with pytest.raises(TimeoutError):
            waiting.result(SOON)
        peer.send(answer)
        assert waiting.result(BOUND).body == b"x"


@pytest.mark.parametrize("length", [64, 2, 0], ids=["longer", "shorter", "none"])
def test_respondent_resized_with_surveys_queued(length: int, mock_far: Far) -> None:
    with Respondent(readq_len=5) as respondent:
        peer = mock_far.meet(respondent)
        for number in range(COUNT):
            peer.send(wire(Respondent, False, b"%d" % number))
        respondent.readq_len = length
        for number in range(COUNT):
            assert respondent.recv(timeout=BOUND) == b"%d" % number
            respondent.send(b"answer %d" % number, timeout=BOUND)
            assert peer.recv() == b"\x80\0\0\1answer %d" % number
        assert respondent.stats()["drops"] == {}


@pytest.mark.parametrize("length", [64, 2, 0], ids=["longer", "shorter", "none"])
def test_sub_resized_with_messages_queued(length: int, mock_far: Far) -> None:
    with Sub(subscribe="", readq_len=5) as sub:
        peer = mock_far.meet(sub)
        for number in range(5):
            peer.send(b"%d" % number)
        eventually(lambda: sub.stats()["received"] == 5, BOUND)
        sub.readq_len = length
        assert [sub.recv(timeout=BOUND) for _ in range(5)] == [b"%d" % number for number in range(5)]
        assert sub.stats()["drops"] == {}


def test_req_has_no_queue_to_resize() -> None:
    with Req() as req, Rep() as rep:
        for sock in (req, rep):
            with pytest.raises(sp.BadOptionError):
                sock.readq_len = 3
