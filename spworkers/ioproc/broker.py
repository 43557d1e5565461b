"""The line to the supervisor: what is kept for a successor, and the program's inproc names."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from spworkers.channel import Channel, close_fds
from spworkers.errors import AddrInUseError, from_name
from spworkers.ioproc.line import Line
from spworkers.messages import pack_facts

Notice = Callable[[dict[str, Any], list[int]], None]


class SupervisorLine:
    """Keeps state with the supervisor and asks it for inproc connections (the transport's `Broker`).

    Args:
        notice: gets what the supervisor says of its own accord: client, client_gone, stop.
        ended: the supervisor is gone, and so are we.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, channel: Channel, notice: Notice, ended: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._notice = notice
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[tuple[Any, list[int]]]] = {}
        self._waiting: dict[str, deque[asyncio.Future[int]]] = {}
        self._arrived: dict[str, deque[int]] = {}
        self._line = Line(loop, channel, self._receive, ended)

    # ---- what a successor finds

    def keep(self, name: str, facts: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Keep facts and duplicates of descriptors under a name, in place of what was kept there before."""
        self._line.say({"t": "keep", "name": name, "blob": pack_facts(facts)}, fds)

    def drop(self, name: str) -> None:
        """Keep it no more."""
        self._line.say({"t": "drop", "name": name})

    # ---- inproc: the interface of `spworkers.transport.inproc.Broker`

    async def listen(self, name: str) -> None:
        """Take an inproc name. AddrInUseError: another listener has it."""
        if name in self._arrived:  # to the supervisor we would be a successor that listens again
            raise AddrInUseError(f"listen inproc://{name}: another listener of this socket has that name")
        self._arrived[name] = deque()
        try:
            await self._ask({"t": "inproc_listen", "name": name})
        except BaseException:
            self._arrived.pop(name, None)
            raise

    async def dial(self, name: str) -> int:
        """Connect to an inproc name; returns our end. ConnRefusedError: nobody listens there."""
        _, fds = await self._ask({"t": "inproc_dial", "name": name})
        return fds[0]

    def incoming(self, name: str) -> asyncio.Future[int]:
        """The next connection to a name of ours."""
        future: asyncio.Future[int] = self._loop.create_future()
        arrived = self._arrived.get(name)
        if arrived:
            future.set_result(arrived.popleft())
        else:
            self._waiting.setdefault(name, deque()).append(future)
        return future

    def close(self, name: str) -> None:
        """Give a name back."""
        self._line.say({"t": "inproc_close", "name": name})
        for fd in self._arrived.pop(name, ()):
            os.close(fd)
        self._waiting.pop(name, None)

    def kill(self, client: str, reason: str) -> None:
        """Have a worker killed: it holds up a request beyond its time."""
        self._line.say({"t": "kill", "key": client, "reason": reason})

    def seen(self, facts: dict[str, Any]) -> None:
        """Answer somebody who looks at this program; lost if the supervisor does not read."""
        self._line.notify({"t": "seen", "facts": facts})

    def recycle(self) -> None:
        """Ask to be replaced."""
        self._line.say({"t": "recycle"})

    # ----

    async def _ask(self, message: dict[str, Any]) -> tuple[Any, list[int]]:
        number = next(self._numbers)
        future: asyncio.Future[tuple[Any, list[int]]] = self._loop.create_future()
        self._asked[number] = future
        self._line.say({**message, "id": number})
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:  # it came, and nobody takes it
                close_fds(future.result()[1])
            raise

    def _receive(self, message: dict[str, Any], fds: list[int]) -> None:
        kind = message["t"]
        if kind in ("answer", "error"):
            self._answered(message, fds)
        elif kind == "inproc_incoming":
            self._connected(message["name"], fds[0])
        else:
            self._notice(message, fds)

    def _answered(self, message: dict[str, Any], fds: list[int]) -> None:
        future = self._asked.pop(message["id"], None)
        if future is None or future.done():
            for fd in fds:
                os.close(fd)
        elif message["t"] == "answer":
            future.set_result((message["value"], fds))
        else:
            future.set_exception(from_name(message["name"], message["args"]))

    def _connected(self, name: str, fd: int) -> None:
        waiting = self._waiting.get(name)
        while waiting:
            future = waiting.popleft()
            if not future.done():
                future.set_result(fd)
                return
        if name in self._arrived:
            self._arrived[name].append(fd)
        else:
            os.close(fd)
