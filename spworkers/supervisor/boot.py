"""What a child of the supervisor is given at its start, and where its code is found."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable
from typing import Any, Final

from spworkers.channel import Channel
from spworkers.errors import BadValueError
from spworkers.lean import item, lean
from spworkers.supervisor.brood import MARK

__all__ = ["ENTRIES", "PRELOAD", "Boot", "Entry", "entry_of", "environment", "load_entry", "preload", "set_environment"]

ENTRIES: Final[dict[str, str]] = {
    "io": "spworkers.ioproc.main:run",
    "web": "spworkers.ioproc.web:run",
    "worker": "spworkers.workers.worker:run",
    "pool": "spworkers.workers.pool.inside:run",
}
"""The entry point of each role, for specifications without a field `entry` of their own."""
PRELOAD: Final[tuple[str, ...]] = ("spworkers.ioproc.main",)
"""Modules that the supervisor imports at its start: a program's first child is an I/O process, and somebody waits for
it. The modules of our other roles it imports when the first child of that role is asked for."""

_MARK: Final = MARK.encode()


@lean
class Boot:
    """What the entry point of a role is called with. All its descriptors belong to the child.

    Args:
        key: the name under which the supervisor and the user's process know this child.
        generation: 1 for the first process of this key, one more for each that replaces it.
        spec: what `spawn` said, unchanged from generation to generation.
        fds: a worker's channels to the I/O processes of `spec["attach"]`, in that order; then the descriptors of
            `spawn`.
        kept: what the predecessors kept, by name: bytes, and descriptors.
        clients: names of the predecessor's clients that live; the channel of each comes as a message `client` before
            any other. Who is not here has died meanwhile, and no `client_gone` tells so.
        channel: to the supervisor, not to be closed. To it: keep, drop, inproc_listen, inproc_close, inproc_dial, kill,
            recycle, settled. From it: client, client_gone, inproc_incoming, stop, and answers.
    """

    key: str
    generation: int
    spec: dict[str, Any]
    fds: list[int]
    kept: dict[str, tuple[bytes, list[int]]]
    clients: tuple[str, ...]
    channel: Channel = item(repr=False)


Entry = Callable[[Boot], "int | None"]
"""The entry point of a role; the process ends with what it returns as its exit code (None: 0).

Who returns 0 has finished and is not replaced, unless it sent `recycle` before. Every other end is a death: the process
is replaced."""


def environment() -> bytes:
    """The environment of this process, in one piece: two that are the same are so told without a look at each name.

    But for the mark of a brood: a child has its supervisor's.
    """
    return b"\0".join([name + b"=" + value for name, value in os.environb.items() if name != _MARK])


def set_environment(packed: bytes) -> None:
    """Have the environment that `environment` has told, and keep the mark."""
    mark = os.environb.get(_MARK)
    os.environ.clear()
    if mark is not None:
        os.environb[_MARK] = mark
    for variable in packed.split(b"\0") if packed else ():
        name, _, value = variable.partition(b"=")
        os.environb[name] = value


def entry_of(role: str, spec: dict[str, Any]) -> str:
    """The name `"module:function"` of the entry point for a role and specification.

    Raises:
        BadValueError: there is none.
    """
    name = spec.get("entry", ENTRIES.get(role))
    if not isinstance(name, str) or not all(part.strip() for part in name.partition(":")):
        raise BadValueError(
            f"role {role!r} has the entry point {name!r}; known roles are {', '.join(sorted(ENTRIES))},"
            ' others need spec["entry"] = "module:function"'
        )
    return name


_warm: Final[dict[str, Any]] = {}  # modules, by name


def preload(name: str) -> bool:
    """In the supervisor, before a fork: import a module of ours for all children, and have it make what they share.

    What cannot be imported fails again in the child that needs it, and is reported there.

    Returns:
        Whether that was done now.
    """
    if name in _warm:
        return False
    with contextlib.suppress(Exception, SystemExit):
        module = importlib.import_module(name)
        getattr(module, "warm_up", int)()
        _warm[name] = module
    return name in _warm


def load_entry(name: str) -> Entry:
    """The function that `"module:function"` names.

    Raises:
        ImportError, AttributeError: there is no such module or function.
        TypeError: it is no function.
    """
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"entry point {name!r} is no function but {found!r}")
    entry: Entry = found
    return entry
