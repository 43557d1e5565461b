"""`ipc://`, `unix://` and `abstract://`: files, their owners and modes, stale ones, credentials."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
import sys
from pathlib import Path

import pytest
from transport.support import Client, connect, on_loops, turns

from spworkers.errors import (
    AccessDeniedError,
    AddrInUseError,
    BadAddrError,
    BadOptionError,
    BadValueError,
    ClosedError,
    ConnRefusedError,
    SPError,
)
from spworkers.transport import ipc
from spworkers.transport.acceptor import SocketAcceptor
from spworkers.transport.ipc import LONGEST_PATH, IpcTransport

IPC = IpcTransport("ipc")
UNIX = IpcTransport("unix")
ABSTRACT = IpcTransport("abstract")

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has abstract names")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


async def listen(address: str, transport: IpcTransport = IPC, **options: object) -> SocketAcceptor:
    acceptor = await transport.listen(transport.parse(address), options)
    assert isinstance(acceptor, SocketAcceptor)
    return acceptor


def permissions(**options: int) -> dict[str, object]:
    return {f"UNIX-IPC-{name}": value for name, value in options.items()}


def dead_socket(path: Path, kind: int = socket.SOCK_STREAM) -> None:
    """A socket file that nobody has open."""
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.bind(str(path))


# --- Addresses


def test_paths_are_taken_literally() -> None:
    for path in ("/run/x.sock", "relative/x", "./x", "a b", "%41", "ü", "~", "x@y", "?#"):
        parsed = IPC.parse(f"ipc://{path}")
        assert (parsed.path, parsed.name, parsed.sockaddr) == (path, None, path)
    assert UNIX.parse("unix:///x").path == "/x"


@on_linux
def test_abstract_names() -> None:
    assert IPC.parse("ipc://@name").sockaddr == b"\0name"
    assert IPC.parse("ipc://@%41").sockaddr == b"\0%41"
    assert UNIX.parse("unix://@name").sockaddr == b"\0name"
    assert ABSTRACT.parse("abstract://name").sockaddr == b"\0name"
    assert ABSTRACT.parse("abstract://@a%00b/%ff").sockaddr == b"\0@a\0b/\xff"
    assert ABSTRACT.parse("abstract://").sockaddr == b""


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("ipc://", "no path"),
        ("ipc://a\0b", "zero byte"),
        ("ipc://\ud800", "cannot be encoded"),
        (f"ipc://{'x' * (LONGEST_PATH + 1)}", f"{LONGEST_PATH + 1} bytes; {LONGEST_PATH} is the most"),
        (f"ipc://{'ü' * (LONGEST_PATH // 2 + 1)}", f"{LONGEST_PATH} is the most"),
        pytest.param(f"ipc://@{'x' * (LONGEST_PATH + 1)}", f"{LONGEST_PATH} is the most", marks=on_linux),
    ],
)
def test_bad_addresses(address: str, says: str) -> None:
    with pytest.raises(BadAddrError, match=says):
        IPC.parse(address)


def test_other_systems_have_no_abstract_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipc, "_HAS_ABSTRACT", False)
    for transport, address in ((IPC, "ipc://@x"), (ABSTRACT, "abstract://x")):
        with pytest.raises(BadAddrError, match="only Linux"):
            transport.parse(address)


@on_loops
async def test_the_longest_path_works(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        path = f"/proc/self/fd/{directory}/"  # tmp_path may be long itself
        path += "x" * (LONGEST_PATH - len(path))
        acceptor = await listen(f"ipc://{path}")
        for each in (*await connect(IPC, acceptor.address, acceptor), acceptor):
            each.close()
    finally:
        os.close(directory)


# --- Listening and dialling


@pytest.mark.parametrize("transport", [IPC, UNIX], ids=["ipc", "unix"])
@on_loops
async def test_a_path(transport: IpcTransport, tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    address = f"{transport.scheme}://{path}"
    acceptor = await listen(address, transport)
    assert acceptor.address == address
    assert stat.S_ISSOCK(path.lstat().st_mode)
    ours, theirs = await connect(transport, acceptor.address, acceptor)
    assert ours.framing == theirs.framing == "ipc"
    assert (ours.remote, theirs.local) == (str(path), str(path))
    assert (ours.local, theirs.remote) == ("", "")
    assert not ours.sock.get_inheritable() and not theirs.sock.get_inheritable()
    for each in (ours, theirs, acceptor):
        each.close()
    assert not path.exists()


@on_loops
async def test_a_relative_path(tmp_path: Path) -> None:
    former = os.getcwd()
    os.chdir(tmp_path)
    try:
        acceptor = await listen("ipc://x.sock")
        assert acceptor.address == "ipc://x.sock"
        for link in await connect(IPC, "ipc://x.sock", acceptor):
            link.close()
        os.chdir(former)
        acceptor.close()  # it knows where its file is
        assert not (tmp_path / "x.sock").exists()
    finally:
        os.chdir(former)


@on_linux
@pytest.mark.parametrize(
    ("transport", "template"), [(IPC, "ipc://@{}"), (UNIX, "unix://@{}"), (ABSTRACT, "abstract://{}")]
)
@on_loops
async def test_an_abstract_name(transport: IpcTransport, template: str) -> None:
    address = template.format(f"spworkers-test-{os.getpid()}")
    acceptor = await listen(address, transport)
    assert acceptor.address == address
    with pytest.raises(AddrInUseError):
        await listen(address, transport)
    ours, theirs = await connect(transport, address, acceptor)
    assert ours.remote == theirs.local == f"@spworkers-test-{os.getpid()}"
    for each in (ours, theirs, acceptor):
        each.close()
    with pytest.raises(ConnRefusedError):
        await transport.dial(transport.parse(address), {})


@on_linux
@pytest.mark.parametrize(("transport", "address"), [(IPC, "ipc://@"), (ABSTRACT, "abstract://")])
@on_loops
async def test_the_kernel_chooses_a_name(transport: IpcTransport, address: str) -> None:
    acceptor = await listen(address, transport)
    assert acceptor.address.startswith(address) and len(acceptor.address) > len(address)
    for each in (*await connect(transport, acceptor.address, acceptor), acceptor):
        each.close()
    with pytest.raises(ConnRefusedError, match="empty name"):
        await transport.dial(transport.parse(address), {})


@on_loops
async def test_nobody_listens_there(tmp_path: Path) -> None:
    dead_socket(tmp_path / "dead")
    dead_socket(tmp_path / "datagrams", socket.SOCK_DGRAM)
    (tmp_path / "file").touch()
    for name in ("missing", "dead", "datagrams", "file"):
        address = f"ipc://{tmp_path / name}"
        with pytest.raises(ConnRefusedError, match=f"dial {address}: ") as caught:
            await IPC.dial(IPC.parse(address), {})
        assert isinstance(caught.value.__cause__, OSError)


@on_loops
async def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadAddrError, match="No such file"):
        await listen(f"ipc://{tmp_path}/missing/x")


@on_linux
@on_loops
async def test_a_full_backlog_is_waited_for(tmp_path: Path) -> None:
    """Linux has no event for this: it says EAGAIN, and calls the socket writable."""
    path = str(tmp_path / "x")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(path)
        server.listen(0)
        for _ in range(3):
            crowd = stack.enter_context(socket.socket(socket.AF_UNIX))
            crowd.setblocking(False)
            crowd.connect_ex(path)
        dialing = asyncio.ensure_future(IPC.dial(IPC.parse(f"ipc://{path}"), {}))
        await turns()
        assert not dialing.done()
        server.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                server.accept()[0].close()
        link = await dialing
        server.accept()[0].close()  # it is really connected
        link.close()


@on_linux
@on_loops
async def test_a_dial_at_a_full_backlog_can_be_cancelled(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(path)
        server.listen(0)
        for _ in range(3):
            crowd = stack.enter_context(socket.socket(socket.AF_UNIX))
            crowd.setblocking(False)
            crowd.connect_ex(path)
        dialing = asyncio.ensure_future(IPC.dial(IPC.parse(f"ipc://{path}"), {}))
        await turns()
        dialing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialing


class InProgress:
    """A socket whose connect is under way, as on systems that have that for unix sockets."""

    def __init__(self, sock: socket.socket, result: int) -> None:
        self._sock = sock
        self._result = result

    def connect_ex(self, _: object) -> int:
        return errno.EINPROGRESS

    def getsockopt(self, *_: int) -> int:
        return self._result

    def fileno(self) -> int:
        return self._sock.fileno()


@on_loops
async def test_a_connect_that_takes_its_time() -> None:
    one, other = socket.socketpair()
    with one, other:
        await ipc._connect(InProgress(one, 0), "x")  # type: ignore[arg-type]
        with pytest.raises(ConnectionRefusedError):
            await ipc._connect(InProgress(one, errno.ECONNREFUSED), "x")  # type: ignore[arg-type]


# --- Files that are there already


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@on_loops
async def test_a_stale_socket_is_replaced(kind: int, tmp_path: Path) -> None:
    path = tmp_path / "x"
    dead_socket(path, kind)
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr(ipc._log, "info", lambda text, *given: said.append(text % given))
        acceptor = await listen(f"ipc://{path}")
    assert said == [f"listen ipc://{path}: replaces the socket file of a listener that has died"]
    for each in (*await connect(IPC, acceptor.address, acceptor), acceptor):
        each.close()


@on_loops
async def test_a_living_socket_is_not_touched(tmp_path: Path) -> None:
    acceptor = await listen(f"ipc://{tmp_path / 'x'}")
    with pytest.raises(AddrInUseError, match="address already in use; choose another path"):
        await listen(f"ipc://{tmp_path / 'x'}")
    (await acceptor.accept()).close()  # the question whether it lives
    for each in (*await connect(IPC, acceptor.address, acceptor), acceptor):
        each.close()


@on_loops
async def test_a_living_socket_of_datagrams_is_not_touched(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "x"))
        with pytest.raises(AddrInUseError):
            await listen(f"ipc://{tmp_path / 'x'}")
    assert (tmp_path / "x").exists()


@on_loops
async def test_other_files_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "directory").mkdir()
    dead_socket(tmp_path / "dead")
    (tmp_path / "link").symlink_to("dead")
    (tmp_path / "astray").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nothing")
    words = {
        "file": "a file that is no socket",
        "directory": "that is a directory",
        "link": "already in use",
        "astray": "a link to no socket",
        "dangling": "a link that leads nowhere",
    }
    for name, said in words.items():
        with pytest.raises(AddrInUseError, match=said):
            await listen(f"ipc://{tmp_path / name}")
    with pytest.raises(ConnRefusedError, match="that is a directory"):
        await IPC.dial(IPC.parse(f"ipc://{tmp_path / 'directory'}"), {})
    assert (tmp_path / "file").read_text() == "precious"
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "dead").exists()


@on_loops
async def test_a_listener_that_is_just_starting_is_not_stale(tmp_path: Path) -> None:
    """Between its bind and its listen it refuses, as a dead one does."""
    path = tmp_path / "x"
    with socket.socket(socket.AF_UNIX) as starting:
        starting.bind(str(path))
        ours = asyncio.ensure_future(listen(f"ipc://{path}"))
        await turns()
        starting.listen()
        with pytest.raises(AddrInUseError):
            await ours
        assert path.exists()


@on_loops
async def test_another_one_that_replaced_the_stale_file_first_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "x"
    dead_socket(path)
    ours = asyncio.ensure_future(listen(f"ipc://{path}"))
    await turns()
    path.unlink()
    dead_socket(path)  # not listening yet; its inode may well have the old one's number
    with pytest.raises(AddrInUseError):
        await ours
    assert path.exists()


@on_loops
async def test_a_stale_file_that_goes_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "x"
    dead_socket(path)
    real = os.unlink

    def second(_: str) -> None:
        for _ in range(2):  # somebody else was faster
            real(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ipc.os, "unlink", second)
        acceptor = await listen(f"ipc://{path}")
    acceptor.close()


@on_loops
async def test_files_that_come_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "x"
    dead_socket(path)

    real = os.unlink

    def stubborn(_: str) -> None:
        real(path)
        dead_socket(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ipc.os, "unlink", stubborn)
        patch.setattr(ipc, "STALE_AFTER", 0)
        with pytest.raises(AddrInUseError, match="by turns"):
            await listen(f"ipc://{path}")


@on_loops
async def test_close_leaves_the_file_of_another(tmp_path: Path) -> None:
    path = tmp_path / "x"
    first = await listen(f"ipc://{path}")
    path.unlink()
    second = await listen(f"ipc://{path}")
    first.close()
    for each in (*await connect(IPC, second.address, second), second):
        each.close()
    assert not path.exists()


@on_loops
async def test_close_when_the_file_is_gone(tmp_path: Path) -> None:
    acceptor = await listen(f"ipc://{tmp_path / 'x'}")
    (tmp_path / "x").unlink()
    acceptor.close()


@on_loops
async def test_close_ends_a_waiting_accept(tmp_path: Path) -> None:
    acceptor = await listen(f"ipc://{tmp_path / 'x'}")
    waiting = asyncio.ensure_future(acceptor.accept())
    await turns()
    acceptor.close()
    with pytest.raises(ClosedError):
        await waiting


# --- Permissions


@pytest.mark.parametrize("mode", [0o642, 0o600, 0o777, 0o000])
@on_loops
async def test_the_mode_is_exact_whatever_the_umask(mode: int, tmp_path: Path) -> None:
    for umask in (0o022, 0o777):
        former = os.umask(umask)
        try:
            acceptor = await listen(f"ipc://{tmp_path / 'x'}", **permissions(CHMOD=mode))
            assert os.umask(umask) == umask  # as it was
        finally:
            os.umask(former)
        assert stat.S_IMODE((tmp_path / "x").lstat().st_mode) == mode
        acceptor.close()


@on_loops
async def test_without_a_mode_the_umask_decides(tmp_path: Path) -> None:
    former = os.umask(0o027)
    try:
        acceptor = await listen(f"ipc://{tmp_path / 'x'}")
    finally:
        os.umask(former)
    assert stat.S_IMODE((tmp_path / "x").lstat().st_mode) == 0o750
    acceptor.close()


@on_loops
async def test_the_file_is_never_wider_than_asked(tmp_path: Path) -> None:
    """It is looked at before its listen: no chmod comes later that could be too late."""
    modes = []
    real = ipc._unlinker

    def look(path: str) -> object:
        modes.append(stat.S_IMODE(os.lstat(path).st_mode))
        return real(path)

    former = os.umask(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ipc, "_unlinker", look)
        acceptor = await listen(f"ipc://{tmp_path / 'x'}", **permissions(CHMOD=0o600))
    os.umask(former)
    assert modes == [0o600]
    acceptor.close()


@pytest.mark.parametrize("mode", [-1, 0o1000, 0o4755])
@on_loops
async def test_what_is_no_mode(mode: int, tmp_path: Path) -> None:
    with pytest.raises(BadValueError, match="within 0o777"):
        await listen(f"ipc://{tmp_path / 'x'}", **permissions(CHMOD=mode))
    assert not (tmp_path / "x").exists()


@as_root
@on_loops
async def test_owner_and_group(tmp_path: Path) -> None:
    for options in ({"OWNER": 12345, "GROUP": 54321}, {"OWNER": 12345}, {"GROUP": 54321}):
        acceptor = await listen(f"ipc://{tmp_path / 'x'}", **permissions(CHMOD=0o660, **options))
        info = (tmp_path / "x").lstat()
        assert (info.st_uid, info.st_gid) == (options.get("OWNER", 0), options.get("GROUP", os.getegid()))
        assert stat.S_IMODE(info.st_mode) == 0o660
        for each in (*await connect(IPC, acceptor.address, acceptor), acceptor):
            each.close()
        assert not (tmp_path / "x").exists()


@on_loops
async def test_an_owner_that_cannot_be_set_fails_and_leaves_no_file(tmp_path: Path) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ipc.os, "chown", denied)
        with pytest.raises(AccessDeniedError, match="listen ipc://"):
            await listen(f"ipc://{tmp_path / 'x'}", **permissions(OWNER=1))
    assert not (tmp_path / "x").exists()


@on_linux
@on_loops
async def test_an_abstract_name_cannot_be_protected() -> None:
    for options in ({"CHMOD": 0o600}, {"OWNER": 0}, {"GROUP": 0}):
        with pytest.raises(BadOptionError, match="no file"):
            await listen("ipc://@spworkers-test-unprotected", **permissions(**options))


# --- Credentials


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="not told here")
@on_loops
async def test_both_sides_know_who_the_other_is(tmp_path: Path) -> None:
    acceptor = await listen(f"ipc://{tmp_path / 'x'}")
    ours, theirs = await connect(IPC, acceptor.address, acceptor)
    for link in (ours, theirs):
        assert link.properties == {"PEER-PID": os.getpid(), "PEER-UID": os.geteuid(), "PEER-GID": os.getegid()}
        link.close()
    acceptor.close()


# --- A descriptor of a predecessor


@on_loops
async def test_a_successor_goes_on_with_the_listener_and_its_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    options = permissions(CHMOD=0o600)
    first = await listen(f"ipc://{path}", **options)
    kept = os.dup(first.fileno())
    client = await Client.to(str(path), socket.AF_UNIX)
    first.close(unlink=False)
    assert path.exists()
    second = await IPC.listen(IPC.parse(f"ipc://{path}"), options, kept)
    assert second.address == first.address
    (await second.accept()).close()
    client.close()
    for each in (*await connect(IPC, second.address, second), second):
        each.close()
    assert not path.exists()


@on_loops
async def test_a_successor_whose_file_is_gone_leaves_the_next_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "x"
    first = await listen(f"ipc://{path}")
    kept = os.dup(first.fileno())
    first.close(unlink=False)
    path.unlink()
    second = await IPC.listen(IPC.parse(f"ipc://{path}"), {}, kept)
    dead_socket(path)
    second.close()
    assert path.exists()


@on_linux
@on_loops
async def test_a_successor_of_a_name_that_the_kernel_chose() -> None:
    first = await listen("ipc://@")
    kept = os.dup(first.fileno())
    first.close(unlink=False)
    second = await IPC.listen(IPC.parse("ipc://@"), {}, kept)
    assert second.address == first.address
    second.close()


@on_loops
async def test_what_cannot_be_inherited(tmp_path: Path) -> None:
    dead_socket(tmp_path / "x")
    one, other = socket.socketpair()
    with other:
        with pytest.raises(BadValueError, match="no listening socket"):
            await IPC.listen(IPC.parse(f"ipc://{tmp_path / 'x'}"), {}, one.detach())
    with pytest.raises(SPError):
        await IPC.listen(IPC.parse(f"ipc://{tmp_path / 'x'}"), {}, 9999)
    assert (tmp_path / "x").exists()


@on_loops
async def test_a_file_that_is_there_keeps_its_permissions(tmp_path: Path) -> None:
    first = await listen(f"ipc://{tmp_path / 'x'}", **permissions(CHMOD=0o640))
    kept = os.dup(first.fileno())
    first.close(unlink=False)
    second = await IPC.listen(IPC.parse(f"ipc://{tmp_path / 'x'}"), permissions(CHMOD=0o777, OWNER=12345), kept)
    info = (tmp_path / "x").lstat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid) == (0o640, os.geteuid())
    second.close()
