"""CPython's own tests of executors, those that apply to any, run against `sp.Pool`; from its `test` package.

They are there from Python 3.13 on (before, the package was one module that runs the others' tests when it is imported,
or is not installed). Left out, and why:

* `test_future`: it makes Futures by hand; a pool's is made by `submit` (`test_pool.py`: callbacks, cancel, states).
* Of `test_shutdown` what runs programs, which name the library's own classes (`leaving` of `faults/poolprogram.py`);
  `test_cancel_futures`, where of fifty tasks some have begun at once, but our workers are
  started when they are needed (`test_shutdown_cancels_what_waits`); `test_hang_gh94440`, which gives it five seconds by
  the alarm clock (`test_shutdown_right_after_a_cancel`).
* `test_init`: a failing initializer breaks their pools (`faults`: `test_an_initializer_that_raises`).
* `test_deadlock` and the crashes of `test_process_pool`: they want BrokenProcessPool (`faults/test_pool_faults.py`).
* `test_thread_pool` and the rest of `test_process_pool`: threads, start methods, call queues.
"""

from __future__ import annotations

import unittest
from typing import Any

import pytest

import spworkers as sp

executor = pytest.importorskip("test.test_concurrent_futures.executor", reason="this Python has no `test` package")
waiting = pytest.importorskip("test.test_concurrent_futures.test_wait")
completed = pytest.importorskip("test.test_concurrent_futures.test_as_completed")
shutdown = pytest.importorskip("test.test_concurrent_futures.test_shutdown")


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


class TestWait(Mixin, waiting.WaitTests, unittest.TestCase):  # type: ignore[misc]
    pass


class TestAsCompleted(Mixin, completed.AsCompletedTests, unittest.TestCase):  # type: ignore[misc]
    pass


class TestShutdown(Mixin, shutdown.ExecutorShutdownTest, unittest.TestCase):  # type: ignore[misc]
    test_interpreter_shutdown = None
    test_submit_after_interpreter_shutdown = None
    test_hang_gh83386 = None
    test_hang_gh94440 = None
    test_cancel_futures = None
