"""SURVEYOR against a simple model, whatever happens in whatever order."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from world import SETTINGS, World, pick, picks

from spworkers.protocol.surveyor import Surveyor
from spworkers.testing import FakeMessage, Harness


class SurveyorWorld(World):
    def make(self, prompt: bool) -> Harness:
        self.running: dict[int, FakeMessage | None] = {}  # by context
        self.ends: dict[int, float] = {}
        self.time = 10.0
        self.fed = 0
        self.for_nobody = 0
        harness = Harness(Surveyor, seed=0x7FFFFFF0, prompt=prompt)
        harness.configure("SURVEY-TIME", self.time)
        harness.configure("READQ-LEN", 2)
        return harness

    @rule(context=st.integers(0, 3))
    def open_or_close(self, context: int) -> None:
        if context in self.running:
            self.harness.close(context)
            del self.running[context]
        else:
            self.running[context] = None
            self.harness.open(context)
        self.settle()

    def warm_up(self) -> None:
        super().warm_up()
        for context in range(2):
            self.open_or_close(context)
            self.ask(context, False)

    @precondition(lambda self: self.running)
    @rule(which=picks, inherited=st.sampled_from([False, False, False, True]))
    def ask(self, which: int, inherited: bool) -> None:
        context, serial = pick(list(self.running), which), self.number()
        asked = {pipe for pipe in self.pipes if not pipe.congested}
        self.for_nobody += not self.pipes and not inherited
        message = self.harness.send(context, b"%d" % serial, serial=serial, inherited=inherited)
        self.running[context] = message
        self.ends[context] = self.harness.clock.now + self.time if self.time else float("inf")
        for pipe in asked:
            assert [f for number, f in self.harness.did("transmit") if number == pipe.id and int(f[4:]) == serial]
        # Nothing of a former survey is left in the lane, but for the news that it had ended.
        assert all(each.error for each in self.harness.lanes[context].waiting)
        self.settle()

    @precondition(lambda self: any(pipe.sent for pipe in self.pipes))
    @rule(which=picks, age=st.sampled_from([1, 1, 1, 2, 5]), count=st.integers(1, 3))
    def answer(self, which: int, age: int, count: int) -> None:
        pipe = pick([pipe for pipe in self.pipes if pipe.sent], which)
        for _ in range(count):
            self.fed += 1
            self.harness.feed(pipe, pipe.sent[-min(age, len(pipe.sent))])
        self.settle()

    @precondition(lambda self: self.pipes)
    @rule(which=picks, payload=st.binary(max_size=8))
    def junk(self, which: int, payload: bytes) -> None:
        self.fed += 1
        self.harness.feed(pick(self.pipes, which), payload)
        self.settle()

    @precondition(lambda self: self.running)
    @rule(which=picks)
    def recv(self, which: int) -> None:
        self.harness.recv(pick(list(self.running), which))
        self.settle()

    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0, 11.0]))
    def pass_time(self, seconds: float) -> None:
        self.harness.advance(seconds)
        self.settle()

    @rule(seconds=st.sampled_from([0.0, 1.0, 10.0]))
    def set_time(self, seconds: float) -> None:
        self.time = seconds
        self.harness.configure("SURVEY-TIME", seconds)
        self.settle()

    @rule(length=st.integers(0, 3))
    def resize(self, length: int) -> None:
        self.harness.configure("READQ-LEN", length)
        self.settle()

    def calm(self) -> None:
        harness = self.harness
        now = harness.clock.now
        for context, message in self.running.items():
            if message is None:
                continue
            # A survey runs until its time is over, and its end is told once.
            over = [serial for to, serial, _ in harness.did("fail") if to == context].count(message.serial)
            assert over == (now >= self.ends[context])
            assert message.state == ("freed" if over else "claimed")
        mine = {id(message) for message in self.running.values()}
        assert all(id(message) in mine for message in harness.leaks())
        assert not any(pipe.unread for pipe in self.pipes)
        # An answer is delivered to who asked, under the serial of his question.
        for context, _, header, body, serial, _ in harness.did("deliver"):
            assert len(header) == 4
            if serial and body.isdigit() and int(body) == serial:
                assert next(m for m in harness.messages if m.serial == serial).context == context
        for _, frame in harness.did("transmit"):
            assert frame[0] & 0x80
        # Every answer is delivered, once, or dropped and counted; so is what was taken back from a lane.
        counts = harness.counts
        delivered = [ticket for *_, ticket in harness.did("deliver") if ticket]
        refused = len([ticket for *_, ticket in harness.did("deliver") if not ticket])
        assert counts["congested"] >= refused
        assert self.fed == len(delivered) + counts["garbled"] + counts["unknown_reply"] + refused
        assert counts["canceled"] == sum(done for *_, done in harness.did("revoke"))
        assert counts["no_peers"] == self.for_nobody
        # A survey has an id of its own.
        questions = {(frame[:4], frame[4:]) for _, frame in harness.did("transmit")}
        assert len({key for key, _ in questions}) == len({body for _, body in questions}) == len(questions)


TestSurveyor = SurveyorWorld.TestCase
TestSurveyor.settings = SETTINGS
