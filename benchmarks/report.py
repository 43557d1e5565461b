"""What the rounds come to: medians, spreads, ratios; as markdown for people and as JSON for programs."""

from __future__ import annotations

import importlib.util
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.peers import GAUGE, PEERS, SUBJECT
from benchmarks.runner import Measurement, Results


@dataclass(frozen=True)
class Spread:
    """The median of several figures, the least and the greatest."""

    median: float
    least: float
    greatest: float

    @staticmethod
    def of(figures: Sequence[float]) -> Spread:
        return Spread(statistics.median(figures), min(figures), max(figures))


def ratio(results: Results, one: str, other: str) -> Spread | None:
    """How many times better `one` is than `other`: within each round (the same minute), then the median."""
    pairs = zip(results.rounds.get(one, []), results.rounds.get(other, []), strict=False)
    quotients = [(b.value / a.value if results.case.latency else a.value / b.value) for a, b in pairs if a and b]
    return Spread.of(quotients) if quotients else None


def summary(results: Results) -> dict[str, Any]:
    """Per peer: spreads of the case's figure, p99, rate and CPU, and how the subject and the gauge compare with it."""
    found: dict[str, Any] = {}
    for peer, runs in results.rounds.items():
        good: list[Measurement] = [run for run in runs if run]
        if not good:
            continue
        found[peer] = {
            "value": asdict(Spread.of([run.value for run in good])),
            "p99": asdict(Spread.of([run.p99 for run in good if run.p99 is not None]))
            if results.case.latency
            else None,
            "rate": asdict(Spread.of([run.rate for run in good])),
            "cpu_us": asdict(Spread.of([run.cpu_us for run in good])),
            "rounds": len(good),
            "ratios": {
                f"{SUBJECT}/{peer}": as_optional(ratio(results, SUBJECT, peer)) if peer != SUBJECT else None,
                f"{peer}/{GAUGE}": as_optional(ratio(results, peer, GAUGE)) if peer != GAUGE else None,
            },
        }
    return found


def as_optional(spread: Spread | None) -> dict[str, float] | None:
    return asdict(spread) if spread else None


def number(figure: float) -> str:
    """Three or four digits, whatever the size."""
    if figure >= 100:
        return f"{figure:,.0f}"
    return f"{figure:.1f}" if figure >= 10 else f"{figure:.2f}"


def spread(fields: dict[str, float] | None, unit: str = "") -> str:
    if fields is None:
        return "–"
    return f"{number(fields['median'])}{unit} ({number(fields['least'])}–{number(fields['greatest'])})"


def table(results: Results) -> str:
    """A markdown section for one case."""
    latency = results.case.latency
    head = ["peer", f"p50 {results.case.unit}" if latency else results.case.unit]
    head += ["p99 µs"] if latency else []
    head += ["CPU µs/message", f"{SUBJECT} is better by", f"against {GAUGE}"]
    lines = [f"### {results.case.name}", "", results.case.about + ".", ""]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for peer, figures in summary(results).items():
        row = [peer, spread(figures["value"])]
        row += [spread(figures["p99"])] if latency else []
        row.append(spread(figures["cpu_us"]))
        row += [spread(found, "×") for found in figures["ratios"].values()]
        lines.append("| " + " | ".join(row) + " |")
    lines += [""] + [f"* {note}" for note in results.notes] + ([""] if results.notes else [])
    return "\n".join(lines)


def machines() -> str:
    """Whether the subject's protocol machines run compiled or interpreted, which is a matter of how it was built."""
    if PEERS[SUBJECT].missing():
        return "absent"
    found = importlib.util.find_spec("spworkers.protocol.req")
    origin = found.origin if found else None
    return "compiled" if origin and not origin.endswith(".py") else "interpreted"


def environment() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": sys.version.split()[0],
        "implementation": platform.python_implementation(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "machines": machines(),
        "versions": {name: peer.version() for name, peer in PEERS.items() if not peer.missing() and peer.distribution},
    }


def markdown(all_results: Sequence[Results], settings: dict[str, Any]) -> str:
    where = environment()
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    head = (
        f"Medians over {settings['rounds']} rounds (least–greatest), peers alternating, at most "
        f"{settings['seconds']:g} s or {settings['count']:,} messages a run. "
        f"{where['implementation']} {where['python']}, {where['system']}, {where['cpus']} CPUs; "
        f"{versions}; {SUBJECT}' protocol machines {where['machines']}. {where['when']}."
    )
    return "\n".join([head, "", *(table(results) for results in all_results)])


def document(all_results: Sequence[Results], settings: dict[str, Any]) -> dict[str, Any]:
    """Everything, for a program: environment, settings, every round, and what they come to."""
    cases = {results.case.name: {**results.as_dict(), "summary": summary(results)} for results in all_results}
    return {"environment": environment(), "settings": settings, "cases": cases}
