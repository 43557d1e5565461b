"""What the stateful tests of all machines share: pipes that come, fill up, empty, break and go."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from spworkers.testing import FakePipe, Harness

# SPWORKERS_TEST_EXAMPLES=5000 for a long run.
SETTINGS = settings(
    max_examples=int(os.environ.get("SPWORKERS_TEST_EXAMPLES", "60")),
    stateful_step_count=60,
    deadline=None,
    # Not to explain: that traces every line, and a failure would end by the test's time limit, unseen.
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)

picks = st.integers(0, 1 << 16)
"""Numbers that choose one of several, by their remainder."""


def pick(things: list[Any], number: int) -> Any:
    return things[number % len(things)]


class World(RuleBasedStateMachine):
    """A machine under a harness. `calm` is called after every step, when the driver has done all that it had to do."""

    def __init__(self) -> None:
        super().__init__()
        self.harness: Harness
        self.numbers = 0

    def make(self, prompt: bool) -> Harness:
        """The harness with its machine."""
        raise AssertionError("a test's world makes one")

    @initialize(prompt=st.booleans(), defer=st.booleans(), warm=st.booleans())
    def begin(self, prompt: bool, defer: bool, warm: bool) -> None:
        self.harness = self.make(prompt)
        self.harness.defer_close = defer
        if warm:  # many rules have their say only when there is somebody
            self.warm_up()

    def warm_up(self) -> None:
        """Begin with something to work with: two pipes, one of which is soon full."""
        self.connect(None, False)
        self.connect(1, False)

    def number(self) -> int:
        """Another one every time."""
        self.numbers += 1
        return self.numbers

    @property
    def pipes(self) -> list[FakePipe]:
        return list(self.harness.pipes.values())

    @property
    def everybody(self) -> list[FakePipe]:
        """All pipes that there ever were."""
        return self.harness.everybody

    def settle(self) -> None:
        self.harness.run()
        self.calm()

    def calm(self) -> None:
        """Check what must hold between any two events."""

    @precondition(lambda self: len(self.pipes) < 5)
    @rule(room=st.none() | st.integers(1, 3), breaks=st.sampled_from([False] * 9 + [True]))
    def connect(self, room: int | None, breaks: bool) -> None:
        self.harness.connect(room=room, breaks=breaks)
        self.settle()

    @precondition(lambda self: self.pipes)
    @rule(which=picks)
    def disconnect(self, which: int) -> None:
        self.harness.disconnect(pick(self.pipes, which))
        self.settle()

    @precondition(lambda self: any(pipe.closed_for for pipe in self.pipes))
    @rule(which=picks)
    def finish_close(self, which: int) -> None:
        """A close that the driver had put off."""
        self.harness.finish_close(pick([pipe for pipe in self.pipes if pipe.closed_for], which))
        self.settle()

    @precondition(lambda self: self.pipes)
    @rule(which=picks)
    def congest(self, which: int) -> None:
        self.harness.congest(pick(self.pipes, which))
        self.settle()

    @precondition(lambda self: any(pipe.congested for pipe in self.pipes))
    @rule(which=picks, room=st.none() | st.integers(1, 3), breaks=st.sampled_from([False] * 9 + [True]))
    def drain(self, which: int, room: int | None, breaks: bool) -> None:
        pipe = pick([pipe for pipe in self.pipes if pipe.congested], which)
        pipe.breaks = breaks
        self.harness.drain(pipe, room=room)
        self.settle()

    @rule(context=st.integers(0, 4))
    def wants_for_no_reason(self, context: int) -> None:
        self.harness.wants(context)
        self.settle()
