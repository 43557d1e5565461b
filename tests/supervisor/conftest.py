from __future__ import annotations

from collections.abc import Iterator

import pytest
from supervising import supervisor

from spworkers.supervisor.handle import Supervisor


@pytest.fixture
def sup() -> Iterator[Supervisor]:
    """A supervisor for this test alone."""
    with supervisor("roles") as made:
        yield made
