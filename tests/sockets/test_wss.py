"""WebSockets over TLS: on a port of one's own, and behind a web server."""

from __future__ import annotations

import contextlib
import os
import signal
import ssl
import urllib.request
from collections.abc import Iterator

import pytest
from helpers import eventually
from sockets.kit import BOUND, Record, ask, drops, request_id, serve, wait_pipes
from sockets.wspeer import WsPeer, frame, process_of, request

import spworkers as sp
from spworkers.testing import CertificateAuthority


class World:
    """An authority, and what it vouches for."""

    def __init__(self, ca: CertificateAuthority) -> None:
        files, alice = ca.server(), ca.client("alice")
        self.server = sp.TLSConfig(files.cert, files.key)
        self.mutual = sp.TLSConfig(files.cert, files.key, ca.cert)
        self.client = sp.TLSConfig(ca=ca.cert)
        self.alice = sp.TLSConfig(alice.cert, alice.key, ca.cert)
        self.context = ssl.create_default_context(cafile=str(ca.cert))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with CertificateAuthority() as ca:
        yield World(ca)


@pytest.fixture
def web(world: World) -> Iterator[sp.WebServer]:
    pages = {"/": "page"}
    with sp.WebServer("https://127.0.0.1:0", pages=pages, tls_config=world.server, handshake_timeout=2.0) as made:
        yield made


class SecurePeer(WsPeer):
    """A client by hand, over TLS."""

    def __init__(self, address: str, context: ssl.SSLContext) -> None:
        super().__init__(address)
        self.sock = context.wrap_socket(self.sock, server_hostname="127.0.0.1")
        self.file = self.sock.makefile("rb")


def where(sock: sp.Socket) -> str:
    return sock.listeners[0].address


def both_ways(one: sp.Pair, other: sp.Pair) -> None:
    for size in (0, 1, 70_000, 1 << 20):
        other.send(bytes(size), timeout=BOUND)
        assert one.recv(timeout=BOUND) == bytes(size)
        one.send(b"x" * size, timeout=BOUND)
        assert other.recv(timeout=BOUND) == b"x" * size


# ---- on its own port


def test_messages_and_what_is_known_of_the_peer(world: World) -> None:
    with sp.Pair(listen="wss://127.0.0.1:0/x", tls_config=world.mutual) as one:
        assert where(one).startswith("wss://127.0.0.1:")
        assert where(one).endswith("/x")
        with sp.Pair(dial=where(one) + "?a=b", tls_config=world.alice) as other:
            both_ways(one, other)
            ours, theirs = one.pipes[0], other.pipes[0]
            assert ours.tls_state.common_name == "alice"
            assert theirs.tls_state.verified
            assert (ours.http_request.path, ours.http_request.query) == ("/x", {"a": "b"})
            assert (ours.local_addr, ours.remote_addr) == (theirs.remote_addr, theirs.local_addr)
        wait_pipes(one, 0)
        assert drops(one) == {}


def test_a_hook_sees_certificate_and_request(world: World) -> None:
    with sp.Pair(tls_config=world.mutual) as one:
        told = Record()

        def judge(event: sp.PipeEvent, pipe: sp.Pipe) -> None:
            told(event, pipe)
            if event is sp.PipeEvent.ATTACHING and pipe.http_request.path + pipe.tls_state.common_name != "/xalice":
                raise PermissionError

        one.set_pipe_event_hook(judge)
        one.listen("wss://127.0.0.1:0/x")
        with sp.Pair(dial=where(one), tls_config=world.alice):
            wait_pipes(one)
        eventually(lambda: told.counts() == (1, 1, 1), BOUND)


def test_without_configuration_certificate_or_trust(world: World) -> None:
    with sp.Pair() as pair, sp.Pair(listen="wss://127.0.0.1:0/", tls_config=world.server) as one:
        with pytest.raises(sp.TLSNoConfigError):
            pair.listen("wss://127.0.0.1:0/")
        with pytest.raises(sp.TLSNoConfigError):
            pair.dial(where(one))
        with pytest.raises(sp.TLSNoCertError):
            pair.listen("wss://127.0.0.1:0/", tls_config=world.client)
        with pytest.raises(sp.TLSError, match="certificate"):
            pair.dial(where(one), tls_config=sp.TLSConfig())


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\n\r\n", b"\0SP\0\0\x10\0\0", b"\x16\x03\x01\x00\x05hello"])
def test_what_is_no_tls_is_refused(world: World, words: bytes) -> None:
    with sp.Pair(listen="wss://127.0.0.1:0/", tls_config=world.server, handshake_timeout=0.5) as one:
        with WsPeer(where(one)) as peer:
            peer.write(words)
            assert peer.ended()
        eventually(lambda: one.stats()["bad_handshakes"] == 1)
        with sp.Pair(dial=where(one), tls_config=world.client) as other:
            both_ways(one, other)


def test_schemes_do_not_mix(world: World) -> None:
    with sp.Pair(listen="wss://127.0.0.1:0/", tls_config=world.server, handshake_timeout=0.5) as one:
        with sp.Pair(listen="ws://127.0.0.1:0/", handshake_timeout=0.5) as plain, sp.Pair() as pair:
            with pytest.raises(sp.PeerError):
                pair.dial(where(one).replace("wss:", "ws:"))
            with pytest.raises(sp.PeerError):
                pair.dial(where(plain).replace("ws:", "wss:"), tls_config=world.client)


def test_bad_frames_and_bad_requests_inside_of_tls(world: World) -> None:
    with sp.Pair(listen="wss://127.0.0.1:0/x", tls_config=world.server, max_rcv_size=100) as one:
        with SecurePeer(where(one), world.context) as peer:
            assert peer.ask("rep")[0] == 400
        with SecurePeer(where(one), world.context) as peer:
            assert peer.ask("pair", path="/y")[0] == 404
        for words, code in ((frame(2, bytes(101)), 1009), (frame(2, b"x", mask=False), 1002)):
            with SecurePeer(where(one), world.context) as peer:
                assert peer.ask("pair")[0] == 101
                peer.write(words)
                assert peer.closed() == code
                assert peer.ended()
        eventually(lambda: drops(one) == {"bad_header": 1, "bad_protocol": 1, "too_long": 1, "garbled": 1})


def test_what_was_sent_before_a_close_arrives(world: World) -> None:
    sock = sp.Push(listen="wss://127.0.0.1:0/", tls_config=world.server)
    with sp.Pull(dial=where(sock), tls_config=world.client) as pull:
        wait_pipes(sock)
        for number in range(50):
            sock.send(b"%d" % number * 10_000)
        sock.close()
        assert [pull.recv(timeout=BOUND) for _ in range(50)] == [b"%d" % number * 10_000 for number in range(50)]


def test_a_killed_io_process_is_replaced(world: World) -> None:
    with sp.Rep(listen="wss://127.0.0.1:0/x", tls_config=world.server) as rep:
        with sp.Req(dial=where(rep), tls_config=world.client, reconnect_time=0.01) as req:
            os.kill(rep.stats()["pid"], signal.SIGKILL)
            eventually(lambda: rep.stats()["generation"] == 2)
            served = serve(rep)
            assert ask(req, b"on") == b"ON"
            served.result(BOUND)


# ---- behind a web server


def test_sockets_and_a_page_share_a_port(web: sp.WebServer, world: World) -> None:
    assert web.url("/x").startswith("wss://")
    with sp.Pair(listen=web.url("/x")) as one, sp.Rep(listen=web.url("/rep")) as rep:
        with sp.Pair(dial=web.url("/x"), tls_config=world.client) as other:
            both_ways(one, other)
            ours, theirs = one.pipes[0], other.pipes[0]
            assert (ours.local_addr, ours.remote_addr) == (theirs.remote_addr, theirs.local_addr)
            assert ours.tls_state.version == theirs.tls_state.version
            assert ours.http_request.path == "/x"
            with sp.Req(dial=web.url("/rep"), tls_config=world.client) as req:
                served = serve(rep)
                assert ask(req, b"ping") == b"PING"
                served.result(BOUND)
        wait_pipes(one, 0)
        with urllib.request.urlopen(web.address, timeout=BOUND, context=world.context) as response:
            assert response.read() == b"page"
        with sp.Pair() as pair, pytest.raises(sp.BadProtoError, match="404"):
            pair.dial(web.url("/nowhere"), tls_config=world.client)


def test_relays_are_counted(web: sp.WebServer, world: World) -> None:
    with sp.Rep(listen=web.url("/x")) as rep:
        with sp.Req(dial=web.url("/x"), tls_config=world.client) as req:
            wait_pipes(rep)
            assert (web.stats()["relays"], web.stats()["connections"]) == (1, 0)
            assert len(req.pipes) == 1
        eventually(lambda: web.stats()["relays"] == 0)
        with SecurePeer(web.url("/"), world.context):
            eventually(lambda: web.stats()["connections"] == 1)
    with WsPeer(web.url("/")) as peer:
        peer.write(b"no TLS at all\r\n\r\n")
        eventually(lambda: web.stats()["drops"].get("bad_tls") == 1)


def test_a_plain_address_is_not_the_secure_servers(web: sp.WebServer) -> None:
    with sp.Pair() as pair, pytest.raises(sp.AddrInUseError):
        pair.listen(web.url("/x").replace("wss:", "ws:"))


def test_a_close_is_carried_through(web: sp.WebServer, world: World) -> None:
    with sp.Pair(listen=web.url("/x"), max_rcv_size=100) as one:
        with SecurePeer(web.url("/x"), world.context) as peer:
            asked = request("/x", peer.where, "pair") + frame(2, b"early")
            peer.write(asked)
            assert peer.answer()[0] == 101
            assert one.recv(timeout=BOUND) == b"early"
            peer.write(frame(2, bytes(101)))
            assert peer.closed() == 1009
            assert peer.ended()
        wait_pipes(one, 0)
        with SecurePeer(web.url("/x"), world.context) as peer:
            assert peer.ask("pair")[0] == 101
            wait_pipes(one)
        wait_pipes(one, 0)


def test_what_is_no_tls_is_refused_there_too(web: sp.WebServer, world: World) -> None:
    for words in (b"GET / HTTP/1.1\r\n\r\n", b"", b"\x16\x03\x01"):
        with WsPeer(web.url("/")) as peer:
            peer.write(words)
            assert peer.ended()
    with urllib.request.urlopen(web.address, timeout=BOUND, context=world.context) as response:
        assert response.read() == b"page"


def test_a_killed_web_server_is_replaced_and_clients_come_back(web: sp.WebServer, world: World) -> None:
    with sp.Rep(listen=web.url("/rep")) as rep:
        with sp.Req(dial=web.url("/rep"), tls_config=world.client, reconnect_time=0.01) as req:
            wait_pipes(rep)
            process_of(web).send_signal(signal.SIGKILL)
            serve(rep, 2)  # it may come twice
            assert ask(req, b"back") == b"BACK"


def test_many_idle_sockets_do_not_use_up_the_handshakes(web: sp.WebServer, world: World) -> None:
    with sp.Pull(listen=web.url("/x")) as pull, contextlib.ExitStack() as stack:
        pushes = [stack.enter_context(sp.Push(dial=web.url("/x"), tls_config=world.client)) for _ in range(5)]
        wait_pipes(pull, 5)
        eventually(lambda: len(process_of(web).net_connections("tcp")) == 6, BOUND)
        slow = [WsPeer(web.url("/x")) for _ in range(5)]
        for peer in slow:
            assert peer.ended()  # after the handshake's time; those that are through stay
            peer.close()
        for push in pushes:
            push.send(b"x")
        assert [pull.recv(timeout=BOUND) for _ in pushes] == [b"x"] * 5


def test_https_needs_a_certificate_and_http_none(world: World) -> None:
    with pytest.raises(sp.TLSNoConfigError):
        sp.WebServer("https://127.0.0.1:0")
    with pytest.raises(sp.BadValueError, match="https"):
        sp.WebServer("http://127.0.0.1:0", tls_config=world.server)
    with pytest.raises(sp.TLSNoCertError):
        sp.WebServer("https://127.0.0.1:0", tls_config=world.client)
    with pytest.raises(sp.BadValueError):
        sp.WebServer("https://127.0.0.1:0", tls_config=ssl.create_default_context())


def test_request_ids_come_back(web: sp.WebServer, world: World) -> None:
    with sp.Rep(listen=web.url("/rep")) as rep, SecurePeer(web.url("/rep"), world.context) as peer:
        assert peer.ask("rep")[0] == 101
        peer.send(request_id(7) + b"x")
        assert rep.recv(timeout=BOUND) == b"x"
        rep.send(b"y")
        assert peer.recv() == request_id(7) + b"y"
