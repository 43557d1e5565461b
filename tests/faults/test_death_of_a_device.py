"""A device's I/O processes and its supervisor are killed, its program is stopped: it forwards on."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import NamedTuple

import psutil
import pytest
from faults.program import BOUND, Program, gone, killed, stopped, successor
from helpers import eventually
from sockets.kit import ask, background, inproc, number_of, serve, wait_pipes

import spworkers as sp
from spworkers.supervisor.client import get_supervisor

QUICK = {"reconnect_time": 0.01}


@pytest.fixture(autouse=True)
def _expected_deaths(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "spworkers")


class Relay(NamedTuple):
    front: sp.Socket
    back: sp.Socket
    device: sp.Device


@contextlib.contextmanager
def relay(front: type[sp.Socket], back: type[sp.Socket]) -> Iterator[Relay]:
    """A device that listens on both sides."""
    with front(raw=True, listen="tcp://127.0.0.1:0") as one, back(raw=True, listen="tcp://127.0.0.1:0") as other:
        with sp.device(one, other) as device:
            yield Relay(one, other, device)


def kill(sock: sp.Socket) -> None:
    """Kill its I/O process, and wait for the next one."""
    before = sock.stats()
    killed(before["pid"])
    successor(sock, before)


@pytest.mark.parametrize("victims", [["front"], ["back"], ["front", "back"]], ids="+".join)
def test_a_device_outlives_its_io_processes(victims: list[str]) -> None:
    with relay(sp.Rep, sp.Req) as these:
        with sp.Req(dial=these.front.listeners[0].address, **QUICK) as req:
            with sp.Rep(dial=these.back.listeners[0].address, **QUICK) as rep:
                for turn in range(3):
                    for name in victims:
                        kill(getattr(these, name))
                    served = serve(rep, 10)
                    for number in range(10):
                        body = b"%d %dx" % (turn, number)
                        assert ask(req, body) == body.upper()
                    served.result(BOUND)
                assert these.device.stats()["there"] >= 30
                assert not these.device.wait(timeout=0)


@pytest.mark.parametrize("victim", ["front", "back", "both"])
def test_under_load_every_request_is_answered(victim: str) -> None:
    with relay(sp.Rep, sp.Req) as these:
        victims = [these.front, these.back] if victim == "both" else [getattr(these, victim)]
        over = threading.Event()

        def serve_on(rep: sp.Rep) -> None:
            for body in rep:
                rep.send(body.upper())

        def ask_on(req: sp.Req, number: int) -> int:
            with req.open_context() as context:
                context.retry_time = 0.5  # a reply that was read and not forwarded is lost: it is asked for again
                count = 0
                while not over.is_set() or count < 20:
                    body = b"%d-%dx" % (number, count)
                    assert ask(context, body) == body.upper()
                    count += 1
                return count

        with sp.Req(dial=these.front.listeners[0].address, **QUICK) as req:
            with sp.Rep(dial=these.back.listeners[0].address, **QUICK) as rep:
                serving = background(serve_on, rep)
                asking = [background(ask_on, req, number) for number in range(3)]
                for turn in range(4):
                    kill(victims[turn % len(victims)])
                over.set()
                assert all(future.result(60) >= 20 for future in asking)
                rep.close()
                serving.result(BOUND)


def test_what_was_forwarded_survives_both() -> None:
    with relay(sp.Pull, sp.Push) as these, sp.Push(dial=these.front.listeners[0].address, **QUICK) as push:
        for number in range(100):
            push.send(b"%d" % number, timeout=BOUND)
        eventually(lambda: these.device.stats()["there"] == 100, BOUND)
        kill(these.front)
        kill(these.back)
        wait_pipes(push)
        for number in range(100, 120):
            push.send(b"%d" % number, timeout=BOUND)
        with sp.Pull(dial=these.back.listeners[0].address) as pull:
            assert [number_of(pull.recv(timeout=BOUND)) for _ in range(120)] == list(range(120))


def test_a_device_that_pushes_back_does_so_after_a_death() -> None:
    with relay(sp.Pull, sp.Push) as these, sp.Push(writeq_len=2, **QUICK) as push:
        these.back.writeq_len = 3
        push.dial(these.front.listeners[0].address)
        for number in range(4):
            push.send(b"%d" % number, timeout=BOUND)
        eventually(lambda: these.front.stats()["received"] == 4, BOUND)
        assert these.device.stats()["there"] == 3
        kill(these.back)
        kill(these.front)  # which had read one more, and could not forward it: that one is lost
        wait_pipes(push)
        for number in range(4, 30):
            push.send(b"%d" % number, timeout=BOUND)
        assert these.device.stats()["there"] == 3
        with sp.Pull(dial=these.back.listeners[0].address) as pull:
            seen = [number_of(pull.recv(timeout=BOUND)) for _ in range(29)]
            assert seen == [0, 1, 2, *range(4, 30)]


def test_a_device_knows_the_options_of_its_other_side_after_a_death() -> None:
    with relay(sp.Pull, sp.Push) as these, sp.Push(dial=these.front.listeners[0].address, **QUICK) as push:
        these.back.best_effort = True
        these.back.writeq_len = 1
        kill(these.front)
        wait_pipes(push)
        for number in range(10):
            push.send(b"%d" % number, timeout=BOUND)
        eventually(lambda: these.device.stats()["drops"] == {"best_effort": 9}, BOUND)


def test_a_device_that_was_ended_stays_so_after_a_death() -> None:
    with relay(sp.Rep, sp.Req) as these, sp.Req(dial=these.front.listeners[0].address, **QUICK) as req:
        these.device.close()
        kill(these.front)
        kill(these.back)
        req.send(b"x")
        assert these.front.recv(timeout=BOUND) == b"x"


def test_a_loopback_outlives_its_io_process() -> None:
    with sp.Pair(raw=True, listen=inproc()) as echo, sp.Pair(dial=echo.listeners[0].address, **QUICK) as pair:
        with sp.device(echo):
            for turn in range(3):
                kill(echo)
                wait_pipes(pair)
                pair.send(b"%d" % turn, timeout=BOUND)
                assert pair.recv(timeout=BOUND) == b"%d" % turn


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "inproc"], ids=["tcp", "inproc"])
def test_a_device_outlives_the_supervisor(address: str) -> None:
    def where() -> str:
        return inproc() if address == "inproc" else address

    with sp.Rep(raw=True, listen=where()) as front, sp.Req(raw=True, listen=where()) as back:
        with sp.device(front, back) as device, sp.Req(dial=front.listeners[0].address, **QUICK) as req:
            with sp.Rep(dial=back.listeners[0].address, **QUICK) as rep:
                sockets = (front, back, req, rep)
                before = [sock.stats() for sock in sockets]
                life = get_supervisor().start()
                eventually(lambda: life.ready and life.age > 1)  # else it died of its start, as it seems
                os.kill(life.pid, signal.SIGKILL)
                for sock, each in zip(sockets, before, strict=True):
                    successor(sock, each)
                served = serve(rep, 10)
                for number in range(10):
                    assert ask(req, b"%dx" % number) == b"%dX" % number
                served.result(BOUND)
                device.close()
                req.send(b"by hand")
                assert front.recv(timeout=BOUND) == b"by hand"


def test_a_device_ends_although_its_process_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spworkers.devices.PATIENCE", 0.3)
    with relay(sp.Pair, sp.Pair) as these:
        process = psutil.Process(these.front.stats()["pid"])
        process.suspend()
        eventually(lambda: stopped(process))
        these.back.close()  # does not wait for the other one for ever
        assert these.device.wait(timeout=0)
        process.resume()
        with sp.Pair(dial=these.front.listeners[0].address) as pair:
            pair.send(b"x")
            assert these.front.recv(timeout=BOUND) == b"x"


DEVICE = """
front = sp.Rep(raw=True, listen="tcp://127.0.0.1:0")
back = sp.Req(raw=True, listen="tcp://127.0.0.1:0")
device = sp.device(front, back)
say(front=front.listeners[0].address, back=back.listeners[0].address, io=[front.stats()["pid"], back.stats()["pid"]])
told()
say(**device.stats())
front.close()
say(ended=device.wait())
back.close()
"""


def test_a_device_forwards_while_its_program_is_stopped() -> None:
    with Program(DEVICE) as user, sp.Req(**QUICK) as req, sp.Rep(**QUICK) as rep:
        words = user.hear()
        req.dial(words["front"])
        rep.dial(words["back"])
        program = psutil.Process(user.pid)
        user.signal(signal.SIGSTOP)
        eventually(lambda: stopped(program))
        served = serve(rep, 100)
        for number in range(50):
            assert ask(req, b"%dx" % number) == b"%dX" % number
        for pid in words["io"]:  # the supervisor replaces them; nobody else could
            killed(pid)
        for number in range(50, 100):
            assert ask(req, b"%dx" % number) == b"%dX" % number
        served.result(BOUND)
        assert stopped(program)
        user.signal(signal.SIGCONT)
        user.tell(go_on=True)
        told = user.hear()
        assert set(told.pop("drops")) <= {"no_pipe"}  # a request that was sent again, and its first answer came late
        assert told == {"there": 100, "back": 100}
        assert user.hear() == {"ended": True}
        assert user.wait() == 0


def test_a_killed_program_takes_its_device_along() -> None:
    with Program(DEVICE) as user:
        words = user.hear()
        processes = [psutil.Process(pid) for pid in words["io"]]
        user.process.kill()
        gone(processes)
