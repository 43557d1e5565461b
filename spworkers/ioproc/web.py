"""The process of a `WebServer`: it accepts, reads the request, and hands the connection to the socket of its path.

    accept ─▶ read the head ─┬─ wants a WebSocket ─▶ the socket's I/O process has it from here on
                             └─ anything else ─────▶ a page or a file, and the connection is closed

It holds nothing that a successor would miss: the listening socket is the supervisor's to give, what was handed over
lives in other processes. Only answers that are being sent, and TLS sessions, which cannot move, end with it. For those,
what is handed over is one end of a socket pair, and this process carries the bytes.

Bounds, as at any listener: HANDSHAKE-TIMEOUT for a request and for each part of an answer, ACCEPT-RATE, and
MAX-HANDSHAKES connections, the oldest of which goes when there are more.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from websockets.http11 import Request
from websockets.server import ServerProtocol

from spworkers.channel import close_fds
from spworkers.errors import BadHeaderError, ConnRefusedError, ConnResetError, ConnTimeoutError, ResourceError, SPError
from spworkers.ioproc.admission import Admission, Crowd
from spworkers.ioproc.broker import SupervisorLine
from spworkers.ioproc.listener import FIRST_PAUSE, LONGEST_PAUSE
from spworkers.ioproc.loop import new_loop
from spworkers.ioproc.pages import Answer, Pages, refusal
from spworkers.transport import tcp
from spworkers.transport.acceptor import SocketAcceptor
from spworkers.transport.base import Link
from spworkers.transport.handshake import cause_of, recv_some, send_all
from spworkers.transport.stream import Stream
from spworkers.transport.tls import Contexts, TLSLink
from spworkers.transport.waiting import Limit, writable
from spworkers.transport.wshead import Head, forget, last_words, log, path_of, read_head
from spworkers.transport.wsmux import MuxLine, name_of
from spworkers.webcounts import WebCounts

if TYPE_CHECKING:
    from spworkers.supervisor.boot import Boot

__all__ = ["run"]

CHUNK = 64 * 1024
"""Bytes of an answer that each connection has in memory at once, however slowly it is read."""

REPLACED = 2.0
"""Seconds for which a path that was a socket's is tried again: its I/O process may have died, and a successor be on its
way."""

_RETRY = 0.02

DIALS = 16
"""Paths that the supervisor is asked about at a time: strangers choose them, and how many."""

HALF_CLOSED = 5.0
"""Seconds that one direction of a relay lives on when the other has ended."""

_log = logging.getLogger(__name__)


def run(boot: Boot) -> int:
    """The entry point: serve until the supervisor says stop."""
    loop = new_loop()
    asyncio.set_event_loop(loop)
    process = WebProcess(loop, boot)
    loop.run_until_complete(process.serve())
    return 0


class WebProcess:
    """One web server."""

    def __init__(self, loop: asyncio.AbstractEventLoop, boot: Boot) -> None:
        self.loop = loop
        spec = boot.spec
        self.key = boot.key
        self.pages = Pages({path: (body, kind) for path, (body, kind) in spec["pages"].items()}, spec["static"])
        self.timeout = float(spec["handshake_timeout"])
        self.options: dict[str, Any] = {**spec["limits"], "TLS-CONFIG": spec["tls_config"]}
        self.admission = Admission(self.options, loop.time)
        self.contexts = Contexts()
        self.relays: set[asyncio.Task[None]] = set()
        self.acceptor = SocketAcceptor(socket.socket(fileno=boot.fds[0]), spec["address"], self._link)
        self.supervisor = SupervisorLine(loop, boot.channel, self._notice, self._orphaned)
        self.busy: dict[asyncio.Task[None], None] = {}  # connections, the oldest one first
        self.crowd = Crowd(loop)
        self.sockets: set[str] = set()  # paths at which there was a socket
        self.lines: dict[str, MuxLine] = {}  # by path
        self.dialling: dict[str, asyncio.Task[MuxLine]] = {}
        self.dials = asyncio.Semaphore(DIALS)
        self.accepting: asyncio.Task[None] | None = None
        self.counts = WebCounts(boot.fds[1])
        os.close(boot.fds[1])
        self.counts.show("pid", os.getpid())
        self._show_how_many()

    def _link(self, sock: socket.socket) -> Link:
        link = tcp.make_link(sock, {})
        if self.options["TLS-CONFIG"] is None:
            return link
        return TLSLink(link, lambda: self.contexts.find(self.options, "listener", "accept"), server_side=True)

    async def serve(self) -> None:
        """Accept until `stop`; then finish what is being answered."""
        self.accepting = self.loop.create_task(self._accept_all())
        with contextlib.suppress(asyncio.CancelledError):
            await self.accepting
        self.acceptor.close(unlink=False)
        while self.busy:
            await asyncio.wait(self.busy)
        for task in self.relays:
            task.cancel()
        if self.relays:
            await asyncio.wait(self.relays)

    def _notice(self, message: dict[str, Any], fds: list[int]) -> None:
        close_fds(fds)
        if message["t"] == "stop":
            if self.accepting is not None:
                self.accepting.cancel()
            self.loop.call_later(message["grace"], self._cut)

    def _cut(self) -> None:
        for task in [*self.busy, *self.relays]:
            task.cancel()

    def _orphaned(self) -> None:
        os._exit(1)

    # ---- connections

    async def _accept_all(self) -> None:
        pause = FIRST_PAUSE
        while True:
            await asyncio.sleep(self.admission.delay())  # the kernel keeps those who come meanwhile
            try:
                link = await self.acceptor.accept()
            except SPError as error:  # out of descriptors, usually
                # Once per outage, which being closed by our owner is none of.
                if pause == FIRST_PAUSE and getattr(error.__cause__, "errno", 0) != errno.EINVAL:
                    self.counts.add("accept_exhausted" if isinstance(error, ResourceError) else "accept_failed")
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            pause = FIRST_PAUSE
            while len(self.busy) >= self.admission.max_handshakes:
                oldest = next(iter(self.busy))
                del self.busy[oldest]
                oldest.cancel()
                self.counts.add("handshake_overflow")
            self.counts.add("accepted")
            self._start(self._serve(link), link)

    def _start(self, work: Coroutine[Any, Any, None], link: Link) -> None:
        task = self.loop.create_task(work)
        self.busy[task] = None
        self.crowd.grew(len(self.busy))
        self._show_how_many()

        def done(task: asyncio.Task[None]) -> None:
            self.busy.pop(task, None)
            self.relays.discard(task)
            self.crowd.shrank(len(self.busy))
            self._show_how_many()
            link.close()

        task.add_done_callback(done)

    def _show_how_many(self) -> None:
        self.counts.show("connections", len(self.busy))
        self.counts.show("relays", len(self.relays))

    async def _serve(self, link: Link) -> None:
        try:
            stream = await self._secured(link)
            head = await self._read_head(stream)
        except (OSError, SPError) as error:  # nobody is left to be told
            self._give_up(link, error, cause_of(error))
            return
        try:
            answer = await self._find_answer(link, stream, head)
            if answer is None:
                return
            await self._show(stream, answer)
        except (OSError, SPError) as error:  # it hung up, or was too slow, say
            self._give_up(link, error, "answer_cut")
            return
        self.counts.add("refused" if answer.refuses else "answered")
        with contextlib.suppress(OSError, SPError):
            await self._await_close(stream)

    def _give_up(self, link: Link, error: Exception, cause: str) -> None:
        _log.debug("%s: %s", link.remote, error)
        self.counts.add(cause)

    async def _secured(self, link: Link) -> Stream:
        if not isinstance(link, TLSLink):
            return link.sock
        async with self._limit():
            return await link.secure(self.loop)

    async def _read_head(self, stream: Stream) -> Head:
        websocket = ServerProtocol(logger=log)
        try:
            async with self._limit():
                return await read_head(self.loop, stream, websocket, "request", keep=True)
        except BadHeaderError:
            await self._send(stream, last_words(websocket))
            raise
        finally:
            forget(websocket)

    async def _find_answer(self, link: Link, stream: Stream, head: Head) -> Answer | None:
        """None: it is a socket's connection now, or was."""
        request = head.event
        assert isinstance(request, Request)
        path = path_of(request)
        if any("websocket" in value.lower() for value in request.headers.get_all("Upgrade")):
            return await self._upgrade(link, stream, path, head.raw + head.rest)
        method = getattr(request, "method", "GET")
        answer = self.pages.answer(method, request.path or "/")
        if answer.nothing and await self._is_socket(path):
            more = {"Upgrade": "websocket", "Connection": "Upgrade, close"}
            return refusal(426, "a WebSocket is here\n", with_body=method == "GET", **more)
        return answer

    async def _is_socket(self, path: str) -> bool:
        try:
            await self._line_to(path)
        except ConnRefusedError:
            return False
        return True

    async def _upgrade(self, link: Link, stream: Stream, path: str, early: bytes) -> Answer | None:
        """Give a connection, or with TLS what comes out of it, to the socket of that path. An answer: there is none."""
        if not isinstance(link, TLSLink):
            return await self._hand_over(link, link.sock, path, early)
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                answer = await self._hand_over(link, theirs, path, early)
            if answer is None:
                ours.setblocking(False)
                task = asyncio.current_task()
                assert task is not None, "each connection has a task"
                self.busy.pop(task, None)  # it has asked for something and got it, and may stay as long as it likes
                self.relays.add(task)
                self._show_how_many()
                await relay(self.loop, stream, ours)
        return answer

    async def _hand_over(self, link: Link, sock: socket.socket, path: str, early: bytes) -> Answer | None:
        deadline = self.loop.time() + REPLACED
        while self.loop.time() < deadline:
            try:
                line = await self._line_to(path)
            except ConnRefusedError:
                if path not in self.sockets:
                    return refusal(404, "no socket at this path\n")
            else:
                self.sockets.add(path)
                facts = {"local": link.local, "remote": link.remote, "early": early, "properties": link.properties}
                async with self._limit():
                    if await line.give(sock, **facts):
                        self.counts.add("handed_over")
                        return None
            await asyncio.sleep(_RETRY)
        self.sockets.discard(path)
        return refusal(503, "no socket at this path at present\n")

    async def _line_to(self, path: str) -> MuxLine:
        """The line to the socket at a path; ConnRefusedError: there is none."""
        if path not in self.lines and path not in self.dialling:
            await self.dials.acquire()
            if path in self.lines or path in self.dialling:
                self.dials.release()
            else:
                self.dialling[path] = self.loop.create_task(self._dial(path))
        line = self.lines.get(path)
        # Who asked may give up before there is an answer; the question is out until then.
        return await asyncio.shield(self.dialling[path]) if line is None else line

    async def _dial(self, path: str) -> MuxLine:
        try:
            fd = await self.supervisor.dial(name_of(self.key, path))
            line = self.lines[path] = MuxLine(self.loop, socket.socket(fileno=fd), lambda: self._forget(path))
            return line
        finally:
            del self.dialling[path]
            self.dials.release()

    def _forget(self, path: str) -> None:
        del self.lines[path]

    # ---- answers

    async def _show(self, stream: Stream, answer: Answer) -> None:
        body = memoryview(answer.body)
        await self._send(stream, answer.head + body[:CHUNK])  # one packet, if it is short
        for at in range(CHUNK, len(body), CHUNK):
            await self._send(stream, body[at : at + CHUNK])
        if answer.file is not None:
            left = answer.size
            with answer.file as file:
                while chunk := file.read(min(CHUNK, left)):
                    await self._send(stream, chunk)
                    left -= len(chunk)
            if left:
                raise ConnResetError("the file has become shorter while it was sent")

    async def _await_close(self, stream: Stream) -> None:
        """A close with unread bytes would reset, and discard what was sent; so read what there still may be."""
        with contextlib.suppress(BlockingIOError):
            stream.shutdown(socket.SHUT_WR)
        async with self._limit():
            while await recv_some(self.loop, stream, CHUNK):
                pass

    async def _send(self, stream: Stream, data: bytes | memoryview) -> None:
        async with self._limit():
            await send_all(self.loop, stream, data)

    def _limit(self) -> Limit:
        return Limit(self.loop, self.timeout, lambda: ConnTimeoutError("too slow"))


async def relay(loop: asyncio.AbstractEventLoop, one: Stream, other: Stream) -> None:
    """Carry bytes both ways until both ends have ended, or one of them is lost."""
    pumps = {loop.create_task(pump(loop, one, other)), loop.create_task(pump(loop, other, one))}
    try:
        done, left = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        if left and not any(task.exception() for task in done):
            await asyncio.wait(left, timeout=HALF_CLOSED)
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def pump(loop: asyncio.AbstractEventLoop, source: Stream, sink: Stream) -> None:
    """Carry bytes one way, to the end; the end, too."""
    while data := await recv_some(loop, source, CHUNK):
        await send_all(loop, sink, data)
    while True:
        try:
            sink.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            await writable(loop, sink.fileno())
        else:
            return
