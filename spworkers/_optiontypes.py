"""What an option's declaration consists of, and the places where options are set and read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from spworkers._coerce import COERCE, Kind
from spworkers.errors import BadValueError
from spworkers.lean import item, lean
from spworkers.protocols import PROTOCOLS

__all__ = ["ANY_SCHEME", "SCHEMES", "Option", "Place"]

SCHEMES = ("inproc", "ipc", "tcp", "tls+tcp", "ws", "wss")
"""The built-in transports. A registered one of another name takes the options that every transport has."""

_ALIASES = {  # names that go by the options of another: shm, and those of nng for the same transports
    "abstract": "ipc",
    "shm": "ipc",
    "tcp4": "tcp",
    "tcp6": "tcp",
    "tls+tcp4": "tls+tcp",
    "tls+tcp6": "tls+tcp",
    "unix": "ipc",
}

LARGEST = 2**63 - 1
"""What a number may be where nothing else limits it: it has to fit a control message."""

ANY_SCHEME = "*"  # stands for the schemes of registered transports


class Place(NamedTuple):
    """Where an option is set or read: a kind of handle, and whose it is.

    `kind` is `"socket"`, `"context"`, `"dialer"`, `"listener"` or `"pipe"`; `of` is the protocol of the first two (with
    an `x` in front if raw: `"xreq"`) and the scheme of the other three.
    """

    kind: str
    of: str

    @classmethod
    def socket(cls, protocol: str, *, raw: bool = False) -> Place:
        """A socket of this protocol."""
        return cls("socket", f"x{protocol}" if raw else protocol)

    def __str__(self) -> str:
        if self.kind == "socket" and self.of not in PROTOCOLS:
            return f"a raw {self.of[1:]} socket"
        article = "an" if self.of[:1] in "aeio" else "a"
        return f"{article} {self.of} {self.kind}"


@lean
class Option:
    """One option's declaration.

    `special` are the defaults that differ from `default`, by protocol. `endless`: None and infinity are taken for 0.
    `fixed`: it can be given only when the socket is made. `minimum` and `maximum` are inclusive.
    """

    name: str
    kind: Kind
    default: Any
    where: frozenset[Place]
    doc: str
    minimum: float | None = None
    maximum: float | None = None
    endless: bool = False
    settable: bool = True
    gettable: bool = True
    fixed: bool = False
    special: Mapping[str, Any] = item(factory=dict)

    @property
    def attribute(self) -> str:
        """The name as attribute and keyword."""
        return self.name.lower().replace("-", "_")

    @property
    def range(self) -> str:
        """The legal values in words, `"0 ... 32768"`; empty where there is no limit."""
        form = {"mode": "#o", "int": "d"}.get(self.kind, "g")
        low, high = (None if limit is None else format(limit, form) for limit in (self.minimum, self.maximum))
        if low is None:
            return "" if high is None else f"up to {high}"
        return f"{low} or more" if high is None else f"{low} ... {high}"

    def applies(self, place: Place) -> bool:
        """Whether it can be set or read at this place; a pipe also shows the options of what made it."""
        of = _ALIASES.get(place.of, place.of)
        if place.kind not in ("socket", "context") and of not in SCHEMES:
            of = ANY_SCHEME
        kinds = ("pipe", "dialer", "listener") if place.kind == "pipe" else (place.kind,)
        return any(Place(kind, of) in self.where for kind in kinds)

    def default_at(self, place: Place) -> Any:
        """The default there."""
        return self.special.get(place.of, self.default)

    def coerce(self, value: Any) -> Any:
        """A value in canonical form.

        Raises:
            BadValueError: wrong type or out of range.
        """
        try:
            if self.endless and value is None:
                return 0.0
            canonical = COERCE[self.kind](value)
            if self.endless and canonical == math.inf:
                return 0.0
        except ValueError as problem:
            raise BadValueError(f"{self.name} {problem}") from None
        low, high = self.minimum, self.maximum
        if (low is not None and canonical < low) or (high is not None and canonical > high):
            raise BadValueError(f"{self.name} must be {self.range}, not {canonical!r}")
        if isinstance(canonical, int) and canonical > LARGEST:
            raise BadValueError(f"{self.name} must be less than 2**63, not {canonical!r}")
        if self.kind == "seconds" and math.isinf(canonical):
            raise BadValueError(f"{self.name} must be finite, not {canonical!r}")
        return canonical
