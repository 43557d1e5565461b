"""Several sockets, pages and files on one port."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import eventually
from sockets.kit import BOUND, ask, drops, request_id, serve, wait_pipes
from sockets.wspeer import WsPeer, frame, process_of, request
from websockets.http11 import Request

import spworkers as sp
from spworkers.endpoint import WEB_SERVERS

KNOWS_METHODS = "method" in {field.name for field in dataclasses.fields(Request)}
"""Whether this version of websockets (17) understands anything but GET."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("web") / "site"
    (root / "sub").mkdir(parents=True)
    (root / "index.html").write_text("<h1>index</h1>")
    (root / "sub" / "big.txt").write_text("x" * 1_000_000)
    (root / "a b.css").write_text("a {}")
    (root.parent / "secret.txt").write_text("secret")
    (root / "link").symlink_to(root.parent / "secret.txt")
    os.mkfifo(root / "fifo")
    return root


@pytest.fixture(scope="module")
def shared(site: Path) -> Iterator[sp.WebServer]:
    """For the tests that leave it as it is."""
    pages = {"/": "<h1>hällo</h1>", "/data": b"\0\1", "/app.js": ("let x;", "text/javascript")}
    with sp.WebServer(
        pages=pages, static={"/static": site, "/one": site / "index.html"}, handshake_timeout=2.0
    ) as server:
        yield server


@pytest.fixture
def web() -> Iterator[sp.WebServer]:
    """For those that do not."""
    with sp.WebServer(pages={"/": "page"}, handshake_timeout=0.5) as server:
        yield server


def get(web: sp.WebServer, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    """Status, content type and body."""
    connection = http.client.HTTPConnection(web.address.partition("://")[2], timeout=BOUND)
    with contextlib.closing(connection):
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read()


# ---- sockets


def test_two_sockets_and_a_page_share_a_port(web: sp.WebServer) -> None:
    rep_url, pub_url = web.url("/rep"), web.url("/pub")
    with sp.Rep(listen=rep_url) as rep, sp.Pub(listen=pub_url) as pub:
        assert rep.listeners[0].address == rep_url
        with sp.Req(dial=rep_url) as req, sp.Sub(dial=pub_url, subscribe=[b""]) as sub:
            served = serve(rep)
            assert ask(req, b"ping") == b"PING"
            served.result(BOUND)
            wait_pipes(pub)
            pub.send(b"news")
            assert sub.recv(timeout=BOUND) == b"news"
            ours, theirs = rep.pipes[0], req.pipes[0]
            assert (ours.local_addr, ours.remote_addr) == (theirs.remote_addr, theirs.local_addr)
            assert ours.http_request.path == "/rep"
        assert get(web, "/")[2] == b"page"
        with sp.Req() as req:
            for path in ("/pub", "/nowhere", "/rep/"):
                with pytest.raises(sp.BadProtoError, match="404" if path != "/pub" else "400"):
                    req.dial(web.url(path))


def test_a_path_belongs_to_one_socket_and_is_free_after_it(web: sp.WebServer) -> None:
    with sp.Rep(listen=web.url("/x")), sp.Rep() as other:
        with pytest.raises(sp.AddrInUseError, match="/x: another socket"):
            other.listen(web.url("/x"))
        other.listen(web.url("/y"))
        other.listeners[0].close()
        with WsPeer(web.url("/y")) as peer:
            assert peer.ask("rep")[0] == 404
    with sp.Pub(listen=web.url("/x")), WsPeer(web.url("/x")) as peer:
        assert peer.ask("pub")[0] == 101


def test_without_a_web_server_a_port_is_one_sockets() -> None:
    with sp.Rep(listen="ws://127.0.0.1:0/a") as rep, sp.Rep() as other:
        with pytest.raises(sp.AddrInUseError, match="WebServer"):
            other.listen(rep.listeners[0].address.replace("/a", "/b"))


def test_origin_hook_and_first_message_are_as_on_a_socket_of_its_own(web: sp.WebServer) -> None:
    with sp.Rep(listen=web.url("/x")) as rep:
        with WsPeer(web.url("/x")) as peer:
            assert peer.ask("rep", {"Origin": "http://evil.example"})[0] == 403
        with WsPeer(web.url("/x")) as peer:
            asked = request("/x?q=1", peer.where, "rep", {"Origin": "http://{host}", "X-Who": "me"})
            peer.write(asked + frame(2, request_id(1) + b"early"))
            assert rep.recv(timeout=BOUND) == b"early"
            told = rep.pipes[0].http_request
            assert (told.header("x-who"), told.query) == ("me", {"q": "1"})
        eventually(lambda: drops(rep) == {"bad_header": 1})


def test_a_killed_web_server_is_replaced_and_connections_live_on(
    web: sp.WebServer, caplog: pytest.LogCaptureFixture
) -> None:
    with sp.Rep(listen=web.url("/x")) as rep, sp.Req(dial=web.url("/x"), reconnect_time=BOUND) as req:
        pipe = req.pipes[0].id
        with caplog.at_level(logging.WARNING, "spworkers"):
            killed = process_of(web)
            killed.send_signal(signal.SIGKILL)
            with sp.Req(dial=web.url("/x")) as late:  # it waits in the backlog of the same port
                served = serve(rep, 2)
                assert ask(late, b"late") == b"LATE"
                assert ask(req, b"on") == b"ON"
                served.result(BOUND)
        assert req.pipes[0].id == pipe
        assert process_of(web).pid != killed.pid
        assert f"process {killed.pid} of {web!r} died: killed by SIGKILL; it is replaced" in caplog.text
        assert get(web, "/")[2] == b"page"


def test_a_killed_io_process_gets_its_path_back(web: sp.WebServer) -> None:
    with sp.Rep(listen=web.url("/x")) as rep, sp.Req(dial=web.url("/x"), reconnect_time=0.01) as req:
        served = serve(rep)
        assert ask(req, b"one") == b"ONE"
        served.result(BOUND)
        os.kill(rep.stats()["pid"], signal.SIGKILL)
        with sp.Req(dial=web.url("/x")) as other:  # in that very moment: the web server waits for the successor
            served = serve(rep, 2)
            assert ask(other, b"two") == b"TWO"
            assert ask(req, b"three") == b"THREE"
            served.result(BOUND)


@pytest.mark.slow
def test_a_flood_of_requests_that_nobody_waits_for(web: sp.WebServer, caplog: pytest.LogCaptureFixture) -> None:
    """More than a control channel holds; the process lives on, keeps nothing of it, and the path answers."""
    with sp.Rep(listen=web.url("/x")) as rep, caplog.at_level(logging.WARNING, "spworkers"):
        process = process_of(web)
        before = process.num_fds()
        place = ("127.0.0.1", int(web.url("/").rsplit(":", 1)[1].partition("/")[0]))
        for number in range(8000):
            with socket.create_connection(place, BOUND) as caller:
                caller.sendall(request("/x" if number % 8 else f"/{number}", "h", "rep"))
        # What is left of the crowd may still push it out, once or twice.
        with sp.Req(dial_asynch=True, dial=web.url("/x"), reconnect_time=0.05) as req:
            served = serve(rep)
            assert ask(req, b"after") == b"AFTER"
            served.result(BOUND)
        eventually(lambda: process.num_fds() <= before + 2)  # the line to the path, and what is being closed
        assert process.is_running()
        assert "died" not in caplog.text


def test_a_killed_supervisor_takes_everything_with_it_and_everything_comes_back(web: sp.WebServer) -> None:
    with sp.Rep(listen=web.url("/x")) as rep, sp.Req(dial=web.url("/x"), reconnect_time=0.01) as req:
        wait_pipes(rep)
        os.kill(process_of(web).ppid(), signal.SIGKILL)
        serve(rep, 2)  # the request may come twice: once before the end of everything, and again
        assert ask(req, b"back") == b"BACK"
        assert get(web, "/")[2] == b"page"


def test_a_closed_web_server_leaves_its_port_and_the_connections(web: sp.WebServer) -> None:
    with sp.Rep(listen=web.url("/x")) as rep, sp.Req(dial=web.url("/x")) as req:
        wait_pipes(rep)
        web.close()
        web.close()
        assert web.closed
        assert "closed" in repr(web)
        served = serve(rep)
        assert ask(req, b"on") == b"ON"
        served.result(BOUND)
        with pytest.raises(sp.ConnRefusedError), sp.Req() as late:
            late.dial(web.url("/x"))
        with sp.WebServer(web.address) as another:
            assert another.address == web.address


def test_a_forked_childs_sockets_are_not_behind_it(web: sp.WebServer) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(len(WEB_SERVERS))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert web.url("") in WEB_SERVERS


def test_nothing_is_left_of_connections_that_have_gone(web: sp.WebServer) -> None:
    with sp.Rep(listen=web.url("/x")) as rep:
        with WsPeer.open(web.url("/x"), "rep"):
            wait_pipes(rep)
        wait_pipes(rep, 0)
        server = process_of(web)
        supervisor = server.parent()
        assert supervisor is not None
        everybody = [server, supervisor, psutil.Process(rep.stats()["pid"])]
        before = [process.num_fds() for process in everybody]
        for turn in range(50):
            with WsPeer(web.url("/x" if turn % 2 else "/y")) as peer:
                assert peer.ask("rep")[0] == (101 if turn % 2 else 404)
        wait_pipes(rep, 0)
        eventually(lambda: [process.num_fds() for process in everybody] == before, BOUND)


# ---- pages and files


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/", "text/html; charset=utf-8", "<h1>hällo</h1>".encode()),
        ("/?query", "text/html; charset=utf-8", "<h1>hällo</h1>".encode()),
        ("/data", "application/octet-stream", b"\0\1"),
        ("/app.js", "text/javascript", b"let x;"),
        ("/static", "text/html", b"<h1>index</h1>"),
        ("/static/", "text/html", b"<h1>index</h1>"),
        ("/static/index.html", "text/html", b"<h1>index</h1>"),
        ("/static/a%20b.css?v=1", "text/css", b"a {}"),
        ("/static/sub/big.txt", "text/plain", b"x" * 1_000_000),
        ("/one", "text/html", b"<h1>index</h1>"),
    ],
)
def test_what_is_shown(shared: sp.WebServer, path: str, kind: str, body: bytes) -> None:
    assert get(shared, path) == (200, kind, body)
    if KNOWS_METHODS:
        assert get(shared, path, "HEAD") == (200, kind, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/static/nothing",
        "/static/sub",
        "/staticx",
        "/static/../secret.txt",
        "/static/%2e%2e/secret.txt",
        "/static/..%2fsecret.txt",
        "/static//../../secret.txt",
        "/static/%00",
        "/static/link",
        "/static/fifo",
        "/one/more",
        "//etc/passwd",
        "/static//etc/passwd",
    ],
)
def test_what_is_not(shared: sp.WebServer, path: str) -> None:
    status, _, body = get(shared, path)
    assert status == 404
    assert b"secret" not in body


def test_a_sockets_path_is_no_page(web: sp.WebServer) -> None:
    with sp.Rep(listen=web.url("/x")):
        assert get(web, "/x")[0] == 426
        assert get(web, "/x?y=1", "HEAD")[0] == 426
        with socket.create_connection(web.address.partition("://")[2].rsplit(":", 1), BOUND) as caller:
            caller.sendall(b"HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n")
            said = b"".join(iter(lambda: caller.recv(4096), b""))
        assert said.startswith(b"HTTP/1.1 426")
        assert said.endswith(b"\r\n\r\n"), "a HEAD gets no body"
        assert get(web, "/x/y")[0] == 404
    eventually(lambda: get(web, "/x")[0] == 404)


def test_other_methods_are_refused(shared: sp.WebServer) -> None:
    assert get(shared, "/", "POST")[0] == (405 if KNOWS_METHODS else 400)
    assert get(shared, "/")[0] == 200


@pytest.mark.parametrize("words", [b"\0\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"GET /" + b"x" * 70_000])
def test_garbage_is_refused(shared: sp.WebServer, words: bytes) -> None:
    with WsPeer(shared.url("/")) as peer:
        peer.write(words)
        assert peer.ended()
    assert get(shared, "/data")[0] == 200


def test_a_crowd_of_slow_requests_holds_up_nobody(shared: sp.WebServer) -> None:
    peers = [WsPeer(shared.url("/")) for _ in range(100)]
    for peer in peers:
        peer.write(b"GET / HT")
    assert get(shared, "/data")[0] == 200
    for peer in peers:
        assert peer.ended()
        peer.close()


def test_who_does_not_read_a_file_is_cut_off(shared: sp.WebServer) -> None:
    with WsPeer(shared.url("/")) as peer:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.write(b"GET /static/sub/big.txt HTTP/1.1\r\n\r\n")
        process = process_of(shared)
        eventually(lambda: len(process.net_connections("tcp")) == 1, BOUND)
    assert get(shared, "/data")[0] == 200


def test_a_page_is_in_memory_once_however_many_do_not_read_it() -> None:
    with (
        sp.WebServer(pages={"/": bytes(4 << 20), "/small": "x"}, handshake_timeout=BOUND) as web,
        contextlib.ExitStack() as stack,
    ):
        assert get(web, "/")[2] == bytes(4 << 20)
        process = process_of(web)
        before = process.memory_full_info().uss
        for _ in range(60):
            peer = stack.enter_context(WsPeer(web.url("/")))
            peer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert peer.sock.recv(1) == b"H"
        assert get(web, "/small")[2] == b"x"
        assert process.memory_full_info().uss - before < 40 << 20


def test_of_more_callers_than_it_wants_the_oldest_go() -> None:
    with (
        sp.WebServer(max_handshakes=3, accept_rate=1000, handshake_timeout=BOUND) as web,
        contextlib.ExitStack() as stack,
    ):
        callers = [stack.enter_context(WsPeer(web.url("/"))) for _ in range(5)]
        for gone in callers[:2]:
            assert gone.sock.recv(1) == b""
        callers[2].write(b"GET / HTTP/1.1\r\n\r\n")
        assert callers[2].sock.recv(12) == b"HTTP/1.1 404"


# ---- what it counts


def test_it_counts_what_it_does(web: sp.WebServer) -> None:
    assert web.stats()["drops"] == {}
    assert get(web, "/")[0] == 200
    assert get(web, "/nothing")[0] == 404
    with sp.Rep(listen=web.url("/x")), sp.Req(dial=web.url("/x")):
        eventually(lambda: web.stats()["connections"] == 0)
        stats = web.stats()
    assert stats.pop("pid") == process_of(web).pid
    counted = {"accepted": 3, "handed_over": 1, "answered": 1, "refused": 1}
    assert stats == {"connections": 0, "relays": 0, **counted, "drops": {}}
    with WsPeer(web.url("/")) as peer:
        eventually(lambda: web.stats()["connections"] == 1)
        peer.write(b"GET / HTTP/0.9\r\n\r\n")
        assert peer.ended()
    with WsPeer(web.url("/")) as peer:  # says nothing
        assert peer.ended()
    with WsPeer(web.url("/")):
        pass
    eventually(lambda: web.stats()["drops"] == {"bad_header": 1, "handshake_timeout": 1, "handshake_closed": 1})


def test_what_it_has_counted_survives_its_process_and_its_close(web: sp.WebServer) -> None:
    assert get(web, "/")[0] == 200
    eventually(lambda: web.stats()["answered"] == 1)
    pid = process_of(web).pid
    os.kill(pid, signal.SIGKILL)
    assert get(web, "/")[0] == 200
    eventually(lambda: web.stats()["answered"] == 2)
    assert web.stats()["pid"] not in (0, pid)
    web.close()
    assert web.stats()["accepted"] == 2


def test_a_page_counts_when_it_was_sent(web: sp.WebServer) -> None:
    """Not when its reader goes, in whatever way."""
    with WsPeer(web.url("/")) as peer:
        peer.write(b"GET / HTTP/1.1\r\n\r\n")
        eventually(lambda: web.stats()["answered"] == 1)
        eventually(lambda: web.stats()["connections"] == 0)  # after its time
    assert web.stats()["drops"] == {}
    web.close()
    eventually(lambda: not psutil.pid_exists(web.stats()["pid"]))
    assert web.stats()["drops"] == {}


def test_a_file_that_changes_while_it_is_sent(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(20 << 20))
    with sp.WebServer(static={"/file": file}, handshake_timeout=BOUND) as web:
        for change, length in ((30 << 20, 20 << 20), (8 << 20, None)):
            with WsPeer(web.url("/")) as peer:
                peer.write(b"GET /file HTTP/1.1\r\n\r\n")
                peer.sock.recv(1)
                os.truncate(file, change)
                got = 1 + sum(map(len, iter(lambda: peer.sock.recv(1 << 20), b"")))
            assert got < 20 << 20 if length is None else length < got < length + 1000
            os.truncate(file, 20 << 20)
        eventually(lambda: (web.stats()["answered"], web.stats()["drops"]) == (1, {"answer_cut": 1}))


def test_it_counts_who_is_pushed_out_and_who_does_not_read() -> None:
    with (
        sp.WebServer(max_handshakes=2, handshake_timeout=0.5, pages={"/": bytes(8 << 20)}) as web,
        contextlib.ExitStack() as stack,
    ):
        peer = stack.enter_context(WsPeer(web.url("/")))
        peer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert peer.sock.recv(1) == b"H"
        eventually(lambda: web.stats()["drops"] == {"answer_cut": 1})
        for _ in range(3):
            stack.enter_context(WsPeer(web.url("/")))
        eventually(lambda: web.stats()["drops"].get("handshake_overflow") == 1)


# ---- the handle


@pytest.mark.parametrize("limits", [{"max_handshakes": 0}, {"max_handshakes": "3"}, {"accept_rate": -1}])
def test_limits_are_numbers(limits: dict[str, Any]) -> None:
    name = next(iter(limits))
    with pytest.raises(sp.BadValueError, match=name.upper().replace("_", "-")):
        sp.WebServer(**limits)


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("127.0.0.1:80", sp.BadAddrError),
        ("tcp://127.0.0.1:0", sp.BadAddrError),
        ("http://127.0.0.1:0/path", sp.BadAddrError),
        ("http://127.0.0.1:x", sp.BadAddrError),
        ("http://127.0.0.1:99999", sp.BadAddrError),
        ("http://u:p@127.0.0.1:0", sp.BadAddrError),
        ("http://[::1:0", sp.BadAddrError),
        ("http://no.such.host.invalid:0", sp.SPError),
        (80, sp.BadValueError),
    ],
)
def test_bad_addresses(address: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        sp.WebServer(address)


@pytest.mark.parametrize(
    "wrong",
    [
        {"pages": {"x": ""}},
        {"pages": {"/x?": ""}},
        {"pages": {"/": 1}},
        {"pages": {"/": ("a", "b", "c")}},
        {"static": {"/": "/no/such/folder"}},
        {"static": {"/": 1}},
        {"handshake_timeout": -1},
        {"handshake_timeout": "1"},
    ],
)
def test_bad_arguments(wrong: dict[str, object]) -> None:
    with pytest.raises(sp.BadValueError):
        sp.WebServer(**wrong)  # type: ignore[arg-type]


def test_a_port_that_is_taken(web: sp.WebServer) -> None:
    with pytest.raises(sp.AddrInUseError):
        sp.WebServer(web.address)


@pytest.mark.parametrize("host", ["*", "", "[::]", "0.0.0.0", "localhost", "[::1]"])
def test_hosts(host: str) -> None:
    if ":" in host and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with sp.WebServer(f"http://{host}:0", name="all") as web, sp.Rep(listen=web.url("/x")) as rep:
        assert int(web.address.rpartition(":")[2]) > 0
        assert "all" in repr(web)
        with sp.Req(dial=rep.listeners[0].address) as req:
            served = serve(rep)
            assert ask(req, b"x") == b"X"
            served.result(BOUND)
