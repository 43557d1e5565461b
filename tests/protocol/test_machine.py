"""The base of all machines, and where they are found."""

from __future__ import annotations

import pytest

from spworkers.errors import BadProtoError
from spworkers.protocol import MACHINES, machine_for
from spworkers.protocol.machine import CANCEL, CAUSES, NEVER, Machine
from spworkers.protocols import PROTOCOLS
from spworkers.testing import Harness


def test_the_base_takes_every_event_and_loses_nothing_uncounted() -> None:
    harness = Harness(Machine)
    harness.open()
    pipe = harness.connect()
    harness.feed(pipe, b"what is this")
    message = harness.send(0, b"and this")
    inherited = harness.send(0, b"and that", inherited=True)
    harness.congest(pipe)
    harness.drain(pipe)
    harness.wants(0)
    harness.configure("TTL", 3)
    harness.machine.timer_due()
    harness.disconnect(pipe)
    harness.close()
    assert (message.state, inherited.state) == ("freed", "freed")
    assert harness.counts == {"unexpected": 3}
    assert harness.machine.deadline == NEVER


def test_a_message_that_was_taken_back_is_not_counted() -> None:
    harness = Harness(Machine)
    harness.open()
    message = harness.send(0, b"")
    assert harness.counts == {"unexpected": 1}
    taken_back = type(message)(b"", kind=CANCEL)
    taken_back.take_back()
    harness.machine.context_message(0, taken_back)
    assert harness.counts == {"unexpected": 1}


def test_every_cause_says_what_it_means() -> None:
    for cause, meaning in CAUSES.items():
        assert cause == cause.lower()
        assert len(meaning.split()) > 3


@pytest.mark.parametrize("name", sorted(MACHINES))
@pytest.mark.parametrize("raw", [False, True])
def test_every_machine_is_made_of_the_driver_alone(name: str, raw: bool) -> None:
    assert name in PROTOCOLS
    harness = Harness(machine_for(name, raw))
    harness.open(0)
    pipe = harness.connect()
    harness.disconnect(pipe)
    harness.close(0)
    assert harness.counts == {}


@pytest.mark.parametrize("name", sorted(MACHINES))
@pytest.mark.parametrize("raw", [False, True])
def test_options_may_come_before_contexts_and_unknown_ones_do_nothing(name: str, raw: bool) -> None:
    harness = Harness(machine_for(name, raw))
    for option, value in {"READQ-LEN": 7, "WRITEQ-LEN": 7, "TTL": 3, "RETRY-TIME": 1.0, "SEND-DEADLINE": 1.0}.items():
        harness.configure(option, value)
        harness.configure(option, value, context=5)
    harness.configure("BEST-EFFORT", True)
    harness.configure("NO-DELAY", True)


def test_an_unknown_protocol_is_named() -> None:
    with pytest.raises(BadProtoError, match="'carrier-pigeon'"):
        machine_for("carrier-pigeon", False)
