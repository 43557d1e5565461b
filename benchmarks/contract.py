"""What a peer has to offer to take part: for each case a server, a client, and a sentence on how it does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

PAYLOAD = b"0123456789abcdef"  # 16 bytes: what is measured is the path, not the copy
IN_FLIGHT = 16
BUNDLE = 64  # messages between two looks at the clock
SUBSCRIBERS = 4

SIZES = {"16": 16, "1k": 1 << 10, "64k": 1 << 16, "1m": 1 << 20}
"""Bytes of a message, by the end of the case's name."""

Announce = Callable[[str], None]
Step = Callable[[], int]
"""Does some work and returns how many messages were answered in it."""


@dataclass(frozen=True)
class Form:
    """How one peer plays one case.

    `serve(announce)` listens on a free port of 127.0.0.1, calls `announce(address)` and answers until it is killed.
    `client(address)` connects and gives the step that is repeated; leaving the context ends whatever was started.
    """

    how: str
    serve: Callable[[Announce], None]
    client: Callable[[str], AbstractContextManager[Step]]


@dataclass(frozen=True)
class Case:
    """One thing that is measured. `latency`: time of each step, smaller is better; otherwise messages per second.

    `without`: peers that cannot play it, and why. `handlers`: calls of a function in one of 2 worker processes.
    """

    name: str
    about: str
    latency: bool = False
    without: Mapping[str, str] = field(default_factory=dict)
    handlers: bool = False

    def lacks(self, peer: str) -> str | None:
        """Why a peer does not play it, or None."""
        if self.handlers and peer in ("pynng", "sockets"):
            return "it has no handlers, nor a worker pool of its own"
        if not self.handlers and peer == "zero":
            return "it has handlers only"
        return self.without.get(peer)

    @property
    def unit(self) -> str:
        return "µs" if self.latency else "msg/s"


CASES = {
    case.name: case
    for case in (
        Case(
            "reqrep_roundtrip",
            "REQ/REP over tcp, 16 bytes, one request at a time: the time from send to the reply (p50, p99)",
            latency=True,
        ),
        Case("inflight16_raw", "raw REQ to raw REP over tcp, 16 bytes, one client thread keeps 16 requests in flight"),
        Case(
            "inflight16_contexts",
            "REQ/REP over tcp, 16 bytes, one thread with 16 contexts, receiving from them in turn",
        ),
        Case(
            "inflight16_polled",
            "the same, but the thread polls the contexts' descriptors and serves those that are readable",
            without={"pynng": "its contexts have no descriptor to poll"},
        ),
        Case("inflight16_threads", "the same with a thread for each of the 16 contexts"),
        Case("inflight16_asyncio", "the same with an asyncio task for each of the 16 contexts"),
        *(
            Case(f"oneway_{name}", f"PUSH to PULL over tcp, {words}, as fast as they go: messages received")
            for name, words in (
                ("16", "16 bytes"),
                ("1k", "1 KiB"),
                ("64k", "64 KiB"),
                ("1m", "1 MiB, bytes in and bytes out"),
            )
        ),
        Case(
            "oneway_1m_views",
            "PUSH to PULL over tcp, 1 MiB, without a copy of the library's own: each peer in its form for that",
            without={"pynng": "it has no such form", "sockets": "it has no such form"},
        ),
        Case(
            "oneway_64k_ipc",
            "PUSH to PULL over ipc, 64 KiB: to compare with the next",
            without=dict.fromkeys(("pyzmq", "pynng", "sockets"), "it has nothing to compare it with"),
        ),
        Case(
            "oneway_64k_shm",
            "the same over shm",
            without=dict.fromkeys(("pyzmq", "pynng", "sockets"), "it has no transport through shared memory"),
        ),
        Case(
            "inside_64k_ipc",
            "PUSH to PULL between two sockets of one process, 64 KiB, over ipc: to compare with the next",
            without=dict.fromkeys(("pyzmq", "pynng", "sockets"), "it has nothing to compare it with"),
        ),
        Case(
            "inside_64k_inproc",
            "the same over inproc",
            without=dict.fromkeys(("pyzmq", "pynng", "sockets"), "there is nothing to compare it with"),
        ),
        Case(
            "pub4",
            "PUB to 4 subscribers in a process over tcp, 16 bytes, 64 at a time, so that none is lost",
            without={"sockets": "it has no such form"},
        ),
        Case(
            "handlers_one",
            "calls of add(2, 3) in one of 2 worker processes over tcp, one at a time: the time of a call (p50, p99)",
            latency=True,
            handlers=True,
        ),
        Case("handlers_inflight16", "the same calls, 16 in flight over one client", handlers=True),
        Case("handlers_inflight16_asyncio", "the same, with 16 tasks of asyncio where there are any", handlers=True),
        Case("handlers_clients16", "the same calls, by 16 client processes with one in flight each", handlers=True),
    )
}
