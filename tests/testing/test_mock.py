"""The mock transport: connections and their faults are the test's to make."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from helpers import eventually
from sockets.kit import BOUND, background, drops, error_of, wait_pipes

import spworkers as sp
from spworkers.testing import Mock, greeting

SOON = 0.05


def test_it_plays_the_peer_of_who_dials() -> None:
    with Mock("rep") as mock, sp.Req(dial=mock.address) as req:
        peer = mock.accept()
        req.send(b"ping", timeout=BOUND)
        request = peer.recv()
        peer.send(request[:4] + b"pong")
        assert req.recv(timeout=BOUND) == b"pong"
        assert mock.dials == 1
        assert req.pipes[0].remote_addr == req.pipes[0].address == mock.address


def test_it_plays_the_peer_of_who_listens() -> None:
    with Mock("push") as mock, sp.Pull(listen=mock.address) as pull:
        peers = [mock.connect() for _ in range(3)]
        for number, peer in enumerate(peers):
            peer.send(b"%d" % number)
        assert sorted(pull.recv(timeout=BOUND) for _ in peers) == [b"0", b"1", b"2"]


def test_handshakes_by_hand() -> None:
    with Mock() as mock, sp.Pair(listen=mock.address) as pair:
        silent = mock.connect()
        assert silent.read(8) == greeting("pair")
        assert pair.pipes == []
        silent.write(greeting("bus"))
        assert silent.ended()
        assert pair.stats()["drops"] == {"bad_protocol": 1}


ERRORS: list[tuple[sp.SPError | OSError, type[sp.SPError]]] = [
    (sp.ConnRefusedError("as told"), sp.ConnRefusedError),
    (sp.BadProtoError("as told"), sp.BadProtoError),
    (OSError(errno.EHOSTUNREACH, "no way"), sp.NetworkError),
    (OSError(errno.EMFILE, "too many"), sp.ResourceError),
]


@pytest.mark.parametrize(("told", "raised"), ERRORS, ids=lambda each: getattr(each, "__name__", repr(each)))
def test_a_dial_fails_as_told_and_the_next_one_succeeds(told: sp.SPError | OSError, raised: type[sp.SPError]) -> None:
    with Mock("rep") as mock, sp.Req() as req:
        mock.fail_dial(told)
        dialer = req.new_dialer(mock.address)
        with pytest.raises(raised):
            dialer.dial()
        dialer.dial()
        assert mock.dials == 2


def test_a_dialer_goes_on_until_the_faults_are_used_up() -> None:
    with Mock("rep") as mock, sp.Req(reconnect_time=0.001) as req:
        mock.fail_dial(sp.ConnRefusedError("not yet"), times=5)
        req.dial(mock.address, dial_asynch=True)
        mock.accept()
        assert mock.dials == 6
        assert drops(req) == {"dial_failed": 5}


def test_a_listen_fails_as_told_and_the_next_one_succeeds() -> None:
    with Mock("req") as mock, sp.Rep() as rep:
        mock.fail_listen(OSError(errno.EACCES, "no"))
        listener = rep.new_listener(mock.address)
        with pytest.raises(sp.AccessDeniedError):
            listener.listen()
        listener.listen()
        mock.connect()


def test_two_cannot_listen_at_once_and_one_can_after_the_other() -> None:
    with Mock("req") as mock, sp.Rep(listen=mock.address) as one, sp.Rep() as other:
        with pytest.raises(sp.AddrInUseError):
            other.listen(mock.address)
        one.listeners[0].close()
        other.listen(mock.address)
        mock.connect()
        wait_pipes(other)


@pytest.mark.parametrize(
    ("error", "cause"),
    [(OSError(errno.EMFILE, "no more descriptors"), "accept_exhausted"), (sp.NetworkError("broken"), "accept_failed")],
    ids=["out of descriptors", "other"],
)
def test_accept_fails_as_told_and_goes_on(error: sp.SPError | OSError, cause: str) -> None:
    with Mock("req") as mock, sp.Rep(listen=mock.address) as rep:
        mock.fail_accept(error, times=2)
        mock.connect().send(b"\x80\0\0\1x")
        assert rep.recv(timeout=BOUND) == b"x"
        assert drops(rep) == {cause: 1}


def test_a_peer_that_refuses_fails_the_next_send_and_is_dialled_again() -> None:
    with Mock("pull") as mock, sp.Push(reconnect_time=0.001, dial=mock.address) as push:
        first = mock.accept()
        first.refuse()
        push.send(b"lost", timeout=BOUND)
        second = mock.accept()
        push.send(b"x", timeout=BOUND)
        assert second.recv() == b"x"
        assert first.ended()


def test_a_small_buffer_is_full_soon() -> None:
    with Mock("pull", buffer=1) as mock, sp.Push(dial=mock.address, writeq_len=1) as push:
        peer = mock.accept()
        sent = 0
        with pytest.raises(sp.SendTimeoutError):
            for sent in range(1000):
                push.send(bytes(1000), timeout=SOON)
        assert sent < 50
        for _ in range(sent):
            assert peer.recv() == bytes(1000)


def test_a_successor_listens_again() -> None:
    with Mock("req") as mock, sp.Rep(listen=mock.address) as rep:
        mock.connect()
        before = rep.stats()
        os.kill(before["pid"], signal.SIGKILL)
        eventually(lambda: rep.stats()["generation"] > before["generation"])

        def served() -> bool:
            mock.connect(timeout=1.0).send(b"\x80\0\0\1x")
            return rep.recv(timeout=BOUND) == b"x"

        eventually(lambda: _tried(served), what="the successor accepts")


def _tried(call: Callable[[], bool]) -> bool:
    try:
        return call()
    except sp.SPError:
        return False


def test_what_does_not_come_in_time() -> None:
    with Mock("rep") as mock:
        with pytest.raises(sp.ConnTimeoutError, match="nobody has dialled"):
            mock.accept(timeout=SOON)
        with pytest.raises(sp.ConnTimeoutError, match="nobody listens"):
            mock.connect(timeout=SOON)


@pytest.mark.parametrize(("arguments", "said"), [(("resp",), "respondent"), ((1 << 16,), "65536"), ((-1,), "-1")])
def test_who_it_plays_is_checked_at_once(arguments: tuple[Any], said: str) -> None:
    with pytest.raises(sp.BadValueError, match=said):
        Mock(*arguments)
    with pytest.raises(sp.BadValueError, match="buffer=0"):
        Mock("rep", buffer=0)


def test_closed_it_is_nobody() -> None:
    mock = Mock("req")
    with sp.Rep(listen=mock.address) as rep, sp.Req() as req:
        peer = mock.connect()
        mock.close()
        mock.close()
        assert peer.sock.fileno() == -1
        eventually(lambda: rep.pipes == [])
        with pytest.raises(sp.ConnRefusedError, match="no Mock of that name"):
            req.dial(mock.address)
        with pytest.raises(sp.ClosedError):
            mock.connect()
        assert repr(mock).endswith("closed>")


def test_closing_wakes_who_waits_for_a_listener() -> None:
    mock = Mock("req")
    waiting = background(mock.connect)
    mock.close()
    assert isinstance(error_of(waiting), sp.ClosedError)


def test_only_errors_of_transports_can_be_told() -> None:
    with Mock() as mock, pytest.raises(sp.BadValueError, match="KeyError"):
        mock.fail_dial(KeyError("x"))  # type: ignore[arg-type]


def test_an_address_is_checked() -> None:
    with sp.Req() as req, pytest.raises(sp.BadAddrError):
        req.dial("mock://")
