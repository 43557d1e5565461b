"""The keywords of the sockets' constructors, for type checkers and editors; no program imports it.

A test holds each of these against the signature of `Socket`, and the table of `spworkers.options`: what a socket of its
protocol takes, cooked or raw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from spworkers.options import Seconds
    from spworkers.socket import Addresses
    from spworkers.tlsconfig import TLSConfig

__all__ = [
    "BusKeywords",
    "Pair1Keywords",
    "PairKeywords",
    "PubKeywords",
    "PullKeywords",
    "PushKeywords",
    "RepKeywords",
    "ReqKeywords",
    "RespondentKeywords",
    "SocketKeywords",
    "StarKeywords",
    "SubKeywords",
    "SurveyorKeywords",
]


class _Every(TypedDict, total=False):
    tls_config: TLSConfig | Mapping[str, Any] | str | None
    keepalive: bool
    keepalivetime: Seconds
    no_delay: bool
    linger: Seconds
    max_rcv_size: int
    reconnect_time: Seconds
    max_reconnect_time: Seconds
    dial_asynch: bool
    unix_ipc_chmod: int | None
    unix_ipc_owner: int | None
    unix_ipc_group: int | None
    websocket_checkorigin: bool
    websocket_headers: Mapping[str, str]
    handshake_timeout: Seconds
    max_pipes: int
    max_handshakes: int
    accept_rate: int
    byte_budget: int


class _Made(_Every, total=False):
    raw: bool
    listen: Addresses
    dial: Addresses
    name: str | None


class _Receiving(TypedDict, total=False):
    recv_deadline: Seconds
    readq_len: int


class _Sending(TypedDict, total=False):
    writeq_len: int


class _Waiting(_Sending, total=False):
    send_deadline: Seconds
    best_effort: bool


class _NeedingPeers(TypedDict, total=False):
    fail_no_peers: bool


class _CountingHops(TypedDict, total=False):
    ttl: int


class _Retrying(TypedDict, total=False):
    retry_time: Seconds


class _Subscribing(TypedDict, total=False):
    subscribe: str | bytes | Iterable[str | bytes]


class _Surveying(TypedDict, total=False):
    survey_time: Seconds


class ReqKeywords(_Made, _Receiving, _Waiting, _NeedingPeers, _Retrying, total=False):
    """What `Req` takes."""


class RepKeywords(_Made, _Receiving, _Waiting, _CountingHops, total=False):
    """What `Rep` takes."""


class PairKeywords(_Made, _Receiving, _Waiting, total=False):
    """What `Pair` takes."""


class Pair1Keywords(_Made, _Receiving, _Waiting, _CountingHops, total=False):
    """What `Pair1` takes."""


class PubKeywords(_Made, _Sending, total=False):
    """What `Pub` takes."""


class SubKeywords(_Made, _Receiving, _Subscribing, total=False):
    """What `Sub` takes."""


class PushKeywords(_Made, _Waiting, _NeedingPeers, total=False):
    """What `Push` takes."""


class PullKeywords(_Made, _Receiving, total=False):
    """What `Pull` takes."""


class SurveyorKeywords(_Made, _Receiving, _Sending, _Surveying, total=False):
    """What `Surveyor` takes."""


class RespondentKeywords(_Made, _Receiving, _Waiting, _CountingHops, total=False):
    """What `Respondent` takes."""


class BusKeywords(_Made, _Receiving, _Sending, total=False):
    """What `Bus` takes."""


class StarKeywords(_Made, _Receiving, _Sending, _CountingHops, total=False):
    """What `Star` takes."""


class SocketKeywords(
    _Every, _Receiving, _Waiting, _NeedingPeers, _CountingHops, _Retrying, _Subscribing, _Surveying, total=False
):
    """The options that one or the other takes; for who makes sockets of a class that is not known yet."""
