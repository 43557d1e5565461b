"""Sockets on a web server of yours: an ASGI application that bridges WebSockets to sockets of this program."""

from __future__ import annotations

import contextlib
import socket
import struct
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Final

from spworkers.closing import Closing
from spworkers.errors import BadValueError, SPError
from spworkers.httprequest import HTTPRequest, same_origin
from spworkers.ring import FrameReader
from spworkers.transport.asgi import ADMITTED, GOING_AWAY, LAST_WORD, MOST_REASON, POLICY, TOO_BIG

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

__all__ = ["ASGIApp"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

READ_SIZE: Final = 256 * 1024
_REFUSALS: Final = range(400, 600)
_HEAD: Final = struct.Struct(">Q")


class ASGIApp(Closing):
    """An ASGI 3 application: at each path a socket, for any number of WebSockets, on asyncio and trio alike.

        rep = sp.Rep()
        app = ASGIApp({"/rep": rep})                       # uvicorn module:app
        site = Starlette(routes=[Mount("/sp", app)])       # or below another application, at /sp/rep

    The sockets are those of the process that the server runs in. What it has taken from a socket and not yet written to
    a browser is lost with that process.

    Args:
        sockets: path → socket. Each is made to listen at `asgi://PATH`; its hooks see `pipe.http_request`.
        check_origin: refuse a page whose `Origin` is another host than ours.

    Raises:
        BadValueError: a path does not begin with `/`, or what is there is no socket.
    """

    def __init__(self, sockets: Mapping[str, Any], *, check_origin: bool = True) -> None:
        for path, sock in sockets.items():
            if not isinstance(path, str) or not path.startswith("/"):
                raise BadValueError(f"{path!r} is no path of an ASGIApp: it begins with /")
            if not hasattr(sock, "new_listener"):
                raise BadValueError(f"at {path!r} of an ASGIApp there has to be a socket, not {sock!r}")
        self._check_origin = check_origin
        self._listeners = {path: sock.listen(f"asgi://{path}") for path, sock in sockets.items()}

    def close(self) -> None:
        """Take no more WebSockets; what is connected stays so. The sockets are still yours."""
        listeners, self._listeners = self._listeners, {}
        for listener in listeners.values():
            with contextlib.suppress(SPError):
                listener.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls it."""
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            await _no_page(scope, send, self._listeners)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        listener = self._listeners.get(_path_of(scope))
        if listener is None:
            await _refuse(scope, send, 404)
            return
        protocol = f"{listener._socket.info.self_name}.sp.nanomsg.org"
        if self._check_origin and not same_origin(_headers(scope, b"origin"), _headers(scope, b"host")):
            await _refuse(scope, send, 403)
        elif protocol not in scope.get("subprotocols", ()):
            await _refuse(scope, send, 400)
        else:
            ours, theirs = socket.socketpair()
            with ours:
                ours.setblocking(False)
                try:
                    with theirs:
                        facts = _facts_of(scope)
                        listener._socket._link.tell("connection", [theirs.fileno()], key=listener._key, facts=facts)
                except SPError:  # the socket, or its listener, is closed
                    await _refuse(scope, send, 503)
                    return
                code, reason = await _verdict(ours)
                if code in _REFUSALS:
                    await _refuse(scope, send, code, reason)
                    return
                await send({"type": "websocket.accept", "subprotocol": protocol})
                if code == ADMITTED:
                    await Bridge(ours, receive, send, listener.max_rcv_size).run()
                else:
                    await send({"type": "websocket.close", "code": code})

    def __repr__(self) -> str:
        return f"<ASGIApp: {', '.join(sorted(self._listeners)) or 'closed'}>"


async def _verdict(sock: socket.socket) -> tuple[int, str]:
    """What the I/O process says first, and why: ADMITTED, a status of HTTP to refuse with, or a code to close with."""
    said = await _read(sock, _HEAD.size)
    if len(said) < _HEAD.size:  # it is gone
        return 503, ""
    code = _HEAD.unpack(said)[0] & 0xFFFF
    return code, (await _read(sock, MOST_REASON)).decode(errors="replace") if code in _REFUSALS else ""


async def _read(sock: socket.socket, size: int) -> bytes:
    """So many bytes; fewer if it ends before."""
    import anyio

    said = b""
    while len(said) < size:
        try:
            more = sock.recv(size - len(said))
        except BlockingIOError:
            await anyio.wait_readable(sock)
            continue
        except OSError:
            more = b""
        if not more:
            break
        said += more
    return said


class Bridge:
    """One WebSocket and one end of a socket pair.

    Args:
        sock: non-blocking; the caller's.
        receive, send: the WebSocket's, accepted.
        max_size: MAX-RCV-SIZE.
    """

    def __init__(self, sock: socket.socket, receive: Receive, send: Send, max_size: int) -> None:
        self._sock = sock
        self._receive = receive
        self._send = send
        self._max_size = max_size

    async def run(self) -> None:
        """Carry messages both ways until either side is closed, and close the other."""
        import anyio  # slow to import, and the ASGI server has done so, usually

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._inward, tasks)
            await self._outward()
            tasks.cancel_scope.cancel()

    async def _inward(self, tasks: TaskGroup) -> None:
        """From the browser to the socket."""
        while True:
            message = await self._receive()
            if message["type"] != "websocket.receive":
                tasks.cancel_scope.cancel()
                return
            body = message.get("bytes")
            if body is None:
                body = message.get("text", "").encode()
            if 0 < self._max_size < len(body):
                await self._send({"type": "websocket.close", "code": TOO_BIG})
                tasks.cancel_scope.cancel()
                return
            try:
                await self._write(_HEAD.pack(len(body)) + body)
            except OSError:
                return  # the other direction sees the end, and says why

    async def _write(self, data: bytes) -> None:
        import anyio

        view = memoryview(data)
        while view:
            try:
                view = view[self._sock.send(view) :]
            except BlockingIOError:
                await anyio.wait_writable(self._sock)

    async def _outward(self) -> None:
        """From the socket to the browser, until the socket's side ends."""
        import anyio

        frames = FrameReader(-1, 0, 0)
        tail = b""
        while True:
            try:
                data = self._sock.recv(READ_SIZE)
            except BlockingIOError:
                await anyio.wait_readable(self._sock)
                continue
            except OSError:
                data = b""
            for payload in frames.feed(data):
                try:
                    await self._send({"type": "websocket.send", "bytes": payload})
                except Exception:  # a server's own word for that the browser has gone
                    return
            tail = (tail + data)[-_HEAD.size :]
            if not data or frames.error is not None:
                await self._close(frames, tail)
                return

    async def _close(self, frames: FrameReader, tail: bytes) -> None:
        code = GOING_AWAY
        if frames.error is not None and len(tail) == _HEAD.size:
            (word,) = _HEAD.unpack(tail)
            code = word & 0xFFFF if word & LAST_WORD else GOING_AWAY
        with contextlib.suppress(Exception):  # whatever a server raises when the browser has just gone
            await self._send({"type": "websocket.close", "code": code})


def _path_of(scope: Scope) -> str:
    """The path below where we are mounted; servers and frameworks have both ways to say it."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


def _facts_of(scope: Scope) -> dict[str, Any]:
    query = scope.get("query_string", b"").decode("latin-1")
    raw = scope.get("raw_path")
    path = urllib.parse.quote(scope["path"]) if raw is None else raw.decode("latin-1").partition("?")[0]
    headers = tuple((key.decode("latin-1"), value.decode("latin-1")) for key, value in scope["headers"])
    request = HTTPRequest("GET", f"{path}?{query}" if query else path, headers)
    return {
        "local": _end_of(scope.get("server")),
        "remote": _end_of(scope.get("client")),
        "properties": {"HTTP-REQUEST": request.to_wire()},
    }


def _end_of(pair: Any) -> str:
    if not pair:
        return ""
    host, port = pair
    return str(host) if port is None else f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


_WORDS: Final = {
    400: "another sub-protocol is spoken here",
    403: "a page of another origin may not connect",
    404: "no socket at this path",
    503: "the socket at this path is closed",
}


async def _refuse(scope: Scope, send: Send, status: int, reason: str = "") -> None:
    """Refuse a WebSocket before it is accepted: with the status if the server can send one, else as it does (403)."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": POLICY})
        return
    words = reason or _WORDS.get(status, "")
    body = f"{words}\n".encode() if words else b""
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    if status == 401:  # RFC 9110, 15.5.2: it has to name a scheme
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


async def _no_page(scope: Scope, send: Send, sockets: Mapping[str, Any]) -> None:
    here = _path_of(scope) in sockets
    body = b"this is a WebSocket\n" if here else b"there is nothing here\n"
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    if here:
        headers.append((b"upgrade", b"websocket"))
    await send({"type": "http.response.start", "status": 426 if here else 404, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope.get("method") == "HEAD" else body})


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
