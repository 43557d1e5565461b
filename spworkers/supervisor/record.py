"""What the supervisor knows of one child: who it is, what it keeps, and the process that it is at present."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from spworkers.errors import BadValueError
from spworkers.lean import item, lean_record
from spworkers.messages import Message
from spworkers.packet import close_fds
from spworkers.supervisor.boot import entry_of
from spworkers.supervisor.child import Surroundings
from spworkers.supervisor.loop import Timer
from spworkers.supervisor.peer import Peer
from spworkers.supervisor.store import Store
from spworkers.supervisor.watch import ProcessWatch

__all__ = ["QUICK_LIMIT", "Backoff", "Child", "Process"]

QUICK: Final = 1.0
"""Seconds; who dies younger died of its start."""
QUICK_LIMIT: Final = 5
"""So many quick deaths in a row are followed by a new start at once; after more of them, there is a pause."""
PAUSE: Final = 0.05
"""Seconds of the first pause. Each further one is twice as long, up to PAUSE_LIMIT."""
PAUSE_LIMIT: Final = 2.0


def _are_other_keys(value: Any, own: str) -> bool:
    """Whether it is a list of keys, each of them once, and not one's own."""
    strings = isinstance(value, list) and all(isinstance(key, str) for key in value)
    return strings and own not in value and len(set(value)) == len(value)


class Backoff:
    """Decides how long to wait before a dead child is started again."""

    def __init__(self) -> None:
        self.quick: int = 0
        """Quick deaths in a row."""

    def next(self, lived: float) -> float:
        """Seconds to wait, after a process that lived for `lived` seconds."""
        self.quick = self.quick + 1 if lived < QUICK else 0
        if self.quick <= QUICK_LIMIT:
            return 0.0
        return min(PAUSE * 2.0 ** min(self.quick - QUICK_LIMIT - 1, 32), PAUSE_LIMIT)


@lean_record
class Process:
    """One generation of a child.

    Args:
        pid: its process id, and the number of its process group.
        peer: its channel.
        watch: tells its end; None where only SIGCHLD does.
    """

    pid: int
    peer: Peer
    watch: ProcessWatch | None
    started: float = item(factory=time.monotonic)
    crash: str = ""
    """The exception that ended it, if it reported one."""
    recycled: bool = False
    """It said that it ends on purpose, to be replaced."""
    settled: bool = False
    """It said that its start is behind it: whatever ends it now is no death of that."""
    finished: bool = False
    """Its entry point returned 0."""


@lean_record
class Child:
    """One key, from `spawn` to its end. It owns its descriptors.

    Args:
        key: its name.
        role: "io", "worker", or another.
        entry: its entry point, "module:function".
        spec: as the user gave it.
        attach: keys of the I/O processes to which each generation is a client.
        restart: whether a dead process is replaced.
        surroundings: environment and the like.
        fds: as the user gave them.
    """

    key: str
    role: str
    entry: str
    spec: dict[str, Any]
    attach: list[str]
    restart: bool
    surroundings: Surroundings
    fds: list[int]
    store: Store = item(factory=Store)
    clients: dict[str, int] = item(factory=dict)
    """This process' ends of its clients' channels, by the clients' names, for its successors."""
    generation: int = 0
    process: Process | None = None
    backoff: Backoff = item(factory=Backoff)
    retry: Timer | None = None
    last_traceback: str = ""
    ending: list[Callable[[str], None]] = item(factory=list)
    """Who waits for its end. Not empty: it is not replaced."""

    @property
    def client_name(self) -> str:
        """What an I/O process knows its present generation by: one name is never two processes."""
        return f"{self.key}#{self.generation}"

    @classmethod
    def from_spawn(cls, message: Message, fds: list[int]) -> Child:
        """The child that a `spawn` asks for; the descriptors are its own if this returns.

        Raises:
            BadValueError: it has no entry point, or `attach` is no key and no list of keys.
        """
        spec = message["spec"]
        attach = spec.get("attach", [])
        attach = [attach] if isinstance(attach, str) else attach
        if not _are_other_keys(attach, message["key"]):
            raise BadValueError(
                f"attach in the specification of {message['key']!r} is {attach!r};"
                " it has to be another child's key, or a list of such"
            )
        surroundings = Surroundings(message["env"], message.get("cwd"), message["umask"], message["path"])
        entry = entry_of(message["role"], spec)
        return cls(message["key"], message["role"], entry, spec, attach, message["restart"], surroundings, fds)

    def same_as(self, other: Child) -> bool:
        """Whether both were asked for in the same words: the second is then the first, sent again."""
        mine = (self.role, self.entry, self.spec, self.restart, len(self.fds))
        return mine == (other.role, other.entry, other.spec, other.restart, len(other.fds))

    def cancel_retry(self) -> None:
        """Do not start it any more."""
        if self.retry is not None:
            self.retry.cancel()
            self.retry = None

    def release(self) -> None:
        """Close every descriptor that it holds."""
        self.cancel_retry()
        self.store.clear()
        close_fds([*self.fds, *self.clients.values()])
        self.fds, self.clients = [], {}

    def __repr__(self) -> str:
        state = f"pid {self.process.pid}" if self.process else "no process"
        return f"<Child {self.key}: {self.role}, generation {self.generation}, {state}>"
