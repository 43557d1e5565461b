"""BUS and STAR, cooked and raw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from sockets.kit import BOUND, SOON, drops, joined, wait_pipes

import spworkers as sp
from conformance.common import Far
from spworkers import Bus, Star
from spworkers.testing import RawPeer


@pytest.mark.parametrize("make", [Bus, Star])
def test_bus_and_star_reach_all_but_the_sender(make: Callable[..., sp.Socket], address: str) -> None:
    centre, leaves = make(), [make() for _ in range(3)]
    with joined(centre, *leaves, address=address):
        leaves[0].send(b"leaf")
        assert centre.recv(timeout=BOUND) == b"leaf"
        if make is Star:  # which passes it on
            assert [leaf.recv(timeout=BOUND) for leaf in leaves[1:]] == [b"leaf"] * 2
        centre.send_msg(sp.Message(b"centre", b"discarded"))
        assert [leaf.recv(timeout=BOUND) for leaf in leaves] == [b"centre"] * 3
        with pytest.raises(sp.RecvTimeoutError):
            leaves[0].recv(timeout=SOON)


def test_xbus_knows_the_origin_and_spares_it() -> None:
    hub, leaves = Bus(raw=True), [Bus() for _ in range(2)]
    with joined(hub, *leaves):
        leaves[0].send(b"x")
        message = hub.recv_msg(timeout=BOUND)
        assert message.pipe is not None
        assert message.header == message.pipe.id.to_bytes(4, "big")
        hub.send_msg(message)
        assert leaves[1].recv(timeout=BOUND) == b"x"
        with pytest.raises(sp.RecvTimeoutError):
            leaves[0].recv(timeout=SOON)


def test_xstar_counts_hops_and_drops_bad_headers() -> None:
    with Star(raw=True, listen="tcp://127.0.0.1:0", ttl=4) as star:
        where = star.listeners[0].address
        with RawPeer.dial(where, "star") as wire, RawPeer.dial(where, "star") as other:
            wait_pipes(star, 2)
            for payload in (b"\1\0\0\0bad", b"\0\0\0\4far", b"\0\0\0\1good"):
                wire.send(payload)
            message = star.recv_msg(timeout=BOUND)
            assert (message.header, message.body) == (b"\0\0\0\2", b"good")
            assert other.recv() == b"\0\0\0\2good"
            assert drops(star) == {"garbled": 1, "ttl": 1}


def test_bus_fan_in_is_in_order_per_peer() -> None:
    centre, leaves = Bus(), [Bus() for _ in range(4)]
    with joined(centre, *leaves):
        for number in range(20):
            for index, leaf in enumerate(leaves):
                leaf.send(b"%d %d" % (index, number))
        got: dict[bytes, list[int]] = {}
        for _ in range(80):
            who, number_text = centre.recv(timeout=BOUND).split()
            got.setdefault(who, []).append(int(number_text))
        assert all(numbers == list(range(20)) for numbers in got.values())
        assert Counter(map(len, got.values())) == {20: 4}


def test_bus_strips_headers_on_the_wire(far: Far) -> None:
    with Bus() as bus, Bus(raw=True) as raw:
        for sock, header in ((bus, b"head"), (raw, b""), (raw, b"\0\0\0\0"), (raw, b"\x7f\0\0\1"), (raw, b"longer")):
            peer = far.meet(sock)
            sock.send_msg(sp.Message(b"body", header))
            assert peer.recv() == b"body"


def test_xbus_spares_the_pipe_that_its_header_names(far: Far) -> None:
    with Bus(raw=True) as bus:
        one, other = far.meet(bus), far.meet(bus)
        one.send(b"from one")
        message = bus.recv_msg(timeout=BOUND)
        assert message.pipe is not None
        assert message.header == message.pipe.id.to_bytes(4, "big")
        bus.send_msg(sp.Message(b"not to one", message.header))
        bus.send_msg(sp.Message(b"to all"))
        assert other.recv() == b"not to one"
        assert other.recv() == one.recv() == b"to all"


def test_star_passes_on_with_one_hop_more_and_not_back(far: Far) -> None:
    for raw in (False, True):
        with Star(raw=raw) as star:
            one, other = far.meet(star), far.meet(star)
            one.send(b"\0\0\0\1body")
            assert other.recv() == b"\0\0\0\2body"
            message = star.recv_msg(timeout=BOUND)
            assert (message.body, message.header) == (b"body", b"\0\0\0\2" if raw else b"")
            star.send_msg(sp.Message(b"own", b"\0\0\0\0" if raw else b"discarded"))
            assert one.recv() == other.recv() == b"\0\0\0\0own"


def test_star_drops_headers_that_are_none(far: Far) -> None:
    with Star(ttl=2) as star:
        peer = far.meet(star)
        for payload in (b"", b"\0\0\0", b"\1\0\0\0x", b"\0\1\0\0x", b"\0\0\1\0x", b"\0\0\0\2too far", b"\0\0\0\1good"):
            peer.send(payload)
        assert star.recv(timeout=BOUND) == b"good"
        assert drops(star) == {"garbled": 5, "ttl": 1}


def test_xstar_sends_nothing_without_a_header(far: Far) -> None:
    with Star(raw=True) as star:
        peer = far.meet(star)
        for header in (b"", b"\0\0\0", b"\1\0\0\0", b"\0\0\0\0\0"):
            star.send_msg(sp.Message(b"lost", header))
        star.send_msg(sp.Message(b"kept", b"\0\0\0\3"))
        assert peer.recv() == b"\0\0\0\3kept"
        assert drops(star) == {"bad_header": 4}
