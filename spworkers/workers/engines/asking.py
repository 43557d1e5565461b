"""What may be asked of an engine: an option that it cannot honour is refused, never ignored."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from spworkers.errors import BadOptionError, UnsupportedOptionError

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


def check_options(engine: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse what is not known.

    Raises:
        UnsupportedOptionError: a pool has this option, and the engine cannot honour it.
        BadOptionError: there is none of that name.
    """
    known = list(known)
    for name in given:
        if name in known:
            continue
        if name in OF_A_POOL:
            raise UnsupportedOptionError(
                f"{name}={given[name]!r:.40}: {engine} cannot honour this, {OF_A_POOL[name]}; sp.Pool can"
            )
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise BadOptionError(f"{engine} has no option {name!r}; {hint}", name, near)


def missing(package: str, extra: str) -> str:
    """What to say when a package is not installed."""
    return f"{package} is not installed: pip install 'spworkers[{extra}]'"
