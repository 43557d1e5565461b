"""Pipes: single connections to a peer, and what happens to them."""

from __future__ import annotations

import enum
import weakref
from typing import TYPE_CHECKING, Any

from spworkers.attributes import PipeAttributes
from spworkers.endpoint import Dialer, Endpoint, Listener
from spworkers.errors import BadOptionError, BadValueError, ClosedError
from spworkers.options import Place, lookup

if TYPE_CHECKING:
    from spworkers.socket import Socket

__all__ = ["Pipe", "PipeEvent"]


def _made(name: str, value: Any) -> Any:
    """What becomes of the plain data as which some options cross to here. Few programs need the modules."""
    if name == "HTTP-REQUEST":
        from spworkers.httprequest import HTTPRequest

        return HTTPRequest.from_wire(value)
    if name == "TLS-STATE":
        from spworkers.tlsstate import TLSState

        return TLSState.from_wire(value)
    return value


class PipeEvent(enum.Enum):
    """What a pipe event hook is told: `hook(event, pipe)`.

    A hook that closes the pipe, or raises, in ATTACHING refuses it: the peer sees a closed connection. One that calls
    `pipe.refuse(status, reason)` tells the peer of a ws or wss listener why.
    """

    ATTACHING = "attaching"
    ATTACHED = "attached"
    DETACHED = "detached"


class Pipe(PipeAttributes):
    """A connection to one peer.

    Attributes: `id` (31 bits, not 0), `address` (of the dialer or listener that made it), `dialer` or `listener`.
    """

    __slots__ = ("_known", "_ref", "_refusal", "_refused", "id")

    def __init__(self, socket: Socket, number: int, info: dict[str, Any] | None = None) -> None:
        self._ref = weakref.ref(socket)  # a socket knows its pipes, and is not to be kept alive by them
        self._known = info  # None: the I/O process is asked when somebody wants to know
        self._refused = False
        self._refusal: dict[str, Any] = {}
        self.id = number

    @property
    def _socket(self) -> Socket:
        socket = self._ref()
        if socket is None:
            raise ClosedError(f"the socket of pipe {self.id} is gone")
        return socket

    @property
    def _info(self) -> dict[str, Any]:
        if self._known is None:
            self._known = self._socket._pipe_info(self.id)
        return self._known

    @property
    def address(self) -> str:
        """The address of the dialer or listener that made it."""
        return str(self._info["address"])

    @property
    def dialer(self) -> Dialer | None:
        """The dialer that made it, or None."""
        found = self._endpoint()
        return found if isinstance(found, Dialer) else None

    @property
    def listener(self) -> Listener | None:
        """The listener that made it, or None."""
        found = self._endpoint()
        return found if isinstance(found, Listener) else None

    def _endpoint(self) -> Endpoint | None:
        key = self._info.get("dialer") or self._info.get("listener")
        return None if key is None else self._socket._endpoint(key)

    def get_option(self, name: str) -> Any:
        """LOCAL-ADDR, REMOTE-ADDR, PEER-PID … or whatever can be read at the dialer or listener that made it.

        Raises:
            BadOptionError: no such option here.
        """
        if name == "LOCAL-ADDR":
            return self._info["local"]
        if name == "REMOTE-ADDR":
            return self._info["remote"]
        own = self._info.get("properties", {})
        if name in own:
            return _made(name, own[name])
        made_by = self._endpoint()
        place = Place("pipe", self.address.partition("://")[0])
        if made_by is None:
            lookup(name, place)
            raise BadOptionError(f"{self!r} has no {name}: what made it is closed", name)
        try:
            return made_by.get_option(name)
        except BadOptionError:
            lookup(name, place)  # which says so of a pipe
            raise

    def set_option(self, name: str, value: Any) -> None:
        """Options of pipes are read only: BadOptionError."""
        lookup(name, Place("pipe", self.address.partition("://")[0]), write=True)

    def close(self) -> None:
        """Disconnect this peer; a dialer dials again. In an ATTACHING hook it refuses the pipe.

        One that is closed already, by either side, stays so: no error, as peers leave when they like.
        """
        self._refused = True
        try:
            self._socket._request("close_pipe", key=self.id)
        except ClosedError:
            return

    def refuse(self, status: int = 403, reason: str = "") -> None:
        """In an ATTACHING hook: refuse the pipe, and over ws and wss answer the request with a status instead of 101.

        A dialer of ours raises ConnRefusedError with both (BadProtoError for 400, 403 and 404, as mangos has it). A
        browser's page learns of neither; it does of the 1008 with which `close` refuses. Over an `ASGIApp` it needs a
        server with ASGI's extension `websocket.http.response`; others answer with 403 for every status. Over other
        transports, and later, it is what `close` is.

        Args:
            status: of HTTP, 400 to 599 (RFC 9110, 15.5 and 15.6): 401 "who are you?", 403 "not you", 429, 503 ...
            reason: the text of the answer, which the peer may read.

        Raises:
            BadValueError: there is no such status, or the reason is no text.
        """
        from http import HTTPStatus  # its enumeration takes longer to make than this module

        if not isinstance(status, int) or status < 400 or status not in set(HTTPStatus):
            raise BadValueError(f"refuse takes a status of HTTP from 400 to 599, such as 401 or 403, not {status!r}")
        if not isinstance(reason, str):
            raise BadValueError(f"refuse takes a reason in words, not {reason!r}")
        self._refusal = {"status": int(status), "reason": reason}
        self.close()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pipe) and other.id == self.id and other._ref == self._ref

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        ends = "" if self._known is None else f": {self._known['local']} to {self._known['remote']}"
        return f"<Pipe {self.id}{ends}>"
