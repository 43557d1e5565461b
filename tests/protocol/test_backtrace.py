"""The road back (B16: TTL means the same everywhere)."""

from __future__ import annotations

import pytest
from wire import ID, word

from spworkers.protocol.backtrace import backtrace_length


@pytest.mark.parametrize("devices", range(8))
def test_ttl_words_are_allowed_the_id_included(devices: int) -> None:
    payload = b"".join(word(number) for number in range(devices)) + ID + b"body"
    length = 4 * (devices + 1)
    assert backtrace_length(payload, devices + 1) == length
    assert backtrace_length(payload, 255) == length
    assert backtrace_length(payload, devices) == 0 or devices == 0


def test_the_body_is_not_looked_at() -> None:
    assert backtrace_length(ID + word(1) * 100, 1) == 4
    assert backtrace_length(ID, 8) == 4


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x00", b"\x80\x00\x00", b"\x00\x01\x02\x03", b"\x00\x01\x02\x03\x80", word(1) * 5 + b"\x80\x00\x00"],
)
def test_an_end_that_is_missing_is_garbage(payload: bytes) -> None:
    assert backtrace_length(payload, 8) == -1


def test_more_words_than_allowed_are_no_garbage() -> None:
    assert backtrace_length(word(1) * 9, 8) == 0
    assert backtrace_length(word(1) * 8 + ID, 8) == 0
    assert backtrace_length(word(1) * 8, 8) == -1
