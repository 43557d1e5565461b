"""The client of docs/call-format.md: another library, the same format."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spworkers.workers.app import App

pytestmark = pytest.mark.interop
pytest.importorskip("pynng")

ROOT = Path(__file__).parents[2]
SOURCE = (ROOT / "examples" / "call_format_client.py").read_text()

app = App("calc")


@app.handler
def add(a: int, b: int = 1) -> int:
    return a + b


@app.handler
def count(n: int) -> Iterator[int]:
    yield from range(n)


@pytest.fixture
def client() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("call_format_client", ROOT / "examples" / "call_format_client.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["call_format_client"] = module
    spec.loader.exec_module(module)
    with app.serve("tcp://127.0.0.1:0", workers=1, block=False) as server:
        found = module.Client(server.address)
        found.Error = module.CallError
        yield found
        found.close()
    del sys.modules["call_format_client"]


def test_it_is_the_one_of_the_page_and_short() -> None:
    assert SOURCE in (ROOT / "docs" / "call-format.md").read_text()
    assert len(SOURCE.splitlines()) < 60
    assert "spworkers import" not in SOURCE
    assert "import spworkers" not in SOURCE


def test_it_calls(client: Any) -> None:
    assert client.call("add", 2, 3, timeout=20.0) == 5
    assert client.call("add", 2, b=40) == 42
    assert client.call("count", 5000, timeout=20.0) == list(range(5000))
    assert {handler["name"] for handler in client.call("sp.handlers")} == {"add", "count"}
    assert client.call("sp.health")["status"] == "ok"
    with pytest.raises(client.Error, match="arguments: add"):
        client.call("add", "two", timeout=20.0)
