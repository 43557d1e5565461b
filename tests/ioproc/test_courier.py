"""A hub whose courier carries requests and replies does exactly what one does whose machine sees each of them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from surroundings import Surroundings

from spworkers.ioproc.counters import CAUSES
from spworkers.ioproc.hub import Hub
from spworkers.ioproc.ports import ContextPort, PipePort
from spworkers.protocol import machine_for
from spworkers.ring import CANCEL, DATA, Receiver, Region, Sender, make_bell
from spworkers.transport.base import Link

MANY = 1 << 32


class Peer:
    """Who answers."""

    def __init__(self, hub: Hub, number: int) -> None:
        ours, self.sock = socket.socketpair()
        for end in (ours, self.sock):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        self.number = number
        self.bytes = b""
        self.asked: list[tuple[bytes, bytes]] = []
        self.reads = True
        assert hub.attach(PipePort(number, Link(ours, "stream"), 0, "", -1, -1, {}))

    def read(self) -> bool:
        if not self.reads:
            return False
        try:
            got = self.sock.recv(1 << 20)
        except BlockingIOError:
            return False
        self.bytes += got
        while len(self.bytes) >= 8 and len(self.bytes) >= 8 + int.from_bytes(self.bytes[:8], "big"):
            end = 8 + int.from_bytes(self.bytes[:8], "big")
            self.asked.append((self.bytes[8:12], self.bytes[12:end]))
            self.bytes = self.bytes[end:]
        return bool(got)

    def say(self, payload: bytes) -> None:
        self.sock.send(len(payload).to_bytes(8, "big") + payload)


class Asking:
    """A REQ socket's hub, its peers, and two contexts' users; in many mode one context's.

    What can be seen of two of them is the same but for request ids, which are told as the numbers of the requests.
    """

    def __init__(self, carries: bool, many: bool, seed: int = 7) -> None:
        self.many = many
        self.io_bell = make_bell()
        self.region = Region.create(1 << 20)
        self.around = Surroundings()
        kind: Any = machine_for("req", False)
        self.hub = Hub(self.around, self.around, self.region, self.io_bell, lambda out: kind(out, seed=seed))
        self.hub.batching = carries
        self.bells: list[int] = []
        self.rx: list[Receiver] = []
        self.tx: list[Sender] = []
        self.serials = MANY if many else 0
        self.published: list[tuple[int, int, int]] = []  # context, serial, ticket
        self.names: dict[bytes, str] = {}
        if many:
            self.hub.machine.configure(None, "IN-FLIGHT", 64)
        for index in range(1 if many else 2):
            segment = self.region.segment(index)
            recv_bell, send_bell = make_bell(), make_bell()
            self.bells += [recv_bell, send_bell]
            self.rx.append(Receiver(segment, recv_bell, self.io_bell))
            self.tx.append(Sender(segment, send_bell, self.io_bell))
            self.tx[-1].window = 4096
            self.hub.open_context(ContextPort(index, segment, recv_bell, send_bell, ""))
        self.peers: list[Peer] = []
        self.joined = 0
        self.carried = 0
        self.do("join", None)

    def close(self) -> None:
        while self.peers:
            self.peers.pop().sock.close()
        self.settle()
        for bell in [*self.bells, self.io_bell]:
            os.close(bell)

    def do(self, move: str, what: Any) -> Any:
        found: Any = None
        if move == "ask":
            context, size = what
            index = context % len(self.tx)
            self.serials += 1
            body = b"%d." % self.serials + bytes(size)
            self.published.append((index, self.serials, self.tx[index].publish(body, serial=self.serials, force=True)))
        elif move == "burst":
            for _ in range(what):
                self.do_quietly("ask", (0, 3))
        elif move == "revoke":
            if self.published:
                index, _, ticket = self.published[what % len(self.published)]
                self.tx[index].revoke(ticket)
        elif move == "cancel":
            which, body = what
            if self.published:
                index, serial, _ = self.published[which % len(self.published)]
                self.tx[index].publish(body, serial=serial, kind=CANCEL, force=True)
        elif move == "pinned":
            self.serials += 1
            self.tx[0].publish(b"%d.pinned" % self.serials, pipe=self.joined, serial=self.serials, force=True)
        elif move == "answer":
            which, size = what
            asked = [(peer, key) for peer in self.peers for key, _ in peer.asked]
            if asked:
                peer, key = asked[which % len(asked)]
                peer.say(key + b"re" + bytes(size))
        elif move == "noise":
            if self.peers:
                self.peers[0].say(what)
        elif move == "join" and len(self.peers) < 2:
            self.joined += 1
            self.peers.append(Peer(self.hub, self.joined))
        elif move == "lose":
            if self.peers:
                self.peers.pop(what % len(self.peers)).sock.close()
        elif move == "deaf":
            if self.peers:
                self.peers[0].reads = False
        elif move == "hears":
            for peer in self.peers:
                peer.reads = True
        elif move == "recv":
            found = [self.receive(rx, what) for rx in self.rx]
        elif move == "RETRY-TIME":
            self.hub.machine.configure(None, move, what)
        self.settle()
        return found, self.drops(), [[self.name(*asked) for asked in peer.asked] for peer in self.peers]

    def do_quietly(self, move: str, what: Any) -> None:
        """Without a turn of the hub, so that it finds several at once."""
        settle = self.settle
        self.settle = lambda: None  # type: ignore[method-assign]
        try:
            self.do(move, what)
        finally:
            self.settle = settle  # type: ignore[method-assign]

    def receive(self, rx: Receiver, most: int) -> list[Any]:
        found: list[Any] = []
        while len(found) < most and (record := rx.take()) is not None:
            name = self.names.get(record.header, "?") if record.kind == DATA else ""
            found.append((record.kind, record.pipe, record.serial, name, record.take_body()))
        return found

    def name(self, key: bytes, body: bytes) -> tuple[str, bytes]:
        return self.names.setdefault(key, f"request {len(self.names)}"), body

    def settle(self) -> None:
        busy = True
        while busy:
            self.hub.doorbell()
            self.carried = max(self.carried, 0 if self.hub.errands.courier is None else self.hub.errands.courier.abroad)
            busy = self.around.turn()
            for peer in self.peers:
                busy |= peer.read()
            for peer in self.peers:  # named in the order of their coming
                for asked in peer.asked:
                    self.name(*asked)

    def drops(self) -> dict[str, int]:
        return {cause: n for cause, index in CAUSES.items() if (n := self.region.counter(index))}


sizes = st.one_of(st.integers(0, 150), st.sampled_from([184, 185, 192, 300, 5000]))
which = st.integers(0, 40)
moves = st.one_of(
    st.tuples(st.just("ask"), st.tuples(st.integers(0, 1), sizes)),
    st.tuples(st.just("ask"), st.tuples(st.integers(0, 1), st.integers(0, 20))),
    st.tuples(st.just("answer"), st.tuples(which, sizes)),
    st.tuples(st.just("answer"), st.tuples(which, st.integers(0, 20))),
    st.tuples(st.just("burst"), st.integers(1, 40)),
    st.tuples(st.just("revoke"), which),
    st.tuples(st.just("cancel"), st.tuples(which, st.sampled_from([b"", b"never mind"]))),
    st.tuples(st.just("pinned"), st.none()),
    st.tuples(st.just("noise"), st.sampled_from([b"", b"abc", bytes(4), b"\x80\0\0\1unknown", b"\xff\xff\xff\xff"])),
    st.tuples(st.sampled_from(["join", "deaf", "hears"]), st.none()),
    st.tuples(st.just("lose"), which),
    st.tuples(st.just("recv"), st.integers(1, 3)),
    st.tuples(st.just("RETRY-TIME"), st.sampled_from([0.0, 60.0])),
)


@settings(deadline=None, max_examples=300)
@given(st.booleans(), st.lists(moves, min_size=12, max_size=40))
@example(True, [("burst", 40), *[("answer", (i, 3)) for i in range(40)], ("recv", 3)])
@example(False, [("ask", (0, 3)), ("ask", (1, 3)), ("ask", (0, 3)), ("answer", (0, 3)), ("answer", (2, 3))])
@example(False, [("ask", (0, 3)), ("lose", 0), ("join", None), ("answer", (0, 3))])
@example(True, [("ask", (0, 3)), ("join", None), ("ask", (0, 3)), ("lose", 0), ("answer", (1, 3))])
@example(True, [("ask", (0, 3)), ("cancel", (0, b"never mind")), ("answer", (0, 3))])
@example(True, [("deaf", None), *[("ask", (0, 5000))] * 9, ("ask", (0, 1)), ("hears", None), ("answer", (9, 1))])
@example(True, [("deaf", None), *[("burst", 40)] * 30, ("hears", None), ("answer", (9, 1)), ("recv", 3)])
def test_the_courier_does_what_the_machine_does(many: bool, script: list[Any]) -> None:
    """Whatever is asked, answered, given up and lost in between."""
    both = [Asking(carries, many) for carries in (False, True)]
    try:
        for step in [*script, ("hears", None), ("recv", 3), ("recv", 500)]:
            first, second = (side.do(*step) for side in both)
            assert first == second, step
        assert both[0].hub.errands.courier is None
    finally:
        for side in both:
            side.close()


@pytest.fixture(params=[False, True], ids=["conversation", "many"])
def asking(request: pytest.FixtureRequest) -> Iterator[Asking]:
    made = Asking(True, request.param)
    yield made
    made.close()


def test_it_is_the_courier_who_carries(asking: Asking) -> None:
    asking.do("ask", (0, 3))
    assert asking.hub.errands.courier is not None
    assert asking.hub.errands.courier.abroad == 1
    assert asking.around.employed == 1
    asking.do("answer", (0, 3))
    assert asking.hub.errands.courier.abroad == 0
    assert len(asking.do("recv", 3)[0][0]) == 1


def test_what_waits_for_long_is_the_machines_and_is_sent_again(asking: Asking) -> None:
    """RETRY-TIME is counted from when the courier sent it."""
    asking.hub.machine.configure(None, "RETRY-TIME", 20.0)
    asking.settle()
    asking.do("ask", (0, 3))
    courier = asking.hub.errands.courier
    assert courier is not None
    assert courier.abroad == 1
    asking.around.age(time.monotonic() + 19.0)
    assert courier.abroad == 1
    now = time.monotonic() + 21.0
    asking.hub.clock = lambda: now
    asking.around.age(now)
    assert courier.abroad == 0
    asking.around.age(now)
    asking.settle()
    [peer] = asking.peers
    assert len(peer.asked) == 2
    assert peer.asked[0] == peer.asked[1]
    asking.do("answer", (0, 3))
    asking.do("answer", (0, 3))
    assert len(asking.do("recv", 9)[0][0]) == 1


def test_a_shorter_retry_time_holds_for_what_comes_after_it(asking: Asking) -> None:
    """Though he awaits the end of a longer one."""
    asking.do("ask", (0, 3))
    asking.do("answer", (0, 3))
    asking.do("recv", 1)
    asking.do("RETRY-TIME", 1.0)
    asking.do("ask", (0, 3))
    courier = asking.hub.errands.courier
    assert courier is not None
    assert courier.abroad == 1
    now = time.monotonic() + 2.0
    asking.hub.clock = lambda: now
    asking.around.age(now)
    asking.around.age(now)
    asking.settle()
    assert len(asking.peers[0].asked) == 3


def test_requests_that_stay_do_not_hold_up_others(asking: Asking) -> None:
    """One request is not answered while the ids go round in the courier's places."""
    asking.do("ask", (0, 1))
    for _ in range(300):
        asking.do("ask", (1, 1))
        asking.do("answer", (len(asking.peers[0].asked) - 1, 3))
        found = asking.do("recv", 9)[0]
        assert len(found[-1]) == 1
    asking.do("answer", (0, 3))
    assert len(asking.do("recv", 9)[0][0]) == 1
    assert asking.drops() == {}


def test_a_successor_sends_what_the_courier_had_sent(asking: Asking) -> None:
    asking.do("ask", (0, 3))
    assert asking.hub.errands.courier is not None
    assert asking.hub.errands.courier.abroad == 1
    around = Surroundings()
    kind: Any = machine_for("req", False)
    heir = Hub(around, around, asking.region, asking.io_bell, lambda out: kind(out, seed=99))
    if asking.many:
        heir.machine.configure(None, "IN-FLIGHT", 64)
    heir.open_context(ContextPort(0, asking.region.segment(0), *asking.bells[:2], ""))
    peer = Peer(heir, 9)
    while around.turn() or peer.read():
        pass
    assert [body for _, body in peer.asked] == [asking.peers[0].asked[0][1]]


def test_ids_are_not_those_of_requests_that_the_machine_has() -> None:
    """After they have gone round, that is."""
    asking = Asking(False, True, seed=14)
    try:
        asking.do("ask", (0, 3))
        machine = asking.hub.machine
        assert machine.numbers(0x7FFFFFFF - 4) == 15
        assert machine.numbers(4) == 10
        assert machine.numbers(8) == 22
        assert machine.numbers(8) == 30
    finally:
        asking.close()
