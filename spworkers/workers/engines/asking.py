"""What may be asked of an engine: an option that it cannot honour is refused, never ignored."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from spworkers.errors import UnsupportedOptionError
from spworkers.workers.pool.terms import no_such_option

__all__ = ["check_options", "missing"]

_START: Final = "its workers are started by whoever runs the cluster"
_AGAIN: Final = "leave it to what stands on the executor: the stages of a Pipeline have it"

OF_A_POOL: Final = {
    "workers": _START,
    "initializer": _START,
    "initargs": _START,
    "finalizer": _START,
    "shared": "its workers may be on other machines",
    "timeout": "it cannot stop a task when its time is over",
    "retries": _AGAIN,
    "retry_on": _AGAIN,
    "backoff": _AGAIN,
    "max_tasks": _START,
    "memory_limit": _START,
    "affinity": _START,
    "threads_per_worker": _START,
    "start_method": _START,
    "idle_timeout": _START,
    "serializer": "it is always pickle",
    "name": "it has none",
}
"""A pool's options, and why an engine has not got them."""


def check_options(engine: str, given: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse what is not known.

    Raises:
        UnsupportedOptionError: a pool has this option, and the engine cannot honour it.
        BadOptionError: there is none of that name.
    """
    for name in given:
        if name in known:
            continue
        if name in OF_A_POOL:
            raise UnsupportedOptionError(
                f"{name}={given[name]!r:.40}: {engine} cannot honour this, {OF_A_POOL[name]}; sp.Pool can"
            )
        raise no_such_option(engine, name, known)


def missing(package: str, extra: str) -> str:
    """What to say when a package is not installed."""
    return f"{package} is not installed: pip install 'spworkers[{extra}]'"
