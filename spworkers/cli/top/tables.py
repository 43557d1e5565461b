"""Programs as tables for a terminal."""

from __future__ import annotations

from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

__all__ = ["render"]

_UNITS: Final = ("", "k", "M", "G", "T")
PIPES_SHOWN: Final = 20
"""Pipes of one socket in the table, the busiest first; `--json` has more."""


def render(programs: list[dict[str, Any]]) -> RenderableType:
    """All of it; a sentence if there is nothing."""
    if not programs:
        return Text("no program of yours uses spworkers at present")
    parts: list[RenderableType] = []
    for program in programs:
        parts.append(_heading(program))
        if not program["answers"]:
            parts += [Text("does not answer", style="red"), Text()]
            continue
        parts.append(_sockets(program))
        if any(socket.get("pipes") for socket in program["sockets"]):
            parts.append(_pipes(program))
        if program["workers"]:
            parts.append(_workers(program))
        parts.append(Text())
    return Group(*parts[:-1])


def _heading(program: dict[str, Any]) -> Text:
    supervisor = program["supervisor"]
    text = Text(f"{program['pid']}", style="bold", no_wrap=True, overflow="ellipsis")
    text.append(f"  cpu {program['cpu']:.0f}%  rss {amount(program['rss'])}", style="dim")
    text.append(f"  supervisor {supervisor['pid']} rss {amount(supervisor['rss'])}  ", style="dim")
    text.append(program["command"], style="bold")
    return text


def _table(*columns: str, left: int = 1) -> Table:
    """Columns of text first, then those of figures."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        if number < left:
            table.add_column(column, overflow="ellipsis", no_wrap=True)
        else:
            table.add_column(column, justify="right", no_wrap=True)
    return table


def _sockets(program: dict[str, Any]) -> Table:
    table = _table(
        "SOCKET", "WHERE", "PID", "CPU%", "RSS", "PIPES", "OUT/s", "IN/s", "OUT", "IN", "RINGS", "DROPS", left=2
    )
    for socket in program["sockets"]:
        kind = f"{'x' if socket['raw'] else ''}{socket['protocol']}"
        start = [f"{kind} {socket['name']}".rstrip(), _where(socket), _pid(socket), f"{socket['cpu']:.0f}"]
        if not socket["answers"]:
            table.add_row(*start, amount(socket["rss"]), "does not answer", style="red")
            continue
        table.add_row(
            *start,
            amount(socket["rss"]),
            str(socket["pipe_count"]),
            amount(socket["sent_per_second"]),
            amount(socket["received_per_second"]),
            amount(socket["sent"]),
            amount(socket["received"]),
            _rings(socket),
            _drops(socket),
        )
    return table


def _where(socket: dict[str, Any]) -> str:
    ends = [(">", end) for end in socket.get("dialers", ())] + [("<", end) for end in socket.get("listeners", ())]
    return " ".join(f"{way}{end['address']}" for way, end in reversed(ends))


def _pid(process: dict[str, Any]) -> str:
    """With a sign for each process that had to be replaced."""
    return f"{process['pid'] or '-'}" + (f" (+{process['generation'] - 1})" if process["generation"] > 1 else "")


def _rings(socket: dict[str, Any]) -> str:
    """Messages that wait to be sent, and that wait to be received, in all contexts."""
    contexts = socket["contexts"]
    return f"{sum(each['sending'] for each in contexts)}/{sum(each['receiving'] for each in contexts)}"


def _drops(socket: dict[str, Any]) -> str:
    drops = socket["drops"]
    return " ".join(f"{cause} {amount(drops[cause])}" for cause in sorted(drops, key=drops.__getitem__)[::-1]) or "0"


def _pipes(program: dict[str, Any]) -> Table:
    table = _table("  PIPE", "PEER", "OUT", "IN", "OUT bytes", "IN bytes", left=2)
    for socket in program["sockets"]:
        for pipe in sorted(socket.get("pipes", []), key=_traffic, reverse=True)[:PIPES_SHOWN]:
            table.add_row(
                f"  {socket['protocol']} {pipe['id']}",
                pipe["remote"] or pipe["address"],
                *(amount(pipe[name]) for name in ("sent", "received", "sent_bytes", "received_bytes")),
            )
        if socket.get("pipe_count", 0) > PIPES_SHOWN:
            table.add_row(f"  {socket['protocol']}", f"… {socket['pipe_count'] - PIPES_SHOWN} more")
    return table


def _traffic(pipe: dict[str, Any]) -> int:
    return int(pipe["sent"] + pipe["received"])


def _workers(program: dict[str, Any]) -> Table:
    table = _table("  WORKER", "OF", "STATE", "PID", "CPU%", "RSS", "ANSWERED", "FAILED", left=3)
    for worker in program["workers"]:
        state = worker.get("state", worker["role"])
        if state == "busy":
            state = f"busy {worker['seconds']:.1f} s"
        table.add_row(
            f"  {worker['name']}",
            ", ".join(worker["sockets"]),
            state,
            _pid(worker),
            f"{worker['cpu']:.0f}",
            amount(worker["rss"]),
            amount(worker["answered"]) if "answered" in worker else "",
            amount(worker["failed"]) if "failed" in worker else "",
        )
    return table


def amount(number: float) -> str:
    """A number in at most five characters, such as 999, 12.3k or 4.0G."""
    size, order = float(number), 0
    while size >= 999.5 and order < len(_UNITS) - 1:
        size, order = size / 1000, order + 1
    return f"{size:.{1 if order and size < 99.95 else 0}f}{_UNITS[order]}"
