"""Random numbers: within their bounds, and all of them."""

from __future__ import annotations

import pytest

from spworkers.chance import between, random_bits

pytestmark = pytest.mark.once


def test_random_bits_have_that_many() -> None:
    assert {random_bits(5) for _ in range(2000)} == set(range(32))  # one is missing in one of 10 ** 26 runs
    assert random_bits(61).bit_length() <= 61


def test_between_is_between() -> None:
    found = [between(2.0, 3.0) for _ in range(200)]
    assert 2.0 <= min(found) < 2.5 < max(found) < 3.0
