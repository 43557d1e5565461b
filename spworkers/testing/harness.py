"""A driver for protocol machines, for tests: it has the machine's actions, and says what it did.

    harness = Harness(Req, seed=6)
    harness.open(0)
    pipe = harness.connect()
    harness.send(0, b"ping", serial=1)
    assert pipe.sent == [bytes.fromhex("80000007") + b"ping"]
    harness.feed(pipe, bytes.fromhex("80000007") + b"pong")
    assert harness.recv(0).body == b"pong"

Nothing is real: pipes are lists of frames, contexts are lists of messages, time is a `VirtualClock`. But what a real
driver would suffer from is an AssertionError (`spworkers.testing.actions`). And the harness promises a machine no more
than a real driver does: a context's demand is told only where a delivery was refused before, for instance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spworkers.protocol.machine import DATA, Actions, Machine
from spworkers.testing.actions import FakeActions
from spworkers.testing.clock import VirtualClock
from spworkers.testing.messages import Delivery, FakeLane, FakeMessage
from spworkers.testing.pipes import FakePipe

__all__ = ["Harness"]


class Harness(FakeActions):
    """A machine with everything around it.

    Args:
        make: the machine's class, or a function that makes one of its actions; it gets `options` too.
        clock: the time; by default a clock of its own, which begins at 1000 s.
        prompt: do at once what a driver may also do later: tell of congestion from inside `transmit`, remove a pipe
            from inside `close_pipe`, offer a refused message again from inside `resume`. Else congestion and removals
            are told after the event, and refused messages are offered by `run`.
        hold: keep sent messages in use until `flush`, as a kernel does whose buffers are full.
        defer_close: a pipe that the machine closes stays until `finish_close`, and its peer may go on sending, reading
            and leaving meanwhile, as in a driver that is busy with other things.
        options: further arguments of `make`.

    `machine` is the machine, `messages` and `everybody` are all messages and pipes that there ever were. `counts` are
    its drops by cause, `ready` is its gauge of ready pipes, `killed` the contexts that it had killed, with the reasons;
    `log` holds every action in order, as tuples that begin with its name.
    """

    def __init__(
        self,
        make: Callable[..., Machine],
        *,
        clock: VirtualClock | None = None,
        prompt: bool = True,
        hold: bool = False,
        defer_close: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            VirtualClock(1000.0) if clock is None else clock, prompt=prompt, hold=hold, defer_close=defer_close
        )
        self.messages: list[FakeMessage] = []
        self.everybody: list[FakePipe] = []
        actions: Actions = self
        self.machine = make(actions, **options)

    # --- pipes

    def connect(self, *, room: int | None = None, breaks: bool = False) -> FakePipe:
        """A peer connects. `accepted` of the pipe says whether the machine took it."""
        pipe = FakePipe(len(self.everybody) + 1, room)
        self.everybody.append(pipe)
        pipe.breaks = breaks
        self.pipes[pipe.id] = pipe
        self._begin()
        pipe.accepted = self.machine.pipe_added(pipe.id)
        if not pipe.accepted:
            pipe.attached = False
            del self.pipes[pipe.id]
        self._end()
        return pipe

    def disconnect(self, pipe: FakePipe) -> None:
        """A peer goes."""
        self._begin()
        self._remove(pipe)
        self._end()

    def hang_up(self, pipe: FakePipe) -> None:
        """A peer goes while messages of it wait in `unread`; `disconnect` follows when they have been taken."""
        pipe.room, pipe.congested = None, False  # what is sent now is lost, and so has room
        self._begin()
        self.machine.pipe_hung_up(pipe.id)
        self._end()

    def finish_close(self, pipe: FakePipe) -> None:
        """The machine hears that a pipe which it had closed is gone (`defer_close`)."""
        assert pipe.closed_for, f"{pipe!r} was not closed by the machine"
        self.disconnect(pipe)

    def congest(self, pipe: FakePipe) -> None:
        """A pipe takes no more frames."""
        pipe.room = 0
        self._begin()
        self._tell_congested(pipe)
        self._end()

    def drain(self, pipe: FakePipe, *, room: int | None = None) -> None:
        """A pipe takes frames again: `room` of them, or any number."""
        pipe.room = room
        pipe.congested = False
        self._begin()
        self.machine.pipe_ready(pipe.id)
        self._end()

    def flush(self, pipe: FakePipe) -> None:
        """The kernel has all that was sent."""
        pipe.flush()

    def feed(self, pipe: FakePipe, *payloads: bytes) -> None:
        """A peer sends; what the machine refuses, and whatever follows, waits in `unread`."""
        for payload in payloads:
            pipe.unread.append(payload)
            self._begin()
            self._read(pipe)
            self._end()

    def run(self) -> None:
        """Offer refused messages again to those who were called, if the harness is not prompt."""
        while self._called:
            pipe = self._called.popleft()
            self._begin()
            self._read_on(pipe)
            self._end()

    # --- contexts

    def open(self, context: int = 0) -> FakeLane:
        """A context is opened."""
        lane = self.lanes[context] = FakeLane()
        lane.window = 7  # of the driver's choice, until the machine has said what it shall be
        self._begin()
        self.machine.context_opened(context)
        self._end()
        return lane

    def close(self, context: int = 0) -> None:
        """A context is closed, or its process died; what it was sent can still be taken back meanwhile."""
        self._begin()
        self.machine.context_closed(context)
        del self.lanes[context]
        self._end()

    def send(
        self,
        context: int,
        body: bytes,
        *,
        header: bytes = b"",
        pipe: int = 0,
        serial: int = 0,
        kind: int = DATA,
        inherited: bool = False,
    ) -> FakeMessage:
        """A context sends. `inherited`: a predecessor of the driver had claimed it, and died."""
        message = FakeMessage(body, header, pipe=pipe, serial=serial, kind=kind, context=context, inherited=inherited)
        self.messages.append(message)
        self._begin()
        self.machine.context_message(context, message)
        self._end()
        return message

    def wait(self, context: int) -> None:
        """A receiver announces that it waits."""
        self.lanes[context].demand += 1
        self._look(context)

    def recv(self, context: int = 0) -> Delivery | None:
        """A receiver takes the next message, and is done with it at once; None: there is none."""
        delivery = self.lanes[context].take()
        if delivery is not None:
            self.release(context, delivery)
        return delivery

    def recv_all(self, context: int = 0) -> list[bytes]:
        """The bodies of all that can be received now, errors left out."""
        bodies = []
        delivery = self.recv(context)
        while delivery is not None:
            if not delivery.error:
                bodies.append(delivery.body)
            delivery = self.recv(context)
        return bodies

    def release(self, context: int, delivery: Delivery) -> None:
        """A receiver is done with a message that it took from its lane."""
        self.lanes[context].release(delivery)
        self._look(context)

    def wants(self, context: int) -> None:
        """Tell the machine to look at a context's lane, with or without a reason."""
        self._begin()
        self.machine.context_wants(context)
        self._end()

    # --- options and time

    def configure(self, name: str, value: Any, context: int | None = None) -> None:
        """Set an option."""
        self._begin()
        self.machine.configure(context, name, value)
        self._end()

    def advance(self, seconds: float) -> None:
        """Let time pass, and tell the machine of every deadline on the way."""
        end = self.clock.now + seconds
        calls = 0
        while self.machine.deadline <= end:
            self.clock.advance_to(self.machine.deadline)
            before = self.machine.deadline
            self._begin()
            self.machine.timer_due()
            self._end()
            calls = calls + 1 if self.machine.deadline == before else 0
            assert calls < 100, f"the machine does not get past its deadline {before!r}"
        self.clock.advance_to(end)

    # --- what is left

    def leaks(self) -> list[FakeMessage]:
        """Messages that are in use, those included that the kernel does not have yet."""
        return [message for message in self.messages if message.state == "claimed"]

    def did(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of all actions of this name so far, in order."""
        return [action[1:] for action in self.log if action[0] == name]

    # --- inside

    def _look(self, context: int) -> None:
        """As a real driver does, tell of room and demand only where a delivery was refused before."""
        lane = self.lanes[context]
        if lane.armed and lane.open:
            lane.armed = False
            self.wants(context)
