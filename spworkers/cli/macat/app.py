"""The command: from its arguments to its exit code."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import spworkers as sp
from spworkers.cli.advice import for_commands
from spworkers.cli.macat.loops import Talk, put
from spworkers.cli.macat.mistakes import Mistake
from spworkers.cli.macat.options import Settings
from spworkers.cli.macat.parser import help_text, parse, usage
from spworkers.errors import ConnRefusedError, SPError
from spworkers.socket import Socket

__all__ = ["main", "run"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    name = os.path.basename(sys.argv[0]) or "macat"
    try:
        return 0 if run(sys.argv[1:] if arguments is None else arguments) else 1
    except Mistake as mistake:
        print(f"{name}: {mistake.message}", file=sys.stderr)
        if mistake.hint and mistake.hint != mistake.message:
            print(f"  ({mistake.hint})", file=sys.stderr)
        if mistake.usage:
            print(usage(), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except MemoryError:
        print(f"{name}: there is not enough memory for that", file=sys.stderr)
        return 1
    except BrokenPipeError:  # who read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def run(arguments: Sequence[str]) -> bool:
    """Do what the arguments say, in the original's order.

    Returns:
        Whether all that was to be sent has gone out; what has not is in the log.

    Raises:
        Mistake: something is wrong with them, or could not be done.
    """
    settings = parse(arguments)
    if settings.help:
        put(help_text().encode())
        return True
    _log(settings.verbosity)
    tls = _tls(settings)
    if not settings.protocol:
        raise Mistake("protocol not specified", "choose one, for instance --req; macat --help lists them")
    if not settings.listen and not settings.dial:
        raise Mistake("no address specified", "give --bind ADDR or --connect ADDR")
    if settings.topics and settings.protocol != "sub":
        raise Mistake("subscription only valid with SUB protocol", f"this is --{settings.protocol}")
    with _opened(settings) as socket:
        for address in settings.listen:
            _bind(socket, address, settings, tls)
        for address in settings.dial:
            _dial(socket, address, settings, tls)
        time.sleep(max(settings.delay, 0.0))
        try:
            Talk(socket, settings).run()
        finally:  # drained first, so that the figures are the last ones
            stats = socket._close()
            if settings.stats and stats is not None:
                _tell(stats)
        if stats is None:
            raise Mistake("close: the I/O process does not answer", "what was not sent before is lost")
        return "closed" not in stats["drops"]


def _opened(settings: Settings) -> Socket:
    kind = {"pair1": "Pair1"}.get(settings.protocol, settings.protocol.capitalize())
    options: dict[str, Any] = {}
    if settings.protocol == "sub" and not settings.raw_mode:
        options["subscribe"] = [os.fsencode(topic) for topic in settings.topics or [""]]
    elif settings.topics:
        raise Mistake(
            "subscription only valid with SUB protocol", "a raw SUB receives everything; leave --raw-mode out"
        )
    try:
        made: Socket = getattr(sp, kind)(raw=settings.raw_mode, **options)
    except SPError as error:
        raise Mistake(error.summary, str(error)) from error
    return made


def _bind(socket: Socket, address: str, settings: Settings, tls: dict[str, Any]) -> None:
    if _is_secure(address) and not settings.cert:
        raise Mistake("no server cert specified", f"{address} needs --cert FILE, and --key FILE if that has no key")
    try:
        socket.listen(address, **(tls if _is_secure(address) else {}))
    except SPError as error:
        raise Mistake(f"bind({address}): {error.summary}", for_commands(str(error))) from error


def _dial(socket: Socket, address: str, settings: Settings, tls: dict[str, Any]) -> None:
    if _is_secure(address) and not settings.cacert and not settings.insecure:
        raise Mistake("no CA cert specified", f"{address} needs --cacert FILE, or --insecure to believe anybody")
    try:
        socket.dial(address, **(tls if _is_secure(address) else {}))
    except ConnRefusedError as error:
        hint = "nobody listens there; start the listener first"
        raise Mistake(f"dial({address}): {error.summary}", hint) from error
    except SPError as error:
        raise Mistake(f"dial({address}): {error.summary}", for_commands(str(error))) from error


def _is_secure(address: str) -> bool:
    return address.startswith(("tls", "wss"))


def _tls(settings: Settings) -> dict[str, Any]:
    """The options of endpoints that need TLS. --cacert overrides --insecure, as in the original."""
    if not (settings.cert or settings.key or settings.cacert or settings.insecure):
        return {}
    if settings.key and not settings.cert:
        raise Mistake("no certificate for the key", "--key needs --cert FILE")
    files = {"cert": settings.cert, "key": settings.key or settings.cert, "ca": settings.cacert}
    given: dict[str, Any] = {name: path for name, path in files.items() if path}
    try:
        config = sp.TLSConfig(**given, verify_peer=bool(settings.cacert))
        config.check()  # here, whatever the addresses are: the original loads the files before it looks at them
        return {"tls_config": config}
    except SPError as error:
        raise Mistake(error.summary, str(error)) from error


def _log(verbosity: int) -> None:
    """What the library logs goes to standard error: warnings and errors, with -v more, with -q less."""
    logging.basicConfig(
        format="macat: %(message)s",
        level=min(max(logging.WARNING - 10 * verbosity, logging.DEBUG), logging.CRITICAL + 10),
    )


def _tell(stats: dict[str, Any]) -> None:
    for way in ("sent", "received"):
        print(f"{way}: {stats[way]} messages, {stats[way + '_bytes']} bytes", file=sys.stderr)
    for cause, number in sorted(stats["drops"].items()):
        print(f"dropped ({cause}): {number}", file=sys.stderr)
