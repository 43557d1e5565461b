"""PUSH and PAIR against a simple model, whatever happens in whatever order."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from world import SETTINGS, World, pick, picks

from spworkers.protocol.pair import Pair
from spworkers.protocol.push import Push
from spworkers.protocol.queued import Queued
from spworkers.testing import FakeMessage, FakePipe, Harness


class QueuedWorld(World):
    machine: type[Queued] = Push
    most = 5  # peers that it takes

    def make(self, prompt: bool) -> Harness:
        harness = Harness(self.machine, prompt=prompt, hold=True)
        harness.configure("READQ-LEN", 2)
        harness.open()
        self.sent: list[FakeMessage] = []
        self.fed: dict[FakePipe, list[bytes]] = {}
        self.got: dict[int, list[bytes]] = {}
        return harness

    @rule()
    def send(self) -> None:
        self.sent.append(self.harness.send(0, b"%d" % self.number()))
        self.settle()

    @precondition(lambda self: self.sent)
    @rule(which=picks)
    def take_back(self, which: int) -> None:
        pick(self.sent, which).take_back()
        self.settle()

    @precondition(lambda self: self.pipes)
    @rule(which=picks)
    def feed(self, which: int) -> None:
        pipe = pick(self.pipes, which)
        body = b"%d" % self.number()
        self.fed.setdefault(pipe, []).append(body)
        self.harness.feed(pipe, body)
        self.settle()

    @rule()
    def recv(self) -> None:
        delivery = self.harness.recv()
        if delivery is not None:
            self.got.setdefault(delivery.pipe, []).append(delivery.body)
        self.settle()

    @rule(length=st.integers(0, 3))
    def resize(self, length: int) -> None:
        self.harness.configure("READQ-LEN", length)
        self.settle()

    @rule(which=picks)
    def flush(self, which: int) -> None:
        if self.pipes:
            self.harness.flush(pick(self.pipes, which))
        self.settle()

    def calm(self) -> None:
        harness = self.harness
        assert len(self.pipes) <= self.most
        assert harness.ready == sum(not pipe.congested for pipe in self.pipes)
        if harness.ready:
            assert not [message for message in self.sent if message.state == "waiting"]
        # Every message goes out once and in order, or waits, or was taken back: none is lost, and none is counted.
        transmitted = [int(frame) for _, frame in harness.did("transmit")]
        assert transmitted == sorted(set(transmitted))
        assert all(message.sent == (message.state in ("claimed", "freed")) for message in self.sent)
        in_flight = [message for pipe in self.pipes for message in pipe.in_flight]
        assert sorted(map(id, harness.leaks())) == sorted(map(id, in_flight))
        self.received()

    def received(self) -> None:
        """PUSH: what comes is dropped, and counted."""
        assert self.harness.counts["unexpected"] == sum(map(len, self.fed.values()))
        assert not self.got


class PairWorld(QueuedWorld):
    machine = Pair
    most = 1

    def received(self) -> None:
        """PAIR: what comes is received in order, or waits."""
        harness = self.harness
        assert not harness.counts
        for pipe, bodies in self.fed.items():
            lane = [each.body for each in harness.lanes[0].waiting if each.pipe == pipe.id]
            known = self.got.get(pipe.id, []) + lane + list(pipe.unread)
            assert known == bodies if pipe.attached else known == bodies[: len(known)]
        if harness.lanes[0].open:
            assert not any(pipe.unread for pipe in self.pipes)


TestPush = QueuedWorld.TestCase
TestPush.settings = SETTINGS
TestPair = PairWorld.TestCase
TestPair.settings = SETTINGS
