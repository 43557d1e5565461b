"""The claim socket: how any process of the same user gets what a ticket stands for, or looks at this program.

    claimer                                        supervisor
    connect ────────────────────────────────────▶  peer's uid is ours? else close
    claim{id, token}, end of stream ─────────────▶  the ticket is used up
    answer{id, value: blob} + fds, end of stream ◀──  or error{id, name, args}
    or
    inspect{id}, end of stream ──────────────────▶  the I/O processes are asked (`inspection`)
    answer{id, value: facts}, end of stream ◀─────

One packet each way on a stream socket, its end marked by the end of the stream, so that it is the same on systems whose
Unix sockets do not keep packets apart. On Linux the socket has an abstract name, elsewhere a path in a directory of its
own (mode 0700).
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from spworkers.errors import (
    AccessDeniedError,
    BadAddrError,
    ChannelClosedError,
    ConnTimeoutError,
    GarbledError,
    SPError,
    from_name,
    from_os_error,
)
from spworkers.messages import Message, answer, failure
from spworkers.packet import Packet, Raw, close_fds, open_raw, receive_raw
from spworkers.supervisor.loop import READ, Loop, Timer

__all__ = ["ABSTRACT", "PREFIX", "ClaimDesk", "Inspect", "claim", "inspect", "remove_address"]

REQUEST_LIMIT: Final = 4 << 10
"""Bytes of a claim; it has 32 of token and some dozen of wrapping."""
INLINE: Final = 2 << 10
"""Bytes of an answer that is no file: less than the smallest buffer of a stream (8 KiB on macOS), so that it leaves in
one piece."""
PATIENCE: Final = 5.0
"""Seconds in which a claimer has to say its claim."""
CONNECTIONS_LIMIT: Final = 64
"""Claimers at once; the others wait in the backlog."""
_PAUSE: Final = 0.1  # seconds
_RETRY: Final = 0.005  # seconds
ABSTRACT: Final = sys.platform.startswith("linux")
"""Whether the socket leaves nothing in a file system, whoever is killed. If not, it is only there when it is needed."""
PREFIX: Final = "@spworkers-"
"""So begin abstract names, as `/proc/net/unix` has them; then a random number, which nobody can take beforehand."""
_CLAIM_ID: Final = 1

Inspect = Callable[[Callable[[dict[str, Any]], None]], None]
"""Finds out about the program, and calls its argument once with what it found."""


def claim(address: str, token: bytes, *, timeout: float = PATIENCE) -> tuple[bytes, list[int]]:
    """What a ticket stands for; it is used up.

    Args:
        address: of the claim socket, as `Supervisor.ticket` told it.
        token: likewise.
        timeout: seconds to wait at most.

    Returns:
        The ticket's bytes, and its descriptors (cloexec), which are the caller's.

    Raises:
        ContextMovedError: the ticket was used already, or its socket is closed.
        ConnRefusedError: the program that made the ticket has ended.
        AccessDeniedError: it belongs to another user.
        ConnTimeoutError: no answer in time.
    """
    message, fds = _ask(address, {"t": "claim", "id": _CLAIM_ID, "token": token}, timeout, "claiming a ticket")
    if isinstance(message["value"], bytes):
        return message["value"], fds
    close_fds(fds)
    raise GarbledError("a claim was answered with no bytes")


def inspect(address: str, *, timeout: float = PATIENCE) -> dict[str, Any]:
    """What a supervisor tells of its program: `inspection` says what there is.

    Args:
        address: of the claim socket.
        timeout: seconds to wait at most.

    Raises:
        ConnRefusedError: the program has ended.
        AccessDeniedError: it belongs to another user.
        ConnTimeoutError: no answer in time.
    """
    message, fds = _ask(address, {"t": "inspect", "id": _CLAIM_ID}, timeout, "looking at a program")
    close_fds(fds)
    if isinstance(message["value"], dict):
        return message["value"]
    raise GarbledError("a look at a program was answered with no map")


def _ask(address: str, question: Message, timeout: float, what: str) -> tuple[Message, list[int]]:
    """The answer, with its descriptors; an error that is answered is raised."""
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.settimeout(timeout)
            _connect(sock, _sockaddr(address), deadline)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it hung up at once, which is read below
                sock.sendall(Packet(question).data)
                sock.shutdown(socket.SHUT_WR)
            sock.settimeout(None)  # with one, Python itself would wait in every call
        except OSError as error:
            raise from_os_error(error, f"dial the supervisor ({what})") from error
        raw = _read_to_end(sock, deadline, what)
    if not raw.data:
        close_fds(raw.fds)
        raise AccessDeniedError(f"{what}: the supervisor hung up; it belongs to another user, or has just ended")
    message, fds = open_raw(raw)
    if message["t"] == "answer":
        return message, fds
    close_fds(fds)
    if message["t"] == "error":
        raise from_name(message["name"], message["args"])
    raise GarbledError(f"{what}: answered with {message['t']!r}")


def _connect(sock: socket.socket, sockaddr: str, deadline: float) -> None:
    """Connect. Linux says EAGAIN when the backlog is full, and has nothing to wait for then; so ask again."""
    while True:
        try:
            sock.connect(sockaddr)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_RETRY)


def _read_to_end(sock: socket.socket, deadline: float, what: str) -> Raw:
    whole = Raw()
    try:
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        while not _receive_into(sock, whole):
            rest = deadline - time.monotonic()
            if rest <= 0:
                raise ConnTimeoutError(f"{what}: the supervisor did not answer in time")
            poll.poll(rest * 1000)
    except BaseException:
        close_fds(whole.fds)
        raise
    return whole


def _receive_into(sock: socket.socket, whole: Raw) -> bool:
    """Add what is there to `whole`; True: the stream has ended."""
    while True:
        raw = receive_raw(sock)
        if raw is None:
            return False
        whole.data += raw.data
        whole.fds += raw.fds
        whole.flags |= raw.flags
        if not raw.data or len(whole.data) > REQUEST_LIMIT:
            return True


def _sockaddr(address: str) -> str:
    if address.startswith("@"):
        return f"\0{address[1:]}"
    if not address.startswith("/"):
        raise BadAddrError(f"claim address {address!r} is neither an abstract name (@...) nor an absolute path")
    return address


def remove_address(address: str) -> None:
    """Remove what a claim socket left in the file system, if it did."""
    if address.startswith("/"):
        with contextlib.suppress(OSError):
            os.unlink(address)
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(address))


def _peer_uid(sock: socket.socket) -> int:
    """The user at the other end of a Unix socket.

    Raises:
        OSError: it is gone already.
    """
    if hasattr(socket, "SO_PEERCRED"):  # struct ucred: pid, uid, gid
        return int(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1])
    local_peercred, level = 1, 0  # struct xucred: version, uid, ...; <sys/un.h> of macOS and FreeBSD
    return int(struct.unpack("2I", sock.getsockopt(level, local_peercred, 128)[:8])[1])


def _is_ours(sock: socket.socket) -> bool:
    """Whether our own user is at the other end."""
    try:
        return _peer_uid(sock) == os.geteuid()
    except OSError:
        return False


class ClaimDesk:
    """The supervisor's end: listens, and answers claims.

    Args:
        loop: that waits for it.
        redeem: gives bytes and descriptors for a token, or raises; the descriptors are the desk's.
        inspect: finds out about the program.
    """

    def __init__(self, loop: Loop, redeem: Callable[[bytes], tuple[bytes, list[int]]], inspect: Inspect) -> None:
        self._loop = loop
        self._redeem = redeem
        self._inspect = inspect
        self._claimers: set[_Claimer] = set()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self.address = self._bind()
        self._socket.listen(CONNECTIONS_LIMIT)
        self._listen()

    def _bind(self) -> str:
        if ABSTRACT:
            address = f"{PREFIX}{os.urandom(16).hex()}"
        else:
            import tempfile

            address = os.path.join(tempfile.mkdtemp(prefix="spworkers-"), "claim")
        self._socket.bind(_sockaddr(address))
        return address

    def _listen(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.watch(self._socket.fileno(), self._accept)

    def _accept(self, _mask: int) -> None:
        try:
            sock, _ = self._socket.accept()
        except OSError:  # it went away meanwhile; or we are out of descriptors, and would be called again at once
            self._loop.unwatch(self._socket.fileno())
            self._loop.after(_PAUSE, self._listen)
            return
        if not _is_ours(sock):  # before it takes a place: whoever is nobody's claimer could keep all of them
            sock.close()
            return
        self._claimers.add(_Claimer(self._loop, sock, self._redeem, self._inspect, self._done))
        if len(self._claimers) >= CONNECTIONS_LIMIT:
            self._loop.unwatch(self._socket.fileno())

    def _done(self, claimer: _Claimer) -> None:
        self._claimers.discard(claimer)
        self._listen()

    def close(self) -> None:
        """Hang up on everybody, and leave nothing behind."""
        self._loop.unwatch(self._socket.fileno())
        self._socket.close()
        remove_address(self.address)
        for claimer in list(self._claimers):
            claimer.close()


class _Claimer:
    """One connection to the desk."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        redeem: Callable[[bytes], tuple[bytes, list[int]]],
        inspect: Inspect,
        done: Callable[[_Claimer], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._redeem = redeem
        self._inspect = inspect
        self._done = done
        self._raw = Raw()
        sock.setblocking(False)
        self._timer: Timer = loop.after(PATIENCE, self.close)
        loop.watch(sock.fileno(), self._on_readable, READ)

    def _on_readable(self, _mask: int) -> None:
        try:
            if _receive_into(self._sock, self._raw) or self._raw.fds:  # a claim has none, so this one is refused
                self._serve()
        except (OSError, SPError):  # whoever that is, it gets no words out of us
            self.close()

    def _serve(self) -> None:
        raw, self._raw = self._raw, Raw()
        later = False
        try:
            message, fds = open_raw(raw)
            close_fds(fds)
            if message["t"] == "claim":
                self._answer_claim(message)
            elif message["t"] == "inspect":
                later = True
                self._loop.unwatch(self._sock.fileno())  # it has said everything, and its end stays readable
                self._inspect(lambda facts: self._answer_look(message["id"], facts))
        finally:
            if not later:
                self.close()

    def _answer_look(self, number: int, facts: dict[str, Any]) -> None:
        if self._sock.fileno() >= 0:  # else it was hung up on meanwhile
            self._reply(answer(number, facts), [])
            self.close()

    def _answer_claim(self, message: Message) -> None:
        reply: dict[str, Any]
        fds: list[int] = []
        try:
            blob, fds = self._redeem(message["token"])
            reply = answer(message["id"], blob)
        except SPError as error:
            reply = failure(message["id"], error)
        self._reply(reply, fds)

    def _reply(self, reply: Message, fds: list[int]) -> None:
        packet: Packet | None = None
        try:
            packet = Packet(reply, fds, inline=INLINE)
            with contextlib.suppress(ChannelClosedError):
                packet.transmit(self._sock)
        finally:
            if packet is not None:
                packet.close()
            close_fds(fds)

    def close(self) -> None:
        """Hang up. Twice does no harm."""
        self._timer.cancel()
        if self._sock.fileno() >= 0:
            self._loop.unwatch(self._sock.fileno())
            self._sock.close()
            close_fds(self._raw.fds)
            self._raw = Raw()
            self._done(self)
