"""A `Pool` as joblib's backend: `joblib.parallel_config("spworkers")`, after `spworkers.executors.register_joblib()`.

joblib cuts its calls into batches and hands them to `submit`; the callback of each result hands out the next.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

import joblib
from joblib.parallel import AutoBatchingMixin, FallbackToBackend, ParallelBackendBase, SequentialBackend

from spworkers.workers.pool.executor import Pool
from spworkers.workers.pool.future import PoolFuture
from spworkers.workers.pool.terms import no_such_option

__all__ = ["NAME", "PoolBackend"]

NAME: Final = "spworkers"

OPTIONS: Final = frozenset(inspect.signature(Pool).parameters) - {"workers", "threads_per_worker"}
"""Of a Pool's; how many workers, and threads in each, joblib says by `_JOBLIBS`."""
_JOBLIBS: Final = ("n_jobs", "inner_max_num_threads")


class PoolBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """joblib's calls, on a Pool that lasts as long as the `Parallel` (or its `with` block).

    Args:
        nesting_level: joblib's: how deep in calls of `Parallel` this one is.
        inner_max_num_threads: threads of OpenMP, MKL, OpenBLAS in each worker; None: as many as there are processors
            for it.
        options: of the Pool: `timeout`, `retries`, `memory_limit`, `initializer` and so on.

    Raises:
        BadOptionError: a Pool has no such option, or joblib has another name for it.
    """

    supports_inner_max_num_threads = True
    supports_retrieve_callback = True

    def __init__(
        self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, **options: Any
    ) -> None:
        for name in options:
            if name not in OPTIONS:
                raise no_such_option(f"the joblib backend {NAME!r}", name, [*sorted(OPTIONS), *_JOBLIBS])
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._options = options
        self._workers = 0
        self._pool: Pool | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many workers `n_jobs` means: -1 all processors, -2 all but one, None one."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if n_jobs < 0:
            return max(int(joblib.cpu_count()) + 1 + n_jobs, 1)
        return n_jobs

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
        """Get ready for a `Parallel`. What else joblib says (`max_nbytes`, `mmap_mode`) is about files of its own."""
        workers = self.effective_n_jobs(n_jobs)
        if workers == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        self._workers = workers
        self._begin()
        return workers

    def _begin(self) -> None:
        threads = self.inner_max_num_threads or max(int(joblib.cpu_count()) // self._workers, 1)
        self._pool = Pool(self._workers, threads_per_worker=threads, **self._options)

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], object] | None = None) -> PoolFuture:
        """A batch of calls."""
        assert self._pool is not None
        future = self._pool.submit(func)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    apply_async = submit  # its name before joblib 1.5

    def retrieve_result_callback(self, future: PoolFuture) -> Any:
        """A batch's results, for the callback; raises what a call has raised."""
        return future.result()

    def terminate(self) -> None:
        """The `Parallel` is over."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """A call has failed, and joblib wants no other result: what runs is killed."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.kill_workers()
        if ensure_ready:
            self._begin()

    def __reduce__(self) -> tuple[Any, ...]:  # it goes with nested calls; its pool stays here
        return _again, (self.nesting_level, self.inner_max_num_threads, self._options)


def _again(nesting_level: int | None, threads: int | None, options: dict[str, Any]) -> PoolBackend:
    return PoolBackend(nesting_level=nesting_level, inner_max_num_threads=threads, **options)
