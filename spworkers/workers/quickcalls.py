"""`Client.call` from its arguments to its result, in one compiled step; `Client.acall` in two, around its `await`."""

from __future__ import annotations

from asyncio.events import AbstractEventLoop, _get_running_loop
from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from spworkers.errors import SPError
from spworkers.waiting import FOREVER, let_go
from spworkers.workers.callformat import (
    CALL_HEAD,
    Part,
    content_of_call,
    decode_answer,
    encode_call,
    is_part,
    patience_on_wire,
)
from spworkers.workers.callwaiting import left_until
from spworkers.workers.packing import decode
from spworkers.workers.slots import NoPlace

if TYPE_CHECKING:
    from spworkers.workers.callline import CallLine
    from spworkers.workers.callwaiting import TaskWaiting
    from spworkers.workers.slots import Places, Slots

__all__ = ["Opened", "QuickCalls", "Unanswered"]

_ID_BITS: Final = 0xFFFF_FFFF_FFFF_FFFF


class Unanswered(Exception):
    """A request of `size` bytes has got no answer, for `error`."""

    def __init__(self, error: Exception, size: int) -> None:
        super().__init__(error)
        self.error: Final = error
        self.size: Final = size


class Opened:
    """A stream that begins: its first part is the answer."""

    def __init__(self, call_id: int, part: Part, pipe: int) -> None:
        self.call_id: Final = call_id
        self.part: Final = part
        self.pipe: Final = pipe


class QuickCalls:
    """The calls of one client by `call` and `acall`.

    It knows nothing of the client, whose words the errors are to have: a client that nobody holds any more is to go.

    Args:
        ids: of the calls, in more bits than they have.
        slots: for those in flight.
        line: by which they go.
        patience: of a call that does not say itself, in seconds.
        plain: results are what they are as values; False: of some the type is known.

    Attributes:
        closed: the client is.
        places: the loop of asyncio that asked last, and its places; who has them found puts them here.
    """

    def __init__(self, ids: Iterator[int], slots: Slots, line: CallLine, patience: float, plain: bool) -> None:
        self.closed = False
        self.patience: Final = patience
        self.plain: Final = plain
        self.places: tuple[AbstractEventLoop | None, Places | None] = None, None
        self._ids: Final = ids
        self._slots: Final = slots
        self._line: Final = line

    def in_loop(self, loop: AbstractEventLoop | None, places: Places) -> None:
        """These are the places of the tasks of that loop, in which we are."""
        former, self.places = self.places, (loop, places)
        let_go(former)

    def _number(self, patience: float) -> tuple[int, float]:
        """A call's id, and the moment (of `time.monotonic`) at which its `patience` in seconds is over."""
        deadline = FOREVER if patience == FOREVER else monotonic() + patience
        return next(self._ids) & _ID_BITS, deadline

    def begin(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], patience: float
    ) -> tuple[int, float, bytes]:
        """A call's id, the moment (of `time.monotonic`) at which its `patience` in seconds is over, and its bytes.

        Raises:
            SerializationError: an argument cannot be sent.
        """
        call_id, deadline = self._number(patience)
        return call_id, deadline, encode_call(call_id, name, args, kwargs, patience)

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], patience: float) -> Any:
        """The result; an `Opened` of a generator handler.

        Args:
            patience: seconds to wait.

        Raises:
            NoPlace: see there.
            Unanswered: for whatever the line says.
            SerializationError, and what the answer is: as of `callformat`.
        """
        call_id, deadline = self._number(patience)
        content = content_of_call(name, args, kwargs)
        if self.closed or not self._line.take_place(deadline):
            raise NoPlace
        try:
            answer = self._line.ask(call_id, patience_on_wire(patience), content, deadline)
        finally:
            self._slots.give()
        if isinstance(answer, bytes):
            return decode(answer)
        if isinstance(answer, Exception):
            raise Unanswered(answer, CALL_HEAD + len(content)) from answer
        try:
            value = decode_answer(answer.body, name, call_id)
        except BaseException:  # Ctrl-C: some of that is interpreted, and nobody else knows of the stream yet
            if is_part(answer.body) and not self._line.port.closed:
                self._line.give_up_stream(call_id, answer.pipe)
            raise
        return Opened(call_id, value, answer.pipe) if isinstance(value, Part) else value

    # --- tasks of asyncio

    def begin_task(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], patience: float
    ) -> TaskWaiting | None:
        """Send a call whose answer the task is about to await; then `end_task` is due, whatever happens.

        Returns:
            None: there is more to it, a place to be waited for or an error. Nothing has happened, begin anew.

        Raises:
            SerializationError: an argument cannot be sent.
        """
        loop, places = self.places
        if self.closed or loop is None or places is None or loop is not _get_running_loop():
            return None
        if type(name) is not str or not name:
            return None
        call_id, deadline, payload = self.begin(name, args, kwargs, patience)
        if not places.take():
            return None
        line = self._line
        waiting = line.begin_task(loop, call_id)
        waiting.places = places
        waiting.size = len(payload)
        sent = False
        try:
            if deadline != FOREVER:
                waiting.timer = loop.call_later(left_until(deadline), waiting.wake)
            sent = line.publish(waiting, payload, 0)
        except SPError:
            return None
        finally:
            if not sent:
                self.end_task(waiting)
        return waiting if sent else None

    def end_task(self, waiting: TaskWaiting) -> None:
        """It does not wait any more: if that is for another reason than an answer, the call is given up."""
        if not waiting.over:
            self._line.withdraw(waiting)
        waiting.reader.waiting -= 1
        if waiting.timer is not None:
            waiting.timer.cancel()
        if waiting.places is not None:
            waiting.places.give()
