"""An Executor on a Ray cluster.

Each call is a task of Ray's, not of an actor: a task that runs can be killed, and one that crashes takes nobody with
it. Ray would run it again (three times); here it is done once at most, as in a pool.

| Ray | here |
|---|---|
| a task whose worker dies is done again | it fails: `WorkerDiedError` |
| an exception that cannot be pickled is `UnserializableException` | `RemoteError` with its type, text and traceback |
| arrays arrive read only | they are the task's own |
| `cancel` of a running task only asks it | its worker is killed |
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

from spworkers.errors import BadValueError, ClosedError, SerializationError
from spworkers.workers.engines.asking import missing
from spworkers.workers.engines.parcel import Parcel, perform
from spworkers.workers.engines.remote import RemoteExecutor, RemoteFuture

__all__ = ["OPTIONS", "RayExecutor"]

OPTIONS: Final = ("num_cpus", "num_gpus", "memory", "resources", "runtime_env", "scheduling_strategy")
"""Of Ray's own options for tasks, those that do not change what an executor promises."""


class RayExecutor(RemoteExecutor):
    """An Executor on Ray; `spworkers.executors.ray` makes it.

    Args:
        options: of Ray's, for each task: see `OPTIONS`.

    Raises:
        BadValueError: Ray is not installed, or refuses an option.
    """

    kills = True

    def __init__(self, options: Mapping[str, Any]) -> None:
        try:
            import ray
        except ImportError:
            raise BadValueError(missing("ray", "ray")) from None
        self._ray = ray
        terms = {"num_cpus": 1, **options}
        try:
            self._remote = ray.remote(max_retries=0, **terms)(perform)
        except (ValueError, TypeError) as error:
            raise BadValueError(f"Ray: {error}") from error
        self._cpus = float(terms["num_cpus"] or 1)
        self._started = not ray.is_initialized()
        if self._started:
            ray.init()
        super().__init__("Ray")

    @property
    def _max_workers(self) -> int:
        return max(int(self._ray.cluster_resources().get("CPU", 1) / self._cpus), 1)

    def _begin(self, future: RemoteFuture, call: Parcel) -> None:
        if not self._ray.is_initialized():  # else it would start another cluster by itself
            raise ClosedError("Ray was shut down")
        future.theirs = ref = self._remote.remote(call)
        ref.future().add_done_callback(partial(self._told, future))

    def _told(self, future: RemoteFuture, told: Future[Any]) -> None:
        error = told.exception()
        if error is None:
            self._settle(future, told.result())
        elif isinstance(error, self._ray.exceptions.RayTaskError):  # `perform` raises nothing: it was not reached
            self._fail(
                future,
                SerializationError(
                    f"{future.task}: the worker cannot read it: {error}; install the same version of spworkers there"
                ),
            )
        elif isinstance(error, self._ray.exceptions.RayError):
            self._fail(future, self._lost(future, f"{type(error).__name__}: {error}"))
        else:
            self._fail(future, error)

    def _stop(self, theirs: Any) -> None:
        self._ray.cancel(theirs, force=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks. Ray goes on, unless this executor has started it and is asked to wait for the end.

        Args:
            wait: until those under way are done.
            cancel_futures: cancel them all; what runs is killed.
        """
        if not self._ray.is_initialized():  # of what was under way nobody tells any more
            for future in list(self._under_way):
                self._fail(future, ClosedError(f"{future.task}: Ray was shut down before it was done"))
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait and self._started and self._ray.is_initialized():
            self._started = False
            self._ray.shutdown()
