"""Messages that wait for a pipe."""

from __future__ import annotations

from spworkers.protocol.machine import PIPE_LOST, Machine
from spworkers.protocol.outbox import Outbox
from spworkers.testing import FakeMessage, Harness


def numbered(count: int) -> list[FakeMessage]:
    return [FakeMessage(str(number).encode(), serial=number) for number in range(count)]


def test_in_order_and_claimed_only_when_it_is_its_turn() -> None:
    outbox = Outbox()
    first, second = messages = numbered(2)
    for message in messages:
        outbox.append(message)
    assert {message.state for message in messages} == {"waiting"}
    assert outbox.next() is first
    assert (first.state, second.state) == ("claimed", "waiting")
    assert outbox.next() is second
    assert outbox.next() is None


def test_what_was_taken_back_is_passed_over() -> None:
    outbox = Outbox()
    messages = numbered(3)
    for message in messages:
        outbox.append(message)
    messages[0].take_back()
    messages[2].take_back()
    assert outbox.next() is messages[1]
    assert outbox.next() is None
    assert len(outbox) == 0


def test_what_was_taken_back_does_not_pile_up() -> None:
    outbox = Outbox()
    lasting = FakeMessage(b"lasting")
    outbox.append(lasting)
    for message in numbered(20_000):
        message.take_back()
        outbox.append(message)
        assert len(outbox) <= 1025
    assert outbox.next() is lasting
    assert outbox.next() is None


def test_the_memory_for_a_long_queue_shrinks_with_it() -> None:
    outbox = Outbox()
    for message in numbered(5000):
        outbox.append(message)
    while outbox.next() is not None:
        pass
    for message in numbered(20_000):
        message.take_back()
        outbox.append(message)
        assert len(outbox) <= 1025


def test_a_long_queue_keeps_its_order() -> None:
    outbox = Outbox()
    messages = numbered(5000)
    for message in messages:
        outbox.append(message)
    for message in messages[::7]:
        message.take_back()  # of the first ones it comes too late
    got = []
    message_out = outbox.next()
    while message_out is not None:
        got.append(message_out)
        message_out = outbox.next()
    assert got == [message for message in messages if message.state == "claimed"]
    assert len(got) > 4000


def test_drop_counts_and_frees_those_that_are_still_wanted() -> None:
    outbox = Outbox()
    messages = numbered(3)
    for message in messages:
        outbox.append(message)
    messages[1].take_back()
    harness = Harness(Machine)
    outbox.drop(harness, PIPE_LOST, 7)
    assert harness.pipe_counts == {(7, PIPE_LOST): 2}
    assert [message.state for message in messages] == ["freed", "taken back", "freed"]
    assert len(outbox) == 0
