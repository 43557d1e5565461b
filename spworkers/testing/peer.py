"""The other end of a connection, spoken by hand: handshakes, frames, garbage, silence, and every way of hanging up."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from spworkers.closing import Closing
from spworkers.errors import BadAddrError, BadValueError, ConnResetError, RecvTimeoutError, SPError, from_os_error
from spworkers.protocols import PROTOCOLS
from spworkers.transport.base import Framing
from spworkers.transport.frames import encode, header
from spworkers.transport.handshake import GREETING_SIZE, Handshake

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TIMEOUT", "RawListener", "RawPeer", "greeting"]

TIMEOUT = 20.0
"""Seconds after which whatever waits here has failed; nothing takes that long on a machine of one's own."""

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, no time at all


def greeting(protocol: str | int) -> bytes:
    """The eight bytes with which a peer of that protocol, by its name or number, begins a connection.

    Raises:
        BadValueError: there is no such protocol.
    """
    return Handshake(_number(protocol), 0).greeting


def _number(protocol: str | int) -> int:
    if isinstance(protocol, int) and 0 <= protocol <= 0xFFFF:
        return protocol
    if protocol not in PROTOCOLS:
        raise BadValueError(f"protocol {protocol!r}: give a number of 16 bits, or one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[protocol].number


class RawPeer(Closing):
    """A peer made of a plain socket: it says exactly the bytes that it is told to say, and reads only when told to.

        with sp.Rep(listen="tcp://127.0.0.1:0") as rep, RawPeer.dial(rep.listeners[0].address, "req") as peer:
            peer.send(b"\\x80\\0\\0\\1ping")
            assert rep.recv() == b"ping"
            rep.send(b"pong")
            assert peer.recv() == b"\\x80\\0\\0\\1pong"

    It closes when told to and not before, however long ago the other side has hung up (`ended`).

    Args:
        sock: a connected stream socket, which is the peer's from now on.
        framing: how messages are framed on it: `"stream"`, or `"ipc"` with a type byte in front.
        timeout: seconds that a read or a write may take.
    """

    def __init__(self, sock: socket.socket, framing: Framing = "stream", *, timeout: float = TIMEOUT) -> None:
        self.sock = sock
        self.framing: Framing = framing
        self.sock.settimeout(timeout)

    @classmethod
    def dial(cls, address: str, protocol: str | int | None = None, *, timeout: float = TIMEOUT) -> Self:
        """Connect to a listening socket.

        Args:
            address: `tcp://…` or `ipc://…`.
            protocol: shake hands as a peer of this protocol, by its name or number; None: say nothing yet.
            timeout: seconds for this, and for every read and write later.

        Raises:
            BadAddrError: neither tcp nor ipc.
            ConnRefusedError: nobody listens there.
        """
        scheme, _, rest = address.partition("://")
        with _ours(f"dial {address}"):
            if scheme == "tcp":
                host, _, port = rest.rpartition(":")
                sock = socket.create_connection((host.strip("[]"), int(port)), timeout)
            elif scheme == "ipc":
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                sock.settimeout(timeout)
                try:
                    sock.connect(_sockaddr(rest))
                except BaseException:
                    sock.close()
                    raise
            else:
                raise BadAddrError(f"{address!r}: a raw peer dials tcp:// and ipc://; for anything else there is Mock")
        peer = cls(sock, "ipc" if scheme == "ipc" else "stream", timeout=timeout)
        return peer._begun(protocol)

    def _begun(self, protocol: str | int | None) -> Self:
        try:
            if protocol is not None:
                self.shake(protocol)
        except BaseException:
            self.close()
            raise
        return self

    # ---- bytes

    def write(self, data: bytes) -> None:
        """Say these bytes.

        Raises:
            ConnResetError: the other side has hung up.
            SPError: it takes none, for longer than the timeout.
        """
        with _ours("write"):
            self.sock.sendall(data)

    def read(self, size: int) -> bytes:
        """So many bytes; fewer if the other side closes.

        Raises:
            RecvTimeoutError: they did not come in time.
            ConnResetError: the connection was reset.
        """
        data = b""
        while len(data) < size:
            part = self._read_some(size - len(data))
            if not part:
                break
            data += part
        return data

    def _read_some(self, size: int) -> bytes:
        try:
            with _ours("read"):
                return self.sock.recv(size)
        except TimeoutError as error:
            raise RecvTimeoutError(f"nothing came within {self.sock.gettimeout():g} s") from error

    # ---- the protocol

    def shake(self, protocol: str | int) -> bytes:
        """Say the greeting of a protocol and read the other side's, whatever it is.

        Returns:
            What the other side said: eight bytes, or fewer if it closed.
        """
        self.write(greeting(protocol))
        return self.read(GREETING_SIZE)

    def send(self, payload: bytes) -> None:
        """A message: its length (after a type byte, if the framing is `"ipc"`) and these bytes."""
        self.write(encode(self.framing, payload))

    def recv(self) -> bytes:
        """The next message's payload.

        Raises:
            ConnResetError: the other side closed before it was complete.
            RecvTimeoutError: it did not come in time.
        """
        head = self._exactly(len(header(self.framing, 0)))
        return self._exactly(int.from_bytes(head[-8:], "big"))

    def _exactly(self, size: int) -> bytes:
        data = self.read(size)
        if len(data) < size:
            raise ConnResetError(f"the other side closed after {len(data)} of {size} bytes")
        return data

    # ---- the end

    def ended(self) -> bool:
        """Wait until the other side closes; what it says before is passed over. Always True; our end stays open.

        Raises:
            RecvTimeoutError: it neither closes nor says anything for longer than the timeout.
        """
        with contextlib.suppress(ConnResetError):
            while self._read_some(65536):
                pass
        return True

    def finish(self) -> None:
        """Say that nothing more comes, and go on reading."""
        with _ours("finish"):
            self.sock.shutdown(socket.SHUT_WR)

    def refuse(self) -> None:
        """Fail the other side's sends from now on, while what we send still arrives. Only unix sockets can do that.

        Raises:
            BadValueError: this is another socket.
        """
        if self.sock.family != socket.AF_UNIX:
            raise BadValueError("refuse() needs a unix socket (ipc://, or a Mock's): TCP cannot end one direction so")
        with _ours("refuse"):
            self.sock.shutdown(socket.SHUT_RD)

    def reset(self) -> None:
        """Close as a crash would: over TCP the other side's next read or write fails with a reset.

        A unix socket resets only if the other side has said something that was not read; else it merely closes.
        """
        if self.sock.fileno() >= 0:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.sock.close()

    def close(self) -> None:
        """Close our end. Harmless when it is closed already."""
        self.sock.close()

    def __repr__(self) -> str:
        state = "closed" if self.sock.fileno() < 0 else f"fd {self.sock.fileno()}"
        return f"<RawPeer {self.framing}: {state}>"


class RawListener(Closing):
    """A server made of a plain socket, for sockets under test to dial.

        with RawListener() as server, sp.Req(dial=server.address, dial_asynch=True) as req:
            peer = server.accept("rep")
            req.send(b"ping")
            request = peer.recv()
            peer.send(request[:4] + b"pong")
            assert req.recv() == b"pong"

    Args:
        address: `tcp://HOST:PORT` or `ipc://PATH`; the default is a free port of this machine.
        timeout: seconds that an accept may take, and that its peers have for each read and write.
    """

    def __init__(self, address: str = "tcp://127.0.0.1:0", *, timeout: float = TIMEOUT) -> None:
        scheme, _, rest = address.partition("://")
        self._timeout = timeout
        self._path = ""
        with _ours(f"listen {address}"):
            if scheme == "tcp":
                host, _, port = rest.rpartition(":")
                self.sock = socket.create_server((host.strip("[]"), int(port)))
                self.address = f"tcp://{host}:{self.sock.getsockname()[1]}"
            elif scheme == "ipc":
                self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                try:
                    self.sock.bind(_sockaddr(rest))
                    self.sock.listen()
                except BaseException:
                    self.sock.close()
                    raise
                self.address = address
                self._path = "" if rest.startswith("@") else os.path.abspath(rest)
            else:
                raise BadAddrError(
                    f"{address!r}: a raw listener takes tcp:// and ipc://; for anything else there is Mock"
                )
        self._framing: Framing = "ipc" if scheme == "ipc" else "stream"
        self.sock.settimeout(timeout)

    def accept(self, protocol: str | int | None = None) -> RawPeer:
        """The next connection.

        Args:
            protocol: shake hands as a peer of this protocol, by its name or number; None: say nothing yet.

        Raises:
            ConnTimeoutError: nobody came in time.
        """
        with _ours(f"dial {self.address} (accept)"):
            sock, _ = self.sock.accept()
        return RawPeer(sock, self._framing, timeout=self._timeout)._begun(protocol)

    def close(self) -> None:
        """Listen no more; the peers live on. Harmless when it is closed already."""
        if self.sock.fileno() >= 0 and self._path:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
        self.sock.close()

    def __repr__(self) -> str:
        return f"<RawListener {self.address}: {'closed' if self.sock.fileno() < 0 else 'listening'}>"


def _sockaddr(rest: str) -> str:
    return f"\0{rest[1:]}" if rest.startswith("@") else rest


@contextlib.contextmanager
def _ours(doing: str) -> Iterator[None]:
    """Errors of our tree for those of the operating system."""
    try:
        yield
    except SPError:
        raise
    except TimeoutError as error:  # socket's own, which has no errno
        raise from_os_error(OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)), doing) from error
    except OSError as error:
        raise from_os_error(error, doing) from error
