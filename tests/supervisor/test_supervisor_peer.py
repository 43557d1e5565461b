"""A channel in the supervisor's loop: dispatch, answers, bounds. Nothing here has another process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from supervising import open_fds

from spworkers.channel import Channel
from spworkers.errors import AddrInUseError, ChannelClosedError, GarbledError, ResourceError, SPError, from_name
from spworkers.messages import Message
from spworkers.packet import close_fds
from spworkers.supervisor.loop import Loop
from spworkers.supervisor.peer import LATER, Peer, WithFds, take

NEWS = {"t": "child_started", "key": "key", "pid": 1, "generation": 1}


class Desk:
    """A peer, the other end of its channel, and what a handler does and hears."""

    def __init__(self, limit: int = 8) -> None:
        self.loop = Loop()
        self.other, channel = Channel.pair()
        self.heard: list[Message] = []
        self.lost: list[SPError] = []
        self.result: Any = None
        self.taken: list[int] = []
        self.keep_fds = False
        self.peer = Peer(self.loop, channel, handle=self.handle, lost=self.lost.append, limit=limit)

    def step(self) -> None:
        """One step of the loop, whether there is an event or not."""
        self.loop.after(0.0, lambda: None)
        self.loop.step()

    def handle(self, message: Message, fds: list[int]) -> Any:
        self.heard.append(message)
        if self.keep_fds:
            self.taken += take(fds)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def ask(self, fds: list[int] | None = None) -> tuple[Message, list[int]]:
        self.other.send({"t": "keep", "id": 5, "name": "n", "blob": b""}, fds or [])
        self.loop.step()
        return self.other.recv(timeout=0)


@pytest.fixture
def desk() -> Iterator[Desk]:
    before = open_fds()
    made = Desk()
    yield made
    made.peer.close()
    made.other.close()
    close_fds(made.taken)
    assert open_fds() <= before


def test_a_request_is_answered(desk: Desk) -> None:
    desk.result = [1, 2]
    assert desk.ask() == ({"t": "answer", "id": 5, "value": [1, 2]}, [])


def test_a_message_is_not(desk: Desk) -> None:
    desk.other.send({"t": "drop", "name": "n"})
    desk.loop.step()
    assert desk.heard == [{"t": "drop", "name": "n"}]
    assert desk.other.recv_ready() is None


def test_an_error_is_an_answer_too(desk: Desk) -> None:
    desk.result = AddrInUseError("taken")
    message, _ = desk.ask()
    error = from_name(message["name"], message["args"])
    assert isinstance(error, AddrInUseError)
    assert str(error) == "taken"


def test_a_bug_is_an_answer_and_a_traceback(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.result = ZeroDivisionError("oh")
    message, _ = desk.ask()
    assert (message["t"], message["name"]) == ("error", "InternalError")
    assert "ZeroDivisionError: oh" in capsys.readouterr().err


def test_an_error_that_nobody_waits_for_is_printed(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.result = ResourceError("too much")
    desk.other.send({"t": "drop", "name": "n"})
    desk.loop.step()
    assert "could not drop: too much" in capsys.readouterr().err


def test_an_answer_may_come_later(desk: Desk) -> None:
    desk.result = LATER
    with pytest.raises(SPError):
        desk.ask()
    desk.peer.reply(5, "at last")
    assert desk.other.recv(timeout=0).message["value"] == "at last"


def test_an_answer_may_carry_descriptors(desk: Desk) -> None:
    desk.result = WithFds("here", os.pipe())
    message, fds = desk.ask()
    assert (message["value"], len(fds)) == ("here", 2)
    close_fds(fds)


def test_an_answer_that_cannot_be_sent_is_an_error(desk: Desk) -> None:
    desk.result = object()
    assert desk.ask()[0]["name"] == "SerializationError"


def test_descriptors_are_closed_unless_they_are_taken(desk: Desk) -> None:
    read, write = os.pipe()
    desk.ask([read])
    desk.keep_fds = True
    desk.ask([write])
    assert len(desk.taken) == 1
    desk.result = ResourceError("no")
    desk.ask([write])
    assert len(desk.taken) == 2
    close_fds([read, write])


def test_what_there_is_no_room_for_waits(desk: Desk) -> None:
    big = {"t": "answer", "id": 1, "value": b"x" * 50_000}
    for _ in range(8):
        desk.peer.put(big)
    got: list[Message] = []
    while len(got) < 8:  # Linux calls a socket writable when three quarters of its buffer are free, not before
        got += [desk.other.recv(timeout=0).message]
        desk.step()
    assert got == [big] * 8
    assert not desk.lost


def fill(desk: Desk) -> int:
    """Fill the socket; how many messages that took."""
    n = 0
    while not desk.peer._outbox.waiting:
        desk.peer.put(NEWS)
        n += 1
    return n - 1


def test_who_does_not_read_is_lost(desk: Desk) -> None:
    fill(desk)
    for _ in range(20):
        desk.peer.put(NEWS)
    assert [type(error) for error in desk.lost] == [ResourceError]
    desk.peer.put(NEWS)  # to nobody


def test_news_are_dropped_and_counted_before_that(desk: Desk) -> None:
    sent = fill(desk)
    for _ in range(20):
        desk.peer.notify(NEWS)
    assert not desk.lost
    got: list[Message] = []
    while len(got) < sent + 5:
        while (received := desk.other.recv_ready()) is not None:
            got.append(received.message)
        desk.step()
    assert got[: sent + 4] == [NEWS] * (sent + 4)
    assert got[sent + 4 :] == [{"t": "notices_lost", "count": 17}]


def test_the_end_of_the_other_end(desk: Desk) -> None:
    desk.other.close()
    desk.loop.step()
    assert [type(error) for error in desk.lost] == [ChannelClosedError]
    desk.peer.drain()
    assert len(desk.lost) == 1


def test_what_was_said_before_the_end_is_heard(desk: Desk) -> None:
    desk.other.send({"t": "keep", "id": 1, "name": "n", "blob": b""})
    desk.other.send({"t": "drop", "name": "m"})
    desk.other.close()
    desk.peer.put(NEWS)  # nobody there: that must not hide what is still to be read
    desk.peer.drain()
    assert [message["t"] for message in desk.heard] == ["keep", "drop"]
    assert [type(error) for error in desk.lost] == [ChannelClosedError]


def test_garbage_is_the_end_and_a_request_among_it_is_answered(desk: Desk) -> None:
    import msgpack

    os.write(desk.other.fileno(), msgpack.packb({"v": 1, "t": "keep", "id": 9, "name": 7}))
    desk.loop.step()
    message = desk.other.recv(timeout=0).message
    assert (message["id"], message["name"]) == (9, "GarbledError")
    assert isinstance(desk.lost[0], GarbledError)
