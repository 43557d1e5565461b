"""From a link that has shaken hands to a pipe of the hub, past the user's hook."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Mapping
from typing import Any

from spworkers.chance import random_bits
from spworkers.errors import ConnTimeoutError
from spworkers.ioproc.counters import ACCEPTED, DIALED, REFUSED
from spworkers.ioproc.dialer import DialerDriver
from spworkers.ioproc.hub import Hub
from spworkers.ioproc.listener import ListenerDriver
from spworkers.ioproc.ports import PipePort
from spworkers.transport.base import Link
from spworkers.transport.waiting import Limit

log = logging.getLogger(__name__)

CARRIED = (int, str, float, bytes, list, dict)
"""What msgpack carries: properties of other types, as a third party's transport may have them, do not cross."""

Tell = Callable[[dict[str, Any]], bool]
"""Tells the user's process of an event; False: nobody listens there."""


class Attaching:
    """Makes pipes, asks the user's hook about them, tells of what becomes of them.

    Args:
        tell: passes a `pipe_event` message on.
        options: the socket's option values, live.
    """

    def __init__(self, hub: Hub, loop: asyncio.AbstractEventLoop, options: Mapping[str, Any], tell: Tell) -> None:
        self._hub = hub
        self._loop = loop
        self._options = options
        self._tell = tell
        self._ids = 1 + random_bits(30)
        # Not from 1: a verdict that was meant for our predecessor must not pass for one of ours.
        self._events = itertools.count(random_bits(48))
        self._asked: dict[int, tuple[asyncio.Future[bool], Link]] = {}
        self._pending: dict[int, PipePort] = {}  # before the hook's verdict
        self._hooked: set[int] = set()  # pipes whose end the hook is to be told
        self._drivers: dict[int, DialerDriver | ListenerDriver] = {}  # by pipe
        self.hook = False
        hub.on_pipe_lost = self._lost

    async def attach(self, link: Link, driver: DialerDriver | ListenerDriver) -> bool:
        """A link offers itself. True: it is a pipe now."""
        pipe = self._make(link, driver)
        self._drivers[pipe.id] = driver
        if self.hook and not await self._welcome(pipe):
            self._refuse(pipe)
            return False
        await self._admit(link)
        if not self._hub.attach(pipe):
            self._refuse(pipe)
            return False
        self._hub.region.add(DIALED if pipe.dialer >= 0 else ACCEPTED)
        if self.hook:
            self._hooked.add(pipe.id)
            self._event("attached", pipe)
        return True

    def verdict(self, event: int, accept: bool, status: int = 0, reason: str = "") -> None:
        """What the user's hook said to an ATTACHING; if it refuses, perhaps with a status of HTTP and the reason."""
        asked = self._asked.pop(event, None)
        if asked is None or asked[0].done():
            return
        future, link = asked
        if not accept and status:
            link.decline(status, reason)
        future.set_result(accept)

    def close_pipe(self, number: int) -> None:
        """The user closes a pipe, perhaps before it is one."""
        pipe = self._hub.pipes.get(number)
        if pipe is not None:
            self._hub.lose(pipe, "closed", "the pipe was closed")
            self._hub.settle()

    def _make(self, link: Link, driver: DialerDriver | ListenerDriver) -> PipePort:
        dials = isinstance(driver, DialerDriver)
        return PipePort(
            self._next_id(),
            link,
            int(self._max_size(driver)),
            driver.address,
            driver.key if dials else -1,
            -1 if dials else driver.key,
            {name: value for name, value in link.properties.items() if isinstance(value, CARRIED)},
        )

    def _next_id(self) -> int:
        """31 bits, not 0, and of no pipe that there is."""
        self._ids = self._ids % 0x7FFFFFFF + 1
        while self._ids in self._hub.pipes or self._ids in self._pending:
            self._ids = self._ids % 0x7FFFFFFF + 1
        return self._ids

    def _max_size(self, driver: DialerDriver | ListenerDriver) -> Any:
        options: Mapping[str, Any] = driver.options
        return options.get("MAX-RCV-SIZE", 0) or 0

    async def _welcome(self, pipe: PipePort) -> bool:
        """Ask the hook; no answer within HANDSHAKE-TIMEOUT is a refusal."""
        number = next(self._events)
        future: asyncio.Future[bool] = self._loop.create_future()
        self._asked[number] = future, pipe.link
        self._pending[pipe.id] = pipe
        try:
            if not self._event("attaching", pipe, number):
                return True
            return await asyncio.wait_for(future, self._limit)
        except asyncio.TimeoutError:
            log.warning("pipe %d from %s refused: its hook gave no verdict in time", pipe.id, pipe.remote)
            return False
        finally:
            self._asked.pop(number, None)
            del self._pending[pipe.id]

    @property
    def _limit(self) -> float | None:
        limit = float(self._options.get("HANDSHAKE-TIMEOUT", 10.0))
        return limit if limit > 0 else None

    async def _admit(self, link: Link) -> None:
        """Tell the peer that it is welcome, where the transport does. One that has gone is seen when it is read.

        Usually without a turn of the loop: who was told finds its pipe with us.
        """
        with contextlib.suppress(OSError):
            async with Limit(self._loop, self._limit or 0, ConnTimeoutError):
                await link.admit(self._loop)

    def _refuse(self, pipe: PipePort) -> None:
        self._drivers.pop(pipe.id, None)
        self._hub.region.add(REFUSED)

    def _event(self, kind: str, pipe: PipePort, number: int = 0) -> bool:
        return self._tell({"t": "pipe_event", "event": number, "kind": kind, "pipe": pipe.info()})

    def _lost(self, pipe: PipePort, text: str) -> None:
        if pipe.id in self._hooked:
            self._hooked.discard(pipe.id)
            self._event("detached", pipe)
        if pipe.closed or self._first_to_hang_up(pipe):
            log.debug("pipe %d to %s ended: %s", pipe.id, pipe.remote, text)
            driver = self._drivers.pop(pipe.id, None)
            if driver is not None:
                driver.pipe_closed()

    def _first_to_hang_up(self, pipe: PipePort) -> bool:
        """Whether its dialer may go on while messages of the lost peer wait here.

        A listener may not, nor a dialer of which there is such a pipe already: MAX-PIPES counts descriptors, and a peer
        that comes and goes while nobody receives would leave one each time.
        """
        others = self._hub.pipes.values()
        return pipe.dialer >= 0 and not any(
            other.hung_up and other.dialer == pipe.dialer for other in others if other is not pipe
        )
