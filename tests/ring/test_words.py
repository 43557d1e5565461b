"""Words in memory that others read."""

from __future__ import annotations

import mmap
import time

import pytest

from spworkers.errors import InternalError
from spworkers.ring import Words


def test_they_are_what_a_view_of_the_same_memory_shows() -> None:
    memory = mmap.mmap(-1, 64)
    shown = memoryview(memory).cast("Q")
    words = Words(shown[2:6])
    assert len(words) == 4
    words.add(0)
    words.add(1)
    words.add(1)
    assert shown.tolist() == [0, 0, 1, 2, 0, 0, 0, 0]
    shown[3] = 41
    words.add(1)
    assert shown[3] == 42
    shown[3] = (1 << 64) - 1
    words.add(1)
    assert shown[3] == 0
    before = time.monotonic_ns()
    words.stamp(0, (1 << 64) - 1, 3)
    assert shown[2] == (1 << 64) - 1
    assert before <= shown[5] <= time.monotonic_ns()


def test_no_others_can_be_had() -> None:
    memory = mmap.mmap(-1, 64)
    words = Words(memoryview(memory).cast("Q")[2:6])
    for wrong in (-1, 4, 1 << 40):
        with pytest.raises(InternalError):
            words.add(wrong)
        with pytest.raises(InternalError):
            words.stamp(wrong, 1, 0)
        with pytest.raises(InternalError):
            words.stamp(0, 1, wrong)
    assert memory[:] == bytes(64)
    with pytest.raises(InternalError):
        Words(memoryview(memory)[4:12])
    with pytest.raises(BufferError):
        Words(bytes(64))


def test_the_memory_stays_while_there_are_words() -> None:
    memory = mmap.mmap(-1, 64)
    words = Words(memory)
    with pytest.raises(BufferError):
        memory.close()
    words.add(7)
    del words
    memory.close()
