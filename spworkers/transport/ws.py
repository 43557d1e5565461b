"""WebSockets: `ws://HOST:PORT/PATH`.

Hosts and ports as in tcp, whose transport does the connecting; without a port it is 80. No path is `/`. Dialled, an
address may have a query, which the listener's side finds in HTTP-REQUEST; a listener has a path only.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import socket
import urllib.parse
from typing import Any, Final

from websockets.uri import WebSocketURI

from spworkers.errors import BadAddrError, from_os_error
from spworkers.transport import tcp
from spworkers.transport.acceptor import SocketAcceptor
from spworkers.transport.asgiapp import ASGIApp
from spworkers.transport.base import Acceptor, Address, Link, Options, Transport, flag, whole
from spworkers.transport.tcp import TcpAddress
from spworkers.transport.wslink import ClientLink, ServerLink
from spworkers.transport.wsmux import MuxAcceptor

__all__ = ["ASGIApp", "WsAddress", "WsTransport"]

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

    dialer_options = frozenset({"MAX-RCV-SIZE", "NO-DELAY"})
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
                "authenticate by a query, or by certificates"
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
        sock = await tcp.connect(address.where)
        try:
            tcp.prepare(sock, options)
            return ClientLink(sock, self._uri(address), _max_size(options), **tcp.ends(sock))
        except OSError as error:  # it was reset in between
            sock.close()
            raise from_os_error(error, f"dial {address}") from error

    async def listen(self, address: Address, options: Options, inherited: int | None = None) -> Acceptor:
        assert isinstance(address, WsAddress)
        if address.query:
            raise BadAddrError(f"listen {address}: a listener has a path, and no query")
        server = options.get(WEB_SERVER)
        if isinstance(server, str):
            make = functools.partial(self._link, path=address.path, options=options)
            return await MuxAcceptor.listen(server, address.path, address.url, make)
        sock = await tcp.bind(address.where, inherited)
        bound = f"{self.scheme}://{tcp.text_of(sock.getsockname())}{address.path}"
        return SocketAcceptor(sock, bound, functools.partial(self._accepted, path=address.path, options=options))

    def _accepted(self, sock: socket.socket, path: str, options: Options) -> Link:
        tcp.prepare(sock, options)
        return self._link(sock, path, options, **tcp.ends(sock))

    def _link(self, sock: socket.socket, path: str, options: Options, **more: Any) -> ServerLink:
        check_origin = functools.partial(flag, options, "WEBSOCKET-CHECKORIGIN", True)
        return ServerLink(sock, path, check_origin, _max_size(options), **more)

    def _uri(self, address: WsAddress) -> WebSocketURI:
        where = address.where
        host = where.host if where.host not in ("", "0.0.0.0", "::") else "localhost"  # noqa: S104 - as tcp dials them
        return WebSocketURI(self.scheme == "wss", host, where.port, address.path, address.query)


def _quoted(text: str) -> str:
    """Percent-encoded where that was not done already."""
    broken = re.search(r"%(?![0-9A-Fa-f]{2})", text)
    return urllib.parse.quote(text.replace("%", "%25") if broken else text, safe=_SAFE)


def _max_size(options: Options) -> int:
    size = whole(options, "MAX-RCV-SIZE")
    return DEFAULT_MAX_SIZE if size is None else size
