"""The dispatcher against a simple model, whatever happens in whatever order."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from wire import request_id
from world import SETTINGS, World, pick, picks

from spworkers.protocol.dispatch import Dispatcher
from spworkers.protocol.machine import CANCEL
from spworkers.testing import Delivery, FakePipe, Harness

RETRIES = 1


class Errors:
    """Error replies, for all kinds or for all but `busy`."""

    def __init__(self, busy: bool) -> None:
        self.busy = busy

    def handler_of(self, payload: bytes, header_length: int) -> str:
        return ""

    def content_at(self, payload: bytes, header_length: int) -> int:
        return header_length

    def error_reply(self, payload: bytes, header_length: int, kind: str, detail: dict[str, Any]) -> bytes | None:
        return None if kind == "busy" and not self.busy else b"!" + kind.encode()


class DispatchWorld(World):
    def make(self, prompt: bool) -> Harness:
        self.fed: dict[int, FakePipe] = {}
        self.runs: dict[int, int] = {}
        self.running: list[tuple[int, Delivery]] = []
        self.again: Counter[int] = Counter()
        self.draining = False
        harness = Harness(Dispatcher, errors=Errors(busy=prompt), prompt=prompt)
        harness.configure("BACKLOG", 3)
        harness.configure("RETRIES", RETRIES)
        harness.configure("TIMEOUT", 10.0)
        return harness

    @rule(context=st.integers(0, 3))
    def open_or_die(self, context: int) -> None:
        if context in self.harness.lanes:
            self.die(context)
        else:
            self.harness.open(context)
        self.settle()

    def warm_up(self) -> None:
        super().warm_up()
        for number in range(3):
            self.harness.open(number % 2) if number < 2 else None
            self.feed(number)
            self.take(number)

    def die(self, context: int) -> None:
        self.running = [(each, request) for each, request in self.running if each != context]
        self.harness.close(context)

    @precondition(lambda self: self.pipes)
    @rule(which=picks)
    def feed(self, which: int) -> None:
        pipe, number = pick(self.pipes, which), self.number()
        self.fed[number] = pipe
        self.harness.feed(pipe, request_id(number) + b"%d" % number)
        self.settle()

    @precondition(lambda self: any(pipe.attached for pipe in self.fed.values()))
    @rule(which=picks)
    def feed_again(self, which: int) -> None:
        number = pick([number for number, pipe in self.fed.items() if pipe.attached], which)
        if not self.is_answered(number):
            self.again[number] += 1  # it joins the first one, or comes when that was answered and is another one
            self.harness.feed(self.fed[number], request_id(number) + b"%d" % number)
        self.settle()

    @precondition(lambda self: self.harness.lanes)
    @rule(which=picks)
    def wait(self, which: int) -> None:
        self.harness.wait(pick(list(self.harness.lanes), which))
        self.settle()

    @precondition(lambda self: self.harness.lanes)
    @rule(which=picks)
    def take(self, which: int) -> None:
        self.run_next(pick(list(self.harness.lanes), which))
        self.settle()

    def run_next(self, context: int) -> bool:
        request = self.harness.recv(context)
        if request is None:
            return False
        number = int(request.body)
        assert request.header == request_id(number)
        assert self.fed[number].id == request.pipe
        self.runs[number] = self.runs.get(number, 0) + 1
        assert not [1 for _, other in self.running if other.body == request.body], "it runs twice at once"
        self.running.append((context, request))
        return True

    @precondition(lambda self: self.running)
    @rule(which=picks, what=st.sampled_from(["answer"] * 5 + ["give back", "wrong serial", "another worker"]))
    def answer(self, which: int, what: str) -> None:
        context, request = pick(self.running, which)
        if what == "wrong serial":
            self.harness.send(context, b"?", serial=request.serial + 1_000_000)
        elif what == "another worker":
            for other in self.harness.lanes:
                if other != context:
                    self.harness.send(other, b"?", serial=request.serial)
        else:
            self.running.remove((context, request))
            if what == "answer":
                self.harness.send(context, request.body, serial=request.serial)
            else:
                self.runs[int(request.body)] -= 1
                self.harness.send(context, b"", serial=request.serial, kind=CANCEL)
        self.settle()

    @rule(seconds=st.sampled_from([1.0, 5.0, 11.0]))
    def pass_time(self, seconds: float) -> None:
        busy = {context for context, _ in self.running}
        self.harness.advance(seconds)
        if seconds > 10.0:
            assert busy <= {context for context, _ in self.harness.killed}, "longer than TIMEOUT"
        for context, _ in self.harness.killed:
            self.die(context)
        self.harness.killed.clear()
        self.settle()

    @rule(prefetch=st.integers(-1, 3), writeq=st.sampled_from([2, 3, 128]), draining=st.sampled_from([0, 0, 0, 1]))
    def configure(self, prefetch: int, writeq: int, draining: int) -> None:
        self.harness.configure("PREFETCH", prefetch)
        self.harness.configure("WRITEQ-LEN", writeq)
        self.harness.configure("DRAINING", bool(draining))
        self.draining = bool(draining)
        self.settle()

    def is_answered(self, number: int) -> bool:
        return any(frame[:4] == request_id(number) for frame in self.fed[number].sent)

    def calm(self) -> None:
        harness = self.harness
        # No request runs more often than it may.
        assert all(runs <= (RETRIES + 1) * (1 + self.again[number]) for number, runs in self.runs.items())
        # An answer is its own request's, goes where that came from, and goes there once.
        for number, frame in harness.did("transmit"):
            request = int.from_bytes(frame[:4], "big") & 0x7FFFFFFF
            assert self.fed[request].id == number
            assert frame[4:] == b"%d" % request or frame[4:5] == b"!"
        answers = Counter(int(frame[4:]) for _, frame in harness.did("transmit") if frame[4:5] != b"!")
        assert all(count <= 1 + self.again[number] for number, count in answers.items())
        # Answers wait only for pipes that are congested.
        assert all(message.sent <= 1 for message in harness.messages)
        assert harness.leaks() == []
        for message in harness.messages:
            if message.state == "waiting":
                assert self.fed[int(message.body)].congested
        # Nothing waits while a worker has nothing to do, but requests of those who do not read their answers.
        busy = {context for context, _ in self.running}
        if any(lane.open and not lane.waiting and context not in busy for context, lane in harness.lanes.items()):
            somewhere = {int(each.body) for lane in harness.lanes.values() for each in lane.waiting}
            somewhere |= {int(request.body) for _, request in self.running}
            idle = [number for number, pipe in self.fed.items() if pipe.attached and not pipe.congested]
            lost = [number for number in idle if number not in somewhere and not self.is_answered(number)]
            if not self.draining:
                assert not any(self.fed[number].unread for number in idle)
                assert len(lost) <= harness.counts["congested"]
        # A pipe's requests are first handed out in order; one that came again may have been turned away before.
        for pipe in self.everybody:
            handed = [int(body) for _, to, _, body, _, ticket in harness.did("deliver") if to == pipe.id and ticket]
            once = [number for number in dict.fromkeys(handed) if not self.again[number]]
            assert once == sorted(once)
        # Every answer that is not sent has a counted cause, and every error, and every request that its pipe lost.
        counts = harness.counts
        dropped = [m for m in harness.messages if m.state == "freed" and not m.sent and m.kind != CANCEL]
        assert len(dropped) <= counts["late"] + counts["no_pipe"] + counts["congested"]
        errors = [frame for _, frame in harness.did("transmit") if frame[4:5] == b"!"]
        ends = counts["busy"] + counts["died"] + counts["timeout"] + counts["quarantined"]
        assert len(errors) <= ends
        answered = {int.from_bytes(frame[:4], "big") & 0x7FFFFFFF for _, frame in harness.did("transmit")}
        gone = [number for number, pipe in self.fed.items() if not pipe.attached and number not in answered]
        unread = {int(each[4:]) for pipe in self.everybody for each in pipe.never_read}
        lost = [number for number in gone if number not in unread]
        assert len(lost) <= counts["pipe_lost"] + counts["congested"] + counts["canceled"] + ends
        # The gauge of what is still to be answered.
        assert isinstance(harness.machine, Dispatcher)
        if not self.pipes:
            assert harness.machine.idle

    def teardown(self) -> None:
        if not hasattr(self, "harness"):
            return
        harness = self.harness
        self.draining = False
        harness.configure("DRAINING", False)
        harness.configure("PREFETCH", 1)
        harness.configure("TIMEOUT", 0.0)
        for pipe in self.pipes:
            pipe.breaks = False
            harness.drain(pipe)
        harness.run()
        for context in list(harness.lanes):
            self.die(context)
        harness.open(9)
        while self.run_next(9):
            _, request = self.running.pop()
            harness.send(9, request.body, serial=request.serial)
            harness.run()
        self.calm()
        assert isinstance(harness.machine, Dispatcher)
        assert harness.machine.idle
        # Every request of a pipe that is still there was answered, or its answer was dropped and counted.
        unanswered = [number for number, pipe in self.fed.items() if pipe.attached and not self.is_answered(number)]
        assert len(unanswered) <= harness.counts["congested"]
        assert not any(pipe.unread for pipe in self.pipes)
        assert harness.counts["duplicate"] <= self.again.total()
        assert harness.counts["superseded"] == 0


TestDispatch = DispatchWorld.TestCase
TestDispatch.settings = SETTINGS
