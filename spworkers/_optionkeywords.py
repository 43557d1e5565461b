"""The options that the sockets' constructors take as keywords, for type checkers and editors; no program imports it.

A test holds each of these against the table of `spworkers.options`: what a socket of its protocol takes, cooked or raw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from spworkers.options import Seconds
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


class ReqKeywords(_Every, _Receiving, _Waiting, _NeedingPeers, total=False):
    """What `Req` takes."""

    retry_time: Seconds


class RepKeywords(_Every, _Receiving, _Waiting, _CountingHops, total=False):
    """What `Rep` takes."""


class PairKeywords(_Every, _Receiving, _Waiting, total=False):
    """What `Pair` takes."""


class Pair1Keywords(_Every, _Receiving, _Waiting, _CountingHops, total=False):
    """What `Pair1` takes."""


class PubKeywords(_Every, _Sending, total=False):
    """What `Pub` takes."""


class SubKeywords(_Every, _Receiving, total=False):
    """What `Sub` takes."""

    subscribe: str | bytes | Iterable[str | bytes]


class PushKeywords(_Every, _Waiting, _NeedingPeers, total=False):
    """What `Push` takes."""


class PullKeywords(_Every, _Receiving, total=False):
    """What `Pull` takes."""


class SurveyorKeywords(_Every, _Receiving, _Sending, total=False):
    """What `Surveyor` takes."""

    survey_time: Seconds


class RespondentKeywords(_Every, _Receiving, _Waiting, _CountingHops, total=False):
    """What `Respondent` takes."""


class BusKeywords(_Every, _Receiving, _Sending, total=False):
    """What `Bus` takes."""


class StarKeywords(_Every, _Receiving, _Sending, _CountingHops, total=False):
    """What `Star` takes."""


class SocketKeywords(ReqKeywords, SubKeywords, SurveyorKeywords, _CountingHops, total=False):
    """What one or the other takes; for who makes sockets of a class that is not known yet."""
