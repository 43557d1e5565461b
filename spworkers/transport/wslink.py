"""A WebSocket connection: its opening handshake at either end, and how it is closed (RFC 6455).

    client ── GET /path, Upgrade: websocket, Sec-WebSocket-Protocol: rep.sp.nanomsg.org ──▶ server
           ◀─ 101 Switching Protocols, Sec-WebSocket-Protocol: rep.sp.nanomsg.org ─────────

There is no SP handshake on top of it: the sub-protocol names the protocol of the *server's* socket. The client offers
exactly one (nng refuses more), a server takes its own out of any list. What it refuses it answers as mangos does: 404
for another path, 403 for a foreign Origin, 400 for another sub-protocol, or none, or another version. The 101 waits for
the user's ATTACHING hook, which may have another status sent instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from websockets.datastructures import Headers
from websockets.exceptions import NegotiationError
from websockets.http11 import Request, Response
from websockets.protocol import OPEN
from websockets.protocol import Protocol as WebSocket
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from spworkers.errors import BadHeaderError, BadProtoError, ConnRefusedError, SPError
from spworkers.httprequest import FORWARDED, HTTPRequest, rebound, same_origin
from spworkers.protocols import PROTOCOL_BY_NUMBER
from spworkers.transport.base import Link, Reader, Writer
from spworkers.transport.handshake import Handshake, doing_with, recv_some, send_all
from spworkers.transport.stream import Stream
from spworkers.transport.tls import TLSLink
from spworkers.transport.waiting import writable
from spworkers.transport.wshead import (
    ClientSide,
    ServerSide,
    forget,
    in_few_words,
    last_words,
    log,
    path_of,
    read_head,
    shown,
)
from spworkers.transport.wsmessages import READ_SIZE, WsReader, WsWriter, limits_of

PATIENCE = 1.0
"""Seconds that a peer has to answer our close frame when a pipe was lost; the socket's own close has LINGER."""

_KEPT_OUT = frozenset({401, 402, 407, 429, 503})
"""Statuses that speak of us, or of now, and not of what is spoken there."""

_NORMAL, _GOING_AWAY, _POLICY = 1000, 1001, 1008


def subprotocol(number: int) -> Subprotocol:
    """The WebSocket sub-protocol of a server's socket, by its protocol's number."""
    return Subprotocol(f"{PROTOCOL_BY_NUMBER[number].name}.sp.nanomsg.org")


class WsLink(Link):
    """What both ends have in common.

    Args:
        sock: connected.
        tls: the link that comes before everything else on wss; its socket is this one.
        early: bytes that were read from it already.
    """

    __slots__ = ("_code", "_early", "_reader", "_tls", "_writer", "stream", "websocket")

    def __init__(
        self,
        sock: socket.socket,
        websocket: WebSocket,
        *,
        local: str,
        remote: str,
        tls: TLSLink | None = None,
        early: bytes = b"",
    ) -> None:
        super().__init__(sock, "ws", local=local, remote=remote)
        self.stream: Stream = sock
        """What carries the bytes: the socket, or a TLS session on it."""
        self.websocket = websocket
        self._tls = tls
        self._early = early
        self._code = _NORMAL  # why the connection is closed
        self._reader: WsReader | None = None
        self._writer: WsWriter | None = None

    # ---- messages

    def reader(self, max_size: int) -> Reader:
        writer = self._writer = WsWriter(self.websocket, self.stream)
        reader = self._reader = WsReader(self.websocket, self.stream, writer, max_size, self._early)
        return reader

    def writer(self) -> Writer:
        assert self._writer is not None, "the reader is asked for first"
        return self._writer

    # ---- the opening handshake

    async def shake(self, loop: asyncio.AbstractEventLoop, handshake: Handshake) -> None:
        if self._tls is not None:
            self.stream = await self._tls.secure(loop)
            self.properties.update(self._tls.properties)
        await self._open(loop, handshake)

    def missing(self, handshake: Handshake) -> str:
        if self._tls is not None and self.stream is self.sock:
            return self._tls.missing(handshake)
        return self._missing

    async def _open(self, loop: asyncio.AbstractEventLoop, handshake: Handshake) -> None:
        """Shake hands as RFC 6455 has it."""
        raise NotImplementedError

    _missing = ""
    """What `_open` waits for."""

    async def _send(self, loop: asyncio.AbstractEventLoop) -> None:
        """Write what the protocol object has to say."""
        await send_all(loop, self.stream, b"".join(self.websocket.data_to_send()))

    # ---- the end

    def close(self) -> None:
        if self._tls is not None:
            self._tls.close()
        super().close()
        forget(self.websocket)

    def hang_up(self) -> None:
        reader, writer = self._reader, self._writer
        if reader is None or writer is None or reader.hung_up:
            self.close()
            return
        self._take_leave(writer)
        with contextlib.suppress(OSError):  # seen again in a moment
            writer.flush()
        _in_background(self, self.part)

    def _take_leave(self, writer: WsWriter) -> None:
        """Queue the close frame, unless that was done."""
        if self.websocket.state is OPEN:
            self.websocket.send_close(self._code)
        writer.say(self.websocket.data_to_send())

    def refuse(self) -> None:
        self._code = _POLICY
        self.hang_up()

    async def part(self, loop: asyncio.AbstractEventLoop) -> None:
        """Say so with a close frame, and read on until the peer has answered it and hung up (RFC 6455, 7.1.1)."""
        websocket, writer = self.websocket, self._writer
        assert writer is not None, "a pipe has a writer"
        self._take_leave(writer)
        shut = False
        while True:
            while not writer.flush():
                await writable(loop, self.sock.fileno())
            if writer.farewell and not shut:
                shut = True
                await self._shut(loop)
            data = await recv_some(loop, self.stream, READ_SIZE)
            if not data:
                return
            websocket.receive_data(data)
            websocket.events_received()
            writer.say(websocket.data_to_send())

    async def _shut(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            try:
                self.stream.shutdown(socket.SHUT_WR)
            except BlockingIOError:
                await writable(loop, self.sock.fileno())
            else:
                return


_leaving: set[asyncio.Task[None]] = set()


def _in_background(link: WsLink, how: Callable[[asyncio.AbstractEventLoop], Coroutine[object, object, None]]) -> None:
    """Part from a peer in the background, however long that takes, but not longer than PATIENCE."""
    loop = asyncio.get_running_loop()

    async def leave() -> None:
        try:
            with contextlib.suppress(OSError, asyncio.TimeoutError, SPError):
                await asyncio.wait_for(how(loop), PATIENCE)
        finally:
            link.close()

    task = loop.create_task(leave())
    _leaving.add(task)
    task.add_done_callback(_leaving.discard)


class ServerLink(WsLink):
    """The listener's end.

    Args:
        path: of the listener; a request for another one is answered with 404.
        check_origin: WEBSOCKET-CHECKORIGIN, asked when the request is there.
        max_size: MAX-RCV-SIZE in bytes; 0: any.
        host: of the listener, as it was given; empty: any.
    """

    __slots__ = ("_check_origin", "_host", "_path", "_refusal", "_welcome")

    def __init__(
        self,
        sock: socket.socket,
        path: str,
        check_origin: Callable[[], bool],
        max_size: int,
        *,
        host: str = "",
        **more: Any,
    ) -> None:
        super().__init__(sock, ServerSide(max_size=limits_of(max_size), logger=log), **more)
        self._code = _GOING_AWAY
        self._path = path
        self._host = host
        self._check_origin = check_origin
        self._welcome: Response | None = None  # until it is sent
        self._refusal: Response | None = None  # what is sent instead

    _missing = "no whole request for a WebSocket"

    async def _open(self, loop: asyncio.AbstractEventLoop, handshake: Handshake) -> None:
        websocket = self.websocket
        assert isinstance(websocket, ServerProtocol)
        websocket.available_subprotocols = [subprotocol(handshake.own)]
        doing = doing_with(self.remote)
        try:
            request, _, self._early = await read_head(loop, self.stream, websocket, doing, self._early)
        except BadHeaderError:
            await send_all(loop, self.stream, last_words(websocket))
            raise
        assert isinstance(request, Request)
        response = self._answer(websocket, request)
        if response.status_code == 101:
            self._welcome = response
        else:
            websocket.send_response(response)
            await self._send(loop)
            kind = BadProtoError if isinstance(websocket.handshake_exc, NegotiationError) else BadHeaderError
            said = shown(websocket.handshake_exc or response.body.decode(errors="replace"))
            raise kind(f"{doing}: answered with {response.status_code}: {said}")
        self.properties["HTTP-REQUEST"] = _described(request)

    async def admit(self, loop: asyncio.AbstractEventLoop) -> None:
        self._say_welcome()
        await self._send(loop)

    def _say_welcome(self) -> None:
        welcome, self._welcome = self._welcome, None
        if welcome is not None:
            assert isinstance(self.websocket, ServerProtocol)
            self.websocket.send_response(welcome)

    def decline(self, status: int, reason: str) -> None:
        assert isinstance(self.websocket, ServerProtocol)
        self._refusal = self.websocket.reject(status, f"{reason}\n" if reason else "")
        if status == 401:  # RFC 9110, 15.5.2: it has to name a scheme
            self._refusal.headers["WWW-Authenticate"] = "Bearer"

    def refuse(self) -> None:
        if self._welcome is None or self._refusal is None:
            self._say_welcome()  # who shakes hands first can be told 1008
            super().refuse()
            return
        assert isinstance(self.websocket, ServerProtocol)
        self.websocket.send_response(self._refusal)
        _in_background(self, self._tell_why)

    async def _tell_why(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer, and read until the peer has hung up: a close with unread bytes would take the answer back."""
        await self._send(loop)
        await self._shut(loop)
        while await recv_some(loop, self.stream, READ_SIZE):
            pass

    def _answer(self, websocket: ServerProtocol, request: Request) -> Response:
        path = path_of(request)
        if path != self._path:
            return websocket.reject(404, f"no socket at {path!a}\n")
        if self._check_origin() and not self._may_come(request.headers):
            return websocket.reject(403, "a page of another origin may not connect\n")
        try:
            return in_few_words(websocket, websocket.accept(request))
        except UnicodeError:  # websockets before 17 cannot put into words what is no text in a header
            return websocket.reject(400, "Bad Request\n")

    def _may_come(self, headers: Headers) -> bool:
        """Whether its page is one of ours; what is no browser names none."""
        origins, hosts = headers.get_all("Origin"), headers.get_all("Host")
        if not same_origin(origins, hosts):
            return False
        if not origins or any(name in headers for name in FORWARDED):
            return True  # the proxy knows the name
        return not rebound(hosts[0], self._host, self.local)


class ClientLink(WsLink):
    """The dialer's end.

    Args:
        uri: what was dialled.
        max_size: MAX-RCV-SIZE in bytes; 0: any.
        headers: WEBSOCKET-HEADERS.
    """

    __slots__ = ("_headers",)

    def __init__(
        self, sock: socket.socket, uri: WebSocketURI, max_size: int, headers: Mapping[str, str], **more: Any
    ) -> None:
        super().__init__(sock, ClientSide(uri, max_size=limits_of(max_size), logger=log), **more)
        self._headers = headers

    _missing = "no answer to the request for a WebSocket"

    async def _open(self, loop: asyncio.AbstractEventLoop, handshake: Handshake) -> None:
        websocket = self.websocket
        assert isinstance(websocket, ClientSide)
        websocket.available_subprotocols = [subprotocol(handshake.peer)]
        request = websocket.connect()
        for name, value in self._headers.items():
            request.headers[name] = value
        websocket.send_request(request)
        await self._send(loop)
        doing = doing_with(self.remote)
        response, _, self._early = await read_head(loop, self.stream, websocket, doing)
        assert isinstance(response, Response)
        if websocket.handshake_exc is not None:
            words = shown(bytes(response.body or b"")[:200].decode(errors="replace"))
            if response.status_code in _KEPT_OUT:
                status = shown(f"{response.status_code} {response.reason_phrase}")
                raise ConnRefusedError(f"{doing}: the server keeps us out with {status}{f': {words}' if words else ''}")
            refused = response.status_code != 101 or isinstance(websocket.handshake_exc, NegotiationError)
            words = words or shown(websocket.handshake_exc)
            raise (BadProtoError if refused else BadHeaderError)(
                f"{doing}: the server answered with {response.status_code}, so there is no "
                f"{websocket.available_subprotocols[0]} at {websocket.uri.resource_name}: {words}"
            )
        self.properties["HTTP-REQUEST"] = _described(request)


def _described(request: Request) -> dict[str, Any]:
    return HTTPRequest("GET", request.path, tuple(request.headers.raw_items())).to_wire()
