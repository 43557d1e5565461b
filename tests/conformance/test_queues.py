"""Send queues: how long they are, what a full one does, and what a resize keeps."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from helpers import eventually
from sockets.kit import BOUND, SOON, background, drops, error_of, inproc, wait_blocked, wait_pipes

import spworkers as sp
from conformance.common import Far, name_of
from spworkers import Bus, Pair, Pair1, Pub, Pull, Push, Req, Star, Surveyor


@pytest.mark.parametrize("make", [Pair, Push])
def test_queue_blocks_when_full_and_best_effort_drops(make: Callable[..., sp.Socket]) -> None:
    """B2: only what does not fit is dropped, and it is counted."""
    with make(writeq_len=3) as sock:
        for number in range(3):
            sock.send(b"%d" % number)
        with pytest.raises(sp.SendTimeoutError):
            sock.send(b"x", timeout=SOON)
        sock.best_effort = True
        for _ in range(5):
            sock.send(b"x")
        assert drops(sock) == {"best_effort": 5}
        blocked = None
        sock.best_effort = False
        blocked = background(sock.send, b"x")
        wait_blocked(sock)
        sock.close(linger=0)
        assert isinstance(error_of(blocked), sp.ClosedError)


@pytest.mark.parametrize("make", [Pair, Push])
def test_without_a_queue_a_send_is_handed_to_a_ready_peer(make: Callable[..., sp.Socket]) -> None:
    """B13: mangos' PUSH with WRITEQ-LEN 0 never sends."""
    peer = {Pair: Pair, Push: Pull}[make]  # type: ignore[index]
    with make(writeq_len=0) as sock, peer() as other:
        with pytest.raises(sp.SendTimeoutError):
            sock.send(b"x", timeout=SOON)
        waiting = background(sock.send, b"first", timeout=BOUND)
        wait_blocked(sock)
        other.dial(sock.listen(inproc()).address)
        waiting.result(BOUND)
        for number in range(200):
            sock.send(b"%d" % number, timeout=BOUND)
        assert other.recv(timeout=BOUND) == b"first"
        assert [int(other.recv(timeout=BOUND)) for _ in range(200)] == list(range(200))


@pytest.mark.parametrize("make", [Pair, Push])
def test_a_resize_keeps_what_was_accepted(make: Callable[..., sp.Socket]) -> None:
    """B18."""
    peer = {Pair: Pair, Push: Pull}[make]  # type: ignore[index]
    with make() as sock, peer() as other:
        for number in range(10):
            sock.send(b"%d" % number)
        sock.writeq_len = 3
        other.dial(sock.listen(inproc()).address)
        assert [int(other.recv(timeout=BOUND)) for _ in range(10)] == list(range(10))


def header_of(make: Any, raw: bool) -> bytes:
    """What a raw socket needs in front of a body."""
    return (
        {"Pair1": b"\0\0\0\1", "Star": b"\0\0\0\1", "Surveyor": b"\x80\0\0\1"}.get(make.__name__, b"") if raw else b""
    )


@pytest.mark.parametrize("raw", [False, True], ids=["cooked", "raw"])
@pytest.mark.parametrize("make", [Pair, Pair1, Push])
def test_a_resized_send_queue_keeps_its_ten_messages(make: Any, raw: bool, far: Far) -> None:
    """mangos keeps the first 3 of 10; here what was accepted is kept (B18)."""
    header = header_of(make, raw)
    with make(raw=raw) as sock:
        for number in range(10):
            sock.send_msg(sp.Message(b"%d" % number, header))
        sock.writeq_len = 3
        with pytest.raises(sp.SendTimeoutError):
            sock.send_msg(sp.Message(b"x", header), timeout=SOON)
        peer = far.meet(sock)
        skip = 4 if make is Pair1 else 0
        assert [int(peer.recv()[skip:]) for _ in range(10)] == list(range(10))


@pytest.mark.parametrize("make", [Pair, Push])
def test_a_longer_queue_lets_a_blocked_send_in(make: Any) -> None:
    with make(writeq_len=1, linger=-1) as sock:
        sock.send(b"first")
        waiting = background(sock.send, b"second", timeout=BOUND)
        wait_blocked(sock)
        sock.writeq_len = 2
        waiting.result(BOUND)


@pytest.mark.parametrize("size", [100, 100_000])
@pytest.mark.parametrize("make", [Push, Req], ids=["push", "xreq"])
def test_peers_that_do_not_read_take_no_place_in_the_queue(make: Any, size: int, mock_far: Far) -> None:
    """What a pipe has got is not in the queue any more, whatever its size: or who reads would get nothing."""
    body, header = bytes(size), b"\x80\0\0\1" if make is Req else b""
    with make(raw=True, writeq_len=2, linger=-1) as sock:

        def is_full() -> bool:
            """Whether nobody takes one more; a send that only took too long does not say so."""
            stalled = sock._port.region.ready_pipes == 0
            try:
                sock.send_msg(sp.Message(body, header), timeout=SOON)
            except sp.SendTimeoutError:
                return stalled
            return False

        for _ in range(3):  # one more peer that does not read, until it is full
            mock_far.meet(sock)
            while not is_full():
                pass
        reader = mock_far.meet(sock)
        for _ in range(2):  # what was in the queue
            assert reader.recv() == header + body
        for _ in range(10):
            sock.send_msg(sp.Message(body, header), timeout=BOUND)
            assert reader.recv() == header + body


@pytest.mark.parametrize("make", [Pair, Pair1])
def test_a_pipe_that_closes_with_full_queues_leaves_them_for_the_next(make: Any, mock_far: Far) -> None:
    with make(writeq_len=2, readq_len=2) as sock:
        peer = mock_far.meet(sock)
        skip = 4 if make is Pair1 else 0
        sent = 0
        with pytest.raises(sp.SendTimeoutError):
            for sent in itertools.count():
                sock.send(b"%d" % sent + bytes(1000), timeout=SOON)
        waiting = background(sock.send, b"%d" % sent + bytes(1000), timeout=BOUND)
        wait_blocked(sock)
        peer.close()
        wait_pipes(sock, 0)
        another = mock_far.meet(sock)
        waiting.result(BOUND)
        got: list[int] = []
        while not got or got[-1] < sent:
            got.append(int(another.recv()[skip:].rstrip(b"\0")))
        assert got == list(range(sent + 1 - len(got), sent + 1)), "in order, the last ones"
        # Those of the two in the queue that were on their way to the first peer already are counted.
        assert len(got) + drops(sock).get("unsent", 0) >= 3


FANNING_OUT = [(make, raw) for make in (Bus, Pub, Star, Surveyor) for raw in (False, True)]


@pytest.mark.parametrize(("make", "raw"), FANNING_OUT, ids=[name_of(make, raw) for make, raw in FANNING_OUT])
@pytest.mark.parametrize("peers", ["no peer", "a blocked peer"])
def test_a_hundred_sends_never_block(make: Any, raw: bool, peers: str, mock_far: Far) -> None:
    with make(raw=raw, writeq_len=1, linger=-1) as sock:
        if peers == "a blocked peer":
            mock_far.meet(sock)
        for _ in range(100):
            sock.send_msg(sp.Message(bytes(10_000), header_of(make, raw)), timeout=BOUND)
        cause = "no_peers" if peers == "no peer" else "congested"
        eventually(lambda: drops(sock).get(cause, 0) > 50, BOUND)


@pytest.mark.parametrize(("make", "raw"), FANNING_OUT, ids=[name_of(make, raw) for make, raw in FANNING_OUT])
def test_a_flood_with_no_time_never_fails(make: Any, raw: bool) -> None:
    """There is no peer to wait for, which is what a timeout is about."""
    with make(raw=raw, linger=-1) as sock:
        message = sp.Message(b"x", header_of(make, raw))
        for _ in range(20_000):
            sock.send_msg(message, timeout=0)
