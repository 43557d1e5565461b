"""HTTP-REQUEST: what a pipe over ws or wss tells of the request that opened it."""

from __future__ import annotations

import dataclasses
import urllib.parse
from collections.abc import Sequence
from typing import Any

__all__ = ["HTTPRequest", "same_origin"]


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
