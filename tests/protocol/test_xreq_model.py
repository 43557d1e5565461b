"""Raw REQ against a simple model, whatever happens in whatever order."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from wire import ID
from world import SETTINGS, World, pick, picks

from spworkers.protocol.xreq import XReq
from spworkers.testing import FakeMessage, FakePipe, Harness


class XReqWorld(World):
    def make(self, prompt: bool) -> Harness:
        harness = Harness(XReq, prompt=prompt, hold=True)
        harness.configure("READQ-LEN", 2)
        harness.open()
        self.sent: list[FakeMessage] = []
        self.fed: dict[FakePipe, list[bytes]] = {}
        self.junk = 0
        self.got: dict[int, list[bytes]] = {}
        return harness

    @rule(good=st.sampled_from([True, True, True, False]))
    def send(self, good: bool) -> None:
        header = ID if good else b"\x80"
        self.sent.append(self.harness.send(0, b"%d" % self.number(), header=header))
        self.settle()

    @precondition(lambda self: self.sent)
    @rule(which=picks)
    def take_back(self, which: int) -> None:
        pick(self.sent, which).take_back()
        self.settle()

    @precondition(lambda self: self.pipes)
    @rule(which=picks, good=st.sampled_from([True, True, True, False]))
    def feed(self, which: int, good: bool) -> None:
        pipe = pick(self.pipes, which)
        payload = ID + b"%d" % self.number() if good else b"\x80"
        if good:
            self.fed.setdefault(pipe, []).append(payload[4:])
        else:
            self.junk += 1
        self.harness.feed(pipe, payload)
        self.settle()

    @rule()
    def recv(self) -> None:
        delivery = self.harness.recv()
        if delivery is not None:
            self.got.setdefault(delivery.pipe, []).append(delivery.body)
        self.settle()

    @rule()
    def wait(self) -> None:
        self.harness.wait(0)
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
        # What is ready is known, and nothing waits while somebody would take it.
        assert harness.ready == sum(not pipe.congested for pipe in self.pipes)
        if harness.ready:
            assert not [message for message in self.sent if message.state == "waiting"]
        # Every message goes out once, in order, or was counted, or was taken back.
        transmitted = [frame for _, frame in harness.did("transmit")]
        assert [int(frame[4:]) for frame in transmitted] == sorted({int(frame[4:]) for frame in transmitted})
        assert all(message.sent <= 1 for message in self.sent)
        dropped = [m for m in self.sent if m.state == "freed" and not m.sent]
        assert len(dropped) == harness.counts["bad_header"]
        waiting = [each for pipe in self.everybody for each in (*pipe.unread, *pipe.never_read) if len(each) < 4]
        assert harness.counts["garbled"] == self.junk - len(waiting)
        in_flight = [message for pipe in self.pipes for message in pipe.in_flight]
        assert sorted(map(id, harness.leaks())) == sorted(map(id, in_flight))
        # What came is received, in order, or waits; nobody waits while there is room.
        for pipe, bodies in self.fed.items():
            got = self.got.get(pipe.id, [])
            lane = [each.body for each in harness.lanes[0].waiting if each.pipe == pipe.id]
            unread = [payload[4:] for payload in pipe.unread if len(payload) >= 4]
            known = got + lane + unread
            assert known == bodies if pipe.attached else known == bodies[: len(known)]
        if harness.lanes[0].open:
            assert not any(pipe.unread for pipe in self.pipes)


TestXReq = XReqWorld.TestCase
TestXReq.settings = SETTINGS
