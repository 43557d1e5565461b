"""Runs the cases: in each round every peer once, in processes of its own, the order turned from round to round."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import cpu
from benchmarks.contract import CASES, Case
from benchmarks.peers import PEERS

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 30.0  # seconds that a process may take for anything that is not measured


class RunFailed(Exception):
    """A process of a peer ended, or said nothing, where it should have answered."""


@dataclass(frozen=True)
class Measurement:
    """One peer in one round. `value` is the case's figure: p50 in µs, or messages per second."""

    value: float
    p99: float | None
    rate: float
    cpu_us: float
    count: int
    seconds: float
    gc: bool


class Child:
    """A process that speaks the lines of child.py."""

    def __init__(self, *arguments: str) -> None:
        path = os.pathsep.join(part for part in (str(ROOT), os.environ.get("PYTHONPATH", "")) if part)
        self.complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed in end()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.child", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.complaints,
            env={**os.environ, "PYTHONPATH": path},
            cwd=ROOT,
        )
        self.name = " ".join(arguments)

    @property
    def pid(self) -> int:
        return self.process.pid

    def tell(self, **fields: Any) -> None:
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps(fields).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self.ended() from None

    def hear(self, patience: float) -> dict[str, Any]:
        """Its next line. There is one to a question, so none is left in the buffer where select() would miss it."""
        assert self.process.stdout
        if not select.select([self.process.stdout], [], [], patience)[0]:
            raise RunFailed(f"{self.name} said nothing for {patience:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            raise self.ended()
        heard: dict[str, Any] = json.loads(line)
        return heard

    def ended(self) -> RunFailed:
        """What to raise when it is gone too early: its status, and the last thing that it had to say."""
        status = self.process.wait()
        self.complaints.seek(0)
        last = self.complaints.read().decode(errors="replace").strip().rpartition("\n")[2]
        return RunFailed(f"{self.name} ended with status {status}: {last or 'it said nothing'}")

    def end(self) -> None:
        """Close its input, by which it ends; kill it if it does not."""
        assert self.process.stdin
        assert self.process.stdout
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.complaints.close()


@contextmanager
def child(*arguments: str) -> Iterator[Child]:
    process = Child(*arguments)
    try:
        yield process
    finally:
        process.end()


def measure(peer: str, case: Case, count: int, seconds: float) -> Measurement:
    """One peer, one case, once. Raises RunFailed."""
    with child(peer, case.name, "serve") as server:
        address = server.hear(PATIENCE)["address"]
        with child(peer, case.name, "client", address) as client:
            try:
                ready = client.hear(PATIENCE)
                pids = (server.pid, client.pid)
                before = cpu.seconds(pids)
                client.tell(count=count, seconds=seconds)
                got = client.hear(PATIENCE + seconds)
                used = cpu.seconds(pids) - before
            except RunFailed:
                if server.process.poll() is not None:  # then the client waited for nobody
                    raise server.ended() from None
                raise
    if not got["count"]:
        raise RunFailed(f"{peer} answered nothing in {seconds} s")
    rate = got["count"] / got["seconds"]
    return Measurement(
        value=got["p50"] if case.latency else rate,
        p99=got.get("p99"),
        rate=rate,
        cpu_us=used / got["count"] * 1e6,
        count=got["count"],
        seconds=got["seconds"],
        gc=ready["gc"],
    )


@dataclass
class Results:
    """All of one case: for each peer a list over the rounds, None where it failed; and why something is missing."""

    case: Case
    rounds: dict[str, list[Measurement | None]]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        return {
            "about": self.case.about,
            "unit": self.case.unit,
            "notes": self.notes,
            "rounds": {peer: [m and asdict(m) for m in runs] for peer, runs in self.rounds.items()},
        }


def present(names: Sequence[str], case: Case | None = None) -> tuple[list[str], list[str]]:
    """Which of the named peers can take part (in this case), and a note for each that cannot."""
    reasons = {name: PEERS[name].missing() or (case and case.lacks(name)) for name in names}
    notes = [f"{name} is left out: {reason}" for name, reason in reasons.items() if reason]
    return [name for name in names if not reasons[name]], notes


def run(
    case: str, peers: Sequence[str], rounds: int, count: int, seconds: float, tell: Callable[[str], None]
) -> Results:
    """Every peer `rounds` times, one at a time, nobody always first. `tell` gets a line about each run."""
    names, notes = present(peers, CASES[case])
    results = Results(CASES[case], {name: [] for name in names}, notes)
    for number in range(rounds):
        turn = number % len(names) if names else 0
        for name in names[turn:] + names[:turn]:
            begin = time.monotonic()
            try:
                measured = measure(name, results.case, count, seconds)
            except RunFailed as error:
                results.rounds[name].append(None)
                notes.append(f"round {number + 1}: {error}")
                tell(f"{case} {number + 1}/{rounds} {name}: FAILED: {error}")
                continue
            results.rounds[name].append(measured)
            tell(
                f"{case} {number + 1}/{rounds} {name}: {measured.value:,.1f} {results.case.unit}, "
                f"{measured.cpu_us:.1f} µs CPU a message ({time.monotonic() - begin:.1f} s)"
            )
    return results
