"""A worker's loop and boot, without a supervisor."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import eventually

from spworkers.channel import Channel
from spworkers.errors import RecvTimeoutError
from spworkers.supervisor.boot import Boot
from spworkers.workers import callformat, worker
from spworkers.workers.app import App
from spworkers.workers.origin import origin_of
from spworkers.workers.report import FAILED, ReportDesk
from spworkers.workers.runner import Runner
from spworkers.workers.stops import Stopped
from spworkers.workers.tally import Row, Stage, Tally
from spworkers.workers.worker import StopSignal, WorkerSpec
from spworkers.workers.workerport import Offer, Request
from spworkers.workers.working import work

WAIT = 20.0

app = App("calc")


@app.handler
def add(a: int, b: int) -> int:
    return a + b


class FakeRecord:
    """A request that its sender may take back until it is claimed."""

    def __init__(self, request: Request, gone: set[int]) -> None:
        self.serial = request.serial
        self.pipe = request.pipe
        self.take_body = lambda: request.body
        self._gone = gone

    def claim(self) -> bool:
        return self.serial not in self._gone


class FakePort:
    """Requests from a list; every answer is kept, and may call something."""

    def __init__(self) -> None:
        self.requests: deque[Request] = deque()
        self.answers: dict[int, bytes] = {}
        self.bell_read, self.bell_write = os.pipe()
        self.io_read, self.io_write = os.pipe()
        self.on_reply: Any = lambda: None
        self.waits = 0
        self.given_back: list[int] = []
        self.left = False
        self.taken_back: set[int] = set()

    def put(self, serial: int, body: bytes) -> None:
        self.requests.append(Request(serial, body))
        os.write(self.bell_write, b"\0")

    def take(self) -> Request | None:
        return self.requests.popleft() if self.requests else None

    def next(self) -> Offer | None:
        request = self.take()
        made: Any = None if request is None else FakeRecord(request, self.taken_back)
        return None if made is None else Offer(made)

    def look(self, seconds: float) -> bool:
        return bool(self.requests)

    def arm(self) -> bool:
        self.waits += 1
        return bool(self.requests)

    def fileno(self) -> int:
        return self.bell_read

    def control(self) -> int:
        return self.io_read

    def attend(self, canceled: Callable[[int], None]) -> bool:
        said = os.read(self.io_read, 1)
        if said:
            canceled(said[0])
        return said != b""

    def give_back(self, request: Request) -> None:
        self.given_back.append(request.serial)
        os.read(self.bell_read, 1)
        self.on_reply()

    def leave(self) -> None:
        self.left = True

    def reply(self, request: Request, body: bytes, more: bool = False) -> None:
        self.answers[request.serial] = body
        os.read(self.bell_read, 1)
        self.on_reply()

    def close(self) -> None:
        for fd in (self.bell_read, self.bell_write, self.io_read, self.io_write):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def port() -> Iterator[FakePort]:
    fake = FakePort()
    yield fake
    fake.close()


@pytest.fixture
def supervisor() -> Iterator[Channel]:
    """The supervisor's end of the worker's channel; the worker's is its attribute in `stop`."""
    ours, theirs = Channel.pair()
    ends[ours] = theirs
    yield ours
    ours.close()
    theirs.close()


ends: dict[Channel, Channel] = {}


@pytest.fixture
def stop(supervisor: Channel) -> Iterator[StopSignal]:
    former = {number: signal.getsignal(number) for number in worker._SIGNALS}
    yield StopSignal(ends[supervisor])
    for number, handler in former.items():
        signal.signal(number, handler)
    signal.set_wakeup_fd(-1)


@pytest.fixture
def row() -> Iterator[Row]:
    fd = Tally.memory(1)
    yield Tally(fd).row(0)
    os.close(fd)


def call(serial: int, *args: Any) -> tuple[int, bytes]:
    return serial, callformat.encode_call(serial, "add", args, {})


def answers(port: FakePort) -> dict[int, Any]:
    return {serial: callformat.decode_answer(body, "add") for serial, body in port.answers.items()}


def test_it_answers_until_it_is_told_to_stop(port: FakePort, supervisor: Channel, stop: StopSignal, row: Row) -> None:
    port.put(*call(7, 1, 2))
    port.put(*call(8, 3, 4))

    def on_reply() -> None:
        if len(port.answers) == 2:
            supervisor.send({"t": "stop", "grace": 1.0})

    port.on_reply = on_reply
    work(port, Runner(app), row, stop)
    assert answers(port) == {7: 3, 8: 7}
    _, stage, answered, failed, _ = row.counts
    assert (stage, answered, failed) == (Stage.STOPPED, 2, 0)


def test_it_is_idle_when_nothing_is_left_to_do(
    port: FakePort, supervisor: Channel, stop: StopSignal, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_replies: list[Stage] = []
    at_waits: list[Stage] = []
    arm = port.arm

    def waits() -> bool:
        at_waits.append(row.counts[1])
        if not port.requests:
            supervisor.send({"t": "stop", "grace": 1.0})
        return arm()

    monkeypatch.setattr(port, "arm", waits)
    port.on_reply = lambda: at_replies.append(row.counts[1])
    for serial in (1, 2, 3):
        port.put(*call(serial, 1, 2))
    work(port, Runner(app), row, stop)
    assert at_replies == [Stage.BUSY] * 3
    assert set(at_waits) == {Stage.IDLE}


def test_what_is_taken_is_answered_before_the_end(
    port: FakePort, supervisor: Channel, stop: StopSignal, row: Row
) -> None:
    local = App("local")

    @local.handler
    def add(a: int, b: int) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return a + b

    port.put(*call(1, 1, 2))
    port.put(*call(2, 1, 2))
    work(port, Runner(local), row, stop)
    assert answers(port) == {1: 3}
    assert stop.by_signal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_worker(port: FakePort, stop: StopSignal, row: Row, number: signal.Signals) -> None:
    def kill() -> None:
        eventually(lambda: port.waits, WAIT)
        os.kill(os.getpid(), number)

    killer = threading.Thread(target=kill)
    killer.start()
    work(port, Runner(app), row, stop)
    killer.join(WAIT)
    assert stop.by_signal


def test_other_signals_do_not(port: FakePort, supervisor: Channel, stop: StopSignal, row: Row) -> None:
    former = signal.signal(signal.SIGUSR1, lambda number, frame: None)

    def kill() -> None:
        eventually(lambda: port.waits, WAIT)
        os.kill(os.getpid(), signal.SIGUSR1)
        port.put(*call(1, 1, 2))
        eventually(lambda: port.answers, WAIT)
        supervisor.send({"t": "stop", "grace": 1.0})

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        work(port, Runner(app), row, stop)
    finally:
        killer.join(WAIT)
        signal.signal(signal.SIGUSR1, former)
    assert answers(port) == {1: 3}
    assert port.waits < 20  # it slept in between


def test_it_ends_with_its_io_process(port: FakePort, stop: StopSignal, row: Row) -> None:
    os.close(port.io_write)
    port.io_write = -1
    work(port, Runner(app), row, stop)


def test_it_ends_with_its_supervisor(port: FakePort, supervisor: Channel, stop: StopSignal, row: Row) -> None:
    supervisor.close()
    work(port, Runner(app), row, stop)


@dataclasses.dataclass
class StopsLate:
    """As a cancellation does that comes when a generator's first part is all but made."""

    late: int = 1

    def __getattribute__(self, name: str) -> Any:
        if name == "late":
            raise Stopped
        return object.__getattribute__(self, name)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_stream_of_a_request_that_is_stopped_in_its_last_moment_is_closed(
    mixed: bool, port: FakePort, supervisor: Channel, stop: StopSignal, row: Row
) -> None:
    """Else it would be open for good, as nobody knows of it, and the worker would wait for its end."""
    closed = []
    streaming = App("streaming")

    @streaming.handler
    def items() -> Iterator[Any]:
        try:
            yield 1
            yield StopsLate()
        finally:
            closed.append(True)

    if mixed:

        @streaming.handler
        async def other() -> None: ...

    port.put(8, callformat.encode_call(8, "items", (), {}))
    port.on_reply = lambda: supervisor.send({"t": "stop", "grace": 1.0})
    runner = Runner(streaming)
    work(port, runner, row, stop)
    assert port.given_back == [8]
    assert closed == [True]
    assert len(runner.streams) == 0


def test_errors_are_counted(port: FakePort, supervisor: Channel, stop: StopSignal, row: Row) -> None:
    port.put(*call(1, "x", 2))
    port.on_reply = lambda: supervisor.send({"t": "stop", "grace": 1.0})
    work(port, Runner(app), row, stop)
    assert row.counts[2:4] == (1, 1)


# --- beside each other


def both_kinds(port: FakePort, supervisor: Channel, many: int) -> Runner:
    """Plain and async handlers; after so many answers it is time to stop."""
    local = App("local")

    @local.handler
    def add(a: int, b: int) -> int:
        if a == 1:
            port.taken_back.add(4)
        return a + b

    @local.handler
    async def aadd(a: int, b: int) -> int:
        return a + b

    def on_reply() -> None:
        if len(port.answers) == many:
            supervisor.send({"t": "stop", "grace": 1.0})

    port.on_reply = on_reply
    return Runner(local)


def test_what_is_taken_back_while_it_waits_is_not_run(
    port: FakePort, supervisor: Channel, stop: StopSignal, row: Row
) -> None:
    runner = both_kinds(port, supervisor, 2)
    for serial in (2, 4, 6):
        port.put(*call(serial, serial // 2, 1))
    work(port, runner, row, stop)
    runner.stop()
    assert answers(port) == {2: 2, 6: 4}
    assert row.counts[1:4] == (Stage.STOPPED, 2, 0)


def test_the_handler_says_where_it_runs_whatever_the_dispatcher_thinks(
    port: FakePort, supervisor: Channel, stop: StopSignal, row: Row
) -> None:
    runner = both_kinds(port, supervisor, 6)
    for serial in range(1, 7):
        name = "add" if serial % 3 else "aadd"
        port.put(serial, callformat.encode_call(serial, name, (10 * serial, 1), {}))
    work(port, runner, row, stop)
    runner.stop()
    assert answers(port) == {serial: 10 * serial + 1 for serial in range(1, 7)}
    assert port.given_back == []
    assert row.counts[2:4] == (6, 0)


def test_no_request_is_begun_after_a_signal(port: FakePort, stop: StopSignal, row: Row) -> None:
    local = App("local")

    @local.handler
    def add(a: int, b: int) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return a + b

    @local.handler
    async def other() -> None: ...

    for serial in (2, 4, 6):
        port.put(*call(serial, serial, 1))
    runner = Runner(local)
    work(port, runner, row, stop)
    runner.stop()
    assert answers(port) == {2: 3}
    assert port.left


# --- the boot


def boot(supervisor: Channel, desk: ReportDesk, local: App, generation: int = 1) -> tuple[Boot, int]:
    memory = Tally.memory(2)
    spec = WorkerSpec("rep-1", 1, origin_of(local), ["program", "--flag"])
    fds = [os.dup(desk.worker_fd), os.dup(desk.worker_fd), os.dup(memory), os.dup(desk.worker_fd), os.dup(memory)]
    made = Boot(
        key="calc-2#1",
        generation=generation,
        spec=spec.to_map(),
        fds=fds,
        kept={},
        clients=(),
        channel=ends[supervisor],
    )
    return made, memory


def failing() -> App:
    local = App("local")

    @local.on_start
    def load(state: Any) -> None:
        raise FileNotFoundError("model.bin")

    return local


@pytest.fixture
def desk() -> Iterator[ReportDesk]:
    desk = ReportDesk()
    yield desk
    desk.close()


@pytest.fixture
def _argv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["before"])
    monkeypatch.setattr(logging.root, "handlers", list(logging.root.handlers))
    monkeypatch.setattr(logging.root, "level", logging.root.level)


@pytest.mark.usefixtures("_argv", "stop")
def test_a_failed_first_start_is_reported_and_waits_for_its_end(supervisor: Channel, desk: ReportDesk) -> None:
    made, memory = boot(supervisor, desk, failing())
    supervisor.send({"t": "stop", "grace": 1.0})
    assert worker.run(made) == 0
    report = desk.next(time.monotonic() + WAIT)
    assert (report["kind"], report["number"], report["pid"]) == (FAILED, 1, os.getpid())
    assert (report["type"], report["message"]) == ("FileNotFoundError", "model.bin")
    lines = report["traceback"].splitlines()
    assert "in load" in lines[1]
    assert Tally(memory).row(1).counts[:2] == (os.getpid(), Stage.STARTING)
    with pytest.raises(RecvTimeoutError):
        desk.next(time.monotonic())
    os.close(memory)


@pytest.mark.usefixtures("_argv", "stop")
def test_a_failed_restart_is_the_supervisors_affair(supervisor: Channel, desk: ReportDesk) -> None:
    made, memory = boot(supervisor, desk, failing(), generation=2)
    with pytest.raises(FileNotFoundError):
        worker.run(made)
    os.close(memory)


@pytest.mark.usefixtures("_argv", "stop")
def test_the_app_sees_the_programs_arguments(supervisor: Channel, desk: ReportDesk) -> None:
    local = App("local")

    @local.on_start
    def load(state: Any) -> None:
        import sys

        raise ValueError(" ".join(sys.argv))

    made, memory = boot(supervisor, desk, local)
    supervisor.send({"t": "stop", "grace": 1.0})
    worker.run(made)
    assert desk.next(time.monotonic() + WAIT)["message"] == "program --flag"
    os.close(memory)


def test_long_reports_fit_into_a_packet(desk: ReportDesk) -> None:
    reporter = worker.Reporter(os.dup(desk.worker_fd))
    reporter.tell(FAILED, 0, 1, type="E" * 10_000, message="m" * 100_000, traceback="\ud800" * 100_000 + "the end")
    reporter.close()
    report = desk.next(time.monotonic() + WAIT)
    assert report["traceback"].endswith("the end")


def test_nobody_waits_for_a_reader_of_reports(desk: ReportDesk) -> None:
    for _ in range(10_000):
        desk.tell(FAILED, 0, 1, message="x" * 100)
    assert desk.next(time.monotonic() + WAIT)["message"] == "x" * 100


def test_rows_are_apart() -> None:
    fd = Tally.memory(3)
    tally = Tally(fd)
    assert tally.rows == 3
    for number in range(3):
        row = tally.row(number)
        row.begin(1000 + number)
        for _ in range(number):
            row.answered(ok=False)
    assert [tally.row(number).counts[:4] for number in range(3)] == [
        (1000, Stage.STARTING, 0, 0),
        (1001, Stage.STARTING, 1, 1),
        (1002, Stage.STARTING, 2, 2),
    ]
    os.close(fd)
