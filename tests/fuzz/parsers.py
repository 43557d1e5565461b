"""Everything that reads bytes which strangers wrote, each as a function of those bytes.

A function raises nothing but what its docstring in the package promises (`SPError`: the pipe is closed, or the call
fails), which it catches itself, and returns a few words on what became of the input. Inputs that lead to other words
than those before are worth keeping: that is the whole of the fuzzer's feedback.
"""

from __future__ import annotations

import functools
import os
import re
import tempfile
import warnings
from collections import deque
from collections.abc import Callable

from websockets.client import ClientProtocol
from websockets.exceptions import NegotiationError
from websockets.http11 import Request, Response
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from spworkers import callhead, messages
from spworkers.errors import GarbledError, SPError, TooLongError
from spworkers.httprequest import HTTPRequest, same_origin
from spworkers.ioproc.pages import Pages
from spworkers.protocol import MACHINES
from spworkers.ring import IPC, STREAM, FrameReader
from spworkers.testing import Harness
from spworkers.tlsstate import TLSState
from spworkers.transport.frames import Decoder
from spworkers.transport.handshake import Handshake
from spworkers.transport.wsmessages import WsReader, WsWriter, limits_of
from spworkers.workers import callformat

LIMIT = 4096
"""MAX-RCV-SIZE of whatever has one."""

_URI = WebSocketURI(False, "h", 80, "/x", "")


def _pieces(data: bytes) -> list[bytes]:
    """The input, cut where its own bytes say: parsers meet every cut."""
    if len(data) < 2:
        return [data]
    at = 1 + data[0] % len(data)
    return [data[:at], data[at : at + 1], data[at + 1 :]]


def _kind(error: Exception) -> str:
    """Which error it is, without what it quotes of the input."""
    words = re.findall("[a-z]{3,}", re.split("['\"0-9]", str(error))[0])
    return f"{type(error).__name__} {' '.join(words[:4])}"


def greeting(data: bytes) -> str:
    """The SP handshake."""
    shake = Handshake(0x30, 0x31)
    try:
        for piece in _pieces(data):
            if shake.receive(piece[: shake.missing]):
                return "done"
    except SPError as error:
        return type(error).__name__
    return f"{shake.missing} missing"


def _frames(data: bytes, framing: int) -> str:
    compiled, plain = FrameReader(-1, framing, LIMIT), Decoder("ipc" if framing == IPC else "stream", LIMIT)
    found: list[bytes] = []
    expected: list[bytes] = []
    for piece in _pieces(data):
        found += compiled.feed(piece)
        try:
            expected += plain.feed(piece)
        except SPError:
            break
    assert found == expected, "the compiled codec and the plain one differ"
    assert type(compiled.error) is type(plain.error)
    assert compiled.error is None or isinstance(compiled.error, (GarbledError, TooLongError))
    return f"{min(len(found), 4)} {any(found)} {type(compiled.error).__name__}"


def frames_stream(data: bytes) -> str:
    """Frames of tcp and TLS."""
    return _frames(data, STREAM)


def frames_ipc(data: bytes) -> str:
    """Frames of ipc."""
    return _frames(data, IPC)


class _Stub:
    """A stream that holds the input, and takes every answer."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = deque(pieces)

    def fileno(self) -> int:
        return -1

    def recv(self, size: int, /) -> bytes:
        if not self.pieces:
            raise BlockingIOError
        return self.pieces.popleft()

    def send(self, data: memoryview, /) -> int:
        return len(data)

    def shutdown(self, how: int, /) -> None:
        return None

    def close(self) -> None:
        return None


def ws_frames(data: bytes) -> str:
    """What comes over a WebSocket that is open."""
    websocket = ServerProtocol(state=OPEN, max_size=limits_of(LIMIT))
    stub = _Stub([*_pieces(data), b""])
    writer = WsWriter(websocket, stub)
    reader = WsReader(websocket, stub, writer, LIMIT)
    found = []
    for _ in range(8):
        found += reader.read()
        writer.flush()
        if reader.more == 2:
            break
    assert all(len(each) <= LIMIT for each in found)
    assert reader.error is None or isinstance(reader.error, SPError)
    return f"{min(len(found), 4)} {type(reader.error).__name__} {websocket.close_code}"


def ws_request(data: bytes) -> str:
    """The head of a WebSocket's request, as `read_head` and `ServerLink` have it parsed."""
    websocket = ServerProtocol(subprotocols=[Subprotocol("rep.sp.nanomsg.org")])
    for piece in _pieces(data):
        try:
            websocket.receive_data(piece)
        except UnicodeError:  # which `read_head` knows of
            return "no text"
        for event in websocket.events_received():
            if isinstance(event, Request):
                headers = event.headers
                ours = same_origin(headers.get_all("Origin"), headers.get_all("Host"))
                asked = HTTPRequest("GET", event.path, tuple(headers.raw_items()))
                assert asked.target.startswith(asked.path)
                assert asked.query is not None
                try:
                    status = websocket.accept(event).status_code
                except UnicodeError:
                    return "no text in a header"
                return f"{status} {isinstance(websocket.handshake_exc, NegotiationError)} {ours}"
    return type(websocket.handshake_exc).__name__


def ws_answer(data: bytes) -> str:
    """The head of the answer."""
    websocket = ClientProtocol(_URI, subprotocols=[Subprotocol("rep.sp.nanomsg.org")])
    websocket.send_request(websocket.connect())
    for piece in _pieces(data):
        try:
            websocket.receive_data(piece)
        except UnicodeError:
            return "no text"
        for event in websocket.events_received():
            if isinstance(event, Response):
                return f"{event.status_code // 100} {type(websocket.handshake_exc).__name__}"
    return type(websocket.handshake_exc).__name__


@functools.cache
def _site() -> tuple[Pages, str, tempfile.TemporaryDirectory[str]]:
    """A folder with a little of everything, its path, and what removes it."""
    folder = tempfile.TemporaryDirectory()
    shown = os.path.realpath(os.path.join(folder.name, "shown"))
    os.makedirs(os.path.join(shown, "sub"))
    for path in ("secret", "shown/a.txt", "shown/sub/index.html"):
        with open(os.path.join(folder.name, path), "w") as file:
            file.write(path)
    os.symlink("../secret", os.path.join(shown, "link"))
    os.symlink("/", os.path.join(shown, "root"))
    os.mkfifo(os.path.join(shown, "fifo"))
    return Pages({"/": (b"hello", "text/plain")}, {"/s": shown}), shown, folder


def page(data: bytes) -> str:
    """What is asked of a web server, where there is no WebSocket. Nothing outside of its folder is ever shown."""
    pages, shown, _ = _site()
    answer = pages.answer(*data.decode("ascii", "surrogateescape").partition(" ")[::2])
    if answer.file is None:
        return answer.head[:13].decode()
    with answer.file as file:
        name = os.path.relpath(os.path.realpath(file.name), shown)
    assert not name.startswith(".."), f"{name} is not in the folder that is shown"
    return f"{answer.head[:13].decode()} {name}"


def certificate(data: bytes) -> str:
    """The certificate of a peer, of which OpenSSL has made sense."""
    state = TLSState("", "", 0, "", False, data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what cryptography does not like, and takes yet
        try:
            read = (state.certificate, state.common_name, state.names, state.subject, state.issuer)
        except GarbledError as error:
            return _kind(error.__cause__ or error)
    return f"{len(read[1]) > 0} {min(len(read[2]), 4)}"


def control(data: bytes) -> str:
    """A message of the control channel."""
    try:
        return str(messages.decode(data)["t"])
    except messages.BadPacketError as error:
        return _kind(error)


def call(data: bytes) -> str:
    """A request that may be of the call format, as the dispatcher sees it and as the worker does."""
    errors = callformat.CallErrors()
    kind, name, at = callhead.kind_at(data, 0), errors.handler_of(data, 0), errors.content_at(data, 0)
    assert 0 <= at <= max(len(data), callformat.CALL_HEAD)
    if kind != callhead.OTHER:
        callhead.id_at(data, 0)
    if kind == callhead.CALL:
        assert callhead.patience_at(data, 0) >= 0
    try:
        decoded = callformat.decode_call(data)
    except GarbledError as error:
        return f"{kind} {bool(name)} {_kind(error)}"
    assert name == decoded.name, "the dispatcher and the worker read another name"
    return f"{kind} call {len(decoded.args) > 0} {len(decoded.kwargs) > 0}"


def answer(data: bytes) -> str:
    """What comes back to a client."""
    try:
        return type(callformat.decode_answer(data, "f")).__name__
    except GarbledError as error:
        return _kind(error)
    except SPError as error:
        return type(error).__name__


def machines(data: bytes) -> str:
    """A message, as every protocol's machine takes it from a pipe: backtraces, hops, ids of surveys."""
    said = []
    for name, both in MACHINES.items():
        for machine in dict.fromkeys(both):
            harness = Harness(machine)
            lane = harness.open()
            pipe = harness.connect()
            harness.feed(pipe, data)
            said.append(f"{name[:2]}{len(lane.deliveries)}{pipe.closed_for}{len(pipe.sent)}")
    return " ".join(said)


PARSERS: dict[str, Callable[[bytes], str]] = {
    each.__name__: each
    for each in (
        greeting,
        frames_stream,
        frames_ipc,
        ws_frames,
        ws_request,
        ws_answer,
        page,
        certificate,
        control,
        call,
        answer,
        machines,
    )
}
