"""docs/testing.md: its examples work, and its table names what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import spworkers.testing

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("source", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_of_the_page(source: str) -> None:
    names: dict[str, Any] = {}
    exec(compile(source, "docs/testing.md", "exec"), names)


def test_the_page_names_what_there_is() -> None:
    fakes = {"Delivery", "FakeLane", "FakeMessage", "FakePipe", "CertificateFiles"}  # of Harness and the authority
    assert {name for name in spworkers.testing.__all__ if f"`{name}" not in PAGE} <= fakes
