"""What waits for room in a control channel: in order, bounded, with descriptors of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from spworkers.channel import Channel, close_fds
from spworkers.errors import ChannelClosedError, ClosedError, ResourceError
from spworkers.messages import answer
from spworkers.outbox import Outbox

STOP = {"t": "stop", "grace": 0}


class Rig:
    def __init__(self) -> None:
        self.channel, self.other = Channel.pair()
        self.outbox = Outbox(self.channel, limit=10)

    def fill(self) -> int:
        """Fill the channel; how many messages that took."""
        n = 0
        while self.channel.try_send(STOP):
            n += 1
        return n

    def drain(self, n: int) -> None:
        for _ in range(n):
            assert self.other.recv(timeout=0).message == STOP


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.outbox.close()
    made.channel.close()
    made.other.close()


def test_where_there_is_room_nothing_waits(rig: Rig) -> None:
    rig.outbox.put(answer(1))
    assert rig.outbox.waiting == 0
    assert rig.outbox.flush()
    assert rig.other.recv(timeout=0).message == answer(1)


def test_what_waits_keeps_its_order(rig: Rig) -> None:
    sent = rig.fill()
    for number in range(5):
        rig.outbox.put(answer(number))
    assert rig.outbox.waiting == 5
    assert not rig.outbox.flush()
    rig.drain(sent)
    rig.outbox.put(answer(5))  # there is room now, but not for who comes last
    assert rig.outbox.flush()
    assert [rig.other.recv(timeout=0).message["id"] for _ in range(6)] == list(range(6))


def test_what_waits_has_descriptors_of_its_own(rig: Rig) -> None:
    sent = rig.fill()
    read, write = os.pipe()
    rig.outbox.put(answer(1, b"x" * 100_000), [write])
    rig.outbox.put(answer(2), [write])
    os.close(write)
    rig.drain(sent)
    assert rig.outbox.flush()
    message, fds = rig.other.recv(timeout=0)
    assert len(message["value"]) == 100_000
    os.write(fds[0], b"x")
    assert os.read(read, 1) == b"x"
    close_fds([*fds, *rig.other.recv(timeout=0).fds])
    assert os.read(read, 1) == b""  # not even the outbox has the other end any more
    os.close(read)


def test_what_is_forgotten_is_closed(rig: Rig) -> None:
    rig.fill()
    read, write = os.pipe()
    rig.outbox.put(answer(1), [write])
    os.close(write)
    rig.outbox.close()
    assert os.read(read, 1) == b""
    os.close(read)


def test_it_is_bounded(rig: Rig) -> None:
    rig.fill()
    for number in range(10):
        rig.outbox.put(answer(number))
    with pytest.raises(ResourceError, match="10 wait already"):
        rig.outbox.put(answer(10))
    assert repr(rig.outbox) == "<Outbox: 10 of 10 wait, 0 dropped>"


def test_news_yield_to_messages(rig: Rig) -> None:
    rig.fill()
    assert [rig.outbox.notify(STOP) for _ in range(7)] == [True] * 5 + [False] * 2
    assert rig.outbox.dropped == 2
    rig.outbox.put(answer(1))
    assert rig.outbox.waiting == 6


def test_a_dead_end(rig: Rig) -> None:
    rig.fill()
    rig.outbox.put(answer(1))
    rig.other.close()
    with pytest.raises(ChannelClosedError):
        rig.outbox.flush()
    rig.outbox.close()
    with pytest.raises(ChannelClosedError):
        rig.outbox.put(answer(1))


def test_no_numbers_left_for_its_descriptors(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.fill()
    copies: list[int] = []
    dup = os.dup

    def full(fd: int) -> int:
        if copies:
            raise OSError(24, "Too many open files")
        copies.append(dup(fd))
        return copies[0]

    monkeypatch.setattr(os, "dup", full)
    with pytest.raises(ResourceError, match="no descriptor is left"):
        rig.outbox.put(answer(1, b"x" * 100_000), [0, 1])
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(copies[0])
    assert rig.outbox.waiting == 0


def test_a_closed_channel(rig: Rig) -> None:
    rig.channel.close()
    with pytest.raises(ClosedError):
        rig.outbox.put(STOP)
