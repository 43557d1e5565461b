"""`shm://`, and the handshake of pipes through shared memory, with peers that have other ideas."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest
from transport.support import PAIR, Client, connect, greeting, on_loops, shake_both

from spworkers.errors import BadHeaderError, BadTranError, ConnResetError, ConnTimeoutError
from spworkers.ring import conduit_memory
from spworkers.transport import Link, shm, transport_for
from spworkers.transport.handshake import Handshake, shake
from spworkers.transport.sharedlink import SHARING
from spworkers.transport.shm import ShmTransport

pytestmark = pytest.mark.skipif(not SHARING, reason="no memory that can be shared safely on this system")

SHM = ShmTransport("shm")
IPC = transport_for("ipc://x")
OFFER = b"\0SHM\0\0\0\2"


async def shaken(link: Link, timeout: float = 10.0) -> None:
    await shake(asyncio.get_running_loop(), link, Handshake(PAIR, PAIR), timeout)


@on_loops
async def test_its_file_and_its_credentials_are_those_of_ipc(tmp_path: Path) -> None:
    path = tmp_path / "x"
    address = SHM.parse(f"shm://{path}")
    acceptor = await SHM.listen(address, {"UNIX-IPC-CHMOD": 0o600})
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    ours, theirs = await connect(SHM, acceptor.address, acceptor)
    await shake_both(ours, theirs)
    for link in (ours, theirs):
        assert link.properties == {"PEER-PID": os.getpid(), "PEER-UID": os.geteuid(), "PEER-GID": os.getegid()}
        link.close()
    acceptor.close()
    assert not path.exists()


def test_a_system_that_cannot_share_memory_safely_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shm, "SHARING", False)
    with pytest.raises(BadTranError, match="use ipc://"):
        SHM.parse("shm:///run/x")


@on_loops
async def test_a_dialer_of_shm_at_a_listener_of_ipc(tmp_path: Path) -> None:
    acceptor = await IPC.listen(IPC.parse(f"ipc://{tmp_path / 'x'}"), {})
    ours, theirs = await connect(SHM, f"shm://{tmp_path / 'x'}", acceptor)

    async def as_ipc() -> None:
        await shaken(theirs)
        reader = theirs.reader(0)
        while reader.more != 2:
            reader.read()
            await asyncio.sleep(0)
        assert reader.error is not None  # the offer is no frame
        theirs.close()

    with pytest.raises(ConnResetError, match="does it listen at ipc://"):
        await asyncio.gather(shaken(ours), as_ipc())
    await asyncio.sleep(0)
    acceptor.close()


@on_loops
async def test_a_dialer_of_ipc_at_a_listener_of_shm(tmp_path: Path) -> None:
    acceptor = await SHM.listen(SHM.parse(f"shm://{tmp_path / 'x'}"), {})
    ours, theirs = await connect(IPC, f"ipc://{tmp_path / 'x'}", acceptor)

    async def as_ipc() -> None:
        await shaken(ours)
        ours.sock.send(b"\1\0\0\0\0\0\0\0\0")

    with pytest.raises(BadHeaderError, match="does it dial ipc://"):
        await asyncio.gather(shaken(theirs), as_ipc())
    ours.close()
    acceptor.close()


def bad_offers() -> list[tuple[bytes, int, str]]:
    return [
        (b"", 0, "closed the connection before it sent memory"),
        (OFFER, 0, "0 descriptors"),
        (OFFER, 3, "3 descriptors"),
        (OFFER, 50, "descriptors"),
        (OFFER[:-1] + b"\1", 1, "0x0053484d00000001"),
        (OFFER[:4], 1, "0x0053484d and 1 descriptors"),
    ]


@pytest.mark.parametrize(("data", "count", "error"), bad_offers())
@on_loops
async def test_offers_that_are_none(data: bytes, count: int, error: str, tmp_path: Path) -> None:
    """The descriptors that came are closed: the fixture of `on_loops` looks for what is left open."""
    acceptor = await SHM.listen(SHM.parse(f"shm://{tmp_path / 'x'}"), {})
    client = await Client.to(str(tmp_path / "x"), socket.AF_UNIX)
    link = await acceptor.accept()
    memory = conduit_memory()
    before = len(os.listdir("/proc/self/fd"))
    await client.send(greeting(PAIR))
    if data:
        socket.send_fds(client.sock, [data], [memory] * count)
    client.sock.shutdown(socket.SHUT_WR)
    with pytest.raises((BadHeaderError, ConnResetError), match=error):
        await shaken(link)
    assert await client.ended()
    assert len(os.listdir("/proc/self/fd")) <= before
    client.close()
    os.close(memory)
    acceptor.close()


@on_loops
async def test_memory_that_its_owner_could_shrink_is_refused_before_it_is_touched(tmp_path: Path) -> None:
    acceptor = await SHM.listen(SHM.parse(f"shm://{tmp_path / 'x'}"), {})
    client = await Client.to(str(tmp_path / "x"), socket.AF_UNIX)
    link = await acceptor.accept()
    memory = os.memfd_create("unsealed")
    os.ftruncate(memory, 65536 + 2 * 262144)
    await client.send(greeting(PAIR))
    socket.send_fds(client.sock, [OFFER], [memory])
    with pytest.raises(BadHeaderError, match="not sealed"):
        await shaken(link)
    os.close(memory)
    client.close()
    acceptor.close()


@on_loops
async def test_a_peer_that_never_says_whether_it_took_the_memory(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "x"))
        server.listen()
        for answer, kind, error in ((b"", ConnTimeoutError, "no answer"), (b"?", BadHeaderError, "answers 0x3f")):
            link = await SHM.dial(SHM.parse(f"shm://{tmp_path / 'x'}"), {})
            sock, _ = server.accept()
            sock.send(greeting(PAIR) + answer)
            with pytest.raises(kind, match=error):
                await shaken(link, 0.05 if not answer else 10.0)
            sock.close()


@on_loops
async def test_a_peer_that_sends_no_memory(tmp_path: Path) -> None:
    acceptor = await SHM.listen(SHM.parse(f"shm://{tmp_path / 'x'}"), {})
    client = await Client.to(str(tmp_path / "x"), socket.AF_UNIX)
    link = await acceptor.accept()
    await client.send(greeting(PAIR))
    with pytest.raises(ConnTimeoutError, match="no shared memory came"):
        await shaken(link, 0.05)
    client.close()
    acceptor.close()
