"""Every protocol, cooked and raw: who it is, what it refuses, how it ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from sockets.kit import BOUND, SOON, background, error_of, inproc, wait_blocked

import spworkers as sp
from conformance.common import ALL, RECEIVE_ONLY, SEND_ONLY, WITH_CONTEXTS, Far
from spworkers import Pair, Pair1, Push, Rep, Req, Respondent, Star, Surveyor
from spworkers.testing import RawPeer, greeting

NUMBERS = {
    "Pair": (0x10, 0x10, "pair"),
    "Pair1": (0x11, 0x11, "pair1"),
    "Pub": (0x20, 0x21, "sub"),
    "Sub": (0x21, 0x20, "pub"),
    "Req": (0x30, 0x31, "rep"),
    "Rep": (0x31, 0x30, "req"),
    "Push": (0x50, 0x51, "pull"),
    "Pull": (0x51, 0x50, "push"),
    "Surveyor": (0x62, 0x63, "respondent"),
    "Respondent": (0x63, 0x62, "surveyor"),
    "Bus": (0x70, 0x70, "bus"),
    "Star": (0x640, 0x640, "star"),
}

raws = pytest.mark.parametrize("raw", [False, True], ids=["cooked", "raw"])
every = pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__.lower())


class Sockets:
    """One socket of each kind, for tests that change nothing; opened when it is first asked for."""

    def __init__(self) -> None:
        self._open: dict[tuple[Any, bool], sp.Socket] = {}

    def __call__(self, make: Any, raw: bool) -> Any:
        key = (make, raw)
        if key not in self._open:
            self._open[key] = make(raw=raw)
        return self._open[key]

    def close(self) -> None:
        for sock in self._open.values():
            sock.close()


@pytest.fixture(scope="module")
def opened() -> Iterator[Sockets]:
    sockets = Sockets()
    for make in ALL:  # now, so that no test seems to leave a process behind
        sockets(make, False), sockets(make, True)
    yield sockets
    sockets.close()


@raws
@every
def test_identity_numbers_and_names(make: Any, raw: bool, opened: Sockets) -> None:
    sock = opened(make, raw)
    number, peer, peer_name = NUMBERS[make.__name__]
    assert sock.info == (number, peer, make.__name__.lower(), peer_name)


@raws
@every
def test_raw_is_readable_and_unsettable(make: Any, raw: bool, opened: Sockets) -> None:
    sock = opened(make, raw)
    assert sock.raw is sock.get_option("RAW") is raw
    with pytest.raises(sp.BadOptionError):
        sock.set_option("RAW", not raw)


@raws
@every
def test_contexts_where_the_protocol_has_them_and_never_raw(make: Any, raw: bool, opened: Sockets) -> None:
    sock = opened(make, raw)
    if raw or make not in WITH_CONTEXTS:
        with pytest.raises(sp.ProtoOpError):
            sock.open_context()
    else:
        sock.open_context().close()


@raws
@every
def test_an_unknown_option_is_refused(make: Any, raw: bool, opened: Sockets) -> None:
    sock = opened(make, raw)
    with pytest.raises(sp.BadOptionError):
        sock.get_option("no such thing")
    with pytest.raises(sp.BadOptionError):
        sock.set_option("no such thing", 1)


@raws
@every
def test_queue_lengths_below_zero_are_refused(make: Any, raw: bool, opened: Sockets) -> None:
    sock = opened(make, raw)
    for name in ("READQ-LEN", "WRITEQ-LEN"):
        try:
            sock.get_option(name)
        except sp.BadOptionError:
            continue
        with pytest.raises(sp.BadValueError):
            sock.set_option(name, -1)


@raws
@pytest.mark.parametrize("make", [Rep, Respondent, Pair1, Star])
def test_ttl_takes_1_to_255(make: Any, raw: bool, opened: Sockets) -> None:
    sock = opened(make, raw)
    for bad in (0, -1, 256, "garbage"):
        with pytest.raises(sp.BadValueError):
            sock.set_option("TTL", bad)
    for good in (2, 255):
        sock.set_option("TTL", good)
        assert sock.get_option("TTL") == good


@raws
@every
def test_one_way_protocols_have_one_way(make: Any, raw: bool, opened: Sockets) -> None:
    sock = opened(make, raw)
    if make in RECEIVE_ONLY:
        with pytest.raises(sp.ProtoOpError, match="send"):
            sock.send(b"x")
    if make in SEND_ONLY:
        with pytest.raises(sp.ProtoOpError, match="recv"):
            sock.recv()


@raws
@every
def test_a_closed_socket_says_so(make: Any, raw: bool) -> None:
    sock = make(raw=raw)
    sock.close()
    calls: list[Any] = [
        sock.close,
        sock.open_context if not raw and make in WITH_CONTEXTS else sock.close,
        lambda: sock.dial(inproc()),
        lambda: sock.dial(inproc(), dial_asynch=True),
        lambda: sock.listen(inproc()),
        lambda: sock.new_dialer(inproc()),
        lambda: sock.new_listener(inproc()),
    ]
    if make not in RECEIVE_ONLY:
        calls.append(lambda: sock.send(b"x"))
    if make not in SEND_ONLY:
        calls.append(sock.recv)
    for call in calls:
        with pytest.raises(sp.ClosedError):
            call()


@raws
@every
def test_a_pipe_that_arrives_with_the_close_is_refused_quietly(
    make: Any, raw: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with make(raw=raw, listen="tcp://127.0.0.1:0") as sock, RawPeer.dial(sock.listeners[0].address) as late:
        address = sock.listeners[0].address
        sock.close()
        with contextlib.suppress(sp.ConnResetError):
            late.write(greeting(sock.info.peer))
        assert late.ended()
        with pytest.raises(sp.ConnRefusedError):
            RawPeer.dial(address)
    assert not caplog.records


RECEIVING = [make for make in ALL if make not in SEND_ONLY]


@raws
@pytest.mark.parametrize("make", RECEIVING, ids=lambda make: make.__name__.lower())
def test_a_receive_deadline_is_kept(make: Any, raw: bool) -> None:
    with make(raw=raw, recv_deadline=SOON) as sock:
        if not raw and make is Req:
            sock.best_effort = True
        if not raw and make in (Req, Surveyor):
            sock.send(b"something to wait for")
        with pytest.raises(sp.RecvTimeoutError):
            sock.recv()
        if raw or make is not Req:  # whose deadline has ended the request
            with pytest.raises(sp.RecvTimeoutError):
                sock.recv(timeout=0)


@raws
@pytest.mark.parametrize("make", [Pair, Pair1, Push, Req])
def test_a_send_deadline_is_kept_and_best_effort_never_errors(make: Any, raw: bool) -> None:
    header = {"Pair1": b"\0\0\0\1", "Req": b"\x80\0\0\1"}.get(make.__name__, b"") if raw else b""
    with make(raw=raw, send_deadline=SOON, linger=-1) as sock:
        if raw or make is not Req:
            sock.writeq_len = 1
            sock.send_msg(sp.Message(b"x", header))
        with pytest.raises(sp.SendTimeoutError):
            sock.send_msg(sp.Message(b"x", header))
        sock.best_effort = True
        for _ in range(3):
            sock.send_msg(sp.Message(b"x", header))


@raws
@every
def test_closing_the_socket_aborts_a_blocked_recv(make: Any, raw: bool) -> None:
    if make in SEND_ONLY:
        with make(raw=raw) as sock, pytest.raises(sp.ProtoOpError):
            sock.recv()
        return
    sock = make(raw=raw)
    if not raw and make is Req:
        sock.best_effort = True
    if not raw and make is Surveyor:
        sock.survey_time = 0
    if not raw and make in (Req, Surveyor):
        sock.send(b"something to wait for")
    waiting = background(sock.recv)
    wait_blocked(sock)
    sock.close(linger=0)
    assert isinstance(error_of(waiting), sp.ClosedError)


@raws
@pytest.mark.parametrize("make", [Pair, Pair1, Push, Req])
def test_closing_the_socket_aborts_a_blocked_send(make: Any, raw: bool) -> None:
    header = {"Pair1": b"\0\0\0\1", "Req": b"\x80\0\0\1"}.get(make.__name__, b"") if raw else b""
    sock = make(raw=raw)
    if raw or make is not Req:
        sock.writeq_len = 0
    waiting = background(sock.send_msg, sp.Message(b"x", header))
    wait_blocked(sock)
    sock.close(linger=0)
    assert isinstance(error_of(waiting), sp.ClosedError)


@pytest.mark.parametrize("make", [Rep, Respondent])
def test_an_answer_needs_a_question(make: Any, far: Far) -> None:
    with make() as sock:
        with pytest.raises(sp.ProtoStateError):
            sock.send(b"x")
        far.meet(sock).send(b"\x80\0\0\1question")
        assert sock.recv(timeout=BOUND) == b"question"
        sock.send(b"x")
        with pytest.raises(sp.ProtoStateError):
            sock.send(b"again")
