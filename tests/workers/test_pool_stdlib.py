"""CPython's own tests of executors, those that apply to any, run against `sp.Pool`; from its `test` package."""

from __future__ import annotations

import unittest
from typing import Any

import pytest

import spworkers as sp

executor = pytest.importorskip("test.test_concurrent_futures.executor", reason="this Python has no `test` package")
waiting = pytest.importorskip("test.test_concurrent_futures.test_wait")
completed = pytest.importorskip("test.test_concurrent_futures.test_as_completed")


class Adapted(sp.Pool):
    """A pool that is made as ProcessPoolExecutor is."""

    def __init__(self, max_workers: int | None = None) -> None:
        super().__init__(max_workers)


class Mixin:
    """What the standard library's own mixins are for its executors."""

    worker_count = 3
    executor_type = Adapted

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        self.executor: Any = self.executor_type(max_workers=self.worker_count)

    def tearDown(self) -> None:
        self.executor.shutdown(wait=True)
        super().tearDown()  # type: ignore[misc]


class TestExecutor(Mixin, executor.ExecutorTest, unittest.TestCase):  # type: ignore[misc]
    def test_max_workers_negative(self) -> None:
        for number in (0, -1):
            with self.assertRaisesRegex(ValueError, f"workers is {number}; it has to be 1 or more"):
                self.executor_type(max_workers=number)


@pytest.mark.slow
class TestWait(Mixin, waiting.WaitTests, unittest.TestCase):  # type: ignore[misc]
    pass


class TestAsCompleted(Mixin, completed.AsCompletedTests, unittest.TestCase):  # type: ignore[misc]
    pass
