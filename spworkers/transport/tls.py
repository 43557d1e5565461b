"""TLS over TCP: `tls+tcp://HOST:PORT`. Addresses are those of tcp.

A connection is TCP, then TLS, then what it would be without: the SP handshake and frames. TLS-CONFIG (a `TLSConfig` as
plain data, or the name of a factory) is read for each connection, and so are its files when they have changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import ipaddress
import logging
import os
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Literal

from spworkers.errors import BadValueError, InternalError, SPError, TLSError, TLSNoConfigError
from spworkers.tlsconfig import TLSConfig
from spworkers.transport.base import Acceptor, Address, Link, Options, Reader, Writer
from spworkers.transport.handshake import Handshake, exchange, recv_some
from spworkers.transport.stream import StreamReader, StreamWriter
from spworkers.transport.tcp import TcpAddress, TcpTransport, make_link
from spworkers.transport.tlsstream import TLSStream
from spworkers.transport.waiting import readable, writable

_log = logging.getLogger(__name__)

Side = Literal["listener", "dialer"]

_THIS_MACHINE = {"", "*", "0.0.0.0", "::"}  # noqa: S104 - hosts by which nobody is called, in a certificate or elsewhere


class TLSLink(Link):
    """A link on which TLS comes before everything else.

    Args:
        plain: a fresh TCP link; its socket is this one's from now on.
        context: makes or finds the context of this side; called once, when the handshake begins.
        server_side: whether we are the one that was dialled.
        server_name: as in `TLSStream`.
    """

    __slots__ = ("_context", "_secured", "_server_name", "_server_side", "_stream")

    def __init__(
        self, plain: Link, context: Callable[[], ssl.SSLContext], *, server_side: bool, server_name: str | None = None
    ) -> None:
        super().__init__(plain.sock, "stream", local=plain.local, remote=plain.remote, properties=plain.properties)
        self._context = context
        self._server_side = server_side
        self._server_name = server_name
        self._secured = False
        self._stream: TLSStream | None = None

    @property
    def stream(self) -> TLSStream:
        """The session, once `secure` was called."""
        if self._stream is None:
            raise InternalError(f"{self!r} has no TLS session yet")
        return self._stream

    async def shake(self, loop: asyncio.AbstractEventLoop, handshake: Handshake) -> None:
        await exchange(loop, await self.secure(loop), handshake, self.remote)

    async def secure(self, loop: asyncio.AbstractEventLoop) -> TLSStream:
        """Do the TLS handshake; afterwards TLS-STATE is among the properties.

        Returns:
            The session. It is closed with the link.

        Raises:
            TLSError, ConnResetError, OSError: as `TLSStream.handshake`.
            TLSNoCertError, BadValueError: TLS-CONFIG cannot be used (any more).
        """
        if self._server_side:  # the dialer speaks first, and until it does a session would be some 50 KiB for nothing
            await readable(loop, self.sock.fileno())
        context = self._context()
        stream = self._stream = TLSStream(
            self.sock, context, server_side=self._server_side, server_name=self._server_name, remote=self.remote
        )
        try:
            await stream.handshake(loop)
        except TLSError:
            if self._server_side:
                await stream.refuse(loop)
            raise
        self._secured = True
        self.properties["TLS-STATE"] = stream.state
        return stream

    def missing(self, handshake: Handshake) -> str:
        return super().missing(handshake) if self._secured else "the TLS handshake is not finished"

    def reader(self, max_size: int) -> Reader:
        return StreamReader(self.stream, max_size)

    def writer(self) -> Writer:
        return StreamWriter(self.stream)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        super().close()

    async def part(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            try:
                self.stream.shutdown(socket.SHUT_WR)
                break
            except BlockingIOError:
                await writable(loop, self.sock.fileno())
        while await recv_some(loop, self.stream, 65536):
            pass


class TLSTransport(TcpTransport):
    """Streams of TLS over TCP."""

    dialer_options = TcpTransport.dialer_options | {"TLS-CONFIG"}
    listener_options = dialer_options
    pipe_options = TcpTransport.pipe_options | {"TLS-STATE"}

    def __init__(self, scheme: str) -> None:
        super().__init__(scheme)
        self.contexts = Contexts()
        self._complaint = ""

    async def dial(self, address: Address, options: Options) -> Link:
        self.check(options, "dialer", f"dial {address}")
        return await super().dial(address, options)

    async def listen(self, address: Address, options: Options, inherited: int | None = None) -> Acceptor:
        self.check(options, "listener", f"listen {address}", lenient=inherited is not None)
        return await super().listen(address, options, inherited)

    def check(self, options: Options, side: Side, doing: str, *, lenient: bool = False) -> None:
        """Say what is wrong with TLS-CONFIG before anybody is asked for anything.

        Args:
            options, side, doing: as in `Contexts.find`.
            lenient: our predecessor could use it: perhaps the files are being renewed just now, and each connection
                looks again. So it is only logged.

        Raises:
            TLSNoConfigError, TLSNoCertError, BadValueError: as `Contexts.find`.
        """
        try:
            self.contexts.find(options, side, doing)
        except SPError as error:
            if not lenient:
                raise
            _log.error("%s; connections fail until that is mended", error)

    def link(self, sock: socket.socket, address: TcpAddress, options: Options, *, accepted: bool) -> TLSLink:
        return TLSLink(make_link(sock, options), **self.security(address, options, accepted=accepted))

    def security(self, address: TcpAddress, options: Options, *, accepted: bool) -> dict[str, Any]:
        """The keywords of a `TLSLink` at an address."""
        if accepted:
            return {"context": functools.partial(self._accepting, options, address), "server_side": True}
        return {
            "context": lambda: self.contexts.find(options, "dialer", f"dial {address}"),
            "server_side": False,
            "server_name": self.contexts.server_name(options) or _name_of(address.host),
        }

    def _accepting(self, options: Options, address: Address) -> ssl.SSLContext:
        """The context for one who has come. That there is none is said once, not to each of them."""
        try:
            context = self.contexts.find(options, "listener", f"accept on {address}")
        except SPError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                _log.error("%s; connections fail until that is mended", error)
            raise
        self._complaint = ""
        return context


class Contexts:
    """The contexts of an I/O process, each made once, and again when its files have changed."""

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}

    def find(self, options: Options, side: Side, doing: str) -> ssl.SSLContext:
        """The context for one side of a connection.

        Args:
            options: live option values; TLS-CONFIG is read.
            side: whose.
            doing: what is being done, for errors.

        Raises:
            TLSNoConfigError: there is no TLS-CONFIG.
            TLSNoCertError: a listener has no certificate.
            BadValueError: TLS-CONFIG cannot be used.
        """
        known = self._look_up(options)
        if known is None:
            raise TLSNoConfigError(f"{doing}: TLS-CONFIG is not set; {TLSNoConfigError.advice}")
        try:
            return known.context(side)
        except SPError as error:
            raise type(error)(f"{doing}: {error}") from error

    def server_name(self, options: Options) -> str | None:
        """The name that TLS-CONFIG demands of the peer of a dialer, if it demands one."""
        known = self._look_up(options)
        return None if known is None else known.server_name

    def _look_up(self, options: Options) -> _Known | None:
        value = options.get("TLS-CONFIG")
        if value is None:
            return None
        known = self._known.get(id(value))
        if known is None:
            if len(self._known) >= 64:  # options that were set again and again
                self._known.clear()
            known = self._known[id(value)] = _Known(value)
        return known


class _Known:
    """One value of TLS-CONFIG, and the contexts that were made of it. It keeps the value, so that its id stays its."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self._config = TLSConfig.from_wire(value) if isinstance(value, Mapping) else None
        self._made: dict[Side, tuple[Any, ssl.SSLContext]] = {}
        self._unusable: Any = None

    @property
    def server_name(self) -> str | None:
        return None if self._config is None else self._config.server_name

    def context(self, side: Side) -> ssl.SSLContext:
        stamps = _stamps(self._config)
        made = self._made.get(side)
        if made is not None and made[0] == stamps:
            return made[1]
        try:
            context = self._make(side)
        except SPError as error:
            if made is None:
                raise
            if stamps != self._unusable:  # once for each state of the files: they are being renewed, perhaps
                self._unusable = stamps
                _log.warning("%s; going on with what the files were before", error)
            return made[1]
        if made is not None:
            _log.info("TLS-CONFIG: its files have changed, and hold for new connections")
        self._made[side] = (stamps, context)
        return context

    def _make(self, side: Side) -> ssl.SSLContext:
        if self._config is None:
            made = _call_factory(str(self.value))
            if isinstance(made, ssl.SSLContext):
                return _fitting(made, side, str(self.value))
            self._config = made
        return self._config.server_context() if side == "listener" else self._config.client_context()

    def __repr__(self) -> str:
        return f"<TLS-CONFIG {self._config or self.value!r}>"


def _stamps(config: TLSConfig | None) -> tuple[Any, ...]:
    """What changes when a file changes, also when it is replaced by another one."""
    found: list[tuple[int, int, int] | None] = []
    for path in config.files if config is not None else ():
        try:
            status = os.stat(path)
        except OSError:
            found.append(None)
        else:
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)


def _call_factory(name: str) -> ssl.SSLContext | TLSConfig:
    """What `"module:function"` makes.

    Raises:
        BadValueError: it cannot be imported, fails, or makes something else.
    """
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
        made = found()
    except Exception as error:  # whatever a user's module or function raises
        raise BadValueError(f"TLS-CONFIG {name!r} failed with {type(error).__name__}: {error}") from error
    if isinstance(made, (ssl.SSLContext, TLSConfig)):
        return made
    raise BadValueError(f"TLS-CONFIG {name!r} made {type(made).__name__}, not an ssl.SSLContext or a TLSConfig")


def _fitting(context: ssl.SSLContext, side: Side, name: str) -> ssl.SSLContext:
    wrong, right = {
        "listener": (ssl.PROTOCOL_TLS_CLIENT, "PROTOCOL_TLS_SERVER"),
        "dialer": (ssl.PROTOCOL_TLS_SERVER, "PROTOCOL_TLS_CLIENT"),
    }[side]
    if context.protocol == wrong:
        raise BadValueError(f"TLS-CONFIG {name!r} made a context for the other side; a {side} needs ssl.{right}")
    return context


def _name_of(host: str) -> str:
    """What the certificate of a host must be for."""
    host = host.partition("%")[0]
    with contextlib.suppress(ValueError):
        host = str(ipaddress.ip_address(host))
    return "localhost" if host in _THIS_MACHINE else host
