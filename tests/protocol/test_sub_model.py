"""SUB, cooked and raw, against a simple model, whatever happens in whatever order."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from world import SETTINGS, World, pick, picks

from spworkers.protocol.sub import Sub
from spworkers.protocol.xsub import XSub
from spworkers.testing import FakeLane, Harness

topics = st.sampled_from([b"", b"a", b"b", b"ab", b"abc"])


class SubWorld(World):
    def make(self, prompt: bool) -> Harness:
        self.topics: dict[int, set[bytes]] = {}
        self.expected: dict[int, list[bytes]] = {}  # what lies in each context's lane
        self.fed = 0
        self.unwanted = 0
        self.copies = 0  # of messages, one for each context that wants it
        self.taken = 0
        self.closed = 0  # what lay in lanes of contexts that were closed
        return Harness(Sub, prompt=prompt)

    def lane(self, context: int) -> FakeLane:
        return self.harness.lanes[context]

    @rule(context=st.integers(0, 3))
    def open_or_close(self, context: int) -> None:
        if context in self.topics:
            self.closed += len(self.lane(context).waiting)
            self.harness.close(context)
            del self.topics[context], self.expected[context]
        else:
            self.harness.open(context)
            self.harness.configure("READQ-LEN", 2, context)
            self.topics[context] = set()
            self.expected[context] = []
        self.settle()

    @precondition(lambda self: self.topics)
    @rule(which=picks, topic=topics)
    def subscribe(self, which: int, topic: bytes) -> None:
        context = pick(list(self.topics), which)
        self.topics[context].add(topic)
        self.harness.configure("SUBSCRIBE", topic, context)
        self.settle()

    @precondition(lambda self: any(self.topics.values()))
    @rule(which=picks, topic=picks)
    def unsubscribe(self, which: int, topic: int) -> None:
        context = pick([context for context, topics in self.topics.items() if topics], which)
        gone = pick(sorted(self.topics[context]), topic)
        self.topics[context].remove(gone)
        self.harness.configure("UNSUBSCRIBE", gone, context)
        self.expected[context] = [body for body in self.expected[context] if self.wants(context, body)]
        self.settle()

    def wants(self, context: int, body: bytes) -> bool:
        return body.startswith(tuple(self.topics[context])) if self.topics[context] else False

    def warm_up(self) -> None:
        super().warm_up()
        for context in range(2):
            self.open_or_close(context)
            self.subscribe(context, b"a")
        self.resize(1, 0)

    @precondition(lambda self: self.pipes)
    @rule(which=picks, topic=topics, count=st.sampled_from([1, 1, 2, 4]))
    def feed(self, which: int, topic: bytes, count: int) -> None:
        for _ in range(count):
            if self.pipes:
                self.feed_one(which, topic)

    def feed_one(self, which: int, topic: bytes) -> None:
        body = topic + b"-%d" % self.number()
        wanting = [context for context in self.topics if self.wants(context, body)]
        for context in wanting:
            lane, queue = self.lane(context), self.expected[context]
            room = lane.window - lane._in_use
            if lane.open:
                queue.append(body)
            elif room:
                while queue and len(queue) >= room:  # several, if it was made shorter
                    del queue[0]
                queue.append(body)
        self.fed += 1
        self.copies += len(wanting)
        self.unwanted += not wanting
        self.harness.feed(pick(self.pipes, which), body)
        self.settle()

    @precondition(lambda self: self.topics)
    @rule(which=picks)
    def recv(self, which: int) -> None:
        context = pick(list(self.topics), which)
        delivery = self.harness.recv(context)
        assert (delivery is None) == (not self.expected[context])
        if delivery is not None:
            self.taken += 1
            assert delivery.body == self.expected[context].pop(0)
        self.settle()

    @precondition(lambda self: self.topics)
    @rule(which=picks, length=st.integers(0, 4))
    def resize(self, which: int, length: int) -> None:
        self.harness.configure("READQ-LEN", length, pick(list(self.topics), which))
        self.settle()

    def calm(self) -> None:
        harness = self.harness
        counts = harness.counts
        assert not any(pipe.unread for pipe in self.pipes)
        for context, expected in self.expected.items():
            assert [each.body for each in self.lane(context).waiting] == expected
            assert all(self.wants(context, body) for body in expected)
        assert counts["unwanted"] == self.unwanted
        lying_now = sum(len(lane.waiting) for lane in harness.lanes.values())
        dropped = counts["displaced"] + counts["unsubscribed"] + counts["congested"]
        assert self.copies == self.taken + lying_now + dropped + self.closed
        assert counts["unsubscribed"] <= self.copies


class XSubWorld(World):
    """Raw SUB: everything, whatever its beginning; a full queue loses the newest, and holds up nobody."""

    def make(self, prompt: bool) -> Harness:
        self.expected: list[tuple[int, bytes]] = []  # what lies in the lane
        self.lost: dict[int, int] = {}  # by pipe
        harness = Harness(XSub, prompt=prompt)
        harness.configure("READQ-LEN", 2)
        harness.open()
        return harness

    @property
    def lane(self) -> FakeLane:
        return self.harness.lanes[0]

    @precondition(lambda self: self.pipes)
    @rule(which=picks, topic=topics, count=st.sampled_from([1, 1, 2, 4]))
    def feed(self, which: int, topic: bytes, count: int) -> None:
        pipe = pick(self.pipes, which)
        for _ in range(count):
            body = topic + b"-%d" % self.number()
            if self.lane.open:
                self.expected.append((pipe.id, body))
            else:
                self.lost[pipe.id] = self.lost.get(pipe.id, 0) + 1
            self.harness.feed(pipe, body)
            self.settle()

    @rule()
    def recv(self) -> None:
        delivery = self.harness.recv()
        assert (delivery is None) == (not self.expected)
        if delivery is not None:
            assert (delivery.pipe, delivery.body) == self.expected.pop(0)
            assert delivery.header == b""
        self.settle()

    @rule(length=st.integers(0, 4))
    def resize(self, length: int) -> None:
        self.harness.configure("READQ-LEN", length)
        self.settle()

    def calm(self) -> None:
        harness = self.harness
        assert not any(pipe.unread for pipe in self.pipes), "a peer is held up"
        assert [(each.pipe, each.body) for each in self.lane.waiting] == self.expected
        for number, lost in self.lost.items():
            assert harness.pipe_counts[number, "congested"] == lost
        assert harness.counts["congested"] == sum(self.lost.values())
        assert not harness.did("transmit")


TestXSub = XSubWorld.TestCase
TestXSub.settings = SETTINGS
TestSub = SubWorld.TestCase
TestSub.settings = SETTINGS
