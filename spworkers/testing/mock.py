"""`mock://`: a transport whose far end is the test, with faults on demand."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import secrets
import select
import shutil
import socket
import sys
import tempfile
import threading
from collections import deque
from typing import Any, Literal

import msgpack

from spworkers.closing import Closing
from spworkers.errors import AddrInUseError, BadValueError, ClosedError, ConnRefusedError, ConnTimeoutError, SPError
from spworkers.testing.mocktransport import LENGTH, pack, pack_error, size_of
from spworkers.testing.peer import TIMEOUT, RawPeer, greeting

__all__ = ["Mock"]

Verb = Literal["dial", "listen"]


class Mock(Closing):
    """What is behind a `mock://` address: the test answers dials, makes connections, and breaks them.

        with Mock("pull") as mock, sp.Push(dial=mock.address) as push:
            peer = mock.accept()
            push.send(b"x")
            assert peer.recv() == b"x"
            peer.refuse()                                   # the next send on this connection fails

        with Mock("push") as mock, sp.Pull(listen=mock.address) as pull:
            mock.connect().send(b"x")
            assert pull.recv() == b"x"

    One Mock serves any number of dialling sockets and one listening one. Connections are unix sockets, framed as on
    tcp; nothing closes one but the test, so it sees how the other side behaves while a close is late.

    Args:
        protocol: of whom the test plays, by name or number: the handshake is done by itself. None: by hand, with
            `RawPeer.shake`.
        buffer: bytes that the kernel keeps of what a socket sends (it doubles them, and has a minimum of about 4 KiB);
            so a peer that does not read is felt soon. None: as usual.
        timeout: seconds that anything here may take.

    Raises:
        BadValueError: there is no such protocol, or the buffer is of no bytes.
    """

    def __init__(
        self, protocol: str | int | None = None, *, buffer: int | None = None, timeout: float = TIMEOUT
    ) -> None:
        if protocol is not None:
            greeting(protocol)
        if buffer is not None and buffer < 1:
            raise BadValueError(f"buffer={buffer}: give a number of bytes, such as 1 for as few as the kernel can")
        self._protocol = protocol
        self._buffer = buffer
        self._timeout = timeout
        self._folder = ""
        name = f"spworkers-mock-{secrets.token_hex(8)}"
        if sys.platform.startswith("linux"):  # an abstract name leaves no file, whoever is killed
            self._name, bound = f"@{name}", f"\0{name}"
        else:
            self._folder = tempfile.mkdtemp(prefix="spworkers-")
            self._name = bound = os.path.join(self._folder, "mock")
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.bind(bound)
        self._sock.listen(64)
        self._lock = threading.Condition()
        self._faults: dict[Verb, deque[SPError | OSError]] = {"dial": deque(), "listen": deque()}
        self._dials = 0
        self._numbers = itertools.count(1)
        self._listening: socket.socket | None = None
        self._dialled: queue.SimpleQueue[RawPeer | Exception] = queue.SimpleQueue()
        self._connected: dict[int, queue.SimpleQueue[RawPeer | Exception]] = {}
        self._peers: list[RawPeer] = []
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="spworkers-mock", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """What sockets dial, or listen at: `mock://…`."""
        return f"mock://{self._name}"

    @property
    def dials(self) -> int:
        """How often it was dialled, failures included."""
        return self._dials

    # ---- connections

    def accept(self, timeout: float | None = None) -> RawPeer:
        """The next connection of a socket that dialled.

        Args:
            timeout: seconds; None: the Mock's.

        Raises:
            ConnTimeoutError: nobody dialled in time.
        """
        limit = self._timeout if timeout is None else timeout
        return self._taken(self._dialled, limit, f"nobody has dialled {self.address} within {limit:g} s")

    def connect(self, timeout: float | None = None) -> RawPeer:
        """Connect to the socket that listens here, after waiting for one.

        Args:
            timeout: seconds; None: the Mock's.

        Raises:
            ConnTimeoutError: nobody listens in time, or nobody accepts.
        """
        limit = self._timeout if timeout is None else timeout
        number = next(self._numbers)
        answer = self._connected[number] = queue.SimpleQueue()
        self._order({"do": "incoming", "number": number}, limit)
        try:
            return self._taken(answer, limit, f"{self.address} was not accepted within {limit:g} s")
        finally:
            del self._connected[number]

    def _taken(self, where: queue.SimpleQueue[RawPeer | Exception], limit: float, late: str) -> RawPeer:
        try:
            found = where.get(timeout=limit)
        except queue.Empty:
            raise ConnTimeoutError(late) from None
        if isinstance(found, Exception):
            raise found
        return found

    # ---- faults

    def fail_dial(self, error: SPError | OSError, times: int = 1) -> None:
        """Fail the next dials with this error; one of the operating system's becomes ours as with real transports."""
        self._fail("dial", error, times)

    def fail_listen(self, error: SPError | OSError, times: int = 1) -> None:
        """Fail the next attempts to listen with this error."""
        self._fail("listen", error, times)

    def fail_accept(self, error: SPError | OSError, times: int = 1) -> None:
        """Fail the listening socket's next accepts with this error, after waiting for it to listen."""
        for _ in range(times):
            self._order({"do": "fail", "error": pack_error(self._checked(error))}, self._timeout)

    def _fail(self, verb: Verb, error: SPError | OSError, times: int) -> None:
        self._faults[verb].extend([self._checked(error)] * times)

    def _checked(self, error: SPError | OSError) -> SPError | OSError:
        if not isinstance(error, (SPError, OSError)):
            raise BadValueError(f"a transport fails with an SPError or an OSError, not with {error!r}")
        return error

    def _order(self, order: dict[str, Any], limit: float) -> None:
        """Tell the listening socket's I/O process something."""
        with self._lock:
            if not self._lock.wait_for(lambda: self._listening is not None or self._closed, limit):
                raise ConnTimeoutError(f"nobody listens at {self.address} within {limit:g} s")
            if self._listening is None:
                raise ClosedError(f"{self!r} is closed")
            try:
                self._listening.sendall(pack(order))
            except OSError as error:
                raise ConnRefusedError(f"nobody listens at {self.address} any more") from error

    # ---- the I/O processes that ask, on a thread of its own

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._sock.accept()
            except OSError:
                return
            sock.settimeout(self._timeout)
            try:
                self._answer(sock)
            except Exception:  # it hung up, or was killed: for who dials that is a failed dial, for us nothing
                sock.close()

    def _answer(self, sock: socket.socket) -> None:
        request = _receive(sock)
        verb = request["do"]
        if verb == "accept":
            waiting = self._connected.get(request["number"])
            if waiting is None:  # whoever wanted it has given up
                sock.close()
                return
            try:
                waiting.put(self._agreed(sock))
            except Exception as error:
                waiting.put(error)
                raise
            return
        if verb == "dial":
            self._dials += 1
        fault = self._fault(verb)
        if fault is not None:
            sock.sendall(pack({"error": pack_error(fault)}))
            sock.close()
        elif verb == "dial":
            self._dialled.put(self._agreed(sock))
        else:
            with self._lock:  # whoever hears that it listens may give an order at once
                sock.sendall(pack({"ok": True}))
                former, self._listening = self._listening, sock
                self._lock.notify_all()
            if former is not None:
                former.close()

    def _fault(self, verb: Verb) -> SPError | OSError | None:
        if self._faults[verb]:
            return self._faults[verb].popleft()
        if verb == "listen" and self._listening is not None and not _is_over(self._listening):
            return AddrInUseError(f"listen {self.address}: another socket listens at this Mock")
        return None

    def _agreed(self, sock: socket.socket) -> RawPeer:
        sock.sendall(pack({"ok": True, "buffer": self._buffer}))
        peer = RawPeer(sock, timeout=self._timeout)
        if self._protocol is not None:
            peer.shake(self._protocol)
        self._peers.append(peer)
        return peer

    # ---- the end

    def close(self) -> None:
        """Hang up everywhere: whoever dials or accepts here fails from now on. Harmless when it is closed already."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # which wakes the thread
        self._sock.close()
        self._thread.join(self._timeout)
        with self._lock:
            listening, self._listening = self._listening, None
            self._lock.notify_all()
        if listening is not None:
            listening.close()
        for peer in self._peers:
            peer.close()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self._dials} dials, {len(self._peers)} connections"
        return f"<Mock {self.address}: {state}>"


def _receive(sock: socket.socket) -> dict[str, Any]:
    message: dict[str, Any] = msgpack.unpackb(_exactly(sock, size_of(_exactly(sock, LENGTH))), raw=False)
    return message


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise EOFError("an I/O process hung up before it had said what it wants")
        data += part
    return data


def _is_over(sock: socket.socket) -> bool:
    """Whether its other end is closed: the I/O process has died, or its listener was closed."""
    try:
        readable, _, _ = select.select([sock], [], [], 0)
        return bool(readable) and sock.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True
