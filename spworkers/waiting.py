"""Waiting on a doorbell, from a thread or from a task of asyncio or trio, by one description of what is waited for.

What may have to wait is written once, as a generator of `Wait`s (*steps*): it tries, arms the bell, yields a Wait, and
tries again when it is resumed with True; False means that the time is over. `run` drives it in a thread,
`spworkers.tasks.arun` in a task. Whatever ends a wait early (Ctrl-C, a cancelled task) is thrown into the generator,
whose `finally` blocks put things right; so nothing is lost and nothing leaks.

A bell may have several sleepers that wait for different things (two senders, each for its own hand-off). The first to
wake arms it again, which silences it before the others have looked: so whoever silenced a ring rings the other sleepers
one by one (`Sleepers.pass_on`); `tests/model/waiters.pml` shows that it is needed and that it suffices.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from spworkers.lookaround import FOUND, LOOK, LookAround
from spworkers.ring import drop_bell, hush_bell, make_bell, ring_bell, wait_readable

if TYPE_CHECKING:
    from spworkers.port import Port

T = TypeVar("T")

FOREVER: Final = float("inf")

OTHER: Final = 2
HUSHED: Final = 4
"""What `Receiver.wait` says."""

__all__ = ["Deadline", "Sleepers", "Steps", "Wait", "doze", "let_go", "run"]


def let_go(former: object) -> None:
    """Hold what an attribute had until here, when it has something else.

    Compiled, an attribute lets go of the former value before it has the new one. If that was the last reference, its
    end may let other threads run, and they find in the attribute what is half gone.
    """


class Side(Protocol):
    """An end of a lane, with the bell that it waits on."""

    @property
    def bell(self) -> int:
        """Readable while there is something."""

    hushed: bool


class Wait:
    """Wait until the side's bell is readable, at most `seconds` (infinity: for ever)."""

    __slots__ = ("seconds", "side")

    def __init__(self, side: Side, seconds: float) -> None:
        self.side = side
        self.seconds = seconds


Steps = Generator[Wait, bool, T]


class Deadline:
    """A moment `seconds` from now."""

    __slots__ = ("_seconds", "at")

    def __init__(self, seconds: float) -> None:
        self._seconds: Final[float] = seconds
        self.at: Final[float] = FOREVER if seconds == FOREVER else time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until then, never less than 0."""
        if self.at == FOREVER:
            return FOREVER
        return max(self.at - time.monotonic(), 0.0)

    def __str__(self) -> str:
        return f"within {self._seconds:g} s" if self._seconds else "at once"


class Sleeper(Protocol):
    """A thread or task inside a wait."""

    asleep: bool
    """It has tried in vain and waits for a bell now."""

    def ring(self) -> None:
        """Have it look again. Any thread may call it."""


class Sleepers:
    """Who waits, or is about to wait, on the bells of one context. A sleeper is in here before it arms."""

    __slots__ = ("_last", "_last_thread", "inside")

    def __init__(self) -> None:
        self.inside: list[Sleeper] = []
        self._last: ThreadSleeper | None = None
        self._last_thread = 0

    def mine(self) -> ThreadSleeper:
        """This thread's sleeper. Nearly always it is the one that slept here last."""
        thread = get_ident()
        sleeper = self._last
        if sleeper is None or thread != self._last_thread:
            former, sleeper = sleeper, _thread_sleeper()
            self._last = None  # for who looks between these lines
            self._last_thread = thread
            self._last = sleeper
            let_go(former)
        return sleeper

    @property
    def asleep(self) -> int:
        """How many wait for a bell at this moment."""
        return sum(sleeper.asleep for sleeper in tuple(self.inside))

    def pass_on(self, side: Side, but: Sleeper) -> None:
        """If arming silenced a ring, everybody else looks again."""
        if side.hushed:
            side.hushed = False
            for sleeper in self.inside:
                if sleeper is not but:
                    sleeper.ring()


def doze(port: Port, seconds: float, me: ThreadSleeper, around: LookAround | None = None) -> None:
    """Sleep until a message may be there, `seconds` have passed, or somebody wants us to look, in one compiled call.

    For threads that take whatever comes; what it has found out the caller sees when it looks.

    Args:
        me: this thread's sleeper, as `port.sleepers.mine()` has it.
        around: look around before that, if it pays.
    """
    looking = LOOK if around is not None and seconds > LOOK and around.pays() else 0.0
    sleepers = port.sleepers
    inside = sleepers.inside
    inside.append(me)
    me.asleep = True
    try:
        # The bell stays open for who is inside; who came after the close must not touch it any more.
        if not (port.closed or port.lent):
            woken = port.rx.wait(seconds, me.own, len(inside) == 1, looking)
            if looking and around is not None:
                around.tell(woken & FOUND != 0)
            if woken & OTHER:
                hush_bell(me.own)
            if woken & HUSHED:
                if len(inside) > 1:
                    sleepers.pass_on(port.rx, me)
                else:
                    port.rx.hushed = False
    finally:
        me.asleep = False
        inside.remove(me)
        if port.closed:
            port.left()


def run(steps: Steps[T], sleepers: Sleepers) -> T:
    """Drive steps in this thread."""
    answer: Any = None
    me = _thread_sleeper()
    sleepers.inside.append(me)
    try:
        while True:
            wait = steps.send(answer)
            sleepers.pass_on(wait.side, me)
            try:
                answer = wait.seconds > 0 and me.sleep(wait)
            except BaseException as interrupt:
                steps.throw(interrupt)
                raise
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        sleepers.inside.remove(me)


# ---- threads: a bell of one's own beside the shared one


class ThreadSleeper:
    """A thread; it has one bell of its own for its whole life."""

    def __init__(self) -> None:
        self.own = -1  # for `__del__`, should there be no bell, or Ctrl-C in the middle
        self.asleep = False
        self.thread: Final = get_ident()
        self.own = make_bell()

    def ring(self) -> None:
        ring_bell(self.own)

    def sleep(self, wait: Wait) -> bool:
        """False: the time is over."""
        self.asleep = True
        try:
            woken = wait_readable(wait.side.bell, wait.seconds, self.own)
        finally:
            self.asleep = False
        if woken == 2:
            hush_bell(self.own)
        return woken != 0

    def rest(self, seconds: float) -> None:
        """Wait for nothing but the own bell."""
        if wait_readable(self.own, seconds):
            hush_bell(self.own)

    def __del__(self) -> None:
        # Nothing that raises, or lets another thread run: whose attribute this was may hold it until we return.
        if self.own >= 0:
            drop_bell(self.own)


_own = threading.local()  # no subclass of it: compiled, that would have the same attributes in all threads


def _thread_sleeper() -> ThreadSleeper:
    """This thread's sleeper. A signal's handler that waits inside a wait shares it: then the outer one looks again."""
    sleeper: ThreadSleeper | None = getattr(_own, "sleeper", None)
    if sleeper is None:
        sleeper = _own.sleeper = ThreadSleeper()
    return sleeper


def _forget_in_child() -> None:
    """A forked child's only thread has its parent's bell, which the two would ring for each other."""
    _own.sleeper = None


os.register_at_fork(after_in_child=_forget_in_child)
