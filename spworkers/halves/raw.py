"""The half of raw sockets and plain queues, and what all halves share: sending into a window, receiving, demand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spworkers.demand import NONE, Demand
from spworkers.errors import NoPeersError, RecvTimeoutError, SendTimeoutError, from_name
from spworkers.ring import ERROR, Record
from spworkers.waiting import Deadline, Steps, Wait, doze

if TYPE_CHECKING:
    from spworkers.port import Port

__all__ = ["PUBLISHED", "RawHalf"]

PUBLISHED = 2
"""State of a message in the lane that nobody has taken yet."""


class RawHalf:
    """Messages pass as they are; a full window blocks the sender. Without a window a message is handed over."""

    keeps_header = True

    def __init__(self, port: Port) -> None:
        self.port = port
        self.tx = port.tx
        self.rx = port.rx
        self.region = port.region
        self.best_effort = False
        self.fail_no_peers = False
        self.queue_length = 0  # WRITEQ-LEN
        self.demand = Demand(port.rx)
        self.sends = True
        self.receives = True

    def reservable(self) -> bool:
        """Whether a place in the window is all that a send needs (other protocols copy when they send)."""
        return type(self) is RawHalf and self.queue_length > 0

    def configure(self, name: str, value: Any) -> None:
        """An option of the context or its socket changed."""
        if name == "WRITEQ-LEN":
            self.queue_length = value
            self.tx.window = value
            self.tx.wake()  # there may be room now for who waits
        elif name == "BEST-EFFORT":
            self.best_effort = value
        elif name == "FAIL-NO-PEERS":
            self.fail_no_peers = value

    # ---- sending

    def send(self, body: Any, header: bytes) -> bool:
        """Send at once. False: `send_steps` has to see to it, or there is something wrong."""
        return self.sends and not self.port.closed and self.try_send(body, header)

    def try_send(self, body: Any, header: bytes) -> bool:
        """Send without waiting, if that is possible at once."""
        return bool(self.queue_length) and not self.fail_no_peers and self.tx.send(body, header)

    def send_steps(self, body: Any, header: bytes, deadline: Deadline) -> Steps[None]:
        """Send, waiting for room or for the hand-off."""
        if self.queue_length:
            yield from self._queue(body, header, deadline)
        else:
            yield from self._hand_over(body, header, deadline)

    def _queue(self, body: Any, header: bytes, deadline: Deadline) -> Steps[None]:
        port = self.port
        size = memoryview(body).nbytes + len(header)
        while True:
            port.check_open()
            self.check_peers()
            if port.tx.publish(body, header):
                return
            if self.best_effort:
                port.drop("best_effort")
                return
            yield from port.await_room(size, deadline, force=False)

    def _hand_over(self, body: Any, header: bytes, deadline: Deadline) -> Steps[None]:
        """Publish, and wait until a pipe takes it; taken back when that takes too long."""
        port = self.port
        size = memoryview(body).nbytes + len(header)
        ticket = 0
        while not ticket:
            port.check_open()
            self.check_peers()
            ticket = port.tx.publish(body, header, 0, 0, 0, True)
            if not ticket:
                yield from port.await_room(size, deadline, force=True)
        if self.best_effort or port.region.ready_pipes > 0:
            return
        try:
            yield from self._await_claim(ticket, deadline)
        except BaseException:
            port.tx.revoke(ticket)
            raise

    def _await_claim(self, ticket: int, deadline: Deadline) -> Steps[None]:
        port = self.port
        while port.tx.state(ticket) == PUBLISHED:
            port.check_open()
            self.check_peers()
            if port.tx.arm_for(ticket) or port.closed:
                continue
            if not (yield Wait(port.tx, deadline.left())):
                if port.tx.revoke(ticket):
                    raise SendTimeoutError(f"no peer took the message {deadline}: {port.describe()}")
                return

    def check_peers(self) -> None:
        if self.fail_no_peers and self.region.pipes == 0:
            raise NoPeersError(f"no peer is connected, and FAIL-NO-PEERS is set: {self.port.describe()}")

    # ---- receiving

    def try_recv(self) -> Record | None:
        """A message, if one waits."""
        record = self.look()
        if record is not None and record.by_demand:
            self.demand.taken()
        return record

    def look(self) -> Record | None:
        """A message, if one waits, for who sees to the demand himself."""
        while True:
            record = self.rx.take()
            if record is None or self.accept(record):
                return record

    def receive(self, deadline: Deadline) -> Record | None:
        """A message, waiting for it in this thread, the short way; None: `recv_steps` has to see to it."""
        if self.port.closed or not self.receives:
            return None
        record = self.try_recv()
        return record if record is not None else self.doze_recv(deadline)

    def take_body(self) -> bytes | None:
        """The body of the next message, if it is here and needs no closer look; None: `receive` has to see to it."""
        return self.rx.take_plain() if self.receives and not self.port.closed else None

    def peek(self) -> Record | None:
        """A message, if one waits; None also if there is something wrong."""
        return self.try_recv() if self.receives and not self.port.closed else None

    def doze_recv(self, deadline: Deadline) -> Record | None:
        """Wait for a message in a thread, the short way; None: `recv_steps` has to see to it."""
        if self.rx.window == 0:
            return None  # messages come only to those who ask for them
        doze(self.port, deadline.left(), self.port.sleepers.mine())
        return self.look() if not self.port.closed else None

    def recv_steps(self, deadline: Deadline) -> Steps[Record]:
        """Receive, waiting for a message."""
        port, demand = self.port, self.demand
        turn = self.turn()
        epoch = NONE  # of our announcement
        patient = True
        record: Record | None = None
        try:
            while True:
                self.still_wanted(turn)
                record = self.look()
                if record is not None:
                    return record
                port.check_open()
                self.still_wanted(turn)
                if port.rx.window == 0 and deadline.left() > 0:
                    epoch = demand.wait(epoch)
                if port.rx.arm() or port.closed:  # closed since we looked: its ring was before our arming
                    continue
                if (yield Wait(port.rx, deadline.left())):
                    continue
                if demand.give_up(epoch):
                    looked, epoch = epoch == NONE, NONE
                    record = self.look()  # between the last look and giving up
                    if record is None:
                        if looked or demand.watched:
                            self.stand()
                        raise RecvTimeoutError(f"no message came {deadline}: {port.describe()}")
                    return record
                if not patient:
                    raise RecvTimeoutError(f"no message came {deadline}: {port.describe()}")
                # Our announcement was answered: the message is on its way, or the I/O process's successor rings.
                patient = yield Wait(port.rx, 1.0)
        finally:
            demand.end(epoch, record is not None and record.by_demand)

    def watch(self) -> None:
        """`fileno()` was asked for: whatever comes shall be given to us although nobody waits in a recv."""
        self.demand.watched = True
        self.rx.watch()
        self.stand()

    def stand(self) -> None:
        """Somebody looked, and will look again: by the descriptor, or by another recv that may not wait."""
        if self.rx.window == 0:
            self.demand.stand()

    def accept(self, record: Record) -> bool:
        """Whether this is a message for the user; if not it is given back."""
        if record.kind == ERROR:
            name = record.take_body().decode("ascii", "replace")
            raise from_name(name, [f"the operation failed: {name}"])
        return True

    def turn(self) -> int:
        """What a receiver waits for, where that changes."""
        return 0

    def still_wanted(self, turn: int) -> None:
        """Raise what ended a wait for that, from our side."""

    def closed(self) -> None:
        """The context was closed."""

    # ---- moving to another process

    def export(self) -> dict[str, Any]:
        """What another process has to know to go on."""
        return {}

    def restore(self, facts: dict[str, Any]) -> None:
        """Go on, with what the former process knew."""
