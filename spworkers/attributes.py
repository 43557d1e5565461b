"""Options as attributes of the handles: `socket.recv_deadline = 1.0` is `socket.set_option("RECV-DEADLINE", 1.0)`.

The blocks below are what a type checker and an editor see; a test holds them against the table of `spworkers.options`.
SUBSCRIBE and UNSUBSCRIBE are missing: they can only be set, and are methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar, cast, overload

from spworkers.errors import BadOptionError
from spworkers.options import OPTIONS, Seconds, option_name, places

if TYPE_CHECKING:
    from spworkers.httprequest import HTTPRequest
    from spworkers.tlsconfig import TLSConfig
    from spworkers.tlsstate import TLSState

__all__ = [
    "ContextAttributes",
    "DialerAttributes",
    "ListenerAttributes",
    "PipeAttributes",
    "SocketAttributes",
]

Got = TypeVar("Got")
Put = TypeVar("Put")


class HasOptions(Protocol):
    """What a handle needs for its options to be attributes."""

    def get_option(self, name: str, /) -> Any:
        """The option's value."""

    def set_option(self, name: str, value: Any, /) -> None:
        """Set the option."""


class OptionAttribute(Generic[Got, Put]):
    """A descriptor that reads and sets one option of its handle."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.__doc__ = OPTIONS[name].doc

    @overload
    def __get__(self, handle: None, owner: type[Any]) -> OptionAttribute[Got, Put]: ...
    @overload
    def __get__(self, handle: HasOptions, owner: type[Any]) -> Got: ...
    def __get__(self, handle: HasOptions | None, owner: type[Any]) -> OptionAttribute[Got, Put] | Got:
        return self if handle is None else cast("Got", handle.get_option(self.name))

    def __set__(self, handle: HasOptions, value: Put) -> None:
        handle.set_option(self.name, value)


class Time(OptionAttribute[float, Seconds]):
    """Seconds as float; takes a timedelta too."""


class Flag(OptionAttribute[bool, bool]):
    """True or False."""


class Number(OptionAttribute[int, int]):
    """A whole number."""


class MaybeNumber(OptionAttribute["int | None", "int | None"]):
    """A whole number, or None while it was not set."""


class Headers(OptionAttribute[Mapping[str, str], Mapping[str, str]]):
    """Header fields by name."""


class TLS(OptionAttribute["TLSConfig | str | None", "TLSConfig | Mapping[str, Any] | str | None"]):
    """A TLSConfig, the name of a factory, or None."""


class ReadOnly(OptionAttribute[Got, NoReturn]):
    """What can only be read; an assignment raises BadOptionError."""


class Misplaced:
    """An option of other handles: whoever reads it here is told whose it is."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, handle: object | None, owner: type[Any]) -> NoReturn:
        raise _no_such(owner, self.name)


def _has(kind: type[Any], name: str) -> bool:
    """Whether a handle has this attribute, and not only words for who looks for it there."""
    nearest = next((base.__dict__[name] for base in kind.__mro__ if name in base.__dict__), None)
    return nearest is not None and not isinstance(nearest, Misplaced)


class Attributes:
    """What every handle has: no attribute but those that its class has, so that a misspelt option is an error.

    A user's subclass may have more, by any name that is not an option's. There is no `__getattr__`, which
    would make every access to any attribute slower (a third of a `recv`): what is none at all is Python's own
    AttributeError, which suggests the nearest.
    """

    __slots__ = ()

    if not TYPE_CHECKING:  # a type checker would take these to mean that there is any attribute

        def __setattr__(self, name: str, value: Any) -> None:
            kind = type(self)
            if name[:1] != "_" and not _has(kind, name) and (_is_ours(kind) or option_name(name) in OPTIONS):
                raise _no_such(kind, name)
            if name in _METHODS:
                raise BadOptionError(
                    f"{name} of a {kind.__name__} is a method: call {name}({value!r}) instead of assigning it", name
                )
            object.__setattr__(self, name, value)

        def __dir__(self) -> list[str]:
            kind = type(self)
            return [name for name in object.__dir__(self) if name not in _NAMES or _has(kind, name)]


_NAMES = frozenset(option.attribute for option in OPTIONS.values())
_METHODS = frozenset(option.attribute for option in OPTIONS.values() if option.settable and not option.gettable)
for _name in _NAMES:
    setattr(Attributes, _name, Misplaced(_name))


def _is_ours(kind: type[Any]) -> bool:
    return kind.__module__.partition(".")[0] == "spworkers"


def _no_such(kind: type[Any], name: str) -> BadOptionError:
    option = OPTIONS.get(option_name(name))
    import difflib  # which only a mistake has to wait for

    nearest = difflib.get_close_matches(
        name, [each for each in dir(kind) if each[0] != "_" and _has(kind, each)], n=3, cutoff=0.6
    )
    if option is not None:
        hint = f": {option.name} is an option of {places(option)}"
    else:
        hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
    return BadOptionError(f"a {kind.__name__} has no option or attribute {name!r}{hint}", name, nearest)


class SocketAttributes(Attributes):
    """The options of sockets. One that its protocol does not have raises BadOptionError, an AttributeError."""

    __slots__ = ()

    raw: ReadOnly[bool] = ReadOnly("RAW")
    recv_deadline = Time("RECV-DEADLINE")
    send_deadline = Time("SEND-DEADLINE")
    retry_time = Time("RETRY-TIME")
    survey_time = Time("SURVEY-TIME")
    tls_config = TLS("TLS-CONFIG")
    writeq_len = Number("WRITEQ-LEN")
    readq_len = Number("READQ-LEN")
    keepalive = Flag("KEEPALIVE")
    keepalivetime = Time("KEEPALIVETIME")
    no_delay = Flag("NO-DELAY")
    linger = Time("LINGER")
    ttl = Number("TTL")
    max_rcv_size = Number("MAX-RCV-SIZE")
    reconnect_time = Time("RECONNECT-TIME")
    max_reconnect_time = Time("MAX-RECONNECT-TIME")
    best_effort = Flag("BEST-EFFORT")
    dial_asynch = Flag("DIAL-ASYNCH")
    fail_no_peers = Flag("FAIL-NO-PEERS")
    unix_ipc_chmod = MaybeNumber("UNIX-IPC-CHMOD")
    unix_ipc_owner = MaybeNumber("UNIX-IPC-OWNER")
    unix_ipc_group = MaybeNumber("UNIX-IPC-GROUP")
    websocket_checkorigin = Flag("WEBSOCKET-CHECKORIGIN")
    websocket_headers = Headers("WEBSOCKET-HEADERS")
    handshake_timeout = Time("HANDSHAKE-TIMEOUT")
    max_pipes = Number("MAX-PIPES")
    max_handshakes = Number("MAX-HANDSHAKES")
    accept_rate = Number("ACCEPT-RATE")
    byte_budget = Number("BYTE-BUDGET")


class ContextAttributes(Attributes):
    """The options of contexts. One that its protocol does not have raises BadOptionError, an AttributeError."""

    __slots__ = ()

    recv_deadline = Time("RECV-DEADLINE")
    send_deadline = Time("SEND-DEADLINE")
    retry_time = Time("RETRY-TIME")
    survey_time = Time("SURVEY-TIME")
    readq_len = Number("READQ-LEN")
    best_effort = Flag("BEST-EFFORT")
    fail_no_peers = Flag("FAIL-NO-PEERS")


class DialerAttributes(Attributes):
    """The options of dialers. One that its scheme does not have raises BadOptionError, an AttributeError."""

    __slots__ = ()

    tls_config = TLS("TLS-CONFIG")
    keepalive = Flag("KEEPALIVE")
    keepalivetime = Time("KEEPALIVETIME")
    no_delay = Flag("NO-DELAY")
    max_rcv_size = Number("MAX-RCV-SIZE")
    reconnect_time = Time("RECONNECT-TIME")
    max_reconnect_time = Time("MAX-RECONNECT-TIME")
    dial_asynch = Flag("DIAL-ASYNCH")
    websocket_headers = Headers("WEBSOCKET-HEADERS")
    handshake_timeout = Time("HANDSHAKE-TIMEOUT")


class ListenerAttributes(Attributes):
    """The options of listeners. One that its scheme does not have raises BadOptionError, an AttributeError."""

    __slots__ = ()

    tls_config = TLS("TLS-CONFIG")
    keepalive = Flag("KEEPALIVE")
    keepalivetime = Time("KEEPALIVETIME")
    no_delay = Flag("NO-DELAY")
    max_rcv_size = Number("MAX-RCV-SIZE")
    unix_ipc_chmod = MaybeNumber("UNIX-IPC-CHMOD")
    unix_ipc_owner = MaybeNumber("UNIX-IPC-OWNER")
    unix_ipc_group = MaybeNumber("UNIX-IPC-GROUP")
    websocket_checkorigin = Flag("WEBSOCKET-CHECKORIGIN")
    handshake_timeout = Time("HANDSHAKE-TIMEOUT")
    max_pipes = Number("MAX-PIPES")
    max_handshakes = Number("MAX-HANDSHAKES")
    accept_rate = Number("ACCEPT-RATE")


class PipeAttributes(Attributes):
    """The options of pipes, all read only: its own, and those of the dialer or listener that made it."""

    __slots__ = ()

    local_addr: ReadOnly[Any] = ReadOnly("LOCAL-ADDR")
    remote_addr: ReadOnly[Any] = ReadOnly("REMOTE-ADDR")
    tls_state: ReadOnly[TLSState] = ReadOnly("TLS-STATE")
    http_request: ReadOnly[HTTPRequest] = ReadOnly("HTTP-REQUEST")
    peer_pid: ReadOnly[int] = ReadOnly("PEER-PID")
    peer_uid: ReadOnly[int] = ReadOnly("PEER-UID")
    peer_gid: ReadOnly[int] = ReadOnly("PEER-GID")
    tls_config: ReadOnly[TLSConfig | str | None] = ReadOnly("TLS-CONFIG")
    keepalive: ReadOnly[bool] = ReadOnly("KEEPALIVE")
    keepalivetime: ReadOnly[float] = ReadOnly("KEEPALIVETIME")
    no_delay: ReadOnly[bool] = ReadOnly("NO-DELAY")
    max_rcv_size: ReadOnly[int] = ReadOnly("MAX-RCV-SIZE")
    reconnect_time: ReadOnly[float] = ReadOnly("RECONNECT-TIME")
    max_reconnect_time: ReadOnly[float] = ReadOnly("MAX-RECONNECT-TIME")
    dial_asynch: ReadOnly[bool] = ReadOnly("DIAL-ASYNCH")
    unix_ipc_chmod: ReadOnly[int | None] = ReadOnly("UNIX-IPC-CHMOD")
    unix_ipc_owner: ReadOnly[int | None] = ReadOnly("UNIX-IPC-OWNER")
    unix_ipc_group: ReadOnly[int | None] = ReadOnly("UNIX-IPC-GROUP")
    websocket_checkorigin: ReadOnly[bool] = ReadOnly("WEBSOCKET-CHECKORIGIN")
    websocket_headers: ReadOnly[Mapping[str, str]] = ReadOnly("WEBSOCKET-HEADERS")
    handshake_timeout: ReadOnly[float] = ReadOnly("HANDSHAKE-TIMEOUT")
    max_pipes: ReadOnly[int] = ReadOnly("MAX-PIPES")
    max_handshakes: ReadOnly[int] = ReadOnly("MAX-HANDSHAKES")
    accept_rate: ReadOnly[int] = ReadOnly("ACCEPT-RATE")


if TYPE_CHECKING:

    class _Checked(SocketAttributes):  # mypy proves here that a handle satisfies the descriptors
        def get_option(self, name: str, /) -> Any: ...
        def set_option(self, name: str, value: Any, /) -> None: ...

    def _types(handle: _Checked) -> tuple[float, bool, int, int | None]:
        handle.recv_deadline = None
        return handle.recv_deadline, handle.raw, handle.ttl, handle.unix_ipc_chmod
