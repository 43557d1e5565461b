"""Plain requests dealt ahead beside async ones, to workers that behave as real ones do, whatever happens."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from wire import request_id
from world import SETTINGS, World, pick, picks

from spworkers.protocol.dispatch import Dispatcher
from spworkers.protocol.machine import CANCEL, LEAVE
from spworkers.protocol.staffing import AUTO
from spworkers.testing import Delivery, FakePipe, Harness

PLACES = 3


class Errors:
    def handler_of(self, payload: bytes, header_length: int) -> str:
        return payload[header_length + 14 :].decode()

    def content_at(self, payload: bytes, header_length: int) -> int:
        return header_length

    def error_reply(self, payload: bytes, header_length: int, kind: str, detail: dict[str, Any]) -> bytes | None:
        return b"!" + kind.encode()


class MixedWorld(World):
    """Nothing is tried again here (RETRIES 0). A worker runs one plain request at a time, the oldest that it has."""

    def make(self, prompt: bool) -> Harness:
        self.fed: dict[int, FakePipe] = {}
        self.begun: Counter[int] = Counter()
        self.given_back: Counter[int] = Counter()
        self.plain: dict[int, Delivery] = {}  # what a main thread runs, by worker
        self.beside: list[tuple[int, Delivery]] = []
        self.harmed: set[int] = set()  # what ran when its worker died
        self.leaving: set[int] = set()
        harness = Harness(Dispatcher, errors=Errors(), prompt=prompt)
        harness.configure("CONCURRENT", PLACES)
        harness.configure("LIMITS", {"async": [0.0, 0, True]})
        harness.configure("PREFETCH", AUTO)
        harness.configure("RETRIES", 0)
        harness.configure("QUARANTINE", 0)
        return harness

    def warm_up(self) -> None:
        super().warm_up()
        for worker in (0, 1):
            self.harness.open(worker)
        for number in range(6):
            self.feed(number, number % 3 == 2)
            self.work(number)
            self.answer(number)

    @rule(worker=st.integers(0, 3))
    def open_or_die(self, worker: int) -> None:
        if worker in self.harness.lanes:
            self.die(worker)
        else:
            self.harness.open(worker)
        self.settle()

    def die(self, worker: int) -> None:
        running = [request for each, request in self.running() if each == worker]
        self.harmed |= {number_of(request) for request in running}
        self.plain.pop(worker, None)
        self.beside = [(each, request) for each, request in self.beside if each != worker]
        self.leaving.discard(worker)
        self.harness.close(worker)

    def running(self) -> list[tuple[int, Delivery]]:
        return [*self.plain.items(), *self.beside]

    @precondition(lambda self: self.harness.lanes)
    @rule(which=picks)
    def leave(self, which: int) -> None:
        worker = pick(list(self.harness.lanes), which)
        if worker not in self.leaving:
            self.leaving.add(worker)
            self.harness.send(worker, b"", kind=LEAVE)
        self.settle()

    @precondition(lambda self: self.pipes)
    @rule(which=picks, beside=st.booleans(), many=st.integers(1, 6))
    def feed(self, which: int, beside: bool, many: int = 1) -> None:
        pipe = pick(self.pipes, which)
        for _ in range(many):
            number = self.number()
            self.fed[number] = pipe
            name = b"async" if beside else b"plain"
            self.harness.feed(pipe, request_id(number) + b"\xc1\x10" + number.to_bytes(8, "big") + bytes(4) + name)
        self.settle()

    @precondition(lambda self: any(pipe.attached for pipe in self.fed.values()))
    @rule(which=picks)
    def cancel(self, which: int) -> None:
        number = pick([number for number, pipe in self.fed.items() if pipe.attached], which)
        self.harness.feed(self.fed[number], request_id(number) + b"\xc1\x16" + number.to_bytes(8, "big"))
        self.confirm()
        self.settle()

    def confirm(self) -> None:
        """Stop what is to be stopped."""
        told = set(self.harness.did("cancel"))
        for worker, request in self.running():
            if (worker, request.serial) in told:
                self.forget(worker, request)
                self.harness.send(worker, b"", serial=request.serial, kind=CANCEL)

    @precondition(lambda self: self.harness.lanes)
    @rule(which=picks)
    def work(self, which: int) -> None:
        """Both threads of a worker look for something to do."""
        worker = pick(list(self.harness.lanes), which)
        self.begin_plain(worker)
        self.begin_beside(worker)
        self.settle()

    @precondition(lambda self: self.harness.lanes)
    @rule(which=picks)
    def only_the_main_thread_works(self, which: int) -> None:
        self.begin_plain(pick(list(self.harness.lanes), which))
        self.settle()

    def begin_plain(self, worker: int) -> bool:
        lane = self.harness.lanes[worker]
        plain = [each for each in lane.waiting if not each.serial & 1]
        if worker in self.plain or not plain:
            return False
        self.plain[worker] = self.take(worker, plain[0])
        return True

    def begin_beside(self, worker: int) -> bool:
        found = [each for each in self.harness.lanes[worker].waiting if each.serial & 1]
        self.beside += [(worker, self.take(worker, each)) for each in found]
        return bool(found)

    def take(self, worker: int, request: Delivery) -> Delivery:
        lane = self.harness.lanes[worker]
        self.harness.release(worker, lane.claim(request))
        assert request.body.endswith(b"async") == bool(request.serial & 1)
        self.begun[number_of(request)] += 1
        return request

    def forget(self, worker: int, request: Delivery) -> None:
        if self.plain.get(worker) is request:
            del self.plain[worker]
        else:
            self.beside.remove((worker, request))

    @precondition(lambda self: self.running())
    @rule(which=picks, given_back=st.sampled_from([False] * 7 + [True]))
    def answer(self, which: int, given_back: bool = False) -> None:
        if not self.running():
            return
        worker, request = pick(self.running(), which)
        self.forget(worker, request)
        number = number_of(request)
        self.given_back[number] += given_back
        kind = CANCEL if given_back else 0
        self.harness.send(worker, b"" if given_back else b"%d" % number, serial=request.serial, kind=kind)
        self.settle()

    @rule(seconds=st.sampled_from([0.0005, 0.003, 0.006, 0.03, 0.06, 0.3]))
    def pass_time(self, seconds: float) -> None:
        self.harness.advance(seconds)
        self.settle()

    @rule(prefetch=st.sampled_from([AUTO, AUTO, 1, 3]))
    def configure(self, prefetch: int) -> None:
        self.harness.configure("PREFETCH", prefetch)
        self.settle()

    def calm(self) -> None:
        harness = self.harness
        # What has begun once is not run again, unless its worker gave it back.
        assert all(count <= 1 + self.given_back[number] for number, count in self.begun.items())
        # Nobody hears of a death but whose request ran.
        for _, frame in harness.did("transmit"):
            number = int.from_bytes(frame[:4], "big") & 0x7FFFFFFF
            assert frame[4:] == b"%d" % number or (frame[4:] == b"!died" and number in self.harmed)
        # Async requests are never more than there are places, plain ones lie ahead only where something runs.
        for worker, lane in harness.lanes.items():
            beside = [each for each in lane.waiting if each.serial & 1]
            assert len(beside) + sum(each == worker for each, _ in self.beside) <= PLACES
        assert isinstance(harness.machine, Dispatcher)
        assert harness.machine.waiting >= 0
        assert harness.killed == []

    def teardown(self) -> None:
        if not hasattr(self, "harness"):
            return
        harness = self.harness
        for pipe in self.pipes:
            pipe.breaks = False
            harness.drain(pipe)
        for worker in list(harness.lanes):
            if worker in self.leaving:
                self.die(worker)
        harness.open(9)
        while True:
            harness.run()
            self.confirm()
            for worker in list(harness.lanes):
                self.begin_plain(worker)
                self.begin_beside(worker)
            if not self.running():
                harness.advance(0.3)  # for whom was deaf
                if not any(lane.waiting for lane in harness.lanes.values()):
                    break
            while self.running():
                self.answer(0)
        self.calm()
        assert isinstance(harness.machine, Dispatcher)
        assert harness.machine.idle
        assert harness.machine.waiting == 0
        answered = Counter(int.from_bytes(frame[:4], "big") & 0x7FFFFFFF for _, frame in harness.did("transmit"))
        assert all(count == 1 for count in answered.values())
        here = [number for number, pipe in self.fed.items() if pipe.attached and number not in answered]
        assert len(here) <= harness.counts["canceled"] + harness.counts["congested"]


def number_of(request: Delivery) -> int:
    return int.from_bytes(request.body[2:10], "big")


TestMixed = MixedWorld.TestCase
TestMixed.settings = SETTINGS
