"""PAIR and PAIR1, cooked and raw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from helpers import eventually
from sockets.kit import BOUND, Record, drops, inproc, joined, wait_pipes

import spworkers as sp
from conformance.common import Far
from spworkers import Pair, Pair1
from spworkers.testing import RawPeer

raws = pytest.mark.parametrize("raw", [False, True], ids=["cooked", "raw"])


@raws
@pytest.mark.parametrize("make", [Pair, Pair1])
def test_pair_both_ways(make: Callable[..., sp.Socket], raw: bool, address: str) -> None:
    one, other = make(raw=raw), make(raw=raw)
    header = b"\0\0\0\1" if raw and make is Pair1 else b""
    with joined(one, other, address=address):
        for number in range(100):
            one.send_msg(sp.Message(b"%d" % number, header))
        other.send_msg(sp.Message(b"back", header))
        assert [int(other.recv(timeout=BOUND)) for _ in range(100)] == list(range(100))
        message = one.recv_msg(timeout=BOUND)
        assert (message.body, message.header) == (b"back", b"\0\0\0\2" if header else b"")


@pytest.mark.parametrize("make", [Pair, Pair1])
def test_pair_second_peer_is_rejected_until_the_first_leaves(make: Callable[..., sp.Socket]) -> None:
    one, first, second = make(), make(), make(reconnect_time=0.02)
    with one, first, second:
        where = one.listen("tcp://127.0.0.1:0").address
        first.dial(where)
        wait_pipes(one)
        second.dial(where, dial_asynch=True)
        eventually(lambda: one.stats()["refused"] >= 2, BOUND)
        one.send(b"for the first")
        assert first.recv(timeout=BOUND) == b"for the first"
        first.close()
        eventually(lambda: one.stats()["accepted"] == 2, BOUND)  # what it sends to a pipe that is refused is lost
        second.send(b"now")
        assert one.recv(timeout=BOUND) == b"now"


def test_pair1_ttl_and_malformed_headers() -> None:
    with (
        Pair1(listen="tcp://127.0.0.1:0", ttl=4) as sock,
        RawPeer.dial(sock.listeners[0].address, "pair1") as wire,
    ):
        for payload in (b"\0\0\0\5five", b"\0\0", b"\1\0\0\1bad", b"\0\0\0\4four", b"\0\0\0\0zero"):
            wire.send(payload)
        assert [sock.recv(timeout=BOUND) for _ in range(2)] == [b"four", b"zero"]
        assert drops(sock) == {"ttl": 1, "garbled": 2}
        sock.send(b"out")
        assert wire.recv() == b"\0\0\0\1out"


@raws
@pytest.mark.parametrize("make", [Pair, Pair1])
def test_pair_second_peer_sees_attaching_attached_and_detached(make: Any, raw: bool, address: str) -> None:
    ours, theirs = Record(), Record()
    with make(raw=raw) as one, make(raw=raw) as first, make(raw=raw, reconnect_time=BOUND) as second:
        one.set_pipe_event_hook(ours)
        second.set_pipe_event_hook(theirs)
        where = one.listen(inproc() if address == "inproc" else address).address
        first.dial(where)
        wait_pipes(one)
        second.dial(where)
        eventually(lambda: theirs.counts() == (1, 1, 1), BOUND)
        eventually(lambda: one.stats()["refused"] == 1, BOUND)
        assert ours.counts() == (2, 1, 0), "here the second one was only announced"
        assert len(one.pipes) == 1


def test_pair1_missing_and_short_headers_are_dropped(far: Far) -> None:
    with Pair1() as sock:
        peer = far.meet(sock)
        for payload in (b"", b"\0", b"\0\0\0", b"\0\0\1\1body", b"\xff\0\0\1body"):
            peer.send(payload)
        peer.send(b"\0\0\0\1good")
        assert sock.recv(timeout=BOUND) == b"good"
        assert drops(sock) == {"garbled": 5}


def test_xpair1_counts_a_hop_and_drops_what_has_no_header(far: Far) -> None:
    with Pair1(raw=True, ttl=4) as sock:
        peer = far.meet(sock)
        for hops in (5, 2, 4):
            peer.send(b"\0\0\0%c" % hops + b"body")
        assert [sock.recv_msg(timeout=BOUND).header for _ in range(2)] == [b"\0\0\0\3", b"\0\0\0\5"]
        assert drops(sock) == {"ttl": 1}
        for header in (b"", b"\0\0\0", b"\1\0\0\1", b"\0\0\0\0\1"):
            sock.send_msg(sp.Message(b"lost", header))
        sock.send_msg(sp.Message(b"kept", b"\0\0\0\7"))
        assert peer.recv() == b"\0\0\0\7kept"
        assert drops(sock) == {"ttl": 1, "bad_header": 4}
