"""`tls+tcp://`: the handshake, the stream, contexts and their files, and everything that a hostile peer may do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transport.support import PAIR, Client, connect, greeting, host_port, on_loops, shake_both

from spworkers.errors import (
    BadProtoError,
    BadValueError,
    ConnResetError,
    ConnTimeoutError,
    SPError,
    TLSError,
    TLSNoCertError,
    TLSNoConfigError,
)
from spworkers.testing import CertificateAuthority, CertificateFiles
from spworkers.tlsconfig import TLSConfig
from spworkers.tlsstate import TLSState
from spworkers.transport.base import Link
from spworkers.transport.frames import encode
from spworkers.transport.handshake import Handshake, recv_some, send_all, shake
from spworkers.transport.registry import transport_for
from spworkers.transport.stream import StreamReader, StreamWriter
from spworkers.transport.tls import TLSLink, TLSTransport
from spworkers.transport.tlsstream import TLSStream
from spworkers.transport.waiting import readable, writable


@pytest.fixture(scope="module")
def ca() -> Iterator[CertificateAuthority]:
    with CertificateAuthority() as authority:
        yield authority


@pytest.fixture(scope="module")
def server(ca: CertificateAuthority) -> CertificateFiles:
    return ca.server()


@pytest.fixture(scope="module")
def alice(ca: CertificateAuthority) -> CertificateFiles:
    return ca.client("alice")


def options(*args: Any, **keywords: Any) -> dict[str, Any]:
    return {"TLS-CONFIG": TLSConfig(*args, **keywords).to_wire()}


async def links(ours: dict[str, Any], theirs: dict[str, Any], host: str = "127.0.0.1") -> tuple[Link, Link]:
    """A dialer's and a listener's link, before their handshakes."""
    transport = TLSTransport("tls+tcp")
    acceptor = await transport.listen(transport.parse("tls+tcp://127.0.0.1:0"), theirs)
    target = transport.parse(acceptor.address.replace("127.0.0.1", host))
    both = await asyncio.gather(transport.dial(target, ours), acceptor.accept())
    acceptor.close()
    return both[0], both[1]


async def outcomes(ours: dict[str, Any], theirs: dict[str, Any], host: str = "127.0.0.1") -> list[Any]:
    """What the handshakes of both ends come to: None, or an error."""
    both = await links(ours, theirs, host)
    loop = asyncio.get_running_loop()
    found = await asyncio.gather(*(shake(loop, link, Handshake(PAIR, PAIR)) for link in both), return_exceptions=True)
    for link in both:
        link.close()
    return found


def state_of(link: Link) -> TLSState:
    found: Any = link.properties["TLS-STATE"]
    return TLSState.from_wire(found)


# --- The handshake


def test_the_scheme_is_known() -> None:
    assert isinstance(transport_for("tls+tcp://127.0.0.1:5"), TLSTransport)


@on_loops
async def test_both_ends_know_what_was_agreed(
    ca: CertificateAuthority, server: CertificateFiles, alice: CertificateFiles
) -> None:
    one, other = await links(options(alice.cert, alice.key, ca.cert), options(server.cert, server.key, ca.cert))
    await shake_both(one, other)
    at_dialer, at_listener = state_of(one), state_of(other)
    assert at_dialer.version == at_listener.version == "TLSv1.3"
    assert at_dialer.cipher == at_listener.cipher
    assert at_dialer.bits in (128, 256)
    assert at_dialer.verified and at_listener.verified
    assert (at_dialer.server_name, at_listener.server_name) == ("127.0.0.1", "")
    assert at_dialer.subject == "CN=localhost"
    assert at_dialer.names == ("localhost", "127.0.0.1", "::1")
    assert (at_listener.subject, at_listener.common_name, at_listener.names) == ("CN=alice", "alice", ("alice",))
    assert at_listener.issuer == f"CN={ca.name}"
    assert at_listener.certificate is not None
    assert len(at_listener.fingerprint) == 64
    one.close()
    other.close()


@on_loops
async def test_a_client_without_a_certificate(ca: CertificateAuthority, server: CertificateFiles) -> None:
    one, other = await links(options(ca=ca.cert), options(server.cert, server.key, ca.cert, verify_peer="optional"))
    await shake_both(one, other)
    state = state_of(other)
    assert (state.verified, state.der, state.certificate, state.subject, state.issuer) == (False, b"", None, "", "")
    assert (state.common_name, state.names, state.fingerprint) == ("", (), "")
    one.close()
    other.close()


@on_loops
async def test_versions(ca: CertificateAuthority, server: CertificateFiles) -> None:
    old = options(ca=ca.cert, maximum_version="1.2")
    one, other = await links(old, options(server.cert, server.key))
    await shake_both(one, other)
    assert state_of(one).version == state_of(other).version == "TLSv1.2"
    one.close()
    other.close()
    ours, theirs = await outcomes(old, options(server.cert, server.key, minimum_version="1.3"))
    assert isinstance(ours, TLSError)
    assert "it speaks another version of TLS" in str(ours)
    assert isinstance(theirs, TLSError)
    assert "no version or cipher of TLS in common" in str(theirs)


@on_loops
async def test_nobody_verified_is_what_was_asked_for(server: CertificateFiles) -> None:
    assert await outcomes(options(verify_peer=False), options(server.cert, server.key)) == [None, None]


@on_loops
async def test_certificates_that_are_not_accepted(ca: CertificateAuthority, server: CertificateFiles) -> None:
    with CertificateAuthority("another CA") as foreign:
        stranger = foreign.client("eve")
        late, early = ca.server(expired=True), ca.server(not_yet=True)
        client = ca.client("client")
        plain, knows = options(server.cert, server.key), options(ca=ca.cert)
        mutual = options(server.cert, server.key, ca.cert)
        cases: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
            (options(), plain, "name the authority that made it", "does not know the authority"),
            (options(ca=foreign.cert), plain, "name the authority that made it", "does not know the authority"),
            (knows, options(late.cert, late.key), "has expired", "our certificate has expired"),
            (knows, options(early.cert, early.key), "not yet valid", "refuses"),
            (knows, options(client.cert, client.key), "unsuitable certificate purpose", "not for this use"),
            (knows, mutual, "demands a certificate of us", "demands one"),
            (
                options(stranger.cert, stranger.key, ca.cert),
                mutual,
                "does not know the authority",
                "name the authority",
            ),
            (options(server.cert, server.key, ca.cert), mutual, "not for this use", "unsuitable certificate purpose"),
        ]
        for ours, theirs, at_dialer, at_listener in cases:
            one, other = await outcomes(ours, theirs)
            assert isinstance(one, TLSError), one
            assert at_dialer in str(one)
            assert isinstance(other, TLSError), other
            assert at_listener in str(other)


@on_loops
async def test_names(ca: CertificateAuthority) -> None:
    named = ca.server("service.example")
    theirs = options(named.cert, named.key)
    one, other = await outcomes(options(ca=ca.cert), theirs)
    assert isinstance(one, TLSError)
    assert "IP address mismatch" in str(one)
    assert "server_name=" in str(one)
    assert isinstance(other, TLSError)
    one, _ = await outcomes(options(ca=ca.cert), theirs, host="localhost")
    assert "Hostname mismatch" in str(one)
    for ours in (options(ca=ca.cert, server_name="service.example"), options(ca=ca.cert, check_hostname=False)):
        assert await outcomes(ours, theirs) == [None, None]


@on_loops
async def test_the_listener_is_told_the_name() -> None:
    """SNI, by a context that a factory makes; and ALPN is left alone."""
    told.clear()
    with CertificateAuthority() as authority:
        FACTORY_FILES[:] = [authority.server("service.example")]
        ours = options(ca=authority.cert, server_name="service.example")
        assert await outcomes(ours, {"TLS-CONFIG": f"{__name__}:listening"}) == [None, None]
        assert told == ["service.example", None]


told: list[Any] = []
FACTORY_FILES: list[CertificateFiles] = []


def listening() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(FACTORY_FILES[0].cert, FACTORY_FILES[0].key)
    context.sni_callback = lambda session, name, _: told.extend([name, session.selected_alpn_protocol()])  # type: ignore[assignment]
    return context


def configured() -> TLSConfig:
    return TLSConfig(FACTORY_FILES[0].cert, FACTORY_FILES[0].key)


def dialing() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def nothing() -> None:
    return None


def failing() -> ssl.SSLContext:
    raise RuntimeError("no luck")


@on_loops
async def test_factories(ca: CertificateAuthority, server: CertificateFiles) -> None:
    FACTORY_FILES[:] = [server]
    assert await outcomes(options(ca=ca.cert), {"TLS-CONFIG": f"{__name__}:configured"}) == [None, None]
    transport = TLSTransport("tls+tcp")
    target = transport.parse("tls+tcp://127.0.0.1:0")
    for name, says in [
        (f"{__name__}:dialing", "for the other side; a listener needs ssl.PROTOCOL_TLS_SERVER"),
        (f"{__name__}:nothing", "made NoneType, not an ssl.SSLContext or a TLSConfig"),
        (f"{__name__}:failing", "failed with RuntimeError: no luck"),
        (f"{__name__}:missing", "failed with AttributeError"),
        ("no_such_module_anywhere:x", "failed with ModuleNotFoundError"),
    ]:
        with pytest.raises(BadValueError, match=f"listen tls.*{says}"):
            await transport.listen(target, {"TLS-CONFIG": name})
    with pytest.raises(BadValueError, match=r"dial tls.*a dialer needs ssl.PROTOCOL_TLS_CLIENT"):
        await transport.dial(transport.parse("tls+tcp://127.0.0.1:1"), {"TLS-CONFIG": f"{__name__}:listening"})


@on_loops
async def test_without_configuration() -> None:
    transport = TLSTransport("tls+tcp")
    target = transport.parse("tls+tcp://127.0.0.1:0")
    with pytest.raises(TLSNoConfigError, match="listen tls"):
        await transport.listen(target, {})
    with pytest.raises(TLSNoConfigError, match="dial tls"):
        await transport.dial(transport.parse("tls+tcp://127.0.0.1:1"), {})
    with pytest.raises(TLSNoCertError, match="listen tls"):
        await transport.listen(target, options())


@on_loops
async def test_another_protocol_is_said_as_on_tcp(ca: CertificateAuthority, server: CertificateFiles) -> None:
    one, other = await links(options(ca=ca.cert), options(server.cert, server.key))
    loop = asyncio.get_running_loop()
    shaking = [shake(loop, one, Handshake(PAIR, PAIR)), shake(loop, other, Handshake(0x30, 0x31))]
    found = await asyncio.gather(*shaking, return_exceptions=True)
    assert [type(each) for each in found] == [BadProtoError, BadProtoError]


# --- Bad peers


async def accepted(server: CertificateFiles) -> tuple[Client, Link]:
    """A plain peer, and the link that a listener makes of it."""
    transport = TLSTransport("tls+tcp")
    acceptor = await transport.listen(transport.parse("tls+tcp://127.0.0.1:0"), options(server.cert, server.key))
    client, link = await asyncio.gather(Client.to(host_port(acceptor.address)), acceptor.accept())
    acceptor.close()
    return client, link


@on_loops
async def test_a_peer_without_tls(server: CertificateFiles) -> None:
    for words in (
        greeting(PAIR),
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(100),
        b"\xff" * 100,
        b"\x16\x03\x01\xff\xff" + bytes(9),
    ):
        client, link = await accepted(server)
        with client:
            await client.send(words)
            client.sock.shutdown(socket.SHUT_WR)
            with pytest.raises(SPError) as caught:
                await shake(asyncio.get_running_loop(), link, Handshake(PAIR, PAIR))
            assert isinstance(caught.value, (TLSError, ConnResetError)), words
            assert link.sock.fileno() == -1
            assert await client.ended()


@on_loops
async def test_no_tls_is_said_in_words(ca: CertificateAuthority, server: CertificateFiles) -> None:
    client, link = await accepted(server)
    with client:
        await client.send(greeting(PAIR))
        with pytest.raises(TLSError, match=r"is no TLS; is one end at tcp:// and the other at tls\+tcp://"):
            client.sock.shutdown(socket.SHUT_WR)
            await shake(asyncio.get_running_loop(), link, Handshake(PAIR, PAIR))


@on_loops
async def test_a_listener_without_tls(ca: CertificateAuthority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        transport = TLSTransport("tls+tcp")
        target = transport.parse(f"tls+tcp://127.0.0.1:{plain.getsockname()[1]}")
        for words in (greeting(PAIR), b""):
            link = await transport.dial(target, options(ca=ca.cert))
            peer, _ = plain.accept()
            peer.sendall(words)
            peer.shutdown(socket.SHUT_WR)
            with pytest.raises(TLSError if words else ConnResetError, match="TLS"):
                await shake(asyncio.get_running_loop(), link, Handshake(PAIR, PAIR))
            peer.close()


@on_loops
async def test_a_handshake_that_stalls_ends_with_the_timeout(server: CertificateFiles) -> None:
    hello = client_hello()
    loop = asyncio.get_running_loop()
    for part in (0, 1, 5, len(hello) // 2, len(hello)):
        client, link = await accepted(server)
        with client:
            await client.send(hello[:part])
            with pytest.raises(ConnTimeoutError, match=r"the TLS handshake is not finished after 0.05 s"):
                await shake(loop, link, Handshake(PAIR, PAIR), 0.05)
            assert await client.ended()


@on_loops
async def test_silence_behind_the_tls_handshake_ends_with_the_timeout(
    ca: CertificateAuthority, server: CertificateFiles
) -> None:
    one, other = await links(options(ca=ca.cert), options(server.cert, server.key))
    assert isinstance(one, TLSLink)
    loop = asyncio.get_running_loop()
    shaking = asyncio.ensure_future(shake(loop, other, Handshake(PAIR, PAIR), 0.3))
    await one.secure(loop)
    with pytest.raises(ConnTimeoutError, match="8 of 8 bytes missing"):
        await shaking
    one.close()


def client_hello() -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    outgoing = ssl.MemoryBIO()
    session = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


@on_loops
async def test_garbage_of_every_kind_is_an_error_of_ours(server: CertificateFiles) -> None:
    """A hello with bytes turned, cut, doubled: whatever comes of it, nothing but an error of our tree, and no hang."""
    chance = random.Random(5)
    hello = client_hello()
    loop = asyncio.get_running_loop()
    for turn in range(40):
        words = bytearray(hello)
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(words))
            if turn % 3 == 0:
                words[at] ^= 1 << chance.randrange(8)
            elif turn % 3 == 1:
                del words[at : at + chance.randrange(40)]
            else:
                words[at:at] = chance.randbytes(chance.randrange(40))
        client, link = await accepted(server)
        with client:
            await client.send(bytes(words))
            client.sock.shutdown(socket.SHUT_WR)
            with pytest.raises(SPError):
                await shake(loop, link, Handshake(PAIR, PAIR), 5)


# --- The stream


class Joined:
    """Two TLS streams, handshakes done, on a pair of sockets whose buffers are small."""

    def __init__(self, one: TLSStream, other: TLSStream) -> None:
        self.one, self.other = one, other

    def close(self) -> None:
        self.one.close()
        self.other.close()


async def joined(ca: CertificateAuthority, server: CertificateFiles, buffer: int | None = None, **more: Any) -> Joined:
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    contexts = TLSConfig(ca=ca.cert, **more).client_context(), TLSConfig(server.cert, server.key).server_context()
    one = TLSStream(ours, contexts[0], server_side=False, server_name="localhost")
    other = TLSStream(theirs, contexts[1], server_side=True)
    loop = asyncio.get_running_loop()
    await asyncio.gather(one.handshake(loop), other.handshake(loop))
    return Joined(one, other)


@on_loops
async def test_a_send_counts_when_the_kernel_has_its_last_cipher_byte(
    ca: CertificateAuthority, server: CertificateFiles
) -> None:
    pair = await joined(ca, server, buffer=4096)
    one, other = pair.one, pair.other
    data = random.Random(1).randbytes(300_000)
    sent, got, blocked = 0, bytearray(), 0
    loop = asyncio.get_running_loop()
    while len(got) < len(data):
        try:
            taken = one.send(data[sent:])
            assert taken > 0 or sent == len(data)
            sent += taken
            # What is not acknowledged is not there: the other side has got no more than that, and what is on its way.
        except BlockingIOError:
            blocked += 1
        try:
            got += other.recv(1 << 20)
        except BlockingIOError:
            if sent < len(data):
                await writable(loop, one.fileno())
        assert len(got) <= sent + 65536
    assert (bytes(got), sent) == (data, len(data))
    assert blocked > 3, "the buffers were too large for this test"
    pair.close()


@on_loops
async def test_messages_over_a_narrow_stream(ca: CertificateAuthority, server: CertificateFiles) -> None:
    pair = await joined(ca, server, buffer=4096)
    writer, reader = StreamWriter(pair.one), StreamReader(pair.other, 0)
    chance = random.Random(2)
    sent = [chance.randbytes(chance.choice([0, 1, 100, 5_000, 70_000, 200_000])) for _ in range(40)]
    got: list[bytes] = []
    loop = asyncio.get_running_loop()
    for body in sent:
        writer.push_bytes(body)

    async def write() -> None:
        while not writer.flush():
            await writable(loop, pair.one.fileno())

    writing = asyncio.ensure_future(write())
    while len(got) < len(sent):
        await readable(loop, pair.other.fileno())
        got += reader.read()
    await writing
    assert got == sent
    assert (writer.frames, writer.queued) == (40, 0)
    pair.close()


@on_loops
async def test_what_came_with_the_handshake_is_not_forgotten(
    ca: CertificateAuthority, server: CertificateFiles
) -> None:
    """The first messages in the same segment as the greeting: no poll tells of them any more."""
    one, other = await links(options(ca=ca.cert), options(server.cert, server.key))
    assert isinstance(one, TLSLink)
    loop = asyncio.get_running_loop()
    shaking = asyncio.ensure_future(shake(loop, other, Handshake(PAIR, PAIR)))
    stream = await one.secure(loop)
    await send_all(loop, stream, greeting(PAIR) + encode("stream", b"first") + encode("stream", b"second"))
    await shaking
    reader = other.reader(0)
    assert reader.more == 1
    assert reader.read() == [b"first", b"second"]
    assert reader.more == 0
    one.close()
    other.close()


@on_loops
async def test_the_end_with_and_without_words(ca: CertificateAuthority, server: CertificateFiles) -> None:
    loop = asyncio.get_running_loop()
    for how in ("close_notify", "cut"):
        pair = await joined(ca, server)
        await send_all(loop, pair.one, b"last words")
        if how == "cut":
            pair.one._sock.shutdown(socket.SHUT_WR)
        else:
            pair.one.shutdown(socket.SHUT_WR)
        assert await recv_some(loop, pair.other, 100) == b"last words"
        assert await recv_some(loop, pair.other, 100) == b""
        assert await recv_some(loop, pair.other, 100) == b"", "and so it stays"
        if how == "close_notify":  # the other direction still stands, and who has said goodbye sees its end
            await send_all(loop, pair.other, b"an answer")
            assert await recv_some(loop, pair.one, 100) != b""
            pair.other.shutdown(socket.SHUT_WR)
            while await recv_some(loop, pair.one, 100):
                pass
        pair.close()
        pair.close()  # harmless


@on_loops
async def test_bytes_that_were_tampered_with(ca: CertificateAuthority, server: CertificateFiles) -> None:
    pair = await joined(ca, server)
    loop = asyncio.get_running_loop()
    await send_all(loop, pair.one, encode("stream", b"good"))
    pair.one._sock.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))  # a record that nobody has enciphered
    reader = StreamReader(pair.other, 0)
    got = reader.read()
    while reader.more != 2:
        if not reader.more:
            await readable(loop, pair.other.fileno())
        got += reader.read()
    assert got == [b"good"]
    assert isinstance(reader.error, TLSError)
    assert "no TLS" not in str(reader.error)  # it was
    assert reader.more == 2
    with pytest.raises(TLSError):  # the alert tells the other side
        await recv_some(loop, pair.one, 100)
    pair.close()


@on_loops
async def test_garbage_in_the_midst_of_a_session_is_not_taken_for_another_scheme(
    ca: CertificateAuthority, server: CertificateFiles
) -> None:
    pair = await joined(ca, server)
    pair.one._sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
    reader = StreamReader(pair.other, 0)
    assert reader.read() == []
    assert "no record of this session" in str(reader.error)
    pair.close()


@on_loops
async def test_a_peer_that_renegotiates_is_refused(ca: CertificateAuthority, server: CertificateFiles) -> None:
    """TLS 1.2: handshake records in the midst of it, enciphered or not, end the session."""
    pair = await joined(ca, server, maximum_version="1.2")
    pair.one._sock.sendall(client_hello())
    reader = StreamReader(pair.other, 0)
    assert reader.read() == []
    assert isinstance(reader.error, TLSError)
    pair.close()


@on_loops
async def test_a_flood_of_empty_records_does_not_hold_up_the_others(
    ca: CertificateAuthority, server: CertificateFiles
) -> None:
    pair = await joined(ca, server)
    # change_cipher_spec, of TLS 1.3's middlebox compatibility, means nothing.
    pair.one._sock.send(b"\x14\x03\x03\x00\x01\x01" * 2000)
    reader = StreamReader(pair.other, 0)
    assert reader.read() == []
    assert reader.more in (0, 2)
    pair.close()


class Wire:
    """Two TLS streams with a hand on the wire: what the first one says arrives when, and as, the test likes."""

    def __init__(self, ca: CertificateAuthority, server: CertificateFiles) -> None:
        self.near, ours = socket.socketpair()
        self.far, theirs = socket.socketpair()
        for sock in (self.near, self.far, ours, theirs):
            sock.setblocking(False)
        client, listener = TLSConfig(ca=ca.cert).client_context(), TLSConfig(server.cert, server.key).server_context()
        self.one = TLSStream(ours, client, server_side=False, server_name="localhost")
        self.other = TLSStream(theirs, listener, server_side=True)

    def carry(self, way: str = "there") -> bytes:
        """What one of them has said, taken off the wire."""
        found = b""
        with contextlib.suppress(BlockingIOError):
            while data := (self.near if way == "there" else self.far).recv(65536):
                found += data
        return found

    async def shake(self) -> None:
        loop = asyncio.get_running_loop()
        shaking = [asyncio.ensure_future(each.handshake(loop)) for each in (self.one, self.other)]
        while not all(each.done() for each in shaking):
            await asyncio.sleep(0)
            self.far.sendall(self.carry("there"))
            self.near.sendall(self.carry("back"))
        await asyncio.gather(*shaking)

    def close(self) -> None:
        for each in (self.one, self.other, self.near, self.far):
            each.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.binary(max_size=300), min_size=1, max_size=6),
    st.lists(
        st.tuples(st.sampled_from(["cut", "flip", "insert", "repeat", "good"]), st.integers(0), st.binary(max_size=40))
    ),
)
def test_whatever_happens_on_the_wire_only_what_was_said_is_heard(
    ca: CertificateAuthority, server: CertificateFiles, bodies: list[bytes], faults: list[tuple[str, int, bytes]]
) -> None:
    """Any tampering ends in an error of ours, or in the end; what came through before is what was said, in order."""

    async def play() -> None:
        wire = Wire(ca, server)
        await wire.shake()
        writer, reader = StreamWriter(wire.one), StreamReader(wire.other, 1000)
        for body in bodies:
            writer.push_bytes(body)
            writer.flush()
        words = bytearray(wire.carry())
        for kind, number, noise in faults:
            at = number % (len(words) + 1)
            if kind == "cut":
                del words[at : at + len(noise)]
            elif kind == "flip" and at < len(words):
                words[at] ^= 1 << (number % 8)
            elif kind == "insert":
                words[at:at] = noise
            elif kind == "repeat":
                words[at:at] = words[at : at + 60]
        wire.far.sendall(words)
        wire.far.shutdown(socket.SHUT_WR)
        heard: list[bytes] = []
        for _ in range(100):
            heard += reader.read()
            if reader.more == 2:
                break
        assert reader.more == 2, "it knows that there is nothing more"
        assert heard == bodies[: len(heard)]
        assert reader.error is None or isinstance(reader.error, TLSError)
        wire.close()

    asyncio.run(play())


# --- Files that change


def install(files: CertificateFiles, folder: Path) -> TLSConfig:
    """Put a certificate and its key where a listener looks, as a renewal does: by renaming."""
    for name, path in (("cert", files.cert), ("key", files.key)):
        shutil.copy(path, folder / "new")
        os.replace(folder / "new", folder / name)
    return TLSConfig(folder / "cert", folder / "key")


@on_loops
async def test_renewed_files_hold_for_the_next_connection(
    ca: CertificateAuthority, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path_factory.mktemp("renewed")
    config = {"TLS-CONFIG": install(ca.server("localhost", "first"), folder).to_wire()}
    transport = TLSTransport("tls+tcp")
    acceptor = await transport.listen(transport.parse("tls+tcp://localhost:0"), config)
    ours = options(ca=ca.cert, server_name="localhost")

    async def names() -> tuple[str, ...]:
        one, other = await connect_to(transport, acceptor, ours)
        await shake_both(one, other)
        one.close()
        other.close()
        return state_of(one).names

    assert await names() == ("localhost", "first")
    install(ca.server("localhost", "second"), folder)
    assert await names() == ("localhost", "second")
    (folder / "key").write_bytes(ca.client("x").key.read_bytes())  # half of a renewal
    for _ in range(3):
        assert await names() == ("localhost", "second")
    assert caplog.text.count("is not the key of") == 1
    (folder / "key").unlink()
    assert await names() == ("localhost", "second")
    install(ca.server("localhost", "third"), folder)
    assert await names() == ("localhost", "third")
    acceptor.close()


async def connect_to(transport: TLSTransport, acceptor: Any, ours: dict[str, Any]) -> tuple[Link, Link]:
    target = transport.parse(acceptor.address)
    both = await asyncio.gather(transport.dial(target, ours), acceptor.accept())
    return both[0], both[1]


@on_loops
async def test_a_successor_listens_even_where_the_files_are_gone_for_a_moment(
    ca: CertificateAuthority, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path_factory.mktemp("gone")
    config = {"TLS-CONFIG": install(ca.server(), folder).to_wire()}
    transport = TLSTransport("tls+tcp")
    acceptor = await transport.listen(transport.parse("tls+tcp://127.0.0.1:0"), config)
    inherited = os.dup(acceptor.fileno())
    acceptor.close(unlink=False)
    (folder / "cert").unlink()
    again = TLSTransport("tls+tcp")
    acceptor = await again.listen(again.parse("tls+tcp://127.0.0.1:0"), config, inherited)
    assert "connections fail until that is mended" in caplog.text
    one, other = await connect_to(again, acceptor, options(ca=ca.cert))
    loop = asyncio.get_running_loop()
    shaking = [shake(loop, link, Handshake(PAIR, PAIR)) for link in (one, other)]
    ours, theirs = await asyncio.gather(*shaking, return_exceptions=True)
    assert isinstance(ours, SPError)
    assert isinstance(theirs, BadValueError)
    assert "cannot be read" in str(theirs)
    install(ca.server(), folder)
    one, other = await connect_to(again, acceptor, options(ca=ca.cert))
    await shake_both(one, other)
    one.close()
    other.close()
    acceptor.close()


@on_loops
async def test_a_config_that_is_set_while_it_listens(
    ca: CertificateAuthority, server: CertificateFiles, caplog: pytest.LogCaptureFixture
) -> None:
    """It holds for the next connection; that it cannot be used is said once."""
    transport = TLSTransport("tls+tcp")
    live = options(server.cert, server.key)
    acceptor = await transport.listen(transport.parse("tls+tcp://127.0.0.1:0"), live)
    loop = asyncio.get_running_loop()
    for config, subject in [
        (TLSConfig(server.cert, server.key), "CN=localhost"),
        (TLSConfig(), None),
        (TLSConfig(), None),
        (TLSConfig(*other_names(ca)), "CN=127.0.0.1"),
    ]:
        live["TLS-CONFIG"] = config.to_wire()
        one, other = await connect_to(transport, acceptor, options(ca=ca.cert))
        shaking = [shake(loop, link, Handshake(PAIR, PAIR)) for link in (one, other)]
        _, theirs = await asyncio.gather(*shaking, return_exceptions=True)
        if subject is None:
            assert isinstance(theirs, TLSNoCertError)
        else:
            assert theirs is None
            assert state_of(one).subject == subject
        one.close()
        other.close()
    assert caplog.text.count("connections fail until that is mended") == 1
    acceptor.close()


def other_names(ca: CertificateAuthority) -> tuple[Path, Path]:
    files = ca.server("127.0.0.1")
    return files.cert, files.key


@on_loops
async def test_a_config_that_is_set_again_and_again_is_not_kept_for_ever(server: CertificateFiles) -> None:
    transport = TLSTransport("tls+tcp")
    for _ in range(200):
        transport.contexts.find(options(server.cert, server.key), "listener", "listen")
    assert len(transport.contexts._known) <= 64


def test_reprs_name_no_secret(server: CertificateFiles) -> None:
    transport = TLSTransport("tls+tcp")
    given = options(server.cert, server.key, key_password="sesame")
    transport.contexts.find(given, "listener", "listen")
    (known,) = transport.contexts._known.values()
    assert "sesame" not in repr(known)
    assert str(server.cert) in repr(known)


@on_loops
async def test_links_say_what_they_are(ca: CertificateAuthority, server: CertificateFiles) -> None:
    one, other = await links(options(ca=ca.cert), options(server.cert, server.key))
    assert repr(one).startswith("<TLSLink stream 127.0.0.1:")
    assert isinstance(one, TLSLink)
    with pytest.raises(SPError, match="no TLS session yet"):
        _ = one.stream
    await shake_both(one, other)
    assert repr(one.stream).startswith("<TLSStream TLSv1.3 with 127.0.0.1:")
    one.close()
    assert repr(one.stream).endswith(": closed>")
    other.close()
    assert connect is not None
