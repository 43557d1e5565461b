"""Sending and receiving: what sockets and contexts have in common.

Each method tries at once, and only when that fails drives the steps that wait (`spworkers.halves`). The async twin of a
blocking method `x` is `ax`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

from spworkers.closing import AsyncClosing
from spworkers.errors import BadValueError, ClosedError, ProtoOpError, TooLongError
from spworkers.halves import RawHalf
from spworkers.inplace import Draft, Lease
from spworkers.message import Message
from spworkers.options import Seconds, timeout_seconds
from spworkers.port import Port
from spworkers.ring import Record
from spworkers.waiting import FOREVER, Deadline, Steps, T, run

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from spworkers.optionvalues import OptionValues
    from spworkers.pipe import Pipe
    from spworkers.protocols import ProtocolInfo

__all__ = ["Messaging"]

_PLAIN: Final = frozenset({bytes, bytearray})
"""Types of bodies that need no closer look."""


def _check_room(verb: str, buffer: Buffer) -> None:
    """Raise what is wrong with a buffer before a message is taken for it."""
    try:
        with memoryview(buffer) as view:
            if view.readonly:
                raise BadValueError(f"{verb} needs a writable buffer, such as a bytearray or a numpy array")
            if not view.c_contiguous:
                raise BadValueError(f"{verb} needs a buffer in one piece: this one has strides")
    except TypeError:
        raise BadValueError(f"{verb} needs a writable buffer, not {type(buffer).__name__}") from None


def _check_sending(body: Any, timeout: Seconds) -> None:
    """Raise what is wrong with a send."""
    if type(body) not in _PLAIN:
        Message(body)
    _check_timeout(timeout)


def _check_timeout(timeout: Seconds) -> None:
    """Raise what is wrong with it, also where there is room and nobody has to wait."""
    if timeout is not None:
        timeout_seconds(timeout, 0.0)


class Messaging(AsyncClosing):
    """The messaging half of a socket or a context.

    Timeouts are seconds or timedelta: None asks the option (RECV-DEADLINE, SEND-DEADLINE), 0 does not wait, math.inf
    waits for ever. Every method raises ClosedError after `close()`, and ProtoOpError where the protocol has no such
    direction; Ctrl-C and cancellation end a wait at once, and lose nothing.
    """

    _port: Port
    _half: RawHalf
    _options: OptionValues
    _protocol: ProtocolInfo
    _raw: bool
    _deadlines: dict[str, float]  # options already looked up; emptied when one is set
    _patience: Deadline | None = None  # of a receive without a timeout, where RECV-DEADLINE is for ever

    def _pipe(self, number: int) -> Pipe | None:
        raise ProtoOpError("no pipes here")  # pragma: no cover - overridden by both

    def _usable(self) -> None:
        """Raise what keeps this handle from being used, in words of its own."""
        self._port.check_open()

    # ---- sending

    def send(self, body: Buffer, timeout: Seconds = None) -> None:
        """Send a message: any contiguous buffer, copied once.

        Raises:
            SendTimeoutError: no room, or no peer took it, within `timeout`.
            ProtoStateError: REP without a request to reply to.
            CanceledError: another thread sent a newer request meanwhile (REQ).
            NoPeersError: nobody is connected and FAIL-NO-PEERS is set.
        """
        if timeout is not None or type(body) not in _PLAIN:
            _check_sending(body, timeout)
        if not self._half.send(body, b""):
            self._run(self._sending(body, b"", timeout))

    def send_msg(self, message: Message, timeout: Seconds = None) -> None:
        """Send a Message; raw sockets send its header too. Raises as `send` does."""
        header = self._header(message)
        _check_timeout(timeout)
        if not self._half.send(message.body, header):
            self._run(self._sending(message.body, header, timeout))

    async def asend(self, body: Buffer, timeout: Seconds = None) -> None:
        """`send` for asyncio and trio; a cancelled one has sent its message whole or not at all."""
        if timeout is not None or type(body) not in _PLAIN:
            _check_sending(body, timeout)
        if not self._half.send(body, b""):
            await self._arun(self._sending(body, b"", timeout))

    async def asend_msg(self, message: Message, timeout: Seconds = None) -> None:
        """`send_msg` for asyncio and trio."""
        header = self._header(message)
        _check_timeout(timeout)
        if not self._half.send(message.body, header):
            await self._arun(self._sending(message.body, header, timeout))

    def reserve(self, size: int, timeout: Seconds = None) -> AbstractContextManager[memoryview]:
        """A writable memoryview of `size` bytes in shared memory, sent at the end of the block without a copy.

        If the block raises, nothing is sent. Raises as `send` does, and BadValueError for what is no size of a message.
        """
        return Draft(self, size, timeout)

    def _sending(self, body: Any, header: bytes, timeout: Seconds) -> Steps[None]:
        self._check_direction("send")
        self._usable()
        deadline = Deadline(timeout_seconds(timeout, self._deadline("SEND-DEADLINE")))
        yield from self._half.send_steps(body, header, deadline)

    def _header(self, message: Message) -> bytes:
        if not isinstance(message, Message):
            raise BadValueError(f"send_msg takes a Message, not {type(message).__name__}; send takes plain bytes")
        if type(message.body) not in _PLAIN:
            Message(message.body)  # it may have been replaced since it was checked
        return bytes(message.header) if self._half.keeps_header else b""

    # ---- receiving

    def recv(self, timeout: Seconds = None) -> bytes:
        """Receive a message's body.

        Raises:
            RecvTimeoutError: none came within `timeout`.
            ProtoStateError: REQ without a request outstanding; a second recv on one REQ or REP context.
            CanceledError: a newer request took the place of the one waited for; or its peer left and RETRY-TIME is 0.
        """
        if timeout is None:
            body = self._half.take_body()
            if body is not None:
                return body
        # `_receive`, written out: two frames fewer on the way of every message.
        deadline = self._patience if timeout is None else None
        if deadline is None:
            deadline = self._until(timeout)
        record = self._half.receive(deadline)
        if record is None:
            record = self._run(self._receiving(timeout, deadline))
        return record.take_body()

    def recv_msg(self, timeout: Seconds = None) -> Message:
        """Receive a Message with its header (raw sockets) and the pipe it came by. Raises as `recv` does."""
        return self._message(self._receive(timeout))

    def recv_into(self, buffer: Buffer, timeout: Seconds = None) -> int:
        """Receive a message's body into a writable buffer; returns its length. Raises as `recv` does.

        Raises:
            TooLongError: it does not fit; the message is lost, as a datagram would be; counted (`buffer_too_small`).
                A `PeerError`, as for a message beyond MAX-RCV-SIZE: how long a message is, is for the peer to say, and
                the next one may fit.
            BadValueError: the buffer cannot be written to in one piece; no message was taken.
        """
        _check_room("recv_into", buffer)
        return self._copied(self._receive(timeout), buffer)

    def recv_view(self, timeout: Seconds = None) -> AbstractContextManager[memoryview]:
        """A read-only memoryview of the next message, without a copy, for the length of the block.

        Several may be held at once, as long as there is memory for what comes next: up to BYTE-BUDGET bytes of messages
        of more than 192 bytes (64 MiB: 64 of 1 MiB each), and 65,536 messages. While that many are held nothing more is
        received; a peer waits then as for a full queue. Raises as `recv` does.
        """
        return Lease(self, timeout)

    async def arecv(self, timeout: Seconds = None) -> bytes:
        """`recv` for asyncio and trio; a cancelled one has taken no message."""
        return (await self._areceive(timeout)).take_body()

    async def arecv_msg(self, timeout: Seconds = None) -> Message:
        """`recv_msg` for asyncio and trio."""
        return self._message(await self._areceive(timeout))

    async def arecv_into(self, buffer: Buffer, timeout: Seconds = None) -> int:
        """`recv_into` for asyncio and trio."""
        _check_room("arecv_into", buffer)
        return self._copied(await self._areceive(timeout), buffer)

    def __iter__(self) -> Iterator[bytes]:
        """Messages until the socket is closed."""
        while True:
            try:
                yield self.recv()
            except ClosedError:
                return

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            try:
                yield await self.arecv()
            except ClosedError:
                return

    def fileno(self) -> int:
        """A descriptor that is readable exactly when `recv(timeout=0)` would not time out, for select and poll."""
        self._check_direction("recv")
        self._usable()
        self._half.watch()
        return self._port.rx.bell

    def _receive(self, timeout: Seconds) -> Record:
        deadline = self._until(timeout)
        record = self._half.receive(deadline)
        return record if record is not None else self._run(self._receiving(timeout, deadline))

    def _until(self, timeout: Seconds) -> Deadline:
        """When a receive that begins now is over."""
        if timeout is None:
            until = self._patience
            if until is None:
                until = Deadline(timeout_seconds(None, self._deadline("RECV-DEADLINE")))
                if until.at == FOREVER:
                    self._patience = until
            return until
        return Deadline(timeout_seconds(timeout))

    async def _areceive(self, timeout: Seconds) -> Record:
        record = self._half.peek()
        return record if record is not None else await self._arun(self._receiving(timeout))

    def _receiving(self, timeout: Seconds, deadline: Deadline | None = None) -> Steps[Record]:
        self._check_direction("recv")
        self._usable()
        return (yield from self._half.recv_steps(deadline or self._until(timeout)))

    def _copied(self, record: Record, buffer: Buffer) -> int:
        """The length of a body, which is in the buffer now."""
        try:
            return record.copy_into(buffer)
        except TooLongError:
            self._port.drop("buffer_too_small")
            raise
        finally:
            record.release()

    def _message(self, record: Record) -> Message:
        message = Message.__new__(Message)  # what came from the ring needs no checks
        message.pipe = self._pipe(record.pipe)
        message.header = record.header if self._half.keeps_header else b""
        message.body = record.take_body()
        return message

    # ---- both

    def _deadline(self, name: str) -> float:
        """An option that bounds a wait; 0 (for ever) where the protocol does not have it."""
        known = self._deadlines.get(name)
        if known is None:
            known = float(self._options.get(name)) if name in self._options.readable() else 0.0
            self._deadlines[name] = known
        return known

    def _forget_deadlines(self) -> None:
        """An option was set."""
        self._deadlines.clear()
        self._patience = None

    def _check_direction(self, verb: str) -> None:
        can = self._protocol.sends if verb == "send" else self._protocol.receives
        if not can:
            raise ProtoOpError(f"{self._protocol.name} sockets cannot {verb}")

    def _run(self, steps: Steps[T]) -> T:
        port = self._port
        try:
            return run(steps, port.sleepers)
        finally:
            if port.closed:
                port.left()

    async def _arun(self, steps: Steps[T]) -> T:
        from spworkers.tasks import arun

        port = self._port
        try:
            return await arun(steps, port.sleepers)
        finally:
            if port.closed:
                port.left()
