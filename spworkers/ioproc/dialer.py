"""A dialer: keeps one pipe to an address.

    state      | event: what happens -> next state
    -----------+------------------------------------------------------------------------------------------------
    IDLE       | dial: connect and shake hands -> DIALING
    DIALING    | success: offer the link to the hub -> ATTACHING
               | failure, the first one of a synchronous dial: dial raises, all is as before -> IDLE
               | any other failure: wait; the next wait is longer -> WAITING
    ATTACHING  | accepted: the wait is reset -> ATTACHED; refused: wait -> WAITING
    ATTACHED   | the pipe closed: wait, at least once, for a peer that closes at once would keep us busy -> WAITING
    WAITING    | the time is up: connect again -> DIALING
    any        | close -> CLOSED

The waits, as in mangos: the first one is RECONNECT-TIME. With MAX-RECONNECT-TIME, every failed attempt multiplies the
next one by a random 1.1 to 1.5, up to that maximum; without, they all are RECONNECT-TIME. A successful attach resets.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable
from typing import Protocol

from spworkers.chance import between
from spworkers.errors import AddrInUseError, ClosedError, ConnTimeoutError, SPError
from spworkers.ioproc.offering import Count, Verdict, as_ours, not_counted, offer
from spworkers.transport.base import Link, Options, Transport, flag, seconds
from spworkers.transport.handshake import TIMEOUT, Handshake, cause_of, shake
from spworkers.transport.registry import transport_for
from spworkers.transport.waiting import Limit

_log = logging.getLogger(__name__)

RECONNECT_TIME = 0.1
"""Seconds: the default of RECONNECT-TIME, as in mangos and nanomsg."""

SHORTEST_WAIT = 0.001
"""Seconds. RECONNECT-TIME 0 means "at once"; without this floor it would mean "as fast as the loop can spin"."""

_GROWTH = (1.1, 1.5)


class State(enum.Enum):
    """Where a dialer is; the table above says how it gets there."""

    IDLE = "idle"
    DIALING = "dialing"
    ATTACHING = "attaching"
    ATTACHED = "attached"
    WAITING = "waiting"
    CLOSED = "closed"


class Timer(Protocol):
    """What a clock gives for a callback that is still to come."""

    def cancel(self) -> None:
        """It shall not come."""


Clock = Callable[[float, Callable[[], None]], Timer]
"""Calls back after so many seconds: `loop.call_later`, or a test's virtual one."""

Jitter = Callable[[float, float], float]
"""A random number between two."""


class DialerDriver:
    """Dials, shakes hands, offers the link to the hub, and does it again when the pipe is gone.

    Args:
        key: the dialer's number on the control channel.
        address: where to dial.
        options: live values by name. RECONNECT-TIME, MAX-RECONNECT-TIME, DIAL-ASYNCH and HANDSHAKE-TIMEOUT are read
            here, the others by the transport; each when it is needed.
        own: the number of the socket's protocol.
        peer: the number of its peer's.
        on_link: offered every link after its handshake; see `Verdict`.
        loop: the I/O process's loop; every method is called on it.
        count: told the cause of every failed attempt: one of `handshake.CAUSES`, or `dial_failed`.
        transport: default: the one of the address's scheme.
        clock: times the waits between attempts; default: the loop.
        jitter: default: `chance.between`.

    Raises:
        BadTranError, BadAddrError: the address is wrong.
    """

    def __init__(
        self,
        key: int,
        address: str,
        options: Options,
        *,
        own: int,
        peer: int,
        on_link: Callable[[Link, DialerDriver], Verdict],
        loop: asyncio.AbstractEventLoop,
        count: Count = not_counted,
        transport: Transport | None = None,
        clock: Clock | None = None,
        jitter: Jitter = between,
    ) -> None:
        self.key = key
        self.transport = transport or transport_for(address)
        self.failure: SPError | None = None
        """Why the last attempt failed; None after a success."""
        self._target = self.transport.parse(address)
        self._options = options
        self._own, self._peer = own, peer
        self._on_link = on_link
        self._loop = loop
        self._count = count
        self._clock: Clock = clock or loop.call_later
        self._jitter = jitter
        self._state = State.IDLE
        self._wait = RECONNECT_TIME
        self._pipe_went = False
        self._timer: Timer | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._first: asyncio.Future[None] | None = None  # what a synchronous dial() waits for

    @property
    def address(self) -> str:
        """The address, as it was given."""
        return self._target.url

    @property
    def options(self) -> Options:
        """The live option values that it was made with."""
        return self._options

    @property
    def state(self) -> State:
        """Where it is."""
        return self._state

    @property
    def pending(self) -> bool:
        """Whether a synchronous `dial` waits for its first pipe."""
        return self._first is not None

    async def dial(self) -> None:
        """Start. With DIAL-ASYNCH it returns at once, and goes on trying until `close`; otherwise it returns when the
        first pipe was attached (or refused by this side: then it is dialled again later, as after any lost pipe).

        Raises:
            AddrInUseError: it was started before.
            ClosedError: it is closed, or was closed meanwhile.
            SPError: the first attempt failed, and DIAL-ASYNCH is not set. Nothing goes on; it may be dialled again.
        """
        if self._state is State.CLOSED:
            raise self._closed_error()
        if self._state is not State.IDLE:
            raise AddrInUseError(f"dial {self.address}: this dialer is active; make another one for another pipe")
        self._reset_wait()
        first = None if flag(self._options, "DIAL-ASYNCH", False) else self._loop.create_future()
        self._first = first
        self._begin()
        if first is None:
            return
        try:
            await first
        except asyncio.CancelledError:
            if self._first is first and self.state is State.DIALING:  # the caller gave up; a pipe that stands stays
                self._first = None
                self._abandon()
                self._state = State.IDLE
            raise

    def pipe_closed(self) -> None:
        """The hub says: the pipe of the link that it accepted is gone. It may come before the verdict has."""
        if self._state is State.ATTACHING:
            self._pipe_went = True
        elif self._state is State.ATTACHED:
            self._begin_later()

    def close(self) -> None:
        """End it: a pending dial, handshake or wait ends at once. The pipe, if there is one, lives on."""
        if self._state is State.CLOSED:
            return
        dialing = self._state is State.DIALING
        self._state = State.CLOSED
        if self._timer is not None:
            self._timer.cancel()
        if dialing:
            self._abandon()
        self._end_first(self._closed_error())

    async def wait_closed(self) -> None:
        """Wait until nothing of it runs any more, after `close`: its sockets are closed then."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _begin(self) -> None:
        self._state = State.DIALING
        self._timer = None
        self._attempt = self._loop.create_task(self._try())
        self._tasks.add(self._attempt)
        self._attempt.add_done_callback(self._tasks.discard)

    def _abandon(self) -> None:
        if self._attempt is not None:
            self._attempt.cancel()

    async def _try(self) -> None:
        try:
            link = await self._connect()
        except Exception as error:
            self._failed(as_ours(error, f"dial {self.address}"))
            return
        self._state = State.ATTACHING
        self._pipe_went = False
        accepted = await offer(link, self, self._on_link)
        if self._state is State.ATTACHING:
            self._attached(accepted)

    async def _connect(self) -> Link:
        """A link after its handshake. HANDSHAKE-TIMEOUT bounds all of it: a silent host may be silent in TCP, too."""
        limit = seconds(self._options, "HANDSHAKE-TIMEOUT", TIMEOUT)
        link: Link | None = None

        def too_late() -> ConnTimeoutError:
            when = f"after {limit:g} s (HANDSHAKE-TIMEOUT)"
            what = (
                f"no connection {when}"
                if link is None
                else f"connected, but no handshake {when}; does the other end speak this transport?"
            )
            return ConnTimeoutError(f"dial {self.address}: {what}")

        try:
            async with Limit(self._loop, limit, too_late):
                link = await self.transport.dial(self._target, self._options)
                await shake(self._loop, link, Handshake(self._own, self._peer), timeout=0)
        except Exception as error:
            self._count("dial_failed" if link is None else cause_of(error))
            raise
        return link

    def _failed(self, error: SPError) -> None:
        if self._state is not State.DIALING:
            return
        self.failure = error
        if self._first is not None:
            self._state = State.IDLE
            self._end_first(error)
            _log.debug("dialer %d: %s; this was the first attempt, and there is no other", self.key, error)
            return
        wait = self._begin_later()
        longest = seconds(self._options, "MAX-RECONNECT-TIME", 0.0)
        if longest > 0:
            self._wait = min(wait * self._jitter(*_GROWTH), longest)
        _log.debug("dialer %d: %s; next attempt in %.3f s", self.key, error, wait)

    def _attached(self, accepted: bool) -> None:
        self.failure = None
        self._state = State.ATTACHED
        if accepted:
            self._reset_wait()
        self._end_first(None)
        if self._pipe_went or not accepted:
            self._begin_later()

    def _end_first(self, error: SPError | None) -> None:
        """Let a synchronous dial() return, or raise."""
        first, self._first = self._first, None
        if first is None or first.done():  # done: its caller was cancelled
            return
        if error is None:
            first.set_result(None)
        else:
            first.set_exception(error)

    def _begin_later(self) -> float:
        self._state = State.WAITING
        if seconds(self._options, "MAX-RECONNECT-TIME", 0.0) <= 0:
            self._reset_wait()  # they are all alike, and the option may have been set since the last one
        wait = max(SHORTEST_WAIT, self._wait)
        self._timer = self._clock(wait, self._begin)
        return wait

    def _reset_wait(self) -> None:
        self._wait = seconds(self._options, "RECONNECT-TIME", RECONNECT_TIME)

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"dial {self.address}: this dialer is closed")

    def __repr__(self) -> str:
        why = f" after {type(self.failure).__name__}" if self.failure is not None else ""
        return f"<DialerDriver {self.key} {self.address}: {self._state.value}{why}>"
