"""A web server for several sockets: one host and port, a socket at each path, pages and files beside them."""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import socket
import urllib.parse
from collections.abc import Mapping
from typing import Any, Final

from spworkers._coerce import COERCE, is_text
from spworkers.closing import Closing
from spworkers.endpoint import WEB_SERVERS
from spworkers.errors import BadAddrError, BadValueError, SPError, TLSNoConfigError, from_os_error
from spworkers.options import OPTIONS
from spworkers.supervisor.client import ChildEvent, Supervisor, get_supervisor
from spworkers.webcounts import WebCounts

__all__ = ["WebServer"]

GRACE: Final = 1.0
"""Seconds that answers which are being sent have left when it is closed."""

_BACKLOG: Final = 4096
_SCHEMES: Final = {"http": "ws", "https": "wss"}
_PORTS: Final = {"http": 80, "https": 443}
_numbers = itertools.count(1)
_log = logging.getLogger("spworkers")

os.register_at_fork(after_in_child=WEB_SERVERS.clear)  # they are the parent's: a child's sockets are not behind them


class WebServer(Closing):
    """An HTTP server at whose paths sockets listen, by ws, and which shows pages and files at other ones.

        with sp.WebServer("http://127.0.0.1:8080", pages={"/": "<h1>hello</h1>"}, static={"/static": "site"}) as web:
            rep = sp.Rep(listen=web.url("/rep"))
            pub = sp.Pub(listen=web.url("/pub"))

    It runs in a process of its own, which is replaced when it dies, on the same port; connections of sockets are not
    its, but live in the sockets' own processes (with https their bytes still pass through it). It answers GET (and
    HEAD, with websockets 17 and newer), one request on each connection. For more than that, mount sockets on a server
    of yours: `spworkers.transport.ws.ASGIApp`.

    Args:
        address: `http://HOST:PORT`, or `https://`; `*` for every address, port 0 for a free one.
        pages: path → what to show there: a string (HTML), bytes, or either with its content type.
        static: path → a file, or a folder, whose files are shown below that path (`index.html` for a folder itself).
        tls_config: for https, as of a listener. The sockets need none.
        handshake_timeout: seconds for a request, and for each part of an answer; 0: no limit.
        max_handshakes: connections that are no socket's yet, answers that are being sent among them; of more the oldest
            is closed. For a socket at a path its own limits count besides (MAX-HANDSHAKES, MAX-PIPES, ACCEPT-RATE).
        accept_rate: connections that are accepted a second; after a quiet second, so many at once. 0: no limit.
        name: what to call it in `repr` and logs.

    Raises:
        BadAddrError, BadValueError: an argument is wrong.
        TLSNoConfigError, TLSNoCertError: https, and no configuration, or no certificate in it.
        AddrInUseError, AccessDeniedError …: it cannot be bound.
    """

    def __init__(
        self,
        address: str = "http://127.0.0.1:0",
        *,
        pages: Mapping[str, Any] | None = None,
        static: Mapping[str, str | os.PathLike[str]] | None = None,
        tls_config: Any = None,
        handshake_timeout: float = 10.0,
        max_handshakes: int = OPTIONS["MAX-HANDSHAKES"].default,
        accept_rate: int = OPTIONS["ACCEPT-RATE"].default,
        name: str | None = None,
    ) -> None:
        scheme, host, port = _parsed(address)
        self._spec: dict[str, Any] = {
            "pages": {_path(path): _page(path, page) for path, page in (pages or {}).items()},
            "static": {_path(path): _shown(path, where) for path, where in (static or {}).items()},
            "handshake_timeout": _seconds(handshake_timeout),
            "limits": {
                name: OPTIONS[name].coerce(value)
                for name, value in (("MAX-HANDSHAKES", max_handshakes), ("ACCEPT-RATE", accept_rate))
            },
            "tls_config": _secured(scheme, address, tls_config),
        }
        self._name = name
        self._owner = os.getpid()
        self._sock = _bind(address, host, port)
        self._scheme = scheme
        self._where = _text(self._sock.getsockname())
        self._spec["address"] = self.address
        self._key = f"web-{next(_numbers)}"
        self._closed = False
        self._counts_fd = -1
        try:
            self._counts_fd = WebCounts.memory()
            self._counts = WebCounts(self._counts_fd)
            self._supervisor: Supervisor = get_supervisor()
            self._spawn()
        except BaseException:
            self._release()
            raise
        WEB_SERVERS[self.url("")] = self._key
        self._supervisor.on_restart(self._spawn, of=self._key)

    @property
    def address(self) -> str:
        """`http://HOST:PORT`, or `https://`, as it is bound."""
        return f"{self._scheme}://{self._where}"

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._closed

    def url(self, path: str) -> str:
        """The address of a socket at a path of this server: to listen on, and to dial.

        Raises:
            BadValueError: there is a path, and it does not begin with `/`.
        """
        return f"{_SCHEMES[self._scheme]}://{self._where}{_path(path) if path else ''}"

    def close(self) -> None:
        """Accept no more. What is connected to a socket stays so, but for https, as a TLS session cannot move; the
        sockets' listeners stay too, to no effect."""
        if self._closed or self._owner != os.getpid():
            return
        self._closed = True
        if WEB_SERVERS.get(self.url("")) == self._key:
            del WEB_SERVERS[self.url("")]
        self._supervisor.forget_restart(self._spawn)
        with contextlib.suppress(OSError):  # who waits in the backlog is refused now
            self._sock.shutdown(socket.SHUT_RDWR)
        self._release()
        with contextlib.suppress(SPError):
            self._supervisor.end(self._key, grace=GRACE)

    def stats(self) -> dict[str, Any]:
        """What it has done since it was made, the processes that were replaced among it.

        Returns:
            `pid` of its process; `connections` that are no socket's, and `relays` (https only), each for a socket's
            connection whose TLS is done here, as they are now; how many were `accepted`, `handed_over` to a socket,
            `answered` with what is there, and `refused` with a status of 400 or more, each when the last byte was sent;
            and `drops`, connections that ended without such an answer, by cause: as of a listener (`bad_header` for
            what was no request, whatever status that got), and `answer_cut` where somebody hung up or did not read
            while being answered. What was under way in a process that was killed is not in them.
        """
        return self._counts.read()

    def _release(self) -> None:
        self._sock.close()
        if self._counts_fd >= 0:
            os.close(self._counts_fd)
            self._counts_fd = -1

    def _spawn(self) -> None:
        if self._closed:
            return
        fds = [self._sock.fileno(), self._counts_fd]
        self._supervisor.spawn(self._key, "web", self._spec, restart=True, fds=fds, on_event=self._happened)

    def _happened(self, event: ChildEvent) -> None:
        if not self._closed:
            event.log(_log, "process", repr(self), "it is replaced")

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._spec['pages'])} pages, {len(self._spec['static'])} static"
        return f"<WebServer {f'{self._name} ' if self._name else ''}{self.address}: {state}>"


def _parsed(address: str) -> tuple[str, str, int]:
    if not isinstance(address, str):
        raise BadValueError(f"an address is a string such as 'http://127.0.0.1:8080', not {address!r}")
    try:
        parts = urllib.parse.urlsplit(address)
        port = _PORTS.get(parts.scheme, 0) if parts.port is None else parts.port
    except ValueError as error:
        raise BadAddrError(f"{address!r}: {error}") from error
    if parts.scheme not in _SCHEMES:
        raise BadAddrError(f"{address!r}: a web server's address begins with http:// or https://")
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise BadAddrError(f"{address!r}: write http://HOST:PORT and nothing else; sockets and pages have paths")
    host = parts.netloc.rpartition(":")[0] if parts.port is not None else parts.netloc
    return parts.scheme, host.strip("[]"), port


def _secured(scheme: str, address: str, config: Any) -> Any:
    """TLS-CONFIG as it crosses to the process."""
    if (config is None) == (scheme == "https"):
        if config is None:
            raise TLSNoConfigError(f"listen {address}: {TLSNoConfigError.advice}")
        raise BadValueError(f"{address!r} is no https://, so tls_config would protect nothing")
    try:
        config = COERCE["tls"](config)
    except ValueError as error:
        raise BadValueError(f"tls_config {error}") from error
    if config is not None and not isinstance(config, str):
        config.server_context()
        return config.to_wire()
    return config


def _bind(address: str, host: str, port: int) -> socket.socket:
    try:
        if host in ("", "*", "::"):
            if socket.has_dualstack_ipv6():
                return socket.create_server(("::", port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True)
            host = "0.0.0.0"  # noqa: S104 - every address is what was asked for
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        found.sort(key=lambda each: each[0] != socket.AF_INET)
        family, _, _, _, where = found[0]
        return socket.create_server(where[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise from_os_error(_numbered(error), f"listen {address}") from error


def _numbered(error: OSError) -> OSError:
    """create_server raises its errors anew, without what they were; the number is there still."""
    return error if error.errno else OSError(errno.EADDRNOTAVAIL, str(error))


def _text(sockaddr: tuple[Any, ...]) -> str:
    host, port = sockaddr[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _path(path: str) -> str:
    if not is_text(path) or not path.startswith("/") or "?" in path or "#" in path:
        raise BadValueError(f"{path!r} is no path of a web server: it begins with / and has no ? and no #")
    return path


def _page(path: str, page: Any) -> tuple[bytes, str]:
    body, kind = page if isinstance(page, tuple) and len(page) == 2 else (page, "")
    if not isinstance(kind, str) or not isinstance(body, (str, bytes)):
        raise BadValueError(f"the page at {path!r} is a string, bytes, or either with a content type, not {page!r}")
    if isinstance(body, str):
        return body.encode(), kind or "text/html; charset=utf-8"
    return body, kind or "application/octet-stream"


def _shown(path: str, where: str | os.PathLike[str]) -> str:
    try:
        text = os.path.abspath(os.fsdecode(where))
    except TypeError as error:
        raise BadValueError(f"what is shown at {path!r} is a file or a folder, not {where!r}") from error
    if not os.path.exists(text):
        raise BadValueError(f"there is no file or folder {text!r} to be shown at {path!r}")
    return text


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise BadValueError(f"handshake_timeout wants seconds, 0 or more, not {value!r}")
    return float(value)
