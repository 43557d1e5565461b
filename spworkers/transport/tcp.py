"""TCP: `tcp://HOST:PORT`.

| host or port | listening | dialling |
|---|---|---|
| `*` | every address of the machine, IPv6 and IPv4 | an error |
| empty, `[::]` | the same | this machine |
| `0.0.0.0` | every IPv4 address | this machine, by IPv4 |
| an address, `192.0.2.1` or `[::1]` | that address | that address |
| a name | the first of its addresses that can be bound, IPv4 first | each of its addresses in turn |
| port 0 | a free port | refused |

`tcp4://` and `tcp6://` (and `tls+tcp4://`, `tls+tcp6://`) are the same with one version of IP only, as in nng.

The bound address names the address that is really bound, with its port: `tcp://[::]:41911` for a wildcard, which says
that the machine can be reached from outside, and which this transport dials as "this machine".
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import ipaddress
import math
import socket
import sys
from typing import Any

from spworkers.errors import BadAddrError, ConnRefusedError, SPError, from_os_error
from spworkers.transport.acceptor import BACKLOG, SocketAcceptor, adopt
from spworkers.transport.base import Acceptor, Address, Link, Options, Transport, flag, seconds
from spworkers.transport.race import AllFailedError, Target, connect_first

KEEPALIVE_TIME = 15.0
"""Seconds of silence before a probe, and between probes, when KEEPALIVETIME is 0: the figure of mangos (and of Go)."""

LOCAL_SNDBUF = 256 * 1024
"""Bytes of the send buffer where both ends are on one machine (Linux doubles it for its bookkeeping).

There, what is in the kernel has not gone anywhere: left to itself it takes megabytes, and each of them is out of the
cache when it is read. Between machines the kernel finds out by itself how much the way holds.
"""

_LOOPBACKS = ("127.0.0.1", "::1")
_FAMILIES = {"4": socket.AF_INET, "6": socket.AF_INET6}
_ANY_IPV4 = "0.0.0.0"  # noqa: S104 - written out by whoever wants it
_THIS_MACHINE = {"": _LOOPBACKS, _ANY_IPV4: ("127.0.0.1",), "::": ("::1", "127.0.0.1")}
# TCP_KEEPIDLE has another name on macOS, which Python knows from 3.10 on.
_KEEPIDLE: int | None = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
_KEEPINTVL: int | None = getattr(socket, "TCP_KEEPINTVL", None)


@dataclasses.dataclass(frozen=True)
class TcpAddress(Address):
    """Host and port.

    Attributes:
        host: a name, an IPv4 address, an IPv6 address without its brackets, `*`, or empty.
        port: 0 to 65535.
        family: AF_INET or AF_INET6, if it has to be that one.
    """

    host: str
    port: int
    family: int = socket.AF_UNSPEC


class TcpTransport(Transport):
    """Streams over TCP. A scheme that ends in 4 or 6 (`tcp4://`, as in nng) keeps to that version of IP."""

    dialer_options = frozenset({"KEEPALIVE", "KEEPALIVETIME", "MAX-RCV-SIZE", "NO-DELAY"})
    listener_options = dialer_options

    def parse(self, address: str) -> TcpAddress:
        host, port = split_host_port(address, self.rest_of(address))
        version = self.scheme[-1]
        family = _FAMILIES.get(version, socket.AF_UNSPEC)
        if family and _is_literal(host) and ipaddress.ip_address(host).version != int(version):
            raise BadAddrError(f"{address!r}: {host} is no IPv{version} address; {self.scheme}:// keeps to those")
        return TcpAddress(address, host, port, family)

    async def dial(self, address: Address, options: Options) -> Link:
        assert isinstance(address, TcpAddress)
        sock = await connect(address)
        try:
            return self.link(sock, address, options, accepted=False)
        except OSError as error:  # it was reset in between
            sock.close()
            raise from_os_error(error, f"dial {address}") from error

    async def listen(self, address: Address, options: Options, inherited: int | None = None) -> Acceptor:
        assert isinstance(address, TcpAddress)
        sock = await bind(address, inherited)
        make = functools.partial(self.link, address=address, options=options, accepted=True)
        return SocketAcceptor(sock, f"{self.scheme}://{text_of(sock.getsockname())}", make)

    def link(self, sock: socket.socket, address: TcpAddress, options: Options, *, accepted: bool) -> Link:
        """A link of a connected socket; transports on top of this one make theirs.

        Args:
            sock: the caller's, if this fails.
            address: what is dialled, or listened at (`accepted`).
            options: live option values of the dialer or listener.

        Raises:
            OSError: the connection is gone already.
        """
        return make_link(sock, options)


async def connect(address: TcpAddress) -> socket.socket:
    """A non-blocking socket that is connected to an address.

    Raises:
        ConnRefusedError, BadAddrError, SPError: as `Transport.dial`.
    """
    if address.port == 0:
        raise ConnRefusedError(f"dial {address}: port 0 is for listening (the system chooses one); dial a real one")
    if address.host == "*":
        raise BadAddrError(f"dial {address}: * is for listening (every address); dial a host's name or address")
    targets = await _resolve_to_dial(address)
    try:
        return await connect_first(targets)
    except AllFailedError as error:
        raise _dial_error(address, error) from error.chief


async def bind(address: TcpAddress, inherited: int | None = None) -> socket.socket:
    """A non-blocking socket that listens at an address.

    Args:
        address: where.
        inherited: a predecessor's listening descriptor, which is taken over, also when this fails.

    Raises:
        AddrInUseError, BadAddrError, SPError: as `Transport.listen`.
    """
    if inherited is not None:
        return adopt(inherited, (socket.AF_INET, socket.AF_INET6), f"listen {address}")
    return _bind_first(address, await _resolve_to_listen(address))


def split_host_port(url: str, rest: str) -> tuple[str, int]:
    """Take `HOST:PORT` apart; every transport over TCP can use it.

    Args:
        url: the whole address, for errors.
        rest: its part after `://`.

    Returns:
        The host without brackets, and the port.

    Raises:
        BadAddrError: it is malformed; the message says in what.
    """
    for char in rest:
        if char in "/?#@\\" or not char.isprintable() or char.isspace():
            raise BadAddrError(f"{url!r}: {char!r} has no place here; write HOST:PORT and nothing else")
    if rest.startswith("["):
        host, bracket, tail = rest[1:].partition("]")
        if not bracket:
            raise BadAddrError(f"{url!r}: the closing bracket is missing; write [IPV6]:PORT")
        _check_ipv6(url, host)
        if not tail.startswith(":"):
            raise BadAddrError(f"{url!r}: no port; write [{host}]:PORT")
        return host, _port_of(url, tail[1:])
    host, colon, port = rest.rpartition(":")
    if not colon:
        raise BadAddrError(f"{url!r}: no port; write {rest or 'HOST'}:PORT")
    if ":" in host:
        raise BadAddrError(f"{url!r}: an IPv6 address stands in brackets; write [::1]:PORT")
    _check_name(url, host)
    return host, _port_of(url, port)


def _check_ipv6(url: str, host: str) -> None:
    try:
        ipaddress.IPv6Address(host)
    except ValueError as error:
        raise BadAddrError(f"{url!r}: {host!r} is no IPv6 address: {error}") from error


def _check_name(url: str, host: str) -> None:
    if host in ("", "*") or _ipv4(host):
        return
    try:
        host.encode("idna")  # what the resolver makes of it; it would raise there as well, but without a word of ours
    except UnicodeError as error:
        raise BadAddrError(f"{url!r}: {host!r} is no host name: {error}") from error


def _port_of(url: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise BadAddrError(f"{url!r}: {text!r} is no port; write a number from 0 to 65535")
    return int(text)


async def _resolve_to_dial(address: TcpAddress) -> list[Target]:
    ours = _THIS_MACHINE.get(_plain(address.host))
    hosts = (address.host,) if ours is None else tuple(host for host in ours if _fits(address, host))
    targets: list[Target] = []
    for host in hosts:
        targets += await _resolve(address, host, "dial")
    return targets


def _fits(address: TcpAddress, ip: str) -> bool:
    return address.family in (socket.AF_UNSPEC, socket.AF_INET6 if ":" in ip else socket.AF_INET)


async def _resolve_to_listen(address: TcpAddress) -> list[Target]:
    if address.host in ("", "*") or _plain(address.host) == "::":
        both = [
            Target(socket.AF_INET6, ("::", address.port, 0, 0), f"[::]:{address.port}"),
            Target(socket.AF_INET, (_ANY_IPV4, address.port), f"{_ANY_IPV4}:{address.port}"),
        ]
        return [target for target in both if address.family in (socket.AF_UNSPEC, target.family)]
    targets = await _resolve(address, address.host, "listen")
    return sorted(targets, key=lambda target: target.family != socket.AF_INET)


def _plain(host: str) -> str:
    """The shortest spelling of an address: `0::0` is `::` too. Names stay as they are."""
    if _ipv4(host):  # which has one spelling only
        return host
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host


async def _resolve(address: TcpAddress, host: str, doing: str) -> list[Target]:
    if _ipv4(host) and address.family in (socket.AF_UNSPEC, socket.AF_INET):
        target = Target(socket.AF_INET, (host, address.port), f"{host}:{address.port}")
        _check_single(address, target, doing)
        return [target]
    try:
        if _is_literal(host):  # not a question for the resolver, whose answers come by way of a thread
            found = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        else:
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(host, address.port, family=address.family, type=socket.SOCK_STREAM)
    except OSError as error:
        raise from_os_error(error, f"{doing} {address}") from error
    targets = [Target(family, sockaddr, text_of(sockaddr)) for family, _, _, _, sockaddr in found]
    for target in targets:
        _check_single(address, target, doing)
    return targets


def _ipv4(host: str) -> bytes:
    """The four bytes of an IPv4 address as it is usually written; none if it is something else.

    Nearly every listener has one, and `ipaddress` is many functions, each of which costs an I/O process pages.
    """
    try:
        return socket.inet_pton(socket.AF_INET, host)
    except (OSError, ValueError):  # ValueError: with a null, or no ASCII
        return b""


def _is_literal(host: str) -> bool:
    if _ipv4(host):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _check_single(address: TcpAddress, target: Target, doing: str) -> None:
    # The kernel binds a multicast or broadcast address without a word, and a connect to one may be let through by
    # some networks; TCP has no use for either.
    ip = target.sockaddr[0].partition("%")[0]
    four = _ipv4(ip)
    if 224 <= four[0] < 240 or four == b"\xff" * 4 if four else ipaddress.ip_address(ip).is_multicast:
        raise BadAddrError(f"{doing} {address}: {ip} is a multicast or broadcast address; TCP needs one host's")


def _bind_first(address: TcpAddress, targets: list[Target]) -> socket.socket:
    """Listen on the first target that can be bound."""
    refusals: list[SPError] = []
    for target in targets:
        try:
            return _bind(target, only=address.family != socket.AF_UNSPEC)
        except OSError as error:
            refusals.append(from_os_error(error, f"listen {address}"))
            if not isinstance(refusals[-1], BadAddrError):
                break  # it is ours, and taken, or forbidden: the next one would be another endpoint than was asked for
    raise refusals[-1]


def _bind(target: Target, only: bool) -> socket.socket:
    sock = socket.socket(target.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if target.sockaddr[0] == "::":
            # Its default is the machine's business (net.ipv6.bindv6only); what [::] means to us is not.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only))
        sock.bind(target.sockaddr)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _dial_error(address: TcpAddress, error: AllFailedError) -> SPError:
    tried = "" if len(error.failures) == 1 else f" (tried {error})"
    return from_os_error(error.chief, f"dial {address}{tried}")


def make_link(sock: socket.socket, options: Options) -> Link:
    """A link of a connected TCP socket, with the options of its endpoint set.

    Raises:
        OSError: the connection is gone already; the socket is still the caller's.
    """
    prepare(sock, options)
    return Link(sock, "stream", **ends(sock))


def prepare(sock: socket.socket, options: Options) -> None:
    """Set the options of its endpoint on a connected socket.

    Raises:
        OSError: the connection is gone already.
    """
    sock.setblocking(False)
    # Always, whatever NO-DELAY says, as in mangos: the hub writes whole batches, and Nagle would only delay the last.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _set_keepalive(sock, options)
    if sys.platform == "linux" and sock.getsockname()[0] == sock.getpeername()[0]:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LOCAL_SNDBUF)


def ends(sock: socket.socket) -> dict[str, Any]:
    """Both addresses of a connected socket as text, as a link wants them: `local` and `remote`.

    Raises:
        OSError: the connection is gone already.
    """
    return {"local": text_of(sock.getsockname()), "remote": text_of(sock.getpeername())}


def _set_keepalive(sock: socket.socket, options: Options) -> None:
    time = seconds(options, "KEEPALIVETIME", 0.0)
    wanted = flag(options, "KEEPALIVE", True) and time >= 0
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(wanted))
    if not wanted:
        return
    # The kernel counts whole seconds, and takes no more than 32767 of them.
    count = min(32767, max(1, math.ceil(min(time or KEEPALIVE_TIME, 32767))))
    for option in (_KEEPIDLE, _KEEPINTVL):
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, count)


def text_of(sockaddr: tuple[Any, ...]) -> str:
    """A socket address as `HOST:PORT`, IPv6 in brackets. IPv4 that came in by an IPv6 socket is written as IPv4."""
    host, port = str(sockaddr[0]), int(sockaddr[1])
    if ":" not in host:
        return f"{host}:{port}"
    mapped = ipaddress.IPv6Address(host).ipv4_mapped
    if mapped is not None:
        return f"{mapped}:{port}"
    scope = sockaddr[3] if len(sockaddr) > 3 else 0
    if scope and "%" not in host:
        with contextlib.suppress(OSError):
            host = f"{host}%{socket.if_indextoname(scope)}"
    return f"[{host}]:{port}"
