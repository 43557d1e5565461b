from __future__ import annotations

import ast
import inspect
import math
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spworkers import _optionkeywords, attributes, sockets
from spworkers._optiondocs import markdown
from spworkers.attributes import (
    TLS,
    ContextAttributes,
    DialerAttributes,
    Flag,
    Headers,
    ListenerAttributes,
    MaybeNumber,
    Number,
    OptionAttribute,
    PipeAttributes,
    ReadOnly,
    SocketAttributes,
    Time,
)
from spworkers.errors import BadOptionError, BadValueError
from spworkers.ioproc import dialer, listener
from spworkers.options import (
    OPTIONS,
    SCHEMES,
    Option,
    Place,
    attribute,
    defaults,
    endpoint_defaults,
    keywords,
    lookup,
    option_name,
    timeout_seconds,
    validate,
    wait_seconds,
)
from spworkers.optionvalues import OptionValues
from spworkers.protocol import machine_for
from spworkers.protocols import PROTOCOLS
from spworkers.socket import Socket
from spworkers.testing import Harness
from spworkers.tlsconfig import TLSConfig
from spworkers.transport import ipc, tcp
from spworkers.transport.registry import transport_for

# Reference, section 1.7, the matrix: R and S deadlines, READQ-LEN, WRITEQ-LEN, TTL, BEST-EFFORT, others.
MATRIX: dict[str, tuple[str, int | None, int | None, int | None, bool, str]] = {
    "bus": ("R", 128, 128, None, False, ""),
    "xbus": ("R", 128, 128, None, False, ""),
    "pair": ("RS", 128, 128, None, True, ""),
    "xpair": ("RS", 128, 128, None, True, ""),
    "pair1": ("RS", 128, 128, 8, True, ""),
    "xpair1": ("RS", 128, 128, 8, True, ""),
    "pub": ("", None, 128, None, False, ""),
    "xpub": ("", None, 128, None, False, ""),
    "sub": ("R", 128, None, None, False, "SUBSCRIBE UNSUBSCRIBE"),
    "xsub": ("R", 128, None, None, False, ""),
    "push": ("S", None, 128, None, True, "FAIL-NO-PEERS"),
    "xpush": ("S", None, 128, None, True, "FAIL-NO-PEERS"),
    "pull": ("R", 128, None, None, False, ""),
    "xpull": ("R", 128, None, None, False, ""),
    "req": ("RS", None, None, None, True, "RETRY-TIME FAIL-NO-PEERS"),
    "xreq": ("RS", 128, 128, None, True, ""),
    "rep": ("RS", None, 0, 8, True, ""),
    "xrep": ("RS", 128, 128, 8, True, ""),
    "surveyor": ("R", 128, 128, None, False, "SURVEY-TIME"),
    "xsurveyor": ("R", 128, 128, None, False, ""),
    "respondent": ("RS", 128, 0, 8, True, ""),
    "xrespondent": ("RS", 128, 128, 8, True, ""),
    "star": ("R", 128, 128, 8, False, ""),
    "xstar": ("R", 128, 128, 8, False, ""),
}
CONTEXTS = {
    "sub": "RECV-DEADLINE READQ-LEN SUBSCRIBE UNSUBSCRIBE",
    "req": "RECV-DEADLINE SEND-DEADLINE BEST-EFFORT RETRY-TIME FAIL-NO-PEERS",
    "rep": "RECV-DEADLINE SEND-DEADLINE BEST-EFFORT",
    "surveyor": "SURVEY-TIME RECV-DEADLINE READQ-LEN",
    "respondent": "RECV-DEADLINE SEND-DEADLINE BEST-EFFORT",
}
# What every socket has: the core's, ours, and those that its dialers and listeners inherit.
EVERY_SOCKET = set(
    "RAW MAX-RCV-SIZE RECONNECT-TIME MAX-RECONNECT-TIME DIAL-ASYNCH LINGER HANDSHAKE-TIMEOUT BYTE-BUDGET TLS-CONFIG"
    " KEEPALIVE KEEPALIVETIME NO-DELAY UNIX-IPC-CHMOD UNIX-IPC-OWNER UNIX-IPC-GROUP WEBSOCKET-CHECKORIGIN"
    " WEBSOCKET-HEADERS MAX-PIPES MAX-HANDSHAKES ACCEPT-RATE".split()
)
ADMISSION = "MAX-PIPES MAX-HANDSHAKES ACCEPT-RATE"
DEFAULTS = {
    "MAX-PIPES": 0,
    "MAX-HANDSHAKES": 1024,
    "ACCEPT-RATE": 0,
    "RECV-DEADLINE": 0.0,
    "SEND-DEADLINE": 0.0,
    "RETRY-TIME": 60.0,
    "SURVEY-TIME": 1.0,
    "MAX-RCV-SIZE": 1048576,
    "RECONNECT-TIME": 0.1,
    "MAX-RECONNECT-TIME": 0.0,
    "DIAL-ASYNCH": False,
    "KEEPALIVE": True,
    "KEEPALIVETIME": 0.0,
    "NO-DELAY": True,
    "LINGER": 1.0,
    "HANDSHAKE-TIMEOUT": 10.0,
    "BYTE-BUDGET": 64 * 1024 * 1024,
    "WEBSOCKET-CHECKORIGIN": True,
    "WEBSOCKET-HEADERS": MappingProxyType({}),
    "BEST-EFFORT": False,
    "FAIL-NO-PEERS": False,
}
REQ, XREQ, PUSH, SUB, XSUB, REP = (Place("socket", of) for of in ("req", "xreq", "push", "sub", "xsub", "rep"))


def names_at(place: Place) -> set[str]:
    return {option.name for option in OPTIONS.values() if option.applies(place)}


class TestTable:
    @pytest.mark.parametrize("protocol", MATRIX)
    def test_sockets(self, protocol: str) -> None:
        deadlines, readq, writeq, ttl, best_effort, others = MATRIX[protocol]
        wanted = EVERY_SOCKET | set(others.split())
        wanted |= {f"{'RECV' if letter == 'R' else 'SEND'}-DEADLINE" for letter in deadlines}
        values = {"READQ-LEN": readq, "WRITEQ-LEN": writeq, "TTL": ttl}
        wanted |= {name for name, value in values.items() if value is not None}
        wanted |= {"BEST-EFFORT"} if best_effort else set()
        assert names_at(Place("socket", protocol)) == wanted
        raw = protocol not in PROTOCOLS
        found = defaults(protocol[1:] if raw else protocol, raw)
        assert {name: found.get(name) for name in values} == values
        assert found["RAW"] is raw

    @pytest.mark.parametrize("protocol", [*PROTOCOLS, *(f"x{name}" for name in PROTOCOLS)])
    def test_contexts(self, protocol: str) -> None:
        assert names_at(Place("context", protocol)) == set(CONTEXTS.get(protocol, "").split())

    def test_the_contexts_are_those_of_the_protocols(self) -> None:
        assert set(CONTEXTS) == {info.name for info in PROTOCOLS.values() if info.contexts}

    @pytest.mark.parametrize(("name", "value"), DEFAULTS.items())
    def test_defaults(self, name: str, value: object) -> None:
        assert OPTIONS[name].default == value
        assert type(OPTIONS[name].default) is type(value)

    @pytest.mark.parametrize(
        ("kind", "scheme", "names"),
        [
            ("dialer", "inproc", ""),
            ("listener", "inproc", ""),
            ("dialer", "ipc", "MAX-RCV-SIZE"),
            ("listener", "ipc", "MAX-RCV-SIZE UNIX-IPC-CHMOD UNIX-IPC-OWNER UNIX-IPC-GROUP"),
            ("dialer", "tcp", "MAX-RCV-SIZE KEEPALIVE KEEPALIVETIME NO-DELAY"),
            ("listener", "tcp", "MAX-RCV-SIZE KEEPALIVE KEEPALIVETIME NO-DELAY"),
            ("dialer", "tls+tcp", "MAX-RCV-SIZE KEEPALIVE KEEPALIVETIME NO-DELAY TLS-CONFIG"),
            ("listener", "tls+tcp", "MAX-RCV-SIZE KEEPALIVE KEEPALIVETIME NO-DELAY TLS-CONFIG"),
            ("dialer", "ws", "MAX-RCV-SIZE NO-DELAY WEBSOCKET-HEADERS"),
            ("listener", "ws", "MAX-RCV-SIZE NO-DELAY WEBSOCKET-CHECKORIGIN"),
            ("dialer", "wss", "MAX-RCV-SIZE NO-DELAY TLS-CONFIG WEBSOCKET-HEADERS"),
            ("listener", "wss", "MAX-RCV-SIZE NO-DELAY TLS-CONFIG WEBSOCKET-CHECKORIGIN"),
            ("dialer", "unix", "MAX-RCV-SIZE"),
            ("dialer", "tcp6", "MAX-RCV-SIZE KEEPALIVE KEEPALIVETIME NO-DELAY"),
            ("listener", "tls+tcp4", "MAX-RCV-SIZE KEEPALIVE KEEPALIVETIME NO-DELAY TLS-CONFIG"),
            ("listener", "abstract", "MAX-RCV-SIZE UNIX-IPC-CHMOD UNIX-IPC-OWNER UNIX-IPC-GROUP"),
            ("dialer", "mock", "MAX-RCV-SIZE"),
            ("listener", "mock", "MAX-RCV-SIZE"),
        ],
    )
    def test_endpoints(self, kind: str, scheme: str, names: str) -> None:
        wanted = set(names.split()) | {"HANDSHAKE-TIMEOUT"}
        more = "RECONNECT-TIME MAX-RECONNECT-TIME DIAL-ASYNCH" if kind == "dialer" else ADMISSION
        wanted |= set(more.split())
        assert names_at(Place(kind, scheme)) == wanted
        assert set(endpoint_defaults(kind, scheme)) == wanted

    @pytest.mark.parametrize("scheme", [*SCHEMES, "mock"])
    def test_pipes_show_what_their_endpoints_have(self, scheme: str) -> None:
        wanted = {"LOCAL-ADDR", "REMOTE-ADDR"} | names_at(Place("dialer", scheme)) | names_at(Place("listener", scheme))
        wanted |= {"TLS-STATE"} if scheme in ("tls+tcp", "wss") else set()
        wanted |= {"HTTP-REQUEST"} if scheme in ("ws", "wss") else set()
        wanted |= {"PEER-PID", "PEER-UID", "PEER-GID"} if scheme == "ipc" else set()
        assert names_at(Place("pipe", scheme)) == wanted

    @pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
    def test_each_is_documented_and_somewhere(self, option: Option) -> None:
        assert option.doc.endswith(".")
        assert option.where
        assert option_name(attribute(option.name)) == option.name

    @pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
    def test_defaults_are_canonical(self, option: Option) -> None:
        for default in (option.default, *option.special.values()):
            if default is not None:
                assert option.coerce(default) == default

    def test_the_page_of_the_documentation_is_up_to_date(self) -> None:
        page = Path(__file__).parent.parent / "docs" / "options.md"
        assert page.read_text() == markdown() + "\n", "run: python -m spworkers._optiondocs > docs/options.md"


class TestTimes:
    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            (1, 1.0),
            (0.25, 0.25),
            (timedelta(milliseconds=20), 0.02),
            (0, 0.0),
            (None, 0.0),
            (math.inf, 0.0),
            (Fraction(10**400, 3), 0.0),
        ],
    )
    def test_forms(self, value: Any, seconds: float) -> None:
        canonical = validate("RECV-DEADLINE", value, REQ)
        assert canonical == seconds
        assert type(canonical) is float

    def test_fractions_are_numbers_too(self) -> None:
        assert validate("RECV-DEADLINE", Fraction(1, 4), REQ) == 0.25

    @pytest.mark.parametrize("value", [-1, -0.5, timedelta(seconds=-3)])
    def test_a_negative_deadline_stays_negative(self, value: Any) -> None:
        assert validate("SEND-DEADLINE", value, REQ) < 0

    @pytest.mark.parametrize(
        "value",
        [
            "1",
            "junk",
            b"1",
            True,
            False,
            datetime(2020, 1, 1),
            [1],
            1j,
            math.nan,
            -math.inf,
            Fraction(-(10**400), 3),
            object(),
        ],
    )
    @pytest.mark.parametrize("name", ["RECV-DEADLINE", "SEND-DEADLINE", "RETRY-TIME", "RECONNECT-TIME", "LINGER"])
    def test_what_is_no_time(self, name: str, value: Any) -> None:
        with pytest.raises(BadValueError, match=name):
            validate(name, value, REQ)

    @pytest.mark.parametrize("name", ["RETRY-TIME", "RECONNECT-TIME", "MAX-RECONNECT-TIME", "HANDSHAKE-TIMEOUT"])
    def test_what_cannot_be_negative(self, name: str) -> None:
        with pytest.raises(BadValueError, match=f"{name} must be 0 or more, not -1"):
            validate(name, -1, REQ)

    @pytest.mark.parametrize("name", ["RECONNECT-TIME", "MAX-RECONNECT-TIME", "KEEPALIVETIME"])
    @pytest.mark.parametrize("value", [None, math.inf])
    def test_what_cannot_be_endless(self, name: str, value: Any) -> None:
        with pytest.raises(BadValueError, match=name):
            validate(name, value, REQ)

    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_every_float_round_trips(self, value: float) -> None:
        assert validate("RECV-DEADLINE", value, REQ) == value

    @pytest.mark.parametrize(("option", "wait"), [(0.0, math.inf), (-1.0, 0.0), (2.5, 2.5)])
    def test_how_long_an_option_waits(self, option: float, wait: float) -> None:
        assert wait_seconds(option) == wait
        assert timeout_seconds(None, option) == wait

    @pytest.mark.parametrize(
        ("timeout", "wait"),
        [
            (0, 0.0),
            (-1, 0.0),
            (1, 1.0),
            (math.inf, math.inf),
            (Fraction(10**400, 3), math.inf),
            (timedelta(minutes=1), 60.0),
        ],
    )
    def test_an_argument_wins_over_the_option(self, timeout: Any, wait: float) -> None:
        assert timeout_seconds(timeout, 7.0) == wait

    @pytest.mark.parametrize("timeout", ["1", True, math.nan, [1]])
    def test_an_argument_that_is_no_time(self, timeout: Any) -> None:
        with pytest.raises(BadValueError, match="timeout wants seconds"):
            timeout_seconds(timeout, 0.0)


class TestValues:
    @pytest.mark.parametrize(("name", "good"), [("TTL", [1, 2, 255]), ("READQ-LEN", [0, 1, 32768])])
    def test_numbers_in_range(self, name: str, good: list[int]) -> None:
        place = Place("socket", "respondent")
        assert [validate(name, value, place) for value in good] == good

    @pytest.mark.parametrize("value", [0, -1, 256, "garbage", 1.0, True, None])
    def test_ttl(self, value: Any) -> None:
        with pytest.raises(BadValueError, match="TTL"):
            validate("TTL", value, REP)

    @pytest.mark.parametrize("name", ["READQ-LEN", "WRITEQ-LEN"])
    @pytest.mark.parametrize("value", [-1, 32769, "1", 2.0, True, False, None])
    def test_queue_lengths(self, name: str, value: Any) -> None:
        with pytest.raises(BadValueError, match=name):
            validate(name, value, Place("socket", "pair"))

    @pytest.mark.parametrize("value", [0, 1, "true", None, b""])
    def test_flags_are_bools(self, value: Any) -> None:
        with pytest.raises(BadValueError, match="BEST-EFFORT wants True or False"):
            validate("BEST-EFFORT", value, REQ)

    @pytest.mark.parametrize(
        ("value", "topic"), [("é", "é".encode()), (b"a", b"a"), (bytearray(b"b"), b"b"), ("", b"")]
    )
    def test_topics(self, value: Any, topic: bytes) -> None:
        assert validate("SUBSCRIBE", value, SUB) == topic
        assert type(validate("SUBSCRIBE", value, SUB)) is bytes

    def test_text_that_is_none(self) -> None:
        with pytest.raises(BadValueError, match=r"SUBSCRIBE wants bytes, or a text, and '\\udcff' is none"):
            validate("SUBSCRIBE", "\udcff", SUB)

    @pytest.mark.parametrize("value", [1, None, [b"a"], 1.5])
    def test_what_is_no_topic(self, value: Any) -> None:
        with pytest.raises(BadValueError, match="SUBSCRIBE wants bytes or str"):
            validate("SUBSCRIBE", value, SUB)

    @pytest.mark.parametrize("value", [0, 0o642, 0o777, None])
    def test_permission_bits(self, value: Any) -> None:
        assert validate("UNIX-IPC-CHMOD", value, Place("listener", "ipc")) == value

    @pytest.mark.parametrize("value", [-1, 0o1000, "0644", True])
    def test_what_are_no_permission_bits(self, value: Any) -> None:
        with pytest.raises(BadValueError, match="UNIX-IPC-CHMOD"):
            validate("UNIX-IPC-CHMOD", value, Place("listener", "ipc"))

    def test_the_message_says_value_and_range(self) -> None:
        with pytest.raises(BadValueError) as caught:
            validate("TTL", 256, REP)
        assert str(caught.value) == "TTL must be 1 ... 255, not 256"
        with pytest.raises(BadValueError, match=r"0 \.\.\. 0o777"):
            validate("UNIX-IPC-CHMOD", 0o1000, Place("listener", "ipc"))

    def test_tls_config(self) -> None:  # more of it in test_tlsconfig.py
        place = Place("listener", "tls+tcp")
        config = TLSConfig()
        assert validate("TLS-CONFIG", config, place) is config
        assert validate("TLS-CONFIG", "package.module:Class.factory", place) == "package.module:Class.factory"
        assert validate("TLS-CONFIG", None, place) is None

    @pytest.mark.parametrize("value", ["module", "module:", ":f", "a b:c", 3, object(), b"module:f"])
    def test_what_is_no_tls_config(self, value: Any) -> None:
        with pytest.raises(BadValueError, match="module:function"):
            validate("TLS-CONFIG", value, REP)

    def test_headers(self) -> None:
        place = Place("dialer", "ws")
        given = {"Authorization": "Bearer x", "X-Empty": "", "x-latin": "\xe4\t"}
        found = validate("WEBSOCKET-HEADERS", given, place)
        assert found == given
        given["Authorization"] = "changed"
        assert found["Authorization"] == "Bearer x"
        with pytest.raises(TypeError):
            found["Authorization"] = "changed"

    @pytest.mark.parametrize(
        ("value", "says"),
        [
            (None, "wants a mapping"),
            ([("a", "b")], "wants a mapping"),
            ({"": "x"}, "no name"),
            ({"a b": "x"}, "no name"),
            ({"a:": "x"}, "no name"),
            ({1: "x"}, "no name"),
            ({"a": "secret\r\nX: y"}, "no text of one line"),
            ({"a": "\N{SNOWMAN}"}, "no text of one line"),
            ({"a": b"x"}, "no text of one line"),
            ({"HOST": "x"}, "by itself"),
            ({"Upgrade": "x"}, "by itself"),
            ({"sec-websocket-key": "x"}, "by itself"),
        ],
    )
    def test_what_are_no_headers(self, value: Any, says: str) -> None:
        with pytest.raises(BadValueError, match=says) as caught:
            validate("WEBSOCKET-HEADERS", value, Place("dialer", "ws"))
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("value", [1 << 16, 1 << 30])
    def test_byte_budget_only_when_the_socket_is_made(self, value: int) -> None:
        assert validate("BYTE-BUDGET", value, REQ, creating=True) == value
        with pytest.raises(BadOptionError, match="pass byte_budget= to its constructor"):
            validate("BYTE-BUDGET", value, REQ)


class TestNames:
    def test_the_nearest_names(self) -> None:
        with pytest.raises(BadOptionError, match="did you mean RECV-DEADLINE") as caught:
            validate("RECV-DEDLINE", 1, REQ)
        assert caught.value.option == "RECV-DEDLINE"
        assert caught.value.nearest[0] == "RECV-DEADLINE"

    def test_nothing_near(self) -> None:
        with pytest.raises(BadOptionError, match="a req socket has no option 'XYZZY'; there are RAW, RECV-DEADLINE"):
            lookup("XYZZY", REQ)

    @pytest.mark.parametrize("name", ["recv_deadline", "recv-deadline", "Recv-Deadline", "", None, 3])
    def test_names_are_exact(self, name: Any) -> None:
        with pytest.raises(BadOptionError):
            validate(name, 1, REQ)

    def test_an_option_of_others(self) -> None:
        with pytest.raises(
            BadOptionError, match="a push socket has no option SURVEY-TIME; it is one of sockets of surveyor"
        ):
            validate("SURVEY-TIME", 1, PUSH)
        with pytest.raises(BadOptionError, match="a raw sub socket has no option SUBSCRIBE"):
            validate("SUBSCRIBE", b"", XSUB)
        with pytest.raises(BadOptionError, match="an inproc dialer has no option NO-DELAY"):
            validate("NO-DELAY", True, Place("dialer", "inproc"))

    def test_raw_cannot_be_set(self) -> None:
        with pytest.raises(BadOptionError, match="chosen when the socket is made"):
            validate("RAW", True, XREQ)

    def test_nothing_can_be_set_on_a_pipe(self) -> None:
        with pytest.raises(BadOptionError, match="can only be read"):
            validate("MAX-RCV-SIZE", 1, Place("pipe", "tcp"))
        with pytest.raises(BadOptionError, match="can only be read"):
            validate("PEER-PID", 1, Place("pipe", "ipc"))

    def test_topics_cannot_be_read(self) -> None:
        with pytest.raises(BadOptionError, match="can only be set"):
            lookup("SUBSCRIBE", SUB)


class TestKeywords:
    def test_canonical(self) -> None:
        given = {"recv_deadline": 1, "retry_time": timedelta(seconds=2), "byte_budget": 1 << 20}
        assert keywords(given, REQ) == [("RECV-DEADLINE", 1.0), ("RETRY-TIME", 2.0), ("BYTE-BUDGET", 1 << 20)]

    @pytest.mark.parametrize(("topics", "wanted"), [("a", [b"a"]), (b"", [b""]), (["a", b"b"], [b"a", b"b"]), ((), [])])
    def test_topics(self, topics: Any, wanted: list[bytes]) -> None:
        assert keywords({"subscribe": topics}, SUB) == [("SUBSCRIBE", topic) for topic in wanted]

    def test_a_wrong_topic_in_a_list(self) -> None:
        with pytest.raises(BadValueError, match="SUBSCRIBE"):
            keywords({"subscribe": ["a", 3]}, SUB)

    def test_the_nearest_keyword(self) -> None:
        with pytest.raises(
            BadOptionError, match="a req socket has no option 'recv_dedline'; did you mean recv_deadline"
        ):
            keywords({"recv_dedline": 1}, REQ)

    def test_a_keyword_of_others(self) -> None:
        with pytest.raises(BadOptionError, match="a req socket has no option SURVEY-TIME"):
            keywords({"survey_time": 1}, REQ)

    def test_option_names_serve_as_well(self) -> None:
        assert keywords({"RECV-DEADLINE": 1}, REQ) == [("RECV-DEADLINE", 1.0)]


class TestInheritance:
    def test_a_context_has_its_sockets_values_until_it_has_its_own(self) -> None:
        socket = OptionValues(REQ)
        context = OptionValues(Place("context", "req"), socket)
        assert context.get("RETRY-TIME") == 60.0
        socket.set("RETRY-TIME", 5)
        assert context.get("RETRY-TIME") == 5.0
        context.set("RETRY-TIME", 1)
        socket.set("RETRY-TIME", 7)
        assert (context.get("RETRY-TIME"), socket.get("RETRY-TIME")) == (1.0, 7.0)
        context.forget("RETRY-TIME")
        assert context.get("RETRY-TIME") == 7.0

    def test_a_context_has_no_more_than_its_own_options(self) -> None:
        context = OptionValues(Place("context", "req"), OptionValues(REQ))
        for name in ("RAW", "LINGER"):
            with pytest.raises(BadOptionError):
                context.get(name)

    def test_from_the_socket_to_the_pipe(self) -> None:
        socket = OptionValues(REQ)
        dialer = OptionValues(Place("dialer", "tcp"), socket)
        pipe = OptionValues(Place("pipe", "tcp"), dialer)
        socket.set("MAX-RCV-SIZE", 100)
        assert pipe.get("MAX-RCV-SIZE") == 100
        dialer.set("MAX-RCV-SIZE", 0)
        assert pipe.get("MAX-RCV-SIZE") == 0
        assert socket.get("MAX-RCV-SIZE") == 100

    def test_a_dialer_answers_for_its_socket_and_a_listener_does_not(self) -> None:
        socket = OptionValues(REQ)
        assert OptionValues(Place("dialer", "tcp"), socket).get("RETRY-TIME") == 60.0
        for place in (Place("listener", "tcp"), Place("dialer", "tcp")):
            with pytest.raises(BadOptionError, match=place.kind):
                OptionValues(place, socket).get("SURVEY-TIME" if place.kind == "dialer" else "RETRY-TIME")

    def test_what_is_read_only_is_stored(self) -> None:
        pipe = OptionValues(Place("pipe", "ipc"), OptionValues(Place("listener", "ipc"), OptionValues(REP)))
        pipe.store("PEER-PID", 4711)
        assert pipe.get("PEER-PID") == 4711
        with pytest.raises(BadOptionError):
            pipe.set("PEER-PID", 1)

    def test_keepalive_is_an_older_name(self) -> None:
        dialer = OptionValues(Place("dialer", "tcp"), OptionValues(REQ))
        assert dialer.get("KEEPALIVE") is True
        dialer.set("KEEPALIVE", False)
        assert (dialer.get("KEEPALIVE"), dialer.get("KEEPALIVETIME")) == (False, -1.0)
        dialer.set("KEEPALIVETIME", 20)
        assert dialer.get("KEEPALIVE") is True
        dialer.forget("KEEPALIVE")
        assert dialer.get("KEEPALIVETIME") == 0.0

    def test_what_travels_is_what_was_set(self) -> None:
        values = OptionValues(REP, given=keywords({"ttl": 3}, REP))
        values.set("UNIX-IPC-CHMOD", 0o600)
        assert values.own() == {"TTL": 3, "UNIX-IPC-CHMOD": 0o600}
        assert "TTL" in values
        values.set("UNIX-IPC-CHMOD", None)
        assert "UNIX-IPC-CHMOD" not in values


HANDLES = {
    "socket": SocketAttributes,
    "context": ContextAttributes,
    "dialer": DialerAttributes,
    "listener": ListenerAttributes,
    "pipe": PipeAttributes,
}


def descriptors(cls: type) -> dict[str, OptionAttribute[Any, Any]]:
    return {name: value for name, value in vars(cls).items() if isinstance(value, OptionAttribute)}


def descriptor_class(option: Option, kind: str) -> type:
    if kind == "pipe" or not option.settable:
        return ReadOnly
    if option.kind == "int" or option.kind == "mode":
        return MaybeNumber if option.default is None else Number
    return {"seconds": Time, "bool": Flag, "headers": Headers, "tls": TLS}[option.kind]


class TestAttributes:
    @pytest.mark.parametrize("kind", HANDLES)
    def test_equal_the_table(self, kind: str) -> None:
        places = [place for option in OPTIONS.values() for place in option.where if place.kind == kind]
        if kind == "pipe":
            places = [Place("pipe", scheme) for scheme in SCHEMES]
        wanted = {o.attribute: o for o in OPTIONS.values() if o.gettable and any(o.applies(place) for place in places)}
        found = descriptors(HANDLES[kind])
        assert set(found) == set(wanted)
        for name, descriptor in found.items():
            assert descriptor.name == wanted[name].name
            assert type(descriptor) is descriptor_class(wanted[name], kind), name
            assert descriptor.__doc__ == wanted[name].doc

    @pytest.mark.parametrize("protocol", [*PROTOCOLS, "socket"])
    def test_keywords_equal_the_table(self, protocol: str) -> None:
        protocols = PROTOCOLS if protocol == "socket" else [protocol]
        sockets = [Place.socket(each, raw=raw) for each in protocols for raw in (False, True)]
        wanted = {o.attribute for o in OPTIONS.values() if o.settable and any(o.applies(place) for place in sockets)}
        found = getattr(_optionkeywords, f"{protocol.capitalize()}Keywords").__annotations__
        constructor = {name for name in inspect.signature(Socket).parameters if name != "options"}
        assert set(found) == wanted - {"unsubscribe"} | (set() if protocol == "socket" else constructor)

    def test_constructors_name_their_own_keywords(self) -> None:
        found = {
            kind.name: ast.unparse(init.args.kwarg.annotation)
            for kind in ast.parse(inspect.getsource(sockets)).body
            if isinstance(kind, ast.ClassDef)
            for init in ast.walk(kind)
            if isinstance(init, ast.FunctionDef) and init.name == "__init__" and init.args.kwarg is not None
        }
        assert found == {name: f"Unpack[{name}Keywords]" for name in sockets.__all__}

    def test_get_and_set(self) -> None:
        class Handle(SocketAttributes):
            def __init__(self) -> None:
                values = OptionValues(PUSH)
                self.get_option, self.set_option = values.get, values.set

        handle: Any = Handle()
        handle.send_deadline = timedelta(seconds=1)
        assert handle.send_deadline == 1.0
        assert not hasattr(handle, "survey_time")
        with pytest.raises(BadOptionError):
            handle.raw = True
        with pytest.raises(BadValueError):
            handle.writeq_len = -1

    def test_on_the_class_they_are_themselves(self) -> None:
        assert SocketAttributes.ttl.name == "TTL"

    def test_mixins_add_no_dict(self) -> None:
        assert all(vars(cls)["__slots__"] == () for cls in HANDLES.values())

    def test_public(self) -> None:
        assert {cls.__name__ for cls in HANDLES.values()} == set(attributes.__all__)


KEYWORDS = _optionkeywords.SocketKeywords.__annotations__
KEYWORD_TYPES = {
    "seconds": "Seconds",
    "bool": "bool",
    "int": "int",
    "mode": "int",
    "headers": "Mapping[str, str]",
    "tls": "TLSConfig | Mapping[str, Any] | str | None",
}


class TestDeclaredOnce:
    """What cannot be made from the table, because a type checker or a lower layer reads it, says the same as it."""

    @pytest.mark.parametrize("name", KEYWORDS)
    def test_keywords_have_the_types_of_the_attributes(self, name: str) -> None:
        option = OPTIONS[option_name(name)]
        found = KEYWORDS[name]
        text = getattr(found, "__forward_arg__", found)
        if name == "subscribe":
            assert text == "str | bytes | Iterable[str | bytes]"
        else:
            optional = " | None" if option.kind in ("int", "mode") and option.default is None else ""
            assert text == KEYWORD_TYPES[option.kind] + optional

    @pytest.mark.parametrize("scheme", ["inproc", "ipc", "unix", "abstract", "tcp", "tls+tcp", "mock"])
    @pytest.mark.parametrize("kind", ["dialer", "listener", "pipe"])
    def test_transports_know_their_own_options(self, scheme: str, kind: str) -> None:
        every = {o.name for o in OPTIONS.values() if Place(kind, "*") in o.where and Place(kind, "inproc") in o.where}
        every -= {"LOCAL-ADDR", "REMOTE-ADDR"}  # which a transport has to find out itself
        place = Place(kind, scheme)
        own = {o.name for o in OPTIONS.values() if (o.applies(place) if kind != "pipe" else declared(o, scheme))}
        assert getattr(transport_for(f"{scheme}://x"), f"{kind}_options") == own - every

    @pytest.mark.parametrize("raw", [False, True], ids=["cooked", "raw"])
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_machines_begin_with_the_defaults(self, protocol: str, raw: bool) -> None:
        machine = Harness(machine_for(protocol, raw)).machine
        before = plain_state(machine)
        for name, value in defaults(protocol, raw).items():
            machine.configure(None, name, value)
        assert plain_state(machine) == before

    def test_drivers_and_transports_fall_back_to_the_defaults(self) -> None:
        found = set()
        for module in (tcp, ipc, dialer, listener):
            for call in [node for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.Call)]:
                function = getattr(call.func, "id", "")
                if function in ("flag", "seconds") and len(call.args) == 3 and isinstance(call.args[1], ast.Constant):
                    name = str(call.args[1].value)
                    found.add(name)
                    value = eval(ast.unparse(call.args[2]), vars(module))
                    assert value == OPTIONS[name].default, f"{module.__name__}: {name}"
        assert found == {
            "DIAL-ASYNCH",
            "HANDSHAKE-TIMEOUT",
            "KEEPALIVE",
            "KEEPALIVETIME",
            "MAX-RECONNECT-TIME",
            "RECONNECT-TIME",
        }


def declared(option: Option, scheme: str) -> bool:
    """Whether pipes of a scheme have an option of their own, not by way of what made them."""
    known = {"unix": "ipc", "abstract": "ipc", "mock": "*"}
    return Place("pipe", known.get(scheme, scheme)) in option.where


def plain_state(machine: Any) -> dict[str, Any]:
    """The numbers and flags that a machine holds; compiled, it has no `__dict__`."""
    state = {name: getattr(machine, name) for name in dir(machine) if not name.startswith("__")}
    return {name: value for name, value in state.items() if type(value) in (bool, int, float) and name != "_last_id"}


def test_numbers_that_fit_no_message_are_refused() -> None:
    option = OPTIONS["MAX-RCV-SIZE"]
    assert option.coerce(2**63 - 1) == 2**63 - 1
    with pytest.raises(BadValueError, match=r"MAX-RCV-SIZE must be less than 2\*\*63"):
        option.coerce(2**63)


@pytest.mark.once
@pytest.mark.parametrize("kind", ["socket", "context"])
def test_the_table_of_defaults_says_what_each_option_says(kind: str) -> None:
    for protocol in PROTOCOLS:
        for raw in (False, True):
            place = Place(kind, Place.socket(protocol, raw=raw).of)
            wanted = {
                each.name: each.default_at(place) for each in OPTIONS.values() if each.gettable and each.applies(place)
            }
            found = defaults(protocol, raw, kind)
            assert list(found) == list(wanted)
            assert found == {**wanted, **({"RAW": raw} if "RAW" in wanted else {})}
