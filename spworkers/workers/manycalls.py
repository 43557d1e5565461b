"""The calls of one `Client.map` that are on their way: sent some at a time, and given out oldest first.

    items ─▶ fill: as many as may be on their way ─▶ the line ─▶ next: the oldest, once its answer is here

What is done before its turn stays here, and a place is free for one more as soon as an answer has come. So the calls
of a burst of answers are followed by a burst of calls, which costs a wake-up and a packet for all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from spworkers.errors import CanceledError, SPError
from spworkers.waiting import FOREVER, let_go
from spworkers.workers.callformat import Part, decode_answer
from spworkers.workers.callwaiting import ThreadWaiting
from spworkers.workers.quickcalls import Opened, Unanswered
from spworkers.workers.slots import NoPlace

if TYPE_CHECKING:
    from spworkers.waiting import ThreadSleeper
    from spworkers.workers.answer import Reply
    from spworkers.workers.callline import CallLine
    from spworkers.workers.quickcalls import QuickCalls
    from spworkers.workers.slots import Slots

__all__ = ["END", "Asker", "ManyCalls"]

END: Final = object()
"""There are no more results."""
LATE: Final = 4
"""Results that wait for an earlier one, in windows, at most."""


class ManyWaiting(ThreadWaiting):
    """One call of many."""

    __slots__ = ("deadline", "many", "size")

    def __init__(self, sleeper: ThreadSleeper, many: ManyCalls) -> None:
        super().__init__(0, sleeper)
        self.many: Final = many
        self.deadline = FOREVER
        self.size = 0

    def end(self, reply: Reply | None, error: Exception | None) -> None:
        first = not self.over
        self.reply, self.error, self.over = reply, error, True  # as `Waiting.end` has it
        if first:
            self.many.came()
        if get_ident() != self.thread:
            self.sleeper.ring()


class Closed(Exception):
    """The map was closed. (Of the library's errors the making is interpreted: a signal's handler may run in there.)"""


class Asker:
    """Whoever wants the results of many calls holds this; with its end they are given up.

    Compiled, so that no signal's handler runs inside `__del__`, where what it raises would be lost.
    """

    def __init__(self, many: ManyCalls) -> None:
        self._many: ManyCalls | None = many

    def __del__(self) -> None:
        many = self._many
        if many is not None:
            try:
                many.give_up()
            except Exception:  # compiled memory would be freed twice
                return


class ManyCalls:
    """The calls of one map.

    Args:
        quick: makes the calls.
        line: by which they go.
        slots: for the client's calls in flight.
        name: the handler's.
        items: the arguments of each call.
        patience: seconds that each call may take.
        window: calls on their way at most.

    Attributes:
        problem: what the iteration over the items has raised; it comes after the results of what was sent before.
    """

    def __init__(
        self,
        quick: QuickCalls,
        line: CallLine,
        slots: Slots,
        name: str,
        items: Iterator[tuple[Any, ...]],
        patience: float,
        window: int,
    ) -> None:
        self._quick: Final = quick
        self._line: Final = line
        self._slots: Final = slots
        self._name: Final = name
        self._items: Iterator[tuple[Any, ...]] | None = items
        self.patience: Final = patience
        self._window: Final = window
        self._most: Final = LATE * window
        self._next: tuple[Any, ...] | None = None  # an item that was asked for, and not sent yet
        self._over = False
        self._calls: deque[ManyWaiting] = deque()
        self._away = 0  # of them, those without an answer
        self.problem: Exception | None = None
        self._sleeper: ThreadSleeper = line.port.sleepers.mine()

    @property
    def away(self) -> int:
        """Calls that were sent and have no answer yet."""
        return self._away

    def came(self) -> None:
        """A call is over; whoever has read its answer says so."""
        self._away -= 1
        self._slots.give()

    def fill(self) -> None:
        """Send as many as may be on their way. What goes wrong with one of them is told when it is its turn."""
        while self._away < self._window and len(self._calls) < self._most and not self._quick.closed:
            if self._next is None and not (self._slots.free and self._ask()):
                return
            if not self._slots.take():
                return
            self._send_next()

    def _ask(self) -> bool:
        """Ask for the next item. It may call the client itself, and so is asked for without a place. False: it was the
        last one."""
        items = self._items  # held, as another thread may close the map meanwhile
        if items is None:
            return False
        args: tuple[Any, ...] | None = None
        try:
            args = next(items, None)
        except Exception as error:
            self.problem = error
        finally:
            if args is None:
                self._items = None
        self._next = args
        return args is not None

    def _send_next(self) -> None:
        """Send a call of the item that was asked for; there is a place for it."""
        args, self._next = self._next, None
        if args is None or self._over:
            self._slots.give()
            return
        self._send(args)
        if self._over:  # in this moment
            self.give_up()

    def _send(self, args: tuple[Any, ...]) -> None:
        """Send one call; its slot goes with it."""
        payload = b""
        waiting = ManyWaiting(self._sleeper, self)
        self._calls.append(waiting)
        self._away += 1
        try:
            waiting.call_id, waiting.deadline, payload = self._quick.begin(self._name, args, {}, self.patience)
            waiting.size = len(payload)
            self._line.send(waiting, payload, 0, waiting.deadline)
        except Exception as error:
            waiting.end(None, error)

    def next(self) -> Any:
        """The next result; an `Opened` of a generator handler; END: there are no more.

        Raises:
            NoPlace, Unanswered, and what the answer is: as `QuickCalls.call`.
        """
        sleeper = self._line.port.sleepers.mine()
        if sleeper is not self._sleeper:
            self._move(sleeper)
        calls = self._calls
        if not calls or not calls[0].over or self._away * 4 <= self._window * 3:
            self.fill()
            if not calls and not self._wait_for_slot():
                return END
        waiting = calls[0]
        if not waiting.over:
            self._line.await_answer(waiting, waiting.deadline)
        if calls and calls[0] is waiting:  # else it was closed meanwhile
            calls.popleft()
        reply = waiting.reply
        if reply is None:
            error = waiting.error
            assert error is not None
            if isinstance(error, Closed):
                error = CanceledError("the map was closed")
            if isinstance(error, SPError):
                raise Unanswered(error, waiting.size) from error
            raise error
        value = decode_answer(reply.body, self._name, waiting.call_id)
        return Opened(waiting.call_id, value, reply.pipe) if isinstance(value, Part) else value

    def _wait_for_slot(self) -> bool:
        """Send at least one, when other calls of the client leave a place for it. False: there are no more."""
        deadline = FOREVER if self.patience == FOREVER else monotonic() + self.patience
        while not self._calls:
            if self._next is None and not self._ask():
                return False
            if self._quick.closed or not self._line.take_place(deadline):
                raise NoPlace
            self._send_next()
            if self._over:
                return False
        return True

    def _move(self, sleeper: ThreadSleeper) -> None:
        """Another thread asks from now on. A call that was over before needs no bell, the others have the new one."""
        self._sleeper = sleeper
        for waiting in self._calls:
            waiting.sleeper, waiting.thread = sleeper, sleeper.thread

    def give_up(self) -> None:
        """Nobody wants the rest."""
        self._over = True
        self._next = None
        former, self._items = self._items, None
        let_go(former)  # with it ends the generator that they come of, perhaps
        calls = self._calls
        while calls:
            waiting = calls.pop()
            waiting.unwanted = True
            try:
                self._line.refuse(waiting)
                self._line.withdraw(waiting)
            finally:
                if not waiting.over:  # a reader that has its answer in this moment may say so too
                    waiting.end(None, Closed())
