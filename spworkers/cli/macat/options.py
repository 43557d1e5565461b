"""What macat can be told: each option once, with its name, its help and what it does to the settings."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from spworkers.cli.macat.durations import seconds
from spworkers.cli.macat.formats import FORMATS
from spworkers.cli.macat.mistakes import Mistake

__all__ = ["OPTIONS", "Option", "Settings"]


@dataclass
class Settings:
    """What the command line said."""

    protocol: str = ""
    raw_mode: bool = False
    verbosity: int = 0
    listen: list[str] = field(default_factory=list)
    dial: list[str] = field(default_factory=list)
    topics: list[str] = field(default_factory=list)
    count: int | None = None
    """Messages to send; None: not said; negative: without end."""
    recv_timeout: float | None = None
    send_timeout: float | None = None
    delay: float = 0.0
    interval: float | None = None
    format: str = ""
    data: bytes | None = None
    cert: str = ""
    key: str = ""
    cacert: str = ""
    insecure: bool = False
    stats: bool = False
    help: bool = False


class Option(NamedTuple):
    """One option. `argument`: what its value is called in the help; empty if it takes none."""

    names: tuple[str, ...]
    argument: str
    help: str
    apply: Callable[[Settings, str], None]


# --- what each does


def _verbosity(step: int) -> Callable[[Settings, str], None]:
    def apply(settings: Settings, _: str) -> None:
        settings.verbosity += step

    return apply


def _flag(name: str) -> Callable[[Settings, str], None]:
    return lambda settings, _: setattr(settings, name, True)


def _protocol(name: str) -> Callable[[Settings, str], None]:
    def apply(settings: Settings, _: str) -> None:
        if settings.protocol:
            raise Mistake("protocol already selected", f"--{settings.protocol} was given, and then --{name}; give one")
        settings.protocol = name

    return apply


def _address(where: str, prefix: str = "") -> Callable[[Settings, str], None]:
    def apply(settings: Settings, value: str) -> None:
        address = prefix + value
        if "://" not in address:
            raise Mistake("invalid address format", f"{value!r} is none; one is for instance tcp://127.0.0.1:5555")
        getattr(settings, where).append(address)

    return apply


def _topic(settings: Settings, value: str) -> None:
    settings.topics.append(value)


def _count(settings: Settings, value: str) -> None:
    try:
        settings.count = int(value)
    except ValueError:
        raise Mistake("failure parsing option value: --count", f"{value!r} is no whole number") from None


def _time(name: str, option: str) -> Callable[[Settings, str], None]:
    def apply(settings: Settings, value: str) -> None:
        try:
            setattr(settings, name, seconds(value))
        except ValueError:
            raise Mistake(
                f"failure parsing option value: {option}",
                f"{value!r} is no time (of 292 years at most); give seconds, or a number with ns, us, ms, s, m or h",
            ) from None

    return apply


def _format(name: str = "") -> Callable[[Settings, str], None]:
    def apply(settings: Settings, value: str) -> None:
        chosen = name or value
        if settings.format:
            raise Mistake("output format already set", f"{settings.format} was given, and then {chosen}; give one")
        if chosen not in FORMATS:
            raise Mistake("invalid format type", f"{chosen!r} is none of {', '.join(FORMATS)}")
        settings.format = chosen

    return apply


def _once(settings: Settings) -> None:
    if settings.data is not None:
        raise Mistake("data or file already set", "give one --data or one --file")


def _data(settings: Settings, value: str) -> None:
    _once(settings)
    settings.data = value.encode(errors="surrogateescape")


def _file(settings: Settings, value: str) -> None:
    _once(settings)
    if value != "-":
        settings.data = _read(value)
        return
    if sys.stdin is None:
        raise Mistake("open -: standard input is closed")
    try:
        settings.data = sys.stdin.buffer.read()
    except OSError as error:
        raise Mistake(f"read -: {error.strerror}") from None


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise Mistake(f"open {path}: {getattr(error, 'strerror', None) or error}") from None


def _pem(name: str, words: str) -> Callable[[Settings, str], None]:
    def apply(settings: Settings, value: str) -> None:
        if getattr(settings, name):
            raise Mistake(f"{words} already set", f"{getattr(settings, name)} was given, and then {value}; give one")
        _read(value)
        setattr(settings, name, value)

    return apply


# --- all of them, in the order of the help

_PROTOCOLS: Final = {
    "push": "send each message to one of the peers, in turn",
    "pull": "receive what is pushed",
    "pub": "send each message to all subscribers",
    "sub": "receive what is published (see --subscribe)",
    "req": "send a request, print the reply",
    "rep": "receive requests; reply with --data or --file",
    "surveyor": "ask all respondents, print their answers",
    "respondent": "receive surveys; answer with --data or --file",
    "bus": "send to all neighbours, and receive",
    "pair": "send to one peer, and receive",
    "pair1": "the same in PAIR version 1, which nng calls pair1",
    "star": "send to everybody, and receive; messages are passed on",
}

OPTIONS: Final[dict[str, list[Option]]] = {
    "Generic": [
        Option(("--verbose", "-v"), "", "log more to standard error", _verbosity(1)),
        Option(("--silent", "-q"), "", "log less to standard error", _verbosity(-1)),
        Option(
            ("--stats",), "", "at the end, print what was sent, received and dropped to standard error", _flag("stats")
        ),
        Option(("--help", "-h"), "", "print this, and end", _flag("help")),
    ],
    "Socket type (one)": [
        *(Option((f"--{name}",), "", text, _protocol(name)) for name, text in _PROTOCOLS.items()),
        Option(
            ("--raw-mode",),
            "",
            "a raw socket: headers are printed before bodies, and there is no protocol state",
            _flag("raw_mode"),
        ),
    ],
    "Addresses (one or more)": [
        Option(("--bind",), "ADDR", "listen at ADDR, for instance tcp://127.0.0.1:5555", _address("listen")),
        Option(("--connect",), "ADDR", "dial ADDR", _address("dial")),
        Option(("--bind-ipc", "-X"), "PATH", "listen at ipc://PATH", _address("listen", "ipc://")),
        Option(("--connect-ipc", "-x"), "PATH", "dial ipc://PATH", _address("dial", "ipc://")),
        Option(
            ("--bind-local", "-L"), "PORT", "listen at tcp://127.0.0.1:PORT", _address("listen", "tcp://127.0.0.1:")
        ),
        Option(("--connect-local", "-l"), "PORT", "dial tcp://127.0.0.1:PORT", _address("dial", "tcp://127.0.0.1:")),
    ],
    "Receiving": [
        Option(("--subscribe",), "PREFIX", "only messages that begin so; may be repeated (with --sub)", _topic),
        Option(
            ("--recv-timeout",), "TIME", "end when nothing came for so long", _time("recv_timeout", "--recv-timeout")
        ),
        Option(("--format",), "FORMAT", f"how to print messages: {', '.join(FORMATS)}", _format()),
        Option(("--raw",), "", "as they are, nothing between them", _format("raw")),
        Option(("--ascii", "-A"), "", "a line each, a dot for what is not printable", _format("ascii")),
        Option(("--quoted", "-Q"), "", r"a line each, with \n, \r, \\, \" and \xNN", _format("quoted")),
        Option(("--msgpack",), "", "as msgpack's type bin", _format("msgpack")),
    ],
    "Sending": [
        Option(("--data", "-D"), "DATA", "what to send, or to reply", _data),
        Option(("--file", "-F"), "FILE", "the same from a file; - is standard input", _file),
        Option(
            ("--count",),
            "N",
            "send so often (1; without end with --send-interval; -1: without end)",
            _count,
        ),
        Option(
            ("--send-interval", "--interval", "-i"),
            "TIME",
            "send again and again, so long apart",
            _time("interval", "--send-interval"),
        ),
        Option(
            ("--send-delay", "--delay", "-d"),
            "TIME",
            "wait so long before the first message",
            _time("delay", "--send-delay"),
        ),
        Option(
            ("--send-timeout",),
            "TIME",
            "give up when a message cannot be sent for so long",
            _time("send_timeout", "--send-timeout"),
        ),
    ],
    "TLS": [
        Option(("--cert", "-E"), "FILE", "our certificate (PEM)", _pem("cert", "certificate file")),
        Option(
            ("--key",), "FILE", "our private key (PEM), if it is not in the certificate's file", _pem("key", "key file")
        ),
        Option(
            ("--cacert",),
            "FILE",
            "whom to trust (PEM); a server then demands certificates of its clients",
            _pem("cacert", "cacert"),
        ),
        Option(("--insecure", "-k"), "", "believe any certificate, without --cacert", _flag("insecure")),
    ],
}
