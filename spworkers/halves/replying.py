"""The halves of those who reply: each pipe has a window of its own; a cooked one keeps the way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spworkers.errors import ProtoStateError, SendTimeoutError
from spworkers.halves.raw import RawHalf
from spworkers.ring import Record, Ways
from spworkers.waiting import Deadline, Steps, Wait

if TYPE_CHECKING:
    from spworkers.port import Port

__all__ = ["PerPipeHalf", "RepHalf", "RespondentHalf"]


class PerPipeHalf(RawHalf):
    """Each pipe has a window of its own, so that a peer that does not read holds up nobody but itself."""

    def __init__(self, port: Port) -> None:
        super().__init__(port)
        self.ways = Ways(port.tx)
        port.tx.window = 32768

    def configure(self, name: str, value: Any) -> None:
        if name == "WRITEQ-LEN":
            self.queue_length = value
            self.ways.queue_length = value
            self.tx.wake()
        else:
            super().configure(name, value)

    def try_send(self, body: Any, header: bytes) -> bool:
        return self.ways.send(body, header, int.from_bytes(header[:4], "big"))

    def send_steps(self, body: Any, header: bytes, deadline: Deadline) -> Steps[None]:
        yield from self.send_to(int.from_bytes(header[:4], "big"), body, header, 0, deadline)

    def send_to(self, pipe: int, body: Any, header: bytes, tag: int, deadline: Deadline) -> Steps[None]:
        """Publish for a pipe as soon as its window has room."""
        port = self.port
        size = memoryview(body).nbytes + len(header)
        while True:
            port.check_open()
            if self.ways.send(body, header, pipe, tag):
                return
            oldest = self.ways.oldest(pipe)
            if oldest == 0:  # it is the lane that is full
                yield from port.await_room(size, deadline, force=False)
                continue
            if self.best_effort:
                port.drop("best_effort")
                return
            if port.tx.arm_for(oldest, True) or port.closed:
                continue
            if not (yield Wait(port.tx, deadline.left())):
                raise SendTimeoutError(f"the peer does not read its replies: {port.describe()}")


class RepHalf(PerPipeHalf):
    """A reply goes back where its request came from; without a request there is nothing to reply to."""

    keeps_header = False

    def __init__(self, port: Port) -> None:
        super().__init__(port)
        self.backtrace: tuple[int, bytes] | None = None
        self.receiving = False

    def take_backtrace(self) -> tuple[int, bytes]:
        backtrace, self.backtrace = self.backtrace, None
        if backtrace is None:
            self.port.check_open()
            raise ProtoStateError(f"there is no request to reply to; call recv first: {self.port.describe()}")
        return backtrace

    def try_send(self, body: Any, header: bytes) -> bool:
        if self.backtrace is None:
            return False
        pipe, words = self.backtrace
        if not self.ways.send(body, words, pipe, pipe):
            return False
        self.backtrace = None
        return True

    def send_steps(self, body: Any, header: bytes, deadline: Deadline) -> Steps[None]:
        pipe, words = self.take_backtrace()
        yield from self.send_to(pipe, body, words, pipe, deadline)

    def take_body(self) -> bytes | None:
        return None  # the way back is in its header

    def try_recv(self) -> Record | None:
        if self.receiving:
            raise ProtoStateError(f"another recv waits on this context already: {self.port.describe()}")
        self.backtrace = None
        return super().try_recv()

    def look(self) -> Record | None:
        record = super().look()
        if record is not None:
            self.backtrace = (record.pipe, record.header)
        return record

    def doze_recv(self, deadline: Deadline) -> Record | None:
        self.receiving = True
        try:
            return super().doze_recv(deadline)
        finally:
            self.receiving = False

    def recv_steps(self, deadline: Deadline) -> Steps[Record]:
        self.receiving = True
        try:
            return (yield from super().recv_steps(deadline))
        finally:
            self.receiving = False

    def export(self) -> dict[str, Any]:
        return {"backtrace": self.backtrace}

    def restore(self, facts: dict[str, Any]) -> None:
        if facts["backtrace"] is not None:
            pipe, words = facts["backtrace"]
            self.backtrace = (pipe, words)

    def stand(self) -> None:
        # A context that is the only one has room for requests and needs no announcement; but it may not stay so.
        if self.demand.watched or self.rx.window == 0:
            self.demand.stand()


class RespondentHalf(RepHalf):
    """As RepHalf, but several receivers may wait on one context: the last one to get a survey replies to it."""

    def __init__(self, port: Port) -> None:
        super().__init__(port)
        self.keeps_header = False

    def try_recv(self) -> Record | None:
        self.receiving = False
        return super().try_recv()
