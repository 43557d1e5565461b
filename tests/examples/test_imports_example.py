"""The example of a Pipeline from files into a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from examples.programs import Program


@pytest.mark.once
def test_imports(tmp_path: Path) -> None:
    output, checkpoint = tmp_path / "imports.jsonl", tmp_path / "checkpoint"
    arguments = ("--files", "40", "--output", str(output), "--checkpoint", str(checkpoint))
    with Program("imports.py", *arguments) as program:
        lines = program.ended()
    assert lines[0] == "imports"
    assert any(line.startswith("imports: 40 read, ") for line in lines)
    assert lines[-1].endswith(" modules")
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert len({each["file"] for each in found}) == len(found) > 30
    assert any("collections" in each["imports"] for each in found)
    assert checkpoint.exists()
