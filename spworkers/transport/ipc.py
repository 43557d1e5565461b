"""Unix sockets: `ipc://PATH`, `unix://PATH`; on Linux also the abstract `ipc://@NAME` and `abstract://NAME`.

A path is taken literally, relative or absolute. A socket file that nobody listens on any more is replaced; a living
one, and any other kind of file, is not touched. An abstract name has no file: it goes with its last descriptor. In
`abstract://NAME`, `%XX` stands for any byte, as in nng; an empty name lets the kernel choose one.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import functools
import logging
import os
import socket
import stat
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from typing import TypedDict

from spworkers.errors import (
    AddrInUseError,
    BadAddrError,
    BadOptionError,
    BadValueError,
    ConnRefusedError,
    SPError,
    from_os_error,
)
from spworkers.transport.acceptor import BACKLOG, SocketAcceptor, adopt
from spworkers.transport.base import Acceptor, Address, Link, Options, Transport, whole
from spworkers.transport.peercred import credentials
from spworkers.transport.waiting import writable

_log = logging.getLogger(__name__)

LONGEST_PATH = 107 if sys.platform.startswith("linux") else 103
"""Bytes of a path or abstract name: sun_path of sockaddr_un less its terminating zero."""

STALE_AFTER = 0.1
"""Seconds for which a socket file has to refuse connections before it counts as stale."""

_HAS_ABSTRACT = sys.platform.startswith("linux")
_BIND_TRIES = 3


@dataclasses.dataclass(frozen=True)
class IpcAddress(Address):
    """A path, or an abstract name.

    Attributes:
        path: the file; empty for an abstract name.
        name: the abstract name; None for a path.
    """

    path: str
    name: bytes | None = None

    @property
    def sockaddr(self) -> str | bytes:
        """What bind and connect take. An empty one lets Linux choose an abstract name."""
        if self.name is None:
            return self.path
        return b"\0" + self.name if self.name else b""


class IpcTransport(Transport):
    """Streams over unix sockets."""

    dialer_options = frozenset({"MAX-RCV-SIZE"})
    listener_options = frozenset({"MAX-RCV-SIZE", "UNIX-IPC-CHMOD", "UNIX-IPC-GROUP", "UNIX-IPC-OWNER"})
    pipe_options = Transport.pipe_options | {"PEER-GID", "PEER-PID", "PEER-UID"}

    def parse(self, address: str) -> IpcAddress:
        rest = self.rest_of(address)
        if self.scheme == "abstract":
            return _abstract(address, urllib.parse.unquote_to_bytes(rest))
        try:
            raw = os.fsencode(rest)
        except UnicodeError as error:
            raise BadAddrError(f"{address!r}: the path cannot be encoded: {error}") from error
        if raw.startswith(b"@"):
            return _abstract(address, raw[1:])
        if not raw:
            raise BadAddrError(f"{address!r}: no path; write {self.scheme}:///run/NAME or {self.scheme}://NAME")
        if b"\0" in raw:
            raise BadAddrError(f"{address!r}: a path has no zero byte")
        _check_length(address, raw, "path")
        return IpcAddress(address, rest)

    async def dial(self, address: Address, options: Options) -> Link:
        assert isinstance(address, IpcAddress)
        if address.name == b"":
            raise ConnRefusedError(f"dial {address}: an empty name is for listening (the system chooses one)")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await _connect(sock, address.sockaddr)
            return self._link(sock, True)
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError) and not isinstance(error, SPError):
                if error.errno == errno.ECONNREFUSED and (there := _no_socket(address)):
                    raise ConnRefusedError(
                        f"dial {address}: {there}; dial the socket file that a listener has made"
                    ) from error
                raise from_os_error(error, f"dial {address}") from error
            raise

    async def listen(self, address: Address, options: Options, inherited: int | None = None) -> Acceptor:
        assert isinstance(address, IpcAddress)
        doing = f"listen {address}"
        if inherited is not None:
            # Its file is there, with its mode and its owner. That it is ours no system tells; a predecessor whose file
            # was replaced just before it died leaves us the other one's, and close() would remove that.
            sock = adopt(inherited, (socket.AF_UNIX,), doing)
            return self._acceptor(address, sock, None if address.name is not None else _unlinker(address.path))
        mode, owner, group = _permissions(options, address)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        unlink = None
        try:
            await _bind(sock, address, mode)
            if address.name is None:
                unlink = _unlinker(address.path)
                if (owner, group) != (-1, -1):
                    os.chown(address.path, owner, group, follow_symlinks=False)
            sock.listen(BACKLOG)  # nobody can connect before this
            return self._acceptor(address, sock, unlink)
        except BaseException as error:
            if unlink is not None:
                unlink()
            sock.close()
            if isinstance(error, OSError) and not isinstance(error, SPError):
                raise from_os_error(error, doing) from error
            raise

    def _acceptor(self, address: IpcAddress, sock: socket.socket, unlink: Callable[[], None] | None) -> Acceptor:
        return SocketAcceptor(sock, self._bound(address, sock), functools.partial(self._link, dials=False), unlink)

    def _link(self, sock: socket.socket, dials: bool) -> Link:
        """A link of a connected unix socket.

        Raises:
            OSError: the connection is gone already; the socket is still the caller's.
        """
        return Link(sock, "ipc", **ends_of(sock))

    def _bound(self, address: IpcAddress, sock: socket.socket) -> str:
        if address.name != b"":
            return address.url
        chosen = os.fsdecode(sock.getsockname()[1:])  # five hexadecimal digits: nothing to quote
        return f"{self.scheme}://{'' if self.scheme == 'abstract' else '@'}{chosen}"


def _abstract(address: str, name: bytes) -> IpcAddress:
    if not _HAS_ABSTRACT:
        raise BadAddrError(f"{address!r}: only Linux has abstract names; use a path")
    _check_length(address, name, "name")
    return IpcAddress(address, "", name)


def _check_length(address: str, raw: bytes, what: str) -> None:
    if len(raw) > LONGEST_PATH:
        raise BadAddrError(
            f"{address!r}: this {what} has {len(raw)} bytes; {LONGEST_PATH} is the most that a unix socket takes"
        )


class Ends(TypedDict):
    """What a unix socket tells of its two ends, as a `Link` takes it."""

    local: str
    remote: str
    properties: dict[str, object]


def ends_of(sock: socket.socket) -> Ends:
    """Who is at either end of a connected unix socket.

    Raises:
        OSError: the connection is gone already.
    """
    return {
        "local": _text_of(sock.getsockname()),
        "remote": _text_of(sock.getpeername()),
        "properties": credentials(sock),
    }


def _text_of(sockaddr: str | bytes) -> str:
    if isinstance(sockaddr, bytes):  # an abstract name; what was never bound is an empty one, or an empty path
        return f"@{os.fsdecode(sockaddr[1:])}" if sockaddr else ""
    return sockaddr


async def _connect(sock: socket.socket, sockaddr: str | bytes) -> None:
    """Connect a non-blocking unix socket.

    Linux answers EAGAIN when the listener's backlog is full, and has nothing to wait for then: the socket counts as
    writable, although it is not connected. So the question is put again, at growing distances; the caller's limit
    ends it.
    """
    pause = 0.001
    loop = asyncio.get_running_loop()
    while True:
        number = sock.connect_ex(sockaddr)
        if number == errno.EINPROGRESS:
            await writable(loop, sock.fileno())
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number in (0, errno.EISCONN):
            return
        if number not in (errno.EAGAIN, errno.EINTR):
            raise OSError(number, os.strerror(number))
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.1)


def _permissions(options: Options, address: IpcAddress) -> tuple[int | None, int, int]:
    """Mode, owner and group of the socket file; None and -1 for what was not set."""
    mode, owner, group = (whole(options, f"UNIX-IPC-{name}") for name in ("CHMOD", "OWNER", "GROUP"))
    if mode is not None and not 0 <= mode <= 0o777:
        raise BadValueError(f"listen {address}: UNIX-IPC-CHMOD {mode:#o} is no mode; it takes bits within 0o777")
    if address.name is not None and (mode, owner, group) != (None, None, None):
        raise BadOptionError(
            f"listen {address}: an abstract name has no file, so UNIX-IPC-CHMOD, -OWNER and -GROUP protect nothing; "
            "use a path"
        )
    return mode, -1 if owner is None else owner, -1 if group is None else group


async def _bind(sock: socket.socket, address: IpcAddress, mode: int | None) -> None:
    for _ in range(_BIND_TRIES):
        try:
            with _created_with(mode if address.name is None else None):
                sock.bind(address.sockaddr)
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            if address.name is not None:
                raise _in_use(address, "name") from error
            if there := _no_socket(address):
                raise AddrInUseError(
                    f"listen {address}: {there}; choose the path of a file that is not there"
                ) from error
            if not await _remove_stale(address.path):
                raise _in_use(address, "path") from error
            _log.info("listen %s: replaces the socket file of a listener that has died", address)
    raise AddrInUseError(f"listen {address}: others listen and leave there by turns; choose another path")


def _in_use(address: IpcAddress, what: str) -> AddrInUseError:
    return AddrInUseError(f"listen {address}: address already in use; choose another {what}, or close what has it")


@contextlib.contextmanager
def _created_with(mode: int | None) -> Iterator[None]:
    """The socket file gets its mode at birth, from the umask: never, not even for a moment, has it a wider one.

    The umask belongs to the process, but bind does not wait, and the I/O process has no other thread that makes files.
    """
    if mode is None:
        yield
        return
    former = os.umask(0o777 & ~mode)
    try:
        yield
    finally:
        os.umask(former)


async def _remove_stale(path: str) -> bool:
    """Remove a socket file whose listener is dead.

    A listener that is about to start refuses too, between its bind and its listen; hence the second look, after a
    while, at the same file.

    Returns:
        Whether the path is free now.
    """
    seen = _stamp(path)
    if seen is None or not _refuses(path):
        return False
    await asyncio.sleep(STALE_AFTER)
    if not _refuses(path) or _stamp(path) != seen:
        return False
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return True


def _no_socket(address: IpcAddress) -> str:
    """What is at its path, in words, if that can be nobody's socket."""
    if address.name is not None:
        return ""
    linked = os.path.islink(address.path)
    try:
        mode = os.stat(address.path).st_mode
    except OSError:
        return "there is a link that leads nowhere" if linked else ""
    if stat.S_ISSOCK(mode):
        return ""
    if linked:
        return "there is a link to no socket"
    return "that is a directory" if stat.S_ISDIR(mode) else "there is a file that is no socket"


def _refuses(path: str) -> bool:
    """Whether a connection to a socket file is refused, as it is when nobody has it open. A full backlog is not."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) == errno.ECONNREFUSED


def _stamp(path: str) -> tuple[int, int, int] | None:
    """What tells a socket file from its successor, which may well get the same inode number; None: no socket file."""
    try:
        info = os.lstat(path)
    except OSError:
        return None
    return (info.st_dev, info.st_ino, info.st_ctime_ns) if stat.S_ISSOCK(info.st_mode) else None


def _identity(path: str) -> tuple[int, int] | None:
    """Device and inode of a socket file. As long as its socket is open, no other file gets that number."""
    stamp = _stamp(path)
    return None if stamp is None else stamp[:2]


def _unlinker(path: str) -> Callable[[], None]:
    """Removes the socket file that is there now; also after the working directory has changed."""
    return functools.partial(_unlink, os.path.abspath(path), _identity(path))


def _unlink(path: str, identity: tuple[int, int] | None) -> None:
    """Remove our socket file, unless another one has taken its place."""
    with contextlib.suppress(OSError):
        if identity is not None and _identity(path) == identity:
            os.unlink(path)
