"""Where a machine leaves messages to its driver, it would have done just that with each of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spworkers.protocol import MACHINES, machine_for
from spworkers.testing import Harness

KINDS = [(name, raw) for name in sorted(MACHINES) for raw in (False, True)]
HEADERS = [b"", b"\x80\0\0\1", b"\0\0\0\1", b"\0\0\0\1\x80\0\0\2"]

moves = st.one_of(
    st.tuples(st.just("connect"), st.sampled_from([None, 0, 1, 3])),
    st.tuples(st.sampled_from(["disconnect", "congest", "drain"]), st.integers(0, 3)),
    st.tuples(st.just("send"), st.sampled_from(HEADERS)),
    st.tuples(st.just("feed"), st.integers(0, 3)),
    st.tuples(st.just("recv"), st.none()),
    st.tuples(st.just("window"), st.sampled_from([0, 1, 2])),
)


def do(harness: Harness, move: str, what: Any) -> None:
    pipes = list(harness.pipes.values())
    if move == "connect":
        harness.connect(room=what)
    elif move == "send":
        send(harness, what)
    elif move == "recv":
        harness.recv()
    elif move == "window":
        harness.configure("READQ-LEN", what)
    elif what < len(pipes):
        pipe = pipes[what]
        if move == "disconnect":
            harness.disconnect(pipe)
        elif move == "congest":
            harness.congest(pipe)
        elif move == "drain":
            harness.drain(pipe)
        else:
            feed(harness, pipe)


def send(harness: Harness, header: bytes) -> None:
    """If the machine says that everything goes to one pipe, this message does, unchanged, and nothing else happens."""
    sole = harness.machine.everything_to(0)
    prefix = harness.machine.prefix()
    before = len(harness.log)
    frames = len(harness.pipes[sole].sent) if sole else 0
    message = harness.send(0, b"body", header=header)
    if sole:
        assert message.sent == 1
        assert message.state == "freed"
        assert harness.everybody[sole - 1].sent[frames:] == [prefix + header + b"body"]
        assert {action[0] for action in harness.log[before:]} <= {"transmit", "set_ready"}


def feed(harness: Harness, pipe: Any) -> None:
    """If it says that it takes all, this message is delivered as it is, or finds no room; nothing else happens."""
    if pipe.unread or pipe.paused:
        return
    takes = harness.machine.takes_all(pipe.id)
    before = len(harness.log)
    harness.feed(pipe, b"payload")
    done = harness.log[before:]
    if takes:
        assert [action[:6] for action in done] == [("deliver", 0, pipe.id, b"", b"payload", 0)]
        assert (done[0][6] == 0) == bool(pipe.unread)


@pytest.mark.parametrize(("name", "raw"), KINDS)
@settings(deadline=None)
@given(script=st.lists(moves, max_size=30))
def test_what_a_machine_leaves_to_its_driver_needs_no_decision(name: str, raw: bool, script: list[Any]) -> None:
    harness = Harness(machine_for(name, raw), prompt=False)
    harness.open(0)
    harness.connect()
    for step in script:
        do(harness, *step)


@pytest.mark.parametrize(("name", "out", "into"), [("push", 1, 0), ("pull", 0, 1), ("pair", 1, 1), ("pair1", 1, 0)])
def test_these_machines_leave_messages_to_their_driver(name: str, out: bool, into: bool) -> None:
    harness = Harness(machine_for(name, False))
    harness.open(0)
    assert harness.machine.everything_to(0) == 0
    pipe = harness.connect()
    assert (harness.machine.everything_to(0) == pipe.id) == bool(out)
    assert harness.machine.takes_all(pipe.id) == bool(into)
    assert not harness.machine.takes_all(pipe.id + 1)
