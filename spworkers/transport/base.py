"""The interface of a transport: addresses, acceptors and links.

A transport turns an address into connected byte streams and knows nothing of SP: the handshake, the frames and
the protocol come on top of its links (`handshake.py`, `frames.py`, the hub). The built-in transports and those
of `register_transport` implement the same three classes:

* `Transport`: one object per scheme; parses addresses, dials them, listens on them;
* `Acceptor`: a bound, listening endpoint; hands out one `Link` per accepted connection;
* `Link`: one connected, non-blocking stream socket, before its SP handshake.

Everything runs on the event loop of the I/O process, and everything may be cancelled at any `await`: a cancelled
`dial`, `listen` or `accept` leaves no descriptor behind.
"""

from __future__ import annotations

import abc
import asyncio
import dataclasses
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from spworkers.errors import BadAddrError, BadOptionError
from spworkers.ring import IPC, STREAM, FrameReader, FrameWriter, Record

if TYPE_CHECKING:
    from spworkers.transport.handshake import Handshake

Framing = Literal["stream", "ipc", "shm", "ws"]
Place = Literal["dialer", "listener", "pipe"]
Options = Mapping[str, object]
"""Option values by canonical name, as the hub keeps them: a transport reads them when it needs them, so that a
change takes effect on the next connection. What is missing has the default of this layer."""


class Bell(Protocol):
    """What a link's descriptor tells, where that is only that something has changed elsewhere, in shared memory."""

    def hush(self) -> None:
        """The descriptor was readable: take note of what it tells. Reader and writer are asked then."""

    def rest(self) -> None:
        """Nothing is read for a while: the other side is told how far we are, if it wants to know."""


class Reader(Protocol):
    """Takes messages out of a link's bytes. `FrameReader` is one; a transport whose bytes are no plain frames has its
    own."""

    @property
    def more(self) -> int:
        """What to do after a read, or before the first one. 0: wait for the descriptor. 1: read (again), there may be
        more. 2: nothing more is read, for the peer has closed, or `error` says what was wrong. 3: as 1, and have the
        writer flushed before: the reader has something to answer."""

    @property
    def got(self) -> int:
        """Bytes of the last read."""

    @property
    def error(self) -> Exception | None:
        """What was wrong with the bytes after the last good message; TooLongError where one exceeded the limit."""

    @property
    def frames(self) -> int:
        """Messages so far."""

    @property
    def received(self) -> int:
        """Bytes so far."""

    def read(self) -> list[bytes]:
        """The messages that are complete now; it never waits. OSError: the connection failed."""


class Writer(Protocol):
    """Makes a link's bytes of messages. `FrameWriter` is one."""

    @property
    def queued(self) -> int:
        """Messages that the kernel has not accepted whole."""

    @property
    def frames(self) -> int:
        """Messages that it has."""

    @property
    def sent(self) -> int:
        """Bytes that it has."""

    def push_record(self, prefix: bytes, record: Record, skip: int = ...) -> int:
        """Queue `prefix` and a record's payload without its first `skip` bytes. The record is retained until the
        kernel has accepted the message's last byte. Returns the bytes that wait."""

    def push_bytes(self, payload: bytes) -> int:
        """Queue a message. Returns the bytes that wait."""

    def flush(self) -> bool:
        """Write what the kernel takes. False: call again when the descriptor is writable. OSError: it failed."""

    def discard(self) -> int:
        """The pipe is gone: release every record that is still here. Returns how many messages those were."""


@dataclasses.dataclass(frozen=True)
class Address:
    """A parsed address. Transports subclass it for the parts that they need.

    Attributes:
        url: the address as it was given.
    """

    url: str

    def __str__(self) -> str:
        return self.url


class Link:
    """A connected stream whose SP handshake has not happened yet.

    What is particular to a transport after that, it says by overriding these methods: how hands are shaken, how
    messages become bytes, how a connection ends.

    Attributes:
        sock: the non-blocking socket; it belongs to the link until the hub takes it over.
        framing: how messages are framed on it: `"stream"` (tcp and its like), `"ipc"`, or `"shm"` and `"ws"`, whose
            links read and write for themselves.
        local: our end's address as text (`LOCAL-ADDR`), such as `127.0.0.1:5555` or `/run/x.sock`; may be empty.
        remote: the other end's (`REMOTE-ADDR`).
        properties: further pipe options by name (`PEER-PID` …), complete after `shake`. Of what msgpack carries: they
            cross to the user's process.
    """

    __slots__ = ("__weakref__", "framing", "local", "properties", "remote", "sock")

    def __init__(
        self,
        sock: socket.socket,
        framing: Framing,
        *,
        local: str = "",
        remote: str = "",
        properties: dict[str, object] | None = None,
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.framing: Framing = framing
        self.local = local
        self.remote = remote
        self.properties: dict[str, object] = {} if properties is None else properties

    def close(self) -> None:
        """Close the socket. Harmless when it is closed already."""
        self.sock.close()

    async def shake(self, loop: asyncio.AbstractEventLoop, handshake: Handshake) -> None:
        """Shake hands, however long it takes; see `handshake.shake`, which calls this within HANDSHAKE-TIMEOUT.

        Raises:
            BadHeaderError, BadVersionError, BadProtoError, ConnResetError: as `handshake.shake`.
            OSError: the connection failed.
        """
        from spworkers.transport.handshake import exchange

        await exchange(loop, self.sock, handshake, self.remote)

    def missing(self, handshake: Handshake) -> str:
        """What `shake` still waits for, in words that can precede "after 10 s"."""
        return f"{handshake.missing} of {len(handshake.greeting)} bytes missing"

    @property
    def bell(self) -> Bell | None:
        """For a link whose messages do not go through its socket: what the socket tells instead. It is polled for being
        readable then, whether we wait for messages or for room."""
        return None

    def reader(self, max_size: int) -> Reader:
        """What reads this link's messages, after its handshake.

        Args:
            max_size: bytes of the longest message, 0 for any (MAX-RCV-SIZE).
        """
        return FrameReader(self.sock.fileno(), self._framing, max_size)

    def writer(self) -> Writer:
        """What writes them; asked for after `reader`."""
        return FrameWriter(self.sock.fileno(), self._framing)

    @property
    def _framing(self) -> int:
        return IPC if self.framing == "ipc" else STREAM

    async def admit(self, loop: asyncio.AbstractEventLoop) -> None:
        """The user's hook, if there is one, has nothing against this link: say so to a peer that waits for it.

        Raises:
            OSError: the connection failed.
        """

    def decline(self, status: int, reason: str) -> None:
        """The hook is against it, and would have the peer told why, if the transport can; `refuse` comes next."""

    def hang_up(self) -> None:
        """The pipe is lost, and the hub watches the descriptor no more: close the connection now or soon."""
        self.close()

    def refuse(self) -> None:
        """The hub does not want this link as a pipe: close it now or soon."""
        self.close()

    async def part(self, loop: asyncio.AbstractEventLoop) -> None:
        """The socket is closed, and everything was written: say so to the peer, and wait until it has hung up.

        SHUT_WR, then reading to end-of-file: a close with unread bytes would reset, and discard what was sent.
        """
        self.sock.shutdown(socket.SHUT_WR)
        while await loop.sock_recv(self.sock, 65536):
            pass

    def __repr__(self) -> str:
        state = "closed" if self.sock.fileno() < 0 else f"fd {self.sock.fileno()}"
        return f"<{type(self).__name__} {self.framing} {self.local or '-'} <-> {self.remote or '-'}: {state}>"


class Acceptor(abc.ABC):
    """A bound and listening endpoint."""

    @property
    @abc.abstractmethod
    def address(self) -> str:
        """The bound address: a well-formed URL that can be dialled."""

    @abc.abstractmethod
    def fileno(self) -> int:
        """The listening descriptor, for the supervisor to keep; -1 when there is none, or after `close`."""

    @abc.abstractmethod
    async def accept(self) -> Link:
        """Wait for the next connection.

        Raises:
            ClosedError: the acceptor was closed, also while this call waited.
            SPError: accepting failed; the acceptor still stands, and a later call may succeed.
        """

    @abc.abstractmethod
    def close(self, unlink: bool = True) -> None:
        """Let go of the endpoint; a waiting `accept` ends with ClosedError. Harmless when it is closed already.

        Args:
            unlink: True: the endpoint ends; whoever else holds a duplicate of the descriptor accepts no more, and
                a file that it owns goes. False: only our descriptor is closed, for another process goes on with
                its duplicate.
        """

    def __repr__(self) -> str:
        state = "closed" if self.fileno() < 0 else "listening"
        return f"<{type(self).__name__} {self.address}: {state}>"


class Transport(abc.ABC):
    """All that is particular to one scheme. One object serves all endpoints of its scheme.

    Attributes:
        scheme: what stands before `://`.
        dialer_options, listener_options, pipe_options: the transport's own options, by the place where they can be
            used. The options that every dialer has (`RECONNECT-TIME` …) are not among them.
    """

    dialer_options: ClassVar[frozenset[str]] = frozenset()
    listener_options: ClassVar[frozenset[str]] = frozenset()
    pipe_options: ClassVar[frozenset[str]] = frozenset({"LOCAL-ADDR", "REMOTE-ADDR"})

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme

    @abc.abstractmethod
    def parse(self, address: str) -> Address:
        """Take an address of this scheme apart, without touching the network.

        Raises:
            BadAddrError: it is malformed; the message says in what.
        """

    @abc.abstractmethod
    async def dial(self, address: Address, options: Options) -> Link:
        """Connect to an address. It takes as long as it takes: the caller sets the limit and cancels.

        Raises:
            ConnRefusedError: nobody listens there.
            BadAddrError: it cannot be dialled (a wildcard, an unknown name).
            SPError: the system refused for another reason, which is the `__cause__`.
        """

    @abc.abstractmethod
    async def listen(self, address: Address, options: Options, inherited: int | None = None) -> Acceptor:
        """Bind an address and listen on it.

        Args:
            address: what `parse` made of the address.
            options: live option values of the listener.
            inherited: a listening descriptor of a predecessor, which now belongs to the acceptor, also when this
                call fails; connections that wait in its backlog are accepted.

        Raises:
            AddrInUseError: somebody else listens there.
            BadAddrError: it cannot be bound (not an address of this machine, say).
            SPError: the system refused for another reason, which is the `__cause__`.
        """

    def check_option(self, name: str, place: Place) -> None:
        """Whether this transport has an option of its own of that name.

        Raises:
            BadOptionError: it has not; the nearest name is in the message.
        """
        known: frozenset[str] = getattr(self, f"{place}_options")
        if name in known:
            return
        import difflib  # which only a mistake has to wait for

        nearest = difflib.get_close_matches(name, sorted(known), n=3)
        if nearest:
            hint = f"did you mean {' or '.join(nearest)}?"
        else:
            hint = f"it has {', '.join(sorted(known))}" if known else "it has none of its own"
        raise BadOptionError(f"{name}: not an option of {self.scheme}:// at a {place}; {hint}", name, nearest)

    def rest_of(self, address: str) -> str:
        """What follows `scheme://`.

        Raises:
            BadAddrError: the address has another scheme.
        """
        prefix = f"{self.scheme}://"
        if not address.startswith(prefix):
            raise BadAddrError(f"{address!r}: an address of this transport starts with {prefix}")
        return address[len(prefix) :]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.scheme}://>"


def flag(options: Options, name: str, default: bool) -> bool:
    """A boolean option's present value."""
    value = options.get(name)
    return default if value is None else bool(value)


def seconds(options: Options, name: str, default: float) -> float:
    """A duration's present value, in seconds. None counts as 0, as in every duration option."""
    value = options.get(name, default)
    return float(value) if isinstance(value, (int, float)) else 0.0


def whole(options: Options, name: str) -> int | None:
    """An integer option's present value; None when it was not set."""
    value = options.get(name)
    return value if isinstance(value, int) else None
