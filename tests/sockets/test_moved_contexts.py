"""Contexts of SUB and SURVEYOR that another process takes over."""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import IO

import pytest
from helpers import eventually
from sockets.kit import BOUND, drops, inproc, wait_pipes

import spworkers as sp

PREAMBLE = """
import pickle, sys
import spworkers as sp
context = pickle.load(sys.stdin.buffer)
def say(text):
    sys.stdout.buffer.write(text + b"\\n")
    sys.stdout.buffer.flush()
def told():
    return sys.stdin.buffer.readline().strip()
"""


class Other:
    """Another process, which has a context of ours."""

    def __init__(self, context: sp.Context, script: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin: IO[bytes] = self.process.stdin
        self.stdout: IO[bytes] = self.process.stdout
        self.stdin.write(pickle.dumps(context))
        self.stdin.flush()

    def tell(self, text: bytes) -> None:
        self.stdin.write(text + b"\n")
        self.stdin.flush()

    def hear(self) -> bytes:
        return self.stdout.readline().strip()


@contextlib.contextmanager
def other(context: sp.Context, script: str) -> Iterator[Other]:
    it = Other(context, script)
    try:
        yield it
        it.stdin.close()
        assert it.process.wait(BOUND) == 0
    finally:
        it.process.kill()
        it.process.wait()
        it.stdin.close()
        it.stdout.close()


@contextlib.contextmanager
def pub_and_sub() -> Iterator[tuple[sp.Pub, sp.Sub]]:
    with sp.Pub(listen=inproc()) as pub, sp.Sub(dial=pub.listeners[0].address, reconnect_time=0.01) as sub:
        wait_pipes(pub)
        yield pub, sub


HEARER = """
while (word := told()) != b"end":
    verb, _, topic = word.partition(b" ")
    if verb == b"subscribe":
        context.subscribe(topic)
    elif verb == b"unsubscribe":
        try:
            context.unsubscribe(topic)
        except sp.BadValueError:
            say(b"no topic")
            continue
    say(context.recv(timeout=20) if verb == b"recv" else b"done")
context.close()
"""


def test_a_moved_sub_context_keeps_its_topics_and_what_was_queued() -> None:
    with pub_and_sub() as (pub, sub):
        context = sub.open_context()
        context.subscribe("a")
        context.subscribe("b")
        context.unsubscribe("b")
        for body in (b"a1", b"b1", b"a2", b"end"):
            pub.send(body)
        eventually(lambda: drops(sub).get("unwanted") == 2, BOUND)
        assert context.recv(timeout=BOUND) == b"a1"
        with other(context, HEARER) as process:
            process.tell(b"recv")
            assert process.hear() == b"a2"
            process.tell(b"unsubscribe b")  # it knows that this is none
            assert process.hear() == b"no topic"
            process.tell(b"subscribe c")
            assert process.hear() == b"done"
            process.tell(b"unsubscribe a")
            assert process.hear() == b"done"
            for body in (b"a3", b"c1"):
                pub.send(body)
            process.tell(b"recv")
            assert process.hear() == b"c1"
            process.tell(b"end")


def test_a_moved_sub_context_and_its_socket_hear_each_their_own() -> None:
    with pub_and_sub() as (pub, sub):
        sub.subscribe("s")
        context = sub.open_context()
        context.subscribe("c")
        with other(context, HEARER) as process:
            for number in range(50):
                pub.send(b"s%d" % number)
                pub.send(b"c%d" % number)
            for number in range(50):
                process.tell(b"recv")
                assert process.hear() == b"c%d" % number
                assert sub.recv(timeout=BOUND) == b"s%d" % number
            process.tell(b"end")


def test_a_moved_sub_context_hears_on_after_the_io_process_was_killed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "spworkers")
    from faults.program import killed, successor

    with pub_and_sub() as (pub, sub):
        context = sub.open_context()
        context.subscribe("a")
        with other(context, HEARER) as process:
            process.tell(b"subscribe b")
            assert process.hear() == b"done"
            before = sub.stats()
            killed(before["pid"])
            successor(sub, before)
            wait_pipes(sub)
            eventually(lambda: len(pub.pipes) == 1, BOUND)
            for body in (b"c", b"b", b"a"):
                pub.send(body)
            for body in (b"b", b"a"):
                process.tell(b"recv")
                assert process.hear() == body
            process.tell(b"end")


def test_a_sub_context_of_a_process_that_died_is_gone() -> None:
    with pub_and_sub() as (pub, sub):
        sub.subscribe("s")
        context = sub.open_context()
        context.subscribe("c")
        with other(context, "say(b'ready')\ntold()\nsys.exit()") as process:
            assert process.hear() == b"ready"
            assert sub.stats()["contexts"] == 2
        eventually(lambda: sub.stats()["contexts"] == 1, BOUND)
        pub.send(b"c")
        eventually(lambda: drops(sub).get("unwanted") == 1, BOUND)


ASKER = """
while (word := told()) != b"end":
    verb, _, body = word.partition(b" ")
    try:
        if verb == b"send":
            context.send(body)
        say(context.recv(timeout=20) if verb == b"recv" else b"done")
    except sp.SPError as error:
        say(type(error).__name__.encode())
context.close()
"""


def test_a_moved_surveyor_context_goes_on_with_its_survey() -> None:
    with sp.Surveyor(survey_time=0, listen=inproc()) as surveyor:
        with sp.Respondent(dial=surveyor.listeners[0].address) as respondent:
            wait_pipes(surveyor)
            context = surveyor.open_context()
            context.send(b"first")
            assert respondent.recv(timeout=BOUND) == b"first"
            with other(context, ASKER) as process:
                respondent.send(b"answer")  # to a survey of another process by now
                process.tell(b"recv")
                assert process.hear() == b"answer"
                process.tell(b"send second")
                assert process.hear() == b"done"
                assert respondent.recv(timeout=BOUND) == b"second"
                respondent.send(b"again")
                process.tell(b"recv")
                assert process.hear() == b"again"
                process.tell(b"end")


def test_a_moved_surveyor_context_without_a_survey_has_none() -> None:
    with sp.Surveyor(listen=inproc(), survey_time=0.2) as surveyor:
        with other(surveyor.open_context(), ASKER) as process:
            process.tell(b"recv")
            assert process.hear() == b"ProtoStateError"
            process.tell(b"send nobody hears it")
            assert process.hear() == b"done"
            process.tell(b"recv")
            assert process.hear() in (b"RecvTimeoutError", b"ProtoStateError")  # it may be over before that is asked
            process.tell(b"end")


def test_a_moved_surveyor_context_and_its_socket_get_each_their_answers() -> None:
    with sp.Surveyor(survey_time=0, listen=inproc()) as surveyor:
        with sp.Respondent(dial=surveyor.listeners[0].address) as respondent:
            wait_pipes(surveyor)
            with other(surveyor.open_context(), ASKER) as process:
                for number in range(20):
                    process.tell(b"send theirs %d" % number)
                    assert process.hear() == b"done"
                    surveyor.send(b"ours %d" % number)
                    for _ in range(2):
                        respondent.send(b"re " + respondent.recv(timeout=BOUND), timeout=BOUND)
                    process.tell(b"recv")
                    assert process.hear() == b"re theirs %d" % number
                    assert surveyor.recv(timeout=BOUND) == b"re ours %d" % number
                process.tell(b"end")
