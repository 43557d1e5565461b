"""A request that is stopped in the midst of its handler."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from spworkers.workers.interrupt import Interrupter
from spworkers.workers.stops import Stopped

WAIT = 20.0


@pytest.fixture
def interrupter() -> Iterator[Interrupter]:
    made = Interrupter()
    yield made
    made.close()


def stop_soon(interrupter: Interrupter, serial: int) -> threading.Thread:
    thread = threading.Thread(target=lambda: interrupter.stop(serial))
    thread.start()
    return thread


def test_another_thread_stops_it(interrupter: Interrupter) -> None:
    begun = time.monotonic()
    with pytest.raises(Stopped), interrupter.running(7):
        stop_soon(interrupter, 7)
        time.sleep(WAIT)
    assert time.monotonic() - begun < WAIT / 2


def test_another_request_is_left_alone(interrupter: Interrupter) -> None:
    with interrupter.running(7):
        assert not interrupter.stop(8)
        os.kill(os.getpid(), signal.SIGIO)
    with pytest.raises(Stopped), interrupter.running(8):  # it was given up before it began
        pytest.fail("it must not run")
    with interrupter.running(8):  # once
        pass


def test_it_forgets_what_never_came(interrupter: Interrupter) -> None:
    for serial in range(1, 1000):
        interrupter.stop(serial)
    with interrupter.running(1):
        pass
    with pytest.raises(Stopped), interrupter.running(999):
        pytest.fail("it must not run")


@pytest.mark.parametrize("when", ["during", "before"])
def test_a_descriptor_that_has_something_to_say(when: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        made = Interrupter(lambda: made.stop(ours.recv(1)[0]))
        try:
            made.watch(ours.fileno())
            if when == "before":
                theirs.send(b"\x07")
            with pytest.raises(Stopped), made.running(7):
                if when == "during":
                    theirs.send(b"\x07")
                time.sleep(WAIT)
            with made.running(8):
                pass
        finally:
            made.close()
