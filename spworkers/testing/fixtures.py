"""Fixtures for pytest. They are used by tests that ask for them, once a conftest.py says so:

pytest_plugins = ["spworkers.testing.fixtures"]
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest

from spworkers.testing.certificates import CertificateAuthority
from spworkers.testing.clock import VirtualClock
from spworkers.testing.mock import Mock

__all__ = ["sp_ca", "sp_clock", "sp_inproc", "sp_mock"]

_numbers = itertools.count(1)


@pytest.fixture
def sp_clock() -> VirtualClock:
    """A clock at 0 s that the test moves."""
    return VirtualClock()


@pytest.fixture
def sp_inproc() -> str:
    """An inproc address that no other test uses."""
    return f"inproc://test-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def sp_mock() -> Iterator[Callable[..., Mock]]:
    """Makes Mocks, with the arguments of `Mock`; they are closed after the test."""
    made: list[Mock] = []

    def make(protocol: str | int | None = None, *, buffer: int | None = None) -> Mock:
        made.append(Mock(protocol, buffer=buffer))
        return made[-1]

    yield make
    for mock in made:
        mock.close()


@pytest.fixture(scope="session")
def sp_ca() -> Iterator[CertificateAuthority]:
    """An authority for the whole run; its files are gone afterwards."""
    with CertificateAuthority() as authority:
        yield authority
