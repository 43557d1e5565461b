"""The line from a socket's handles to its I/O process: shared memory, a doorbell, a control channel."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from spworkers._atexit import at_exit
from spworkers.channel import Channel
from spworkers.errors import ClosedError, ConnTimeoutError, ForkedError, SPError
from spworkers.port import Port
from spworkers.ring import Region, make_bell
from spworkers.supervisor.client import ChildEvent, Supervisor, get_supervisor

__all__ = ["IOLink"]

PATIENCE: Final = 5.0
"""Seconds beyond LINGER that an I/O process may take to close; then it is killed."""

log = logging.getLogger("spworkers")
_numbers = itertools.count(1)


class IOLink:
    """A socket's I/O process, as its handles see it.

    It survives the process at its other end: a successor on the same channel is told what was not answered yet, and
    when the supervisor itself dies, `rebuild` describes the socket to a new one.
    """

    def __init__(self, region: Region, io_bell: int, key: str, channel: Channel, supervisor: Supervisor) -> None:
        self.region = region
        self.io_bell = io_bell
        self.key = key
        self.channel = channel
        self.supervisor = supervisor
        self.pid = os.getpid()
        self.closed = False
        self.former: list[Channel] = []  # ended with a supervisor, with questions that are to be asked again
        self.on_event: Callable[[dict[str, Any]], None] | None = None
        self.rebuild: Callable[[Channel], bool] | None = None

    # ---- making one

    @classmethod
    def started(
        cls, name: str, budget: int, spec: dict[str, Any], port_of: Callable[[Region, int], Port]
    ) -> tuple[IOLink, Port]:
        """Start an I/O process for a new socket; returns the line to it and the socket's own context."""
        supervisor = get_supervisor()
        region = Region.create(budget)
        io_bell = make_bell()
        key = f"{name}-{next(_numbers)}"
        try:
            ours, theirs = Channel.pair()
        except BaseException:
            os.close(io_bell)
            raise
        link = cls(region, io_bell, key, ours, supervisor)
        port: Port | None = None
        try:
            port = port_of(region, io_bell)
            supervisor.register(ours, link._message, carry=True)
            link.spawn(spec, theirs, port)
        except BaseException:
            if port is not None:
                port.close()
            link.release()
            raise
        finally:
            theirs.close()
        return link, port

    def survive(self, rebuild: Callable[[Channel], bool]) -> None:
        """Describe the socket again, by this, whenever the supervisor has died."""
        self.rebuild = rebuild
        self.supervisor.on_restart(self.restarted, of=self.key)

    def spawn(self, spec: dict[str, Any], theirs: Channel, port: Port) -> None:
        """Have the supervisor fork the I/O process."""
        fds = [theirs.fileno(), self.region.fd, self.io_bell, *port.bells]
        self.supervisor.spawn(self.key, "io", spec, restart=True, fds=fds, on_event=self._happened)

    # ---- using it

    def request(self, kind: str, fds: Sequence[int] = (), *, timeout: float | None = None, **fields: Any) -> Any:
        """Ask the I/O process for something and wait for its answer; raises the error that it answers."""
        while True:
            self.check()
            self.supervisor.start()  # it may have been given up; then this is the need for another one
            channel = self.channel
            try:
                return self.supervisor.request(channel, {"t": kind, **fields}, fds, timeout)
            except ClosedError:
                if self.closed or channel is self.channel:  # else it was given up for another one, just before we asked
                    raise

    def tell(self, kind: str, fds: Sequence[int] = (), **fields: Any) -> None:
        """Say something that needs no answer; an I/O process that dies over it leaves it to its successor."""
        self.check()
        self.supervisor.entrust(self.channel, {"t": kind, **fields}, fds)

    def reply(self, kind: str, **fields: Any) -> None:
        """Say something that only this I/O process has use for, which has asked."""
        self.check()
        self.supervisor.post(self.channel, {"t": kind, **fields})

    def close_context(self, index: int) -> bool:
        """A context is closed on this side. True: its number may be used again."""
        if self.closed:
            return False
        try:
            return bool(self.request("close_context", index=index))
        except ClosedError:
            return False

    def ticket(self, blob: bytes, port: Port) -> tuple[str, bytes]:
        """Deposit a context's descriptors, for another process to claim once; returns where, and the token."""
        self.check()
        token = os.urandom(32)
        ours, theirs = Channel.pair()
        try:
            client = f"context-{port.index}-{token.hex()[:8]}"
            self.request("client", [theirs.fileno()], key=client)
            fds = [self.region.fd, self.io_bell, *port.bells, ours.fileno()]
            return self.supervisor.ticket(self.key, token, blob, fds), token
        finally:
            ours.close()
            theirs.close()

    def check(self) -> None:
        """Raise if this line cannot be used here any more."""
        if self.pid != os.getpid():
            raise ForkedError(f"this socket belongs to process {self.pid}; a forked child opens sockets of its own")
        if self.closed:
            raise ClosedError("the socket is closed")

    # ---- ending it

    def end(self, linger: float, patience: float) -> dict[str, Any] | None:
        """Let the I/O process drain what was sent (at most `linger` seconds) and end; returns its last figures.

        Ctrl-C ends the wait; it drains on then for as long as the program runs, and no longer. None: it did not answer,
        within `patience` seconds more: it is killed then.
        """
        if self.closed:
            return None
        # Noted first: its end may be told before the answer has woken us.
        _finishing[self.key] = (self.supervisor, time.monotonic() + min(linger, 1e9))
        try:
            figures: dict[str, Any] = self.request(
                "close", linger=min(linger, 1e9), timeout=min(linger, 1e9) + patience
            )
            return figures
        except ConnTimeoutError:  # somebody has stopped it, or it hangs
            with contextlib.suppress(SPError):
                self.supervisor.end(self.key, timeout=PATIENCE)
        except SPError:  # it cannot be started any more: there is nobody who could drain anything
            _finishing.pop(self.key, None)
            self.supervisor.forget(self.key)
        except KeyboardInterrupt:  # nobody waits for it any more, the program's end neither
            if self.key in _finishing:
                _finishing[self.key] = (self.supervisor, time.monotonic())
            raise
        finally:
            self.close()
        return None

    def close(self) -> None:
        """Give up this side's descriptors."""
        if self.closed or self.pid != os.getpid():
            return
        self.closed = True
        self.supervisor.forget_restart(self.restarted)
        self.release()

    def release(self) -> None:
        self.supervisor.unregister(self.channel)
        self.channel.close()
        os.close(self.io_bell)

    # ---- what comes from the other end, on the control thread

    def _message(self, message: dict[str, Any], fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)
        if self.on_event is not None:
            self.on_event(message)

    def _happened(self, event: ChildEvent) -> None:
        """What became of the I/O process: it is replaced, so there is nothing to do but to note its orderly end."""
        if event.kind == "ended":
            _finishing.pop(self.key, None)
        elif event.kind in ("died", "failed") and not self.closed and self.key not in _finishing:
            event.log(log, "I/O process", self.key, "a successor takes over")

    def restarted(self) -> None:
        """Another supervisor is at work: describe this socket to it, and ask again what was not answered."""
        if self.closed or self.rebuild is None:
            return
        self.former.append(self.channel)  # several, if the supervisor dies again while this goes on
        ours, theirs = Channel.pair()
        try:
            self.supervisor.register(ours, self._message, carry=True)
            self.channel = ours
            alive = self.rebuild(theirs)
        finally:
            theirs.close()
        if not alive:  # the socket is being closed: nothing is left that could be drained, and nobody is there to ask
            self.supervisor.unregister(self.channel)
        former, self.former = self.former, []
        for channel in former:
            if alive:
                self.supervisor.transfer(channel, self.channel)
            else:
                self.supervisor.unregister(channel)
            channel.close()


_finishing: dict[str, tuple[Supervisor, float]] = {}
"""I/O processes of sockets that were closed, which still wait for their peers to read; until when."""


@at_exit
def _finish() -> None:
    """The program ends: they get what is left of their LINGER."""
    for key, (supervisor, deadline) in list(_finishing.items()):
        try:
            supervisor.end(key, grace=max(deadline - time.monotonic(), 0.0))
        except SPError:
            continue
