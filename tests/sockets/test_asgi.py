"""Sockets mounted on an ASGI server: one that is a test, on asyncio and on trio, and a real one."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from helpers import eventually
from sockets.kit import BOUND, Record, ask, drops, request_id, serve, wait_pipes
from sockets.wspeer import WsPeer, frame

import spworkers as sp
from spworkers.transport import asgi
from spworkers.transport.ws import ASGIApp

BACKENDS = ["asyncio", "trio"]
PAIR = "pair.sp.nanomsg.org"


def on_both(test: Callable[..., Any]) -> Callable[..., None]:
    """Run a coroutine function on either kind of loop."""

    @pytest.mark.parametrize("backend", BACKENDS)
    def runner(backend: str) -> None:
        async def within_bounds() -> None:
            with anyio.fail_after(BOUND):
                await test()

        anyio.run(within_bounds, backend=backend)

    runner.__doc__ = test.__doc__
    runner.__name__ = test.__name__
    return runner


class Browser:
    """A WebSocket as an ASGI server shows it to an application."""

    def __init__(self) -> None:
        self._to_app, self._app_receives = anyio.create_memory_object_stream[dict[str, Any]](10)
        self._app_sends, self._from_app = anyio.create_memory_object_stream[dict[str, Any]](10)

    async def send(self, kind: str, **more: Any) -> None:
        await self._to_app.send({"type": f"websocket.{kind}", **more})

    async def recv(self) -> dict[str, Any]:
        return await self._from_app.receive()

    async def message(self) -> bytes:
        found = await self.recv()
        assert found["type"] == "websocket.send", found
        body: bytes = found["bytes"]
        return body

    async def closed(self) -> int:
        found = await self.recv()
        assert found["type"] == "websocket.close", found
        code: int = found["code"]
        return code

    def close(self) -> None:
        for stream in (self._to_app, self._app_receives, self._app_sends, self._from_app):
            stream.close()


def scope(path: str, protocol: str = PAIR, headers: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    given = {"host": "here.example", **(headers or {})}
    return {
        "type": "websocket",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"a=b",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "subprotocols": [protocol] if protocol else [],
        "client": ("192.0.2.7", 1234),
        "server": ("::1", 80),
        **more,
    }


@contextlib.asynccontextmanager
async def browsing(app: ASGIApp, asked: dict[str, Any], *, accepted: bool = True) -> AsyncIterator[Browser]:
    """A browser that has asked for a WebSocket."""
    browser = Browser()
    ended = anyio.Event()

    async def run() -> None:
        await app(asked, browser._app_receives.receive, browser._app_sends.send)  # type: ignore[arg-type]
        ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await browser.send("connect")
        if accepted:
            answer = await browser.recv()
            assert answer == {"type": "websocket.accept", "subprotocol": asked["subprotocols"][0]}
        yield browser
        await browser.send("disconnect", code=1000)
        await ended.wait()
    browser.close()


@on_both
async def test_messages_go_both_ways() -> None:
    with sp.Pair() as pair, ASGIApp({"/pair": pair}) as app:
        async with browsing(app, scope("/pair")) as browser:
            for body in (b"", b"x", bytes(300_000)):
                await browser.send("receive", bytes=body)
                assert await pair.arecv(timeout=BOUND) == body
                await pair.asend(body + b"!", timeout=BOUND)
                assert await browser.message() == body + b"!"
            await browser.send("receive", text="ä", bytes=None)
            assert await pair.arecv(timeout=BOUND) == "ä".encode()
            pipe = pair.pipes[0]
            assert (pipe.remote_addr, pipe.local_addr, pipe.address) == ("192.0.2.7:1234", "[::1]:80", "asgi:///pair")
            assert (pipe.http_request.target, pipe.http_request.query) == ("/pair?a=b", {"a": "b"})
            assert pipe.http_request.header("Host") == "here.example"
        wait_pipes(pair, 0)


@on_both
async def test_a_mounted_app_knows_its_paths() -> None:
    with sp.Pair() as pair, ASGIApp({"/pair": pair}) as app:
        async with browsing(app, scope("/sp/pair", root_path="/sp")):
            wait_pipes(pair)
        assert "/pair" in repr(app)


REFUSED: dict[str, tuple[int, dict[str, Any]]] = {
    "another path": (404, {"path": "/other"}),
    "another protocol": (400, {"path": "/pair", "protocol": "rep.sp.nanomsg.org"}),
    "no protocol": (400, {"path": "/pair", "protocol": ""}),
    "a foreign origin": (403, {"path": "/pair", "headers": {"origin": "http://evil.example"}}),
    "an origin that is none": (403, {"path": "/pair", "headers": {"origin": "http://["}}),
}


@pytest.mark.parametrize(("status", "asked"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(status: int, asked: dict[str, Any]) -> None:
    async def refuse() -> None:
        with sp.Pair() as pair, ASGIApp({"/pair": pair}) as app:
            async with browsing(app, scope(**asked), accepted=False) as browser:
                assert await browser.closed() == 1008
            able = scope(**asked, extensions={"websocket.http.response": {}})
            async with browsing(app, able, accepted=False) as browser:
                assert (await browser.recv())["status"] == status
                assert (await browser.recv())["type"] == "websocket.http.response.body"
            assert pair.stats()["accepted"] == 0

    anyio.run(refuse)


@on_both
async def test_origins() -> None:
    with sp.Pair() as pair, ASGIApp({"/pair": pair}) as app:
        async with browsing(app, scope("/pair", headers={"origin": "https://here.example"})):
            wait_pipes(pair)
    with sp.Pair() as pair, ASGIApp({"/pair": pair}, check_origin=False) as app:
        async with browsing(app, scope("/pair", headers={"origin": "https://evil.example"})):
            wait_pipes(pair)


@on_both
async def test_a_hook_that_refuses_closes_with_1008() -> None:
    with sp.Pair() as pair, ASGIApp({"/pair": pair}) as app:

        def refuse(event: sp.PipeEvent, pipe: sp.Pipe) -> None:
            if pipe.http_request.header("cookie") != "good":
                raise PermissionError("who are you?")

        pair.set_pipe_event_hook(refuse)
        async with browsing(app, scope("/pair")) as browser:
            assert await browser.closed() == 1008
        async with browsing(app, scope("/pair", headers={"cookie": "good"})):
            wait_pipes(pair)


@on_both
async def test_a_hook_that_refuses_with_a_status_has_it_answered() -> None:
    with sp.Pair() as pair, ASGIApp({"/pair": pair}) as app:
        pair.set_pipe_event_hook(lambda event, pipe: pipe.refuse(401, "who are you?"))
        async with browsing(app, scope("/pair", extensions={"websocket.http.response": {}}), accepted=False) as browser:
            answer = await browser.recv()
            assert (answer["type"], answer["status"]) == ("websocket.http.response.start", 401)
            assert (b"www-authenticate", b"Bearer") in answer["headers"]
            assert (await browser.recv())["body"] == b"who are you?\n"
        async with browsing(app, scope("/pair"), accepted=False) as browser:
            assert await browser.closed() == 1008  # before it was accepted: the server says 403
        assert (pair.stats()["accepted"], pair.stats()["refused"]) == (0, 2)


@on_both
async def test_a_second_pair_is_turned_away() -> None:
    with sp.Pair() as pair, ASGIApp({"/pair": pair}) as app:
        async with browsing(app, scope("/pair")), browsing(app, scope("/pair")) as another:
            assert await another.closed() == 1008


@on_both
async def test_max_rcv_size_is_exact_and_closes_with_1009() -> None:
    with sp.Pair(max_rcv_size=100) as pair, ASGIApp({"/pair": pair}) as app:
        async with browsing(app, scope("/pair")) as browser:
            await browser.send("receive", bytes=bytes(100))
            assert await pair.arecv(timeout=BOUND) == bytes(100)
            await browser.send("receive", bytes=bytes(101))
            assert await browser.closed() == 1009
        wait_pipes(pair, 0)


@on_both
async def test_garbage_for_the_protocol_closes_that_pipe() -> None:
    with sp.Rep() as rep, ASGIApp({"/rep": rep}) as app:
        async with browsing(app, scope("/rep", "rep.sp.nanomsg.org")) as browser:
            await browser.send("receive", bytes=b"\0")
            assert await browser.closed() == 1001
        eventually(lambda: drops(rep) == {"garbled": 1})


@on_both
async def test_closing_a_pipe_and_a_socket_closes_the_websocket() -> None:
    with sp.Pair() as pair, ASGIApp({"/pair": pair}) as app:
        async with browsing(app, scope("/pair")) as browser:
            wait_pipes(pair)
            pair.pipes[0].close()
            assert await browser.closed() == 1001
        async with browsing(app, scope("/pair")) as browser:
            wait_pipes(pair)
            await pair.asend(b"last words", timeout=BOUND)
            await anyio.to_thread.run_sync(pair.close)
            assert await browser.message() == b"last words"
            assert await browser.closed() == 1001
        async with browsing(app, scope("/pair"), accepted=False) as browser:
            assert await browser.closed() == 1008


@on_both
async def test_a_closed_app_takes_no_more() -> None:
    with sp.Pair() as pair:
        app = ASGIApp({"/pair": pair})
        async with browsing(app, scope("/pair")):
            wait_pipes(pair)
            app.close()
            app.close()
            assert len(pair.pipes) == 1
        async with browsing(app, scope("/pair"), accepted=False) as browser:
            assert await browser.closed() == 1008
        assert pair.listeners == []


@on_both
async def test_a_killed_io_process_closes_and_its_successor_serves() -> None:
    with sp.Pair() as pair, ASGIApp({"/pair": pair}) as app:
        async with browsing(app, scope("/pair")) as browser:
            wait_pipes(pair)
            os.kill(pair.stats()["pid"], signal.SIGKILL)
            assert await browser.closed() == 1001
        async with browsing(app, scope("/pair")) as browser:
            await browser.send("receive", bytes=b"again")
            assert await pair.arecv(timeout=BOUND) == b"again"


@on_both
async def test_a_browser_that_does_not_read_holds_up_nobody_else() -> None:
    with sp.Rep() as rep, ASGIApp({"/rep": rep}) as app:
        asked = scope("/rep", "rep.sp.nanomsg.org")
        async with browsing(app, asked) as deaf, browsing(app, asked) as other:
            for number in range(60):  # more than its queue, the pair's buffers and the window take
                await deaf.send("receive", bytes=request_id(number) + b"x")
                assert await rep.arecv(timeout=BOUND) == b"x"
                with contextlib.suppress(sp.SendTimeoutError):
                    await rep.asend(bytes(100_000), timeout=0.001)
                if number > 20 and rep.stats()["drops"]:
                    break
            await other.send("receive", bytes=request_id(1) + b"y")
            assert await rep.arecv(timeout=BOUND) == b"y"
            await rep.asend(b"z", timeout=BOUND)
            assert await other.message() == request_id(1) + b"z"


@on_both
async def test_the_rest_of_asgi() -> None:
    with sp.Pair() as pair, ASGIApp({"/pair": pair}) as app:
        for path, method, status in (("/pair", "GET", 426), ("/x", "GET", 404), ("/x", "HEAD", 404)):
            sent: list[Any] = []

            async def send(message: Any, sent: list[Any] = sent) -> None:
                sent.append(message)

            async def receive() -> Any:
                raise AssertionError("nothing is to be read")

            await app({**scope(path), "type": "http", "method": method}, receive, send)
            assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
            assert sent[0]["status"] == status
            assert bool(sent[1]["body"]) == (method == "GET")
        events = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

        async def next_event() -> Any:
            return events.pop(0)

        sent.clear()
        await app({"type": "lifespan"}, next_event, send)
        assert sent == [{"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}]


@pytest.mark.parametrize("wrong", [{"pair": None}, {"/pair": None}, {"/pair": "tcp://x"}, {1: None}])
def test_bad_arguments(wrong: Any) -> None:
    with pytest.raises(sp.BadValueError):
        ASGIApp(wrong)


def test_no_more_wait_to_be_accepted_than_a_kernel_lets_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "BACKLOG", 2)
    acceptor = asgi.AsgiAcceptor("asgi:///x")
    with contextlib.ExitStack() as ends:
        browsers = []
        for _ in range(3):
            ours, theirs = socket.socketpair()
            browsers.append(ends.enter_context(ours))
            ours.setblocking(False)
            acceptor.bring(theirs.detach(), {})
        assert browsers.pop().recv(1) == b""
        for waiting in browsers:
            with pytest.raises(BlockingIOError):
                waiting.recv(1)
        acceptor.close()
        assert [browser.recv(1) for browser in browsers] == [b"", b""]


def test_asgi_is_nothing_to_dial() -> None:
    with sp.Pair() as pair, pytest.raises(sp.BadAddrError, match="ws://"):
        pair.dial("asgi:///x")


@pytest.mark.skipif(importlib.util.find_spec("uvicorn") is None, reason="uvicorn is not installed")
def test_on_uvicorn() -> None:
    import uvicorn

    with sp.Rep() as rep, ASGIApp({"/rep": rep}) as app:
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", ws="websockets-sansio")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            eventually(lambda: server.started, BOUND)
            port = server.servers[0].sockets[0].getsockname()[1]
            told = Record()
            rep.set_pipe_event_hook(told)
            with sp.Req(dial=f"ws://127.0.0.1:{port}/rep") as req:
                served = serve(rep, 20)
                for number in range(20):
                    assert ask(req, b"%d" % number) == b"%d" % number
                served.result(BOUND)
                assert rep.pipes[0].remote_addr == req.pipes[0].local_addr
            eventually(lambda: told.counts() == (1, 1, 1), BOUND)
            with sp.Req() as req, pytest.raises(sp.BadProtoError, match="404"):
                req.dial(f"ws://127.0.0.1:{port}/other")
            with WsPeer.open(f"ws://127.0.0.1:{port}/rep", "rep") as peer:
                peer.write(frame(2, bytes(2_000_000)))
                assert peer.closed() == 1009
            rep.set_pipe_event_hook(lambda event, pipe: pipe.refuse(429, "not so fast"))
            with sp.Req() as req, pytest.raises(sp.ConnRefusedError, match="429 Too Many Requests: not so fast"):
                req.dial(f"ws://127.0.0.1:{port}/rep")
        finally:
            server.should_exit = True
            thread.join(BOUND)
