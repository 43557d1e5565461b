"""Every single step: before each of its atomic operations a side is killed, or stopped while the other side acts.

The ring is compiled a second time, with tests/ring/steps.h in place of atomics.h: a process then gives itself a signal
at its nth load, store, exchange, fence or ring.
"""

from __future__ import annotations

import ctypes
import importlib.util
import mmap
import os
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ring.support import body_of

HERE = Path(__file__).parent
RING = HERE.parent.parent / "spworkers" / "ring"
COMPILER = (sysconfig.get_config_var("CC") or "cc").split()
MISSING = [
    what
    for what, there in {
        "Cython": importlib.util.find_spec("Cython"),
        COMPILER[0]: shutil.which(COMPILER[0]),
        "the ring's sources": (RING / "_ring.pyx").exists(),
    }.items()
    if not there
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.once,
    pytest.mark.skipif(bool(MISSING), reason=f"the stepping ring needs {', '.join(MISSING)}"),
]

BUDGET = 1 << 16
SIZES = [20, 5000, BUDGET + 1, 0, 300]
SEND, RECV = 0, 1
MOST = 400  # steps of any scenario


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The stepping copy of the compiled module."""
    folder = tmp_path_factory.mktemp("steps")
    for pattern in ("*.h", "*.pxi", "*.pyx"):
        for source in RING.glob(pattern):
            shutil.copy(source, folder)
    (folder / "atomics.h").rename(folder / "atomics_as_they_are.h")
    shutil.copy(HERE / "steps.h", folder / "atomics.h")
    built = folder / f"_ring{sysconfig.get_config_var('EXT_SUFFIX')}"
    run([sys.executable, "-m", "cython", "-3", "_ring.pyx", "-o", "_ring.c"], folder)
    include = f"-I{sysconfig.get_path('include')}"
    run([*COMPILER, "-O0", "-w", "-fPIC", "-shared", include, "-I.", "_ring.c", "-o", str(built)], folder)
    spec = importlib.util.spec_from_file_location("stepping._ring", built)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    library = ctypes.CDLL(str(built))
    for name in ("spw_steps_left", "spw_steps_signal", "spw_steps_done"):
        setattr(module, name, ctypes.c_long.in_dll(library, name))
    return module


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class Stage:
    """A lane, made anew for each step, and what its two ends are."""

    def __init__(self, ring: Any, which: int, window: int) -> None:
        self.ring, self.which = ring, which
        self.region = ring.Region.create(BUDGET)
        self.bell, self.io_bell = ring.make_bell(), ring.make_bell()
        self.segment = self.region.segment(0)
        self.number = 0
        self.producer = self.new_producer()
        self.producer.window = window
        self.consumer = self.new_consumer()
        self.shared = memoryview(mmap.mmap(-1, 4096)).cast("q")
        self.pid = 0  # of the child, while there is one
        self.tickets: list[int] = []
        self.held: list[Any] = []

    def close(self) -> None:
        if self.pid:  # a test that failed left it stopped
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.bell)
        os.close(self.io_bell)

    def new_producer(self) -> Any:
        if self.which == SEND:
            return self.ring.Sender(self.segment, self.bell, self.io_bell)
        return self.ring.Inlet(self.segment, self.bell)

    def new_consumer(self) -> Any:
        if self.which == SEND:
            consumer = self.ring.Outlet(self.segment, self.bell)
        else:
            consumer = self.ring.Receiver(self.segment, self.bell, self.io_bell)
        consumer.adopt()
        return consumer

    def put(self, number: int, force: bool = False) -> int:
        body = body_of(number + 1, SIZES[number % len(SIZES)])
        if self.which == SEND:
            return int(self.producer.publish(body, b"", 0, number, 0, force))
        return int(self.producer.offer(b"", body, 0, 0, number, 0, force))

    def take(self) -> Any:
        if self.which == RECV:
            return self.consumer.take()
        while (record := self.consumer.next()) is not None and not record.claim():
            pass
        return record

    def drain(self) -> list[int]:
        """The numbers of all that is there; each body is checked."""
        numbers = []
        while (record := self.take()) is not None:
            check(record)
            numbers.append(record.serial)
            record.release()
        return numbers

    # ---- the other process

    def spawn(self, act: Callable[[Stage], None], step: int, number: int) -> bool:
        """Do it in a child that gets the signal at this step. False: it has fewer steps, and is through."""
        self.pid = os.fork()
        if not self.pid:
            code = 3
            try:
                self.ring.spw_steps_signal.value = number
                self.ring.spw_steps_left.value = step
                act(self)
                self.ring.spw_steps_left.value = 0
                code = 0
            except BaseException as error:
                sys.__stderr__.write(f"the child found: {error!r}\n")
                sys.__stderr__.flush()
            finally:
                os._exit(code)
        self.pid, status = os.waitpid(self.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            self.pid = 0
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "what the child found stands above"
            return False
        return True

    def go_on(self) -> None:
        """The child that was stopped goes on to its end."""
        os.kill(self.pid, signal.SIGCONT)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0, "what the child found stands above"

    def check_whole(self) -> None:
        """Nothing is left in the lane, and all of it can be used."""
        assert self.drain() == []
        assert (self.producer.queued, self.producer.bytes) == (0, 0)
        for round_ in range(2):
            for number in range(self.producer.window):
                if number % 5 != 2 or round_:
                    assert self.put(number * 5)
            assert round_ == 0 or not self.put(0)
            self.drain()
        assert self.producer.queued == 0


def check(record: Any) -> None:
    assert record.body() == body_of(record.serial + 1, SIZES[record.serial % len(SIZES)]), f"{record.serial} is torn"


def rings(bell: int) -> bool:
    return bool(select.select([bell], [], [], 0)[0])


@pytest.fixture(params=[SEND, RECV], ids=["send", "recv"])
def stages(ring: Any, request: pytest.FixtureRequest) -> Iterator[Callable[..., Stage]]:
    made: list[Stage] = []

    def make(window: int = 8) -> Stage:
        while made:
            made.pop().close()
        made.append(Stage(ring, request.param, window))
        return made[-1]

    yield make
    for stage in made:
        stage.close()


def every_step(make: Callable[[], Stage], act: Callable[[Stage], None], number: int) -> Iterator[tuple[Stage, bool]]:
    """A new stage for each step, the child killed or stopped there; the last time (True) it is through."""
    for step in range(1, MOST):
        stage = make()
        going = stage.spawn(act, step, number)
        yield stage, not going
        if not going:
            assert step > 10, "hardly a step was taken: is this the stepping ring?"
            return
    pytest.fail(f"more than {MOST} steps")


# ---- what the child does


def produce(stage: Stage) -> None:
    """Messages of all sorts, the second of which is taken back; `shared` says which are out: 1, or taken back: 2."""
    stage.producer = stage.new_producer()
    for number in range(3, 8):
        ticket = stage.put(number)
        assert ticket
        stage.shared[number] = 1
        if number == 4:
            stage.shared[number] = 3  # it may be either
            stage.shared[number] = 2 if stage.producer.revoke(ticket) else 1


def consume(stage: Stage) -> None:
    """Takes five, leases the second, keeps the fourth, gives back the others. `shared`: 1 for those it has seen."""
    stage.consumer = stage.new_consumer()
    kept = []
    for number in range(5):
        record = stage.take()
        assert record.serial == number
        check(record)
        stage.shared[number] = 1
        if number == 1:
            kept.append(record.view())
        if number != 3:
            record.release()
        else:
            kept.append(record)
    os._exit(0)  # what it keeps is not given back


# ---- killed


def test_a_producer_is_killed_at_every_step(stages: Callable[..., Stage]) -> None:
    """Its successor goes on: what was published is there, what was not never was."""

    def make() -> Stage:
        stage = stages()
        for number in range(3):
            assert stage.put(number)
        return stage

    for stage, _ in every_step(make, produce, signal.SIGKILL):
        stage.producer = stage.new_producer()
        got = stage.drain()
        assert got[:3] == [0, 1, 2]
        out = [number for number in range(3, 8) if stage.shared[number] == 1]
        maybe = [number for number in range(3, 8) if stage.shared[number] in (0, 3)][:2]
        assert set(out) <= set(got[3:]) <= {*out, *maybe}
        assert got == sorted(got)
        assert 4 not in got or stage.shared[4] != 2, "what was taken back came"
        stage.check_whole()


def test_a_producer_is_killed_while_the_consumer_lives_on(stages: Callable[..., Stage]) -> None:
    """The consumer holds and leases what it has across the death, and the successor hands none of it out."""

    def make() -> Stage:
        stage = stages(16)
        for number in range(3):
            assert stage.put(number)
        leased = stage.take()
        stage.held = [leased.view(), stage.take()]
        leased.release()
        return stage

    for stage, _ in every_step(make, produce, signal.SIGKILL):
        stage.producer = stage.new_producer()
        for number in (8, 9, 10):
            assert stage.put(number)
        got = stage.drain()
        assert got[0] == 2 and got[-3:] == [8, 9, 10] and got == sorted(got)
        view, record = stage.held
        check(record)
        assert view == body_of(1, SIZES[0])
        record.release()
        view.release()
        stage.check_whole()


def test_a_consumer_is_killed_at_every_step(stages: Callable[..., Stage]) -> None:
    """Its successor gets what it had not given back, and the rest; the producer, which lives on, has all its room."""

    def make() -> Stage:
        stage = stages()
        for number in range(6):
            assert stage.put(number)
        return stage

    for stage, through in every_step(make, consume, signal.SIGKILL):
        stage.consumer = stage.new_consumer()
        got = stage.drain()
        assert got == sorted(set(got))
        unseen = [number for number in range(6) if not stage.shared[number]]
        assert got[-len(unseen) :] == unseen, "a message that nobody has seen is lost"
        again = got[: -len(unseen)]
        assert len(again) <= 2, "given back, and delivered again"
        if through:
            assert again == [3]
        stage.check_whole()


def test_a_consumer_is_killed_while_the_producer_takes_back(stages: Callable[..., Stage]) -> None:
    """What can be taken back after the death is not delivered, what cannot be is."""

    def make() -> Stage:
        stage = stages()
        stage.tickets = [stage.put(number) for number in range(6)]
        return stage

    for stage, _ in every_step(make, consume, signal.SIGKILL):
        back = [number for number in (0, 2, 3, 5) if stage.producer.revoke(stage.tickets[number])]
        stage.consumer = stage.new_consumer()
        got = stage.drain()
        unseen = [number for number in range(6) if not stage.shared[number] and number not in back]
        assert 5 in back and not set(got) & set(back)
        assert set(unseen) <= set(got)
        stage.check_whole()


# ---- stopped


def test_a_consumer_comes_between_every_two_steps_of_a_producer(stages: Callable[..., Stage]) -> None:
    """It drains the lane and sleeps; then the producer goes on. It is woken for what comes, and gets all of it."""
    for stage, through in every_step(stages, produce, signal.SIGSTOP):
        asleep = go_to_sleep(stage)
        got = stage.drain() if not asleep else []
        if not asleep:
            asleep = go_to_sleep(stage)
        assert asleep
        if not through:
            stage.go_on()
        rung = rings(stage.io_bell if stage.which == SEND else stage.bell)
        later = stage.drain()
        assert rung or not later, "nobody was woken for what came"
        got += later
        assert got in ([3, 4, 5, 6, 7], [3, 5, 6, 7])
        assert (4 in got) == (stage.shared[4] == 1)
        stage.producer = stage.new_producer()
        stage.check_whole()


def go_to_sleep(stage: Stage) -> bool:
    """As each consumer does it. False: there is something."""
    if stage.which == RECV:
        return not stage.consumer.arm()
    stage.ring.hush_bell(stage.io_bell)
    if stage.region.collect():
        return False
    return not stage.region.rearm()


def told(stage: Stage) -> bool:
    """Whether the producer's bell rang."""
    return rings(stage.bell) if stage.which == SEND else rings(stage.io_bell) or bool(stage.region.collect())


def test_a_producer_comes_between_every_two_steps_of_a_consumer(stages: Callable[..., Stage]) -> None:
    """It takes one back, fills the window and sleeps; then the consumer goes on. It is woken for the room."""

    def make() -> Stage:
        stage = stages(6)
        stage.tickets = [stage.put(number) for number in range(6)]
        return stage

    for stage, through in every_step(make, consume, signal.SIGSTOP):
        assert stage.producer.revoke(stage.tickets[5])
        more = [number for number in range(8, 16) if stage.put(number)]
        stage.region.rearm()
        stage.region.collect()
        while stage.producer.arm():
            more += [number for number in (more[-1] + 1,) if stage.put(number)]
            stage.region.collect()
        queued = stage.producer.queued
        stage.region.rearm()
        if not through:
            stage.go_on()
        room = stage.producer.queued < queued
        rung = told(stage)
        assert rung or not room or stage.which == RECV, "nobody was woken for the room"
        stage.consumer = stage.new_consumer()
        assert stage.drain() == [3, *more]
        assert rung or not room or told(stage), "nobody was woken when there was nothing left to take"
        stage.check_whole()


def test_a_sender_takes_back_between_every_two_steps_of_a_claim(ring: Any) -> None:
    """Either it has it back, or the other has it: never both, never neither."""
    for step in range(1, MOST):
        stage = Stage(ring, SEND, 8)
        ticket = stage.put(1)

        def claim(stage: Stage) -> None:
            stage.consumer = stage.new_consumer()
            record = stage.consumer.next()
            if record is not None and record.claim():
                stage.shared[0] = record.serial
                check(record)
                record.release()

        going = stage.spawn(claim, step, signal.SIGSTOP)
        back = stage.producer.revoke(ticket)
        if back:
            assert stage.put(6)  # into the same slot, with a body of the same size
        if going:
            stage.go_on()
        assert stage.shared[0] in ((0, 6) if back else (1,))
        stage.consumer = stage.new_consumer()
        assert stage.drain() == ([6] if back and not stage.shared[0] else [])
        stage.check_whole()
        stage.close()
        if not going:
            return
    pytest.fail(f"more than {MOST} steps")
