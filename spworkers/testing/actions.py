"""What a machine can do to its surroundings, done to lists: the half of the harness that the machine sees.

What would corrupt a real driver is an AssertionError here: a frame for a pipe that is gone or congested, a message that
is sent without being claimed, a drop of a cause that is not declared.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from spworkers.protocol.machine import CAUSES, Actions, Machine, Outgoing
from spworkers.testing.clock import VirtualClock
from spworkers.testing.messages import FakeLane, FakeMessage
from spworkers.testing.pipes import FakePipe

__all__ = ["FakeActions"]


class FakeActions(Actions):
    """The `Actions` of tests; `Harness` adds the events.

    Args:
        clock, prompt, hold, defer_close: as in `Harness`.
    """

    machine: Machine

    def __init__(self, clock: VirtualClock, *, prompt: bool, hold: bool, defer_close: bool) -> None:
        self.clock = clock
        self.prompt = prompt
        self.hold = hold
        self.defer_close = defer_close
        self.pipes: dict[int, FakePipe] = {}
        self.lanes: dict[int, FakeLane] = {}
        self.counts: Counter[str] = Counter()
        self.pipe_counts: Counter[tuple[int, str]] = Counter()
        self.ready = 0
        self.hungry: set[int] = set()
        """Contexts that wait for room for what they send."""
        self.killed: list[tuple[int, str]] = []
        self.log: list[tuple[Any, ...]] = []
        self._congested: list[FakePipe] = []
        self._closing: list[FakePipe] = []
        self._called: deque[FakePipe] = deque()

    def transmit(self, pipe: int, prefix: bytes, message: Outgoing, skip: int) -> None:
        assert isinstance(message, FakeMessage)
        assert message.state == "claimed", f"{message!r} is sent without being claimed"
        assert 0 <= skip <= len(message.payload), f"{skip} bytes of {message!r} are skipped"
        message.sent += 1
        if self.hold:
            message.retain()
            self._pipe(pipe).in_flight.append(message)
        self._write(pipe, prefix + message.payload[skip:])

    def transmit_bytes(self, pipe: int, payload: bytes) -> None:
        self._write(pipe, payload)

    def deliver(self, context: int, pipe: int, payload: bytes, header_length: int, serial: int, prefix: bytes) -> int:
        assert 0 <= header_length <= len(payload), f"a header of {header_length} bytes in {payload!r}"
        header, body = prefix + payload[:header_length], payload[header_length:]
        ticket = self.lanes[context].offer(pipe, header, body, serial)
        self.log.append(("deliver", context, pipe, header, body, serial, ticket))
        return ticket

    def revoke(self, context: int, ticket: int) -> bool:
        done = self.lanes[context].revoke(ticket)
        self.log.append(("revoke", context, ticket, done))
        return done

    def waits(self, context: int, ticket: int) -> bool:
        return self.lanes[context].untaken(ticket)

    def displace(self, context: int) -> bool:
        lane = self.lanes[context]
        done = bool(lane.waiting) and lane.revoke(lane.waiting[0].ticket)
        self.log.append(("displace", context, done))
        return done

    def untaken(self, context: int, most: int) -> list[tuple[int, bytes]]:
        return [(each.ticket, (each.header + each.body)[:most]) for each in self.lanes[context].waiting]

    def fail(self, context: int, serial: int, error: str) -> None:
        self.log.append(("fail", context, serial, error))
        self.lanes[context].force(serial, error)

    def resume(self, pipe: int) -> None:
        self.log.append(("resume", pipe))
        called = self._pipe(pipe)
        assert called.paused, f"{called!r} is resumed, but nothing of it was refused"
        called.paused = False
        if self.prompt:
            self._read_on(called)
        else:
            self._called.append(called)

    def close_pipe(self, pipe: int, cause: str) -> None:
        self.log.append(("close_pipe", pipe, cause))
        assert cause in CAUSES, f"{cause!r} is no declared cause"
        closed = self._pipe(pipe)
        closed.closed_for = cause
        if self.defer_close:
            return
        if self.prompt:
            self._remove(closed)
        else:
            self._closing.append(closed)

    def taken(self, pipe: int) -> int:
        return self._pipe(pipe).taken

    def starved(self, context: int) -> bool:
        return context in self.hungry

    def count(self, cause: str, pipe: int = 0, n: int = 1) -> None:
        self.log.append(("count", cause, pipe, n))
        assert cause in CAUSES, f"{cause!r} is no declared cause"
        assert n > 0, f"{n} drops for {cause}"
        self.counts[cause] += n
        self.pipe_counts[pipe, cause] += n

    def set_ready(self, n: int) -> None:
        self.log.append(("set_ready", n))
        assert 0 <= n <= len(self.pipes), f"{n} of {len(self.pipes)} pipes are said to be ready"
        self.ready = n

    def set_window(self, context: int, n: int) -> None:
        self.log.append(("set_window", context, n))
        assert n >= 0
        self.lanes[context].window = n

    def report(self, cause: str, handler: str, call: bytes, seconds: float, text: str) -> None:
        self.log.append(("report", cause, handler, call, seconds, text))

    def cancel(self, context: int, serial: int) -> None:
        self.log.append(("cancel", context, serial))
        assert context in self.lanes, f"context {context} is told to stop, but is not open"

    def kill(self, context: int, reason: str) -> None:
        self.log.append(("kill", context, reason))
        assert context in self.lanes, f"context {context} is killed, but is not open"
        self.killed.append((context, reason))

    # --- inside

    def _begin(self) -> None:
        self.machine.now = self.clock.now

    def _end(self) -> None:
        """What a driver does after an event."""
        while self._congested or self._closing:
            for pipe in self._take(self._congested):
                self._tell_congested(pipe)
            for pipe in self._take(self._closing):
                self._remove(pipe)

    def _take(self, pipes: list[FakePipe]) -> list[FakePipe]:
        taken = [pipe for pipe in pipes if pipe.attached]
        pipes.clear()
        return taken

    def _pipe(self, number: int) -> FakePipe:
        assert number in self.pipes, f"the machine uses pipe {number}, which is gone"
        return self.pipes[number]

    def _write(self, number: int, frame: bytes) -> None:
        pipe = self._pipe(number)
        assert not pipe.congested, f"{frame!r} is sent to {pipe!r}"
        self.log.append(("transmit", number, frame))
        if pipe.breaks:
            if self.prompt:
                self._remove(pipe)
            else:
                self._closing.append(pipe)
            return
        pipe.sent.append(frame)
        if pipe.room is not None:
            pipe.room -= 1
            if pipe.room == 0 and self.prompt:
                self._tell_congested(pipe)
            elif pipe.room == 0:
                self._congested.append(pipe)

    def _tell_congested(self, pipe: FakePipe) -> None:
        pipe.congested = True
        self.machine.pipe_congested(pipe.id)

    def _read(self, pipe: FakePipe) -> None:
        while pipe.unread and pipe.attached and not pipe.paused and pipe not in self._called:
            taken = self.machine.pipe_message(pipe.id, pipe.unread[0])
            if pipe.attached and not taken:
                pipe.paused = True
            elif pipe.attached:
                pipe.unread.popleft()
            elif taken:
                del pipe.never_read[0]  # the pipe went while its message was dealt with
            if not taken:
                return

    def _read_on(self, pipe: FakePipe) -> None:
        if pipe.attached:
            self._read(pipe)

    def _remove(self, pipe: FakePipe) -> None:
        if pipe.attached:
            pipe.attached = False
            pipe.never_read = list(pipe.unread)
            pipe.unread.clear()
            del self.pipes[pipe.id]
            self.machine.pipe_removed(pipe.id)
            pipe.flush()
