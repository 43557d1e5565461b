"""REP against a simple model, whatever happens in whatever order."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from wire import request_id
from world import SETTINGS, World, pick, picks

from spworkers.protocol.rep import Rep
from spworkers.testing import Delivery, FakePipe, Harness


class InOrder(Harness):
    """A harness that looks whether what was taken back comes before what waits in pipes."""

    def deliver(self, context: int, pipe: int, payload: bytes, header_length: int, serial: int, prefix: bytes) -> int:
        returned = [each for _, each in self.machine.undelivered()]
        assert payload in returned or not returned
        return super().deliver(context, pipe, payload, header_length, serial, prefix)


class RepWorld(World):
    machine: type[Rep] = Rep

    def warm_up(self) -> None:
        super().warm_up()
        self.feed(0, 4)
        self.feed(1, 2)

    def make(self, prompt: bool) -> Harness:
        self.fed: dict[int, FakePipe] = {}
        self.taken: list[int] = []
        self.held: dict[int, Delivery] = {}
        harness = InOrder(self.machine, prompt=prompt)
        harness.open(0)
        return harness

    @rule(context=st.integers(0, 4))
    def open_or_close(self, context: int) -> None:
        if context in self.harness.lanes:
            self.harness.close(context)
            self.held.pop(context, None)
        else:
            self.open(context)
        self.settle()

    def open(self, context: int) -> None:
        """Open a context. What lay ready for a sole one is dealt anew, in the same order."""
        lanes = list(self.harness.lanes.values())
        pipes = self.harness.pipes
        ready = [each.body for each in lanes[0].waiting if each.pipe in pipes] if len(lanes) == 1 else []
        before = len(self.harness.did("deliver"))
        self.harness.open(context)
        again = [body for *_, body, _, ticket in self.harness.did("deliver")[before:] if ticket]
        again += [payload[4:] for _, payload in self.harness.machine.undelivered()]
        assert again[: len(ready)] == ready

    @precondition(lambda self: self.pipes)
    @rule(which=picks, count=st.integers(1, 12))
    def feed(self, which: int, count: int) -> None:
        pipe = pick(self.pipes, which)
        numbers = [self.number() for _ in range(count)]
        self.fed.update(dict.fromkeys(numbers, pipe))
        self.harness.feed(pipe, *(request_id(number) + b"%d" % number for number in numbers))
        self.settle()

    @precondition(lambda self: self.harness.lanes)
    @rule(which=picks)
    def wait(self, which: int) -> None:
        context = pick(list(self.harness.lanes), which)
        lane = self.harness.lanes[context]
        if not lane.demand and not lane.waiting:  # a second receiver is an error there, and the first one looks first
            self.harness.wait(context)
        self.settle()

    @precondition(lambda self: self.harness.lanes)
    @rule(which=picks)
    def recv(self, which: int) -> None:
        context = pick(list(self.harness.lanes), which)
        request = self.harness.recv(context)
        if request is not None:
            assert request.header == request_id(int(request.body))
            self.taken.append(int(request.body))
            self.held[context] = request  # the one before it is abandoned
            if not request.by_demand:
                self.harness.lanes[context].withdraw()  # it does not wait any more
        self.settle()

    @precondition(lambda self: self.held)
    @rule(which=picks)
    def reply(self, which: int) -> None:
        context = pick(list(self.held), which)
        request = self.held.pop(context)
        self.harness.send(context, request.body, header=request.header, pipe=request.pipe)
        self.settle()

    @precondition(lambda self: self.harness.messages)
    @rule(which=picks)
    def take_back(self, which: int) -> None:
        pick(self.harness.messages, which).take_back()
        self.settle()

    @rule(on=st.booleans(), length=st.integers(0, 2))
    def configure(self, on: bool, length: int) -> None:
        self.harness.configure("BEST-EFFORT", on)
        self.harness.configure("WRITEQ-LEN", length)
        self.settle()

    def calm(self) -> None:
        harness = self.harness
        # Nobody gets a request twice, and nobody gets one that was not made.
        assert len(set(self.taken)) == len(self.taken)
        assert set(self.taken) <= set(self.fed)
        # A request lies only where one is wanted: with a sole context, or with one that waited for it.
        lanes = harness.lanes
        for lane in lanes.values():
            assert (lane.window > 0) == (len(lanes) == 1)
            assert len([each for each in lane.waiting if not each.by_demand]) <= lane.window
        # Whoever wants one has one, if there is any.
        if any(lane.open for lane in lanes.values()):
            assert not any(pipe.unread for pipe in self.pipes)
        # The requests of a pipe are first offered in order.
        for pipe in self.pipes:
            offered = [int(body) for _, number, _, body, *_ in harness.did("deliver") if number == pipe.id]
            first = list(dict.fromkeys(offered))
            assert first == sorted(first)
        # A reply goes back where its request came from, once; or it waits for that pipe; or it was counted.
        for number, frame in harness.did("transmit"):
            assert self.fed[int(frame[4:])].id == number
        assert all(message.sent <= 1 for message in harness.messages)
        for message in harness.messages:
            if message.state == "waiting":
                assert harness.pipes[message.pipe].congested
        assert harness.leaks() == []
        # With a sole context, what lies ready is of pipes that are there: nobody waits for other replies.
        if len(lanes) == 1:
            for lane in lanes.values():
                assert all(each.pipe in harness.pipes for each in lane.waiting if not each.by_demand)
        # Every loss has a counted cause, of requests and of replies.
        lying = [int(each.body) for lane in lanes.values() for each in lane.waiting]
        unread = [int(each[4:]) for pipe in self.everybody for each in (*pipe.unread, *pipe.never_read)]
        returned = [int(payload[4:]) for _, payload in harness.machine.undelivered()]
        lost = set(self.fed) - set(self.taken) - set(lying) - set(unread) - set(returned)
        dropped = [message for message in harness.messages if message.state == "freed" and not message.sent]
        assert sum(harness.counts.values()) == len(lost) + len(dropped)
        assert harness.counts["pipe_lost"] >= len(lost)

    def teardown(self) -> None:
        if not hasattr(self, "harness"):
            return
        # In the end everything that came from pipes that are still there can be received.
        harness = self.harness
        lying = [int(each.body) for lane in harness.lanes.values() for each in lane.waiting]
        for context in list(harness.lanes):
            harness.close(context)
        harness.open(7)
        harness.run()
        for context, lane in harness.lanes.items():
            while lane.waiting:
                request = harness.recv(context)
                assert request is not None
                self.taken.append(int(request.body))
                harness.run()
        assert len(set(self.taken)) == len(self.taken)
        missing = set(self.fed) - set(self.taken)
        assert not [number for number in missing if self.fed[number].attached], f"lost, of {lying} in lanes"


TestRep = RepWorld.TestCase
TestRep.settings = SETTINGS
