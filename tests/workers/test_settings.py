"""How requests are run: what may be asked for."""

from __future__ import annotations

import os
from typing import Any

import pytest

from spworkers.errors import BadOptionError, BadValueError
from spworkers.workers.quantities import bytes_of, size_text
from spworkers.workers.settings import Settings


@pytest.mark.parametrize(
    ("text", "size"),
    [(5, 5), ("5", 5), ("512MB", 512 * 1000**2), ("1.5 GiB", 3 << 29), ("2g", 2 * 1000**3), ("64ki", 64 << 10)],
)
def test_sizes(text: Any, size: int) -> None:
    assert bytes_of(text, "memory_limit") == size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (1, "1 byte"),
        (1023, "1023 bytes"),
        (1 << 10, "1 KiB"),
        (3 << 10, "3 KiB"),
        (1 << 20, "1 MiB"),
        (5 << 30, "5120 MiB"),
    ],
)
def test_a_size_is_said_in_a_unit_that_fits(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("memory_limit", "much"),
        ("memory_limit", 0),
        ("memory_limit", "1MB"),
        ("max_tasks", 0),
        ("max_tasks", 1.5),
        ("max_tasks", 2**64),
        ("memory_limit", 2**64),
        ("max_async_tasks", 20_000),
        ("retries", -1),
        ("timeout", 0),
        ("backlog", True),
        ("affinity", [10_000]),
        ("affinity", "0"),
        ("threads_per_worker", 0),
        ("max_async_tasks", 0),
        ("access_log", 1),
    ],
)
def test_bad_values_are_named(name: str, value: Any) -> None:
    with pytest.raises(BadValueError, match=f"calc: {name}"):
        Settings.check({name: value}, "calc")


def test_unknown_ones_are_told_the_nearest() -> None:
    with pytest.raises(BadOptionError, match="did you mean 'max_tasks'"):
        Settings.check({"max_task": 3}, "calc")


def test_jitter_of_nothing_is_refused() -> None:
    with pytest.raises(BadValueError, match="calc: max_tasks_jitter is 3, but there is no max_tasks to add it to"):
        Settings.check({"max_tasks_jitter": 3}, "calc")
    assert Settings.check({"max_tasks_jitter": 0}, "calc").max_tasks_jitter == 0


def test_they_travel_as_plain_values() -> None:
    settings = Settings.check({"timeout": 1, "memory_limit": "100MB", "max_tasks": 9}, "calc")
    assert Settings(**settings.to_map()) == settings


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes are not pinned here")
def test_affinity() -> None:
    ours = sorted(os.sched_getaffinity(0))
    assert Settings.check({"affinity": True}, "calc").affinity == ours
    assert Settings.check({"affinity": False}, "calc").affinity == []
    assert Settings.check({"affinity": [ours[0]]}, "calc").affinity == [ours[0]]
