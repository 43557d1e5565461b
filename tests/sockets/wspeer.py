"""The other end of a WebSocket, by hand: requests, frames, and whatever is no good one."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Mapping
from typing import Any, cast

import psutil
from helpers import eventually
from sockets.kit import BOUND
from websockets.frames import Close, Frame, Opcode

import spworkers as sp

HEADERS = {
    "Host": "{host}",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "{protocol}.sp.nanomsg.org",
}
"""A good request's; the key is the example of RFC 6455, 1.3."""

ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""What the key has to be answered with, from the same place."""


def request(target: str, host: str, protocol: str, headers: Mapping[str, str | None] = {}, line: str = "") -> bytes:
    """A request's head. `headers`: what is different in it; None: not there."""
    lines = [line or f"GET {target} HTTP/1.1"]
    for name, value in {**HEADERS, **headers}.items():
        if value is not None:
            lines.append(f"{name}: {value.format(host=host, protocol=protocol)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def frame(opcode: int, data: bytes, *, fin: bool = True, mask: bool = True, rsv: bool = False) -> bytes:
    """A frame as it should be, or nearly so."""
    made = bytearray(Frame(Opcode(opcode), data, fin).serialize(mask=mask))
    if rsv:
        made[0] |= 0x40
    return bytes(made)


class WsPeer:
    """A client that says what it is told to, and reads when it is told to."""

    def __init__(self, address: str, timeout: float = BOUND) -> None:
        where, _, path = address.partition("://")[2].partition("/")
        host, _, port = where.rpartition(":")
        self.where, self.path = where, f"/{path}"
        self.sock = socket.create_connection((host.strip("[]"), int(port)), timeout)
        self.file = self.sock.makefile("rb")

    @classmethod
    def open(cls, address: str, protocol: str, headers: Mapping[str, str | None] = {}) -> WsPeer:
        """Connect, and shake hands as a peer of a server's `protocol`."""
        peer = cls(address)
        status, answered = peer.ask(protocol, headers)
        assert status == 101, (status, answered)
        return peer

    def ask(
        self, protocol: str, headers: Mapping[str, str | None] = {}, path: str | None = None, line: str = ""
    ) -> tuple[int, dict[str, str]]:
        """Send a request; returns the status and the headers of the answer."""
        self.write(request(path or self.path, self.where, protocol, headers, line))
        return self.answer()

    def answer(self) -> tuple[int, dict[str, str]]:
        status = self.file.readline()
        assert status.startswith(b"HTTP/1.1 "), status
        found = {}
        while (field := self.file.readline().decode().strip()) != "":
            name, _, value = field.partition(":")
            found[name.lower()] = value.strip()
        return int(status.split()[1]), found

    def write(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send(self, payload: bytes, opcode: int = 2) -> None:
        self.write(frame(opcode, payload))

    def recv_frame(self) -> tuple[int, bool, bytes]:
        """Opcode, FIN and payload of the next frame."""
        first, second = self._exactly(2)
        assert not second & 0x80, "a server's frames are not masked"
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", self._exactly(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self._exactly(8))
        return first & 0x0F, bool(first & 0x80), self._exactly(length)

    def recv(self) -> bytes:
        """The next message, of whatever fragments."""
        message = b""
        while True:
            _, fin, data = self.recv_frame()
            message += data
            if fin:
                return message

    def closed(self) -> int:
        """The code of the close frame that comes next."""
        opcode, _, data = self.recv_frame()
        assert opcode == Opcode.CLOSE, (opcode, data)
        return int(Close.parse(data).code)

    def ended(self) -> bool:
        """Wait until the other side has closed, whatever it says before."""
        try:
            while self.file.read1(65536):
                pass
        except ConnectionError:
            pass
        return True

    def _exactly(self, size: int) -> bytes:
        data = self.file.read(size)
        assert len(data) == size, f"the end after {data!r}"
        return data

    def close(self) -> None:
        self.file.close()
        self.sock.close()

    def __enter__(self) -> WsPeer:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def process_of(web: sp.WebServer) -> psutil.Process:
    """The one that listens on its port. A look at the system's connections can miss lines while many come and go."""
    return cast("psutil.Process", eventually(lambda: _listens(int(web.address.rpartition(":")[2]))))


def _listens(port: int) -> psutil.Process | None:
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # one that was killed before, say
            if process.name() == "spw-web" and any(
                connection.laddr.port == port and connection.status == psutil.CONN_LISTEN
                for connection in process.net_connections("tcp")
            ):
                return process
    return None
