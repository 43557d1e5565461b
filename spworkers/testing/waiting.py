"""Waiting for a condition, with a deadline: what a test does instead of sleeping."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

__all__ = ["PAUSE", "aeventually", "eventually"]

T = TypeVar("T")

PAUSE = 0.01
"""Seconds between two looks at a condition."""


def eventually(condition: Callable[[], T], timeout: float = 10.0, *, what: str = "") -> T:
    """Wait until a condition holds.

    Args:
        condition: called again and again until its value is true; an AssertionError of it counts as "not yet".
        timeout: seconds after which the test fails.
        what: what is waited for, for the message of the failure.

    Returns:
        The condition's value.

    Raises:
        AssertionError: it did not hold in time; the message has the last value.
    """
    deadline = time.monotonic() + timeout
    while True:
        value, problem = _look(condition)
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(_failure(condition, timeout, what, value)) from problem
        threading.Event().wait(PAUSE)


async def aeventually(condition: Callable[[], T | Awaitable[T]], timeout: float = 10.0, *, what: str = "") -> T:
    """`eventually` for asyncio and trio; the condition may be a coroutine function."""
    deadline = time.monotonic() + timeout
    while True:
        value, problem = _look(condition)
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(_failure(condition, timeout, what, value)) from problem
        await anyio.sleep(PAUSE)


def _look(condition: Callable[[], T]) -> tuple[T | None, AssertionError | None]:
    try:
        return condition(), None
    except AssertionError as problem:
        return None, problem


def _failure(condition: object, timeout: float, what: str, value: object) -> str:
    return f"{what or getattr(condition, '__name__', condition)}: not within {timeout:g} s (last value: {value!r})"
