"""The heads of a WebSocket's opening handshake, a request's or an answer's, as they come from a stream."""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple

from websockets.http11 import Request, Response
from websockets.protocol import Protocol as WebSocket
from websockets.server import ServerProtocol

from spworkers.errors import BadHeaderError, ConnResetError
from spworkers.transport.handshake import recv_some
from spworkers.transport.stream import Stream
from spworkers.transport.wsmessages import READ_SIZE

HEAD_LIMIT = 64 * 1024
"""Bytes of a request's or an answer's head at most: eight times what nginx and Apache take by default, and little
enough that as many as there may be handshakes hold 64 MiB."""

_END_OF_HEAD = b"\r\n\r\n"

log = logging.getLogger("spworkers.websocket")
"""For protocol objects: they tell of each connection at INFO; so do we, in words of our own."""
log.setLevel(logging.ERROR)


class Head(NamedTuple):
    """A head, as it was understood and as it came.

    Attributes:
        event: the request or the answer.
        raw: all bytes that were read of it.
        rest: the bytes behind it that were read as well.
    """

    event: Request | Response
    raw: bytes
    rest: bytes


async def read_head(
    loop: asyncio.AbstractEventLoop, stream: Stream, websocket: WebSocket, doing: str, early: bytes = b""
) -> Head:
    """Wait for the peer's request or answer.

    Args:
        loop: the running loop.
        stream: where it comes from.
        websocket: a fresh protocol object, which gets the head and not what is behind it.
        doing: what is being done, for errors.
        early: bytes that were read before.

    Raises:
        BadHeaderError: it is none, or too long.
        ConnResetError: the peer hung up before it was complete.
    """
    raw = bytearray()
    while True:
        data, early = early or await recv_some(loop, stream, READ_SIZE), b""
        if not data:
            raise ConnResetError(f"{doing}: the peer closed the connection after {len(raw)} bytes")
        start = max(0, len(raw) - len(_END_OF_HEAD) + 1)
        fed = len(raw)
        raw += data
        end = raw.find(_END_OF_HEAD, start)
        cut = len(raw) if end < 0 else end + len(_END_OF_HEAD)
        websocket.receive_data(bytes(raw[fed:cut]))
        for event in websocket.events_received():
            if isinstance(event, (Request, Response)):
                return Head(event, bytes(raw[:cut]), bytes(raw[cut:]))
        early = bytes(raw[cut:])
        del raw[cut:]
        wrong = websocket.handshake_exc
        if wrong is not None:
            said = wrong.__cause__ or wrong
            raise BadHeaderError(f"{doing}: this is no opening handshake of a WebSocket: {said}")
        if len(raw) > HEAD_LIMIT:
            raise BadHeaderError(f"{doing}: more than {HEAD_LIMIT} bytes, and still no end of the head")


def last_words(websocket: ServerProtocol) -> bytes:
    """What to answer to a head that is none."""
    said = b"".join(websocket.data_to_send())  # versions of websockets before 17 say nothing
    return said or websocket.reject(400, "Bad Request\n").serialize()
