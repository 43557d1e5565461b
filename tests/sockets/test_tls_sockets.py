"""tls+tcp as users see it: configuration, state, refusals, renewal, deaths."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.program import successor
from helpers import eventually
from sockets.kit import BOUND, REQ, ask, background, drops, serve, wait_pipes

import spworkers as sp
from spworkers.supervisor.client import get_supervisor
from spworkers.testing import CertificateAuthority, CertificateFiles, RawPeer, greeting

ANYWHERE = "tls+tcp://127.0.0.1:0"


class World:
    """An authority, and what it vouches for."""

    def __init__(self, ca: CertificateAuthority) -> None:
        self.ca = ca
        self.files = ca.server()
        self.server = sp.TLSConfig(self.files.cert, self.files.key)
        self.mutual = sp.TLSConfig(self.files.cert, self.files.key, ca.cert)
        self.client = sp.TLSConfig(ca=ca.cert)

    def named(self, name: str) -> sp.TLSConfig:
        """The configuration of a client of this name."""
        files = self.ca.client(name)
        return sp.TLSConfig(files.cert, files.key, self.ca.cert)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with CertificateAuthority() as ca:
        yield World(ca)


def test_every_size_up_and_down(world: World) -> None:
    with sp.Pair(listen=ANYWHERE, tls_config=world.server) as one:
        with sp.Pair(dial=one.listeners[0].address, tls_config=world.client) as other:
            for power in range(21):
                body = bytes([power]) * (1 << power)
                other.send(body, timeout=BOUND)
                assert one.recv(timeout=BOUND) == body
                one.send(body[::-1], timeout=BOUND)
                assert other.recv(timeout=BOUND) == body


def test_much_both_ways_at_once(world: World) -> None:
    """More than the buffers of both kernels hold, while nobody reads at first: neither end waits for the other."""
    bodies = [bytes([n % 251]) * (1 + n * 997 % 70_000) for n in range(300)]
    with sp.Pair(listen=ANYWHERE, tls_config=world.server) as one:
        with sp.Pair(dial=one.listeners[0].address, tls_config=world.client) as other:

            def send(sock: sp.Pair) -> None:
                for body in bodies:
                    sock.send(body, timeout=BOUND)

            sending = [background(send, sock) for sock in (one, other)]
            for sock in (one, other):
                assert [sock.recv(timeout=BOUND) for _ in bodies] == bodies
            for each in sending:
                each.result(BOUND)


def test_one_way_then_close_loses_nothing(world: World) -> None:
    """LINGER: what was sent is there, and the end is said in order (B3)."""
    with sp.Pull(listen=ANYWHERE, tls_config=world.server) as pull:
        for _ in range(10):
            with sp.Push(dial=pull.listeners[0].address, tls_config=world.client) as push:
                for number in range(100):
                    push.send(b"%d" % number)
            assert [pull.recv(timeout=BOUND) for _ in range(100)] == [b"%d" % n for n in range(100)]


def test_the_end_is_said_in_tls(world: World) -> None:
    """close_notify, then FIN, then reading to the other side's end."""
    with sp.Push(listen=ANYWHERE, tls_config=world.server) as push:
        with raw_tls(push, world, "pull") as wire:
            wait_pipes(push)
            push.send(b"last words")
            closing = background(push.close)
            assert read(wire, 18) == (10).to_bytes(8, "big") + b"last words"
            assert wire.recv(1) == b""  # an end without close_notify would raise SSLEOFError
            wire.unwrap()
            closing.result(BOUND)


def raw_tls(sock: sp.Socket, world: World, protocol: str) -> ssl.SSLSocket:
    """A peer made of Python's own TLS, after the SP handshake; it raises where TLS is not closed in order."""
    host, port = sock.listeners[0].address.rpartition("//")[2].split(":")
    plain = socket.create_connection((host, int(port)), BOUND)
    context = ssl.create_default_context(cafile=str(world.ca.cert))
    wire = context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False)
    wire.sendall(greeting(protocol))
    assert len(read(wire, 8)) == 8
    return wire


def read(wire: ssl.SSLSocket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = wire.recv(size - len(data))
        assert part, f"the end after {data!r}"
        data += part
    return data


# --- Configuration


def test_no_configuration_and_no_certificate(world: World) -> None:
    """B9: and the listener stays usable."""
    with sp.Rep() as rep:
        listener = rep.new_listener(ANYWHERE)
        with pytest.raises(sp.TLSNoConfigError):
            listener.listen()
        listener.tls_config = world.client
        with pytest.raises(sp.TLSNoCertError):
            listener.listen()
        listener.tls_config = world.server
        listener.listen()
        with sp.Req() as req:
            dialer = req.new_dialer(listener.address)
            with pytest.raises(sp.TLSNoConfigError):
                dialer.dial()
            dialer.tls_config = world.client
            dialer.dial()
            served = serve(rep)
            assert ask(req, b"x") == b"X"
            served.result(BOUND)


def test_insecure_is_what_one_asks_for(world: World) -> None:
    with sp.Rep(listen=ANYWHERE, tls_config=world.server) as rep:
        address = rep.listeners[0].address
        with sp.Req() as req:
            with pytest.raises(sp.TLSError, match=r"TLSConfig\(ca=...\)"):
                req.dial(address, tls_config=sp.TLSConfig())
            req.dial(address, tls_config=sp.TLSConfig(verify_peer=False))
            state = req.pipes[0].tls_state
            assert (state.verified, state.common_name) == (False, "localhost")


def test_it_is_inherited_and_checked_at_once(world: World, tmp_path: Path) -> None:
    with sp.Rep(tls_config=world.server) as rep:
        assert rep.tls_config is world.server
        assert rep.listen(ANYWHERE).tls_config is world.server
        with pytest.raises(sp.BadValueError, match="cannot be read"):
            rep.listen(ANYWHERE, tls_config=sp.TLSConfig(tmp_path / "none"))
        with pytest.raises(sp.BadValueError, match="cannot cross to the I/O process"):
            rep.tls_config = ssl.create_default_context()
        with pytest.raises(sp.BadOptionError):
            rep.listen("tcp://127.0.0.1:0", tls_config=world.server)


def test_a_factory_by_its_name(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tls_factories.py").write_text(
        "import ssl\n"
        "def server():\n"
        "    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n"
        f"    context.load_cert_chain({str(world.files.cert)!r}, {str(world.files.key)!r})\n"
        "    return context\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with sp.Rep(listen=ANYWHERE, tls_config="tls_factories:server") as rep:
        with sp.Req(dial=rep.listeners[0].address, tls_config=world.client) as req:
            served = serve(rep)
            assert ask(req, b"x") == b"X"
            served.result(BOUND)
        with pytest.raises(sp.BadValueError, match=r"tls_factories:missing.*failed with AttributeError"):
            rep.listen(ANYWHERE, tls_config="tls_factories:missing")


def test_addresses(world: World) -> None:
    """Those of tcp: a wildcard can be listened at, and dialled as this machine, whose name is localhost (B6, B7)."""
    with sp.Rep(tls_config=world.server) as rep, sp.Req(tls_config=world.client) as req:
        for address in ("tls+tcp://*:0", "tls+tcp4://localhost:0"):
            bound = rep.listen(address).address
            assert bound.startswith("tls+tcp")
            req.dial(bound)
        port = rep.listeners[0].address.rpartition(":")[2]
        req.dial(f"tls+tcp://localhost:{port}")
        wait_pipes(rep, 3)
        for wrong in ("tls+tcp://", "tls+tcp://localhost", "tls+tcp://a/b:5"):
            with pytest.raises(sp.BadAddrError):
                req.dial(wrong)
        with pytest.raises(sp.ConnRefusedError):
            req.dial("tls+tcp://127.0.0.1:1")
        with pytest.raises(sp.BadProtoError), sp.Pull(tls_config=world.client) as pull:
            pull.dial(rep.listeners[0].address)


# --- Who is the peer


def test_a_hook_lets_in_by_subject(world: World) -> None:
    """B23: the state is complete when ATTACHING runs."""
    seen = []

    def only_alice(event: sp.PipeEvent, pipe: sp.Pipe) -> None:
        if event is sp.PipeEvent.ATTACHING:
            seen.append(pipe.tls_state)
            if pipe.tls_state.common_name != "alice":
                pipe.close()

    with sp.Rep(tls_config=world.mutual) as rep:
        rep.set_pipe_event_hook(only_alice)
        address = rep.listen(ANYWHERE).address
        with sp.Req(tls_config=world.named("alice"), dial=address) as alice:
            served = serve(rep)
            assert ask(alice, b"x") == b"X"
            served.result(BOUND)
            with sp.Req(tls_config=world.named("mallory"), dial=address, reconnect_time=60):
                eventually(lambda: rep.stats()["refused"] == 1, BOUND)
            assert [state.subject for state in seen] == ["CN=alice", "CN=mallory"]
            assert all(state.verified for state in seen)
            assert [pipe.tls_state.common_name for pipe in rep.pipes] == ["alice"]
            with sp.Req() as nobody, pytest.raises(sp.TLSError, match="certificate"):
                nobody.dial(address, tls_config=world.client)


def test_a_message_says_by_whom_it_came(world: World) -> None:
    with sp.Rep(tls_config=world.mutual, listen=ANYWHERE) as rep:
        with sp.Req(tls_config=world.named("alice"), dial=rep.listeners[0].address) as req:
            req.send(b"who am I?")
            message = rep.recv_msg(timeout=BOUND)
            assert message.pipe is not None
            state = message.pipe.tls_state
            assert isinstance(state, sp.TLSState)
            assert (str(state), state.common_name) == (f"{state.version} {state.cipher}", "alice")
            assert req.pipes[0].tls_state.server_name == "127.0.0.1"
        with sp.Pair(listen="tcp://127.0.0.1:0") as plain, sp.Pair(dial=plain.listeners[0].address) as other:
            with pytest.raises(sp.BadOptionError):
                _ = other.pipes[0].tls_state


# --- Bad peers


def test_bad_peers_are_counted_and_hurt_nobody(world: World) -> None:
    with sp.Rep(listen=ANYWHERE, tls_config=world.server, handshake_timeout=0.5) as rep:
        address = rep.listeners[0].address
        with sp.Req(dial=address, tls_config=world.client) as req:
            plain = address.replace("tls+", "")
            with sp.Req() as other, pytest.raises(sp.ConnResetError):
                other.dial(plain)
            for words in (greeting(REQ), b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\0\x01\0\x01", b"\xff" * 64, b""):
                with RawPeer.dial(plain) as wire:
                    wire.write(words)
                    assert wire.ended()
            eventually(lambda: rep.stats()["bad_handshakes"] == 6, BOUND)
            causes = drops(rep)
            assert set(causes) <= {"bad_tls", "handshake_timeout", "handshake_closed", "handshake_failed"}
            assert causes["bad_tls"] >= 3
            assert causes["handshake_timeout"] == 2, "half a hello, and silence"
            served = serve(rep)
            assert ask(req, b"good") == b"GOOD"
            served.result(BOUND)
            assert len(rep.pipes) == 1


def test_a_crowd_of_stalled_handshakes_holds_up_nobody(world: World) -> None:
    with sp.Rep(listen=ANYWHERE, tls_config=world.server) as rep:
        address = rep.listeners[0].address
        wires = [RawPeer.dial(address.replace("tls+", "")) for _ in range(200)]
        for number, wire in enumerate(wires):
            wire.write(b"\x16\x03\x01\x02\0\x01\0\x01"[: number % 9])
        with sp.Req(dial=address, tls_config=world.client) as late:
            served = serve(rep)
            assert ask(late, b"good") == b"GOOD"
            served.result(BOUND)
        for wire in wires:
            wire.close()
        eventually(lambda: rep.stats()["bad_handshakes"] == 200, BOUND)


def test_garbage_inside_tls(world: World) -> None:
    """Bad greetings and bad frames of who speaks TLS well."""
    with sp.Rep(listen=ANYWHERE, tls_config=world.server, max_rcv_size=1000) as rep:
        for words, cause in [
            ((1 << 62).to_bytes(8, "big"), "too_long"),
            ((1001).to_bytes(8, "big") + b"x", "too_long"),
            (b"\xff" * 8, "garbled"),
            (b"\x80", "garbled"),
        ]:
            before = drops(rep).get(cause, 0)
            with raw_tls(rep, world, "req") as wire:
                wire.sendall(words)
                assert wire.recv(1) == b"", "closed in order"
            eventually(lambda cause=cause, before=before: drops(rep).get(cause, 0) == before + 1, BOUND)  # type: ignore[misc]
        with raw_tls(rep, world, "req") as wire:  # and bytes that are no TLS, in the midst of a session
            wire.sendall((9).to_bytes(8, "big") + b"\x80\0\0\1hello")
            assert rep.recv(timeout=BOUND) == b"hello"
            os.write(wire.fileno(), b"\x17\x03\x03\0\x20" + bytes(32))
            with pytest.raises(ssl.SSLError):
                wire.recv(1)
        eventually(lambda: drops(rep)["garbled"] == 3, BOUND)
        with raw_tls(rep, world, "push") as wire:
            assert wire.recv(1) == b""
        eventually(lambda: drops(rep).get("bad_protocol") == 1, BOUND)
        assert rep.pipes == []


def test_a_peer_that_stops_reading_in_a_tls_session(world: World) -> None:
    with sp.Push(listen=ANYWHERE, tls_config=world.server, max_rcv_size=0) as push:
        with raw_tls(push, world, "pull") as wire:
            wait_pipes(push)
            sending = background(lambda: [push.send(bytes(2 << 20), timeout=BOUND) for _ in range(2)])
            assert read(wire, 8) == (2 << 20).to_bytes(8, "big")
            sending.result(BOUND)
        wait_pipes(push, 0)
        with raw_tls(push, world, "pull") as wire:
            wait_pipes(push)
            push.send(b"goes on", timeout=BOUND)
            while (body := read(wire, int.from_bytes(read(wire, 8), "big"))) != b"goes on":
                assert len(body) == 2 << 20, "what was not on its way yet"


# --- Renewal


def install(files: CertificateFiles, folder: Path) -> sp.TLSConfig:
    for name, path in (("cert", files.cert), ("key", files.key)):
        shutil.copy(path, folder / "new")
        os.replace(folder / "new", folder / name)
    return sp.TLSConfig(folder / "cert", folder / "key")


def name_at(address: str, world: World) -> str:
    """Which certificate a listener shows now."""
    with sp.Req(dial=address, tls_config=world.client) as req:
        return str(req.pipes[0].tls_state.common_name)


def test_a_renewed_certificate_holds_without_a_restart(world: World, tmp_path: Path) -> None:
    ca = world.ca
    config = install(ca.issue("first", "127.0.0.1", role="server"), tmp_path)
    with sp.Rep(listen=ANYWHERE, tls_config=config) as rep:
        address = rep.listeners[0].address
        with sp.Req(dial=address, tls_config=world.client) as old:
            install(ca.issue("second", "127.0.0.1", role="server"), tmp_path)
            assert name_at(address, world) == "second"
            (tmp_path / "key").write_text("half of a renewal")
            assert name_at(address, world) == "second"
            (tmp_path / "key").unlink()
            os.mkfifo(tmp_path / "key")  # nobody writes to it, and who opened it would wait
            assert name_at(address, world) == "second"
            (tmp_path / "key").unlink()
            install(ca.issue("third", "127.0.0.1", role="server"), tmp_path)
            assert name_at(address, world) == "third"
            served = serve(rep)
            assert ask(old, b"still there") == b"STILL THERE"
            served.result(BOUND)
            assert old.pipes[0].tls_state.common_name == "first"
            assert old.stats()["dialed"] == 1


# --- Deaths


@pytest.fixture
def _expected_deaths(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "spworkers")


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@pytest.mark.usefixtures("_expected_deaths")
def test_a_successor_goes_on_with_the_same_configuration(world: World) -> None:
    with sp.Rep(listen=ANYWHERE, tls_config=world.mutual) as rep:
        dial: dict[str, Any] = {"dial": rep.listeners[0].address, "reconnect_time": 0.01}
        with sp.Req(tls_config=world.named("alice"), **dial) as req:
            for sock in (rep, req):
                before = sock.stats()
                kill(before["pid"])
                successor(sock, before)
                served = serve(rep)
                assert ask(req, b"x") == b"X"
                served.result(BOUND)
                assert rep.pipes[0].tls_state.common_name == "alice"


@pytest.mark.usefixtures("_expected_deaths")
@pytest.mark.usefixtures("_expected_deaths")
def test_files_whose_names_are_no_text(world: World, tmp_path: Path) -> None:
    """To the system a name is bytes, which need be no UTF-8; a successor opens them too."""
    folder = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"caf\xe9"))
    os.mkdir(folder)
    cert, key = shutil.copy(world.files.cert, folder), shutil.copy(world.files.key, folder)
    ca = shutil.copy(world.ca.cert, folder)
    with sp.Rep() as rep:
        rep.tls_config = sp.TLSConfig(cert, key)  # what is set later is kept in another way than keywords are
        rep.listen(ANYWHERE)
        with sp.Req(reconnect_time=0.01) as req:
            req.dial(rep.listeners[0].address, tls_config=sp.TLSConfig(ca=ca))
            for _ in range(2):
                served = serve(rep)
                assert ask(req, b"x") == b"X"
                served.result(BOUND)
                for sock in (rep, req):
                    before = sock.stats()
                    os.kill(before["pid"], signal.SIGKILL)
                    successor(sock, before)


def test_a_supervisor_that_dies(world: World) -> None:
    with sp.Rep(listen=ANYWHERE, tls_config=world.mutual) as rep:
        dial: dict[str, Any] = {"dial": rep.listeners[0].address, "reconnect_time": 0.01}
        with sp.Req(tls_config=world.named("alice"), **dial) as req:
            before = [rep.stats(), req.stats()]
            life = get_supervisor().start()
            eventually(lambda: life.ready and life.age > 1)
            kill(life.pid)
            for sock, each in zip((rep, req), before, strict=True):
                successor(sock, each)
            served = serve(rep)
            assert ask(req, b"x") == b"X"
            served.result(BOUND)
            assert rep.pipes[0].tls_state.common_name == "alice"


@pytest.mark.usefixtures("_expected_deaths")
def test_what_was_sent_survives_the_sender(world: World) -> None:
    """A record goes back when the kernel has its last cipher byte: a death in mid-stream repeats, and loses nothing."""
    total = 3000
    with sp.Pull(listen=ANYWHERE, tls_config=world.server) as pull:
        dial: dict[str, Any] = {"dial": pull.listeners[0].address, "reconnect_time": 0.01}
        with sp.Push(tls_config=world.client, **dial) as push:
            over = threading.Event()

            def send() -> None:
                for number in range(total):
                    push.send(b"%d" % number + b" " * (number % 5000), timeout=BOUND)
                over.set()

            sending = background(send)
            got: set[int] = set()
            deaths = 0
            while len(got) < total:
                got.add(int(pull.recv(timeout=BOUND)))
                if len(got) > (deaths + 1) * 500 and deaths < 3:
                    before = push.stats()
                    kill(before["pid"])
                    successor(push, before)
                    deaths += 1
            sending.result(BOUND)
            assert got == set(range(total))
            assert deaths == 3


def test_the_log_level_of_when_it_was_made_says_what_is_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """What is wrong with a stranger is of interest only to who asks for it."""
    with sp.Rep(listen=ANYWHERE, tls_config=world.mutual) as silent:
        with caplog.at_level("DEBUG", "spworkers"), sp.Rep(listen=ANYWHERE, tls_config=world.mutual) as rep:
            for sock in (silent, rep):
                with pytest.raises(sp.SPError), sp.Req() as req:
                    req.dial(sock.listeners[0].address, tls_config=world.client)
                eventually(lambda sock=sock: drops(sock) == {"bad_tls": 1})
            eventually(lambda: "the peer has no certificate" in caplog.text)
    assert caplog.text.count("the peer has no certificate") == 1


def test_secrets_are_in_no_log_and_no_repr(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "spworkers")
    config = sp.TLSConfig(world.files.cert, world.files.key, key_password="sesame")
    with sp.Rep(listen=ANYWHERE, tls_config=config) as rep:
        with pytest.raises(sp.SPError), sp.Req() as req:
            req.dial(rep.listeners[0].address, tls_config=sp.TLSConfig())
        shown = f"{rep!r} {rep.listeners!r} {rep.stats()!r} {rep.tls_config!r} {caplog.text} {sys.argv}"
        assert "sesame" not in shown
