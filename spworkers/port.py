"""A context's place in shared memory, from the user's side: two lane ends and two bells."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from spworkers.errors import ClosedError, ForkedError, ProtoStateError, SendTimeoutError
from spworkers.ring import Receiver, Region, Sender, make_bell
from spworkers.waiting import Deadline, Sleepers, Steps, Wait

__all__ = ["Port"]


CALM: Final = 0.002
"""Seconds that a sender waits for many places rather than for one."""

LARGE: Final = 256 << 10
"""Bytes from which on a message costs more than a wake-up: who sends such waits for the first place."""

_ports: set[Port] = set()
"""All that are open, for a forked child. Each belongs to a socket or a context, which closes it when it is dropped."""


def _new_bells() -> tuple[int, int]:
    one = make_bell()
    try:
        return one, make_bell()
    except BaseException:
        os.close(one)
        raise


class Holder:
    """Stands among the sleepers for who does not sleep, but uses the bells."""

    asleep = False

    def ring(self) -> None:
        """It looks for nothing."""


class Port:
    """The user's ends of one context's rings.

    Args:
        region: the socket's shared memory.
        index: which of its contexts.
        io_bell: the I/O process's doorbell.
        bells: receive and send bell, if they exist already (a context that was handed over); owned from now on.
    """

    def __init__(self, region: Region, index: int, io_bell: int, bells: tuple[int, int] | None = None) -> None:
        self.region = region
        self.index = index
        self.name = f"context {index}"
        recv_bell, send_bell = bells if bells is not None else _new_bells()
        segment = region.segment(index)
        self.tx = Sender(segment, send_bell, io_bell)
        self.rx = Receiver(segment, recv_bell, io_bell)
        self.bells = (recv_bell, send_bell)
        self.closed = False
        self.lent = ""  # to whom, in words, if somebody else sends and receives here
        self.pid = os.getpid()
        self.sleepers = Sleepers()  # the bells stay open for them
        self.dropped: dict[str, int] = {}
        _ports.add(self)

    def describe(self) -> str:
        """What to call this context in a message."""
        return self.name

    def check_open(self) -> None:
        """As `check_alive`; ProtoStateError if the context is lent."""
        self.check_alive()
        if self.lent:
            raise ProtoStateError(self.lent)

    def check_alive(self) -> None:
        """Raise ClosedError if the context was closed, ForkedError in a child that the user forked."""
        if self.closed or self.rx.closed:  # by us, or by the socket's own process, if that is another
            if self.pid != os.getpid():
                raise ForkedError(
                    f"{self.name} belongs to process {self.pid}: a forked child opens sockets of its own, or is handed"
                    " a context that was pickled before the fork (pickle.dumps(context) in the parent, pickle.loads in"
                    " the child: by fork, multiprocessing does not pickle arguments; by spawn it does)"
                )
            raise ClosedError(f"{self.name} is closed")

    def await_room(self, size: int, deadline: Deadline, *, force: bool) -> Steps[None]:
        """Wait until a message of `size` bytes may fit, or the time is over (SendTimeoutError).

        First for a moment until many fit, unless they are large: to be woken for each one costs more than the message.
        """
        if size < LARGE and deadline.left() > CALM:
            if self.tx.arm(size, force, True) or self.closed:
                return None
            if (yield Wait(self.tx, CALM)):
                return None
        if self.tx.arm(size, force) or self.closed:
            return None
        if not (yield Wait(self.tx, deadline.left())):
            raise SendTimeoutError(f"there was no room to send {deadline}: {self.name}")

    def drop(self, cause: str, n: int = 1) -> None:
        """Count what was dropped on this side."""
        self.dropped[cause] = self.dropped.get(cause, 0) + n

    def lend(self, why: str) -> bool:
        """Have another process send into this context's lane; whoever waits here raises ProtoStateError.

        Args:
            why: what that error says.

        Returns:
            False: a message is half written, by another thread or with `reserve`; nothing has changed.
        """
        if not self.tx.retire():
            return False
        self.lent = why
        for sleeper in tuple(self.sleepers.inside):  # one by one: the bells are somebody else's to silence from now on
            sleeper.ring()
        return True

    def take_back(self) -> None:
        """The other process sends no more: this one does."""
        self.tx = Sender(self.tx.segment, self.tx.bell, self.tx.io_bell)
        self.lent = ""

    def close(self, *, moved: bool = False) -> None:
        """Wake everybody who waits; the bells are closed when the last of them has left.

        Args:
            moved: the context lives on in another process.
        """
        if self.closed:
            return
        self.closed = True
        _ports.discard(self)
        if self.pid != os.getpid():
            return
        if moved:
            self.tx.wake()
        else:
            self.tx.close()
        self.rx.wake()
        self.tx.unhook()
        self.rx.unhook()
        self.left()

    @contextmanager
    def held(self) -> Generator[bool, None, None]:
        """Keeps the bells open for the length of the block. Gives False if they are closed already."""
        holder = Holder()
        self.sleepers.inside.append(holder)
        try:
            yield not self.closed
        finally:
            self.sleepers.inside.remove(holder)
            self.left()

    def close_bells(self) -> None:
        self.tx.unhook(own=True)
        self.rx.unhook(own=True)
        bells, self.bells = self.bells, (-1, -1)
        for bell in bells:
            if bell >= 0:
                os.close(bell)

    def left(self) -> None:
        """Somebody who waited here has left: the last one after the close takes the bells along."""
        if self.closed and not self.sleepers.inside and self.pid == os.getpid():
            self.close_bells()


def _forget_in_child() -> None:
    """In a forked child every context is the parent's."""
    for port in list(_ports):
        port.closed = True
    _ports.clear()


os.register_at_fork(after_in_child=_forget_in_child)
