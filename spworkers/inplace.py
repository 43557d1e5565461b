"""Messages where they lie: what `reserve` and `recv_view` give to a `with`.

Classes, and no generators in contextlib's coat: who sends megabytes without a copy pays for little else than these
steps, and takes them with a cache that the copies of other processes have just emptied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spworkers.errors import BadValueError, ProtoStateError
from spworkers.options import timeout_seconds
from spworkers.ring import MOST_BYTES, Reservation
from spworkers.waiting import Deadline, Steps

if TYPE_CHECKING:
    from spworkers.messaging import Messaging

__all__ = ["Draft", "Lease"]


class Draft:
    """A message that is written where it will be sent from; sent at the end of the block, unless that raises.

    Args:
        handle: the socket or context that sends it.
        size: bytes of its body.
        timeout: of the wait for room, as everywhere.
    """

    def __init__(self, handle: Messaging, size: Any, timeout: Any) -> None:
        self._handle = handle
        self._size = size
        self._timeout = timeout
        self._view: memoryview | None = None
        self._reservation: Reservation | None = None  # None: the protocol copies when it sends
        self._buffer = bytearray()  # what it copies then

    def __enter__(self) -> memoryview:
        size = self._size
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise BadValueError(f"reserve takes a number of bytes, 0 or more, not {size!r}")
        if size > MOST_BYTES:
            raise BadValueError(
                f"reserve({size}) is more than the {MOST_BYTES} bytes of the longest message: send it in parts"
            )
        if self._view is not None:
            raise ProtoStateError("this block was entered already: each message needs a reserve() of its own")
        handle = self._handle
        half = handle._half
        port = half.port
        direct = half.reservable()
        if not direct or port.closed or port.lent:
            handle._check_direction("send")
            handle._usable()
        if not direct:
            self._buffer = bytearray(size)
            self._view = memoryview(self._buffer)
            return self._view
        reservation = half.tx.reserve(size)
        if reservation is None:
            reservation = handle._run(self._reserving(size))
        self._reservation = reservation
        self._view = memoryview(reservation)
        return self._view

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        view, reservation = self._view, self._reservation
        assert view is not None
        if reservation is None:
            view.release()
            if kind is None:
                self._handle.send(self._buffer, self._timeout)
            return
        try:
            view.release()
        except BaseException:
            reservation.abort()
            raise
        if kind is not None:
            reservation.abort()
            return
        self._handle._half.port.check_open()
        reservation.commit()

    def _reserving(self, size: int) -> Steps[Reservation]:
        handle = self._handle
        handle._usable()
        port = handle._half.port
        deadline = Deadline(timeout_seconds(self._timeout, handle._deadline("SEND-DEADLINE")))
        while True:
            reservation = port.tx.reserve(size)
            if reservation is not None:
                return reservation
            handle._usable()
            yield from port.await_room(size, deadline, force=False)


class Lease:
    """A message that is read where it was received, for the length of the block.

    Args:
        handle: the socket or context that receives it.
        timeout: of the wait for it, as everywhere.
    """

    def __init__(self, handle: Messaging, timeout: Any) -> None:
        self._handle = handle
        self._timeout = timeout
        self._view: memoryview | None = None

    def __enter__(self) -> memoryview:
        if self._view is not None:
            raise ProtoStateError("this block was entered already: each message needs a recv_view() of its own")
        record = self._handle._receive(self._timeout)
        view = self._view = record.view()
        record.release()  # the view has it from here on
        return view

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        assert self._view is not None
        self._view.release()
