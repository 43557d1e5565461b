"""Dialers and listeners: the ends from which pipes are made."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from spworkers.attributes import DialerAttributes, ListenerAttributes
from spworkers.closing import Closing
from spworkers.errors import ClosedError
from spworkers.options import Place, as_wire, kept_as
from spworkers.optionvalues import OptionValues
from spworkers.schemes import TRANSPORT, target_of

if TYPE_CHECKING:
    from spworkers.socket import Socket

__all__ = ["Dialer", "Listener"]


class Endpoint(Closing):
    """What dialers and listeners have in common."""

    _kind: str

    def __init__(self, socket: Socket, key: int, address: str, given: list[tuple[str, Any]]) -> None:
        self._socket = socket
        self._key = key
        self._given = address
        self._closed = False
        self._active = False
        place = Place(self._kind, address.partition("://")[0])
        self._options = OptionValues(place, socket._options, given)

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._closed

    def get_option(self, name: str) -> Any:
        """The value of an option, e.g. `get_option("RECONNECT-TIME")`. BadOptionError if there is none of that name."""
        return self._options.get(name)

    def set_option(self, name: str, value: Any) -> None:
        """Set an option; it holds for pipes made from now on.

        Raises:
            BadOptionError, BadValueError: no such option, or not such a value.
        """
        name, canonical = kept_as(name, self._options.set(name, value))
        self._socket._request("set_option", place=self._kind, key=self._key, name=name, value=as_wire(canonical))

    def close(self) -> None:
        """Make no more pipes; those that exist live on."""
        if self._closed:
            raise ClosedError(f"{self!r} is closed already")
        self._closed = True
        if not self._socket._port.closed:
            self._socket._forget_endpoint(self)
            self._socket._request(f"close_{self._kind}", key=self._key)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"{self!r} is closed")

    def _state(self, active: str) -> str:
        port = self._socket._port
        if port.closed and port.pid != os.getpid():
            return f"of process {port.pid}"
        return "closed" if self._closed or port.closed else active if self._active else "idle"

    def _describe(self) -> dict[str, Any]:
        options = self._options.own()
        target = target_of(self._given)
        if target is not None:
            options[TRANSPORT] = target
        return {"key": self._key, "address": self._given, "options": options}

    def _leave(self) -> None:
        if not self._closed:
            self.close()


class Dialer(Endpoint, DialerAttributes):
    """Makes pipes by connecting to an address, again and again when they are lost."""

    _kind = "dialer"

    @property
    def address(self) -> str:
        """The address as given."""
        return self._given

    def dial(self) -> None:
        """Connect. With DIAL-ASYNCH it returns at once and goes on trying; else the first failure is raised.

        Raises:
            ConnRefusedError, BadProtoError, ConnTimeoutError …: the connection failed; it can be dialled again.
            AddrInUseError: it was dialled already.
        """
        self._check_open()
        self._socket._hooks.hand_over()
        self._socket._request("dial", key=self._key)
        self._active = True

    def __repr__(self) -> str:
        state = self._state("dialing")
        return f"<Dialer {self._given}: {state}>"


WEB_SERVERS: dict[str, str] = {}
"""The program's web servers: `ws://HOST:PORT` → key. A socket that listens at a path of one gets its connections from
there."""


class Listener(Endpoint, ListenerAttributes):
    """Makes pipes by accepting connections at an address."""

    _kind = "listener"
    _bound: str | None = None

    @property
    def address(self) -> str:
        """The bound address once it listens (port 0 resolved), else the address as given."""
        return self._bound or self._given

    def listen(self) -> None:
        """Bind the address and accept connections.

        Raises:
            AddrInUseError: the address is taken, or it listens already. BadAddrError: it is none that can be bound.
        """
        self._check_open()
        self._bound = self._socket._request("listen", key=self._key)
        self._active = True

    def _describe(self) -> dict[str, Any]:
        server = WEB_SERVERS.get("/".join(self._given.split("/", 3)[:3]))
        described = super()._describe()
        return described if server is None else {**described, "options": {**described["options"], "WEB-SERVER": server}}

    def __repr__(self) -> str:
        state = self._state("listening")
        return f"<Listener {self.address}: {state}>"
