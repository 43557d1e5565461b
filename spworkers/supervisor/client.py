"""The user's side of the supervisor: `get_supervisor()`, `claim()`, and what becomes of them at fork and at exit.

    supervisor = get_supervisor()                          any thread may say
    supervisor.spawn("rep-1", "io", {...}, fds=[...])      a child, that is replaced when it dies
    supervisor.request(channel, {...})                     ask whoever is behind a registered channel, and wait
    supervisor.end("rep-1", grace=1.0)                     the child is gone when this returns

There is one supervisor for each surroundings of this process (user, group, network and mount namespaces): another
user's files, or another network, are not to be reached through a process that was started before. A forked child has
none of its parent's. At the interpreter's exit the supervisor ends, and its children with it; modules that have
something to say to their children before that register with atexit after they imported this one, so that they are
called first.
"""

from __future__ import annotations

import os
import threading

from spworkers._atexit import at_exit
from spworkers.errors import ClosedError
from spworkers.supervisor.claims import claim
from spworkers.supervisor.control import Control
from spworkers.supervisor.handle import ChildEvent, OnEvent, Supervisor
from spworkers.supervisor.surroundings import whereabouts

__all__ = ["ChildEvent", "OnEvent", "Supervisor", "claim", "expect", "get_supervisor"]


class _State:
    """What this process has: one control thread, and its supervisors by surroundings."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.lock = threading.RLock()
        self.control: Control | None = None
        self.supervisors: dict[tuple[int, ...], Supervisor] = {}
        self.over = False

    def get(self) -> Supervisor:
        with self.lock:
            if self.over:
                raise ClosedError("spworkers is shut down: the interpreter exits")
            if self.control is None:
                control = Control()
                if self.control is None:
                    self.control = control
                else:  # a signal's handler, in the middle of the line above, was faster
                    control.stop()
            where = whereabouts()
            found = self.supervisors.get(where)
            if found is None:
                found = self.supervisors[where] = Supervisor(self.control)
        return found

    def finish(self) -> None:
        with self.lock:
            self.over = True
            supervisors = list(self.supervisors.values())
        for supervisor in supervisors:
            supervisor.close()
        if self.control is not None:
            self.control.stop()

    def before_fork(self) -> None:
        # In this order: the control thread, when it is busy, may want the lock of a supervisor, but nobody who has one
        # waits for the control thread while it is busy.
        self.lock.acquire()
        if self.control is not None:
            self.control.before_fork()
        for supervisor in self.supervisors.values():
            supervisor.before_fork()

    def after_fork(self) -> None:
        for supervisor in self.supervisors.values():
            supervisor.after_fork()
        if self.control is not None:
            self.control.after_fork()
        self.lock.release()

    def close_in_child(self) -> None:
        for supervisor in self.supervisors.values():
            supervisor.close_in_child()
        if self.control is not None:
            self.control.close_in_child()


_state = _State()


def get_supervisor() -> Supervisor:
    """The supervisor of this process, in the surroundings of this thread; its process is started.

    Raises:
        SupervisorError, ResourceError: it cannot be started.
        ClosedError: the interpreter is about to exit.
    """
    if _state.owner != os.getpid():  # a fork that Python did not see
        _after_fork_in_child()
    supervisor = _state.get()
    supervisor.start()
    return supervisor


def expect(role: str) -> None:
    """Tell the supervisor, if there is one, that a child of that role of ours may be asked for soon: it imports what
    such a child needs while this process imports its own part."""
    if _state.owner == os.getpid():
        for supervisor in list(_state.supervisors.values()):
            supervisor.expect(role)


def _before_fork() -> None:
    _state.before_fork()


def _after_fork_in_parent() -> None:
    _state.after_fork()


def _after_fork_in_child() -> None:
    global _state
    former, _state = _state, _State()
    former.close_in_child()


def _finish() -> None:
    if _state.owner == os.getpid():
        _state.finish()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
at_exit(_finish)
