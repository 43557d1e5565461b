"""Fixtures of the ring's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ring.support import RECV, SEND, Lane, LaneMaker


@pytest.fixture(params=[SEND, RECV], ids=["send", "recv"])
def which(request: pytest.FixtureRequest) -> int:
    """Lane 0 (user → I/O process) and lane 1 (I/O process → user): what is tested with it holds for both."""
    return int(request.param)


@pytest.fixture
def make_lane(which: int) -> Iterator[LaneMaker]:
    """Makes lanes that are closed after the test."""
    made: list[Lane] = []

    def make(**arguments: int) -> Lane:
        made.append(Lane(arguments.pop("which", which), **arguments))
        return made[-1]

    yield make
    for lane in made:
        lane.close()


@pytest.fixture
def lane(make_lane: LaneMaker) -> Lane:
    """A lane with a window of 128 and a budget of 1 MiB."""
    return make_lane()


@pytest.fixture
def send_lane() -> Iterator[Lane]:
    with Lane(SEND) as lane:
        yield lane


@pytest.fixture
def recv_lane() -> Iterator[Lane]:
    with Lane(RECV) as lane:
        yield lane
