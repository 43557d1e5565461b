from __future__ import annotations

from collections.abc import Iterator

import pytest
from supervising import supervisor

from spworkers.supervisor.handle import Supervisor


@pytest.fixture
def sup(monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    """A supervisor for this test alone, that expects nothing, whatever other tests have imported."""
    monkeypatch.setattr("spworkers.supervisor.handle._FORETOLD", {})
    with supervisor("roles") as made:
        yield made
