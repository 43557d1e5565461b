"""What the patterns share beyond their own rules (for those: tests/conformance): reserved buffers, and successors."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from helpers import eventually
from sockets.kit import BOUND, inproc, joined, wait_pipes

import spworkers as sp
from spworkers import Bus, Pair, Pub, Pull, Push, Respondent, Sub, Surveyor


@pytest.mark.parametrize("raw", [False, True], ids=["cooked", "raw"])
@pytest.mark.parametrize(("make", "peer"), [(Push, Pull), (Pub, Sub), (Pair, Pair), (Bus, Bus)])
def test_a_reserved_buffer_is_sent(make: Any, peer: Any, raw: bool) -> None:
    sender, receiver = make(raw=raw), peer(raw=raw)
    if peer is Sub and not raw:
        receiver.subscribe("")
    with joined(receiver, sender):
        wait_pipes(sender)
        with sender.reserve(5) as buffer:
            buffer[:] = b"12345"
        assert receiver.recv(timeout=BOUND) == b"12345"


# ---- what a successor takes up


def killed(sock: sp.Socket) -> None:
    """Kill a socket's I/O process and wait for the next one."""
    before = sock.stats()
    os.kill(before["pid"], signal.SIGKILL)
    eventually(lambda: sock.stats()["generation"] > before["generation"], BOUND)


def test_successor_knows_the_subscriptions(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "spworkers")
    pub, sub = Pub(), Sub(subscribe=["a", "b"], reconnect_time=0.01)
    with joined(pub, sub), sub.open_context() as context:
        sub.unsubscribe("b")
        context.subscribe("c")
        killed(sub)
        wait_pipes(sub)
        eventually(lambda: len(pub.pipes) == 1, BOUND)
        for body in (b"b", b"a", b"c"):
            pub.send(body)
        assert sub.recv(timeout=BOUND) == b"a"
        assert context.recv(timeout=BOUND) == b"c"


def test_successor_asks_a_survey_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "spworkers")
    surveyor, respondent = Surveyor(survey_time=0, reconnect_time=0.01), Respondent()
    with joined(respondent, surveyor):
        surveyor.send(b"who?")
        assert respondent.recv(timeout=BOUND) == b"who?"
        killed(surveyor)
        assert respondent.recv(timeout=BOUND) == b"who?"
        respondent.send(b"me")
        assert surveyor.recv(timeout=BOUND) == b"me"


def test_successor_sends_what_push_had_accepted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "spworkers")
    with Push() as push, Pull() as pull:
        for number in range(50):
            push.send(b"%d" % number)
        killed(push)
        pull.dial(push.listen(inproc()).address)
        assert [int(pull.recv(timeout=BOUND)) for _ in range(50)] == list(range(50))
