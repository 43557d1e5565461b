"""The other patterns against other implementations: either side, either end listening, tcp and ipc."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from helpers import eventually
from interop_peers import PATIENCE, Peer, Place, Running, each_peer, place

import spworkers as sp

pytestmark = [
    pytest.mark.interop,
    pytest.mark.parametrize("peer", each_peer()),
    pytest.mark.parametrize("transport", ["tcp", "ipc", "ws"]),
    pytest.mark.parametrize("we", ["listen", "dial"]),
]

OPTIONS: dict[str, Any] = {
    "dial_asynch": True,  # a peer that listens may not be there yet
    "reconnect_time": 0.02,
}
HEARING: dict[str, Any] = {**OPTIONS, "recv_deadline": PATIENCE}


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path: a unix socket's may have about a hundred bytes."""
    with tempfile.TemporaryDirectory(prefix="spw") as name:
        yield Path(name)


@pytest.fixture
def meet(peer: Peer, transport: str, directory: Path) -> Iterator[Place]:
    with place(transport, directory, peer) as where:
        yield where


def start(
    peer: Peer, protocol: str, we: str, where: Place, socket: sp.Socket, directory: Path, data: bytes | None
) -> Running:
    """Bring both ends together: listen here and start a peer that dials, or start one that listens and dial it."""
    file = directory / "data"
    file.write_bytes(data or b"")
    address = socket.listen(where.ours).address if we == "listen" else where.theirs
    arguments = peer.arguments(protocol, we != "listen", address, file)
    if data is None:
        del arguments[-2:]
    if protocol in {"push", "pub"}:  # which shows nothing, and nngcat says so
        arguments.remove("--raw")
    if protocol in {"surveyor", "pub", "bus"} and peer.name != "pynng":
        # pynng's waits for us; the others send before they are connected, in vain, and then again. (A nanocat with no
        # interval asks another nanocat in vain, too.) nngcat knows whole seconds only.
        arguments += ["--interval", "1" if peer.name == "nngcat" else "0.1"]
    running = Running(arguments)
    if we == "dial":
        socket.dial(address)
    return running


def say(socket: sp.Socket, running: Running, body: bytes) -> None:
    """Send again and again until the peer has shown it: who sends to everybody cannot know when somebody listens."""

    def heard() -> bool:
        socket.send(body)
        return running.output.startswith(body)

    eventually(heard, PATIENCE, what=f"{body!r} shown by the peer")


def test_we_push(peer: Peer, we: str, meet: Place, directory: Path) -> None:
    with sp.Push(**OPTIONS) as push, start(peer, "pull", we, meet, push, directory, None) as running:
        for number in range(100):
            push.send(b"%02d" % number)
        assert running.read(200) == b"".join(b"%02d" % number for number in range(100))


def test_we_pull(peer: Peer, we: str, meet: Place, directory: Path) -> None:
    with sp.Pull(**HEARING) as pull, start(peer, "push", we, meet, pull, directory, b"pushed"):
        assert pull.recv() == b"pushed"


def test_we_publish(peer: Peer, we: str, meet: Place, directory: Path) -> None:
    with sp.Pub(**OPTIONS) as pub, start(peer, "sub", we, meet, pub, directory, None) as running:
        say(pub, running, b"published")


def test_we_subscribe_and_talk_to_a_neighbour(peer: Peer, transport: str, we: str, directory: Path) -> None:
    """Two at a time: some peers send their first message in vain, and the next one a second later."""
    folders = [directory / name for name in ("sub", "bus")]
    for folder in folders:
        folder.mkdir()
    with ExitStack() as stack:
        places = [stack.enter_context(place(transport, folder, peer)) for folder in folders]
        sub = stack.enter_context(sp.Sub(subscribe=[b"the"], **HEARING))
        stack.enter_context(start(peer, "pub", we, places[0], sub, folders[0], b"theirs"))
        bus = stack.enter_context(sp.Bus(**HEARING))
        neighbour = stack.enter_context(start(peer, "bus", we, places[1], bus, folders[1], b"theirs"))
        assert bus.recv() == b"theirs"
        say(bus, neighbour, b"ours")
        assert sub.recv() == b"theirs"


def test_we_pair(peer: Peer, we: str, meet: Place, directory: Path) -> None:
    protocol = "pair0" if peer.name == "nngcat" else "pair"  # there --pair stands for two
    with sp.Pair(**HEARING) as pair, start(peer, protocol, we, meet, pair, directory, b"theirs") as running:
        assert pair.recv() == b"theirs"
        say(pair, running, b"ours")


def test_we_survey(peer: Peer, we: str, meet: Place, directory: Path) -> None:
    with sp.Surveyor(survey_time=0, **HEARING) as surveyor:
        with start(peer, "respondent", we, meet, surveyor, directory, b"answer") as running:
            say(surveyor, running, b"who?")
            assert surveyor.recv() == b"answer"


def test_we_respond(peer: Peer, we: str, meet: Place, directory: Path) -> None:
    with sp.Respondent(**HEARING) as respondent:
        # nngcat 1.5 may lock itself up if it is dialled just when a survey of its ends: connected, all of its threads
        # wait for one another, and it never asks again (1 in 40, eight at once on two processors). Then another one is
        # started.
        for patience in (4.0, 4.0, 4.0, PATIENCE) if peer.name == "nngcat" and we == "dial" else (PATIENCE,):
            with start(peer, "surveyor", we, meet, respondent, directory, b"who?") as running:
                try:
                    asked = respondent.recv(timeout=patience)
                except sp.RecvTimeoutError:
                    if patience == PATIENCE:
                        raise
                    respondent.dialers[0].close()
                    continue
                assert asked == b"who?"
                respondent.send(b"answer")
                assert running.read(6) == b"answer"
                return
