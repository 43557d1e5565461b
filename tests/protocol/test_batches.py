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
    st.tuples(st.sampled_from(["SUBSCRIBE", "UNSUBSCRIBE"]), st.sampled_from([b"", b"pay", b"x"])),
    st.tuples(st.just("context"), st.none()),
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
    elif move in ("SUBSCRIBE", "UNSUBSCRIBE"):
        harness.configure(move, what)
    elif move == "context":
        other_context(harness)
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
    """If the machine says that everything goes to one pipe, or a copy to each of several, this message does."""
    everybody = harness.machine.copies_to(0)
    if everybody:
        copies(harness, header, everybody)
        return
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


def copies(harness: Harness, header: bytes, everybody: list[int]) -> None:
    """This message goes to each of these pipes, unchanged, and nothing else happens."""
    assert harness.machine.everything_to(0) == 0
    prefix = harness.machine.prefix()
    before = len(harness.log)
    message = harness.send(0, b"body", header=header)
    assert message.state == "freed"
    assert harness.log[before:] == [("transmit", number, prefix + header + b"body") for number in everybody]


def other_context(harness: Harness) -> None:
    """Another context of a SUB, which wants something too, or is closed again."""
    if harness.machine.__class__.__name__ != "Sub":
        return
    if 1 in harness.lanes:
        harness.close(1)
    else:
        harness.open(1)
        harness.configure("SUBSCRIBE", b"pay", 1)


def feed(harness: Harness, pipe: Any) -> None:
    """If it says that it takes all, this message is delivered as it is, or finds no room; nothing else happens."""
    if pipe.unread or pipe.paused:
        return
    sole = harness.machine.sole_subscriber()
    if sole >= 0:
        sift(harness, pipe, sole)
        return
    takes = harness.machine.takes_all(pipe.id)
    before = len(harness.log)
    harness.feed(pipe, b"payload")
    done = harness.log[before:]
    if takes:
        assert [action[:6] for action in done] == [("deliver", 0, pipe.id, b"", b"payload", 0)]
        assert (done[0][6] == 0) == bool(pipe.unread)


def sift(harness: Harness, pipe: Any, sole: int) -> None:
    """This message is left out, or delivered in place of the oldest ones, or dropped if there are none."""
    assert not harness.machine.takes_all(pipe.id)
    topics = harness.machine.topics()
    wanted = any(b"payload"[:length] in these for length, these in topics.items())
    lane = harness.lanes[sole]
    waiting = [each.ticket for each in lane.waiting]
    before = len(harness.log)
    harness.feed(pipe, b"payload")
    done = [action for action in harness.log[before:] if action[0] != "deliver" or action[6]]
    assert not pipe.unread
    if not wanted:
        assert done == [("count", "unwanted", pipe.id, 1)]
        return
    last = done.pop()
    gone = [action for action in done if action != ("displace", sole, False)]
    if last[0] == "deliver":
        assert last[:6] == ("deliver", sole, pipe.id, b"", b"payload", 0)
        assert gone == [("displace", sole, True), ("count", "displaced", 0, 1)] * (len(gone) // 2)
        assert [each.ticket for each in lane.waiting] == [*waiting[len(gone) // 2 :], last[6]]
    else:
        assert last == ("count", "congested", pipe.id, 1)
        assert lane.waiting == []


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


@pytest.mark.parametrize(("name", "raw"), KINDS)
def test_these_machines_leave_copies_to_their_driver(name: str, raw: bool) -> None:
    harness = Harness(machine_for(name, raw))
    harness.open(0)
    assert harness.machine.copies_to(0) == []
    pipes = [harness.connect(), harness.connect()] if not name.startswith("pair") else []
    all_of_them = [pipe.id for pipe in pipes] if name == "pub" or (name in ("bus", "star") and not raw) else []
    assert harness.machine.copies_to(0) == all_of_them
    for pipe in pipes[:1]:
        harness.congest(pipe)
        assert harness.machine.copies_to(0) == []
        harness.drain(pipe)
        assert harness.machine.copies_to(0) == all_of_them
        harness.disconnect(pipe)
        assert harness.machine.copies_to(0) == all_of_them[1:]


def test_only_one_subscriber_with_a_queue_is_left_to_the_driver() -> None:
    harness = Harness(machine_for("sub", False))
    assert harness.machine.sole_subscriber() == -1
    harness.open(3)
    assert harness.machine.sole_subscriber() == 3
    harness.configure("SUBSCRIBE", b"ab", 3)
    assert harness.machine.topics() == {2: {b"ab"}}
    harness.open(0)
    assert harness.machine.sole_subscriber() == -1
    harness.close(3)
    assert harness.machine.sole_subscriber() == 0
    harness.configure("READQ-LEN", 0)
    assert harness.machine.sole_subscriber() == -1
    harness.configure("READQ-LEN", 1)
    assert harness.machine.sole_subscriber() == 0
    assert Harness(machine_for("sub", True)).machine.sole_subscriber() == -1
