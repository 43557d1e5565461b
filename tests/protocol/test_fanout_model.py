"""PUB, BUS, STAR and raw SURVEYOR against a simple model, whatever happens in whatever order."""

from __future__ import annotations

from collections import deque
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from wire import ID
from world import SETTINGS, World, pick, picks

from spworkers.protocol.bus import Bus
from spworkers.protocol.fanout import Fanout
from spworkers.protocol.pub import Pub
from spworkers.protocol.star import Star
from spworkers.protocol.xbus import XBus
from spworkers.protocol.xstar import XStar
from spworkers.protocol.xsurveyor import XSurveyor
from spworkers.testing import FakePipe, Harness

HEAD = b"\0\0\0"


class PubWorld(World):
    machine: type[Fanout] = Pub

    def make(self, prompt: bool) -> Harness:
        harness = self.harness_for(prompt)
        harness.configure("READQ-LEN", 2)
        self.length = 2
        harness.configure("WRITEQ-LEN", self.length)
        harness.open()
        self.meant: dict[FakePipe, list[int]] = {}  # messages for each pipe, in order
        self.late: dict[FakePipe, set[int]] = {}  # those that came when its queue was full
        self.for_nobody = 0
        self.fed: dict[FakePipe, deque[bytes]] = {}
        return harness

    def harness_for(self, prompt: bool) -> Harness:
        return Harness(self.machine, prompt=prompt)

    def frame(self, body: bytes) -> bytes:
        return body

    def meant_for(self, number: int, but: FakePipe | None = None) -> int:
        """Note that a message is meant for every pipe but this one."""
        pipes = [pipe for pipe in self.pipes if pipe is not but]
        for pipe in pipes:
            if pipe.congested and self.left(pipe) >= self.length:
                self.late.setdefault(pipe, set()).add(number)
            self.meant.setdefault(pipe, []).append(number)
        return len(pipes)

    def transmitted(self, pipe: FakePipe) -> list[int]:
        """The numbers of what was sent to a pipe."""
        frames = [frame for number, frame in self.harness.did("transmit") if number == pipe.id]
        return [int(frame[-self.digits(frame) :]) for frame in frames]

    def left(self, pipe: FakePipe) -> int:
        """How many messages wait for a pipe."""
        dropped = self.harness.pipe_counts[pipe.id, "congested"]
        return len(self.meant.get(pipe, ())) - len(self.transmitted(pipe)) - dropped

    @rule(count=st.sampled_from([1, 1, 2, 4]))
    def send(self, count: int) -> None:
        for _ in range(count):
            self.send_one()

    def send_one(self) -> None:
        number = self.number()
        self.for_nobody += self.meant_for(number) == 0
        message = self.harness.send(0, b"%d" % number, header=self.header())
        assert message.state == "freed"
        self.settle()

    def header(self) -> bytes:
        """Of a message that is sent."""
        return b""

    @precondition(lambda self: self.pipes)
    @rule(which=picks)
    def feed(self, which: int) -> None:
        pipe = pick(self.pipes, which)
        body = b"%d" % self.number()
        self.fed.setdefault(pipe, deque()).append(body)
        self.harness.feed(pipe, self.frame(body))
        self.settle()

    @rule()
    def recv(self) -> None:
        self.harness.recv()
        self.settle()

    @rule(length=st.integers(0, 3))
    def resize(self, length: int) -> None:
        self.length = max(length, 0)
        self.harness.configure("WRITEQ-LEN", length)
        self.settle()

    def calm(self) -> None:
        harness = self.harness
        assert harness.counts["no_peers"] == self.for_nobody
        self.received()
        waiting = 0
        lost = 0
        for pipe, meant in self.meant.items():
            # A pipe gets what was meant for it in order and once; what it did not get was counted, or waits for it.
            numbers = self.transmitted(pipe)
            places = [meant.index(number) for number in numbers]
            assert places == sorted(set(places))
            # It is the newest that finds no room.
            assert not self.late.get(pipe, set()) & set(numbers)
            left = self.left(pipe)
            assert left >= 0
            if pipe.attached:
                assert left == 0 or pipe.congested
                assert left <= 3
                waiting += left
            else:
                assert harness.pipe_counts[pipe.id, "pipe_lost"] == left
                lost += left
        assert harness.machine.held() == waiting
        assert harness.counts["pipe_lost"] == lost

    def digits(self, frame: bytes) -> int:
        return len(frame)

    def received(self) -> None:
        assert self.harness.counts["unexpected"] == sum(map(len, self.fed.values()))


class BusWorld(PubWorld):
    machine = Bus

    def received(self) -> None:
        harness = self.harness
        for pipe, bodies in self.fed.items():
            known = [body for _, number, _, body, _, ticket in harness.did("deliver") if number == pipe.id and ticket]
            known += [frame[-self.digits(frame) :] for frame in pipe.unread]
            assert known == list(bodies) if pipe.attached else known == list(bodies)[: len(known)]


class Passing(Harness):
    """A harness that knows what a star has to pass on: what it has delivered."""

    def __init__(self, world: StarWorld, **options: Any) -> None:
        self.world = world
        super().__init__(world.kind, **options)

    def deliver(self, context: int, pipe: int, payload: bytes, header_length: int, serial: int, prefix: bytes) -> int:
        ticket = super().deliver(context, pipe, payload, header_length, serial, prefix)
        if ticket:
            self.world.meant_for(int((prefix + payload)[4:]), self.pipes[pipe])
        return ticket


class StarWorld(BusWorld):
    kind: type[Star] = Star

    def harness_for(self, prompt: bool) -> Harness:
        return Passing(self, prompt=prompt)

    def frame(self, body: bytes) -> bytes:
        return HEAD + b"\1" + body

    def digits(self, frame: bytes) -> int:
        return len(frame) - 4

    def calm(self) -> None:
        """What is passed on has one hop more, and never goes back."""
        super().calm()
        assert not self.harness.counts["ttl"]
        assert not self.harness.counts["garbled"]
        fed = {body: pipe for pipe, bodies in self.fed.items() for body in bodies}
        for number, frame in self.harness.did("transmit"):
            source = fed.get(frame[4:])
            assert frame[:4] == HEAD + (b"\0" if source is None else b"\2")
            assert source is None or source.id != number


class XBusWorld(BusWorld):
    """Raw: the header names the pipe that does not get the message, and the pipe that one came by."""

    machine = XBus
    but: FakePipe | None = None

    @rule(which=picks)
    def spare(self, which: int) -> None:
        """What is sent from now on does not go to this pipe."""
        self.but = pick([*self.everybody, None], which)

    def header(self) -> bytes:
        return b"" if self.but is None else self.but.id.to_bytes(4, "big")

    def meant_for(self, number: int, but: FakePipe | None = None) -> int:
        return super().meant_for(number, self.but)

    def received(self) -> None:
        super().received()
        for _, number, header, _, _, _ in self.harness.did("deliver"):
            assert header == number.to_bytes(4, "big")


class XStarWorld(StarWorld):
    """Raw: the count of hops is the program's, and shown to it."""

    kind = XStar

    def header(self) -> bytes:
        return HEAD + b"\0"

    def received(self) -> None:
        super().received()
        for _, _, header, _, _, _ in self.harness.did("deliver"):
            assert header == HEAD + b"\2"


class XSurveyorWorld(BusWorld):
    """Raw SURVEYOR: the header is the program's, an answer's id is shown to it; without one it is dropped."""

    machine = XSurveyor
    without_id = 0
    junk = 0

    def header(self) -> bytes:
        return ID

    def frame(self, body: bytes) -> bytes:
        return ID + body

    def digits(self, frame: bytes) -> int:
        return len(frame) - 4

    @rule(header=st.binary(max_size=3))
    def send_without_id(self, header: bytes) -> None:
        self.without_id += 1
        message = self.harness.send(0, b"%d" % self.number(), header=header)
        assert message.state == "freed"
        self.settle()

    @precondition(lambda self: self.pipes)
    @rule(which=picks, payload=st.binary(max_size=3))
    def feed_without_id(self, which: int, payload: bytes) -> None:
        self.junk += 1
        self.harness.feed(pick(self.pipes, which), payload)
        self.settle()

    def received(self) -> None:
        harness = self.harness
        assert all(frame[:4] == ID for _, frame in harness.did("transmit"))
        assert all(header == ID for _, _, header, _, _, _ in harness.did("deliver"))
        assert harness.counts["bad_header"] == self.without_id
        unread = [each for pipe in self.everybody for each in (*pipe.unread, *pipe.never_read)]
        assert harness.counts["garbled"] == self.junk - sum(len(each) < 4 for each in unread)
        assert not any(pipe.closed_for for pipe in self.everybody), "junk is dropped, as in mangos"
        for pipe, bodies in self.fed.items():
            known = [body for _, number, _, body, _, ticket in harness.did("deliver") if number == pipe.id and ticket]
            known += [frame[4:] for frame in pipe.unread if len(frame) >= 4]
            assert known == list(bodies) if pipe.attached else known == list(bodies)[: len(known)]


TestXSurveyor = XSurveyorWorld.TestCase
TestXSurveyor.settings = SETTINGS
TestXBus = XBusWorld.TestCase
TestXBus.settings = SETTINGS
TestXStar = XStarWorld.TestCase
TestXStar.settings = SETTINGS
TestPub = PubWorld.TestCase
TestPub.settings = SETTINGS
TestBus = BusWorld.TestCase
TestBus.settings = SETTINGS
TestStar = StarWorld.TestCase
TestStar.settings = SETTINGS
