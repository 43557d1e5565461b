"""The examples for asyncio and trio."""

from __future__ import annotations

import importlib.util
import re

import pytest
from examples.programs import Program


def test_with_asyncio() -> None:
    with Program("with_asyncio.py", "25") as program:
        (line,) = program.ended()
    assert re.fullmatch(r"25 replies in \d+\.\d\d s, the last one: REQUEST 24", line)


@pytest.mark.skipif(not importlib.util.find_spec("trio"), reason="trio is not installed")
def test_with_trio() -> None:
    with Program("with_trio.py") as program:
        lines = program.ended()
    assert sorted(lines) == ["sport: four to two", "sport: rain stops play", "weather: rain"]
    assert [line for line in lines if line.startswith("sport")] == ["sport: four to two", "sport: rain stops play"]
