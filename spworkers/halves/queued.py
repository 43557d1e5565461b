"""The half of one queue for many takers: PUSH, PAIR, PAIR1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spworkers.errors import SendTimeoutError
from spworkers.halves.raw import PUBLISHED, RawHalf
from spworkers.waiting import Deadline, Steps, Wait

if TYPE_CHECKING:
    from spworkers.port import Port

__all__ = ["QueuedHalf"]

HAND_OFF_LIMIT = 64
"""Messages without a queue (WRITEQ-LEN 0) that may be on their way to peers which take what they get."""


class QueuedHalf(RawHalf):
    """A full queue blocks the sender. With WRITEQ-LEN 0 there is none: a message goes when a peer is ready for it."""

    def __init__(self, port: Port) -> None:
        super().__init__(port)
        self.keeps_header = False

    def configure(self, name: str, value: Any) -> None:
        if name == "WRITEQ-LEN":
            self.queue_length = value
            self.port.tx.window = value or HAND_OFF_LIMIT
            self.port.tx.wake()  # there may be room now for who waits
        else:
            super().configure(name, value)

    def reservable(self) -> bool:
        return self.queue_length > 0 and not self.fail_no_peers and not self.best_effort

    def try_send(self, body: Any, header: bytes) -> bool:
        port = self.port
        if self.fail_no_peers or not (self.queue_length or port.region.ready_pipes > 0):
            return False
        return port.tx.send(body, header)

    def send_steps(self, body: Any, header: bytes, deadline: Deadline) -> Steps[None]:
        if self.queue_length:
            yield from self._queue(body, header, deadline)
        else:
            yield from self._offer(body, header, deadline)

    def _offer(self, body: Any, header: bytes, deadline: Deadline) -> Steps[None]:
        """Publish, and wait until a peer takes it if none is ready; taken back when that takes too long."""
        port = self.port
        size = memoryview(body).nbytes + len(header)
        while True:
            port.check_open()
            self.check_peers()
            ready = port.region.ready_pipes > 0
            if self.best_effort and not ready:
                port.drop("best_effort")
                return
            ticket = port.tx.publish(body, header)
            if ticket:
                break
            if self.best_effort:
                port.drop("best_effort")
                return
            yield from port.await_room(size, deadline, force=False)
        if ready:
            return
        try:
            yield from self._await_taker(ticket, deadline)
        except BaseException:
            port.tx.revoke(ticket)
            raise

    def _await_taker(self, ticket: int, deadline: Deadline) -> Steps[None]:
        port = self.port
        while port.tx.state(ticket) == PUBLISHED:
            port.check_open()
            self.check_peers()
            if port.tx.arm_for(ticket) or port.closed:
                continue
            if not (yield Wait(port.tx, deadline.left())) and port.tx.revoke(ticket):
                raise SendTimeoutError(f"no peer took the message {deadline}: {port.describe()}")
