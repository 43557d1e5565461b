"""A supervisor as its user has it: what it can be asked for, and how it goes on when the process behind it dies.

When a supervisor dies, its children die with it. The control thread sees it (pidfd, end-of-file), waits until none of
them is left and starts another; then a thread of its own calls those who asked for it (`on_restart`), and sends again
what was not answered (`recovery.py`).
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from spworkers.channel import Channel
from spworkers.errors import (
    ChannelClosedError,
    ClosedError,
    ConnTimeoutError,
    ForkedError,
    SPError,
    SupervisorError,
)
from spworkers.lean import lean
from spworkers.messages import Message
from spworkers.packet import close_fds
from spworkers.supervisor.boot import PRELOAD
from spworkers.supervisor.claims import remove_address
from spworkers.supervisor.control import Control, OnClosed, OnMessage
from spworkers.supervisor.life import Life
from spworkers.supervisor.recovery import Recovery
from spworkers.supervisor.surroundings import surroundings, whereabouts

if TYPE_CHECKING:
    from logging import Logger

__all__ = ["ChildEvent", "OnEvent", "Supervisor"]

QUICK: Final = 1.0
"""Seconds; a supervisor that dies younger, or before it was ready, died of its start."""
QUICK_LIMIT: Final = 3
"""So many of them in a row, and no other is started until somebody needs one, or a pause is over."""
PAUSE: Final = 1.0
"""Seconds of the first such pause; each is twice as long as the one before, up to `PAUSE_LIMIT`."""
PAUSE_LIMIT: Final = 30.0
PATIENCE: Final = 0.05
"""Seconds after its start in which a supervisor has better things to do than to import what may be needed later."""
_FORETOLD: Final = {"spworkers.workers.pool.executor": "pool"}
"""A module that this process has imported → the role of children that it will ask for."""
EXIT_TIMEOUT: Final = 2.0
"""Seconds that a supervisor has to end at our exit; then it is killed."""


@lean
class ChildEvent:
    """What happened to a child.

    Args:
        kind: "died"; "started": its successor was; "failed": it died too often at its start, and the next attempt is in
            `retry` seconds; "ended": it finished, or cannot be started, and no successor comes; "lost": events were
            lost, as this process did not listen for long.
        key: its key.
        pid: of the process that died, or started; 0: there was none.
        generation: of that process.
        reason: of the death: "killed by SIGKILL", "exit code 3", "ValueError: boom (exit code 1)".
        retry: see "failed".
    """

    kind: str
    key: str
    pid: int = 0
    generation: int = 0
    reason: str = ""
    retry: float = 0.0

    def log(self, log: Logger, process: str, of: str, follows: str) -> None:
        """Tell of a process that "died" or "failed".

        Args:
            process: what it is, "I/O process" say, and `of` whose.
            follows: what becomes of its work, after a death.
        """
        if self.kind == "died":
            log.warning("%s %d of %s died: %s; %s", process, self.pid, of, self.reason, follows)
        elif self.kind == "failed":
            words = "%s of %s dies at its start, again and again: %s; the next attempt is in %.1f s"
            log.error(words, process, of, self.reason, self.retry)


OnEvent = Callable[[ChildEvent], None]


class Supervisor:
    """A supervisor, as its user sees it; the process behind it may change. Any thread may use it.

    Args:
        control: the process' thread for control channels.
        preload: modules that it imports before its first fork.
    """

    def __init__(self, control: Control, preload: Sequence[str] = PRELOAD) -> None:
        self._control = control
        self._preload = tuple(preload)
        self._where = whereabouts()
        self._owner = os.getpid()
        self._lock = threading.RLock()
        self._life: Life | None = None
        self._closed = False
        self._begun = False  # one was started
        self._quick = 0
        self._later = False  # another attempt is to be made
        self._events: dict[str, OnEvent] = {}
        self._homes: dict[str, Channel] = {}  # by the key of a child: to the supervisor that has started it
        self._recovery = Recovery(control, self._lock, lambda: self._life)

    @property
    def pid(self) -> int:
        """The process id of the supervisor, which is started if there is none."""
        return self.start().pid

    # --- Children

    def spawn(
        self,
        key: str,
        role: str,
        spec: Mapping[str, Any],
        *,
        restart: bool = True,
        fds: Sequence[int] = (),
        on_event: OnEvent | None = None,
        timeout: float | None = None,
    ) -> int:
        """Start a child.

        It gets this process' environment, working directory, umask and sys.path of this moment, and so do its
        successors.

        Args:
            key: a name for it, unique in this process. The same request again does nothing.
            role: "io" or "worker", or any other if `spec["entry"]` names its entry point, "module:function".
            spec: plain values, for its entry point. `spec["attach"]`: key (or keys) of the I/O process that it is a
                client of.
            restart: replace it when it dies.
            fds: descriptors for it and its successors; they stay the caller's here.
            on_event: called on the control thread with what happens to it. It must not wait.
            timeout: seconds to wait for the supervisor at most; None: for ever.

        Returns:
            Its pid.

        Raises:
            SupervisorError: there is another child of this key, or none to attach to; or no supervisor can be started.
            BadValueError: there is no such role.
            ResourceError: the system has no room for another process.
        """
        former = self._events.get(key)
        if on_event is not None:  # now: the first event may come before this thread runs again
            self._events[key] = on_event
        message = {"t": "spawn", "key": key, "role": role, "spec": dict(spec), "restart": restart, **surroundings()}
        try:
            pid, home = self._ask_whom(message, fds, timeout)
            life = self._life
            if life is not None and life.channel is home:
                life.note("spawned", key, int(pid))
            if restart:  # who is not started again does not ask for more
                self._homes[key] = home
            return int(pid)
        except BaseException as error:
            if not isinstance(error, SPError) or isinstance(error, ConnTimeoutError):
                with contextlib.suppress(SPError):  # it may come to life yet, and nobody would know of it
                    self.end(key, wait=False)
            self._events.pop(key, None)
            self._events.update({} if former is None else {key: former})
            raise

    def expect(self, role: str, after: float = 0.0) -> None:
        """Have the supervisor import what children of a role of ours need. Nothing happens if there is none.

        Args:
            role: "pool", say.
            after: seconds from now, in which it has something else to do.
        """
        life = self._life
        if life is not None and self._owner == os.getpid():
            self._announce(life, role, after)

    def _announce(self, life: Life, role: str, after: float) -> None:
        with contextlib.suppress(SPError):  # then it imports that when it has to
            self._control.post(life.channel, {"t": "expect", "role": role, "after": after})

    def end(self, key: str, grace: float = 0.0, *, wait: bool = True, timeout: float | None = None) -> str:
        """End a child; it is gone, with its tickets and everything that was kept for it, when this returns.

        Args:
            key: whose; if it is gone already, that is fine.
            grace: seconds in which it may end by itself, told by `stop`; then its process group is killed.
            wait: False: return at once; it ends all the same.
            timeout: seconds to wait at most; None: for ever.

        Returns:
            How it ended; nothing if that was not waited for.
        """
        self.forget(key)
        message = {"t": "end", "key": key, "grace": grace}
        if wait:
            return str(self._ask(message, (), timeout))
        life = self.start()
        with contextlib.suppress(ChannelClosedError):  # then its children are dead, and it will not come back
            self._control.post(life.channel, message)
        return ""

    def forget(self, key: str) -> None:
        """Tell no more of a child, as it has ended, or is to."""
        self._events.pop(key, None)
        self._homes.pop(key, None)
        life = self._life
        if life is not None:
            life.note("ended", key, 0)

    def kill(self, key: str, pid: int, reason: str) -> None:
        """Kill a child's process; it is replaced. If it is not that process any more, nothing happens.

        Args:
            reason: goes before how it ended, in what is told of its death.
        """
        self._ask({"t": "kill", "key": key, "pid": pid, "reason": reason})

    def keep(self, key: str, name: str, blob: bytes, fds: Sequence[int] = ()) -> None:
        """Keep bytes and duplicates of descriptors for a child's successors, in place of what has that name.

        Raises:
            SupervisorError: there is no such child.
        """
        self._ask({"t": "keep", "key": key, "name": name, "blob": blob}, fds)

    def drop(self, key: str, name: str) -> None:
        """Keep it no more."""
        self._ask({"t": "drop", "key": key, "name": name})

    def ticket(self, key: str, token: bytes, blob: bytes, fds: Sequence[int] = ()) -> str:
        """Leave something for another process of this user, which gets it, once, by `claim(address, token)`.

        Args:
            key: the child with whose end the ticket ends.
            token: 32 random bytes (`os.urandom(32)`).
            blob: for who claims it.
            fds: likewise; they stay the caller's here.

        Returns:
            The address for `claim`.

        Raises:
            SupervisorError: there is no such child.
        """
        address = str(self._ask({"t": "ticket_put", "key": key, "token": token, "blob": blob}, fds))
        life = self._life
        if life is not None:
            life.claims = address
        return address

    def drop_ticket(self, token: bytes) -> None:
        """Nobody shall claim it any more."""
        self._ask({"t": "ticket_drop", "token": token})

    # --- Other channels on the same thread

    def register(
        self, channel: Channel, on_message: OnMessage, on_closed: OnClosed | None = None, *, carry: bool = False
    ) -> None:
        """Have the control thread listen to a channel. See `Control.register`."""
        self._check()
        self._control.register(channel, on_message, on_closed, carry=carry)

    def unregister(self, channel: Channel) -> None:
        """Stop listening; what is not answered fails with ClosedError. See `Control.unregister`."""
        if self._owner == os.getpid():
            self._control.unregister(channel)

    def transfer(self, old: Channel, new: Channel) -> None:
        """Send what was not answered on one channel on another. See `Control.transfer`."""
        self._check()
        self._control.transfer(old, new)

    def request(
        self, channel: Channel, message: Mapping[str, Any], fds: Sequence[int] = (), timeout: float | None = None
    ) -> Any:
        """Ask whoever is behind a registered channel, and wait for the answer. See `Control.ask`."""
        self._check()
        return self._control.ask(channel, message, fds, timeout)[0]

    def post(self, channel: Channel, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Send a message that has no answer on a registered channel, without waiting. See `Control.post`."""
        self._check()
        self._control.post(channel, message, fds)

    def entrust(self, channel: Channel, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Send a message that nobody waits for, to a successor too until it is done. See `Control.entrust`."""
        self._check()
        self._control.entrust(channel, message, fds)

    # --- Its life

    def on_restart(self, callback: Callable[[], None], *, of: str = "") -> None:
        """Have `callback()` called after the supervisor had died, with all its children, and another one was started.

        It is called on a thread of its own, may make requests, and is not called twice at the same time, nor twice for
        the same supervisor. A request of it fails if the supervisor dies again meanwhile; then it is called again.

        Args:
            of: the key of the child that this is about. If who has started it died before this call, the callback is
                called at once.
        """
        with self._lock:
            life = self._life if self._begun else self.start()  # none: the last one was given up
            self._recovery.add(callback, self._homes.get(of) or (None if life is None else life.channel))
            self._recover()

    def forget_restart(self, callback: Callable[[], None]) -> None:
        """Do not call it any more; nothing happens if it is unknown."""
        with self._lock:
            self._recovery.remove(callback)

    def start(self) -> Life:
        """Start the process, if there is none.

        Raises:
            SupervisorError, ResourceError: it cannot be started.
        """
        life = self._life
        if life is not None and self._owner == os.getpid():
            return life
        with self._lock:
            self._check()
            if self._life is None:
                begun = self._begin()
                if self._life is None:
                    self._life = begun
                    self._recover()  # those who were there when the last one was given up
                else:  # a signal's handler, in the middle of the line above, was faster
                    self._dismiss(begun, 0.0)
            return self._life

    def _begin(self) -> Life:
        life = Life(self._preload)
        self._begun = True
        try:
            self._control.register(
                life.channel,
                lambda message, fds: self._on_message(life, message, fds),
                lambda: self._on_death(life),
                carry=True,
            )
        except BaseException:
            life.leave(0.0)
            raise
        if life.watch is not None:
            self._control.watch(life.watch.fileno(), lambda: self._on_death(life))
        for module, role in _FORETOLD.items():
            if module in sys.modules:
                self._announce(life, role, PATIENCE)
        return life

    def _check(self) -> None:
        if self._owner != os.getpid():
            raise ForkedError(
                f"this supervisor belongs to process {self._owner}; a forked child gets its own by get_supervisor()"
            )
        if self._closed:
            raise ClosedError("the supervisor was closed")

    def _ask(self, message: Mapping[str, Any], fds: Sequence[int] = (), timeout: float | None = None) -> Any:
        return self._ask_whom(message, fds, timeout)[0]

    def _ask_whom(
        self, message: Mapping[str, Any], fds: Sequence[int] = (), timeout: float | None = None
    ) -> tuple[Any, Channel]:
        """The answer, and the channel to the supervisor that has given it: a successor's, if the first one died."""
        deadline = None if timeout is None else time.monotonic() + timeout
        here = self._recovery.here
        while True:
            life = here or self.start()
            rest = None if deadline is None else deadline - time.monotonic()
            try:
                return self._control.ask(life.channel, message, fds, rest, carried=here is None)
            except ClosedError:
                if self._closed or self._life is life or here is not None:
                    raise  # the channel is as it was, so it was something else: a descriptor of the caller's

    # --- On the control thread

    def _on_message(self, life: Life, message: Message, fds: list[int]) -> None:
        close_fds(fds)
        kind = message["t"]
        if kind == "ready":
            life.ready = True
        elif kind == "notices_lost":
            for key, call in list(self._events.items()):
                call(ChildEvent("lost", key))
        elif kind.startswith("child_"):
            facts = {name: value for name, value in message.items() if name != "t"}
            event = ChildEvent(kind.removeprefix("child_"), **facts)
            life.note(event.kind, event.key, event.pid)
            found = self._events.get(event.key)
            if event.kind == "ended":
                self.forget(event.key)
            if found is not None:
                found(event)

    def _on_death(self, life: Life) -> None:
        """The process is gone, or has hung up: bury it, and start another if that makes sense."""
        with self._lock:
            if self._life is not life:
                return  # told twice: by its channel and by its pidfd
            self._life = None
            if life.watch is not None:
                self._control.unwatch(life.watch.fileno())
            died_of_start = life.age < QUICK or not life.ready
            self._quick = self._quick + 1 if died_of_start else 0
            reason = life.bury()
            remove_address(life.claims)
            self._recovery.lose(life)
            problem = self._try_again(reason)
            self._go_on(problem)
        if problem is None:
            _log(
                f"the supervisor, process {life.pid}, died: {reason}; another one sets up sockets and workers again",
                "warning",
            )

    def _try_again(self, reason: str) -> SPError | None:
        """Start another one; or say why not."""
        if self._quick > QUICK_LIMIT:
            return SupervisorError(
                f"the supervisor died {self._quick} times in a row at its start, the last time with {reason};"
                " its words are on stderr"
            )
        return self._begin_another(reason)

    def _begin_another(self, reason: str) -> SPError | None:
        if whereabouts() != self._where:  # setuid(), say: this thread would start one for others
            return SupervisorError(f"the supervisor has ended ({reason}), and its user has left its surroundings")
        try:
            self._life = self._begin()
        except SPError as error:
            return error
        return None

    def _go_on(self, problem: SPError | None) -> None:
        """Set up again who was there before; or say why that cannot be now, and try later: they ask for nothing."""
        if problem is None:
            self._recover()
            return
        self._give_up(problem)
        if not self._later and self._recovery.wanted and whereabouts() == self._where:
            self._later = True
            pause = min(PAUSE * 2.0 ** max(self._quick - QUICK_LIMIT - 1, 0), PAUSE_LIMIT)
            with contextlib.suppress(ClosedError):  # the interpreter exits
                self._control.after(pause, self._begin_late)

    def _begin_late(self) -> None:
        with self._lock:
            self._later = False
            if self._closed or self._life is not None:
                return
            problem = self._begin_another("too often")
            if problem is not None:
                self._quick += 1
            self._go_on(problem)

    def _recover(self) -> None:
        problem = self._recovery.begin()
        if problem is not None:
            self._give_up(problem)

    def _give_up(self, problem: SPError) -> None:
        _log(str(problem))
        self._recovery.give_up(problem)

    # --- The end

    def close(self, *, timeout: float = EXIT_TIMEOUT) -> None:
        """End the process and every child of it. Twice does no harm.

        Args:
            timeout: seconds after which it is killed.
        """
        with self._lock:
            if self._closed or self._owner != os.getpid():
                return
            self._closed = True
            life, self._life = self._life, None
        if life is None:
            return
        self._dismiss(life, timeout)

    def _dismiss(self, life: Life, timeout: float) -> None:
        self._control.unregister(life.channel)
        if life.watch is not None:
            self._control.unwatch(life.watch.fileno())
        life.leave(timeout)
        remove_address(life.claims)

    def before_fork(self) -> None:
        """Wait until nothing here is half done, and let nobody begin."""
        self._lock.acquire()

    def after_fork(self) -> None:
        """In the parent: go on."""
        self._lock.release()

    def close_in_child(self) -> None:
        """In a forked child: close the copies of the parent's descriptors."""
        if self._life is not None:
            self._life.close_in_child()

    def __repr__(self) -> str:
        if self._owner != os.getpid():
            return f"<Supervisor of process {self._owner}>"
        life = self._life
        state = "closed" if self._closed else f"process {life.pid}" if life is not None else "no process"
        return f"<Supervisor: {state}>"


def _log(text: str, level: str = "error") -> None:
    import logging

    getattr(logging.getLogger("spworkers.supervisor"), level)("%s", text)
