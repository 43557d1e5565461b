"""An Executor on a Dask cluster.

What Dask does otherwise than an executor is expected to, and what is done about it:

| Dask | here |
|---|---|
| calls of the same function and arguments are one | each has a key of its own: each is done |
| keywords such as `retries`, `key`, `workers` are `Client.submit`'s | all are the function's |
| a result stays on the cluster as long as somebody holds its future | it is given up when it has arrived |
| large arguments go through the scheduler, which warns | from `SCATTER` bytes on they are scattered |
| scattered arguments are lost with the worker that has them | they are sent again, as Dask itself does a task |
| a task whose workers die is given to others, then KilledWorker | the same, then `QuarantinedError` |
| a future that is lost with the connection, or by a restart, is cancelled | it fails: `WorkerDiedError` |
| `cancel` of a running task says yes, and the task runs on | it says no, and the result comes |
| `map` is eager | it is lazy and bounded |
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import uuid
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

from spworkers.errors import BadValueError, ClosedError, QuarantinedError, SerializationError
from spworkers.workers.engines.asking import missing
from spworkers.workers.engines.parcel import Parcel, perform
from spworkers.workers.engines.remote import RemoteExecutor, RemoteFuture

__all__ = ["DaskExecutor"]

SCATTER: Final = 8 << 20
"""Bytes from which arguments are scattered; of what goes through the scheduler Dask warns from 10 MB on."""
SENDINGS: Final = 4
"""So often arguments are sent whose worker dies; Dask gives a task to as many (`allowed-failures` + 1)."""

_CANCELLED: Final = (asyncio.CancelledError, concurrent.futures.CancelledError)  # which of them depends on the version


class DaskExecutor(RemoteExecutor):
    """An Executor on a Dask cluster; `spworkers.executors.dask` makes it.

    Args:
        client: a `distributed.Client` that is connected and not asynchronous.
        priority: of the tasks: those of a higher one go first.
        resources: what a worker has to have for a task, such as `{"GPU": 1}`.
        hosts: addresses of the workers that may have the tasks; None: all.

    Raises:
        BadValueError: that is no such client.
    """

    repeats = True

    def __init__(
        self,
        client: Any,
        *,
        priority: int = 0,
        resources: dict[str, float] | None = None,
        hosts: str | Iterable[str] | None = None,
    ) -> None:
        try:
            import distributed
        except ImportError:
            raise BadValueError(missing("dask's distributed", "dask")) from None
        if not isinstance(client, distributed.Client):
            raise BadValueError(f"client is {client!r:.80}; it has to be a distributed.Client")
        if client.asynchronous:
            raise BadValueError(f"{client!r:.80} is asynchronous; an executor wants one that is not")
        if client.status != "running":
            raise BadValueError(f"client is {client.status}; it has to be connected: distributed.Client(address)")
        super().__init__(f"Dask {client.scheduler.address}")
        self._client = client
        self._killed = distributed.scheduler.KilledWorker
        self._terms = {
            "pure": False,
            "priority": priority,
            "resources": resources,
            "workers": [hosts] if isinstance(hosts, str) else None if hosts is None else list(hosts),
        }

    @property
    def _max_workers(self) -> int:
        return sum(self._client.nthreads(self._terms["workers"]).values()) or 1

    def _begin(self, future: RemoteFuture, call: Parcel) -> None:
        if self._client.status != "running":
            raise ClosedError(f"the client of {self._where} is {self._client.status}")
        argument = call
        if call.size >= SCATTER:
            argument = self._client.scatter(call, workers=self._terms["workers"], hash=False)
        self._give(future, argument)
        self._client.loop.add_callback(partial(self._follow, future, call if argument is not call else None))

    def _give(self, future: RemoteFuture, argument: Any) -> None:
        """Have the cluster do it, under a key that no other task has."""
        key = f"{future.task}-{uuid.uuid4().hex}"
        future.theirs = self._client.submit(perform, argument, key=key, **self._terms)

    async def _follow(self, future: RemoteFuture, sent: Parcel | None) -> None:
        """On Dask's event loop: wait for a task, and tell what became of it."""
        for sending in itertools.count(1):
            theirs = future.theirs
            if theirs is None:  # it was cancelled
                return
            try:
                outcome = await self._client.gather(theirs, asynchronous=True)
            except _CANCELLED as error:
                if future.cancelled():
                    return
                if self._client.status != "running":
                    self._fail(
                        future, ClosedError(f"{future.task}: the client of {self._where} was closed before it was done")
                    )
                    return
                if sent is None or sending == SENDINGS:
                    self._fail(future, self._lost(future, str(error) or "it was cancelled there"))
                    return
            except self._killed as error:
                deaths = error.allowed_failures + 1
                self._fail(future, QuarantinedError(f"{future.task}: {error}", future.task, deaths))
                return
            except BaseException as error:
                self._fail(future, _of_dask(future, error))
                return
            else:
                self._settle(future, outcome)
                return
            again = await self._client.scatter(sent, workers=self._terms["workers"], hash=False, asynchronous=True)
            self._give(future, again)

    def _over(self, future: RemoteFuture) -> None:
        theirs = future.theirs
        super()._over(future)
        if theirs is not None:  # not with the last reference: Dask's own may be in cycles, which are collected late
            theirs.release()

    def _stop(self, theirs: Any) -> None:
        if self._client.status == "running":
            theirs.cancel()

    def _runs(self, future: RemoteFuture) -> bool:
        """Whether a worker has a task in hand. Of one that begins it just after that nothing is known here."""
        theirs = future.theirs
        if theirs is None or self._client.status != "running":
            return False
        # Asked first, as the scheduler writes a traceback to its log when it is asked what nobody has begun.
        if not any(theirs.key in keys for keys in self._client.processing().values()):
            return False
        try:
            return bool(self._client.call_stack([theirs]))
        except KeyError:  # it is finished meanwhile
            return False


def _of_dask(future: RemoteFuture, error: BaseException) -> BaseException:
    """What an error means that is not the task's, for a task's come as its outcome."""
    if isinstance(error, ImportError) and str(error.name).split(".")[0] == "spworkers":
        return SerializationError(
            f"{future.task}: the worker cannot read it: {error}; install the same version of spworkers there"
        )
    return error
