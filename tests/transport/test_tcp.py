"""`tcp://`: addresses, listening, dialling, options of sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import sys
from types import SimpleNamespace
from typing import cast

import pytest
from transport.support import Client, connect, host_port, on_loops, turns

from spworkers.errors import (
    AccessDeniedError,
    AddrInUseError,
    BadAddrError,
    BadValueError,
    ClosedError,
    ConnRefusedError,
    ResourceError,
    SPError,
)
from spworkers.transport import tcp
from spworkers.transport.acceptor import SocketAcceptor
from spworkers.transport.tcp import TcpTransport, make_link, text_of

TCP = TcpTransport("tcp")


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def listen(address: str, **options: object) -> SocketAcceptor:
    acceptor = await TCP.listen(TCP.parse(address), options)
    assert isinstance(acceptor, SocketAcceptor)
    return acceptor


# --- Addresses


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("tcp://127.0.0.1:5555", "127.0.0.1", 5555),
        ("tcp://localhost:0", "localhost", 0),
        ("tcp://:65535", "", 65535),
        ("tcp://*:80", "*", 80),
        ("tcp://[::1]:80", "::1", 80),
        ("tcp://[fe80::1%eth0]:80", "fe80::1%eth0", 80),
        ("tcp://my-host_1.example:80", "my-host_1.example", 80),
        ("tcp://bücher.example:80", "bücher.example", 80),
    ],
)
def test_good_addresses(address: str, host: str, port: int) -> None:
    parsed = TCP.parse(address)
    assert (parsed.host, parsed.port, parsed.url, str(parsed)) == (host, port, address, address)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("tcp://", "no port; write HOST:PORT"),
        ("tcp://localhost", "no port; write localhost:PORT"),
        ("tcp://[::1]", r"no port; write \[::1\]:PORT"),
        ("tcp://[::1]80", "no port"),
        ("tcp://[::1:80", "closing bracket"),
        ("tcp://[127.0.0.1]:80", "no IPv6 address"),
        ("tcp://[::zz]:80", "no IPv6 address"),
        ("tcp://::1:80", "in brackets"),
        ("tcp://localhost:", "'' is no port"),
        ("tcp://localhost:http", "'http' is no port"),
        ("tcp://localhost:-1", "'-1' is no port"),
        ("tcp://localhost:65536", "'65536' is no port"),
        ("tcp://localhost:0x50", "no port"),
        ("tcp://localhost:٨٠", "no port"),
        ("tcp://localhost:00000080", "no port"),
        ("tcp://localhost:80/path", "'/' has no place"),
        ("tcp://user@localhost:80", "'@' has no place"),
        ("tcp://local host:80", "' ' has no place"),
        ("tcp://local\0host:80", "has no place"),
        ("tcp://localhost:80\n", "has no place"),
        ("tcp://a..b:80", "no host name"),
        (f"tcp://{'x' * 64}.example:80", "no host name"),
    ],
)
def test_bad_addresses(address: str, says: str) -> None:
    with pytest.raises(BadAddrError, match=says):
        TCP.parse(address)


@pytest.mark.parametrize(
    ("sockaddr", "text"),
    [
        (("127.0.0.1", 80), "127.0.0.1:80"),
        (("::1", 80, 0, 0), "[::1]:80"),
        (("::ffff:127.0.0.1", 80, 0, 0), "127.0.0.1:80"),
        (("fe80::1%lo", 80, 0, 1), "[fe80::1%lo]:80"),
        (("fe80::1", 80, 0, 999999), "[fe80::1]:80"),
    ],
)
def test_socket_addresses_as_text(sockaddr: tuple[object, ...], text: str) -> None:
    assert text_of(sockaddr) == text


@pytest.mark.skipif("lo" not in [name for _, name in socket.if_nameindex()], reason="no interface lo")
def test_the_scope_of_an_address_is_named() -> None:
    assert text_of(("fe80::1", 80, 0, socket.if_nametoindex("lo"))) == "[fe80::1%lo]:80"


# --- Listening, and the bound address


@pytest.mark.parametrize(
    ("address", "bound"),
    [
        ("tcp://127.0.0.1:0", "tcp://127.0.0.1:"),
        ("tcp://localhost:0", "tcp://127.0.0.1:"),
        ("tcp://0.0.0.0:0", "tcp://0.0.0.0:"),
        pytest.param("tcp://[::1]:0", "tcp://[::1]:", marks=needs_ipv6),
        pytest.param("tcp://*:0", "tcp://[::]:", marks=needs_ipv6),
        pytest.param("tcp://:0", "tcp://[::]:", marks=needs_ipv6),
        pytest.param("tcp://[::]:0", "tcp://[::]:", marks=needs_ipv6),
        pytest.param("tcp://[0::0]:0", "tcp://[::]:", marks=needs_ipv6),
    ],
)
@on_loops
async def test_the_bound_address_can_be_dialled_and_listened_on_again(address: str, bound: str) -> None:
    acceptor = await listen(address)
    assert acceptor.address.startswith(bound)
    assert TCP.parse(acceptor.address).port > 0
    ours, theirs = await connect(TCP, acceptor.address, acceptor)
    assert (ours.local, ours.remote) == (theirs.remote, theirs.local)
    assert ours.framing == theirs.framing == "stream"
    for link in (ours, theirs):
        link.close()
    acceptor.close()
    again = await listen(acceptor.address)  # SO_REUSEADDR: the old connections do not hold it up
    assert again.address == acceptor.address
    again.close()


@needs_ipv6
@on_loops
async def test_a_wildcard_takes_both_families() -> None:
    acceptor = await listen("tcp://*:0")
    port = host_port(acceptor.address)[1]
    for host in ("127.0.0.1", "[::1]", "localhost", "0.0.0.0", ""):
        ours, theirs = await connect(TCP, f"tcp://{host}:{port}", acceptor)
        assert theirs.local in (f"127.0.0.1:{port}", f"[::1]:{port}")  # not ::ffff:127.0.0.1
        ours.close()
        theirs.close()
    acceptor.close()


@needs_ipv6
@on_loops
async def test_an_ipv6_address_of_its_own_is_ipv6_only() -> None:
    acceptor = await listen("tcp://[::1]:0")
    port = host_port(acceptor.address)[1]
    with pytest.raises(ConnRefusedError):
        await TCP.dial(TCP.parse(f"tcp://127.0.0.1:{port}"), {})
    acceptor.close()


@on_loops
async def test_a_machine_without_ipv6_listens_on_ipv4() -> None:
    real = socket.socket

    def without(family: int = socket.AF_INET, *args: int, **kwargs: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tcp.socket, "socket", without)
        acceptor = await listen("tcp://*:0")
    assert acceptor.address.startswith("tcp://0.0.0.0:")
    acceptor.close()


@on_loops
async def test_a_name_that_resolves_to_several_addresses() -> None:
    port = free_port()
    found = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", port, 0, 0)), *_resolved("127.0.0.1", port)]

    async def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tcp.asyncio, "get_running_loop", lambda: type("Loop", (), {"getaddrinfo": resolve}))
        targets = await tcp._resolve_to_listen(TCP.parse(f"tcp://two.example:{port}"))
        assert [target.family for target in targets] == [socket.AF_INET, socket.AF_INET6]  # IPv4 first
        targets = await tcp._resolve_to_dial(TCP.parse(f"tcp://two.example:{port}"))
        assert [target.family for target in targets] == [socket.AF_INET6, socket.AF_INET]  # as they came
    sock = tcp._bind_first(TCP.parse(f"tcp://two.example:{port}"), targets)  # the first one is not ours
    with sock:
        assert sock.getsockname() == ("127.0.0.1", port)


def _resolved(host: str, port: int) -> list[tuple[object, ...]]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))


@on_loops
async def test_somebody_listens_there_already() -> None:
    acceptor = await listen("tcp://127.0.0.1:0")
    with pytest.raises(AddrInUseError, match=f"listen {acceptor.address}: ") as caught:
        await listen(acceptor.address)
    assert isinstance(caught.value.__cause__, OSError)
    acceptor.close()


@needs_ipv6
@on_loops
async def test_a_wildcard_is_both_families_or_nothing() -> None:
    acceptor = await listen("tcp://[::1]:0")
    port = host_port(acceptor.address)[1]
    with pytest.raises(AddrInUseError):  # IPv4 alone would be free
        await listen(f"tcp://*:{port}")
    acceptor.close()


@pytest.mark.parametrize("host", ["203.0.113.1", "[2001:db8::1]"])
@on_loops
async def test_an_address_of_another_machine_cannot_be_bound(host: str) -> None:
    with pytest.raises(BadAddrError, match="listen tcp://"):
        await listen(f"tcp://{host}:0")


@pytest.mark.parametrize("host", ["255.255.255.255", "224.0.0.1", "[ff02::1]"])
@on_loops
async def test_addresses_of_many_machines_are_refused_without_asking_the_kernel(host: str) -> None:
    with pytest.raises(BadAddrError, match="multicast or broadcast"):
        await listen(f"tcp://{host}:0")
    with pytest.raises(BadAddrError, match="multicast or broadcast"):
        await TCP.dial(TCP.parse(f"tcp://{host}:80"), {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may bind every port")
@on_loops
async def test_a_port_of_the_system() -> None:
    with pytest.raises(AccessDeniedError):
        await listen("tcp://127.0.0.1:1")


# --- Dialling


@on_loops
async def test_nobody_listens_there() -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(ConnRefusedError, match=f"dial {address}: ") as caught:
        await TCP.dial(TCP.parse(address), {})
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.errno == errno.ECONNREFUSED


@needs_ipv6
@on_loops
async def test_every_address_of_a_name_is_tried_and_named() -> None:
    port = free_port()
    with pytest.raises(ConnRefusedError, match=rf"tried .*\[::1\]:{port}.*127.0.0.1:{port}"):
        await TCP.dial(TCP.parse(f"tcp://[::]:{port}"), {})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "*", "[::1]"])
@on_loops
async def test_port_0_is_refused(host: str) -> None:
    with pytest.raises(ConnRefusedError, match="port 0 is for listening"):
        await TCP.dial(TCP.parse(f"tcp://{host}:0"), {})


@on_loops
async def test_the_wildcard_cannot_be_dialled() -> None:
    with pytest.raises(BadAddrError, match=r"\* is for listening"):
        await TCP.dial(TCP.parse("tcp://*:5555"), {})


@on_loops
async def test_an_unknown_name() -> None:
    async def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tcp.asyncio, "get_running_loop", lambda: type("Loop", (), {"getaddrinfo": unknown}))
        with pytest.raises(BadAddrError, match=r"dial tcp://no.example:80: Name or service"):
            await TCP.dial(TCP.parse("tcp://no.example:80"), {})


@on_loops
async def test_a_connection_that_is_reset_at_once() -> None:
    acceptor = await listen("tcp://127.0.0.1:0")

    def gone(*_: object) -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tcp, "make_link", gone)
        with pytest.raises(SPError, match="dial tcp://"):
            await TCP.dial(TCP.parse(acceptor.address), {})
    acceptor.close()


# --- Options


def keepalive(sock: socket.socket) -> tuple[int, ...]:
    """On or off; idle seconds, interval."""
    on = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    return (bool(on), *(sock.getsockopt(socket.IPPROTO_TCP, name) for name in (tcp._KEEPIDLE, tcp._KEEPINTVL)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (True, 15, 15)),
        ({"KEEPALIVE": True, "KEEPALIVETIME": 0.0}, (True, 15, 15)),
        ({"KEEPALIVETIME": None}, (True, 15, 15)),
        ({"KEEPALIVETIME": 2.5}, (True, 3, 3)),
        ({"KEEPALIVETIME": 0.001}, (True, 1, 1)),
        ({"KEEPALIVETIME": float("inf")}, (True, 32767, 32767)),
    ],
)
@on_loops
async def test_keepalive(options: dict[str, object], expected: tuple[int, ...]) -> None:
    acceptor = await listen("tcp://127.0.0.1:0", **options)
    target = TCP.parse(acceptor.address)
    ours, theirs = await asyncio.gather(TCP.dial(target, options), acceptor.accept())
    for link in (ours, theirs):
        assert keepalive(link.sock) == expected
        link.close()
    acceptor.close()


@pytest.mark.parametrize("options", [{"KEEPALIVE": False}, {"KEEPALIVETIME": -1.0}])
@on_loops
async def test_no_keepalive(options: dict[str, object]) -> None:
    acceptor = await listen("tcp://127.0.0.1:0", **options)
    ours, theirs = await asyncio.gather(TCP.dial(TCP.parse(acceptor.address), options), acceptor.accept())
    for link in (ours, theirs):
        assert not keepalive(link.sock)[0]
        link.close()
    acceptor.close()


@on_loops
async def test_options_are_live() -> None:
    options: dict[str, object] = {}
    acceptor = await TCP.listen(TCP.parse("tcp://127.0.0.1:0"), options)
    options["KEEPALIVE"] = False
    ours, theirs = await connect(TCP, acceptor.address, acceptor)
    assert keepalive(ours.sock)[0]
    assert not keepalive(theirs.sock)[0]
    for each in (ours, theirs, acceptor):
        each.close()


@pytest.mark.skipif(sys.platform != "linux", reason="measured on Linux only, and so done there only")
@pytest.mark.parametrize(("here", "there", "bounded"), [("1.2.3.4", "1.2.3.4", True), ("1.2.3.4", "1.2.3.5", False)])
def test_the_send_buffer_is_bounded_where_both_ends_are_on_one_machine(here: str, there: str, bounded: bool) -> None:
    options: list[tuple[int, ...]] = []
    sock = SimpleNamespace(
        setblocking=lambda flag: None,
        setsockopt=lambda *about: options.append(about),
        getsockname=lambda: (here, 1),
        getpeername=lambda: (there, 2),
    )
    tcp.prepare(cast("socket.socket", sock), {})
    assert ((socket.SOL_SOCKET, socket.SO_SNDBUF, tcp.LOCAL_SNDBUF) in options) is bounded


@pytest.mark.parametrize("value", [True, False])
@on_loops
async def test_there_is_never_a_delay(value: bool) -> None:
    acceptor = await listen("tcp://127.0.0.1:0", **{"NO-DELAY": value})
    ours, theirs = await asyncio.gather(TCP.dial(TCP.parse(acceptor.address), {"NO-DELAY": value}), acceptor.accept())
    for link in (ours, theirs):
        assert link.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert not link.sock.getblocking()
        assert not link.sock.get_inheritable()
        link.close()
    acceptor.close()


# --- Accepting


@on_loops
async def test_accept_waits_and_is_cancelled_without_loss() -> None:
    acceptor = await listen("tcp://127.0.0.1:0")
    waiting = asyncio.ensure_future(acceptor.accept())
    await turns()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    ours, theirs = await connect(TCP, acceptor.address, acceptor)
    assert "listening" in repr(acceptor)
    assert f"fd {ours.sock.fileno()}" in repr(ours)
    for each in (ours, theirs, acceptor):
        each.close()
    assert "closed" in repr(acceptor)
    assert "closed" in repr(ours)


@on_loops
async def test_close_ends_a_waiting_accept() -> None:
    acceptor = await listen("tcp://127.0.0.1:0")
    waiting = asyncio.ensure_future(acceptor.accept())
    await turns()
    acceptor.close()
    acceptor.close()
    with pytest.raises(ClosedError):
        await waiting
    with pytest.raises(ClosedError):
        await acceptor.accept()
    assert acceptor.fileno() == -1


@on_loops
async def test_a_number_that_is_used_again_loses_no_reader() -> None:
    """The descriptor of a closed acceptor may be somebody else's before its accept() notices."""
    acceptor = await listen("tcp://127.0.0.1:0")
    waiting = asyncio.ensure_future(acceptor.accept())
    await turns()
    number = acceptor.fileno()
    one, other = socket.socketpair()
    acceptor.close()
    os.dup2(one.fileno(), number)
    woken = asyncio.Event()
    asyncio.get_running_loop().add_reader(number, woken.set)
    with pytest.raises(ClosedError):
        await waiting
    other.send(b"x")
    await woken.wait()
    asyncio.get_running_loop().remove_reader(number)
    os.close(number)
    one.close()
    other.close()


@on_loops
async def test_connections_that_died_in_the_backlog_are_passed_over() -> None:
    acceptor = await listen("tcp://127.0.0.1:0")
    answers: list[object] = [OSError(number, os.strerror(number)) for number in (errno.ECONNABORTED, errno.EPROTO)]
    real = acceptor._sock
    acceptor._sock = Faulty(real, answers)  # type: ignore[assignment]
    link, theirs = await connect(TCP, acceptor.address, acceptor)
    assert not answers
    for each in (link, theirs, acceptor):
        each.close()


@on_loops
async def test_other_errors_are_mapped_and_the_acceptor_goes_on() -> None:
    acceptor = await listen("tcp://127.0.0.1:0")
    real = acceptor._sock
    acceptor._sock = Faulty(real, [OSError(errno.EMFILE, "Too many open files")])  # type: ignore[assignment]
    with pytest.raises(ResourceError, match=f"accept on {acceptor.address}: Too many open files"):
        await acceptor.accept()
    for each in (*await connect(TCP, acceptor.address, acceptor), acceptor):
        each.close()


@on_loops
async def test_a_peer_that_is_gone_when_it_is_looked_at() -> None:
    acceptor = await listen("tcp://127.0.0.1:0")
    made = []

    def gone_once(sock: socket.socket) -> object:
        made.append(sock)
        if len(made) == 1:
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")
        return make_link(sock, {})

    acceptor._make_link = gone_once  # type: ignore[assignment]
    with await Client.to(host_port(acceptor.address)), await Client.to(host_port(acceptor.address)):
        link = await acceptor.accept()
    assert made[0].fileno() == -1
    link.close()
    acceptor.close()


class Faulty:
    """A listening socket whose first calls of accept() fail."""

    def __init__(self, sock: socket.socket, errors: list[object]) -> None:
        self._sock = sock
        self._errors = errors

    def accept(self) -> object:
        if self._errors:
            raise self._errors.pop(0)  # type: ignore[misc]
        return self._sock.accept()

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)


# --- A descriptor of a predecessor


@on_loops
async def test_a_successor_goes_on_with_the_listener() -> None:
    first = await listen("tcp://127.0.0.1:0")
    kept = os.dup(first.fileno())  # as the supervisor has it
    client = await Client.to(host_port(first.address))  # waits in the backlog
    first.close(unlink=False)
    second = await TCP.listen(TCP.parse("tcp://127.0.0.1:0"), {}, kept)
    assert second.address == first.address
    assert second.fileno() == kept
    assert not os.get_inheritable(kept)
    link = await second.accept()
    assert link.remote == text_of(client.sock.getsockname())
    client.close()
    link.close()
    second.close()


@on_loops
async def test_close_stops_all_duplicates() -> None:
    acceptor = await listen("tcp://127.0.0.1:0")
    kept = os.dup(acceptor.fileno())
    acceptor.close()
    with pytest.raises(ConnRefusedError):
        await TCP.dial(TCP.parse(acceptor.address), {})
    os.close(kept)


@on_loops
async def test_what_cannot_be_inherited() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connected = socket.create_connection(server.getsockname())
        server.accept()[0].close()
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        other, family = socket.socketpair()
        other.close()
        for sock in (connected, datagrams, family):
            number = sock.detach()
            with pytest.raises(BadValueError, match=f"inherited descriptor {number} is no listening socket"):
                await TCP.listen(TCP.parse("tcp://127.0.0.1:0"), {}, number)
            with pytest.raises(OSError):
                os.fstat(number)  # it was the transport's, and is closed
    read, write = os.pipe()
    os.close(write)
    with pytest.raises(SPError, match="inherited descriptor"):
        await TCP.listen(TCP.parse("tcp://127.0.0.1:0"), {}, read)
    with pytest.raises(OSError):
        os.fstat(read)


# --- One version of IP

TCP4, TCP6 = TcpTransport("tcp4"), TcpTransport("tcp6")


@pytest.mark.parametrize(
    ("transport", "address"),
    [
        (TCP4, "tcp4://[::1]:80"),
        (TCP4, "tcp4://[::]:80"),
        (TCP6, "tcp6://127.0.0.1:80"),
        (TCP6, "tcp6://0.0.0.0:80"),
    ],
)
def test_an_address_of_the_other_version(transport: TcpTransport, address: str) -> None:
    with pytest.raises(BadAddrError, match=rf"is no IPv{transport.scheme[-1]} address; {transport.scheme}:// keeps to"):
        transport.parse(address)


@on_loops
async def test_tcp4_is_ipv4_whatever_the_host() -> None:
    for host in ("127.0.0.1", "localhost", "*", ""):
        acceptor = await TCP4.listen(TCP4.parse(f"tcp4://{host}:0"), {})
        assert acceptor.address.startswith("tcp4://")
        port = acceptor.address.rpartition(":")[2]
        for dialled in ("127.0.0.1", "localhost", ""):
            ours, theirs = await connect(TCP4, f"tcp4://{dialled}:{port}", acceptor)
            assert ours.sock.family == theirs.sock.family == socket.AF_INET
            ours.close()
            theirs.close()
        acceptor.close()


@needs_ipv6
@on_loops
async def test_tcp6_is_ipv6_only() -> None:
    for host in ("[::1]", "*", "[::]", ""):
        acceptor = await TCP6.listen(TCP6.parse(f"tcp6://{host}:0"), {})
        port = acceptor.address.rpartition(":")[2]
        for dialled in ("[::1]", "", "[::]"):
            ours, theirs = await connect(TCP6, f"tcp6://{dialled}:{port}", acceptor)
            assert ours.sock.family == theirs.sock.family == socket.AF_INET6
            ours.close()
            theirs.close()
        with pytest.raises(ConnRefusedError):  # where tcp:// would listen for both
            await TCP4.dial(TCP4.parse(f"tcp4://127.0.0.1:{port}"), {})
        acceptor.close()
