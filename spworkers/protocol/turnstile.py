"""Pipes whose message found no room, in the order in which they came.

A socket's receivers take from all of its pipes in turn: a pipe that found no room waits, one refused message each, and
when there is room again the pipes are called one by one, first come first served. Newcomers stand behind those who
wait, also the pipe that was just served; so a busy peer cannot starve the others.

The driver may offer a called pipe's message at once, from inside `Actions.resume`, or later. Either way there is at
most one pipe that was called and has not come yet, and everybody else waits for it.
"""

from __future__ import annotations

from typing import Final

from spworkers.protocol.fifo import Fifo, Node
from spworkers.protocol.machine import Actions

__all__ = ["Turn", "Turnstile"]


class Turn(Node):
    """One pipe's place in the queue."""

    def __init__(self, pipe: int) -> None:
        super().__init__()
        self.pipe: Final = pipe


class Turnstile:
    """The queue of refused pipes. For every message a machine asks `admits`, then says `refuse` or `passed`."""

    def __init__(self, out: Actions) -> None:
        self._out = out
        self._waiting: Fifo[Turn] = Fifo()
        self._called: Turn | None = None
        self._calling = False
        self._full = False

    @property
    def idle(self) -> bool:
        """Nobody waits: whoever comes is admitted, and passes without a word."""
        return self._called is None and self._waiting.length == 0

    def admits(self, turn: Turn) -> bool:
        """Whether this pipe's message may be tried now. If not, it stands in the queue: refuse the message."""
        if self._called is None:
            if self._waiting.length == 0:
                return True
        elif self._called is turn:
            return True
        if turn.home is None:
            self._waiting.append(turn)
        return False

    def refuse(self, turn: Turn) -> None:
        """There was no room for its message: it is the first to be called when there is."""
        self._called = None
        self._full = True
        if turn.home is None:
            self._waiting.appendleft(turn)

    def passed(self, turn: Turn) -> None:
        """Its message is dealt with, whether it was taken or dropped: the next one."""
        if self._called is turn:
            self._called = None
            if not self._calling:
                self.advance()

    def advance(self) -> None:
        """There may be room: call those who wait, one after the other, until there is none."""
        if self._calling:
            return
        self._calling = True
        self._full = False
        while not self._full and self._called is None:
            turn = self._waiting.popleft()
            if turn is None:
                break
            self._called = turn
            self._out.resume(turn.pipe)
        self._calling = False

    def forget(self, turn: Turn) -> None:
        """The pipe is gone."""
        if turn.home is not None:
            self._waiting.remove(turn)
        self.passed(turn)

    def __len__(self) -> int:
        return self._waiting.length + (self._called is not None)
