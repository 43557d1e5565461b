"""Executors on engines beyond this machine, and our pool as the backend of others.

    import spworkers as sp

    with sp.executors.dask(client) as executor:
        job.run(executor=executor)

What an executor promises, and what of it such an engine cannot keep, is in docs/executors.md.
"""

from __future__ import annotations

from typing import Any

from spworkers.errors import BadValueError
from spworkers.workers.engines.asking import check_options, missing
from spworkers.workers.engines.ondask import DaskExecutor
from spworkers.workers.engines.onray import OPTIONS, RayExecutor

__all__ = ["dask", "ray", "register_joblib"]


def dask(client: Any, **options: Any) -> DaskExecutor:
    """An Executor on a Dask cluster. The client stays the caller's.

    Args:
        client: a `distributed.Client` that is connected.
        options: `priority`, a number, tasks of a higher one go first; `resources`, what a worker has to have for a
            task, such as `{"GPU": 1}`; `hosts`, the addresses of the workers that may have them.

    Raises:
        BadValueError: that is no such client, or `distributed` is not installed.
        UnsupportedOptionError: an option of a pool that Dask cannot honour, such as `timeout`.
        BadOptionError: there is no such option.
    """
    check_options("Dask", options, ("priority", "resources", "hosts"))
    return DaskExecutor(client, **options)


def ray(**options: Any) -> RayExecutor:
    """An Executor on Ray, which is started here (`ray.init()`) if it was not; then `shutdown` ends it, too.

    Args:
        options: of Ray's for each task: `num_cpus` (1), `num_gpus`, `memory`, `resources`, `runtime_env`,
            `scheduling_strategy`.

    Raises:
        BadValueError: Ray refuses an option, or is not installed.
        UnsupportedOptionError: an option of a pool that Ray cannot honour, such as `timeout`.
        BadOptionError: there is no such option.
    """
    check_options("Ray", options, OPTIONS)
    return RayExecutor(options)


def register_joblib(*, make_default: bool = False) -> None:
    """Make a `Pool` known to joblib: `joblib.parallel_config("spworkers")`, and `Parallel(backend="spworkers")`.

    Options of a Pool may follow the name: `joblib.parallel_config("spworkers", n_jobs=4, memory_limit=2 << 30)`.

    Args:
        make_default: joblib uses it where no backend is named.

    Raises:
        BadValueError: joblib is not installed.
    """
    try:
        import joblib
    except ImportError:
        raise BadValueError(missing("joblib", "joblib")) from None
    from spworkers.workers.engines.onjoblib import NAME, PoolBackend

    joblib.register_parallel_backend(NAME, PoolBackend, make_default=make_default)
