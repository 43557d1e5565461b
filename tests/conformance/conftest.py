"""Peers by hand over each transport that has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.common import Far


@pytest.fixture(params=["mock", "tcp", "ipc"])
def far(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Far]:
    """Raw peers of a socket under test, over the mock transport and over real ones."""
    with Far(str(request.param), tmp_path) as made:
        yield made


@pytest.fixture
def mock_far(tmp_path: Path) -> Iterator[Far]:
    """Raw peers over the mock transport, whose connections are full after a few KiB."""
    with Far("mock", tmp_path, buffer=1) as made:
        yield made


@pytest.fixture(params=["inproc", "tcp", "ipc", "shm", "ws"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a socket listens, for another one to dial."""
    places = {
        "inproc": "inproc",
        "tcp": "tcp://127.0.0.1:0",
        "ipc": f"ipc://{tmp_path}/s",
        "shm": f"shm://{tmp_path}/s",
        "ws": "ws://127.0.0.1:0/sp",
    }
    return places[str(request.param)]
