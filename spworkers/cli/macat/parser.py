"""The command line, parsed as the original does: `--opt val`, `--opt=val`, `-oval`, `-o=val`, `-o val`, `-ab`, `--`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from spworkers.cli.macat.mistakes import Mistake
from spworkers.cli.macat.options import OPTIONS, Option, Settings

__all__ = ["help_text", "parse", "usage"]

_BY_NAME: Final = {name: option for options in OPTIONS.values() for option in options for name in option.names}


def parse(arguments: Sequence[str]) -> Settings:
    """What the arguments say; raises Mistake at the first thing that is wrong."""
    settings = Settings()
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            break
        if not word.startswith("-") or word == "-":
            rest.insert(0, word)
            break
        name, option, value, more = _split(word)
        if option is None:
            raise Mistake(f"no such option: {word}", usage=True)
        if option.argument and value is None:
            if not rest:
                raise Mistake(f"option requires value: {name}", usage=True)
            value = rest.pop(0)
        option.apply(settings, value or "")
        if more:
            rest.insert(0, more)
    if rest and not settings.help:
        raise Mistake("usage: extra arguments", f"{rest[0]!r} belongs to no option", usage=True)
    return settings


def _split(word: str) -> tuple[str, Option | None, str | None, str]:
    """The option's name, the option, the value in the same word, and the options that follow in it."""
    long = word.startswith("--")
    name = word.partition("=")[0] if long else word[:2]
    tail = word[len(name) :]
    option = _BY_NAME.get(name)
    if option is None or not tail:
        return name, option, None, ""
    if option.argument:
        return name, option, tail.removeprefix("="), ""
    if tail.startswith("="):  # a flag takes no value
        return name, None, None, ""
    return name, option, None, f"-{tail}"


def usage() -> str:
    """Two lines that say what it wants."""
    return (
        "usage: macat SOCKET-TYPE ADDRESS... [OPTIONS], for instance\n"
        "       macat --req --connect tcp://127.0.0.1:5555 --data ping --ascii\n"
        "       (macat --help lists all)"
    )


def help_text() -> str:
    """All options."""
    lines = [
        "usage: macat SOCKET-TYPE ADDRESS... [OPTIONS]",
        "",
        "Send and receive messages of the Scalability Protocols (nng, nanomsg, mangos) from a shell.",
    ]
    for title, options in OPTIONS.items():
        lines += ["", f"{title}:"]
        for option in options:
            names = ", ".join(option.names) + (f" {option.argument}" if option.argument else "")
            lines.append(f"  {names:<38} {option.help}" if len(names) <= 38 else f"  {names}\n{'':<41}{option.help}")
    lines += [
        "",
        "TIME is seconds, or a number with ns, us, ms, s, m or h. Nothing is printed without a format.",
        "Exit code: 0 if it worked, 1 if not.",
        "",
    ]
    return "\n".join(lines)
