"""PUB and SUB, cooked and raw."""

from __future__ import annotations

import threading
from collections import defaultdict

import pytest
from helpers import eventually
from sockets.kit import BOUND, background, drops, joined, wait_blocked, wait_pipes

import spworkers as sp
from conformance.common import Far
from spworkers import Pub, Req, Sub
from spworkers.testing import RawPeer


def test_pub_broadcasts_and_subs_filter(address: str) -> None:
    pub, one, other = Pub(), Sub(subscribe="a"), Sub(subscribe=[b"b", ""])
    with joined(pub, one, other, address=address):
        for body in (b"a1", b"b1", b"c1", b"a2"):
            pub.send(body)
        assert [one.recv(timeout=BOUND) for _ in range(2)] == [b"a1", b"a2"]
        assert [other.recv(timeout=BOUND) for _ in range(4)] == [b"a1", b"b1", b"c1", b"a2"]
        eventually(lambda: drops(one) == {"unwanted": 2}, BOUND)


def test_pub_never_blocks_on_a_peer_that_does_not_read() -> None:
    with Pub(listen="tcp://127.0.0.1:0", writeq_len=2) as pub, RawPeer.dial(pub.listeners[0].address, "sub"):
        wait_pipes(pub)
        body = bytes(1 << 20)
        for _ in range(200):  # three times the byte budget
            pub.send(body, timeout=BOUND)
        eventually(lambda: drops(pub).get("congested", 0) > 100, BOUND)
        pub.close(linger=0)


def test_sub_topics() -> None:
    with Sub() as sub:
        for bad in (1, None, 1.5, ["x"]):
            with pytest.raises(sp.BadValueError):
                sub.set_option("SUBSCRIBE", bad)
        sub.subscribe("a")
        sub.subscribe(b"a")  # again: once
        sub.unsubscribe("a")
        with pytest.raises(sp.BadValueError):
            sub.unsubscribe("a")
        with pytest.raises(sp.BadOptionError):
            sub.get_option("SUBSCRIBE")
    with Sub(raw=True) as raw, pytest.raises(sp.BadOptionError):
        raw.subscribe("a")
    with Req() as req, req.open_context() as context, pytest.raises(sp.BadOptionError):
        context.subscribe("a")


def test_sub_unsubscribe_prunes_the_queue() -> None:
    pub, sub = Pub(), Sub(subscribe=["a", "b"])
    with joined(pub, sub):
        for body in (b"a1", b"b1", b"a2", b"end"):
            pub.send(body)
        eventually(lambda: drops(sub) == {"unwanted": 1}, BOUND)
        sub.unsubscribe("a")
        assert sub.recv(timeout=BOUND) == b"b1"
        with pytest.raises(sp.RecvTimeoutError):
            sub.recv(timeout=0)
        assert drops(sub) == {"unwanted": 1, "unsubscribed": 2}


def test_sub_drops_its_oldest() -> None:
    pub, sub = Pub(), Sub(subscribe="t", readq_len=2)
    with joined(pub, sub):
        for body in (b"t one", b"t two", b"t three", b"end"):
            pub.send(body)
        eventually(lambda: drops(sub).get("unwanted") == 1, BOUND)
        assert [sub.recv(timeout=0) for _ in range(2)] == [b"t two", b"t three"]
        assert drops(sub)["displaced"] == 1


def test_sub_without_a_queue_hands_over() -> None:
    """B12."""
    pub, sub = Pub(), Sub(subscribe="", readq_len=0)
    with joined(pub, sub):
        receiving = background(sub.recv, timeout=BOUND)
        wait_blocked(sub)
        eventually(lambda: pub.send(b"x") or receiving.done(), BOUND)
        assert receiving.result() == b"x"


def test_sub_contexts_have_their_own_topics_and_queues() -> None:
    pub, sub = Pub(), Sub(subscribe="s")
    with joined(pub, sub), sub.open_context() as one, sub.open_context() as other:
        one.subscribe("1")
        other.subscribe("2")
        for context in (one, other):
            context.subscribe("all")
            with pytest.raises(sp.ProtoOpError):
                context.send(b"x")
        for body in (b"1", b"2", b"all", b"s"):
            pub.send(body)
        assert sub.recv(timeout=BOUND) == b"s"
        assert [one.recv(timeout=0) for _ in range(2)] == [b"1", b"all"]
        assert [other.recv(timeout=0) for _ in range(2)] == [b"2", b"all"]
        for handle in (sub, one, other):
            with pytest.raises(sp.RecvTimeoutError):
                handle.recv(timeout=0)


def test_xsub_has_no_filter() -> None:
    pub, sub = Pub(raw=True), Sub(raw=True)
    with joined(pub, sub):
        pub.send_msg(sp.Message(b"body", b"head"))
        assert sub.recv(timeout=BOUND) == b"headbody"


def test_sub_under_load_from_three_publishers(address: str) -> None:
    pubs, sub = [Pub() for _ in range(3)], Sub(subscribe="", readq_len=32768)
    with joined(sub, *pubs, address=address):
        for number in range(300):
            for index, pub in enumerate(pubs):
                pub.send(b"%d %d" % (index, number), timeout=BOUND)
        got: dict[int, list[int]] = defaultdict(list)
        for _ in range(900):
            index, number = map(int, sub.recv(timeout=BOUND).split())
            got[index].append(number)
        assert got == {index: list(range(300)) for index in range(3)}


def test_sub_contexts_share_a_wildcard_and_every_count_is_exact(far: Far) -> None:
    with Sub() as sub:
        contexts = [sub.open_context() for _ in range(5)]
        for index, context in enumerate(contexts):
            context.subscribe(b"%d" % index)
            context.subscribe("*")
        peer = far.meet(sub)
        for number in range(20):
            peer.send(b"%d own %d" % (number % 5, number))
            peer.send(b"* all %d" % number)
        for index, context in enumerate(contexts):
            got = [context.recv(timeout=BOUND) for _ in range(24)]
            assert got == [
                body
                for number in range(20)
                for body in (b"%d own %d" % (index, number), b"* all %d" % number)
                if number % 5 == index or body.startswith(b"*")
            ]
            with pytest.raises(sp.RecvTimeoutError):
                context.recv(timeout=0)


def test_xsub_full_queue_drops_the_newest(far: Far) -> None:
    with Sub(raw=True, readq_len=2) as sub:
        peer = far.meet(sub)
        for number in range(5):
            peer.send(b"%d" % number)
        eventually(lambda: drops(sub) == {"congested": 3}, BOUND)
        sub.readq_len = 3
        peer.send(b"5")
        assert [sub.recv(timeout=BOUND) for _ in range(3)] == [b"0", b"1", b"5"]


def test_xsub_twenty_peers_with_a_hundred_messages_each(mock_far: Far) -> None:
    with Sub(raw=True, readq_len=2000) as sub:
        peers = [mock_far.meet(sub) for _ in range(20)]
        for number in range(100):
            for index, peer in enumerate(peers):
                peer.send(b"%d %d" % (index, number))
        got: dict[int, list[int]] = defaultdict(list)
        for _ in range(2000):
            index, number = map(int, sub.recv(timeout=BOUND).split())
            got[index].append(number)
        assert got == {index: list(range(100)) for index in range(20)}
        assert drops(sub) == {}


def write_until_closed(peer: RawPeer, ready: threading.Barrier, index: int, count: int) -> int:
    ready.wait(BOUND)
    for number in range(count):
        try:
            peer.send(b"%d %d" % (index, number))
        except sp.SPError:
            return number
    return count


def test_xsub_closes_under_fire(mock_far: Far) -> None:
    sub = Sub(raw=True, readq_len=1)
    peers = [mock_far.meet(sub) for _ in range(20)]
    ready = threading.Barrier(21)
    writing = [background(write_until_closed, peer, ready, index, 1_000_000) for index, peer in enumerate(peers)]
    ready.wait(BOUND)
    sub.recv(timeout=BOUND)
    background(sub.close, linger=0).result(BOUND)
    for each in writing:
        each.result(BOUND)


def read_until_closed(sub: Sub) -> list[bytes]:
    got: list[bytes] = []
    while True:
        try:
            got.append(sub.recv(timeout=BOUND))
        except sp.ClosedError:
            return got


def test_xsub_twenty_readers_and_twenty_writers_without_a_queue(mock_far: Far) -> None:
    with Sub(raw=True, readq_len=0) as sub:
        peers = [mock_far.meet(sub) for _ in range(20)]
        reading = [background(read_until_closed, sub) for _ in range(20)]
        wait_blocked(sub, 20)
        ready = threading.Barrier(20)
        writing = [background(write_until_closed, peer, ready, index, 50) for index, peer in enumerate(peers)]
        assert [each.result(BOUND) for each in writing] == [50] * 20
        eventually(lambda: sub.stats()["received"] == 1000, BOUND)
        wait_blocked(sub, 20)
        dropped = drops(sub).get("congested", 0)
        sub.close()
        got = [each.result(BOUND) for each in reading]
        every = [tuple(map(int, body.split())) for one in got for body in one]
        assert len(set(every)) == len(every) == 1000 - dropped
        assert every, "nobody received anything"
        for one in got:  # each reader sees what it gets of each writer in order
            seen: dict[int, int] = {}
            for index, number in (tuple(map(int, body.split())) for body in one):
                assert seen.get(index, -1) < number
                seen[index] = number
