"""Raw REP, and raw RESPONDENT, which is the same, against a simple model, whatever happens in whatever order."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from wire import ID, word
from world import SETTINGS, World, pick, picks

from spworkers.protocol.xrep import XRep
from spworkers.protocol.xrespondent import XRespondent
from spworkers.testing import FakeMessage, FakePipe, Harness


class XRepWorld(World):
    machine: type[XRep] = XRep

    def make(self, prompt: bool) -> Harness:
        harness = Harness(self.machine, prompt=prompt, hold=True)
        harness.configure("READQ-LEN", 2)
        harness.configure("TTL", 3)
        harness.open()
        self.sent: list[FakeMessage] = []
        self.fed: dict[FakePipe, list[bytes]] = {}
        self.bad: list[bytes] = []
        self.got: dict[int, list[bytes]] = {}
        return harness

    @rule(which=picks, to=st.sampled_from(["a pipe"] * 6 + ["nobody", "no header"]))
    def send(self, which: int, to: str) -> None:
        number = pick(self.pipes, which).id if self.pipes and to == "a pipe" else 1_000_000
        header = b"\x00" if to == "no header" else word(number) + ID
        self.sent.append(self.harness.send(0, b"%d" % self.number(), header=header))
        self.settle()

    @precondition(lambda self: self.sent)
    @rule(which=picks)
    def take_back(self, which: int) -> None:
        pick(self.sent, which).take_back()
        self.settle()

    @precondition(lambda self: self.pipes)
    @rule(which=picks, kind=st.sampled_from(["good", "good", "good", "device", "long", "garbage"]))
    def feed(self, which: int, kind: str) -> None:
        pipe = pick(self.pipes, which)
        body = b"%d" % self.number()
        trace = {"good": ID, "device": word(1) * 2 + ID, "long": word(1) * 3 + ID, "garbage": word(1)}[kind]
        payload = trace + (b"" if kind == "garbage" else body)
        if kind in ("good", "device"):
            self.fed.setdefault(pipe, []).append(body)
        else:
            self.bad.append(trace)
        self.harness.feed(pipe, payload)
        self.settle()

    @rule()
    def recv(self) -> None:
        delivery = self.harness.recv()
        if delivery is not None:
            assert delivery.header[:4] == word(delivery.pipe)
            self.got.setdefault(delivery.pipe, []).append(delivery.body)
        self.settle()

    @rule(name=st.sampled_from(["READQ-LEN", "WRITEQ-LEN"]), length=st.integers(0, 3))
    def resize(self, name: str, length: int) -> None:
        self.harness.configure(name, length)
        self.settle()

    @rule(on=st.booleans())
    def best_effort(self, on: bool) -> None:
        self.harness.configure("BEST-EFFORT", on)
        self.settle()

    def calm(self) -> None:
        harness = self.harness
        # A reply waits only for its own pipe, while that is congested.
        for message in self.sent:
            if message.state == "waiting":
                pipe = harness.pipes.get(int.from_bytes(message.header[:4], "big"))
                assert pipe is not None
                assert pipe.congested
        # It goes out once, in order for each pipe, or was counted, or was taken back.
        for number in {pipe for pipe, _ in harness.did("transmit")}:
            bodies = [int(frame[4:]) for pipe, frame in harness.did("transmit") if pipe == number]
            assert bodies == sorted(set(bodies))
        assert all(message.sent <= 1 for message in self.sent)
        dropped = [m for m in self.sent if m.state == "freed" and not m.sent]
        causes = ("bad_header", "no_pipe", "pipe_lost", "congested")
        assert len(dropped) == sum(harness.counts[cause] for cause in causes)
        # What cannot be understood is counted, and ends its pipe; what has come too far is counted.
        unread = [each[:16] for pipe in self.everybody for each in (*pipe.unread, *pipe.never_read)]
        for trace, cause in ((word(1) * 3 + ID, "ttl"), (word(1), "garbled")):
            assert harness.counts[cause] == self.bad.count(trace) - unread.count(trace)
        assert len([pipe for pipe in self.everybody if pipe.closed_for]) <= harness.counts["garbled"]
        assert harness.counts["garbled"] == len([1 for *_, cause in harness.did("close_pipe") if cause == "garbled"])
        in_flight = [message for pipe in self.pipes for message in pipe.in_flight]
        assert sorted(map(id, harness.leaks())) == sorted(map(id, in_flight))
        # What came is received, in order, or waits; nobody waits while there is room.
        for pipe, bodies in self.fed.items():
            got = self.got.get(pipe.id, [])
            lane = [each.body for each in harness.lanes[0].waiting if each.pipe == pipe.id]
            unread = [payload for payload in pipe.unread if payload[:12] != word(1) * 3 and payload != word(1)]
            known = [*got, *lane, *(payload.rpartition(ID)[2] for payload in unread)]
            assert known == bodies if pipe.attached else known == bodies[: len(known)]
        if harness.lanes[0].open:
            assert not any(pipe.unread for pipe in self.pipes)


class XRespondentWorld(XRepWorld):
    machine = XRespondent


TestXRespondent = XRespondentWorld.TestCase
TestXRespondent.settings = settings(SETTINGS, max_examples=SETTINGS.max_examples // 3)
TestXRep = XRepWorld.TestCase
TestXRep.settings = SETTINGS
