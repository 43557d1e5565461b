"""Every error that spworkers raises, and how one crosses a process boundary.

The tree has three branches, by who is at fault:

* `UsageError`: you misused it. Retrying does not help; the program has to change.
* `PeerError`: the other side (peer, network, or the code that runs there) misbehaved or is absent. Retrying may help.
* `InternalError`: a bug of ours, or one of our processes died.

A mangos error `ErrRecvTimeout` is `RecvTimeoutError` here; its constant text is the class attribute `summary`.
Each class derives also from the built-in that fits (`TimeoutError`, `ValueError`, `ConnectionRefusedError` ...).
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from spworkers._oserrors import classify

__all__ = [
    "AccessDeniedError",
    "AddrInUseError",
    "BadAddrError",
    "BadArgumentsError",
    "BadHeaderError",
    "BadOptionError",
    "BadPropertyError",
    "BadProtoError",
    "BadTranError",
    "BadValueError",
    "BadVersionError",
    "BusyError",
    "CanceledError",
    "CauseText",
    "ChannelClosedError",
    "CheckpointError",
    "ClosedError",
    "ConnRefusedError",
    "ConnResetError",
    "ConnTimeoutError",
    "ContextMovedError",
    "ExecutorBrokenError",
    "ForkedError",
    "GarbledError",
    "IOProcessError",
    "InternalError",
    "NetworkError",
    "NoContextError",
    "NoPeersError",
    "NotRawError",
    "PeerError",
    "ProtoOpError",
    "ProtoStateError",
    "QuarantinedError",
    "RecvTimeoutError",
    "RemoteError",
    "ResourceError",
    "RingError",
    "SPError",
    "SendTimeoutError",
    "SerializationError",
    "ShutdownError",
    "StreamLostError",
    "SupervisorError",
    "TLSError",
    "TLSNoCertError",
    "TLSNoConfigError",
    "TaskTimeoutError",
    "TooLongError",
    "TooShortError",
    "UnknownHandlerError",
    "UnsupportedOptionError",
    "UsageError",
    "WorkerDiedError",
    "from_name",
    "from_os_error",
    "to_wire",
]


class CauseText(Exception):
    """What is left of a cause that could not travel: its text. It appears as `__cause__` only and is never raised."""


class SPError(Exception):
    """The base of every error of this library.

    Args:
        message: what was wrong, the value, and what to do about it; empty: the class's own words.
    """

    summary: ClassVar[str] = "scalability protocols error"
    """The error in a few words; for an error of mangos, mangos' own text."""
    advice: ClassVar[str] = ""
    """What to do about it; used when no message is given."""

    def __init__(self, message: str = "") -> None:
        self.message: str = str(message) if message else self._default_message()
        self._fill(message)

    def _default_message(self) -> str:
        return f"{self.summary}: {self.advice}" if self.advice else self.summary

    def _fill(self, *args: object) -> None:
        # OSError reads meaning into two and more arguments (errno, strerror ...), so it never sees ours.
        super().__init__(self.message)
        self.args = args

    def __str__(self) -> str:
        return self.message

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r})"

    @property
    def cause_text(self) -> str:
        """The cause as text, `"ConnectionRefusedError: [Errno 111] Connection refused"`; empty if there is none."""
        return _text_of(self.__cause__) if self.__cause__ is not None else ""

    def __reduce__(self) -> tuple[Any, ...]:
        state = dict(self.__dict__)
        if isinstance(self, OSError):
            state["errno"] = self.errno  # a member of the C structure: not in __dict__
        return _rebuild, (type(self), self.args, _pack_cause(self.__cause__)), state


class UsageError(SPError):
    """You misused the library: a wrong argument, a wrong order of calls, an object that is closed."""

    summary = "wrong use of the library"


class PeerError(SPError):
    """The other side is at fault, or absent: a peer, the network, or the code that runs over there."""

    summary = "the peer or the network misbehaved"


class InternalError(SPError):
    """A bug of ours, or the death of one of our processes."""

    summary = "internal error"
    advice = "please report it, with its traceback"


# --- Errors of mangos: you misused it


class BadAddrError(UsageError, ValueError):
    """An address that is no address, cannot be resolved, or does not belong to this machine."""

    summary = "invalid address"
    advice = "addresses look like tcp://127.0.0.1:5555, ipc:///tmp/name, inproc://name or ws://host:80/path"


class BadTranError(UsageError, ValueError):
    """The part of an address before `://` names no transport (schemes are case-sensitive)."""

    summary = "invalid or unsupported transport"
    advice = "there are inproc, ipc, shm, tcp, tls+tcp, ws and wss, and what register_transport() has added"


class BadOptionError(UsageError, ValueError, AttributeError):
    """There is no such option, or not here, or it cannot be set.

    It is an `AttributeError` because options are attributes too: `hasattr(push, "survey_time")` is then just False.

    Args:
        message: as in `SPError`.
        option: the name that was asked for.
        nearest: the names that resemble it and do exist here, best first.
    """

    summary = "invalid or unsupported option"

    def __init__(self, message: str = "", option: str = "", nearest: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.option = str(option)
        self.nearest = [str(name) for name in nearest]
        self._fill(message, self.option, self.nearest)


class BadValueError(UsageError, ValueError):
    """An option's value is of the wrong type or out of its range."""

    summary = "invalid option value"


class BadPropertyError(UsageError, ValueError):
    """There is no property of that name."""

    summary = "invalid property name"


class ProtoStateError(UsageError, RuntimeError):
    """The operation is legal for the protocol, but not now: a reply before a request, a receive before a survey."""

    summary = "incorrect protocol state"


class ProtoOpError(UsageError, TypeError):
    """The protocol has no such operation: Pull cannot send, Push cannot receive."""

    summary = "invalid operation for protocol"


class NoContextError(ProtoOpError):
    """The protocol has no contexts; req, rep, sub, surveyor and respondent have them, raw sockets never."""

    summary = "protocol does not support contexts"
    advice = "open contexts on Req, Rep, Sub, Surveyor or Respondent, not raw"


class NotRawError(UsageError, ValueError):
    """A device was given a socket that is not raw."""

    summary = "socket not raw"
    advice = "make it with raw=True"


class ClosedError(UsageError, OSError):
    """The object is closed, or was closed while this call waited."""

    summary = "object closed"


class AddrInUseError(UsageError, OSError):
    """Somebody listens there already, or this dialer or listener was started before."""

    summary = "address in use"
    advice = "choose another address (port 0 lets the system choose), or close what listens there"


class TLSNoConfigError(UsageError, ValueError):
    """A TLS transport was used without TLS-CONFIG."""

    summary = "missing TLS configuration"
    advice = "pass tls_config=TLSConfig(...)"


class TLSNoCertError(UsageError, ValueError):
    """A TLS listener's configuration has no certificate."""

    summary = "missing TLS certificates"
    advice = "pass tls_config=TLSConfig(cert=..., key=...); `spworkers cert` makes them"


# --- Errors of mangos: the peer or the network


class BadHeaderError(PeerError, ConnectionError):
    """A peer's handshake does not begin as one of the scalability protocols does."""

    summary = "invalid header received"
    advice = "whatever answers there does not speak the scalability protocols"


class BadVersionError(PeerError, ConnectionError):
    """A peer's handshake has a version that does not exist yet."""

    summary = "invalid protocol version"


class BadProtoError(PeerError, ConnectionError):
    """The other socket speaks another protocol than this one's peer: a Pull was dialled by a Sub, say."""

    summary = "invalid or unsupported protocol"
    advice = "req talks to rep, push to pull, pub to sub, surveyor to respondent, the others to their own kind"


class TooShortError(PeerError, ValueError):
    """A message is too short to hold what its protocol needs."""

    summary = "message is too short"


class TooLongError(PeerError, ValueError):
    """A message is longer than MAX-RCV-SIZE."""

    summary = "message is too long"
    advice = "raise MAX-RCV-SIZE on the receiving socket (0: no limit), or send smaller messages"


class GarbledError(PeerError, ValueError):
    """Bytes that do not follow the format that they should have."""

    summary = "message garbled"


class ConnRefusedError(PeerError, ConnectionRefusedError):
    """Nobody listens there."""

    summary = "connection refused"
    advice = "start the listener first, or dial with dial_asynch=True"


class SendTimeoutError(PeerError, TimeoutError):
    """Nobody took the message before the deadline."""

    summary = "send time out"
    advice = "no room and no peer that takes it within SEND-DEADLINE or timeout="


class RecvTimeoutError(PeerError, TimeoutError):
    """No message came before the deadline."""

    summary = "receive time out"
    advice = "no message within RECV-DEADLINE, SURVEY-TIME or timeout="


class CanceledError(PeerError):
    """What this call waited for will not come: a newer request or survey replaced it, or it may not be retried."""

    summary = "operation canceled"


class NoPeersError(PeerError, ConnectionError):
    """No peer is connected, and FAIL-NO-PEERS asks not to wait for one."""

    summary = "no connected peers"


# --- Errors of connections, where mangos lets the operating system's errors through


class ConnTimeoutError(PeerError, TimeoutError):
    """The connection or its handshake took longer than HANDSHAKE-TIMEOUT or the system allows."""

    summary = "connection time out"


class ConnResetError(PeerError, ConnectionResetError):
    """The connection ended in the middle of something."""

    summary = "connection reset"
    advice = "the other end ended it, as it also does if it speaks another transport or protocol"


class TLSError(PeerError, ConnectionError):
    """The TLS handshake or the verification of a certificate failed."""

    summary = "TLS handshake failed"


class NetworkError(PeerError, OSError):
    """The network does not carry it: no route, interface down, and whatever has no error of its own."""

    summary = "network error"


class AccessDeniedError(UsageError, PermissionError):
    """The operating system does not allow it: a port below 1024, a directory or socket file of another user."""

    summary = "permission denied"


class ResourceError(UsageError, OSError):
    """The process or the machine ran out of something: descriptors, memory, disk."""

    summary = "out of resources"
    advice = "too many descriptors (ulimit -n), or no memory, or no addresses for it (ulimit -v)"


# --- Errors of sockets and contexts as objects


class ContextMovedError(UsageError, RuntimeError):
    """This context was handed over to another process, which owns it now."""

    summary = "context moved to another process"
    advice = "open another context; one context has one owner"


class ForkedError(UsageError, RuntimeError):
    """A socket (or pool, or client) was inherited by a forked child; only the process that made it can use it."""

    summary = "socket used in a forked child"
    advice = "make it in the child, or hand over a context that was pickled (pickle.dumps) before the fork"


class ShutdownError(ClosedError, RuntimeError):
    """A pool takes no tasks any more: a `RuntimeError`, as `concurrent.futures` promises."""

    summary = "pool shut down"


class UnsupportedOptionError(UsageError, ValueError):
    """What was asked for cannot be had from this executor, engine or source."""

    summary = "option not supported here"


class SerializationError(UsageError, TypeError):
    """A value cannot be carried to another process or machine."""

    summary = "value cannot be serialized"


class CheckpointError(UsageError, ValueError):
    """A checkpoint belongs to another job, another version of it, or is no checkpoint."""

    summary = "checkpoint does not fit"


# --- Errors of work done elsewhere: handlers, pools, streams


class RemoteError(PeerError):
    """A handler raised an exception; this is what is known of it.

    Args:
        type: the name of the exception's class, over there.
        message: its text.
        traceback: the worker's traceback, as text; a traceback of this error shows it as the cause.
    """

    summary = "the handler raised an exception"

    def __init__(self, type: str = "Exception", message: str = "", traceback: str = "") -> None:
        super().__init__(message or self.summary)
        self.type = str(type)
        self.traceback = str(traceback)
        self._fill(self.type, str(message), self.traceback)
        if self.traceback:
            self.__cause__ = CauseText(f"\n{self.traceback}")

    def __str__(self) -> str:
        return f"{self.type}: {self.message}"

    def __repr__(self) -> str:
        return f"RemoteError({self.type!r}, {self.message!r})"


class BadArgumentsError(UsageError, TypeError):
    """The arguments of a call do not fit the handler's signature or annotations; it was not called.

    Args:
        message: as in `SPError`.
        handler: the handler's name.
    """

    summary = "arguments do not fit the handler"

    def __init__(self, message: str = "", handler: str = "") -> None:
        super().__init__(message)
        self.handler = str(handler)
        self._fill(message, self.handler)


class UnknownHandlerError(UsageError, LookupError):
    """The server has no handler of that name.

    Args:
        message: as in `SPError`.
        handler: the name that was asked for.
        nearest: handlers whose names resemble it, best first.
    """

    summary = "no such handler"

    def __init__(self, message: str = "", handler: str = "", nearest: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.handler = str(handler)
        self.nearest = [str(name) for name in nearest]
        self._fill(message, self.handler, self.nearest)


class BusyError(PeerError):
    """The server has more requests than its backlog holds and took this one not at all."""

    summary = "server busy"
    advice = "try again later, or raise its --backlog or --workers"


class TaskTimeoutError(PeerError, TimeoutError):
    """A task or handler ran past its timeout; its worker was killed and replaced.

    Args:
        message: as in `SPError`.
        task: what ran.
        seconds: the timeout.
    """

    summary = "task time out"

    def __init__(self, message: str = "", task: str = "", seconds: float = 0.0) -> None:
        super().__init__(message)
        self.task = str(task)
        self.seconds = float(seconds)
        self._fill(message, self.task, self.seconds)


class WorkerDiedError(InternalError, RuntimeError):
    """The worker that had this task died (killed, out of memory, `os._exit`), and it may not be tried again.

    Args:
        message: as in `SPError`.
        task: what it ran.
        pid: the worker's process id.
        status: its exit code; minus the signal's number if a signal killed it; None if unknown.
    """

    summary = "worker died"
    advice = "the pool goes on with another; allow retries= if the task may run twice"

    def __init__(self, message: str = "", task: str = "", pid: int = 0, status: int | None = None) -> None:
        super().__init__(message)
        self.task = str(task)
        self.pid = int(pid)
        self.status = None if status is None else int(status)
        self._fill(message, self.task, self.pid, self.status)


class QuarantinedError(PeerError, RuntimeError):
    """A task killed several workers in a row and is not handed out any more.

    Args:
        message: as in `SPError`.
        task: what ran.
        deaths: how many workers it killed.
    """

    summary = "task quarantined"

    def __init__(self, message: str = "", task: str = "", deaths: int = 0) -> None:
        super().__init__(message)
        self.task = str(task)
        self.deaths = int(deaths)
        self._fill(message, self.task, self.deaths)


class ExecutorBrokenError(PeerError, RuntimeError):
    """The executor of a pipeline takes no more tasks: it is broken, or was shut down.

    Attributes:
        report: the `Report` of the run until then; what was under way is among its failures.
    """

    summary = "executor takes no more tasks"

    report: Any = None


class StreamLostError(PeerError, ConnectionError):
    """A stream ended before its last item: its server went away, or the wait for a part was given up."""

    summary = "stream lost"
    advice = "call the handler again: a stream cannot be taken up by another server"


# --- Errors of our own processes


class SupervisorError(InternalError, RuntimeError):
    """The supervisor could not be started, or did not do what it was asked."""

    summary = "supervisor failed"


class IOProcessError(InternalError, RuntimeError):
    """A socket's I/O process could not be started, or died too often to be replaced again."""

    summary = "I/O process failed"


class ChannelClosedError(InternalError, EOFError):
    """The control channel's other end is gone."""

    summary = "control channel closed"


class RingError(InternalError, RuntimeError):
    """Shared memory holds what it must not hold; nothing of it was used."""

    summary = "shared memory corrupted"


# --- To and from another process

_TREE: dict[str, type[SPError]] = {
    name: value for name, value in list(globals().items()) if isinstance(value, type) and issubclass(value, SPError)
}


def to_wire(error: BaseException) -> tuple[str, list[Any]]:
    """The form in which an error crosses a control channel: its class's name and plain arguments.

    A cause goes along as a last argument of its own, a map. What is not of this tree becomes an `InternalError`.

    Returns:
        What `from_name` takes.
    """
    if isinstance(error, SPError):
        known = next(base for base in type(error).__mro__ if base.__name__ in _TREE and _TREE[base.__name__] is base)
        own = known is type(error)
        args: list[Any] = [list(arg) if isinstance(arg, (list, tuple)) else arg for arg in error.args]
        if not own:  # a subclass of the user's: only its nearest ancestor is known over there
            known, args = (PeerError if known is RemoteError else known), [f"{type(error).__name__}: {error}"]
        cause = None if isinstance(error, RemoteError) else _pack_cause(error.__cause__)
        return known.__name__, [*args, {"cause": cause}] if cause else args
    return "InternalError", [f"unexpected {_text_of(error)}", {"cause": _pack_cause(error)}]


def from_name(name: str, args: Sequence[Any] = ()) -> SPError:
    """An error from its wire form. It never fails: what it cannot read becomes an `InternalError` that says so.

    Args:
        name: the class's name, `"RecvTimeoutError"`.
        args: its arguments; a map as the last one holds the cause.
    """
    cls = _TREE.get(name)
    if cls is None:
        return InternalError(f"another process reported an error of unknown kind {name!r} with {list(args)!r}")
    plain, packed = list(args), None
    if plain and isinstance(plain[-1], dict):
        packed = plain.pop().get("cause")
    try:
        return _rebuild(cls, tuple(plain), packed)
    except (TypeError, ValueError) as problem:
        return InternalError(f"another process reported {name} with arguments that do not fit, {plain!r}: {problem}")


def _rebuild(cls: type[SPError], args: tuple[Any, ...], packed: Sequence[Any] | None) -> SPError:
    error = cls(*args)
    cause = _unpack_cause(packed)
    if cause is not None:
        error.__cause__ = cause
    return error


def _text_of(error: BaseException) -> str:
    if isinstance(error, CauseText):
        return str(error).strip()
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# The operating system's errors of other modules that are worth more than OSError to whoever looks at a cause.
_FOREIGN = {
    "gaierror": "socket",
    "herror": "socket",
    "SSLError": "ssl",
    "SSLCertVerificationError": "ssl",
    "SSLEOFError": "ssl",
    "SSLZeroReturnError": "ssl",
}


def _pack_cause(cause: BaseException | None) -> list[Any] | None:
    """A cause as plain data: errors of ours and of the operating system stay what they are, others become text."""
    if cause is None:
        return None
    if isinstance(cause, SPError):
        return ["sp", *to_wire(cause)]
    if isinstance(cause, OSError) and cause.errno is not None:
        return ["os", type(cause).__name__, int(cause.errno), str(cause.strerror)]
    return ["text", _text_of(cause)]


def _unpack_cause(packed: Sequence[Any] | None) -> BaseException | None:
    match packed:
        case ["sp", str(name), [*args]]:
            return from_name(name, args)
        case ["os", str(name), int(number), str(text)]:
            cls = getattr(sys.modules.get(_FOREIGN.get(name, "")), name, OSError)
            return cls(number, text) if isinstance(cls, type) and issubclass(cls, OSError) else OSError(number, text)
        case ["text", str(text)]:
            return CauseText(text)
        case _:
            return None


# --- From the operating system


_ADDRESS_ADVICE: Final = {
    errno.EADDRNOTAVAIL: "listen at an address of this machine, or at * for all of them",
    errno.ENOENT: "make the folder first",
}


def from_os_error(error: OSError, doing: str) -> SPError:
    """One of our errors for one of the operating system's, which becomes its `__cause__`.

    Args:
        error: what the system said.
        doing: what was being done, beginning with the verb: `"dial tcp://127.0.0.1:5555"`, `"listen ipc:///tmp/x"`.
    """
    if isinstance(error, SPError):
        return error
    name, number = classify(error, dialing=doing.startswith("dial"))
    cls = _TREE[name]
    reason = error.strerror or str(error) or type(error).__name__
    # The address is well-formed if it has come as far as the system: how one is written helps nobody.
    advice = _ADDRESS_ADVICE.get(error.errno or 0, "") if cls is BadAddrError else cls.advice
    if type(error).__name__ == "gaierror":
        advice = "check the name"
        if doing.startswith("dial"):
            advice += ", or with dial_asynch=True it is looked up until it is known"
    ours = cls(f"{doing}: {reason}" + (f"; {advice}" if advice else ""))
    if isinstance(ours, OSError):
        ours.errno = number
    ours.__cause__ = error
    return ours
