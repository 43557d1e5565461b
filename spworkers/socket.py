"""Sockets: the handle in the user's process of what runs in an I/O process of its own."""

from __future__ import annotations

import _thread
import contextlib
import itertools
import logging
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NoReturn, TypeAlias, TypeVar

from spworkers._atexit import at_exit
from spworkers._coerce import is_text
from spworkers.attributes import SocketAttributes
from spworkers.channel import Channel
from spworkers.context import Context, apply_options
from spworkers.endpoint import Dialer, Endpoint, Listener
from spworkers.errors import BadAddrError, BadValueError, ClosedError, NoContextError, SerializationError, SPError
from spworkers.halves import RawHalf, SubHalf, half_for
from spworkers.hooks import Hook, HookRunner
from spworkers.iolink import PATIENCE, IOLink
from spworkers.messaging import Messaging
from spworkers.options import Place, Seconds, as_wire, kept_as, keywords, timeout_seconds
from spworkers.optionvalues import OptionValues
from spworkers.pipe import Pipe
from spworkers.port import Port
from spworkers.protocols import PROTOCOLS
from spworkers.ring import CONTEXTS, Region

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from spworkers._optionkeywords import SocketKeywords
    from spworkers.devices import Device

__all__ = ["Socket", "SocketInfo"]

Addresses: TypeAlias = "str | Iterable[str] | None"
E = TypeVar("E", Dialer, Listener)

PIPES_KNOWN = 1024
"""Pipes of messages that a socket remembers, so that a message costs no new object for its pipe."""

FORMER_KNOWN = 64
"""Closed dialers and listeners that a socket remembers before it looks which of them have pipes."""

_open: weakref.WeakSet[Socket] = weakref.WeakSet()


class SocketInfo(NamedTuple):
    """Protocol numbers and names of a socket and of the peers that it talks to."""

    self: int
    peer: int
    self_name: str
    peer_name: str


class Socket(Messaging, SocketAttributes):
    """A socket of one protocol; use its subclasses (`Req`, `Rep`, …).

    Args:
        raw: without the protocol's state: messages carry their headers (`send_msg`, `recv_msg`).
        listen: an address, or several, to listen on at once.
        dial: an address, or several, to dial at once.
        name: what to call the socket in `repr` and statistics.
        options: any option of the protocol by its keyword, e.g. `recv_deadline=1.0`.

    Raises:
        BadOptionError, BadValueError: an option is not one of this protocol, or its value is wrong.
        BadAddrError, BadTranError, AddrInUseError, ConnRefusedError …: as `listen` and `dial`.
    """

    _protocol_name = ""
    _device: Device | None = None
    _closing_patience: ClassVar[float] = PATIENCE

    def __init__(
        self,
        *,
        raw: bool = False,
        listen: Addresses = None,
        dial: Addresses = None,
        name: str | None = None,
        **options: Unpack[SocketKeywords],
    ) -> None:
        protocol = self._protocol_name
        if not protocol:
            raise BadValueError("Socket is the base of the protocols' classes; make a Req, a Rep, …")
        self._protocol = PROTOCOLS[protocol]
        if not isinstance(raw, bool):
            raise BadValueError(f"raw is True or False, not {raw!r:.80}")
        if name is not None and not is_text(name):
            raise BadValueError(f"name is a text, or None, not {name!r:.80}")
        self._raw = raw
        self._name = name
        place = Place.socket(protocol, raw=self._raw)
        given = keywords(options, place)
        self._options = OptionValues(place, None, given)
        self._options.store("RAW", self._raw)
        self._deadlines = {}
        self._known_pipes: dict[int, Pipe] = {}
        self._contexts: weakref.WeakValueDictionary[int, Context] = weakref.WeakValueDictionary()
        self._dialers: dict[int, Dialer] = {}
        self._listeners: dict[int, Listener] = {}
        self._former: dict[int, Endpoint] = {}  # closed, while pipes of theirs may be left
        self._indices = list(range(CONTEXTS - 1, 0, -1))
        self._retired: list[int] = []  # closed, with a lease or an unsent message still in their memory
        self._keys = itertools.count(1)
        self._lock = threading.Lock()
        self._hooks = HookRunner(self)
        self._begin()
        try:
            self._subscribe([value for name, value in given if name == "SUBSCRIBE"])
            for topic in [value for name, value in given if name == "UNSUBSCRIBE"]:
                self.set_option("UNSUBSCRIBE", topic)
            for address in addresses_of(listen, "listen"):
                self.listen(address)
            for address in addresses_of(dial, "dial"):
                self.dial(address)
        except BaseException:
            self.close(linger=0)
            raise

    def _begin(self) -> None:
        port_name = f"{type(self).__name__} socket {self._name or ''}".rstrip()

        def make_port(region: Region, io_bell: int) -> Port:
            port = Port(region, 0, io_bell)
            port.name = port_name
            return port

        budget = self._options.get("BYTE-BUDGET")
        self._link, self._port = IOLink.started(self._protocol_name, budget, self._spec(), make_port)
        self._link.on_event = self._hooks.event
        self._link.survive(self._rebuilder())
        self._half = half_for(self._protocol_name, self._raw, self._port)
        apply_options(self._half, self._options)
        _open.add(self)

    def _rebuilder(self) -> Callable[[Channel], bool]:
        """`_rebuild`, by a function that does not keep the socket alive."""
        this = weakref.ref(self)

        def rebuild(theirs: Channel) -> bool:
            socket = this()
            return socket is not None and socket._rebuild(theirs)

        return rebuild

    def _spec(self) -> dict[str, Any]:
        return {
            "protocol": self._protocol_name,
            "raw": self._raw,
            "options": {name: value for name, value in self._options.own().items() if name != "RAW"},
            "name": self._name or "",
            "log_level": logging.getLogger("spworkers").getEffectiveLevel(),  # what is below it need not come
        }

    # ---- endpoints

    def dial(self, address: str, **options: Any) -> Dialer:
        """Connect to a peer; a lost connection is dialled again.

        Args:
            address: e.g. `tcp://127.0.0.1:5555`, `ipc:///tmp/x`, `inproc://name`.
            options: of the dialer, by keyword; `dial_asynch=True` returns at once and goes on trying.

        Raises:
            BadAddrError, BadTranError: the address is none.
            ConnRefusedError, BadProtoError, ConnTimeoutError …: the first attempt failed. A connection that a pipe
                event hook refuses has not failed: it was there, and is dialled again later.
        """
        dialer = self.new_dialer(address, **options)
        try:
            dialer.dial()
        except BaseException:
            dialer.close()
            raise
        return dialer

    def listen(self, address: str, **options: Any) -> Listener:
        """Accept peers at an address; `listener.address` is the bound one.

        Raises:
            BadAddrError, BadTranError: the address is none.
            AddrInUseError …: it cannot be bound.
        """
        listener = self.new_listener(address, **options)
        try:
            listener.listen()
        except BaseException:
            listener.close()
            raise
        return listener

    def new_dialer(self, address: str, **options: Any) -> Dialer:
        """A dialer that is not dialling yet: set options, then call its `dial()`."""
        return self._new_endpoint(Dialer, self._dialers, address, options)

    def new_listener(self, address: str, **options: Any) -> Listener:
        """A listener that does not listen yet: set options, then call its `listen()`."""
        return self._new_endpoint(Listener, self._listeners, address, options)

    def _new_endpoint(self, kind: type[E], register: dict[int, E], address: str, options: dict[str, Any]) -> E:
        self._usable()
        if not isinstance(address, str):
            raise BadValueError(f"an address is a string such as 'tcp://127.0.0.1:5555', not {address!r}")
        if not is_text(address):
            raise BadAddrError(
                f"{address!r} is no text: half a character, or a byte that is no UTF-8; choose another name"
            )
        place = Place(kind._kind, address.partition("://")[0])
        endpoint = kind(self, next(self._keys), address, keywords(options, place))
        register[endpoint._key] = endpoint  # before it is asked for, so that `_rebuild` finds it
        try:
            self._request(f"new_{kind._kind}", **endpoint._describe())
        except BaseException:
            register.pop(endpoint._key, None)
            raise
        return endpoint

    @property
    def dialers(self) -> list[Dialer]:
        """Its dialers, oldest first."""
        return list(self._dialers.values())

    @property
    def listeners(self) -> list[Listener]:
        """Its listeners, oldest first."""
        return list(self._listeners.values())

    @property
    def pipes(self) -> list[Pipe]:
        """Its connections at this moment."""
        return [Pipe(self, info["id"], info) for info in self._request("pipes")]

    def _endpoint(self, key: int) -> Endpoint | None:
        """The dialer or listener that made a pipe; closed perhaps."""
        return self._dialers.get(key) or self._listeners.get(key) or self._former.get(key)

    def _forget_endpoint(self, endpoint: Endpoint) -> None:
        """It was closed; its pipes live on, and know it still."""
        if len(self._former) >= FORMER_KNOWN:
            with contextlib.suppress(SPError):  # the socket is being closed
                used = {info.get("dialer") or info.get("listener") for info in self._request("pipes")}
                self._former = {key: each for key, each in self._former.items() if key in used}
        self._former[endpoint._key] = endpoint
        self._dialers.pop(endpoint._key, None)
        self._listeners.pop(endpoint._key, None)

    def _pipe(self, number: int) -> Pipe | None:
        """The pipe of a message; what is known of it is asked for when somebody looks."""
        pipe = self._known_pipes.get(number)
        if pipe is None and number:
            if len(self._known_pipes) >= PIPES_KNOWN:
                self._known_pipes.clear()
            pipe = self._known_pipes[number] = Pipe(self, number)
        return pipe

    def _pipe_info(self, number: int) -> dict[str, Any]:
        for info in self._request("pipes"):
            if info["id"] == number:
                found: dict[str, Any] = info
                return found
        raise ClosedError(f"pipe {number} is closed; nothing is known of it any more")

    # ---- contexts

    def open_context(self) -> Context:
        """An independent conversation on this socket.

        Raises:
            NoContextError: this protocol has none, or the socket is raw.
        """
        self._usable()
        if self._raw or not self._protocol.contexts:
            kind = "raw sockets have" if self._raw else f"{self._protocol.name} has"
            raise NoContextError(f"{kind} no contexts")
        with self._lock:
            if not self._indices:
                retired, self._retired = self._retired, []
                for index in retired:
                    (self._indices if self._link.close_context(index) else self._retired).append(index)
            if not self._indices:
                raise BadValueError(f"a socket has at most {CONTEXTS} contexts; close some of them")
            index = self._indices.pop()
        try:
            port = Port(self._link.region, index, self._link.io_bell)
        except BaseException:
            self._indices.append(index)
            raise
        options = OptionValues(Place("context", self._protocol.name), self._options)
        context = Context(self._link, port, self._protocol.name, options, self)
        self._contexts[index] = context  # before it is asked for, so that `_rebuild` finds it
        try:
            self._request("open_context", port.bells, index=index, options={})
        except BaseException:  # Ctrl-C, say: it may be open over there
            port.close()
            self._contexts.pop(index, None)
            with contextlib.suppress(SPError):
                self._link.tell("close_context", index=index)
            self._retired.append(index)
            raise
        return context

    def _forget_context(self, index: int, reusable: bool) -> None:
        """A context was closed. `reusable`: nothing of it is in use any more."""
        self._contexts.pop(index, None)
        (self._indices if reusable else self._retired).append(index)

    # ---- options, events, statistics

    @property
    def info(self) -> SocketInfo:
        """Protocol numbers and names."""
        p = self._protocol
        return SocketInfo(p.number, p.peer_number, p.name, p.peer_name)

    def get_option(self, name: str) -> Any:
        """The value of an option, e.g. `get_option("RECV-DEADLINE")`; of a closed socket, the last one.

        Raises:
            BadOptionError: there is none of that name.
        """
        return self._options.get(name)

    def set_option(self, name: str, value: Any) -> None:
        """Set an option; contexts, dialers and listeners that did not set it themselves follow.

        Raises:
            BadOptionError, BadValueError: no such option, or not such a value.
        """
        self._usable()
        name, canonical = kept_as(name, self._options.set(name, value))
        self._forget_deadlines()
        self._half.configure(name, canonical)
        if self._device is not None:
            self._device._option_changed(self)
        for context in list(self._contexts.values()):
            context._forget_deadlines()
            if name not in context._options and name in context._options.readable():
                context._half.configure(name, canonical)
        self._request("set_option", place="socket", key=0, name=name, value=as_wire(canonical))

    def _subscribe(self, topics: list[bytes]) -> None:
        """The topics that a socket begins with."""
        if topics:
            for topic in topics:
                self._half.configure("SUBSCRIBE", topic)
            self._request("set_option", place="socket", key=0, name="SUBSCRIBE", value=topics)

    def set_pipe_event_hook(self, hook: Hook | None) -> Hook | None:
        """Call `hook(event, pipe)` for every PipeEvent, on a thread of its own; returns the former hook.

        A hook that raises or closes the pipe in ATTACHING refuses it; one that takes longer than HANDSHAKE-TIMEOUT too.

        Raises:
            BadValueError: it cannot be called.
        """
        self._usable()
        if hook is not None and not callable(hook):
            raise BadValueError(f"a pipe event hook is a function of (event, pipe), or None, not {hook!r}")
        former = self._hooks.set(hook)
        self._request("hook", on=hook is not None)
        return former

    def stats(self) -> dict[str, Any]:
        """Messages and bytes sent and received, connections, and every drop by cause.

        `sent_bytes` and `received_bytes` are of messages as they are framed on a stream: 8 bytes of length (9 on ipc;
        a WebSocket has the 2 to 14 bytes of its frame there), the protocol's header, the body. Handshakes and what TLS
        adds are not in them.
        """
        return self._and_own_drops(self._request("stats"))

    def _and_own_drops(self, found: dict[str, Any]) -> dict[str, Any]:
        """What the I/O process has counted, and what was dropped on this side."""
        ports = [self._port, *(context._port for context in list(self._contexts.values()))]
        for port in ports:
            for cause, n in port.dropped.items():
                found["drops"][cause] = found["drops"].get(cause, 0) + n
        return found

    # ---- devices

    def _lend(self, device: Device) -> bool:
        """Let a device send and receive here. False: a message is half written."""
        half = self._half
        half.sends = half.receives = False
        if not self._port.lend(f"this socket is part of {device!r}, which sends and receives here; close that first"):
            half.sends = half.receives = True
            return False
        self._device = device
        return True

    def _take_back(self) -> None:
        """The device has ended."""
        former = self._half
        self._port.take_back()
        self._half = half_for(self._protocol_name, self._raw, self._port)
        apply_options(self._half, self._options)
        if former.demand.watched:
            self._half.watch()
        self._device = None  # last: from here on another device may begin

    def _usable(self) -> None:
        self._port.check_alive()

    def _check_direction(self, verb: str) -> None:
        super()._check_direction(verb)
        if self._device is not None:
            self._port.check_open()

    # ---- life

    def __reduce__(self) -> NoReturn:
        raise SerializationError(
            f"{self!r} belongs to this process, and can neither be copied nor pickled: hand a context of it"
            " (open_context) to a process of yours, or tell others the address"
        )

    def close(self, linger: Seconds = None) -> None:
        """Close the socket: blocked calls raise ClosedError; what was sent is drained for at most `linger` seconds.

        Args:
            linger: None: the option LINGER (1 s by default); 0: drain nothing; math.inf: until it is all gone.

        Raises:
            ClosedError: it was closed before.
            KeyboardInterrupt: at once; what is not drained yet has until the program's end, which waits no longer.
        """
        self._close(linger)

    def _close(self, linger: Seconds = None) -> dict[str, Any] | None:
        """As `close`; returns the last `stats`, where "closed" among the drops is what LINGER was too short for.

        None: the I/O process did not answer any more.
        """
        self._usable()
        limit = timeout_seconds(linger, self._options.get("LINGER"), "linger")
        if self._device is not None:
            self._device._end(self)
        _open.discard(self)
        self._shut_ports()
        try:
            figures = self._link.end(limit, self._closing_patience)
        finally:
            # They know the socket, and it knows them: else its memory would go with the garbage, and not with it.
            for known in (self._dialers, self._listeners, self._former, self._known_pipes):
                known.clear()
        return None if figures is None else self._and_own_drops(figures)

    def _shut_ports(self) -> None:
        for context in list(self._contexts.values()):
            context._port.close()
        self._port.close()
        self._hooks.stop()

    def _leave(self) -> None:
        if not self._port.closed:
            self.close()

    def _request(self, kind: str, fds: Iterable[int] = (), **fields: Any) -> Any:
        self._usable()
        return self._link.request(kind, tuple(fds), **fields)

    def _rebuild(self, theirs: Channel) -> bool:
        """The supervisor died and took the I/O process along; make it anew, on the same rings. False: we are closed."""
        link = self._link
        self._hooks.lost()
        with self._port.held() as is_open:
            if not is_open:
                return False
            link.spawn(self._spec(), theirs, self._port)
        if self._device is not None:
            self._device._describe(self)
        self._tell_topics(0, self._half)
        for context in list(self._contexts.values()):
            fields = {"index": context._port.index, "options": context._options.own()}
            with context._port.held() as is_open:
                if is_open:
                    link.tell("open_context", context._port.bells, **fields)
            self._tell_topics(context._port.index, context._half)
        for listener in self.listeners:
            described = {**listener._describe(), "address": listener.address}
            link.tell("new_listener", **described)
            if listener._active:
                link.tell("listen", key=listener._key)
        for dialer in self.dialers:
            described = dialer._describe()
            if dialer._active:
                described["options"] = {**described["options"], "DIAL-ASYNCH": True}
            link.tell("new_dialer", **described)
            if dialer._active:
                link.tell("dial", key=dialer._key)
        if self._hooks.hook is not None:
            link.tell("hook", on=True)
        return True

    def _tell_topics(self, context: int, half: RawHalf) -> None:
        """Describe the subscriptions of a context to a new I/O process."""
        if isinstance(half, SubHalf) and half.topics:
            place = "context" if context else "socket"
            self._link.tell("set_option", place=place, key=context, name="SUBSCRIBE", value=list(half.topics))

    def __repr__(self) -> str:
        kind = ("raw " if self._raw else "") + type(self).__name__
        name = f"{kind} {self._name}" if self._name else kind
        port = getattr(self, "_port", None)
        if port is None or port.closed:
            state = "closed" if port is None or port.pid == os.getpid() else f"of process {port.pid}"
            return f"<{name}: {state}>"
        parts = [
            _plural(len(self._listeners), "listener"),
            _plural(len(self._dialers), "dialer"),
            _plural(self._link.region.pipes, "pipe"),
        ]
        if self._contexts:
            parts.append(_plural(len(self._contexts), "context"))
        if self._device is not None:
            parts.append("part of a device")
        return f"<{name}: {', '.join(parts)}>"

    def _warn_of_drop(self) -> None:
        """It was dropped while it was open."""
        warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=3)

    def __del__(self) -> None:
        port = getattr(self, "_port", None)
        if port is None or port.closed or port.pid != os.getpid():
            return
        self._warn_of_drop()
        self._shut_ports()
        # On a thread of its own: a collection happens anywhere, on the control thread and under its lock too, and this
        # waits for an answer. Not by `threading`, whose locks may be held here as well.
        with contextlib.suppress(RuntimeError):  # the interpreter exits, and everything with it
            _thread.start_new_thread(self._link.end, (0.0, PATIENCE))


def _plural(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def addresses_of(given: Addresses, what: str) -> list[str]:
    """One address, or several, or None.

    Raises:
        BadValueError: it is something else.
    """
    if given is None:
        return []
    if isinstance(given, str):
        return [given]
    if not isinstance(given, Iterable) or isinstance(given, (bytes, bytearray, memoryview)):
        raise BadValueError(f"{what} takes an address such as 'tcp://127.0.0.1:5555', or a list of them, not {given!r}")
    return list(given)


@at_exit
def _close_all() -> None:
    """What was sent and not drained when the program ends gets its LINGER."""
    for socket in list(_open):
        if not socket._port.closed:
            try:
                socket.close()
            except ClosedError:
                continue


def _forget_in_child() -> None:
    """In a forked child every handle is the parent's."""
    for socket in list(_open):
        for port in (socket._port, *(context._port for context in socket._contexts.values())):
            port.closed = True
        socket._link.closed = True
    _open.clear()


os.register_at_fork(after_in_child=_forget_in_child)
