"""PUSH, PULL, PAIR and PAIR1, cooked and raw, against a simple model, whatever happens in whatever order."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from world import SETTINGS, World, pick, picks

from spworkers.protocol.pair import Pair
from spworkers.protocol.pair1 import Pair1
from spworkers.protocol.peers import Peers
from spworkers.protocol.pull import Pull
from spworkers.protocol.push import Push
from spworkers.protocol.xpair1 import XPair1
from spworkers.testing import FakeMessage, FakePipe, Harness

kinds = st.integers(0, 8)
"""Which of several good and bad headers a message has, where there are such."""


class QueuedWorld(World):
    machine: type[Peers] = Push
    most = 5  # peers that it takes

    def make(self, prompt: bool) -> Harness:
        harness = Harness(self.machine, prompt=prompt, hold=True)
        harness.configure("READQ-LEN", 2)
        harness.open()
        self.sent: list[FakeMessage] = []
        self.fed: dict[FakePipe, list[bytes]] = {}
        self.got: dict[int, list[bytes]] = {}
        self.bad: list[tuple[FakePipe, bytes, str]] = []
        self.refused = 0  # messages with a header that is none
        return harness

    @rule(kind=kinds)
    def send(self, kind: int) -> None:
        body = b"%d" % self.number()
        header, good = self.header(kind)
        message = self.harness.send(0, body, header=header)
        if good:
            self.sent.append(message)
        else:
            self.refused += 1
            assert message.state == "freed"
        self.settle()

    def header(self, kind: int) -> tuple[bytes, bool]:
        """A header to send, and whether it is one."""
        return b"", True

    @precondition(lambda self: self.sent)
    @rule(which=picks)
    def take_back(self, which: int) -> None:
        pick(self.sent, which).take_back()
        self.settle()

    @precondition(lambda self: self.pipes)
    @rule(which=picks, kind=kinds)
    def feed(self, which: int, kind: int) -> None:
        pipe = pick(self.pipes, which)
        body = b"%d" % self.number()
        frame, cause = self.frame(body, kind)
        self.harness.feed(pipe, frame)
        if cause:
            self.bad.append((pipe, frame, cause))
        else:
            self.fed.setdefault(pipe, []).append(body)
        self.settle()

    def frame(self, body: bytes, kind: int) -> tuple[bytes, str]:
        """The body as a peer sends it, and the cause for which it is dropped."""
        return body, ""

    def body(self, frame: bytes) -> bytes:
        """The other way."""
        return frame

    def sent_frame(self, message: FakeMessage) -> bytes:
        """A message as it goes out."""
        return message.payload

    @rule()
    def recv(self) -> None:
        delivery = self.harness.recv()
        if delivery is not None:
            self.check_header(delivery.header)
            self.got.setdefault(delivery.pipe, []).append(delivery.body)
        self.settle()

    def check_header(self, header: bytes) -> None:
        assert header == b""

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
        frames = {self.sent_frame(message) for message in self.sent}
        assert all(frame in frames for _, frame in harness.did("transmit"))
        transmitted = [int(self.body(frame)) for _, frame in harness.did("transmit")]
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
        self.in_order()
        for cause in ("ttl", "garbled"):
            # A bad one that its pipe has not been read to yet was not counted.
            n = [pipe for pipe, frame, why in self.bad if why == cause and frame not in pipe.unread and pipe.attached]
            assert len(n) <= self.harness.counts[cause] <= sum(why == cause for *_, why in self.bad)
        assert self.harness.counts["bad_header"] == self.refused

    def in_order(self) -> None:
        harness = self.harness
        bad = {frame for _, frame, _ in self.bad}
        for pipe, bodies in self.fed.items():
            lane = [each.body for each in harness.lanes[0].waiting if each.pipe == pipe.id]
            unread = [self.body(frame) for frame in pipe.unread if frame not in bad]
            known = self.got.get(pipe.id, []) + lane + unread
            assert known == bodies if pipe.attached else known == bodies[: len(known)]
        if harness.lanes[0].open:
            assert not any(pipe.unread for pipe in self.pipes)


class Pair1World(PairWorld):
    machine = Pair1

    def frame(self, body: bytes, kind: int) -> tuple[bytes, str]:
        if kind < 5:
            return bytes([0, 0, 0, kind]) + body, ""
        if kind < 7:
            return bytes([0, 0, 0, kind * 4 + 1]) + body, "ttl"
        return (bytes([1, 0, 0, 1]) if kind == 7 else b"") + body.rjust(3, b"\1"), "garbled"

    def body(self, frame: bytes) -> bytes:
        return frame[4:]

    def sent_frame(self, message: FakeMessage) -> bytes:
        return b"\0\0\0\1" + message.body

    def check_header(self, header: bytes) -> None:
        """The user's half leaves it out."""
        assert header[:3] == b"\0\0\0"
        assert header[3] <= 4


class XPair1World(Pair1World):
    machine = XPair1

    def header(self, kind: int) -> tuple[bytes, bool]:
        return (bytes([0, 0, 0, kind]), True) if kind < 6 else ([b"", b"\0\0\1", b"\1\0\0\1"][kind - 6], False)

    def sent_frame(self, message: FakeMessage) -> bytes:
        return message.payload

    def check_header(self, header: bytes) -> None:
        assert header[:3] == b"\0\0\0"
        assert 1 <= header[3] <= 5  # one more than it came with


class PullWorld(QueuedWorld):
    machine = Pull

    def calm(self) -> None:
        """What comes from each peer is received in order, or waits; what is sent is dropped, and counted."""
        harness = self.harness
        assert len(self.pipes) <= self.most
        assert not harness.did("transmit")
        assert not harness.leaks()
        assert harness.counts["unexpected"] == len(self.sent)
        PairWorld.in_order(self)  # type: ignore[arg-type]


TestPush = QueuedWorld.TestCase
TestPush.settings = SETTINGS
TestPair = PairWorld.TestCase
TestPair.settings = SETTINGS
TestPair1 = Pair1World.TestCase
TestPair1.settings = SETTINGS
TestXPair1 = XPair1World.TestCase
TestXPair1.settings = SETTINGS
TestPull = PullWorld.TestCase
TestPull.settings = SETTINGS
