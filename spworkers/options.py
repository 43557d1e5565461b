"""Every option, declared once (in `spworkers._optiontable`): name, kind, range, default, places, documentation.

From that table come validation (`validate`), constructor keywords (`keywords`), attributes (`spworkers.attributes`),
inheritance (`spworkers.optionvalues`) and the table of the documentation (`python -m spworkers._optiondocs`).

An option `RECV-DEADLINE` is the attribute and the keyword `recv_deadline`. Times are seconds; for a *wait*
(RECV-DEADLINE, SEND-DEADLINE, SURVEY-TIME, HANDSHAKE-TIMEOUT, LINGER) 0, None and infinity mean for ever, and a
negative one means not at all.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from spworkers._coerce import Seconds, seconds
from spworkers._optiontable import TABLE
from spworkers._optiontypes import ANY_SCHEME, SCHEMES, Option, Place
from spworkers.errors import BadOptionError, BadValueError
from spworkers.protocols import PROTOCOLS

__all__ = [
    "OPTIONS",
    "SCHEMES",
    "Option",
    "Place",
    "Seconds",
    "attribute",
    "defaults",
    "endpoint_defaults",
    "kept_as",
    "keywords",
    "lookup",
    "option_name",
    "places",
    "as_wire",
    "timeout_seconds",
    "validate",
    "wait_seconds",
]

OPTIONS: dict[str, Option] = {option.name: option for option in TABLE}
"""Every option by its name."""


# --- Names


def attribute(name: str) -> str:
    """`"RECV-DEADLINE"` → `"recv_deadline"`."""
    return name.lower().replace("-", "_")


def option_name(attribute: str) -> str:
    """`"recv_deadline"` → `"RECV-DEADLINE"`."""
    return attribute.upper().replace("_", "-")


def lookup(name: str, place: Place, *, write: bool = False) -> Option:
    """The declaration of an option at a place.

    Raises:
        BadOptionError: there is none of this name there, or it cannot be read (with `write`: set).
    """
    option = OPTIONS.get(name) if isinstance(name, str) else None
    if option is None or not option.applies(place):
        raise _unknown(name, place, option)
    if write and (not option.settable or place.kind == "pipe"):
        reason = "it is chosen when the socket is made: raw=True" if name == "RAW" else "it can only be read"
        raise BadOptionError(f"{name} cannot be set on {place}: {reason}", name)
    if not write and not option.gettable:
        raise BadOptionError(f"{name} can only be set, not read", name)
    return option


def _unknown(name: object, place: Place, elsewhere: Option | None) -> BadOptionError:
    if elsewhere is not None:
        return BadOptionError(f"{place} has no option {name}; it is one of {places(elsewhere)}", str(name))
    here = [option.name for option in OPTIONS.values() if option.applies(place)]
    import difflib  # which only a mistake has to wait for

    nearest = difflib.get_close_matches(option_name(str(name)), here, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"there are {', '.join(here)}"
    return BadOptionError(f"{place} has no option {name!r}; {hint}", str(name), nearest)


# --- Values


def validate(name: str, value: Any, place: Place, *, creating: bool = False) -> Any:
    """The canonical form of a value that is to be set: seconds as float, topics as bytes.

    Args:
        name: the option, `"RECV-DEADLINE"`.
        value: what the user gave.
        place: where it is to be set.
        creating: the handle is being made, so that options which are fixed afterwards can still be given.

    Raises:
        BadOptionError: no such option there, or it cannot be set.
        BadValueError: the value is of the wrong type or out of range.
    """
    option = lookup(name, place, write=True)
    if option.fixed and not creating:
        raise BadOptionError(
            f"{name} is fixed once the {place.kind} is made: pass {option.attribute}= to its constructor", name
        )
    if value is None and not option.endless and option.default is None and option.kind != "bytes":
        return None  # back to the default, which is "not set"
    return option.coerce(value)


def kept_as(name: str, canonical: Any) -> tuple[str, Any]:
    """The option and the value as which a value is kept and told to others: KEEPALIVE is an older KEEPALIVETIME."""
    if name == "KEEPALIVE":
        return "KEEPALIVETIME", 0.0 if canonical else -1.0
    return name, canonical


def as_wire(canonical: Any) -> Any:
    """A canonical value as plain data, as which it crosses to another process."""
    if isinstance(canonical, MappingProxyType):
        return dict(canonical)
    to_wire = getattr(canonical, "to_wire", None)
    return canonical if to_wire is None else to_wire()


def keywords(given: Mapping[str, Any], place: Place) -> list[tuple[str, Any]]:
    """The options that were given as keywords of a constructor, canonical, in order.

    `subscribe` takes one topic or several, each of which becomes a pair of its own.

    Raises:
        BadOptionError: no such option there; names the nearest keyword.
        BadValueError: the value is of the wrong type or out of range.
    """
    pairs: list[tuple[str, Any]] = []
    for keyword, value in given.items():
        name = option_name(keyword) if keyword == keyword.lower() else keyword
        values = value if name == "SUBSCRIBE" and isinstance(value, Iterable) and not _is_topic(value) else [value]
        try:
            pairs += [(name, validate(name, each, place, creating=True)) for each in values]
        except BadOptionError as problem:
            if name in OPTIONS:
                raise
            near = [attribute(each) for each in problem.nearest]
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise BadOptionError(f"{place} has no option {keyword!r}{hint}", keyword, near) from None
    return pairs


def _is_topic(value: object) -> bool:
    return isinstance(value, (str, bytes, bytearray, memoryview))


def defaults(protocol: str, raw: bool = False, place: str = "socket") -> dict[str, Any]:
    """The readable options of a socket of this protocol with their defaults; `place="context"`: of its contexts."""
    where = Place.socket(protocol, raw=raw)
    found = _defaults(Place(place, where.of))
    if "RAW" in found:
        found["RAW"] = raw
    return found


def endpoint_defaults(kind: str, scheme: str) -> dict[str, Any]:
    """The readable options of a dialer or listener of this scheme with their defaults."""
    return _defaults(Place(kind, scheme))


@functools.cache
def _of_sockets() -> dict[Place, dict[str, Any]]:
    """The defaults of all sockets and contexts. Made at once: an I/O process has them from its supervisor."""
    found: dict[Place, dict[str, Any]] = {}
    for option in OPTIONS.values():
        if option.gettable:
            for place in option.where:
                if place.kind in ("socket", "context"):
                    found.setdefault(place, {})[option.name] = option.default_at(place)
    return found


def _defaults(place: Place) -> dict[str, Any]:
    if place.kind in ("socket", "context"):
        return dict(_of_sockets().get(place, {}))
    return {o.name: o.default_at(place) for o in OPTIONS.values() if o.gettable and o.applies(place)}


# --- Times


def wait_seconds(option: float) -> float:
    """How long to wait by an option that is a wait: infinity for 0, 0 for a negative one."""
    return math.inf if option == 0 else max(option, 0.0)


def timeout_seconds(timeout: Seconds, option: float = 0.0, name: str = "timeout") -> float:
    """How long to wait by a `timeout` argument: None asks the option, 0 is not at all, `math.inf` for ever.

    `name`: what the argument is called.

    Raises:
        BadValueError: it is no time.
    """
    if timeout is None:
        return wait_seconds(option)
    try:
        return max(seconds(timeout), 0.0)
    except ValueError as problem:
        raise BadValueError(f"{name} {problem}") from None


def places(option: Option) -> str:
    """Where an option applies, in words: `"sockets of req, xreq; contexts of req"`; `xreq` is req raw."""
    parts = []
    for kind in ("socket", "context", "dialer", "listener", "pipe"):
        of = {place.of for place in option.where if place.kind == kind}
        if not of:
            continue
        every = set(_SOCKETS) if kind == "socket" else {*SCHEMES, ANY_SCHEME}
        parts.append(f"every {kind}" if of == every else f"{kind}s of {', '.join(_ordered(of))}")
    return "; ".join(parts)


_SOCKETS = [prefix + name for name in PROTOCOLS for prefix in ("", "x")]


def _ordered(names: set[str]) -> list[str]:
    order = [*_SOCKETS, *SCHEMES]
    return [name for name in order if name in names] + (["registered transports"] if ANY_SCHEME in names else [])
