"""Looks at a program from outside: who is asked, when there is an answer, and that nobody is asked twice."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from spworkers.channel import Channel
from spworkers.supervisor import service
from spworkers.supervisor.inspection import PATIENCE, Inspections
from spworkers.supervisor.loop import Loop


@dataclass
class FakePeer:
    heard: list[dict[str, Any]] = field(default_factory=list)

    def notify(self, message: dict[str, Any]) -> None:
        self.heard.append(message)


@dataclass
class FakeProcess:
    pid: int
    peer: FakePeer = field(default_factory=FakePeer)
    started: float = 0.0


@dataclass
class FakeChild:
    key: str
    role: str = "io"
    process: FakeProcess | None = None
    generation: int = 1
    spec: dict[str, Any] = field(default_factory=dict)
    fds: list[int] = field(default_factory=list)


class FakeTimer:
    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    def __init__(self) -> None:
        self.timers: list[FakeTimer] = []

    def after(self, seconds: float, call: Callable[[], None]) -> FakeTimer:
        assert seconds == PATIENCE
        self.timers.append(FakeTimer(call))
        return self.timers[-1]


class World:
    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.children: list[Any] = []
        self.inspections = Inspections(self.loop, lambda: self.children)  # type: ignore[arg-type]
        self.told: list[dict[str, Any]] = []

    def child(self, key: str, pid: int = 7, **more: Any) -> Any:
        made = FakeChild(key, process=FakeProcess(pid) if pid else None, **more)
        self.children.append(made)
        return made

    def look(self) -> None:
        self.inspections.begin(self.told.append)


@pytest.fixture
def world() -> World:
    return World()


def test_everybody_answers(world: World) -> None:
    one, other = world.child("one"), world.child("other")
    world.child("worker", role="worker", fds=[5], spec={"number": 0, "attach": "one", "origin": "secret"})
    world.look()
    assert one.process.peer.heard == other.process.peer.heard == [{"t": "look"}]
    world.inspections.seen(one, {"stats": 1})
    assert not world.told
    world.inspections.seen(other, {"stats": 2})
    (told,) = world.told
    assert [each["facts"] for each in told["children"]] == [{"stats": 1}, {"stats": 2}, None]
    assert told["children"][2]["spec"] == {"number": 0, "attach": "one"}
    assert told["children"][2]["fds"] == [5]
    assert world.loop.timers[0].cancelled


def test_nobody_to_ask_is_answered_at_once(world: World) -> None:
    world.look()
    world.child("down", pid=0)
    world.look()
    assert [len(told["children"]) for told in world.told] == [0, 1]
    assert world.told[1]["children"][0]["pid"] == 0


def test_who_does_not_answer_is_asked_once_and_left_out(world: World) -> None:
    hung, well = world.child("hung"), world.child("well")
    for number in range(3):
        world.look()
        world.inspections.seen(well, {})
        world.loop.timers[-1].call()
        assert [each["facts"] for each in world.told[number]["children"]] == [None, {}]
    assert hung.process.peer.heard == [{"t": "look"}]
    assert len(well.process.peer.heard) == 3
    world.inspections.seen(hung, {"late": True})  # to nobody
    world.look()
    assert len(hung.process.peer.heard) == 2


def test_its_successor_is_asked_anew(world: World) -> None:
    child = world.child("one", pid=7)
    world.look()
    child.process = FakeProcess(8)
    world.look()
    assert child.process.peer.heard == [{"t": "look"}]


def test_one_answer_is_for_all_who_look(world: World) -> None:
    child = world.child("one")
    world.look()
    world.look()
    world.inspections.seen(child, {"stats": 1})
    assert len(world.told) == 2
    assert child.process.peer.heard == [{"t": "look"}]
    for timer in world.loop.timers:
        timer.call()  # too late: they are answered
    assert len(world.told) == 2


def test_without_a_claim_socket_all_else_is_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox may forbid it, or the descriptors be used up."""

    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(service, "ClaimDesk", refused)
    ours, theirs = Channel.pair()
    with ours:
        supervisor = service.Service(Loop(), theirs)
        supervisor.ready()
        message, _ = ours.recv()
        assert message["t"] == "ready"
        supervisor.close()
