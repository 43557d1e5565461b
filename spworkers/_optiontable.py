"""The table of options.

Types, defaults and places are those of mangos, but for the defects of mangos that are not repeated here.
"""

from __future__ import annotations

from types import MappingProxyType

from spworkers._optiontypes import ANY_SCHEME, SCHEMES, Option, Place
from spworkers.protocols import PROTOCOLS

__all__ = ["TABLE"]


def _twins(names: str) -> str:
    """Protocols, each cooked and raw."""
    return " ".join(f"{name} x{name}" for name in names.split())


def _on(
    *,
    sockets: str = "",
    contexts: str = "",
    dialers: str = "",
    listeners: str = "",
    pipes: str = "",
    endpoints: str = "",
) -> frozenset[Place]:
    named = {
        "socket": sockets,
        "context": contexts,
        "dialer": f"{dialers} {endpoints}",
        "listener": f"{listeners} {endpoints}",
        "pipe": pipes,
    }
    return frozenset(Place(kind, of) for kind, words in named.items() for of in words.split())


_EVERY = _twins(" ".join(PROTOCOLS))
_EVERY_SCHEME = " ".join((*SCHEMES, ANY_SCHEME))
_RECEIVING = _twins("bus pair pair1 sub pull req rep surveyor respondent star")
_TTL = "rep xrep respondent xrespondent pair1 xpair1 star xstar"
_TLS = "tls+tcp wss"

TABLE = [
    Option(
        "RAW",
        "bool",
        False,
        _on(sockets=_EVERY),
        "Whether the socket is raw: no protocol state, and the header is the program's. Chosen when it is made.",
        settable=False,
    ),
    Option(
        "RECV-DEADLINE",
        "seconds",
        0.0,
        _on(sockets=_RECEIVING, contexts="sub req rep surveyor respondent"),
        "How long a receive waits. 0 for ever, negative not at all.",
        endless=True,
    ),
    Option(
        "SEND-DEADLINE",
        "seconds",
        0.0,
        _on(sockets=_twins("pair pair1 push req rep respondent"), contexts="req rep respondent"),
        "How long a send waits for room, or for a peer that takes it. 0 for ever, negative not at all.",
        endless=True,
    ),
    Option(
        "RETRY-TIME",
        "seconds",
        60.0,
        _on(sockets="req", contexts="req"),
        "After how long without a reply a request is sent again, to any peer."
        " 0: never, and a lost peer cancels the request.",
        minimum=0,
        endless=True,
    ),
    Option(
        "SUBSCRIBE",
        "bytes",
        None,
        _on(sockets="sub", contexts="sub"),
        "Adds a topic: messages that begin with these bytes are received; empty bytes are all messages.",
        gettable=False,
    ),
    Option(
        "UNSUBSCRIBE",
        "bytes",
        None,
        _on(sockets="sub", contexts="sub"),
        "Takes a topic away, and the queued messages that no other topic wants.",
        gettable=False,
    ),
    Option(
        "SURVEY-TIME",
        "seconds",
        1.0,
        _on(sockets="surveyor", contexts="surveyor"),
        "How long a survey takes answers. 0 for ever.",
        endless=True,
    ),
    Option(
        "TLS-CONFIG",
        "tls",
        None,
        _on(sockets=_EVERY, endpoints=_TLS),
        "Certificates and what is demanded of the peer: a TLSConfig, or the name of a function that makes an"
        ' ssl.SSLContext, "module:function".',
    ),
    Option(
        "WRITEQ-LEN",
        "int",
        128,
        _on(sockets=f"{_twins('bus pair pair1 pub push rep surveyor respondent star')} xreq"),
        "How many messages wait to be sent, per socket or (where each peer has its own queue) per peer."
        " 0: a send is handed to a peer that is ready (PUSH and PAIR: of those that are, up to 64 may be on their way)."
        " A change keeps what was accepted.",
        minimum=0,
        maximum=32768,
        special={"rep": 0, "respondent": 0},
    ),
    Option(
        "READQ-LEN",
        "int",
        128,
        _on(
            sockets=f"{_twins('bus pair pair1 sub pull surveyor respondent star')} xreq xrep",
            contexts="sub surveyor",
        ),
        "How many received messages wait to be taken. 0: they are handed to a receiver that waits."
        " A change keeps what was accepted.",
        minimum=0,
        maximum=32768,
    ),
    Option(
        "KEEPALIVE",
        "bool",
        True,
        _on(sockets=_EVERY, endpoints="tcp tls+tcp"),
        "An older name for KEEPALIVETIME: True sets it to 0, False to -1.",
    ),
    Option(
        "KEEPALIVETIME",
        "seconds",
        0.0,
        _on(sockets=_EVERY, endpoints="tcp tls+tcp"),
        "After how long without traffic TCP asks whether the peer still lives. 0: every 15 s. Negative: never.",
    ),
    Option(
        "NO-DELAY",
        "bool",
        True,
        _on(sockets=_EVERY, endpoints="tcp tls+tcp ws wss"),
        "Small segments are sent at once (TCP_NODELAY). They always are: False is taken, as in mangos, and changes"
        " nothing.",
    ),
    Option(
        "LINGER",
        "seconds",
        1.0,
        _on(sockets=_EVERY),
        "How long close() waits for accepted messages to leave; what is for whoever comes first may go to who connects"
        " meanwhile. What is left then is counted and logged."
        " Negative: not at all. 0: as long as it takes.",
        endless=True,
    ),
    Option(
        "TTL",
        "int",
        8,
        _on(sockets=_TTL),
        "How many hops (devices, and the last socket) a message may take; one with more is dropped.",
        minimum=1,
        maximum=255,
    ),
    Option(
        "MAX-RCV-SIZE",
        "int",
        1048576,
        _on(sockets=_EVERY, endpoints=f"ipc tcp tls+tcp ws wss {ANY_SCHEME}"),
        "The longest message in bytes that is received; a longer one closes its pipe. 0: no limit.",
        minimum=0,
    ),
    Option(
        "RECONNECT-TIME",
        "seconds",
        0.1,
        _on(sockets=_EVERY, dialers=_EVERY_SCHEME),
        "How long a dialer waits before it dials again.",
        minimum=0,
    ),
    Option(
        "MAX-RECONNECT-TIME",
        "seconds",
        0.0,
        _on(sockets=_EVERY, dialers=_EVERY_SCHEME),
        "Up to how long that wait grows from one failure to the next. 0: it does not grow.",
        minimum=0,
    ),
    Option(
        "BEST-EFFORT",
        "bool",
        False,
        _on(sockets=_twins("pair pair1 push req rep respondent"), contexts="req rep respondent"),
        "A send that finds no room drops the message and counts it, instead of waiting.",
    ),
    Option(
        "LOCAL-ADDR",
        "object",
        None,
        _on(pipes=_EVERY_SCHEME),
        "The address of this end of the connection.",
        settable=False,
    ),
    Option(
        "REMOTE-ADDR",
        "object",
        None,
        _on(pipes=_EVERY_SCHEME),
        "The address of the other end of the connection.",
        settable=False,
    ),
    Option(
        "TLS-STATE",
        "object",
        None,
        _on(pipes=_TLS),
        "What the TLS handshake agreed upon: version, cipher, the peer's certificate.",
        settable=False,
    ),
    Option(
        "HTTP-REQUEST",
        "object",
        None,
        _on(pipes="ws wss"),
        "Method, path and headers of the request that opened the WebSocket.",
        settable=False,
    ),
    Option(
        "DIAL-ASYNCH",
        "bool",
        False,
        _on(sockets=_EVERY, dialers=_EVERY_SCHEME),
        "dial() returns at once and the first connection too is tried until it succeeds.",
    ),
    Option(
        "FAIL-NO-PEERS",
        "bool",
        False,
        _on(sockets="push xpush req", contexts="req"),
        "A send (and a request's receive) without any connected peer raises NoPeersError instead of waiting for one.",
    ),
    Option(
        "PEER-PID",
        "int",
        None,
        _on(pipes="ipc"),
        "The process id of the peer, as the system vouches for it.",
        settable=False,
    ),
    Option(
        "PEER-UID",
        "int",
        None,
        _on(pipes="ipc"),
        "The user id of the peer, as the system vouches for it.",
        settable=False,
    ),
    Option(
        "PEER-GID",
        "int",
        None,
        _on(pipes="ipc"),
        "The group id of the peer, as the system vouches for it.",
        settable=False,
    ),
    Option(
        "UNIX-IPC-CHMOD",
        "mode",
        None,
        _on(sockets=_EVERY, listeners="ipc"),
        "The permission bits of the socket file, set after it is bound.",
        minimum=0,
        maximum=0o777,
    ),
    Option(
        "UNIX-IPC-OWNER",
        "int",
        None,
        _on(sockets=_EVERY, listeners="ipc"),
        "The user id that shall own the socket file; by default this process's.",
        minimum=0,
        maximum=2**32 - 2,
    ),
    Option(
        "UNIX-IPC-GROUP",
        "int",
        None,
        _on(sockets=_EVERY, listeners="ipc"),
        "The group id that shall own the socket file; by default this process's.",
        minimum=0,
        maximum=2**32 - 2,
    ),
    Option(
        "WEBSOCKET-CHECKORIGIN",
        "bool",
        True,
        _on(sockets=_EVERY, listeners="ws wss"),
        "A browser's request whose Origin is another host than ours is refused (403).",
    ),
    Option(
        "WEBSOCKET-HEADERS",
        "headers",
        MappingProxyType({}),
        _on(sockets=_EVERY, dialers="ws wss"),
        "Header fields that a dialer adds to its request, such as Authorization; the listener's side finds them in"
        " HTTP-REQUEST.",
    ),
    Option(
        "HANDSHAKE-TIMEOUT",
        "seconds",
        10.0,
        _on(sockets=_EVERY, endpoints=_EVERY_SCHEME),
        "How long connecting and the handshakes of a connection may take, all together; also, how long a pipe event"
        " hook may take to decide. 0 for ever.",
        minimum=0,
        endless=True,
    ),
    Option(
        "MAX-PIPES",
        "int",
        0,
        _on(sockets=_EVERY, listeners=_EVERY_SCHEME),
        "How many pipes a listener has at a time; who comes beyond that is disconnected, and counted (`listener_full`)."
        " 0: no limit.",
        minimum=0,
    ),
    Option(
        "MAX-HANDSHAKES",
        "int",
        1024,
        _on(sockets=_EVERY, listeners=_EVERY_SCHEME),
        "How many handshakes a listener has in progress; beyond that the oldest one is given up, and counted"
        " (`handshake_overflow`).",
        minimum=1,
    ),
    Option(
        "ACCEPT-RATE",
        "int",
        0,
        _on(sockets=_EVERY, listeners=_EVERY_SCHEME),
        "How many connections a listener accepts a second; after a quiet second, so many at once. Others wait in the"
        " system's backlog. 0: no limit.",
        minimum=0,
    ),
    Option(
        "BYTE-BUDGET",
        "int",
        64 << 20,
        _on(sockets=_EVERY),
        "Shared memory for the bodies of messages that wait, in bytes; a send beyond it waits, and of a SUB's the"
        " oldest give way. A longer message has memory of its own. Chosen when the socket is made.",
        minimum=1 << 16,
        maximum=1 << 40,
        fixed=True,
    ),
]
