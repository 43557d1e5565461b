"""REQ against a simple model, whatever happens in whatever order."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from world import SETTINGS, World, pick, picks

from spworkers.protocol.machine import CANCEL
from spworkers.protocol.req import Req
from spworkers.testing import FakeMessage, Harness


class Current:
    """The request that a context waits for."""

    def __init__(self, serial: int) -> None:
        self.serial = serial
        self.message: FakeMessage | None = None
        self.answered = False  # but there was no room for the reply


class Checked(Harness):
    """A harness that looks at every answer in the moment when it is given."""

    def __init__(self, world: ReqWorld, **options: Any) -> None:
        self.world = world
        super().__init__(Req, **options)

    def deliver(self, context: int, pipe: int, payload: bytes, header_length: int, serial: int, prefix: bytes) -> int:
        current = self.world.current[context]
        assert current is not None, "a reply for nobody"
        assert (serial, payload[4:]) == (current.serial, b"%d" % serial)
        ticket = super().deliver(context, pipe, payload, header_length, serial, prefix)
        if ticket:
            self.world.current[context] = None
        current.answered = True
        return ticket

    def transmit(self, pipe: int, prefix: bytes, message: Any, skip: int) -> None:
        former = self.world.sent.get(message.serial)
        assert former is None or former[1] > 0, "it may not be sent again"
        self.world.sent[message.serial] = (self.clock.now, self.world.retry)
        super().transmit(pipe, prefix, message, skip)

    def fail(self, context: int, serial: int, error: str) -> None:
        if serial in self.world.taken_back:  # the machine cannot know that; its context ignores it
            super().fail(context, serial, error)
            return
        current = self.world.current[context]
        assert current is not None
        assert serial == current.serial
        assert error == "CanceledError" or (error == "NoPeersError" and not self.pipes)
        if error == "CanceledError":
            assert self.world.sent[serial][1] == 0
        self.world.current[context] = None
        super().fail(context, serial, error)


class ReqWorld(World):
    def make(self, prompt: bool) -> Harness:
        self.current: dict[int, Current | None] = {}
        self.retry = 60.0
        self.fails = False
        self.frames: dict[bytes, bytes] = {}
        self.taken_back: set[int] = set()
        self.sent: dict[int, tuple[float, float]] = {}  # when, and with which RETRY-TIME
        self.asked: list[int] = []  # serials in order
        self.fed = 0
        self.given_up = 0  # replies that had found no room when their context gave the request up
        harness = Checked(self, seed=0x7FFFFFF0, prompt=prompt, hold=True)
        harness.configure("RETRY-TIME", self.retry)
        return harness

    def warm_up(self) -> None:
        for context in range(3):
            self.open_or_close(context)
            self.ask(context)
        super().warm_up()

    @rule(context=st.integers(0, 4))
    def open_or_close(self, context: int) -> None:
        if context in self.current:
            self.give_up(context)
            self.harness.close(context)
            del self.current[context]
        else:
            self.current[context] = None
            self.harness.open(context)
        self.settle()

    @precondition(lambda self: self.current)
    @rule(which=picks)
    def ask(self, which: int) -> None:
        context, serial = pick(list(self.current), which), self.number()
        self.give_up(context)
        current = self.current[context] = Current(serial)
        self.asked.append(serial)
        current.message = self.harness.send(context, b"%d" % serial, serial=serial)
        self.settle()

    def give_up(self, context: int) -> None:
        """A context does not want its request any more."""
        current, self.current[context] = self.current.get(context), None
        self.given_up += current is not None and current.answered

    @precondition(lambda self: self.current and self.pipes)
    @rule(which=picks, count=st.integers(1, 4))
    def converse(self, which: int, count: int) -> None:
        """Requests and replies in turn, of which nothing is received."""
        for _ in range(count):
            self.ask(which)
            for pipe in self.pipes:
                if pipe.sent:
                    self.fed += 1
                    self.harness.feed(pipe, pipe.sent[-1])
                    self.settle()

    @precondition(lambda self: any(self.current.values()))
    @rule(which=picks, right=st.booleans())
    def cancel(self, which: int, right: bool) -> None:
        context, current = pick([(c, each) for c, each in self.current.items() if each], which)
        if right:
            self.give_up(context)
        self.harness.send(context, b"", serial=current.serial - (not right), kind=CANCEL)
        self.settle()

    @precondition(lambda self: any(self.current.values()))
    @rule(which=picks)
    def take_back(self, which: int) -> None:
        context, current = pick([(c, each) for c, each in self.current.items() if each], which)
        if current.message.take_back():
            self.taken_back.add(current.serial)
            self.current[context] = None
        self.settle()

    @precondition(lambda self: any(pipe.sent for pipe in self.pipes))
    @rule(which=picks, frame=picks, keep=st.booleans())
    def reply(self, which: int, frame: int, keep: bool) -> None:
        pipe = pick([pipe for pipe in self.pipes if pipe.sent], which)
        payload = pick(pipe.sent, frame)
        if not keep:
            pipe.sent.remove(payload)
        self.fed += 1
        self.harness.feed(pipe, payload)
        self.settle()

    @precondition(lambda self: self.pipes)
    @rule(which=picks, payload=st.binary(max_size=8))
    def junk(self, which: int, payload: bytes) -> None:
        self.fed += 1
        self.harness.feed(pick(self.pipes, which), payload)
        self.settle()

    @precondition(lambda self: self.current)
    @rule(which=picks)
    def recv(self, which: int) -> None:
        self.harness.recv(pick(list(self.current), which))
        self.settle()

    @rule(seconds=st.sampled_from([0.0, 1.0, 30.0, 61.0]))
    def pass_time(self, seconds: float) -> None:
        self.harness.advance(seconds)
        self.settle()

    @rule(seconds=st.sampled_from([0.0, 0.0, 1e-9, 10.0, 60.0]))
    def set_retry(self, seconds: float) -> None:
        self.retry = seconds
        self.harness.configure("RETRY-TIME", seconds)
        self.settle()

    @rule(on=st.booleans())
    def set_fail_no_peers(self, on: bool) -> None:
        self.fails = on
        self.harness.configure("FAIL-NO-PEERS", on)
        self.settle()

    @rule(which=picks)
    def flush(self, which: int) -> None:
        if self.pipes:
            self.harness.flush(pick(self.pipes, which))
        self.settle()

    def calm(self) -> None:
        harness = self.harness
        assert harness.ready == sum(not pipe.congested for pipe in self.pipes)
        asked = [current for current in self.current.values() if current is not None]
        # Nothing waits while somebody would take it, and nobody waits for what cannot come.
        if harness.ready:
            assert not [current for current in asked if current.message and current.message.state == "waiting"]
        if self.fails and not self.pipes:
            assert all(current.answered for current in asked)
        # What is not current is free: replies that found no room are current still.
        in_flight = {id(message) for pipe in self.pipes for message in pipe.in_flight}
        mine = {id(current.message) for current in asked}
        for message in harness.messages:
            if message.state == "claimed":
                assert id(message) in mine or (id(message) in in_flight)
            elif message.state == "waiting":
                assert id(message) in mine
        # A request has one id as long as it lives, and no other request has it.
        for _, frame in harness.did("transmit"):
            assert frame[0] & 0x80
            assert self.frames.setdefault(frame[4:], frame[:4]) == frame[:4]
        ids = list(self.frames.values())
        assert len(set(ids)) == len(ids)
        # A request that is waited for is not freed.
        assert all(each.message.state in ("waiting", "claimed") for each in asked if each.message)
        # Requests are first sent in the order in which they were made.
        first = list(dict.fromkeys(int(frame[4:]) for _, frame in harness.did("transmit")))
        assert first == sorted(first)
        # Every reply is delivered, once, or waits for room, or is counted.
        counts = harness.counts
        delivered = [ticket for *_, ticket in harness.did("deliver") if ticket]
        waiting = [each for each in asked if each.answered]
        assert self.fed == len(delivered) + len(waiting) + counts["garbled"] + counts["unknown_reply"] + self.given_up
        # With retries it is sent again in time, if somebody takes it.
        for current in asked:
            if harness.ready and current.message and not current.answered:
                time, retry = self.sent[current.serial]
                assert retry == 0 or harness.clock.now <= time + max(retry, 0.001)
        dropped = [m for m in harness.messages if m.state == "freed" and not m.sent and m.kind != CANCEL]
        failed = {serial for _, serial, _ in harness.did("fail")}
        unsent = [m for m in dropped if m.serial not in failed]
        assert len(unsent) + self.given_up == counts["canceled"]
        assert harness.machine.deadline >= 1000.0


TestReq = ReqWorld.TestCase
TestReq.settings = SETTINGS
