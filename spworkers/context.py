"""Contexts: independent conversations on one socket, each with rings of its own; they can move to another process."""

from __future__ import annotations

import _thread
import contextlib
import os
import warnings
from typing import TYPE_CHECKING, Any

from spworkers.attributes import ContextAttributes
from spworkers.channel import Channel
from spworkers.errors import ContextMovedError, SPError
from spworkers.halves import half_for
from spworkers.iolink import IOLink
from spworkers.joined import JoinedLink
from spworkers.messages import pack_facts, unpack_facts
from spworkers.messaging import Messaging
from spworkers.options import Place
from spworkers.optionvalues import OptionValues
from spworkers.pipe import Pipe
from spworkers.port import Port
from spworkers.protocols import PROTOCOLS
from spworkers.ring import Region

if TYPE_CHECKING:
    from spworkers.socket import Socket

__all__ = ["Context"]


class Context(Messaging, ContextAttributes):
    """A conversation of its own on a socket: for req one request at a time, for rep one request being answered.

    Made by `socket.open_context()`. It may be pickled to one other process, which then owns it; the original raises
    ContextMovedError from then on. `multiprocessing` pickles the arguments of a process that it starts by "spawn" or
    "forkserver"; by "fork" it does not, so pickle it before: `pickle.dumps(context)` in the parent, `pickle.loads` in
    the child.
    """

    _owner: Socket | None
    _moved = False

    def __init__(
        self,
        link: IOLink | JoinedLink,
        port: Port,
        protocol: str,
        options: OptionValues,
        owner: Socket | None,
    ) -> None:
        self._link = link
        self._port = port
        self._protocol = PROTOCOLS[protocol]
        self._raw = False
        self._options = options
        self._deadlines = {}
        self._owner = owner
        self._half = half_for(protocol, False, port)
        port.name = f"{protocol} context {port.index}"
        apply_options(self._half, options)

    def get_option(self, name: str) -> Any:
        """The value of an option; those not set here are the socket's. BadOptionError if there is none of that name."""
        return self._options.get(name)

    def set_option(self, name: str, value: Any) -> None:
        """Set an option for this context.

        Raises:
            BadOptionError, BadValueError: no such option here, or not such a value.
        """
        self._usable()
        canonical = self._options.set(name, value)
        self._forget_deadlines()
        self._half.configure(name, canonical)
        self._link.request("set_option", place="context", key=self._port.index, name=name, value=canonical)

    def subscribe(self, topic: bytes | str) -> None:
        """Receive messages that begin with these bytes, too (contexts of SUB; mangos: SUBSCRIBE).

        Raises:
            BadOptionError, BadValueError: this context has no topics; or that is none.
        """
        self.set_option("SUBSCRIBE", topic)

    def unsubscribe(self, topic: bytes | str) -> None:
        """Take a topic away, and what is queued and of no other topic.

        Raises:
            BadOptionError, BadValueError: this context has no topics; or not this one.
        """
        self.set_option("UNSUBSCRIBE", topic)

    def close(self) -> None:
        """End it: blocked calls raise ClosedError, what it had sent still goes out.

        Raises:
            ClosedError: it was closed before, or its socket was.
        """
        if self._moved or self._port.closed:
            self._usable()
        self._port.close()
        self._half.closed()
        if self._owner is not None:
            for cause, n in self._port.dropped.items():
                self._owner._port.drop(cause, n)
        _release(self._link, self._owner, self._port.index)

    def _usable(self) -> None:
        if self._moved:
            raise ContextMovedError(f"{self._port.name} moved to another process, which uses it now")
        self._port.check_open()

    def _pipe(self, number: int) -> Pipe | None:
        return self._owner._pipe(number) if self._owner is not None else None

    def _leave(self) -> None:
        if not self._port.closed:
            self.close()

    def __repr__(self) -> str:
        name = type(self._owner).__name__ if self._owner is not None else self._protocol.name
        state = "moved" if self._moved else "closed" if self._port.closed else "open"
        return f"<Context {self._port.index} of {name}: {state}>"

    def __del__(self) -> None:
        port = getattr(self, "_port", None)
        if port is None or port.closed or port.pid != os.getpid():
            return
        warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)
        port.close()
        with contextlib.suppress(RuntimeError):  # on a thread of its own, for the reasons that Socket.__del__ names
            _thread.start_new_thread(_release, (self._link, self._owner, port.index))

    # ---- moving to another process

    def __reduce__(self) -> tuple[Any, ...]:
        self._usable()
        port = self._port
        facts = {
            "protocol": self._protocol.name,
            "index": port.index,
            "options": self._all_options(),
            "half": self._half.export(),
        }
        blob = pack_facts(facts)
        address, token = self._link.ticket(blob, port)
        self._moved = True
        if self._owner is not None:
            self._owner._contexts.pop(port.index, None)
        port.close(moved=True)
        return _claim, (address, token)

    def _all_options(self) -> dict[str, Any]:
        return {name: self._options.get(name) for name in self._options.readable()}


def apply_options(half: Any, options: OptionValues) -> None:
    """Tell a half the values that hold for it."""
    for name in options.readable():
        half.configure(name, options.get(name))


def _release(link: IOLink | JoinedLink, owner: Socket | None, index: int) -> None:
    """Tell the I/O process that a context is closed, and give its number back."""
    with contextlib.suppress(SPError):  # the socket was closed meanwhile, and its contexts with it
        reusable = link.close_context(index)
        if owner is not None:
            owner._forget_context(index, reusable)
    if owner is None:
        link.close()


def _claim(address: str, token: bytes) -> Context:
    """Claim a context that was handed to this process."""
    from spworkers.supervisor.client import claim

    blob, fds = claim(address, token)
    region_fd, io_bell, recv_bell, send_bell, channel = fds
    facts = unpack_facts(blob)
    region = Region.attach(region_fd)
    os.close(region_fd)
    link = JoinedLink(Channel.from_fd(channel), region, io_bell)
    port = Port(region, facts["index"], io_bell, (recv_bell, send_bell))
    protocol = facts["protocol"]
    options = OptionValues(Place("context", protocol), None, facts["options"].items())
    context = Context(link, port, protocol, options, None)
    context._half.restore(facts["half"])
    return context
