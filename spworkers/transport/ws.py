"""WebSockets: `ws://HOST:PORT/PATH`, and over TLS `wss://HOST:PORT/PATH`.

Hosts and ports as in tcp, whose transport does the connecting; without a port it is 80, or 443. No path is `/`.
Dialled, an address may have a query, which the listener's side finds in HTTP-REQUEST; a listener has a path only. TLS
is that of tls+tcp: TLS-CONFIG, certificates, names.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import socket
import urllib.parse
from typing import Any, Final

from websockets.uri import WebSocketURI

from spworkers.errors import AddrInUseError, BadAddrError, from_os_error
from spworkers.transport import tcp
from spworkers.transport.acceptor import SocketAcceptor
from spworkers.transport.asgiapp import ASGIApp
from spworkers.transport.base import Acceptor, Address, Link, Options, Transport, flag, whole
from spworkers.transport.tcp import TcpAddress
from spworkers.transport.tls import Side, TLSTransport
from spworkers.transport.wslink import ClientLink, ServerLink
from spworkers.transport.wsmux import MuxAcceptor

__all__ = ["ASGIApp", "WsAddress", "WsTransport", "WssTransport"]

DEFAULT_MAX_SIZE: Final = 1 << 20
"""MAX-RCV-SIZE where nobody has said it."""

WEB_SERVER: Final = "WEB-SERVER"
"""What a listener's options say, beside those that users know, when a `WebServer` of the program accepts for it."""

_SAFE = "/%:@!$&'()*+,;=-._~?"  # RFC 3986: what a path and a query may contain as it is


@dataclasses.dataclass(frozen=True)
class WsAddress(Address):
    """Where to connect, and what to ask for there.

    Attributes:
        where: host and port.
        path: begins with `/`; percent-encoded, as it goes on the wire.
        query: without its question mark; may be empty.
    """

    where: TcpAddress
    path: str
    query: str = ""


class WsTransport(Transport):
    """WebSockets over TCP."""

    dialer_options = frozenset({"MAX-RCV-SIZE", "NO-DELAY", "WEBSOCKET-HEADERS"})
    listener_options = frozenset({"MAX-RCV-SIZE", "NO-DELAY", "WEBSOCKET-CHECKORIGIN"})
    pipe_options = Transport.pipe_options | {"HTTP-REQUEST"}

    default_port = 80

    def parse(self, address: str) -> WsAddress:
        rest = self.rest_of(address)
        end = min((at for at in (rest.find(mark) for mark in "/?#") if at >= 0), default=len(rest))
        host, target = rest[:end], rest[end:]
        if "@" in host:
            raise BadAddrError(
                f"an address of {self.scheme}:// has no user and password, as addresses are logged; "
                "authenticate by websocket_headers=, or by certificates"
            )
        if "#" in target:
            raise BadAddrError(f"{address!r}: a fragment (#) is never sent; leave it out")
        if not target.isprintable() or " " in target:
            raise BadAddrError(f"{address!r}: spaces and control characters have no place in a path; write %20")
        path, _, query = target.partition("?")
        where = TcpAddress(address, *tcp.split_host_port(address, self._with_port(host)))
        return WsAddress(address, where, _quoted(path) or "/", _quoted(query))

    def _with_port(self, host: str) -> str:
        """`HOST:PORT`, whichever way the host is written."""
        has_port = "]:" in host if host.startswith("[") else ":" in host
        return host if has_port else f"{host}:{self.default_port}"

    async def dial(self, address: Address, options: Options) -> Link:
        assert isinstance(address, WsAddress)
        self._check(options, "dialer", f"dial {address}")
        sock = await tcp.connect(address.where)
        try:
            more = self._secured(sock, address, options, accepted=False)
            return ClientLink(sock, self._uri(address), _max_size(options), _headers(options), **more)
        except OSError as error:  # it was reset in between
            sock.close()
            raise from_os_error(error, f"dial {address}") from error

    async def listen(self, address: Address, options: Options, inherited: int | None = None) -> Acceptor:
        assert isinstance(address, WsAddress)
        if address.query:
            raise BadAddrError(f"listen {address}: a listener has a path, and no query")
        server = options.get(WEB_SERVER)
        if isinstance(server, str):
            make = functools.partial(self._link, address=address, options=options)
            return await MuxAcceptor.listen(server, address.path, address.url, make)
        self._check(options, "listener", f"listen {address}", inherited is not None)
        try:
            sock = await tcp.bind(address.where, inherited)
        except AddrInUseError as error:
            text = f"{error}; sockets of one program can share a port: sp.WebServer"
            raise AddrInUseError(text) from error.__cause__  # the system's own
        bound = f"{self.scheme}://{tcp.text_of(sock.getsockname())}{address.path}"
        return SocketAcceptor(sock, bound, functools.partial(self._accepted, address=address, options=options))

    def _accepted(self, sock: socket.socket, address: WsAddress, options: Options) -> Link:
        return self._link(sock, address, options, **self._secured(sock, address, options, accepted=True))

    def _check(self, options: Options, side: Side, doing: str, lenient: bool = False) -> None:
        """Whether a connection could be made safe. `lenient`: a predecessor's could; then that is only logged."""

    def _secured(self, sock: socket.socket, address: WsAddress, options: Options, *, accepted: bool) -> dict[str, Any]:
        """What a link of a connected socket is made of, but for what is particular to its side."""
        tcp.prepare(sock, options)
        return tcp.ends(sock)

    def _link(self, sock: socket.socket, address: WsAddress, options: Options, **more: Any) -> ServerLink:
        check_origin = functools.partial(flag, options, "WEBSOCKET-CHECKORIGIN", True)
        # Over TLS it is the certificate that says which names are ours.
        host = "" if self.scheme == "wss" else address.where.host
        return ServerLink(sock, address.path, check_origin, _max_size(options), host=host, **more)

    def _uri(self, address: WsAddress) -> WebSocketURI:
        where = address.where
        host = where.host if where.host not in ("", "0.0.0.0", "::") else "localhost"  # noqa: S104 - as tcp dials them
        return WebSocketURI(self.scheme == "wss", host, where.port, address.path, address.query)


class WssTransport(WsTransport):
    """WebSockets over TLS over TCP."""

    dialer_options = WsTransport.dialer_options | {"TLS-CONFIG"}
    listener_options = WsTransport.listener_options | {"TLS-CONFIG"}
    pipe_options = WsTransport.pipe_options | {"TLS-STATE"}

    default_port = 443

    def __init__(self, scheme: str) -> None:
        super().__init__(scheme)
        self._tls = TLSTransport(scheme)

    def _check(self, options: Options, side: Side, doing: str, lenient: bool = False) -> None:
        self._tls.check(options, side, doing, lenient=lenient)

    def _secured(self, sock: socket.socket, address: WsAddress, options: Options, *, accepted: bool) -> dict[str, Any]:
        tls = self._tls.link(sock, address.where, options, accepted=accepted)
        return {"local": tls.local, "remote": tls.remote, "tls": tls}


def _quoted(text: str) -> str:
    """Percent-encoded where that was not done already."""
    broken = re.search(r"%(?![0-9A-Fa-f]{2})", text)
    return urllib.parse.quote(text.replace("%", "%25") if broken else text, safe=_SAFE)


def _headers(options: Options) -> dict[str, str]:
    value = options.get("WEBSOCKET-HEADERS")
    return value if isinstance(value, dict) else {}


def _max_size(options: Options) -> int:
    size = whole(options, "MAX-RCV-SIZE")
    return DEFAULT_MAX_SIZE if size is None else size
