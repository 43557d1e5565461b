"""Every option at every place: whether it can be read and set, its default, type and range, and what it refuses.

The matrix is written down by hand from the reference (mangos, section 1.7, and table 0 where we differ), not from the
table that the library uses. Whatever is not in a row must be refused there with BadOptionError.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from sockets.kit import inproc, wait_pipes

import spworkers as sp
from spworkers.options import OPTIONS, Place
from spworkers.optionvalues import OptionValues

EVERY = (
    "pair xpair pair1 xpair1 pub xpub sub xsub req xreq rep xrep push xpush pull xpull"
    " surveyor xsurveyor respondent xrespondent bus xbus star xstar"
)
SCHEMES = "inproc ipc tcp tls+tcp ws wss"
A_TIME = datetime(2020, 1, 1)


@dataclass(frozen=True)
class Row:
    """One option. Places are named as in the reference's matrix: `xreq` is a raw req socket."""

    default: Any
    sockets: str = ""
    contexts: str = ""
    dialers: str = ""
    listeners: str = ""
    pipes: str = ""
    """Schemes whose pipes have it as their own; they also show what can be read at what made them."""
    good: tuple[tuple[Any, Any], ...] = ()
    """What can be set, and what is read then."""
    bad: tuple[Any, ...] = ()
    """What raises BadValueError."""
    readable: bool = True
    settable: bool = True
    special: tuple[str, Any] = ("", None)
    """Sockets with another default, and that."""


JUNK = (A_TIME, "junk", b"junk", [1])
FLAG: dict[str, Any] = {"good": ((True, True), (False, False)), "bad": (*JUNK, 0, 1, None, 1.0)}
NATURAL: dict[str, Any] = {"good": ((0, 0), (1, 1), (5000, 5000)), "bad": (*JUNK, -1, 1.0, None, True)}
WAIT: dict[str, Any] = {  # 0 and None for ever, negative not at all (B10)
    "good": ((0.25, 0.25), (2, 2.0), (timedelta(seconds=3), 3.0), (0, 0.0), (None, 0.0), (math.inf, 0.0), (-1, -1.0)),
    "bad": (*JUNK, True, math.nan, -math.inf),
}
ENDLESS: dict[str, Any] = {"good": WAIT["good"][:-1], "bad": (*WAIT["bad"], -1, timedelta(seconds=-1))}
TIME: dict[str, Any] = {"good": WAIT["good"][:4], "bad": (*WAIT["bad"], None, math.inf)}
LENGTH: dict[str, Any] = {"good": ((0, 0), (1, 1), (5, 5), (128, 128)), "bad": (*JUNK, -1, 1.5, True, None)}
NUMBER_OR_NONE: dict[str, Any] = {"good": ((0, 0), (1000, 1000), (None, None)), "bad": (*JUNK, -1, 1.5, True, 1 << 32)}
TOPIC: dict[str, Any] = {"bad": (A_TIME, 1, None, 1.5, ["topic"]), "readable": False}
FOUND: dict[str, Any] = {"settable": False}

MATRIX: dict[str, Row] = {
    "RAW": Row(None, EVERY, settable=False),
    "RECV-DEADLINE": Row(
        0.0,
        "bus xbus pair xpair pair1 xpair1 sub xsub pull xpull req xreq rep xrep surveyor xsurveyor"
        " respondent xrespondent star xstar",
        "sub req rep surveyor respondent",
        **WAIT,
    ),
    "SEND-DEADLINE": Row(
        0.0,
        "pair xpair pair1 xpair1 push xpush req xreq rep xrep respondent xrespondent",
        "req rep respondent",
        **WAIT,
    ),
    "RETRY-TIME": Row(60.0, "req", "req", **ENDLESS),
    "SUBSCRIBE": Row(None, "sub", "sub", good=((b"a", None), ("é", None), ("", None)), **TOPIC),
    "UNSUBSCRIBE": Row(None, "sub", "sub", good=((b"a", None), ("é", None), ("", None)), **TOPIC),
    "SURVEY-TIME": Row(1.0, "surveyor", "surveyor", **WAIT),
    "TLS-CONFIG": Row(
        None,
        EVERY,
        dialers="tls+tcp wss",
        listeners="tls+tcp wss",
        good=(
            ("module:function", "module:function"),
            (sp.TLSConfig(), sp.TLSConfig()),
            ({"verify_peer": False}, sp.TLSConfig(verify_peer=False)),
            (None, None),
        ),
        bad=(*JUNK, 1, True, {"ca": "/no/such/ca.pem"}, sp.TLSConfig("/no/such/cert.pem"), {"cafile": "x"}),
    ),
    "WRITEQ-LEN": Row(
        128,
        "bus xbus pair xpair pair1 xpair1 pub xpub push xpush xreq rep xrep surveyor xsurveyor respondent xrespondent"
        " star xstar",
        special=("rep respondent", 0),
        **LENGTH,
    ),
    "READQ-LEN": Row(
        128,
        "bus xbus pair xpair pair1 xpair1 sub xsub pull xpull xreq xrep surveyor xsurveyor respondent xrespondent"
        " star xstar",
        "sub surveyor",
        **LENGTH,
    ),
    "KEEPALIVE": Row(True, EVERY, dialers="tcp tls+tcp", listeners="tcp tls+tcp", **FLAG),
    "KEEPALIVETIME": Row(
        0.0,
        EVERY,
        dialers="tcp tls+tcp",
        listeners="tcp tls+tcp",
        good=(*TIME["good"], (-1, -1.0)),
        bad=TIME["bad"],
    ),
    "NO-DELAY": Row(True, EVERY, dialers="tcp tls+tcp ws wss", listeners="tcp tls+tcp ws wss", **FLAG),
    "LINGER": Row(1.0, EVERY, **WAIT),
    "TTL": Row(
        8,
        "rep xrep respondent xrespondent pair1 xpair1 star xstar",
        good=((1, 1), (2, 2), (255, 255)),
        bad=(*JUNK, 0, -1, 256, 1.5, True, None, "garbage"),
    ),
    "MAX-RCV-SIZE": Row(
        1048576,
        EVERY,
        dialers="ipc tcp tls+tcp ws wss",
        listeners="ipc tcp tls+tcp ws wss",
        good=((0, 0), (100, 100), (1 << 40, 1 << 40)),
        bad=LENGTH["bad"],
    ),
    "RECONNECT-TIME": Row(0.1, EVERY, dialers=SCHEMES, good=TIME["good"], bad=(*TIME["bad"], -1)),
    "MAX-RECONNECT-TIME": Row(0.0, EVERY, dialers=SCHEMES, good=TIME["good"], bad=(*TIME["bad"], -1)),
    "BEST-EFFORT": Row(
        False,
        "pair xpair pair1 xpair1 push xpush req xreq rep xrep respondent xrespondent",
        "req rep respondent",
        **FLAG,
    ),
    "LOCAL-ADDR": Row(None, pipes=SCHEMES, **FOUND),
    "REMOTE-ADDR": Row(None, pipes=SCHEMES, **FOUND),
    "TLS-STATE": Row(None, pipes="tls+tcp wss", **FOUND),
    "HTTP-REQUEST": Row(None, pipes="ws wss", **FOUND),
    "DIAL-ASYNCH": Row(False, EVERY, dialers=SCHEMES, **FLAG),
    "FAIL-NO-PEERS": Row(False, "push xpush req", "req", **FLAG),
    "PEER-PID": Row(None, pipes="ipc", **FOUND),
    "PEER-UID": Row(None, pipes="ipc", **FOUND),
    "PEER-GID": Row(None, pipes="ipc", **FOUND),
    "UNIX-IPC-CHMOD": Row(
        None,
        EVERY,
        listeners="ipc",
        good=((0, 0), (0o642, 0o642), (0o777, 0o777), (None, None)),
        bad=(*JUNK, -1, 0o1000, "0642", True),
    ),
    "UNIX-IPC-OWNER": Row(None, EVERY, listeners="ipc", **NUMBER_OR_NONE),
    "UNIX-IPC-GROUP": Row(None, EVERY, listeners="ipc", **NUMBER_OR_NONE),
    "WEBSOCKET-CHECKORIGIN": Row(True, EVERY, listeners="ws wss", **FLAG),
    "WEBSOCKET-HEADERS": Row(  # ours; nng has it
        MappingProxyType({}),
        EVERY,
        dialers="ws wss",
        good=(({"Cookie": "x"}, MappingProxyType({"Cookie": "x"})), ({}, MappingProxyType({}))),
        bad=(*JUNK, 1, True, None, {"Host": "x"}, {"a": "b\nc"}, {"a b": "c"}),
    ),
    "HANDSHAKE-TIMEOUT": Row(10.0, EVERY, dialers=SCHEMES, listeners=SCHEMES, **ENDLESS),
    "MAX-PIPES": Row(0, EVERY, listeners=SCHEMES, **NATURAL),  # ours, as the next two
    "MAX-HANDSHAKES": Row(1024, EVERY, listeners=SCHEMES, good=((1, 1), (5, 5)), bad=(*JUNK, 0, -1, 1.0, None, True)),
    "ACCEPT-RATE": Row(0, EVERY, listeners=SCHEMES, **NATURAL),
    "BYTE-BUDGET": Row(64 << 20, EVERY, settable=False),  # ours; fixed when the socket is made
}


class Site:
    """A handle, and what the matrix says of it.

    `get` and `put` are its own, so that what has no handle yet (transports to come) is asked at the level below.
    """

    def __init__(self, kind: str, of: str, handle: Any, socket: str = "") -> None:
        self.kind, self.of, self.socket = kind, of, socket
        self.handle = handle
        below = isinstance(handle, OptionValues)
        self.get = handle.get if below else handle.get_option
        self.put = handle.set if below else handle.set_option
        self.attributes = not below

    def has(self, row: Row) -> bool:
        """Whether an option is this place's own."""
        return self.of in getattr(row, f"{self.kind.rpartition(' ')[2]}s").split()

    def shows(self, row: Row) -> bool:
        """Whether it can be read here. A dialer answers for its socket too, a pipe for what made it; no other does."""
        if not row.readable:
            return False
        dialers_pipe = self.kind == "dialer's pipe"
        kinds = [self.kind.rpartition(" ")[2]]
        if self.kind == "listener's pipe":
            kinds.append("listener")
        if dialers_pipe:
            kinds.append("dialer")
        found = any(self.of in getattr(row, f"{kind}s").split() for kind in kinds)
        return found or ((dialers_pipe or self.kind == "dialer") and self.socket in row.sockets.split())

    def default(self, row: Row, name: str) -> Any:
        """What is read before anything was set."""
        if name == "RAW":
            return (self.socket or self.of).startswith("x")
        of, value = row.special
        return value if (self.socket or self.of) in of.split() and self.kind != "context" else row.default

    def __repr__(self) -> str:
        return f"{self.kind} {self.of}"


def make(protocol: str) -> sp.Socket:
    raw = protocol.startswith("x")
    return getattr(sp, protocol.removeprefix("x").capitalize())(raw=raw)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Site]]:
    """One of everything, all of it open."""
    found: list[Site] = []
    with contextlib.ExitStack() as stack:
        for protocol in EVERY.split():
            sock = stack.enter_context(make(protocol))
            found.append(Site("socket", protocol, sock))
            if protocol in {"sub", "req", "rep", "surveyor", "respondent"}:
                found.append(Site("context", protocol, stack.enter_context(sock.open_context()), protocol))
        addresses = {
            "tcp": "tcp://127.0.0.1:0",
            "ipc": f"ipc://{tmp_path_factory.mktemp('matrix')}/s",
            "inproc": inproc(),
            "ws": "ws://127.0.0.1:0/",
        }
        for scheme, address in addresses.items():
            rep, req = stack.enter_context(sp.Rep()), stack.enter_context(sp.Req())
            listener = rep.listen(address)
            dialer = req.dial(listener.address)
            wait_pipes(rep)
            found.append(Site("listener", scheme, listener))
            found.append(Site("dialer", scheme, dialer, "req"))
            found.append(Site("dialer's pipe", scheme, req.pipes[0], "req"))
            found.append(Site("listener's pipe", scheme, rep.pipes[0]))
        for scheme in (
            "tls+tcp",
            "wss",
        ):  # what handles ask for their values; handles need an authority
            socket = OptionValues(Place("socket", "req"))
            dialer, listener = (OptionValues(Place(kind, scheme), socket) for kind in ("dialer", "listener"))
            found.append(Site("listener", scheme, listener))
            found.append(Site("dialer", scheme, dialer, "req"))
            socket.store("RAW", False)
            found.append(Site("dialer's pipe", scheme, OptionValues(Place("pipe", scheme), dialer), "req"))
        yield found


SEED = (
    "RAW RECV-DEADLINE SEND-DEADLINE RETRY-TIME SUBSCRIBE UNSUBSCRIBE SURVEY-TIME TLS-CONFIG WRITEQ-LEN READQ-LEN"
    " KEEPALIVE KEEPALIVETIME NO-DELAY LINGER TTL MAX-RCV-SIZE RECONNECT-TIME MAX-RECONNECT-TIME BEST-EFFORT"
    " LOCAL-ADDR REMOTE-ADDR TLS-STATE HTTP-REQUEST DIAL-ASYNCH"
)
NEWER = (
    "FAIL-NO-PEERS PEER-PID PEER-UID PEER-GID UNIX-IPC-CHMOD UNIX-IPC-OWNER UNIX-IPC-GROUP WEBSOCKET-CHECKORIGIN"
    " HANDSHAKE-TIMEOUT MAX-PIPES MAX-HANDSHAKES ACCEPT-RATE WEBSOCKET-HEADERS"
)


def test_the_matrix_has_every_option_and_the_library_no_other() -> None:
    assert set(MATRIX) == {*SEED.split(), *NEWER.split(), "BYTE-BUDGET"} == set(OPTIONS)


def attribute(name: str) -> str:
    return name.lower().replace("-", "_")


@pytest.mark.parametrize("name", MATRIX)
def test_readable_exactly_where_it_should_be(sites: list[Site], name: str) -> None:
    row = MATRIX[name]
    wrong = []
    for site in sites:
        try:
            found = site.get(name)
        except sp.BadOptionError as error:
            if site.shows(row):
                wrong.append(f"{site}: not readable: {error}")
            elif name not in str(error):
                wrong.append(f"{site}: {error} does not name the option")
            continue
        if not site.shows(row):
            wrong.append(f"{site}: readable ({found!r})")
        elif row.pipes and site.attributes:
            expected = int if name.startswith("PEER") else sp.HTTPRequest if name == "HTTP-REQUEST" else str
            if type(found) is not expected:
                wrong.append(f"{site}: {found!r} is no {expected.__name__}")
        elif row.pipes == "" and (found != site.default(row, name) or type(found) is not type(site.default(row, name))):
            wrong.append(f"{site}: {found!r} by default")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", MATRIX)
def test_an_attribute_exactly_where_it_is_readable(sites: list[Site], name: str) -> None:
    row = MATRIX[name]
    for site in sites:
        if site.attributes and row.readable:
            own = site.has(row) or ("pipe" in site.kind and site.shows(row) and site.socket not in row.sockets.split())
            if own:
                assert getattr(site.handle, attribute(name)) == site.get(name), site
            elif not site.shows(row):
                assert not hasattr(site.handle, attribute(name)), site


@pytest.mark.parametrize("name", MATRIX)
def test_settable_exactly_where_it_should_be(sites: list[Site], name: str) -> None:
    row = MATRIX[name]
    wrong = []
    for site in sites:
        if row.settable and site.has(row) and "pipe" not in site.kind:
            wrong += values_of(site, name, row)
        else:
            for value in (row.good[0][0] if row.good else 1, row.default, A_TIME, "junk"):
                try:
                    site.put(name, value)
                except sp.BadOptionError:
                    continue
                except Exception as error:
                    wrong.append(f"{site}: {value!r} raised {error!r}, not BadOptionError")
                else:
                    wrong.append(f"{site}: took {value!r}")
    assert not wrong, "\n".join(wrong)


def values_of(site: Site, name: str, row: Row) -> Iterator[str]:
    """What is wrong with the values that an option takes here; everything is put back."""
    good = row.good
    if name == "UNSUBSCRIBE":
        for value, _ in good:
            site.put("SUBSCRIBE", value)
    for value, read in good:
        try:
            site.put(name, value)
        except sp.SPError as error:
            yield f"{site}: {value!r} is refused: {error}"
            continue
        if row.readable and (site.get(name) != read or type(site.get(name)) is not type(read)):
            yield f"{site}: {value!r} became {site.get(name)!r}"
    for value in row.bad:
        before = site.get(name) if row.readable else None
        try:
            site.put(name, value)
        except sp.BadValueError as error:
            if name not in str(error):
                yield f"{site}: {error} does not name the option"
        except Exception as error:
            yield f"{site}: {value!r} raised {error!r}, not BadValueError"
        else:
            yield f"{site}: took {value!r}"
        if row.readable and site.get(name) != before:
            yield f"{site}: {value!r} was refused, and changed it"
    if name == "SUBSCRIBE":
        for value, _ in good:
            site.put("UNSUBSCRIBE", value)
    elif row.readable:
        site.put(name, site.default(row, name))


def test_an_option_that_does_not_exist_is_nowhere(sites: list[Site]) -> None:
    for site, name in itertools.product(sites, ("NO-SUCH-THING", "recv_deadline", "Ttl", "")):
        with pytest.raises(sp.BadOptionError):
            site.get(name)
        with pytest.raises(sp.BadOptionError):
            site.put(name, 1)


@pytest.mark.parametrize("protocol", EVERY.split())
def test_a_keyword_of_the_constructor_exactly_where_it_is_settable(protocol: str) -> None:
    """One socket with all that it takes; everything else is refused before anything is started."""
    cls = getattr(sp, protocol.removeprefix("x").capitalize())
    raw = protocol.startswith("x")
    given = {}
    for name, row in MATRIX.items():
        if protocol in row.sockets.split() and row.settable:
            given[attribute(name)] = row.good[0][0]
        elif name not in ("BYTE-BUDGET", "RAW"):
            with pytest.raises(sp.BadOptionError, match=name):
                cls(raw=raw, **{attribute(name): row.good[0][0] if row.good else 1})
    given.pop("unsubscribe", None)
    topics = {"subscribe": given.pop("subscribe")} if "subscribe" in given else {}
    with cls(raw=raw, byte_budget=1 << 20, **given, **topics) as sock:
        for keyword in given:
            name = keyword.upper().replace("_", "-")
            if name not in ("KEEPALIVE", "KEEPALIVETIME"):  # two names of one thing
                assert sock.get_option(name) == MATRIX[name].good[0][1], name
        assert sock.byte_budget == 1 << 20


def test_unsubscribe_as_a_keyword_takes_away_what_subscribe_gave() -> None:
    with pytest.raises(sp.BadValueError):
        sp.Sub(unsubscribe="a")  # type: ignore[call-arg]
    with sp.Sub(subscribe=["a", "b"], unsubscribe="a") as sub:  # type: ignore[call-arg]
        sub.unsubscribe("b")
        with pytest.raises(sp.BadValueError):
            sub.unsubscribe("a")


def in_the_io_process(sock: sp.Socket, name: str, place: str = "socket", key: int = 0) -> Any:
    """The value that holds where it is used."""
    return sock._request("get_option", place=place, key=key, name=name)


def test_keepalive_is_one_option_of_two_names_in_the_io_process_too() -> None:
    with sp.Req() as req:
        dialer = req.new_dialer("tcp://127.0.0.1:1")
        for site, place, key in ((req, "socket", 0), (dialer, "dialer", dialer._key)):
            site.keepalive = False
            assert in_the_io_process(req, "KEEPALIVETIME", place, key) == -1.0
            site.keepalivetime = 20
            assert in_the_io_process(req, "KEEPALIVETIME", place, key) == 20.0
            assert site.keepalive is True
        assert in_the_io_process(req, "KEEPALIVE") is True


def test_none_gives_back_what_is_inherited_in_the_io_process_too(tmp_path: Path) -> None:
    with sp.Rep(unix_ipc_chmod=0o600) as rep:
        listener = rep.new_listener(f"ipc://{tmp_path}/s")
        listener.unix_ipc_chmod = 0o644
        listener.unix_ipc_chmod = None
        assert listener.unix_ipc_chmod == 0o600
        listener.listen()
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
