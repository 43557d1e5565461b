"""`inproc://NAME`: within one program.

The sockets of a program live in I/O processes of their own, so a link is a socket pair whose ends the supervisor
hands to the two of them. It keeps the table of names; this transport asks it by way of a `Broker`. On the pair they
shake hands, and agree upon memory through which the messages go (`sharedlink.py`). Where no memory can be shared that
way, frames go over the pair as over any stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import typing
from collections.abc import Awaitable
from typing import Any

from spworkers.errors import BadValueError, ClosedError, InternalError, from_os_error
from spworkers.transport.base import Acceptor, Address, Link, Options, Transport
from spworkers.transport.sharedlink import SHARING, SharedLink


class Broker(typing.Protocol):
    """The supervisor's table of inproc names, as an I/O process sees it."""

    async def listen(self, name: str) -> None:
        """Take a name. A name that this process's predecessor held is its own.

        Raises:
            AddrInUseError: another listener of the program has it.
        """

    async def dial(self, name: str) -> int:
        """Connect to a name.

        Returns:
            The descriptor of our end of a stream socket pair, which is the caller's. When the call is cancelled, the
            broker closes what it gets later.

        Raises:
            ConnRefusedError: nobody listens under that name.
        """

    def incoming(self, name: str) -> Awaitable[int]:
        """Wait for the next connection to a name that we hold.

        Returns:
            The descriptor of our end, which is the caller's.
        """

    def close(self, name: str) -> None:
        """Give a name back; ends that nobody awaited are closed. It does not wait."""


_broker: Broker | None = None


def install_broker(broker: Broker | None) -> None:
    """Set the broker that the transport of this process asks from now on."""
    global _broker
    _broker = broker


class InprocTransport(Transport):
    """Streams between the I/O processes of one program. It has no options.

    Args:
        scheme: `inproc`.
        broker: whom to ask; default: the one of `install_broker`.
    """

    def __init__(self, scheme: str = "inproc", broker: Broker | None = None) -> None:
        super().__init__(scheme)
        self._own_broker = broker

    @property
    def _broker(self) -> Broker:
        broker = self._own_broker or _broker
        if broker is None:
            raise InternalError("inproc:// was used before its broker was installed")
        return broker

    def parse(self, address: str) -> Address:
        self.rest_of(address)  # every name is a name, the empty one too
        return Address(address)

    async def dial(self, address: Address, options: Options) -> Link:
        name = self.rest_of(address.url)
        return _make_link(await self._broker.dial(name), name, f"dial {address}", dials=True)

    async def listen(self, address: Address, options: Options, inherited: int | None = None) -> Acceptor:
        if inherited is not None:
            with contextlib.suppress(OSError):
                os.close(inherited)
            raise BadValueError(f"listen {address}: an inproc listener has no descriptor that could be inherited")
        broker, name = self._broker, self.rest_of(address.url)
        taking = asyncio.ensure_future(broker.listen(name))
        try:
            await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(lambda done: _give_back(broker, name, done))
            raise
        return InprocAcceptor(broker, address.url, name)


class InprocAcceptor(Acceptor):
    """Accepts what the broker brings for one name. It is made, and used, on a running loop."""

    def __init__(self, broker: Broker, address: str, name: str) -> None:
        self._broker = broker
        self._address = address
        self._name = name
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending: asyncio.Future[int] | None = None

    @property
    def address(self) -> str:
        return self._address

    def fileno(self) -> int:
        return -1

    async def accept(self) -> Link:
        if not self._ended.done() and self._pending is None:
            self._pending = asyncio.ensure_future(self._broker.incoming(self._name))
        if self._pending is not None:
            # The question outlives a cancelled accept, which would lose the answer otherwise: the next one takes it up.
            either: set[asyncio.Future[Any]] = {self._pending, self._ended}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self._ended.done() or self._pending is None:
            raise ClosedError(f"{self._address}: this listener is closed")
        pending, self._pending = self._pending, None
        return _make_link(pending.result(), self._name, f"accept on {self._address}", dials=False)

    def close(self, unlink: bool = True) -> None:
        if self._ended.done():
            return
        self._ended.set_result(None)
        if unlink:
            self._broker.close(self._name)
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.cancel()
            pending.add_done_callback(_discard)

    def __repr__(self) -> str:
        return f"<InprocAcceptor {self._address}: {'closed' if self._ended.done() else 'listening'}>"


def _discard(answer: asyncio.Future[int]) -> None:
    """Close a connection that nobody takes any more."""
    if not answer.cancelled() and answer.exception() is None:
        os.close(answer.result())


def _give_back(broker: Broker, name: str, taking: asyncio.Future[None]) -> None:
    """Give a name back that came when nobody wanted it any more."""
    if not taking.cancelled() and taking.exception() is None:
        broker.close(name)


def _make_link(descriptor: int, name: str, doing: str, dials: bool) -> Link:
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        raise from_os_error(error, doing) from error
    if SHARING:
        return SharedLink(sock, dials=dials, local=name, remote=name)
    return Link(sock, "stream", local=name, remote=name)
