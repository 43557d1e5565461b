"""Connecting to the first of several addresses that answers (RFC 8305, "happy eyeballs").

One attempt starts at once; another one whenever an attempt fails, or none has succeeded for the stagger. The first
connection wins, the others are closed. It is done with callbacks rather than with tasks, because then a cancelled
race has nothing running that it would have to wait for.
"""

from __future__ import annotations

import asyncio
import collections
import errno
import os
import socket
from collections.abc import Iterable
from typing import Any, NamedTuple

STAGGER = 0.25
"""Seconds between the starts of two attempts: the figure that RFC 8305, section 8, recommends."""


class Target(NamedTuple):
    """One address to try."""

    family: int
    sockaddr: tuple[Any, ...]
    text: str


class Failure(NamedTuple):
    """An address that was tried, and what became of it."""

    target: Target
    error: OSError


class AllFailedError(Exception):
    """No address of a race could be connected to. It never leaves the transport.

    Attributes:
        failures: what happened to each of them, in that order; at least one.
    """

    def __init__(self, failures: list[Failure]) -> None:
        super().__init__("; ".join(f"{each.target.text}: {each.error.strerror}" for each in failures))
        self.failures = failures

    @property
    def chief(self) -> OSError:
        """The failure that says most: that somebody was there and refused, else the first one."""
        refused = [each.error for each in self.failures if each.error.errno == errno.ECONNREFUSED]
        return (refused or [each.error for each in self.failures])[0]


async def connect_first(targets: Iterable[Target], stagger: float = STAGGER) -> socket.socket:
    """A non-blocking stream socket that is connected to one of the targets.

    Args:
        targets: at least one, the preferred ones first; their families are alternated.
        stagger: seconds.

    Raises:
        AllFailedError: none of them can be connected to.
    """
    return await _Race(asyncio.get_running_loop(), interleave(targets), stagger).run()


def interleave(targets: Iterable[Target]) -> list[Target]:
    """The targets with their families taken in turn, so that one dead family delays by one stagger only."""
    by_family: dict[int, collections.deque[Target]] = {}
    for target in targets:
        by_family.setdefault(target.family, collections.deque()).append(target)
    mixed: list[Target] = []
    queues = list(by_family.values())
    while queues:
        mixed.extend(queue.popleft() for queue in queues)
        queues = [queue for queue in queues if queue]
    return mixed


class _Race:
    def __init__(self, loop: asyncio.AbstractEventLoop, targets: list[Target], stagger: float) -> None:
        self._loop = loop
        self._waiting = collections.deque(targets)
        self._stagger = stagger
        self._running: dict[socket.socket, Target] = {}
        self._failures: list[Failure] = []
        self._timer: asyncio.TimerHandle | None = None
        self._winner: asyncio.Future[socket.socket] = loop.create_future()

    async def run(self) -> socket.socket:
        self._start_next()
        try:
            return await self._winner
        except asyncio.CancelledError:
            if self._winner.done() and not self._winner.cancelled() and self._winner.exception() is None:
                self._winner.result().close()  # it was decided in the moment of the cancellation
            raise
        finally:
            self._stop()

    def _start_next(self) -> None:
        """Start attempts until one is under way."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and not self._winner.done():
            if self._start(self._waiting.popleft()):
                if self._waiting:
                    self._timer = self._loop.call_later(self._stagger, self._start_next)
                return
        if not self._running and not self._winner.done():
            self._winner.set_exception(AllFailedError(self._failures))

    def _start(self, target: Target) -> bool:
        """Start an attempt. False: it has failed already."""
        try:
            sock = socket.socket(target.family, socket.SOCK_STREAM)
        except OSError as error:
            self._failures.append(Failure(target, error))
            return False
        sock.setblocking(False)
        number = sock.connect_ex(target.sockaddr)
        if number in (errno.EINPROGRESS, errno.EINTR):
            self._running[sock] = target
            self._loop.add_writer(sock.fileno(), self._answered, sock)
            return True
        if number == 0:
            return self._connected(sock, target)
        self._fail(sock, target, number)
        return False

    def _answered(self, sock: socket.socket) -> None:
        target = self._running.pop(sock)
        self._loop.remove_writer(sock.fileno())
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number != 0:
            self._fail(sock, target, number)
            self._start_next()
        elif not self._connected(sock, target):
            self._start_next()

    def _connected(self, sock: socket.socket, target: Target) -> bool:
        try:
            itself = sock.getsockname() == sock.getpeername()
        except OSError as error:  # reset already
            self._fail(sock, target, error.errno or errno.ECONNRESET)
            return False
        if itself:
            # Dialling a free port of the ephemeral range again and again ends, sooner or later, in TCP's simultaneous
            # open of a socket with itself. It looks like a peer and keeps the real one from binding the port.
            self._fail(sock, target, errno.ECONNREFUSED)
            return False
        if self._winner.done():
            sock.close()
            return True
        self._winner.set_result(sock)
        return True

    def _fail(self, sock: socket.socket, target: Target, number: int) -> None:
        sock.close()
        self._failures.append(Failure(target, OSError(number, os.strerror(number))))

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._waiting.clear()
        for sock in self._running:
            self._loop.remove_writer(sock.fileno())
            sock.close()
        self._running.clear()
