"""HTTP-REQUEST: what a pipe over ws or wss tells of the request that opened it."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import urllib.parse
from collections.abc import Sequence
from typing import Any

__all__ = ["HTTPRequest", "rebound", "same_origin"]


@dataclasses.dataclass(frozen=True)
class HTTPRequest:
    """The request that opened a WebSocket: `pipe.http_request`.

    Attributes:
        method: `GET`.
        target: path and query as they were sent, percent-encoded.
        headers: all header fields in their order, names and values as they were sent. They come from the network:
            whoever connects may write whatever he likes.
    """

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]

    @property
    def path(self) -> str:
        """The target without its query, percent-encoded."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        """The fields of the query, decoded; of a field that is there several times, the last one."""
        return dict(urllib.parse.parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    def header(self, name: str, default: str | None = None) -> str | None:
        """The value of a header field, whatever the case of its name; several of that name are joined by commas."""
        found = [value for each, value in self.headers if each.lower() == name.lower()]
        return ", ".join(found) if found else default

    def to_wire(self) -> dict[str, Any]:
        """What crosses the control channel."""
        return {"method": self.method, "target": self.target, "headers": [list(each) for each in self.headers]}

    @classmethod
    def from_wire(cls, value: dict[str, Any]) -> HTTPRequest:
        """The request that `to_wire` has made this of."""
        return cls(value["method"], value["target"], tuple((name, text) for name, text in value["headers"]))


def same_origin(origins: Sequence[str], hosts: Sequence[str]) -> bool:
    """Whether a request may come from a page of our own host (RFC 6454, 7): mangos' WEBSOCKET-CHECKORIGIN.

    Args:
        origins: the values of its `Origin`; what is no browser sends none, and may come.
        hosts: those of its `Host`.
    """
    if not origins:
        return True
    if len(origins) > 1 or len(hosts) != 1:
        return False
    try:
        origin = urllib.parse.urlsplit(origins[0]).netloc.lower()
    except ValueError:
        return False
    return bool(origin) and origin == hosts[0].lower()  # `null`, of a page without an origin, has no host


FORWARDED = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")
"""Header fields that proxies add, and that no page can add to a WebSocket."""


def rebound(host: str, given: str, local: str) -> bool:
    """Whether a page has come to this machine under a name that is not this machine's (DNS rebinding).

    Such a page's name was made to mean 127.0.0.1 after the browser had loaded it, so its `Origin` is its `Host`, and
    what gives it away is the name. An IP address cannot be made to mean another one.

    Args:
        host: the value of `Host`.
        given: the name or address at which the listener was told to listen; empty or a wildcard: everywhere.
        local: our end of the connection, `HOST:PORT`.
    """
    if given in ("", "*", "0.0.0.0", "::") or not _is_loopback(_host_of(local)):  # noqa: S104 - compared only
        return False
    name = _host_of(host)
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name)
        return False
    return name not in ("localhost", given.lower().rstrip(".")) and not name.endswith(".localhost")


def _host_of(text: str) -> str:
    """The host of `HOST:PORT`, `HOST` or `[IPV6]:PORT`, in lower case."""
    host = text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0]
    return host.lower().rstrip(".")


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False
