"""The heads of a WebSocket's opening handshake, a request's or an answer's, as they come from a stream."""

from __future__ import annotations

import asyncio
import http
import logging
from typing import NamedTuple

from websockets.client import ClientProtocol
from websockets.exceptions import NegotiationError
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.protocol import Protocol as WebSocket
from websockets.server import ServerProtocol

from spworkers.errors import BadHeaderError, ConnResetError
from spworkers.transport.handshake import recv_some
from spworkers.transport.stream import Stream

HEAD_LIMIT = 32 * 1024
"""Bytes of a request's or an answer's head at most: what nginx takes by default, and little enough that as many half
heads as there may be handshakes are some tens of MB."""

READ_SIZE = 4 * 1024
"""Bytes asked for in one read: most heads have fewer, and a buffer of many would leave a hole in the heap each time."""

_END_OF_HEAD = b"\r\n\r\n"

log = logging.getLogger("spworkers.websocket")
"""For protocol objects: they tell of each connection, of failures with a traceback; so do we, in fewer words."""
log.setLevel(logging.CRITICAL)


class _FewWords(WebSocket):
    """Who breaks the rules learns the code from the close frame, and nothing of our limits: the reason stays in our own
    error."""

    def fail(self, code: CloseCode | int, reason: str = "") -> None:
        super().fail(code)


class ServerSide(_FewWords, ServerProtocol):
    """The protocol object of a listener's connection."""


class ClientSide(_FewWords, ClientProtocol):
    """The protocol object of a dialer's connection."""


class Head(NamedTuple):
    """A head, as it was understood and as it came.

    Attributes:
        event: the request or the answer.
        raw: all bytes that were read of it, if they were to be kept.
        rest: the bytes behind it that were read as well.
    """

    event: Request | Response
    raw: bytes
    rest: bytes


async def read_head(
    loop: asyncio.AbstractEventLoop,
    stream: Stream,
    websocket: WebSocket,
    doing: str,
    early: bytes = b"",
    *,
    keep: bool = False,
) -> Head:
    """Wait for the peer's request or answer.

    Args:
        loop: the running loop.
        stream: where it comes from.
        websocket: a fresh protocol object, which gets the head and not what is behind it.
        doing: what is being done, for errors.
        early: bytes that were read before.
        keep: keep the bytes as they came, too.

    Raises:
        BadHeaderError: it is none, or too long.
        ConnResetError: the peer hung up before it was complete.
    """
    size = 0
    tail = b""  # the last bytes, in which the end may have begun
    kept: list[bytes] = []
    while True:
        data, early = early or await recv_some(loop, stream, READ_SIZE), b""
        if not data:
            hint = "" if size else "; it does so when it speaks another protocol (ws, wss), too"
            raise ConnResetError(f"{doing}: the peer closed the connection after {size} bytes{hint}")
        end = (tail + data).find(_END_OF_HEAD)
        if end >= 0:
            cut = end + len(_END_OF_HEAD) - len(tail)
            data, early = data[:cut], data[cut:]
        tail = (tail + data)[-len(_END_OF_HEAD) + 1 :]
        size += len(data)
        if keep:
            kept.append(data)
        try:
            websocket.receive_data(data)
        except UnicodeError as error:  # as ServerLink says; clients meet it here
            raise BadHeaderError(f"{doing}: a head with bytes that are no text") from error
        for event in websocket.events_received():
            if isinstance(event, (Request, Response)):
                return Head(event, b"".join(kept), early)
        if websocket.handshake_exc is not None:
            raise BadHeaderError(
                f"{doing}: this is no opening handshake of a WebSocket: {_why(websocket.handshake_exc)}"
            )
        if size > HEAD_LIMIT:
            raise BadHeaderError(f"{doing}: more than {HEAD_LIMIT} bytes, and still no end of the head")
        data = b""  # not to be held while we wait


def _why(wrong: Exception) -> str:
    """In words, so that no frame of ours holds the error, which holds our frames."""
    return shown(wrong.__cause__ or wrong)


def shown(said: object) -> str:
    """What a stranger said, for an error or a log: on one line, and nothing that a terminal would obey."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in str(said).strip())


def path_of(request: Request) -> str:
    """What a request is for, without its query. nng leaves it empty where its address has none."""
    return request.path.partition("?")[0] or "/"


def last_words(websocket: ServerProtocol) -> bytes:
    """What to answer to a head that is none: a status, and its name."""
    said = b"".join(websocket.data_to_send())  # versions of websockets before 17 say nothing, later ones our limits
    status = http.HTTPStatus(int(said.split(b" ", 2)[1]) if said else 400)
    return websocket.reject(status, f"{status.phrase}\n").serialize()


def in_few_words(websocket: ServerProtocol, answer: Response) -> Response:
    """A refusal without the reason, but for the sub-protocol that would have done; the status says enough."""
    if answer.status_code != 101 and not isinstance(websocket.handshake_exc, NegotiationError):
        answer.body = f"{answer.reason_phrase}\n".encode()
        del answer.headers["Content-Length"]
        answer.headers["Content-Length"] = str(len(answer.body))
    return answer


def forget(websocket: WebSocket) -> None:
    """The connection is over. A protocol object, its parser and the errors that it keeps hold each other: by themselves
    they would wait for the garbage collector, and in a flood of half heads that is twice the memory."""
    websocket.parser.close()
    websocket.handshake_exc = websocket.parser_exc = None
