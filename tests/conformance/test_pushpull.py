"""PUSH and PULL, cooked and raw."""

from __future__ import annotations

import itertools

import pytest
from helpers import eventually
from sockets.kit import BOUND, Record, background, drops, error_of, inproc, joined, wait_blocked, wait_pipes

import spworkers as sp
from conformance.common import Far
from spworkers import Pull, Push
from spworkers.testing import Mock, RawPeer

raws = pytest.mark.parametrize("raw", [False, True], ids=["cooked", "raw"])


@raws
def test_push_pull_in_order(address: str, raw: bool) -> None:
    push, pull = Push(raw=raw), Pull(raw=raw)
    with joined(pull, push, address=address):
        for number in range(500):
            push.send(b"%d" % number, timeout=BOUND)
            if number % 100 == 99:
                assert [int(pull.recv(timeout=BOUND)) for _ in range(100)] == list(range(number - 99, number + 1))


def test_push_gives_five_peers_twenty_each() -> None:
    push, pulls = Push(), [Pull() for _ in range(5)]
    with joined(push, *pulls):
        eventually(lambda: push._port.region.ready_pipes == 5, BOUND)
        for number in range(100):
            push.send(b"%d" % number)
        for pull in pulls:
            assert len({int(pull.recv(timeout=BOUND)) for _ in range(20)}) == 20


def test_push_fails_fast_without_peers() -> None:
    with Push(fail_no_peers=True) as push, Pull(listen=inproc(), readq_len=1) as pull:
        with pytest.raises(sp.NoPeersError):
            push.send(b"x")
        push.dial(pull.listeners[0].address)
        push.send(b"x", timeout=BOUND)
        assert pull.recv(timeout=BOUND) == b"x"


def test_push_that_waits_fails_when_the_last_peer_goes() -> None:
    with Push(fail_no_peers=True, writeq_len=1, listen="tcp://127.0.0.1:0") as push:
        with RawPeer.dial(push.listeners[0].address, "pull"):
            wait_pipes(push)
            sent = background(lambda: [push.send(bytes(1 << 20)) for _ in itertools.count()])
            wait_blocked(push)
        assert isinstance(error_of(sent), sp.NoPeersError)


def test_pull_pushes_back_and_push_discards_what_comes() -> None:
    with (
        Pull(listen="tcp://127.0.0.1:0", readq_len=2) as pull,
        RawPeer.dial(pull.listeners[0].address, "push") as wire,
    ):
        for number in range(50):
            wire.send(b"%d" % number)
        assert [int(pull.recv(timeout=BOUND)) for _ in range(50)] == list(range(50))
        assert not drops(pull)
    with Push(listen="tcp://127.0.0.1:0") as push, RawPeer.dial(push.listeners[0].address, "pull") as wire:
        wire.send(b"junk")
        eventually(lambda: drops(push) == {"unexpected": 1}, BOUND)
        assert len(push.pipes) == 1


@raws
def test_push_send_error_closes_the_pipe_with_attached_and_detached_once_each(raw: bool, mock_far: Far) -> None:
    with Push(raw=raw) as push:
        hook = Record()
        push.set_pipe_event_hook(hook)
        peer = mock_far.meet(push)
        peer.refuse()
        push.send(b"lost")
        eventually(lambda: hook.counts() == (1, 1, 1), BOUND)
        assert peer.ended()
        another = mock_far.meet(push)
        push.send(b"x")
        assert another.recv() == b"x"
        eventually(lambda: hook.counts() == (2, 2, 1), BOUND)


@raws
def test_push_goes_on_with_the_others_when_a_peer_fails(raw: bool) -> None:
    with Mock("pull") as mock, Push(raw=raw, listen=mock.address) as push:
        peers = [mock.connect() for _ in range(3)]
        wait_pipes(push, 3)
        peers[1].close()
        wait_pipes(push, 2)
        for number in range(20):
            push.send(b"%d" % number)
        got = [int(peer.recv()) for peer in (peers[0], peers[2]) for _ in range(10)]
        assert sorted(got) == list(range(20))


@raws
def test_push_fails_fast_when_it_is_disconnected(raw: bool, far: Far) -> None:
    with Push(raw=raw, fail_no_peers=True, writeq_len=1) as push:
        peer = far.meet(push)
        sending = background(lambda: [push.send(bytes(1 << 20)) for _ in itertools.count()])
        wait_blocked(push)
        peer.close()
        assert isinstance(error_of(sending), sp.NoPeersError)
        with pytest.raises(sp.NoPeersError):
            push.send(b"x")
