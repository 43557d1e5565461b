"""The ring's sleep and wake protocol, checked exhaustively: every interleaving of small programs, with store buffers.

Each model holds as it is designed, and fails as soon as one of its precautions is left out: only that shows that the
first result means something. The models say at their top what they check; docs/architecture.md names the orderings.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NEEDED = ("spin", "gcc")
MISSING = [tool for tool in NEEDED if shutil.which(tool) is None]
SECONDS = 60.0  # for each step of each model; the slowest takes about ten
MEGABYTES = 2500

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"the models need spin and gcc; not installed: {', '.join(MISSING)}"),
    pytest.mark.timeout(4 * SECONDS),
    pytest.mark.slow,
    pytest.mark.once,
]

HOLDS = [
    ("ring", ""),
    ("ring", "WINDOW=1"),
    ("ring", "WINDOW=3 RECORDS=4"),
    ("ring", "CONSUMERS=2"),
    ("ring", "CRASH"),
    ("ring", "CRASH WINDOW=1"),
    ("ring", "PATIENT"),
    ("ring", "PATIENT WINDOW=1"),
    ("ring", "PATIENT WINDOW=3 RECORDS=4"),
    ("ring", "PATIENT CONSUMERS=2"),
    ("ring", "PATIENT CRASH"),
    ("ring", "PATIENT PSO"),
    ("ring", "PSO"),
    ("ring", "PSO CONSUMERS=2"),
    ("ring", "PSO CRASH"),
    ("fileno", ""),
    ("fileno", "WINDOW=1"),
    ("fileno", "CONSUMERS=2"),
    ("fileno", "PSO"),
    ("board", ""),
    ("board", "PSO"),
    ("board", "PRODUCERS=1 RECORDS=3"),
    ("board", "CRASH RECORDS=1"),
    ("board", "CRASH PRODUCERS=1"),
    ("board", "EDGE"),
    ("board", "EDGE PSO"),
    ("board", "EDGE PRODUCERS=1 RECORDS=3"),
    ("board", "EDGE CRASH PRODUCERS=1"),
    ("claim", ""),
    ("claim", "CAPACITY=3"),
    ("claim", "WINDOW=1 CAPACITY=1"),
    ("claim", "WINDOW=3 CAPACITY=3"),
    ("waiters", ""),
    ("waiters", "WAITERS=3"),
]

FAILS = [
    ("ring", "NO_FENCE"),
    ("ring", "NO_FENCE_PUBLISH"),
    ("ring", "NO_FENCE_ARM_RECV"),
    ("ring", "NO_FENCE_FREE WINDOW=1"),  # with a larger window another record is there to look at the flag again
    ("ring", "NO_FENCE_ARM_SEND"),
    ("ring", "NO_FENCE CONSUMERS=2"),
    ("ring", "PATIENT NO_FENCE_FREE WINDOW=1"),
    ("ring", "PATIENT NO_FENCE_ARM_SEND"),
    ("ring", "PATIENT HALF_BEFORE WINDOW=1"),
    ("ring", "CLEAR_LATE"),
    ("ring", "CRASH NO_DEATH_BELLS"),
    ("ring", "PSO NO_RELEASE"),
    ("fileno", "NO_FENCE_PUBLISH"),
    ("fileno", "NO_FENCE_ARM_RECV"),
    ("fileno", "CLEAR_LATE"),
    ("fileno", "LAZY"),
    ("fileno", "HUSH_ONCE"),
    ("fileno", "EXACT"),
    ("board", "NO_FENCE"),
    ("board", "NO_FENCE_PUBLISH"),
    ("board", "NO_FENCE_ARM"),
    ("board", "CLEAR_LATE"),
    ("board", "CRASH RECORDS=1 NO_SWEEP"),
    ("board", "EDGE NO_FENCE"),
    ("board", "EDGE NO_FENCE_PUBLISH"),
    ("board", "EDGE NO_FENCE_ARM"),
    ("board", "EDGE NO_LOOK"),
    ("board", "EDGE CRASH RECORDS=1 NO_SWEEP"),
    ("claim", "NO_GENERATION"),
    ("claim", "NO_CAS_HEAD"),
    ("claim", "NO_WAKE_ON_POP"),
    ("waiters", "STEAL"),
    ("waiters", "STEAL WAITERS=3"),
]

# What a model as designed need not reach: the ends of processes that never end, the death of sides that are not killed.
UNREACHED = re.compile(r'"-end-"|running\[|doomed\[')


@dataclass(frozen=True)
class Verdict:
    """What the verifier found: errors, states looked at, whether it saw them all, statements never executed."""

    errors: int
    states: int
    complete: bool
    unreached: list[str]
    report: str


def run(command: list[str], directory: Path) -> str:
    """Run a step and return what it printed; a step that fails, or takes too long, fails the test with its output."""
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        pytest.fail(f"{' '.join(command)} took more than {SECONDS:.0f} s: {error.stdout!r}")
    output = done.stdout + done.stderr
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{output}"
    return output


def judge(report: str) -> Verdict:
    errors = re.search(r"errors: (\d+)", report)
    states = re.search(r"(\d+) states, stored", report)
    assert errors and states, f"no verdict in:\n{report}"
    incomplete = re.search(
        r"max search depth too small|Search not completed|out of memory|hash table too small", report
    )
    found = re.findall(r"^\t(\S+\.pml:\d+, state \d+, .*)$", report, flags=re.MULTILINE)
    return Verdict(
        errors=int(errors[1]),
        states=int(states[1]),
        complete=incomplete is None,
        unreached=[line for line in found if not UNREACHED.search(line)],
        report=report,
    )


def verify(model: str, variant: str, directory: Path) -> Verdict:
    """Have spin write the verifier of this variant, compile it and let it look at every state."""
    for source in HERE.glob("*.pml"):
        shutil.copy(source, directory)
    defines = [f"-D{name}" for name in variant.split()]
    run(["spin", "-a", *defines, f"{model}.pml"], directory)
    # No partial order reduction: `timeout` and `unless` are what these models turn on, and they are small.
    run(["gcc", "-O1", "-w", "-DSAFETY", "-DNOREDUCE", f"-DMEMLIM={MEGABYTES}", "-o", "pan", "pan.c"], directory)
    return judge(run(["./pan", "-m20000", "-w22"], directory))


@pytest.mark.parametrize(("model", "variant"), HOLDS)
def test_holds(model: str, variant: str, tmp_path: Path) -> None:
    verdict = verify(model, variant, tmp_path)
    assert verdict.errors == 0, verdict.report
    assert verdict.complete, verdict.report
    assert verdict.states > 1000, f"hardly anything was looked at:\n{verdict.report}"
    if not variant:
        allowed = {"fileno": 6}.get(model, 0)  # paths that a program which polls does not need
        assert len(verdict.unreached) <= allowed, f"parts of the model never ran: {verdict.unreached}"


@pytest.mark.parametrize(("model", "variant"), FAILS)
def test_fails_without_a_precaution(model: str, variant: str, tmp_path: Path) -> None:
    verdict = verify(model, variant, tmp_path)
    assert verdict.errors > 0, f"{model} holds with {variant}: is that precaution needed at all?\n{verdict.report}"
    assert "assertion violated" in verdict.report, f"it fails, but not for what it claims:\n{verdict.report}"


def test_verdict_of_a_search_that_was_cut_short() -> None:
    report = (
        "error: max search depth too small\nState-vector 60 byte, depth reached 9, errors: 0\n  12 states, stored\n"
    )
    verdict = judge(report)
    assert not verdict.complete
    assert (verdict.errors, verdict.states) == (0, 12)
