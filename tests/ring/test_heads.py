"""The heads of calls and answers, against what `struct` makes of docs/call-format.md."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spworkers.errors import BadValueError
from spworkers.ring import answer_bytes, call_bytes, call_head_of

IDS = st.integers(0, (1 << 64) - 1)
PATIENCES = st.integers(0, (1 << 32) - 1)
MARKS = st.binary(min_size=2, max_size=2)


@given(MARKS, IDS, PATIENCES, st.binary(max_size=300))
def test_a_call(mark: bytes, call_id: int, patience: int, content: bytes) -> None:
    whole = call_bytes(mark, call_id, patience, content)
    assert whole == struct.pack(">2sQI", mark, call_id, patience) + content
    assert call_head_of(whole) == (call_id, patience)


@given(MARKS, IDS, st.binary(max_size=300))
def test_an_answer(mark: bytes, call_id: int, content: bytes) -> None:
    assert answer_bytes(mark, call_id, content) == struct.pack(">2sQ", mark, call_id) + content


def test_what_is_none() -> None:
    for mark in (b"", b"x", b"xyz"):
        with pytest.raises(BadValueError, match="a mark is 2 bytes"):
            call_bytes(mark, 1, 2, b"")
        with pytest.raises(BadValueError, match="a mark is 2 bytes"):
            answer_bytes(mark, 1, b"")
    for number in (-1, 1 << 64):
        with pytest.raises(OverflowError):
            answer_bytes(b"xy", number, b"")
    with pytest.raises(BadValueError, match="at least 14 bytes"):
        call_head_of(bytes(13))
