"""Tickets: one use, one user, one end; and a claim socket that anybody may throw anything at."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import eventually
from supervising import Remote, open_fds, run_script

from spworkers.errors import (
    AccessDeniedError,
    BadAddrError,
    ConnRefusedError,
    ConnTimeoutError,
    ContextMovedError,
    SupervisorError,
)
from spworkers.packet import Packet, close_fds
from spworkers.supervisor import claims
from spworkers.supervisor.claims import ClaimDesk, claim, remove_address
from spworkers.supervisor.handle import Supervisor
from spworkers.supervisor.loop import Loop
from spworkers.supervisor.tickets import TICKETS_LIMIT, Tickets


@pytest.fixture
def child(sup: Supervisor) -> Remote:
    return Remote(sup, "io")


def leave(sup: Supervisor, blob: bytes = b"blob", fds: tuple[int, ...] = ()) -> tuple[str, bytes]:
    token = secrets.token_bytes(32)
    return sup.ticket("io", token, blob, fds), token


def connect(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(20.0)
    sock.connect(f"\0{address[1:]}" if address.startswith("@") else address)
    return sock


def test_a_ticket_is_of_one_use(sup: Supervisor, child: Remote) -> None:
    read, write = os.pipe()
    address, token = leave(sup, b"facts", (write,))
    os.close(write)
    blob, fds = claim(address, token)
    assert blob == b"facts"
    os.write(fds[0], b"through")
    assert os.read(read, 10) == b"through"
    assert not os.get_inheritable(fds[0])
    close_fds([read, *fds])
    with pytest.raises(ContextMovedError, match="used already, or its socket is closed"):
        claim(address, token)


def test_another_process_may_claim(sup: Supervisor, child: Remote) -> None:
    address, token = leave(sup, b"for you")
    out, _ = run_script(
        """
        import sys
        from spworkers.supervisor.client import claim
        print(claim(sys.argv[1], bytes.fromhex(sys.argv[2])))
        """,
        address,
        token.hex(),
    )
    assert out == "(b'for you', [])\n"


def test_a_big_blob(sup: Supervisor, child: Remote) -> None:
    blob = os.urandom(300_000)
    address, token = leave(sup, blob, (0,) * 250)
    got, fds = claim(address, token)
    assert got == blob
    assert len(fds) == 250
    close_fds(fds)


def test_tickets_end_with_their_child(sup: Supervisor, child: Remote) -> None:
    read, write = os.pipe()
    address, token = leave(sup, fds=(write,))
    os.close(write)
    sup.end("io")
    assert os.read(read, 1) == b""  # nobody has the other end any more
    os.close(read)
    with pytest.raises(ContextMovedError):
        claim(address, token)
    with pytest.raises(SupervisorError, match="no child 'io'"):
        leave(sup)


def test_tickets_outlive_the_process_of_their_child(sup: Supervisor, child: Remote) -> None:
    address, token = leave(sup)
    os.kill(child.pid, 9)
    child.saw("started")
    assert claim(address, token) == (b"blob", [])


def test_a_ticket_may_be_taken_back(sup: Supervisor, child: Remote) -> None:
    address, token = leave(sup)
    sup.drop_ticket(token)
    sup.drop_ticket(token)
    with pytest.raises(ContextMovedError):
        claim(address, token)


def test_one_ticket_a_token(sup: Supervisor, child: Remote) -> None:
    _, token = leave(sup)
    with pytest.raises(SupervisorError, match="exists already"):
        sup.ticket("io", token, b"")


def test_nobody_has_the_ticket_any_more(sup: Supervisor, child: Remote) -> None:
    address, token = leave(sup)
    sup.close()
    with pytest.raises(ConnRefusedError):
        claim(address, token)


def test_an_address_is_an_address() -> None:
    with pytest.raises(BadAddrError, match="neither an abstract name"):
        claim("somewhere", bytes(32))


def test_one_of_many_gets_it(sup: Supervisor, child: Remote) -> None:
    address, token = leave(sup)
    results: list[object] = []

    def run() -> None:
        try:
            results.append(claim(address, token))
        except ContextMovedError:
            results.append(None)

    threads = [threading.Thread(target=run) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results, key=str) == [(b"blob", []), *[None] * 9]


GARBAGE = [
    b"",
    b"\xc1",
    b"\0" * 100_000,
    os.urandom(4000),
    Packet({"t": "drop", "name": "x"}).data,
    Packet({"t": "claim", "id": 1, "token": bytes(32)}).data[:-1],
    Packet({"t": "claim", "id": 1, "token": bytes(32)}).data + b"\xc0",
    b"\x84\xa1v\x01\xa1t\xa5claim\xa2id\x01\xa5token\xc4\x05short",
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_hung_up_on(
    sup: Supervisor, child: Remote, garbage: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    address, token = leave(sup)
    before = open_fds(sup.pid)
    with connect(address) as sock:
        try:
            sock.sendall(garbage)
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(100) == b""
        except (BrokenPipeError, ConnectionResetError):
            pass  # hung up before it had heard everything
    eventually(lambda: open_fds(sup.pid) == before)
    assert claim(address, token) == (b"blob", [])
    assert not capfd.readouterr().err


def test_descriptors_in_a_claim_are_closed(sup: Supervisor, child: Remote) -> None:
    address, _ = leave(sup)
    before = open_fds(sup.pid)
    with connect(address) as sock:
        socket.send_fds(sock, [b"x"], [0] * 200)
        assert sock.recv(100) == b""
    eventually(lambda: open_fds(sup.pid) == before)


def test_who_says_nothing_hinders_nobody(sup: Supervisor, child: Remote) -> None:
    address, token = leave(sup)
    silent = [connect(address) for _ in range(10)]
    assert claim(address, token) == (b"blob", [])
    for sock in silent:
        sock.close()


@pytest.fixture
def loop() -> Iterator[Loop]:
    yield Loop()


def step(loop: Loop) -> None:
    loop.after(0.0, lambda: None)
    loop.step()


def redeem(token: bytes) -> tuple[bytes, list[int]]:
    return token[::-1], []


class Desk:
    """A desk in a loop that a thread steps."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.desk = ClaimDesk(self.loop, redeem, lambda tell: tell({"pid": os.getpid(), "children": []}))
        self._over = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over:
            self.loop.after(0.01, lambda: None)
            self.loop.step()

    def close(self) -> None:
        self._over = True
        self._thread.join()
        self.desk.close()


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.close()


def test_another_user_is_hung_up_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_peer_uid", lambda sock: os.geteuid() + 1)
    with pytest.raises(AccessDeniedError, match="another user"):
        claim(desk.desk.address, bytes(32))


def test_other_users_take_no_places(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a backlog that they have filled turn anybody away: a claimer waits for its turn."""
    ours, strangers = claims._peer_uid, iter(range(200))
    monkeypatch.setattr(claims, "_peer_uid", lambda sock: ours(sock) + (next(strangers, None) is not None))
    with contextlib.ExitStack() as silent:
        for _ in range(200):  # of whom the desk would let 64 stay, and the backlog hold as many
            sock = silent.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            sock.settimeout(20.0)
            claims._connect(sock, claims._sockaddr(desk.desk.address), time.monotonic() + 20.0)
        assert claim(desk.desk.address, bytes(31) + b"x") == (b"x" + bytes(31), [])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_is_hung_up_on_for_real(desk: Desk) -> None:
    script = """
import os, sys
from spworkers.supervisor.claims import claim
os.setuid(65534)
try:
    claim(sys.argv[1], bytes(32))
except Exception as error:
    print(type(error).__name__)
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script, desk.desk.address], env=env, capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "AccessDeniedError\n", done.stderr


def test_a_claimer_has_little_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "PATIENCE", 0.05)
    with connect(desk.desk.address) as sock:
        assert sock.recv(1) == b""


def test_so_many_claimers_at_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "CONNECTIONS_LIMIT", 3)
    silent = [connect(desk.desk.address) for _ in range(3)]
    eventually(lambda: len(desk.desk._claimers) == 3)
    with pytest.raises(ConnTimeoutError):
        claim(desk.desk.address, bytes(32), timeout=0.2)
    silent.pop().close()
    assert claim(desk.desk.address, bytes(31) + b"x") == (b"x" + bytes(31), [])
    for sock in silent:
        sock.close()


def test_without_abstract_names_it_has_a_directory_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(claims, "ABSTRACT", False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    desk = Desk()
    path = Path(desk.desk.address)
    assert path.parent.parent == tmp_path
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert claim(str(path), bytes(32)) == (bytes(32), [])
    desk.close()
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConnRefusedError):
        claim(str(path), bytes(32))


def test_what_a_killed_supervisor_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "claim").touch()
    remove_address(str(tmp_path / "dir" / "claim"))
    remove_address(str(tmp_path / "dir" / "claim"))
    remove_address("@abstract")
    remove_address("")
    assert not list(tmp_path.iterdir())


def test_tickets_are_bounded() -> None:
    tickets = Tickets()
    for number in range(TICKETS_LIMIT):
        tickets.put(number.to_bytes(32, "big"), "key", b"", [])
    read, write = os.pipe()
    with pytest.raises(Exception, match="claim or drop some"):
        tickets.put(b"x" * 32, "key", b"", [write])
    assert os.read(read, 1) == b""  # it was closed
    os.close(read)
    tickets.forget("key")
    assert repr(tickets) == "<Tickets: 0 unclaimed>"
