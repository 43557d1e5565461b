"""REQ's half: one request at a time; a new one cancels the former, and only its own reply is received."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spworkers.errors import CanceledError, ProtoStateError, RecvTimeoutError, SendTimeoutError, from_name
from spworkers.halves.raw import PUBLISHED, RawHalf
from spworkers.lookaround import LookAround
from spworkers.ring import CANCEL, ERROR, Exchange, Record
from spworkers.waiting import Deadline, Steps, Wait, doze

if TYPE_CHECKING:
    from spworkers.port import Port

__all__ = ["WHY", "ReqHalf"]

CLAIMED_OR_LATER = (3, 4)

WHY = {
    "CanceledError": "the peer that had the request is gone, and RETRY-TIME is 0: it was not sent again",
    "NoPeersError": "the last peer is gone, and FAIL-NO-PEERS is set",
}
"""What the errors mean that stand in an answer's place."""


class ReqHalf(RawHalf):
    """One request at a time: a new one cancels the former, and only its own reply is received.

    Which one counts is kept in the ring (`Exchange`), whose steps are whole, so that threads may share a context.
    """

    keeps_header = False

    def __init__(self, port: Port) -> None:
        super().__init__(port)
        self.exchange = Exchange(port.tx, port.rx, port.dropped)
        self._around = LookAround()
        self.farewell = b""
        """What the peer that has a request is sent, under the request's id, when that is given up; empty: nothing."""

    def configure(self, name: str, value: Any) -> None:
        if name != "WRITEQ-LEN":
            super().configure(name, value)

    # ---- sending

    def try_send(self, body: Any, header: bytes) -> bool:
        return not self.fail_no_peers and self.exchange.ask(body)

    def send_steps(self, body: Any, header: bytes, deadline: Deadline) -> Steps[None]:
        port, exchange = self.port, self.exchange
        port.check_open()
        self.check_peers()
        serial = exchange.begin()
        exchange.sending = serial
        size = memoryview(body).nbytes
        try:
            while not exchange.publish(body, serial):
                yield from port.await_room(size, deadline, force=True)
                port.check_open()
                self.check_peers()
            if not self.best_effort and self.region.ready_pipes <= 0:
                yield from self._await_peer(serial, deadline)
        except BaseException:
            self._take_back(serial)
            raise
        finally:
            if exchange.sending == serial:
                exchange.sending = 0

    def _await_peer(self, serial: int, deadline: Deadline) -> Steps[None]:
        """Wait until a peer has taken the request."""
        port, exchange = self.port, self.exchange
        ticket = exchange.ticket
        while True:
            if exchange.current != serial:
                raise CanceledError(f"a newer request took this one's place before a peer took it: {port.describe()}")
            state = port.tx.state(ticket)
            if state != PUBLISHED:
                port.check_open()  # taken only to be discarded, perhaps, with the context
                self.check_peers()  # or because of this
                return
            port.check_open()
            self.check_peers()
            if port.tx.arm_for(ticket) or port.closed:
                continue
            # What cannot be revoked was claimed in the last moment, or a newer request has taken it back.
            if not (yield Wait(port.tx, deadline.left())) and port.tx.revoke(ticket):
                raise SendTimeoutError(f"no peer took the request {deadline}: {port.describe()}")

    def _take_back(self, serial: int) -> None:
        """The send has failed: its request, if no peer has it yet, is none."""
        exchange = self.exchange
        taken = self.tx.state(exchange.ticket) in CLAIMED_OR_LATER and self.region.pipes > 0
        if exchange.current == serial and not taken:
            exchange.give_up()

    # ---- receiving

    def take_body(self) -> bytes | None:
        return None  # it may be of a former request

    def receive(self, deadline: Deadline) -> Record | None:
        port = self.port
        if port.closed:
            return None
        exchange = self.exchange
        serial = self._due()
        record = exchange.answer(serial, True)
        if record is None:
            try:
                doze(port, deadline.left(), port.sleepers.mine(), self._around)
                record = exchange.answer(serial)
            except BaseException:
                exchange.leave(serial)
                raise
            if record is None:
                exchange.leave(serial)
                self._still(serial)
                return None
        return self._good(record)

    def try_recv(self) -> Record | None:
        record = self.exchange.answer(self._due())
        return None if record is None else self._good(record)

    def _due(self) -> int:
        """The serial of the request whose reply is received next."""
        serial = self.exchange.due()
        if serial < 0:
            raise ProtoStateError(f"another recv waits on this context already: {self.port.describe()}")
        if self.fail_no_peers:
            self.check_peers()
        if serial == 0:
            self.port.check_open()
            raise ProtoStateError(f"no request is outstanding; call send first: {self.port.describe()}")
        return serial

    def _still(self, serial: int) -> None:
        """Raise if this request is no longer the one that counts."""
        if self.exchange.current != serial:
            self.port.check_open()
            raise CanceledError(f"a newer request took the place of this one: {self.port.describe()}")

    def _good(self, record: Record) -> Record:
        """The record, if it is a reply; the error, if it says that there will be none."""
        if record.kind == ERROR:
            name = record.take_body().decode("ascii", "replace")
            raise from_name(name, [WHY.get(name, f"the request failed: {name}")])
        return record

    def recv_steps(self, deadline: Deadline) -> Steps[Record]:
        port, exchange = self.port, self.exchange
        serial = exchange.current
        try:
            while True:
                self._still(serial)
                record = exchange.answer(serial, True)
                if record is not None:
                    return self._good(record)
                port.check_open()
                self.check_peers()
                if port.rx.arm() or port.closed or exchange.current != serial:  # its ring was before our arming
                    continue
                if not (yield Wait(port.rx, deadline.left())):
                    record = exchange.answer(serial)
                    if record is not None:
                        return self._good(record)
                    self._cancel(serial)
                    raise RecvTimeoutError(f"no reply came {deadline}: {port.describe()}")
        finally:
            exchange.leave(serial)

    def stand(self) -> None:
        return  # a reply comes without being asked for twice

    def _cancel(self, serial: int) -> None:
        """The time is over: the request is given up, and a late reply goes nowhere."""
        exchange = self.exchange
        if exchange.current != serial:
            return
        exchange.current = 0
        if not self.tx.revoke(exchange.ticket):
            self.tx.publish(self.farewell, b"", 0, serial, CANCEL, True)

    # ---- moving to another process

    def export(self) -> dict[str, Any]:
        exchange = self.exchange
        # A request whose sender still waits for a pipe ends with its sender.
        current = 0 if exchange.sending == exchange.current else exchange.current
        return {"serial": exchange.serial, "current": current, "ticket": exchange.ticket}

    def restore(self, facts: dict[str, Any]) -> None:
        exchange = self.exchange
        exchange.serial, exchange.current, exchange.ticket = facts["serial"], facts["current"], facts["ticket"]
