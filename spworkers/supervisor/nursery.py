"""The children's lives: start, death, replacement, end.

    spawn ─▶ start ─▶ lives ─▶ dies ─┬─ ending, finished, or restart is off ─▶ removed, who waits for it is told
               ▲                     ├─ old enough, or few quick deaths ─┐
               └─────────────────────┴─ a quick death too many: pause ───┘  (child_failed)

Races, and where they are closed:
* a dead child's process group is killed before the child is reaped, while its number cannot be anybody else's
  (`_on_dead`);
* what a child kept in its last moment is read from its channel before its successor starts (`_bury`);
* a client is announced to an I/O process before its own death can be: both go through that process' one channel
  (`_attach`, `_detach`).
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any, Final

from spworkers.channel import Channel
from spworkers.errors import ChannelClosedError, ConnRefusedError, ResourceError, SPError, SupervisorError
from spworkers.messages import Message
from spworkers.packet import close_fds
from spworkers.supervisor.boot import ENTRIES, Boot, Entry, load_entry, preload
from spworkers.supervisor.child import Plan, fork_child
from spworkers.supervisor.loop import Loop
from spworkers.supervisor.peer import Handler, Peer, take
from spworkers.supervisor.record import QUICK_LIMIT, Child, Process
from spworkers.supervisor.sharing import prepare_memory
from spworkers.supervisor.system import kill_group
from spworkers.supervisor.watch import reap, reason_of, watch_process

__all__ = ["Nursery"]

CHILD_OUTBOX: Final = 1024
"""Messages that may wait for a child. One that is so far behind is hung; it is killed and replaced."""
LAST_WORDS: Final = 1.0
"""Seconds that a child has left once it reported a crash; it may hang in writing to a stderr that nobody reads."""


class Nursery:
    """All children of the supervisor.

    Args:
        loop: that waits for them.
        handler: makes the handler of a child's messages.
        notify: tells the user's process something that may be lost.
        gone: told the key of each child that is gone for good.
        fd_limit: RLIMIT_NOFILE for the children; None: as it is.
    """

    def __init__(
        self,
        loop: Loop,
        *,
        handler: Callable[[Child], Handler],
        notify: Callable[[Message], None],
        gone: Callable[[str], None],
        fd_limit: tuple[int, int] | None = None,
    ) -> None:
        self._loop = loop
        self._handler = handler
        self._notify = notify
        self._gone = gone
        self._fd_limit = fd_limit
        self._children: dict[str, Child] = {}
        self._by_pid: dict[int, Child] = {}

    def get(self, key: str) -> Child:
        """The child of that key.

        Raises:
            SupervisorError: there is none.
        """
        child = self._children.get(key)
        if child is None:
            raise SupervisorError(f"the supervisor has no child {key!r}; it has ended, or was never started")
        return child

    def children(self) -> list[Child]:
        """All of them, oldest first."""
        return list(self._children.values())

    def process_groups(self) -> list[int]:
        """The pid of every living child."""
        return list(self._by_pid)

    # --- Start

    def spawn(self, message: Message, fds: list[int]) -> int:
        """Start a child, as `spawn` says; takes the descriptors. The same request again only tells the pid.

        Raises:
            BadValueError: the specification has no entry point or a wrong `attach`.
            SupervisorError: another child has that key, or there is no child to attach to.
            ResourceError: the system has no room for it.
        """
        child = Child.from_spawn(message, fds)
        known = self._children.get(child.key)
        if known is not None:
            if known.ending or not known.same_as(child):
                raise SupervisorError(f"there is a child {child.key!r} already; end it first, or use another key")
            return known.process.pid if known.process else 0
        child.fds = take(fds)
        self._children[child.key] = child
        try:
            return self._start(child)
        except BaseException:
            self._children.pop(child.key)
            child.release()
            raise

    def expect(self, role: str) -> None:
        """Import what children of a role of ours need, before the first of them is asked for."""
        if role in ENTRIES:
            _warm(ENTRIES[role])

    def _start(self, child: Child) -> int:
        """Start the next generation of a child; returns its pid. Raises as `spawn`, and leaves nothing behind then."""
        hosts = [self.get(key) for key in child.attach]
        ours, theirs = Channel.pair()
        io_ends: list[int] = []
        client_ends: list[int] = []
        try:
            for _ in hosts:
                one, other = Channel.pair()
                io_ends.append(one.detach())
                client_ends.append(other.detach())
            pid = self._fork(child, client_ends, theirs)
        except BaseException:
            ours.close()
            close_fds(io_ends)
            raise
        finally:
            theirs.close()
            close_fds(client_ends)
        self._adopt(child, pid, ours)
        for host, io_end in zip(hosts, io_ends, strict=True):
            self._attach(child, host, io_end)
        return pid

    def _fork(self, child: Child, client_ends: list[int], channel: Channel) -> int:
        boot = Boot(
            key=child.key,
            generation=child.generation + 1,
            spec=child.spec,
            fds=[*client_ends, *child.fds],
            kept=child.store.entries(),
            clients=tuple(child.clients),
            channel=channel,
        )
        plan = Plan(
            boot, child.role, child.entry, child.surroundings, _warm(child.entry), self._fd_limit, child.last_traceback
        )
        try:
            return fork_child(plan)
        except OSError as error:
            raise ResourceError(f"cannot fork {child.role} {child.key!r}: {error.strerror}") from error

    def _adopt(self, child: Child, pid: int, channel: Channel) -> None:
        child.generation += 1
        watch = watch_process(pid)
        if watch is not None:
            self._loop.watch(watch.fileno(), lambda _mask: self.reap())

        def lost(error: SPError) -> None:
            self._on_peer_lost(child, pid, error)

        peer = Peer(self._loop, channel, handle=self._handler(child), lost=lost, limit=CHILD_OUTBOX)
        child.process = Process(pid, peer, watch)
        self._by_pid[pid] = child
        for name, fd in child.clients.items():
            peer.put({"t": "client", "key": name}, [fd])

    # --- Clients of I/O processes

    def _attach(self, child: Child, host: Child, io_end: int) -> None:
        host.clients[child.client_name] = io_end
        if host.process is not None:
            host.process.peer.put({"t": "client", "key": child.client_name}, [io_end])

    def _detach(self, child: Child, pid: int, reason: str, status: int) -> None:
        for key in child.attach:
            host = self._children.get(key)
            fd = host.clients.pop(child.client_name, None) if host else None
            if host is None or fd is None:
                continue
            close_fds([fd])
            if host.process is not None:
                host.process.peer.put(
                    {
                        "t": "client_gone",
                        "key": child.client_name,
                        "pid": pid,
                        "reason": reason,
                        "status": status,
                        "ended": bool(child.ending),
                    }
                )

    def kill_client(self, host: Child, name: str, reason: str) -> None:
        """Kill a client of an I/O process, which asks for it; if it has gone already, nothing happens.

        Raises:
            SupervisorError: it is another's client.
        """
        child = next((child for child in self._by_pid.values() if child.client_name == name), None)
        if child is None or child.process is None:
            return
        if host.key not in child.attach:
            raise SupervisorError(f"{host.key!r} may not kill {name!r}, which is no client of it")
        self._kill(child.process, reason)

    def kill(self, key: str, pid: int, reason: str) -> None:
        """Kill a child's process, which is replaced; if that has gone already, nothing happens."""
        child = self._by_pid.get(pid)
        if child is not None and child.key == key and child.process is not None:
            self._kill(child.process, reason)

    def _kill(self, process: Process, reason: str) -> None:
        process.crash = reason
        process.recycled = True  # however young it was: it did not die of its start
        kill_group(process.pid)

    def connect(self, key: str, name: str, fd: int) -> None:
        """Hand a child one end of an inproc connection; the descriptor stays the caller's.

        Raises:
            ConnRefusedError: it has no process at present.
        """
        child = self.get(key)
        if child.process is None:
            raise ConnRefusedError(f"dial inproc://{name}: the process that listens there is down, and being replaced")
        child.process.peer.put({"t": "inproc_incoming", "name": name}, [fd])

    # --- Death

    def reap(self) -> None:
        """Bury everybody who died, orphans that came to us too, and start the successors."""
        buried: list[tuple[Child, Process, str]] = []
        for pid, status in reap(self._on_dead):
            child = self._by_pid.pop(pid, None)
            if child is not None and child.process is not None:
                process = child.process
                buried.append((child, process, self._bury(child, process, status)))
        for child, process, reason in buried:  # now that the last one has left: a successor meets the living only
            self._follow(child, process, reason)

    def _on_dead(self, pid: int) -> None:
        if pid in self._by_pid:
            kill_group(pid)

    def _bury(self, child: Child, process: Process, status: int) -> str:
        """Let a dead process have its last words, and tell who has to know; returns the reason of its death."""
        process.peer.drain()
        self._close_process(child, process)
        reason = f"{process.crash} ({reason_of(status)})" if process.crash else reason_of(status)
        self._detach(child, process.pid, reason, status)
        self._tell("child_died", child, process.pid, reason=reason)
        return reason

    def _follow(self, child: Child, process: Process, reason: str) -> None:
        """What follows a death: the end, or a successor."""
        if child.ending:
            self._remove(child, reason)
        elif not child.restart or (process.finished and not process.recycled):
            self._tell("child_ended", child, process.pid, reason=reason)
            self._remove(child, reason)
        else:
            lived = math.inf if process.recycled or process.settled else time.monotonic() - process.started
            self._replace(child, process.pid, lived, reason)

    def _close_process(self, child: Child, process: Process) -> None:
        child.process = None
        process.peer.close()
        if process.watch is not None:
            self._loop.unwatch(process.watch.fileno())
            process.watch.close()

    def _replace(self, child: Child, pid: int, lived: float, reason: str) -> None:
        """Start the successor, now or after a pause.

        Args:
            child: who has no process at present.
            pid: of the dead one; 0: there was none, as it could not be started.
            lived: seconds.
            reason: of the death.
        """
        pause = child.backoff.next(lived)
        if pause:
            self._tell("child_failed", child, pid, reason=reason, retry=pause)
            child.retry = self._loop.after(pause, lambda: self._restart(child))
        else:
            self._restart(child)

    def _restart(self, child: Child) -> None:
        child.retry = None
        try:
            pid = self._start(child)
        except ResourceError as error:
            # Not at once, whatever the count of deaths: the system is full, and we would not let it breathe.
            child.backoff.quick = max(child.backoff.quick, QUICK_LIMIT)
            self._replace(child, 0, 0.0, str(error))
        except SPError as error:  # what it attaches to is gone: no later attempt is better
            self._tell("child_ended", child, 0, reason=str(error))
            self._remove(child, str(error))
        else:
            self._tell("child_started", child, pid)

    def _tell(self, event: str, child: Child, pid: int, **more: Any) -> None:
        self._notify({"t": event, "key": child.key, "pid": pid, "generation": child.generation, **more})

    def _remove(self, child: Child, reason: str) -> None:
        self._children.pop(child.key, None)
        child.release()
        self._gone(child.key)
        for tell in child.ending:
            tell(reason)

    # --- What ends a child

    def end(self, key: str, grace: float, tell: Callable[[str], None]) -> None:
        """End a child and do not replace it.

        Args:
            key: whose; nobody: it has ended.
            grace: seconds in which it may end by itself, before it is killed.
            tell: called with the reason of its end when it is gone.
        """
        child = self._children.get(key)
        if child is None:
            tell("ended before")
            return
        child.ending.append(tell)
        child.cancel_retry()
        process = child.process
        if process is None:
            self._remove(child, "ended while it had no process")
            return
        process.peer.put({"t": "stop", "grace": grace})
        self._kill_after(grace, child, process.pid)

    def crashed(self, child: Child, reason: str, traceback: str) -> None:
        """A child reports the exception of which it dies."""
        if child.process is not None:
            child.process.crash = reason
            child.last_traceback = traceback
            self._kill_after(LAST_WORDS, child, child.process.pid)

    def _on_peer_lost(self, child: Child, pid: int, error: SPError) -> None:
        """A child's channel is of no use any more. End-of-file comes with its death, or after it closed its end on
        purpose."""
        if isinstance(error, ChannelClosedError):
            return
        if child.process is not None and pid in self._by_pid:  # else it is reaped, and its number may be another's
            child.process.crash = f"killed by its supervisor: {error}"
            kill_group(pid)

    def _kill_after(self, grace: float, child: Child, pid: int) -> None:
        def kill() -> None:
            if child.process is not None and child.process.pid == pid:  # not reaped: the number is still its own
                kill_group(pid)

        if grace <= 0:
            kill()
        else:
            self._loop.after(grace, kill)

    def kill_all(self) -> None:
        """Kill everybody, at the supervisor's own end."""
        for pid in self._by_pid:
            kill_group(pid)

    def bury_all(self) -> None:
        """Reap who is dead, and replace nobody."""
        for _ in reap(self._on_dead):
            pass

    def __repr__(self) -> str:
        return f"<Nursery: {len(self._by_pid)} of {len(self._children)} children live>"


def _warm(entry: str) -> Entry | None:
    """A role of ours, imported before its first fork, once for all children; foreign code is imported in the child."""
    if entry not in ENTRIES.values():
        return None
    if preload(entry.partition(":")[0]):
        prepare_memory()
    with contextlib.suppress(Exception, SystemExit):  # it fails again in the child, and is reported there
        return load_entry(entry)
    return None
