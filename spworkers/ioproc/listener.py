"""A listener: accepts connections, shakes hands with each of them, and offers the links to the hub.

Handshakes run beside the accept loop, so a peer that says nothing holds up nobody. They are bounded in time by
HANDSHAKE-TIMEOUT and in number by MAX-HANDSHAKES, beyond which the oldest one goes: who floods us with silent
connections loses those first. When accepting fails, out of descriptors usually, the loop tries again after a while;
the connections wait in the kernel's backlog meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from spworkers.errors import AddrInUseError, ClosedError, ResourceError, SPError
from spworkers.ioproc.admission import Admission, Crowd
from spworkers.ioproc.offering import Count, Verdict, as_ours, not_counted, offer
from spworkers.transport.asgi import AsgiAcceptor
from spworkers.transport.base import Acceptor, Link, Options, Transport, seconds
from spworkers.transport.handshake import TIMEOUT, Handshake, cause_of, shake
from spworkers.transport.registry import transport_for
from spworkers.transport.waiting import Limit

_log = logging.getLogger(__name__)

FIRST_PAUSE = 0.01
LONGEST_PAUSE = 1.0
"""Seconds between attempts to accept while that fails; doubled from the one to the other."""

_BURST = 64  # connections accepted in a row before the loop's other business gets its turn


class State(enum.Enum):
    """Where a listener is. IDLE -> BINDING -> LISTENING, or back to IDLE when that fails; from anywhere to CLOSED."""

    IDLE = "idle"
    BINDING = "binding"
    LISTENING = "listening"
    CLOSED = "closed"


class ListenerDriver:
    """Listens at one address.

    Args:
        key: the listener's number on the control channel.
        address: where to listen.
        options: live values by name. HANDSHAKE-TIMEOUT and those of `Admission` are read here, the others by the
            transport; each when it is needed.
        own: the number of the socket's protocol.
        peer: the number of its peer's.
        on_link: offered every link after its handshake; see `Verdict`.
        loop: the I/O process's loop; every method is called on it.
        count: told the cause of every failure: one of `handshake.CAUSES`; `handshake_overflow` for a handshake that
            had to go because there were too many; `listener_full` for a connection beyond MAX-PIPES;
            `accept_exhausted` (descriptors, memory) or `accept_failed` once per outage.
        transport: default: the one of the address's scheme.
        sleep: waits between attempts to accept; default: `asyncio.sleep`.

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
        on_link: Callable[[Link, ListenerDriver], Verdict],
        loop: asyncio.AbstractEventLoop,
        count: Count = not_counted,
        transport: Transport | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.key = key
        self.transport = transport or transport_for(address)
        self.failure: SPError | None = None
        """Why accepting fails at present; None while it works."""
        self._target = self.transport.parse(address)
        self._options = options
        self._own, self._peer = own, peer
        self._on_link = on_link
        self._loop = loop
        self._count = count
        self._sleep = sleep
        self._admission = Admission(options, loop.time)
        self._was_full = False
        self._state = State.IDLE
        self._binding: Limit | None = None
        self._acceptor: Acceptor | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._shaking: dict[asyncio.Task[None], Link] = {}  # the oldest one first
        self._tasks: set[asyncio.Task[None]] = set()
        self._crowd = Crowd(loop)

    @property
    def address(self) -> str:
        """The bound address once it listens, and after `close`, too; before, the one that was given."""
        return self._target.url if self._acceptor is None else self._acceptor.address

    @property
    def options(self) -> Options:
        """The live option values that it was made with."""
        return self._options

    @property
    def state(self) -> State:
        """Where it is."""
        return self._state

    @property
    def handshakes(self) -> int:
        """How many handshakes are in progress."""
        return len(self._shaking)

    @property
    def pipes(self) -> int:
        """How many connections are past their handshake."""
        return self._admission.pipes

    def fileno(self) -> int:
        """The listening descriptor, of which the supervisor keeps a duplicate; -1 if there is none."""
        return -1 if self._acceptor is None else self._acceptor.fileno()

    async def listen(self, inherited: int | None = None) -> str:
        """Bind, listen, and begin to accept.

        Args:
            inherited: a predecessor's listening descriptor, which is ours from now on, also when this fails.

        Returns:
            The bound address.

        Raises:
            AddrInUseError: it listens already, or somebody else does.
            ClosedError: it is closed, or was closed meanwhile.
            SPError: the transport cannot listen there. It may be tried again.
        """
        try:
            self._check_idle()
        except SPError:
            if inherited is not None:
                with contextlib.suppress(OSError):
                    os.close(inherited)
            raise
        self._state = State.BINDING
        self._binding = Limit(self._loop, 0, self._closed_error)
        try:
            async with self._binding:
                self._acceptor = await self.transport.listen(self._target, self._options, inherited)
        except SPError:
            raise
        except Exception as error:
            raise as_ours(error, f"listen {self._target}") from error
        finally:
            self._binding = None
            if self._state is State.BINDING:
                self._state = State.IDLE if self._acceptor is None else State.LISTENING
        self._accepting = self._start(self._accept_all(self._acceptor))
        return self._acceptor.address

    def bring(self, descriptor: int, facts: dict[str, Any]) -> None:
        """A connection that somebody else accepted for us.

        Args:
            descriptor: ours from now on, unless this fails.
            facts: what its link is to be made of.

        Raises:
            ClosedError: it does not listen, or its transport takes none.
        """
        if not isinstance(self._acceptor, AsgiAcceptor) or self._state is not State.LISTENING:
            raise self._closed_error()
        self._acceptor.bring(descriptor, facts)

    def close(self, unlink: bool = True) -> None:
        """Accept no more, and close what has not finished its handshake. Pipes live on.

        Args:
            unlink: False: another process goes on with a duplicate of the descriptor; see `Acceptor.close`.
        """
        if self._state is State.CLOSED:
            return
        self._state = State.CLOSED
        if self._binding is not None:
            self._binding.cut()
        if self._accepting is not None:
            self._accepting.cancel()
        if self._acceptor is not None:
            self._acceptor.close(unlink)
        for task in self._shaking:
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until nothing of it runs any more, after `close`: its sockets are closed then."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _check_idle(self) -> None:
        if self._state is State.CLOSED:
            raise self._closed_error()
        if self._state is not State.IDLE:
            raise AddrInUseError(f"listen {self.address}: this listener is active; make another one for another")

    def _start(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept_all(self, acceptor: Acceptor) -> None:
        pause = FIRST_PAUSE
        accepted = 0
        while self._state is State.LISTENING:
            delay = self._admission.delay()
            if delay > 0:  # the kernel keeps those who come meanwhile
                await self._sleep(delay)
            try:
                link = await acceptor.accept()
            except Exception as error:
                if self._state is State.LISTENING:
                    self._cannot_accept(as_ours(error, f"accept on {acceptor.address}"))
                    await self._sleep(pause)
                    pause = min(pause * 2, LONGEST_PAUSE)
                continue
            if self.failure is not None:
                _log.info("listener %d: %s accepts again", self.key, acceptor.address)
            self.failure = None
            pause = FIRST_PAUSE
            self._welcome(link)
            accepted += 1
            if accepted % _BURST == 0:
                await asyncio.sleep(0)

    def _cannot_accept(self, error: SPError) -> None:
        """Say so once per outage: it may last, and it is tried again and again."""
        if self.failure is None:
            self._count("accept_exhausted" if isinstance(error, ResourceError) else "accept_failed")
            _log.warning("listener %d: %s; trying again until it works", self.key, error)
        self.failure = error

    def _welcome(self, link: Link) -> None:
        """Start the handshake."""
        if self._admission.full:
            self._turn_away(link)
            return
        self._was_full = False
        while len(self._shaking) >= self._admission.max_handshakes:
            oldest, silent = next(iter(self._shaking.items()))
            del self._shaking[oldest]
            _log.debug("listener %d: handshake with %s dropped: too many at once", self.key, silent.remote)
            self._count("handshake_overflow")
            oldest.cancel()
        task = self._start(self._shake(link))
        self._shaking[task] = link
        self._crowd.grew(len(self._shaking))
        task.add_done_callback(functools.partial(self._shaken, link))

    def _turn_away(self, link: Link) -> None:
        """MAX-PIPES is reached. It is said once until there is room again."""
        self._count("listener_full")
        if not self._was_full:
            self._was_full = True
            limit = self._admission.max_pipes
            _log.warning(
                "listener %d: %s has %d pipes (MAX-PIPES); more are turned away", self.key, self.address, limit
            )
        link.close()

    def _shaken(self, link: Link, task: asyncio.Task[None]) -> None:
        self._shaking.pop(task, None)
        if task.cancelled():
            link.close()  # shake() does so as well, but a task that is cancelled before its first step never gets there
        self._crowd.shrank(len(self._shaking))

    async def _shake(self, link: Link) -> None:
        limit = seconds(self._options, "HANDSHAKE-TIMEOUT", TIMEOUT)
        try:
            await shake(self._loop, link, Handshake(self._own, self._peer), limit)
        except Exception as error:
            self._count(cause_of(error))
            _log.debug("listener %d: %s", self.key, error)
            return
        # A pipe from here on, or about to be one: the close of its listener, or a crowd behind it, is no matter of its.
        task = asyncio.current_task()
        if task is not None:
            self._shaking.pop(task, None)
        if not self._admission.enter():
            self._turn_away(link)
        elif not await offer(link, self, self._on_link):
            self._admission.leave()

    def pipe_closed(self) -> None:
        """The hub says: the pipe of a link that it accepted is gone."""
        self._admission.leave()

    def _closed_error(self) -> ClosedError:
        return ClosedError(f"listen {self._target}: this listener is closed")

    def __repr__(self) -> str:
        why = f", {type(self.failure).__name__} at accept" if self.failure is not None else ""
        return f"<ListenerDriver {self.key} {self.address}: {self._state.value}, {self.handshakes} handshakes{why}>"
