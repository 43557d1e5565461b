"""What the patterns share beyond their own rules (for those: tests/conformance): reserved buffers, and successors."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
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


# ---- many at a time


def drained(sub: Sub) -> list[bytes]:
    """What lies in its queue now."""
    found = []
    with contextlib.suppress(sp.RecvTimeoutError):
        while True:
            found.append(sub.recv(timeout=0))
    return found


@pytest.mark.parametrize("many", [True, False], ids=["sole", "with another context"])
def test_what_a_burst_leaves_of_a_queue_is_its_newest_and_all_is_counted(many: bool) -> None:
    with (
        Pub(listen="tcp://127.0.0.1:0") as pub,
        Sub(subscribe=["a", "bc"], readq_len=8, dial=pub.listeners[0].address) as sub,
        contextlib.ExitStack() as stack,
    ):
        if not many:
            stack.enter_context(sub.open_context())
        eventually(lambda: len(pub.pipes) == 1, BOUND)
        bodies = [topic + b"%d" % number for number in range(250) for topic in (b"a", b"bcd", b"b")]
        for body in bodies:
            pub.send(body)
        eventually(lambda: sub.stats()["received"] == len(bodies), BOUND)
        assert drained(sub) == [body for body in bodies if body.startswith((b"a", b"bc"))][-8:]
        assert sub.stats()["drops"] == {"displaced": 492, "unwanted": 250}


def test_a_subscriber_that_does_not_read_holds_up_no_other() -> None:
    """Copies for both go many at a time until its pipe is full, and one by one from then on."""
    with (
        Pub(listen="tcp://127.0.0.1:0", writeq_len=2) as pub,
        Sub(subscribe="", readq_len=4096, dial=pub.listeners[0].address) as sub,
        socket.create_connection(("127.0.0.1", int(pub.listeners[0].address.rpartition(":")[2]))) as deaf,
    ):
        deaf.sendall(b"\0SP\0" + (33).to_bytes(2, "big") + b"\0\0")
        eventually(lambda: len(pub.pipes) == 2, BOUND)
        bodies = [number.to_bytes(2, "big") * 8192 for number in range(1000)]
        for body in bodies:
            pub.send(body)
            assert sub.recv(timeout=BOUND) == body
        eventually(lambda: pub.stats()["drops"].get("congested", 0) > 0, BOUND)


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


def test_successor_displaces_what_its_predecessor_queued(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "spworkers")
    pub, sub = Pub(), Sub(subscribe=["a", "b"], readq_len=2, reconnect_time=0.01)
    with joined(pub, sub):
        pub.send(b"a1")
        pub.send(b"b1")
        eventually(lambda: sub.stats()["received"] == 2, BOUND)
        former = [pipe.id for pipe in pub.pipes]
        killed(sub)
        eventually(lambda: [pipe.id for pipe in pub.pipes if pipe.id not in former], BOUND)
        pub.send(b"b2")
        eventually(lambda: sub.stats()["drops"].get("displaced") == 1, BOUND)
        sub.unsubscribe("b")
        eventually(lambda: sub.stats()["drops"].get("unsubscribed") == 2, BOUND)
        assert drained(sub) == []


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
