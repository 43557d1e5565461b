"""A hub that moves many messages at a time gives exactly what one gives that moves each by itself."""

from __future__ import annotations

import errno
import os
import socket
import weakref
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from surroundings import Surroundings

from spworkers.ioproc.counters import CAUSES
from spworkers.ioproc.hub import Hub
from spworkers.ioproc.ports import ContextPort, PipePort
from spworkers.protocol import machine_for
from spworkers.ring import Receiver, Region, Sender, make_bell
from spworkers.transport.base import Link

BUDGET = 1 << 20
WINDOW = 4096  # of the user's sends


class Peer:
    """The other end of a pipe, which writes what the kernel takes, and reads when it is told to."""

    def __init__(self, hub: Hub, number: int) -> None:
        ours, self.sock = socket.socketpair()
        for end in (ours, self.sock):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
        self.ours = ours
        self.number = number
        self.unsent = b""
        self.got = b""
        link = Link(ours, "stream")
        self.link = weakref.ref(link)
        assert hub.attach(PipePort(number, link, 0, "", -1, -1, {}))

    def close(self) -> None:
        self.sock.close()
        self.ours.close()

    def write(self) -> bool:
        """False: there is nothing, or no room."""
        try:
            wrote = self.sock.send(self.unsent) if self.unsent else 0
        except BlockingIOError:
            return False
        self.unsent = self.unsent[wrote:]
        return wrote > 0

    def read(self, most: int) -> None:
        try:
            self.got += self.sock.recv(most)
        except BlockingIOError:
            return


class Socket:
    """A socket's hub with two peers, and its user."""

    def __init__(self, protocol: str, batching: bool, peers: int) -> None:
        self.bells = [make_bell() for _ in range(3)]
        io_bell, recv_bell, send_bell = self.bells
        self.region = Region.create(BUDGET)
        self.around = Surroundings()
        self.hub = Hub(self.around, self.around, self.region, io_bell, lambda out: machine_for(protocol, False)(out))
        self.hub.batching = batching
        segment = self.region.segment(0)
        self.rx = Receiver(segment, recv_bell, io_bell)
        self.tx = Sender(segment, send_bell, io_bell)
        self.tx.window = WINDOW
        self.hub.machine.configure(None, "READQ-LEN", 4)
        self.hub.machine.configure(None, "WRITEQ-LEN", 3)
        self.hub.open_context(ContextPort(0, segment, recv_bell, send_bell, ""))
        self.peers = [Peer(self.hub, number) for number in range(1, peers + 1)]
        self.number = 0

    def close(self) -> None:
        for peer in self.peers:
            peer.close()
        for bell in self.bells:
            os.close(bell)

    def body(self, size: int) -> bytes:
        """The next one."""
        self.number += 1
        return b"ab"[self.number % 2 : self.number % 2 + 1] + b"%d." % self.number + bytes(size)

    def do(self, move: str, what: Any) -> list[Any]:
        """What can be seen of it, when the hub has nothing more to do."""
        found: list[Any] = []
        if move == "come":
            which, sizes = what
            for size in sizes:
                body = self.body(size)
                self.peers[which % len(self.peers)].unsent += len(body).to_bytes(8, "big") + body
        elif move == "recv":
            while len(found) < what and (record := self.rx.take()) is not None:
                found += [(record.pipe, record.header, record.take_body())]
        elif move == "send":
            found += [self.tx.publish(self.body(size)) for size in what]
        elif move == "read":
            which, most = what
            self.peers[which % len(self.peers)].read(most)
        else:
            self.hub.machine.configure(None, move, what)
        self.settle()
        return [found, self.drops(), [peer.got for peer in self.peers]]

    def settle(self) -> None:
        busy = True
        while busy:
            self.hub.doorbell()
            busy = self.around.turn()
            for peer in self.peers:
                busy |= peer.write()

    def drops(self) -> dict[str, int]:
        return {cause: n for cause, index in CAUSES.items() if (n := self.region.counter(index))}


small = st.integers(0, 400)
sizes = st.lists(st.one_of(small, small, st.sampled_from([4000, 30_000])), max_size=12)
arriving = st.one_of(
    st.tuples(st.just("come"), st.tuples(st.integers(0, 1), sizes)),
    st.tuples(st.just("recv"), st.integers(1, 9)),
    st.tuples(st.just("READQ-LEN"), st.sampled_from([1, 2, 4, 128])),
    st.tuples(st.sampled_from(["SUBSCRIBE", "UNSUBSCRIBE"]), st.sampled_from([b"", b"a", b"b", b"a1"])),
)
leaving = st.one_of(
    st.tuples(st.just("send"), sizes),
    st.tuples(st.just("read"), st.tuples(st.integers(0, 1), st.sampled_from([100, 50_000, 1 << 20]))),
)


def compare(protocol: str, peers: int, script: list[Any]) -> None:
    """Both do the same; two pipes that wait for room would take turns, whose order is not the point here."""
    both = [Socket(protocol, batching, peers) for batching in (False, True)]
    try:
        for step in script:
            first, second = (side.do(*step) for side in both)
            assert first == second, step
    finally:
        for side in both:
            side.close()


@settings(deadline=None)
@given(st.sampled_from(["pull", "pair", "sub"]), st.lists(arriving, max_size=25))
@example("pull", [("come", (0, [1] * 12)), ("recv", 3), ("come", (0, [1, 4000, 30_000] * 4)), *[("recv", 4)] * 9])
@example("sub", [("SUBSCRIBE", b"a"), ("come", (0, [1] * 12)), ("recv", 3), ("UNSUBSCRIBE", b"a"), ("recv", 9)])
def test_what_arrives(protocol: str, script: list[Any]) -> None:
    compare(protocol, 1, [*script, ("recv", 500)])


@settings(deadline=None)
@given(st.lists(arriving, max_size=25))
def test_what_subscribers_get_from_two_publishers(script: list[Any]) -> None:
    compare("sub", 2, [("SUBSCRIBE", b"a"), *script, ("recv", 500)])


@settings(deadline=None)
@given(st.sampled_from(["pub", "bus", "star", "push"]), st.lists(leaving, max_size=25))
@example("pub", [("send", [1, 300, 40_000] * 4), ("read", (0, 1 << 20)), ("send", [1] * 9), ("read", (0, 1 << 20))])
def test_what_is_sent_to_two_peers(protocol: str, script: list[Any]) -> None:
    compare(protocol, 2, [*script, *[("read", (0, 1 << 20)), ("read", (1, 1 << 20))] * 2])


def test_a_pipe_that_is_over_is_kept_by_nothing() -> None:
    """Nor is what it maps, though nothing more is published."""
    pub = Socket("pub", True, 2)
    try:
        pub.do("send", [10])
        peer = pub.peers[0]
        assert peer.link() is not None
        peer.sock.close()
        while pub.around.turn():
            pass
        assert len(pub.hub.pipes) == 1
        pub.around.watched.clear()
        assert peer.link() is None
    finally:
        pub.close()


@pytest.mark.parametrize("batching", [False, True])
def test_the_queue_of_the_last_pipe_is_no_longer_than_it_says(batching: bool) -> None:
    """Only where there is another one to send to does what a stalled pipe has take no place in it."""
    push = Socket("push", batching, 2)
    try:
        outlet = push.hub.contexts[0].outlet
        push.tx.window = 2
        for _ in range(20):
            push.do("send", [30_000])
        assert not push.tx.publish(b"")
        stalled = [peer.number for peer in push.peers if push.hub.pipes[peer.number].congested]
        assert stalled == [1, 2]
        assert outlet.under_way == sum(push.hub.pipes[number].writer.queued for number in stalled) > 0
        push.peers[0].sock.close()
        push.settle()
        assert list(push.hub.pipes) == [2]
        assert outlet.under_way == 0
        assert not push.tx.publish(b"")
        push.peers.append(Peer(push.hub, 3))
        assert outlet.under_way > 0
        push.settle()
        assert push.tx.publish(b"")
    finally:
        push.close()


class Scribbled:
    """A writer whose ring, in memory that two share, was written to by the other side."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def flush(self) -> bool:
        raise OSError(errno.EPROTO, "the peer's ring is not in order")


def test_a_peer_that_writes_where_only_we_may_is_counted_and_told_of(caplog: pytest.LogCaptureFixture) -> None:
    push = Socket("push", False, 1)
    try:
        pipe = push.hub.pipes[1]
        pipe.writer = Scribbled(pipe.writer)
        push.do("send", [10])
        assert push.hub.pipes == {}
        assert push.region.counter(CAUSES["garbled"]) == 1
        assert "the peer's ring is not in order" in caplog.text
    finally:
        push.close()
