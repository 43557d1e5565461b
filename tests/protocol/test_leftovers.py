"""Nothing is left behind in a machine whose pipes and contexts come and go for years."""

from __future__ import annotations

from typing import Any

import pytest
from wire import ID, request_id, word

from spworkers.protocol.bus import Bus
from spworkers.protocol.dispatch import Dispatcher
from spworkers.protocol.machine import Machine
from spworkers.protocol.pair1 import Pair1
from spworkers.protocol.pub import Pub
from spworkers.protocol.push import Push
from spworkers.protocol.queued import Queued
from spworkers.protocol.rep import Rep
from spworkers.protocol.req import Req
from spworkers.protocol.respondent import Respondent
from spworkers.protocol.star import Star
from spworkers.protocol.sub import Sub
from spworkers.protocol.surveyor import Surveyor
from spworkers.protocol.xrep import XRep
from spworkers.protocol.xreq import XReq
from spworkers.protocol.xstar import XStar
from spworkers.protocol.xsurveyor import XSurveyor
from spworkers.testing import FakePipe, Harness

TABLES = {
    Req: ["peers", "ready", "turnstile", "_askers", "_requests", "_queue", "_sent", "_pinned"],
    XReq: ["peers", "ready", "turnstile", "_waiting"],
    Rep: ["peers", "turnstile", "_outboxes", "_servers", "_wanting", "_returned"],
    XRep: ["peers", "turnstile", "_outboxes"],
    Push: ["peers", "ready", "_waiting"],
    Pair1: ["peers", "ready", "turnstile", "_waiting"],
    Pub: ["peers", "_everybody", "_queues"],
    Bus: ["peers", "turnstile", "_everybody", "_queues"],
    Star: ["peers", "turnstile", "_everybody", "_queues"],
    XStar: ["peers", "turnstile", "_everybody", "_queues"],
    Sub: ["_subscribers"],
    Surveyor: ["peers", "turnstile", "_everybody", "_queues", "_askers", "_surveys"],
    XSurveyor: ["peers", "turnstile", "_everybody", "_queues"],
    Respondent: ["peers", "turnstile", "_outboxes", "_servers", "_wanting", "_returned"],
    Dispatcher: [
        *("peers", "turnstile", "_backlog", "_beside", "_running", "_calls", "_streams", "_summoned"),
        *("jobs", "_held", "_parked"),
    ],
}


def live_through(harness: Harness, pipe: FakePipe, other: FakePipe, round_: int) -> None:
    """Requests and replies of every kind, some of which get stuck."""
    serial = round_ + 1
    for context in (0, 1):
        harness.wait(context)
    for each in (pipe, other):
        harness.feed(each, *(request_id(round_ + more) + b"ping" for more in (0, 500, 1000, 1500)))
    for context in (0, 1):
        request = harness.recv(context)
        if request is not None:
            harness.send(context, b"pong", serial=request.serial, pipe=request.pipe, header=request.header)
        harness.send(context, b"query", serial=serial, pipe=pipe.id, header=word(pipe.id) + ID)
    harness.congest(pipe)
    for context in (0, 1):
        harness.send(context, b"stuck", serial=serial + 1000, pipe=pipe.id, header=word(pipe.id) + ID)
        request = harness.recv(context)
        if request is not None:
            harness.send(context, b"stuck", serial=request.serial, pipe=request.pipe, header=request.header)
    harness.feed(pipe, request_id(round_ + 2000) + b"ping")
    harness.congest(other)
    message = harness.send(0, b"taken back", serial=serial + 2000, header=word(pipe.id) + ID, pipe=pipe.id)
    message.take_back()
    if round_ % 2:
        harness.drain(other)
        harness.drain(pipe)


@pytest.mark.parametrize("make", TABLES)
@pytest.mark.parametrize("prompt", [True, False])
def test_nothing_is_left_behind(make: type[Machine], prompt: bool) -> None:
    harness = Harness(make, prompt=prompt)
    for round_ in range(50):
        pipe, other = harness.connect(), harness.connect()
        for context in (0, 1):
            harness.open(context)
        live_through(harness, pipe, other, round_)
        harness.run()
        for context in (1, 0):
            harness.close(context)
        harness.disconnect(other)
        harness.disconnect(pipe)
        harness.run()
        if issubclass(make, Queued):
            harness.disconnect(harness.connect())  # what still waits goes with the next one
    machine: Any = harness.machine
    left = {name: len(getattr(machine, name)) for name in TABLES[make]}
    assert left == dict.fromkeys(TABLES[make], 0)
    assert harness.leaks() == []
    assert [message for message in harness.messages if message.state == "waiting"] == []
