"""The opening handshake under fire: whatever comes, it is refused or understood, and nothing else happens."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import weakref
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transport.support import BOUND, PAIR, on_loops
from websockets.uri import WebSocketURI

from spworkers.errors import BadHeaderError, ConnResetError, ConnTimeoutError, SPError
from spworkers.transport.handshake import Handshake, shake
from spworkers.transport.wshead import HEAD_LIMIT
from spworkers.transport.wslink import ClientLink, ServerLink, WsLink

GOOD = (
    b"GET /x HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: pair.sp.nanomsg.org\r\n\r\n"
)
ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
)
URI = WebSocketURI(False, "h", 80, "/x", "")


def server(sock: socket.socket, early: bytes = b"") -> ServerLink:
    return ServerLink(sock, "/x", lambda: True, 100, local="here", remote="there", early=early)


def client(sock: socket.socket) -> ClientLink:
    return ClientLink(sock, URI, 100, {}, local="here", remote="there")


async def meet(make: type[WsLink], *words: bytes) -> SPError | None:
    """Shake hands with somebody who says these words and hangs up; what became of it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        link = server(ours) if make is ServerLink else client(ours)
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        shaking = loop.create_task(shake(loop, link, Handshake(PAIR, PAIR), BOUND))
        for each in words:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                theirs.send(each)
            await asyncio.sleep(0)
        with contextlib.suppress(OSError):
            theirs.shutdown(socket.SHUT_WR)
        try:
            await shaking
        except SPError as error:
            assert ours.fileno() == -1
            return error
        link.close()
        return None


def outcome(make: type[WsLink], *words: bytes) -> SPError | None:
    return asyncio.run(meet(make, *words))


@given(st.lists(st.binary(max_size=200), max_size=4))
@settings(max_examples=60, deadline=None)
@example([b"\r\n\r\n"])
@example([b"\n\n"])
@example([b"HTTP/1.1 101 \r\n\r\n"])
def test_nonsense_is_refused_at_either_end(words: list[bytes]) -> None:
    for make in (ServerLink, ClientLink):
        assert isinstance(outcome(make, *words), SPError)


@given(st.integers(0, len(GOOD) - 1), st.binary(max_size=4), st.integers(0, 3), st.integers(1, len(GOOD)))
@settings(max_examples=150, deadline=None)
def test_a_request_with_something_changed(at: int, put: bytes, less: int, cut: int) -> None:
    words = GOOD[:at] + put + GOOD[at + less :]
    found = outcome(ServerLink, words[:cut], words[cut:])
    assert found is None or isinstance(found, SPError)


@given(st.integers(0, len(ANSWER) - 1), st.binary(max_size=4), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_an_answer_with_something_changed(at: int, put: bytes, less: int) -> None:
    words = ANSWER[:at] + put + ANSWER[at + less :]
    assert isinstance(outcome(ClientLink, words), SPError)  # its key was wrong before


def test_the_good_request_is_good() -> None:
    assert outcome(ServerLink, GOOD) is None
    assert outcome(ServerLink, *(GOOD[at : at + 1] for at in range(len(GOOD)))) is None
    assert isinstance(outcome(ClientLink, ANSWER), BadHeaderError)


@pytest.mark.parametrize("filler", [b"x", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 100])
def test_no_more_of_a_head_is_kept_than_its_limit(filler: bytes) -> None:
    words = filler * (2 * HEAD_LIMIT // len(filler))
    assert isinstance(outcome(ServerLink, words), BadHeaderError)


@pytest.mark.once
@pytest.mark.parametrize(
    "words",
    [b"", GOOD[:-2], GOOD, GOOD.replace(b"/x", b"/y"), b"HTTP/1.1 404 Not Found\r\n\r\n", b"nonsense\r\n\r\n"],
)
@pytest.mark.parametrize("make", [server, client])
def test_nothing_of_a_connection_waits_for_the_garbage_collector(
    make: Callable[[socket.socket], WsLink], words: bytes
) -> None:
    async def come_and_go() -> weakref.ref[object]:
        ours, theirs = socket.socketpair()
        with theirs:
            link = make(ours)
            theirs.sendall(words)
            theirs.shutdown(socket.SHUT_WR)
            with contextlib.suppress(SPError):
                await shake(asyncio.get_running_loop(), link, Handshake(PAIR, PAIR), BOUND)
            link.close()
            link.close()
            return weakref.ref(link.websocket)

    gc.disable()
    try:
        assert asyncio.run(come_and_go())() is None
    finally:
        gc.enable()


@on_loops
async def test_silence_has_its_limit_and_its_words() -> None:
    loop = asyncio.get_running_loop()
    for make, says in ((server, "no whole request"), (client, "no answer")):
        ours, theirs = socket.socketpair()
        with theirs:
            with pytest.raises(ConnTimeoutError, match=f"there: {says}"):
                await shake(loop, make(ours), Handshake(PAIR, PAIR), 0.02)
            assert ours.fileno() == -1


@on_loops
async def test_a_peer_that_hangs_up_and_a_cancelled_handshake() -> None:
    loop = asyncio.get_running_loop()
    for make in (server, client):
        ours, theirs = socket.socketpair()
        theirs.close()
        with pytest.raises(ConnResetError):
            await shake(loop, make(ours), Handshake(PAIR, PAIR))
        ours, theirs = socket.socketpair()
        with theirs:
            shaking = loop.create_task(shake(loop, make(ours), Handshake(PAIR, PAIR)))
            await asyncio.sleep(0)
            shaking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await shaking
            assert ours.fileno() == -1


@on_loops
async def test_what_was_read_before_is_the_beginning() -> None:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with theirs:
        link = server(ours, early=GOOD[:50])
        theirs.send(GOOD[50:] + b"\x82\x80mask")
        await shake(loop, link, Handshake(PAIR, PAIR))
        reader = link.reader(100)
        assert reader.more == 1
        assert reader.read() == [b""]
        link.close()


@on_loops
@pytest.mark.once
@pytest.mark.parametrize(
    ("request_head", "status", "body"),
    [
        (GOOD.replace(b"Host: h", b"A: " + b"x" * 9000), b"431", b"Request Header Fields Too Large\n"),
        (GOOD.replace(b"Host: h", b"\r\n".join([b"A: b"] * 400)), b"431", b"Request Header Fields Too Large\n"),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", b"414", None),
        (b"nonsense\r\n\r\n", b"400", b"Bad Request\n"),
        (GOOD.replace(b"GET", b"PUT"), b"405", b"Method Not Allowed\n"),
        (GOOD.replace(b"1.1", b"1.0"), b"505", b"HTTP Version Not Supported\n"),
        (GOOD.replace(b": 13", b": 12"), b"400", b"Bad Request\n"),
        (GOOD.replace(b"ub25jZQ", b""), b"400", b"Bad Request\n"),
        (GOOD.replace(b"Upgrade: w", b"Downgrade: w"), b"426", b"Upgrade Required\n"),
    ],
)
async def test_a_refusal_is_a_status_and_no_reason(request_head: bytes, status: bytes, body: bytes | None) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        shaking = loop.create_task(shake(loop, server(ours), Handshake(PAIR, PAIR), BOUND))
        await loop.sock_sendall(theirs, request_head)
        with pytest.raises(BadHeaderError):  # with the reason
            await shaking
        answer = theirs.recv(1 << 16)
    head, _, said = answer.partition(b"\r\n\r\n")
    assert head.split()[1] in (status, b"400")  # versions of websockets before 17 know 400 only of a head that is none
    if head.split()[1] == status and body is not None:
        assert said == body
    assert f"Content-Length: {len(said)}".encode() in head


@on_loops
@pytest.mark.once
@pytest.mark.parametrize(
    ("host", "more", "status"),
    [
        (b"evil.example", b"", b"403"),
        (b"evil.example", b"\r\nOrigin: http://evil.example", b"403"),
        (b"localhost:81", b"", b"101"),
        (b"our.example", b"\r\nX-Forwarded-For: 192.0.2.1", b"101"),  # as a proxy before us has it
    ],
)
async def test_a_page_that_came_by_dns_rebinding_may_not_connect(host: bytes, more: bytes, status: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        link = ServerLink(ours, "/x", lambda: True, 100, host="127.0.0.1", local="127.0.0.1:80", remote="there")
        loop = asyncio.get_running_loop()
        theirs.sendall(GOOD.replace(b"Host: h", b"Host: %s\r\nOrigin: http://%s%s" % (host, host, more)))
        with contextlib.suppress(BadHeaderError):
            await shake(loop, link, Handshake(PAIR, PAIR), BOUND)
            await link.admit(loop)
        assert theirs.recv(1 << 16).split()[1] == status
        link.close()
