"""Other implementations at both ends of a device of ours."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from interop_peers import Peer, Running, each_peer
from sockets.kit import wait_pipes

import spworkers as sp

pytestmark = [pytest.mark.interop, pytest.mark.parametrize("peer", each_peer())]

AGAIN = ("--interval", "1")
"""nngcat and nanocat send once otherwise, perhaps to nobody."""


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path: a unix socket's may have about a hundred bytes."""
    with tempfile.TemporaryDirectory(prefix="spw") as name:
        yield Path(name)


@contextmanager
def relay(front: Any, back: Any, directory: Path) -> Iterator[tuple[sp.Socket, sp.Socket]]:
    """A device that listens by tcp on one side and by ipc on the other."""
    with front(raw=True, listen="tcp://127.0.0.1:0") as one, back(raw=True, listen=f"ipc://{directory}/s") as other:
        with sp.device(one, other):
            yield one, other


def play(peer: Peer, protocol: str, to: sp.Socket, directory: Path, data: bytes | None, *more: str) -> Running:
    """A peer that dials a socket of the device. `data`: what it sends; None: nothing."""
    file = directory / f"data{data!r}"
    file.write_bytes(data or b"")
    arguments = peer.arguments(protocol, False, to.listeners[0].address, file)
    if data is None:
        del arguments[-2:]
    if protocol in {"push", "pub"}:  # which show nothing, and say so
        arguments.remove("--raw")
    return Running([*arguments, *(() if peer.name == "pynng" else more)])


@pytest.mark.parametrize(
    ("asks", "front", "back", "answers"),
    [("req", sp.Rep, sp.Req, "rep"), ("surveyor", sp.Respondent, sp.Surveyor, "respondent")],
    ids=["req-rep", "survey"],
)
def test_questions_and_answers_pass(
    asks: str, front: Any, back: Any, answers: str, peer: Peer, directory: Path
) -> None:
    with relay(front, back, directory) as (left, right):
        with play(peer, answers, right, directory, b"answer") as answering:
            wait_pipes(right)
            more = AGAIN if asks == "surveyor" else ()
            with play(peer, asks, left, directory, b"question", *more) as asking:
                assert asking.read(6) == b"answer"
                assert answering.read(8) == b"question"


@pytest.mark.parametrize(
    ("sends", "front", "back", "hears"),
    [("push", sp.Pull, sp.Push, "pull"), ("pub", sp.Sub, sp.Pub, "sub")],
    ids=["push-pull", "pub-sub"],
)
def test_one_way(sends: str, front: Any, back: Any, hears: str, peer: Peer, directory: Path) -> None:
    more = AGAIN if sends == "pub" else ()
    with relay(front, back, directory) as (left, right), play(peer, hears, right, directory, None) as hearing:
        wait_pipes(right)
        with play(peer, sends, left, directory, b"sent", *more):
            assert hearing.read(4) == b"sent"


@pytest.mark.parametrize(("protocol", "make"), [("pair", sp.Pair), ("pair1", sp.Pair1), ("bus", sp.Bus)])
def test_both_ways(protocol: str, make: Any, peer: Peer, directory: Path) -> None:
    if (peer.name, protocol) == ("nanocat", "pair1"):
        pytest.skip("nanomsg has no pair1")
    theirs = "pair0" if (peer.name, protocol) == ("nngcat", "pair") else protocol  # there --pair stands for two
    with relay(make, make, directory) as (left, right):
        with play(peer, theirs, right, directory, b"right", *AGAIN) as one:
            wait_pipes(right)
            with play(peer, theirs, left, directory, b"left", *AGAIN) as other:
                assert one.read(4) == b"left"
                if protocol != "bus" or peer.name != "pynng":  # which sends once, and nobody was there on the left
                    assert other.read(5) == b"right"
