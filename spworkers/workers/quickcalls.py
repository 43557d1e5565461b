"""`Client.call` from its arguments to its result, in one compiled step."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from spworkers.errors import SPError
from spworkers.waiting import FOREVER
from spworkers.workers.callformat import Part, decode_answer, encode_call
from spworkers.workers.callwaiting import left_until

if TYPE_CHECKING:
    from spworkers.workers.callline import CallLine
    from spworkers.workers.slots import Slots

__all__ = ["NoPlace", "Opened", "QuickCalls", "Unanswered"]

_ID_BITS: Final = 0xFFFF_FFFF_FFFF_FFFF


class Unanswered(Exception):
    """A request of `size` bytes has got no answer, for `error`."""

    def __init__(self, error: SPError, size: int) -> None:
        super().__init__(error)
        self.error: Final = error
        self.size: Final = size


class NoPlace(Exception):
    """The client is closed, or has as many calls in flight as it may."""


class Opened:
    """A stream that begins: its first part is the answer."""

    def __init__(self, call_id: int, part: Part, pipe: int) -> None:
        self.call_id: Final = call_id
        self.part: Final = part
        self.pipe: Final = pipe


class QuickCalls:
    """The calls of one client by `call`.

    It knows nothing of the client, whose words the errors are to have: a client that nobody holds any more is to go.

    Args:
        ids: of the calls, in more bits than they have.
        slots: for those in flight.
        line: by which they go.
    """

    def __init__(self, ids: Iterator[int], slots: Slots, line: CallLine) -> None:
        self.closed = False
        self._ids: Final = ids
        self._slots: Final = slots
        self._line: Final = line

    def begin(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], patience: float
    ) -> tuple[int, float, bytes]:
        """A call's id, the moment (of `time.monotonic`) at which its `patience` in seconds is over, and its bytes.

        Raises:
            SerializationError: an argument cannot be sent.
        """
        deadline = FOREVER if patience == FOREVER else monotonic() + patience
        call_id = next(self._ids) & _ID_BITS
        return call_id, deadline, encode_call(call_id, name, args, kwargs, patience)

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], patience: float) -> Any:
        """The result; an `Opened` of a generator handler.

        Args:
            patience: seconds to wait.

        Raises:
            NoPlace: see there.
            Unanswered: for whatever the line raises.
            SerializationError, and what the answer is: as of `callformat`.
        """
        call_id, deadline, payload = self.begin(name, args, kwargs, patience)
        slots = self._slots
        if self.closed or not (slots.take() or slots.wait(left_until(deadline))):
            raise NoPlace
        try:
            reply = self._line.call(payload, deadline, call_id, 0)
        except SPError as error:
            raise Unanswered(error, len(payload)) from error
        finally:
            slots.give()
        value = decode_answer(reply.body, name, call_id)
        return Opened(call_id, value, reply.pipe) if isinstance(value, Part) else value
