"""docs/conformance.md: every clause has a test, and every test that it names exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"

LATER = "later"
"""What a row says whose transport or tool does not exist yet."""


class Clause(NamedTuple):
    text: str
    tests: list[str]
    cell: str


def clauses() -> list[Clause]:
    found = []
    for line in (ROOT / "docs" / "conformance.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 3 and cells[0] != "clause":
            found.append(Clause(cells[0], re.findall(r"`([^`]+)`", cells[1]), cells[1]))
    return found


CLAUSES = clauses()


def test_the_page_has_the_whole_list() -> None:
    assert len(CLAUSES) >= 120
    assert len({clause.text for clause in CLAUSES}) > 100


@pytest.mark.parametrize("clause", CLAUSES, ids=[clause.text for clause in CLAUSES])
def test_every_clause_has_a_test_or_says_when(clause: Clause) -> None:
    if clause.cell == LATER:
        return
    assert clause.tests, "it names no test"
    for test in clause.tests:
        file, _, name = test.partition("::")
        assert name, f"{test} names no test of that file"
        assert (TESTS / file).is_file(), f"there is no {file}"


@pytest.mark.once
def test_every_named_test_exists() -> None:
    named = {test for clause in CLAUSES for test in clause.tests}
    files = sorted({str(TESTS / test.partition("::")[0]) for test in named})
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "--rootdir", ROOT, "--collect-only", "-q"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", *files],
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    collected = {line.partition("[")[0].partition("tests/")[2] for line in done.stdout.splitlines() if "::" in line}
    assert not sorted(named - collected), "docs/conformance.md names tests that do not exist"
