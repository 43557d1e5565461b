"""Devices: two raw sockets, each of which sends what the other one receives.

    a's peers ⇄ I/O process of a ⇄ shared memory ⇄ I/O process of b ⇄ b's peers

The messages pass from one I/O process to the other (`spworkers.ioproc.bridge`), not through this process, which may be
stopped meanwhile. What is here is a handle: it introduces the two to each other, keeps this process from sending
where another one does now, and gives the sockets back in the end.

Who dies: either I/O process is replaced and takes its side of the device up again; when the supervisor dies, each
socket is described to the next one, its device first of all (`Socket._rebuild`).
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Generator
from typing import Any, Final

from spworkers.closing import AsyncClosing
from spworkers.ending import End
from spworkers.errors import (
    BadProtoError,
    BadValueError,
    ClosedError,
    ConnTimeoutError,
    ForkedError,
    NotRawError,
    ProtoStateError,
    SPError,
)
from spworkers.iolink import PATIENCE
from spworkers.options import Seconds
from spworkers.socket import Socket
from spworkers.waiting import run

__all__ = ["Device", "device"]

QUEUED: Final = frozenset({"pair", "pair1", "push", "req"})
"""Protocols with one send queue, which BEST-EFFORT keeps from waiting; the machines of the others see to themselves."""

REPLIES: Final = 1024
"""Replies (and answers to surveys) on their way through a device, for all pipes together. Eight times the queue that
each pipe has by default: a requester that does not read his replies holds up the others as late as that."""

_starting = threading.Lock()  # held while sockets become part of a device, and never while anything is waited for


def device(a: Socket | None, b: Socket | None = None) -> Device:
    """Have each of two raw sockets send what the other one receives, until one of them is closed (mangos: Device).

    Headers are kept, so that replies find their way back, and hops are counted (TTL). The device returns at once and
    works in the sockets' I/O processes; this process has nothing to do with the messages, and may be stopped.

    A side that does not take what comes holds up the other: messages wait in the send queue of the socket that they
    are to go out by (WRITEQ-LEN; for replies 1024 in all), and then in the pipes that they come in by. With BEST-EFFORT
    of that socket (pair, pair1, push, req) what finds the queue full is dropped instead, with FAIL-NO-PEERS what finds
    nobody connected; both are counted there. Deadlines are for callers: a device waits for ever. READQ-LEN has no
    meaning, as nothing is queued on that side.

    Args:
        a: a raw socket.
        b: another one, of the protocol that a's peers have; None, or `a` again: what comes is sent back by the socket
            it came by. (On a raw Bus that means: to all others.)

    Returns:
        The device; it need not be kept.

    Raises:
        ClosedError: there is no socket, or it is closed.
        BadProtoError: the two protocols are no peers of each other; nor is that of a sole socket its own peer.
        NotRawError: a socket is not raw.
        ProtoStateError: a socket is part of a device already, or a message to it is half written (`reserve`).
        BadValueError: it is no socket.
    """
    one, other = (b, b) if a is None else (a, a if b is None else b)
    _check(one, other)
    assert one is not None
    assert other is not None
    return Device(one, other)


def _check(one: Socket | None, other: Socket | None) -> None:
    """Raise what keeps two sockets from being a device; in mangos' order."""
    if one is None or other is None:
        raise ClosedError("a device of no socket at all; give it one or two raw sockets")
    for socket in (one, other):
        if not isinstance(socket, Socket):
            raise BadValueError(f"a device is made of sockets, not of {socket!r}")
        socket._usable()
    if one.info.self != other.info.peer or other.info.self != one.info.peer:
        alone = "alone (loopback is for protocols that talk to themselves, bus for instance)"
        what = alone if other is one else f"and {other.info.self_name}"
        other_side = f"give {one.info.self_name} a {one.info.peer_name} as its other side"
        raise BadProtoError(f"no device of {one.info.self_name} {what}: {other_side}")
    for socket in (one, other):
        if not socket._raw:
            raise NotRawError(f"{socket!r} is not raw; a device needs {type(socket).__name__}(raw=True)")


class Device(AsyncClosing):
    """What `spworkers.device` returns. A context manager; `await device` waits for its end, on asyncio and trio."""

    def __init__(self, a: Socket, b: Socket) -> None:
        self._sockets: Final = (a,) if a is b else (a, b)
        self._text: Final = " and ".join(type(socket).__name__ for socket in self._sockets)
        self._pid: Final = os.getpid()
        self._lock = threading.RLock()  # held while it ends
        self._over = End()
        try:
            self._borrow()
            for socket in self._sockets:
                self._introduce(socket)
        except BaseException:
            self._end(None)
            raise

    def _borrow(self) -> None:
        """Keep this process from sending by these sockets."""
        with _starting:
            for socket in self._sockets:
                if socket._device is not None:
                    raise ProtoStateError(f"{socket!r} is part of a device already; close that first")
                if not socket._lend(self):
                    raise ProtoStateError(
                        f"a message to {socket!r} is half written, in a `reserve` or by another thread;"
                        " finish it before the socket becomes part of a device"
                    )

    # ---- what the I/O processes are told

    def _introduce(self, socket: Socket) -> None:
        """Tell a socket's I/O process where to send what it receives."""
        other = self._other(socket)
        with other._port.held() as is_open:
            if not is_open:
                raise ClosedError(f"{other!r} was closed while a device was made of it")
            socket._link.request("device", self._ways(socket), **_manners(other))

    def _describe(self, socket: Socket) -> None:
        """The same for another I/O process, when the supervisor has died."""
        other = self._other(socket)
        with other._port.held() as is_open:
            if is_open:
                socket._link.tell("device", self._ways(socket), **_manners(other))

    def _ways(self, socket: Socket) -> list[int]:
        """The descriptors by which one sends to the other socket; it has them itself if that is the same."""
        other = self._other(socket)
        if other is socket:
            _open_window(socket)
            return []
        _open_window(other)
        return [other._link.region.fd, other._link.io_bell, other._port.bells[1]]

    def _other(self, socket: Socket) -> Socket:
        return self._sockets[-1] if socket is self._sockets[0] else self._sockets[0]

    def _option_changed(self, socket: Socket) -> None:
        """An option of a socket of ours was set."""
        _open_window(socket)
        self._other(socket)._request("device_options", **_manners(socket))

    # ---- its end

    def close(self) -> None:
        """Forward no more, and give the sockets back: they are open, and send and receive as before.

        What was forwarded still goes out; what had not found room yet is received here. A second time, nothing happens.

        Raises:
            ForkedError: it belongs to the process that this one was forked from.
        """
        self._check_owner()
        self._end(None)

    def _end(self, closing: Socket | None) -> None:
        """End it, here or because a socket is being closed."""
        with self._lock:
            if self._over.is_set:
                return
            mine = [socket for socket in self._sockets if socket._device is self]
            for socket in mine:
                with contextlib.suppress(SPError):  # there is no such process any more
                    self._dismiss(socket, closing)
            for socket in mine:
                if socket._port.closed:
                    socket._device = None
                else:
                    socket._take_back()
            self._over.set()

    def _dismiss(self, socket: Socket, closing: Socket | None) -> None:
        """Have a socket's I/O process let go of the other socket; before that nobody else may send there."""
        link = socket._link
        try:
            link.request("end_device", timeout=PATIENCE if closing is not None else None)
        except ConnTimeoutError:  # somebody has stopped it, or it hangs
            if socket is closing:
                link.supervisor.end(link.key, timeout=PATIENCE)
            else:  # it sends to nobody but the one that is being closed
                link.tell("end_device")

    def wait(self, timeout: Seconds = None) -> bool:
        """Wait until it ends: by `close()`, or because one of its sockets is closed.

        Args:
            timeout: seconds at most; None: for ever; 0: only look.

        Returns:
            Whether it has ended.
        """
        self._check_owner()
        return run(self._over.steps(timeout), self._over.sleepers)

    def __await__(self) -> Generator[Any, None, bool]:
        from spworkers.tasks import arun

        self._check_owner()
        return arun(self._over.steps(None), self._over.sleepers).__await__()

    def stats(self) -> dict[str, Any]:
        """How much was forwarded from the first socket to the second (`there`) and back, and what they dropped.

        A device of one socket has only a way there.

        Raises:
            ClosedError: a socket is closed.
        """
        self._check_owner()
        found = [socket.stats() for socket in self._sockets]
        drops: dict[str, int] = {}
        for each in found:
            for cause, n in each["drops"].items():
                drops[cause] = drops.get(cause, 0) + n
        forwarded = [each["forwarded"] for each in found]
        return {"there": forwarded[0], "back": sum(forwarded[1:]), "drops": drops}

    def _check_owner(self) -> None:
        if self._pid != os.getpid():
            raise ForkedError(f"this device belongs to process {self._pid}; a forked child makes its own sockets")

    def __repr__(self) -> str:
        state = "closed" if self._over.is_set else "forwarding" if len(self._sockets) == 2 else "loopback"
        return f"<Device of {self._text}: {state}>"


def _open_window(socket: Socket) -> None:
    """How many messages may be on their way to a socket of a device, where WRITEQ-LEN does not say it."""
    tx = socket._port.tx
    if socket._protocol.name in ("rep", "respondent"):
        tx.window = REPLIES
    elif tx.window == 0:  # raw REQ without a queue: one at a time
        tx.window = 1


def _manners(socket: Socket) -> dict[str, Any]:
    """What a user of this socket does when there is no room, or nobody."""
    half = socket._half
    return {
        "best_effort": half.best_effort and socket._protocol.name in QUEUED,
        "fail_no_peers": half.fail_no_peers,
    }
