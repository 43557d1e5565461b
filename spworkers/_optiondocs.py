"""Prints docs/options.md: `python -m spworkers._optiondocs > docs/options.md`."""

from __future__ import annotations

from spworkers.options import OPTIONS, Option, places

__all__ = ["markdown"]

_PREAMBLE = """\
# Options

An option `RECV-DEADLINE` is the attribute and keyword `recv_deadline`, and `set_option("RECV-DEADLINE", ...)` sets it
too. Times are seconds (int or float) or a timedelta; where it is a wait, 0 and None mean for ever and a negative time
not at all.
A dialer and a listener begin with their socket's values, a pipe shows those of what made it, a context has its socket's
until it is given its own. A limit that is changed holds for the pipes that come. What `ipc` has, `unix`, `abstract` and
`shm` have. `xreq` is a raw req socket.

This page is printed by `python -m spworkers._optiondocs`.
"""


def _default_text(option: Option) -> str:
    text = (
        "" if option.default is None else f"{option.default:g} s" if option.kind == "seconds" else str(option.default)
    )
    return text + "".join(f" ({of}: {value})" for of, value in option.special.items())


def markdown() -> str:
    """The page."""
    rows = [
        _PREAMBLE,
        "| option | attribute | type | default | range | where | what |",
        "|---|---|---|---|---|---|---|",
    ]
    for option in OPTIONS.values():
        access = "" if option.settable and option.gettable else " (read only)" if option.gettable else " (a method)"
        cells = [
            f"`{option.name}`",
            f"`{option.attribute}`",
            option.kind + access,
            _default_text(option),
            option.range,
            places(option),
            option.doc,
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(markdown())
