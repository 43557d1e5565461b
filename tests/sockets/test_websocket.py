"""Sockets over ws: who is let in, what is understood, how connections end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from helpers import eventually
from sockets.kit import BOUND, Record, ask, background, drops, request_id, serve, wait_pipes
from sockets.wspeer import ACCEPT, WsPeer, frame, request

import spworkers as sp

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


@pytest.fixture
def rep() -> Iterator[sp.Rep]:
    """A server whose limits are low, to be reached soon."""
    with sp.Rep(listen="ws://127.0.0.1:0/rep", handshake_timeout=2.0, max_rcv_size=1000) as made:
        yield made


def where(sock: sp.Socket) -> str:
    return sock.listeners[0].address


def still_serves(rep: sp.Rep) -> None:
    """A well-behaved client is answered."""
    with sp.Req(dial=where(rep)) as req:
        served = serve(rep)
        assert ask(req, b"good") == b"GOOD"
        served.result(BOUND)


# ---- addresses


@pytest.mark.parametrize(
    ("given", "bound"),
    [
        ("ws://127.0.0.1:0", "ws://127.0.0.1:{}/"),
        ("ws://127.0.0.1:0/", "ws://127.0.0.1:{}/"),
        ("ws://127.0.0.1:0/a/b", "ws://127.0.0.1:{}/a/b"),
        ("ws://127.0.0.1:0/a b".replace(" ", "%20"), "ws://127.0.0.1:{}/a%20b"),
        ("ws://127.0.0.1:0/ä", "ws://127.0.0.1:{}/%C3%A4"),
        ("ws://localhost:0/x", "ws://127.0.0.1:{}/x"),
        ("ws://*:0/x", "ws://[::]:{}/x"),
        ("ws://[::1]:0/x", "ws://[::1]:{}/x"),
    ],
)
def test_a_bound_address_can_be_dialled(given: str, bound: str) -> None:
    if "[" in bound and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with sp.Rep(listen=given) as rep:
        port = where(rep).split("/")[2].rpartition(":")[2]
        assert where(rep) == bound.format(port)
        assert int(port) > 0
        still_serves(rep)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("ws://127.0.0.1:x/", "no port"),
        ("ws://127.0.0.1:99999/", "no port"),
        ("ws://::1/x", "in brackets"),
        ("ws://127.0.0.1:0/a b", "spaces"),
        ("ws://127.0.0.1:0/a\r\nX: y", "control characters"),
        ("ws://127.0.0.1:0/a#b", "fragment"),
        ("ws://u:secret@127.0.0.1:0/", "no user.* websocket_headers="),
        ("ws://127.0.0.1:0/a?b=c", "no query"),
    ],
)
def test_bad_addresses(address: str, says: str) -> None:
    with sp.Rep() as rep, pytest.raises(sp.BadAddrError, match=says) as caught:
        rep.listen(address)
    assert "secret" not in str(caught.value)


# ---- the opening handshake


def test_a_request_is_answered_with_our_subprotocol(rep: sp.Rep) -> None:
    with WsPeer(where(rep)) as peer:
        status, headers = peer.ask("rep")
        assert (status, headers["sec-websocket-accept"]) == (101, ACCEPT)
        assert headers["sec-websocket-protocol"] == "rep.sp.nanomsg.org"
        peer.send(request_id(1) + b"ping")
        assert rep.recv(timeout=BOUND) == b"ping"
        rep.send(b"pong")
        assert peer.recv_frame() == (BINARY, True, request_id(1) + b"pong")


def test_ours_is_found_in_a_list_of_subprotocols(rep: sp.Rep) -> None:
    with WsPeer(where(rep)) as peer:
        offer = "chat, pub.sp.nanomsg.org, rep.sp.nanomsg.org"
        status, headers = peer.ask("", {"Sec-WebSocket-Protocol": offer})
        assert (status, headers["sec-websocket-protocol"]) == (101, "rep.sp.nanomsg.org")


def test_an_empty_path_is_the_root() -> None:
    """nng sends one where its address has none."""
    with sp.Rep(listen="ws://127.0.0.1:0") as rep, WsPeer(where(rep)) as peer:
        assert peer.ask("rep", path="")[0] == 101


REFUSED: dict[str, tuple[int, dict[str, object]]] = {
    "another path": (404, {"path": "/other"}),
    "a longer path": (404, {"path": "/rep/more"}),
    "another protocol": (400, {"headers": {"Sec-WebSocket-Protocol": "pub.sp.nanomsg.org"}}),
    "our own protocol": (400, {"headers": {"Sec-WebSocket-Protocol": "req.sp.nanomsg.org"}}),
    "no protocol": (400, {"headers": {"Sec-WebSocket-Protocol": None}}),
    "a foreign origin": (403, {"headers": {"Origin": "http://evil.example"}}),
    "two origins": (403, {"headers": {"Origin": "http://{host}\r\nOrigin: http://{host}"}}),
    "an origin that is none": (403, {"headers": {"Origin": "null"}}),
    "another version": (400, {"headers": {"Sec-WebSocket-Version": "8"}}),
    "no version": (400, {"headers": {"Sec-WebSocket-Version": None}}),
    "a short key": (400, {"headers": {"Sec-WebSocket-Key": "c2hvcnQ="}}),
    "a key that is none": (400, {"headers": {"Sec-WebSocket-Key": "!"}}),
    "no key": (400, {"headers": {"Sec-WebSocket-Key": None}}),
    "no upgrade": (426, {"headers": {"Upgrade": None}}),
    "an upgrade to another protocol": (426, {"headers": {"Upgrade": "h2c"}}),
    "no connection": (426, {"headers": {"Connection": "keep-alive"}}),
}


@pytest.mark.parametrize(("status", "asked"), REFUSED.values(), ids=REFUSED)
def test_a_bad_request_is_refused_and_counted(rep: sp.Rep, status: int, asked: dict[str, object]) -> None:
    with WsPeer(where(rep)) as peer:
        assert peer.ask("rep", **asked)[0] == status  # type: ignore[arg-type]
        assert peer.ended()
    eventually(lambda: rep.stats()["bad_handshakes"] == 1)
    assert rep.pipes == []
    still_serves(rep)


NO_REQUESTS = {
    "garbage": b"\x00\x01\x02\x03garbage\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "an SP handshake": b"\0SP\0\0\x30\0\0\r\n\r\n",
    "no HTTP": b"GET /rep SMTP/1.1\r\n\r\n",
    "a header without a colon": b"GET /rep HTTP/1.1\r\nnonsense\r\n\r\n",
    "a header with a zero": b"GET /rep HTTP/1.1\r\nHost: a\0b\r\n\r\n",
    "a folded header": b"GET /rep HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
    "a line that never ends": b"GET /" + b"x" * 20_000,
    "a thousand headers": b"GET /rep HTTP/1.1\r\n" + b"x: y\r\n" * 1000,
    "too much of a head": b"GET /rep HTTP/1.1\r\n" + b"x: %s\r\n" % (b"y" * 8000) * 20,
    "a body": request("/rep", "x", "rep", {"Content-Length": "5"}) + b"hello",
    "a post": request("/rep", "x", "rep", line="POST /rep HTTP/1.1"),
}


@pytest.mark.parametrize("words", NO_REQUESTS.values(), ids=NO_REQUESTS)
def test_what_is_no_request_is_refused_at_once(rep: sp.Rep, words: bytes) -> None:
    with WsPeer(where(rep)) as peer:
        peer.write(words)
        assert peer.ended()
    eventually(lambda: rep.stats()["bad_handshakes"] == 1)
    still_serves(rep)


@pytest.mark.parametrize("words", [b"", b"GET", request("/rep", "x", "rep")[:-2]], ids=["nothing", "a word", "half"])
def test_half_a_request_is_given_up_after_the_handshakes_time(rep: sp.Rep, words: bytes) -> None:
    with WsPeer(where(rep)) as peer:
        peer.write(words)
        assert peer.ended()
    eventually(lambda: drops(rep) == {"handshake_timeout": 1})
    still_serves(rep)


def test_a_crowd_of_slow_requests_holds_up_nobody(rep: sp.Rep) -> None:
    peers = [WsPeer(where(rep)) for _ in range(200)]
    for peer in peers:
        peer.write(b"GET /rep HTTP/1.1\r\n")
    still_serves(rep)
    for peer in peers:
        peer.close()
    eventually(lambda: rep.stats()["bad_handshakes"] == 200)


def test_a_request_may_come_byte_by_byte_and_bring_its_first_message(rep: sp.Rep) -> None:
    with WsPeer(where(rep)) as peer:
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request("/rep", peer.where, "rep") + frame(BINARY, request_id(1) + b"early"):
            peer.write(bytes([byte]))
        assert rep.recv(timeout=BOUND) == b"early"
    with WsPeer(where(rep)) as peer:
        peer.write(request("/rep", peer.where, "rep") + frame(BINARY, request_id(1) + b"early"))
        assert rep.recv(timeout=BOUND) == b"early"


# ---- origins and requests


def test_a_page_of_our_own_host_may_connect(rep: sp.Rep) -> None:
    with WsPeer(where(rep)) as peer:
        assert peer.ask("rep", {"Origin": "http://{host}"})[0] == 101


def test_without_the_check_any_page_may_connect() -> None:
    with sp.Rep(listen="ws://127.0.0.1:0/", websocket_checkorigin=False) as rep:
        with WsPeer(where(rep)) as peer:
            assert peer.ask("rep", {"Origin": "http://evil.example"})[0] == 101
        rep.listeners[0].websocket_checkorigin = True  # from the next request on
        with WsPeer(where(rep)) as peer:
            assert peer.ask("rep", {"Origin": "http://evil.example"})[0] == 403


def test_the_request_lets_a_hook_decide(rep: sp.Rep) -> None:
    seen: list[sp.HTTPRequest] = []

    def authenticate(event: sp.PipeEvent, pipe: sp.Pipe) -> None:
        if event is sp.PipeEvent.ATTACHING:
            seen.append(pipe.http_request)
            if pipe.http_request.header("authorization") != "Bearer good":
                raise PermissionError("who are you?")

    rep.set_pipe_event_hook(authenticate)
    with WsPeer.open(f"{where(rep)}?user=me&x=%20", "rep", {"Authorization": "Bearer good"}) as peer:
        wait_pipes(rep)
        assert rep.pipes[0].http_request == seen[0]
        assert (seen[0].method, seen[0].target, seen[0].path) == ("GET", "/rep?user=me&x=%20", "/rep")
        assert seen[0].query == {"user": "me", "x": " "}
        assert seen[0].header("HOST") == peer.where
        assert seen[0].header("x-none") is None
    with WsPeer.open(where(rep), "rep", {"Authorization": "Bearer bad"}) as peer:
        assert peer.closed() == 1008
        peer.write(frame(CLOSE, b"\x03\xf0"))
        assert peer.ended()
    assert rep.stats()["refused"] == 1


def test_a_hook_may_answer_with_a_status(rep: sp.Rep) -> None:
    verdicts: dict[str, tuple[object, ...]] = {"401": (401, "who are you?"), "403": (), "429": (429,), "none": (200,)}
    wrong: list[Exception] = []

    def judge(event: sp.PipeEvent, pipe: sp.Pipe) -> None:
        verdict = pipe.http_request.query.get("as")
        if event is sp.PipeEvent.ATTACHING and verdict is not None:
            try:
                pipe.refuse(*verdicts[verdict])  # type: ignore[arg-type]
            except sp.BadValueError as error:
                wrong.append(error)

    rep.set_pipe_event_hook(judge)
    for asked, status, body in (("401", 401, b"who are you?\n"), ("403", 403, b""), ("429", 429, b"")):
        with WsPeer(f"{where(rep)}?as={asked}") as peer:
            answer, headers = peer.ask("rep")
            assert (answer, peer.file.read(int(headers["content-length"]))) == (status, body)
            assert ("www-authenticate" in headers) == (status == 401)
            assert peer.ended()
    assert rep.stats()["refused"] == 3
    with WsPeer.open(f"{where(rep)}?as=none", "rep"):
        wait_pipes(rep)
    [error] = wrong
    assert "from 400 to 599" in str(error)
    with (
        pytest.raises(sp.ConnRefusedError, match=r"keeps us out with 401 Unauthorized: who are you\?"),
        sp.Req() as req,
    ):
        req.dial(f"{where(rep)}?as=401")


def test_a_dialer_knows_its_own_request(rep: sp.Rep) -> None:
    with sp.Req(dial=where(rep)) as req:
        asked = req.pipes[0].http_request
        assert asked.path == "/rep"
        assert asked.header("Sec-WebSocket-Protocol") == "rep.sp.nanomsg.org"
        with pytest.raises(sp.BadOptionError):
            req.pipes[0].tls_state


def test_a_dialer_adds_headers_of_its_own(rep: sp.Rep) -> None:
    with sp.Req(websocket_headers={"Authorization": "Bearer of all"}) as req:
        req.dial(where(rep))
        assert rep.pipes[0].http_request.header("authorization") == "Bearer of all"
        assert req.pipes[0].websocket_headers == {"Authorization": "Bearer of all"}
    with sp.Req() as req, pytest.raises(sp.BadProtoError, match="403"):
        req.dial(where(rep), websocket_headers={"Origin": "http://evil.example"})


# ---- messages


@pytest.fixture
def pair() -> Iterator[tuple[sp.Pair, WsPeer]]:
    with sp.Pair(listen="ws://127.0.0.1:0/", max_rcv_size=100) as sock, WsPeer.open(where(sock), "pair") as peer:
        wait_pipes(sock)
        yield sock, peer


def test_any_fragmentation_is_understood(pair: tuple[sp.Pair, WsPeer]) -> None:
    sock, peer = pair
    peer.write(
        frame(BINARY, b"", fin=False)
        + frame(CONTINUATION, b"ab", fin=False)
        + frame(PING, b"in between")
        + frame(CONTINUATION, b"c", fin=False)
        + frame(CONTINUATION, b"")
        + frame(BINARY, b"")
        + frame(TEXT, "ä".encode())
    )
    assert [sock.recv(timeout=BOUND) for _ in range(3)] == [b"abc", b"", "ä".encode()]
    assert peer.recv_frame() == (PONG, True, b"in between")


def test_messages_go_out_in_fragments_of_64_kib(pair: tuple[sp.Pair, WsPeer]) -> None:
    sock, peer = pair
    body = bytes(range(256)) * 800  # 200 KiB
    sock.send(body)
    frames = [peer.recv_frame() for _ in range(4)]
    assert [(opcode, fin, len(data)) for opcode, fin, data in frames] == [
        (BINARY, False, 65536),
        (CONTINUATION, False, 65536),
        (CONTINUATION, False, 65536),
        (CONTINUATION, True, 8192),
    ]
    assert b"".join(data for _, _, data in frames) == body
    for size in (0, 125, 126, 65535, 65536):
        sock.send(body[:size])
        assert peer.recv_frame() == (BINARY, True, body[:size])


@pytest.mark.parametrize("size", [99, 100, 101])
@pytest.mark.parametrize("parts", [1, 3])
def test_max_rcv_size_is_exact_and_closes_with_1009(pair: tuple[sp.Pair, WsPeer], size: int, parts: int) -> None:
    sock, peer = pair
    for number in range(parts):
        part = bytes(size // parts if number < parts - 1 else size - size // parts * (parts - 1))
        peer.write(frame(BINARY if number == 0 else CONTINUATION, part, fin=number == parts - 1))
    if size <= 100:
        assert sock.recv(timeout=BOUND) == bytes(size)
    else:
        assert peer.closed() == 1009
        assert peer.ended()
        eventually(lambda: drops(sock) == {"too_long": 1})


def test_control_frames_are_no_matter_of_max_rcv_size(pair: tuple[sp.Pair, WsPeer]) -> None:
    sock, peer = pair
    peer.write(frame(BINARY, bytes(99), fin=False) + frame(PING, bytes(125)) + frame(CONTINUATION, b"x"))
    assert sock.recv(timeout=BOUND) == bytes(99) + b"x"
    assert peer.recv_frame() == (PONG, True, bytes(125))


def test_a_huge_length_is_refused_before_any_memory_is_taken() -> None:
    for limit in (1 << 20, 0):
        with sp.Pair(listen="ws://127.0.0.1:0/", max_rcv_size=limit) as sock:
            with WsPeer.open(where(sock), "pair") as peer:
                peer.write(b"\x82\xff" + (1 << 62).to_bytes(8, "big") + b"mask")
                assert peer.closed() == 1009
                assert peer.ended()
            eventually(lambda sock=sock: drops(sock) == {"too_long": 1})


VIOLATIONS = {
    "unmasked": frame(BINARY, b"x", mask=False),
    "a reserved bit": frame(BINARY, b"x", rsv=True),
    "an unknown opcode": b"\x83\x80mask",
    "a continuation of nothing": frame(CONTINUATION, b"x"),
    "a message within a message": frame(BINARY, b"x", fin=False) + frame(BINARY, b"y"),
    "a long ping": b"\x89\xfe\x00\x7emask" + bytes(126),
    "a fragmented ping": b"\x09\x80mask",
    "a close of one byte": frame(CLOSE, b"x"),
    "a close with a bad code": frame(CLOSE, b"\x00\x01"),
}


@pytest.mark.parametrize("words", VIOLATIONS.values(), ids=VIOLATIONS)
def test_a_violation_closes_that_pipe_with_1002(words: bytes) -> None:
    with sp.Pair(listen="ws://127.0.0.1:0/") as sock:
        with WsPeer.open(where(sock), "pair") as peer:
            peer.write(words)
            assert peer.closed() == 1002
            assert peer.ended()
        eventually(lambda: drops(sock) == {"garbled": 1})
        wait_pipes(sock, 0)
        with WsPeer.open(where(sock), "pair") as another:
            another.send(b"good")
            assert sock.recv(timeout=BOUND) == b"good"


def test_pings_that_nobody_wants_answered_take_no_memory(pair: tuple[sp.Pair, WsPeer]) -> None:
    import psutil

    sock, peer = pair
    process = psutil.Process(sock.stats()["pid"])
    before = process.memory_info().rss
    peer.sock.settimeout(1)
    sent = 0
    try:
        while sent < 16 << 20:
            sent += peer.sock.send(frame(PING, bytes(125)) * 1000)
    except TimeoutError:
        pytest.fail("a peer that does not read was read no more")
    assert process.memory_info().rss - before < 4 << 20


# ---- the end


def test_a_close_frame_is_echoed(pair: tuple[sp.Pair, WsPeer]) -> None:
    sock, peer = pair
    hook = Record()
    sock.set_pipe_event_hook(hook)
    peer.write(frame(CLOSE, b"\x03\xe8bye"))
    assert peer.recv_frame() == (CLOSE, True, b"\x03\xe8bye")
    assert peer.ended()
    wait_pipes(sock, 0)
    assert drops(sock) == {}


def test_what_was_sent_before_a_close_arrives_before_the_close_frame() -> None:
    sock = sp.Push(listen="ws://127.0.0.1:0/")
    with WsPeer.open(where(sock), "push") as peer:
        wait_pipes(sock)
        for number in range(50):
            sock.send(b"%d" % number * 10_000)
        closing = background(sock.close)
        assert [peer.recv() for _ in range(50)] == [b"%d" % number * 10_000 for number in range(50)]
        assert peer.closed() == 1001
        peer.write(frame(CLOSE, b"\x03\xe9"))
        assert peer.ended()
        closing.result(BOUND)


def test_closing_a_pipe_says_so(pair: tuple[sp.Pair, WsPeer]) -> None:
    sock, peer = pair
    sock.pipes[0].close()
    assert peer.closed() == 1001
    peer.write(frame(CLOSE, b"\x03\xe9"))
    assert peer.ended()


def test_a_dialer_closes_normally() -> None:
    with sp.Pair(listen="ws://127.0.0.1:0/") as one:
        told = Record()
        one.set_pipe_event_hook(told)
        with sp.Pair(dial=where(one)) as other:
            other.send(b"last words")
        assert one.recv(timeout=BOUND) == b"last words"
        eventually(lambda: told.counts() == (1, 1, 1), BOUND)
        assert drops(one) == {}


def test_a_listener_closes_what_waits_and_leaves_the_others(rep: sp.Rep) -> None:
    other = rep.listen("ws://127.0.0.1:0/other")
    with WsPeer(where(rep)) as pending, WsPeer.open(where(rep), "rep") as lives:
        eventually(lambda: len(rep.pipes) == 1)
        pending.write(b"GET /rep HTTP/1.1\r\n")
        gone = where(rep)
        rep.listeners[0].close()
        assert pending.ended()
        lives.send(request_id(1) + b"still here")
        assert rep.recv(timeout=BOUND) == b"still here"
        with sp.Req() as req:
            with pytest.raises(sp.ConnRefusedError):
                req.dial(gone)
            req.dial(other.address)
            served = serve(rep)
            assert ask(req, b"x") == b"X"
            served.result(BOUND)


# ---- at the dialling side


def server(words: bytes, *, read: bool = True) -> tuple[str, threading.Thread]:
    """A server that answers whatever comes with these words, once."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with listener, listener.accept()[0] as sock:
            sock.settimeout(BOUND)
            if read:
                sock.recv(65536)
            sock.sendall(words)
            try:
                while sock.recv(65536):
                    pass
            except OSError:
                return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return f"ws://127.0.0.1:{listener.getsockname()[1]}/", thread


SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
BAD_ANSWERS: dict[str, tuple[bytes, type[sp.SPError]]] = {
    "not found": (b"HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\nnowhere", sp.BadProtoError),
    "mismatch": (b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n", sp.BadProtoError),
    "a page": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", sp.BadProtoError),
    "a wrong key": (SWITCHING + b"Sec-WebSocket-Accept: nonsense\r\n\r\n", sp.BadHeaderError),
    "words for a terminal": (b"HTTP/1.1 403 \x1b[31m\r\nContent-Length: 6\r\n\r\n\x1b[2J\n\n", sp.BadHeaderError),
    "more of them": (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\n\x1b[2J\nx", sp.BadProtoError),
    "and still more": (b"HTTP/1.1 401 \xc2\x9b\r\nContent-Length: 6\r\n\r\n\x1b[2J\nx", sp.ConnRefusedError),
    "garbage": (b"\0SP\0\0\x31\0\0\r\n\r\n", sp.BadHeaderError),
    "a huge head": (b"HTTP/1.1 101 X\r\n" + b"x: %s\r\n" % (b"y" * 8000) * 20, sp.BadHeaderError),
    "half an answer": (b"HTTP/1.1 101 Swi", sp.ConnTimeoutError),
    "nothing": (b"", sp.ConnTimeoutError),
}


@pytest.mark.parametrize(("words", "error"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_dialling_a_bad_server_says_what_is_bad(words: bytes, error: type[sp.SPError]) -> None:
    address, thread = server(words)
    with sp.Req(handshake_timeout=0.5) as req:
        with pytest.raises(error) as caught:
            req.dial(address)
        assert address[5:-1] in str(caught.value)
        assert str(caught.value).isprintable()
        if words.endswith(b"nowhere"):
            assert "404" in str(caught.value)
            assert "nowhere" in str(caught.value)
        assert req.stats()["bad_handshakes"] == 1
    thread.join(BOUND)


def test_the_wrong_protocol_names_both(rep: sp.Rep) -> None:
    with sp.Sub() as sub, pytest.raises(sp.BadProtoError, match=r"pub\.sp\.nanomsg\.org.*rep\.sp\.nanomsg\.org"):
        sub.dial(where(rep))


def test_masked_frames_of_a_server_are_refused() -> None:
    with sp.Pair(listen="ws://127.0.0.1:0/") as one, sp.Pair(dial=where(one)) as other:
        one.send(b"x")
        assert other.recv(timeout=BOUND) == b"x"
    # A server that breaks that rule, by hand: it needs the key that our dialer has sent.
    import base64
    import hashlib

    listener = socket.create_server(("127.0.0.1", 0))
    with listener, sp.Pair() as pair:
        pair.dial(f"ws://127.0.0.1:{listener.getsockname()[1]}/", dial_asynch=True)
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(BOUND)
            head = sock.recv(65536).decode()
            key = head.split("Sec-WebSocket-Key: ")[1].split("\r\n")[0]
            accept = base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest())
            good = SWITCHING + b"Sec-WebSocket-Accept: %s\r\n\r\n" % accept
            sock.sendall(good + frame(BINARY, b"with the answer", mask=False) + frame(BINARY, b"masked"))
            assert pair.recv(timeout=BOUND) == b"with the answer"
            eventually(lambda: drops(pair) == {"garbled": 1})


def test_a_lost_server_is_dialled_again() -> None:
    with sp.Rep() as rep:
        first = rep.listen("ws://127.0.0.1:0/x")
        with sp.Req(dial=first.address, reconnect_time=0.01) as req:
            wait_pipes(rep)
            rep.pipes[0].close()
            served = serve(rep)
            assert ask(req, b"again") == b"AGAIN"
            served.result(BOUND)


def test_a_successor_of_a_killed_io_process_listens_on() -> None:
    import os
    import signal

    with sp.Rep(listen="ws://127.0.0.1:0/x") as rep, sp.Req(dial=where(rep), reconnect_time=0.01) as req:
        os.kill(rep.stats()["pid"], signal.SIGKILL)
        eventually(lambda: rep.stats()["generation"] == 2)
        served = serve(rep)
        assert ask(req, b"on") == b"ON"
        served.result(BOUND)
