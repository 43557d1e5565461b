"""What the conformance tests share."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import Any

from helpers import eventually
from sockets.kit import BOUND, background

import spworkers as sp
from spworkers import Bus, Pair, Pair1, Pub, Pull, Push, Rep, Req, Respondent, Star, Sub, Surveyor
from spworkers.testing import Mock, RawPeer

ALL: list[Any] = [Pair, Pair1, Pub, Sub, Req, Rep, Push, Pull, Surveyor, Respondent, Bus, Star]
SEND_ONLY, RECEIVE_ONLY = [Pub, Push], [Sub, Pull]
WITH_CONTEXTS = [Sub, Req, Rep, Surveyor, Respondent]

_NEEDS_ID = {"xreq", "xrep", "xsurveyor", "xrespondent"}
_COUNTS_HOPS = {"pair1", "xpair1", "star", "xstar"}


def name_of(make: Any, raw: bool) -> str:
    """`xreq` for a raw Req."""
    return ("x" if raw else "") + str(make.__name__).lower()


def wire(make: Any, raw: bool, body: bytes) -> bytes:
    """A message as a peer of such a socket sends it."""
    name = name_of(make, raw)
    if name in _NEEDS_ID or name in ("rep", "respondent"):
        return b"\x80\0\0\1" + body
    return b"\0\0\0\1" + body if name in _COUNTS_HOPS else body


class Far:
    """Raw peers: each `meet` is one more connection to a socket, which is made to listen where that is possible."""

    def __init__(self, kind: str, folder: Path, *, buffer: int | None = None) -> None:
        self.kind = kind
        self.folder = folder
        self.buffer = buffer
        self.numbers = itertools.count(1)
        self.mocks: dict[int, Mock] = {}
        self.stack = contextlib.ExitStack()

    def meet(self, sock: sp.Socket, *, attached: bool = True) -> RawPeer:
        """A peer of the right protocol. `attached`: wait until the socket has one more pipe."""
        before = sock.stats()["accepted"]
        peer = self.stack.enter_context(self._connect(sock))
        if attached:
            eventually(lambda: sock.stats()["accepted"] > before, BOUND, what=f"a pipe of {sock!r}")
        return peer

    def _connect(self, sock: sp.Socket) -> RawPeer:
        theirs = sock.info.peer_name
        if self.kind == "mock":
            mock = self.mocks.get(id(sock))
            if mock is None:
                mock = self.mocks[id(sock)] = self.stack.enter_context(Mock(theirs, buffer=self.buffer))
                sock.listen(mock.address)
            return mock.connect()
        if not sock.listeners:
            sock.listen("tcp://127.0.0.1:0" if self.kind == "tcp" else f"ipc://{self.folder}/{next(self.numbers)}")
        return RawPeer.dial(sock.listeners[0].address, theirs)

    def __enter__(self) -> Far:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stack.close()


def thirty_contexts_answer(far: Far, socket: sp.Socket) -> None:
    """Thirty contexts of a REP or RESPONDENT answer one peer's 600 questions, each its own and once."""
    with socket:
        contexts = [socket.open_context() for _ in range(30)]

        def serve(context: sp.Context) -> int:
            served = 0
            while True:
                try:
                    context.send(context.recv(timeout=BOUND).upper())
                except sp.ClosedError:
                    return served
                served += 1

        serving = [background(serve, context) for context in contexts]
        peer = far.meet(socket)
        answers = set()
        for first in range(0, 600, 30):
            for number in range(first, first + 30):
                peer.send((number | 0x80000000).to_bytes(4, "big") + b"q%d" % number)
            answers |= {peer.recv() for _ in range(30)}
        assert answers == {(number | 0x80000000).to_bytes(4, "big") + b"Q%d" % number for number in range(600)}
        socket.close()
        assert sum(each.result(BOUND) for each in serving) == 600
