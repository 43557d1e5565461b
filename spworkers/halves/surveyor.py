"""SURVEYOR's half: one survey at a time; only its own answers are received."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from spworkers.errors import CanceledError, ProtoStateError, RecvTimeoutError, from_name
from spworkers.halves.fanout import patient
from spworkers.halves.raw import RawHalf
from spworkers.ring import ERROR, Record
from spworkers.waiting import Deadline, Steps

if TYPE_CHECKING:
    from spworkers.port import Port

__all__ = ["SurveyorHalf"]

LANE = 1024
"""Surveys on their way to the I/O process: each cancels the one before it, but was sent."""


class SurveyorHalf(RawHalf):
    """A new survey ends the former; when its time is over, who waits is told so, and who comes later has no survey."""

    def __init__(self, port: Port) -> None:
        super().__init__(port)
        self.keeps_header = False
        self.lock = threading.Lock()  # never held while waiting
        self.serial = 0  # of the last survey
        self.current = 0  # serial of the one that runs, or 0
        self.ended = 0  # serial of the one whose end was heard of last
        self.queue_length = LANE
        port.tx.window = LANE

    def configure(self, name: str, value: Any) -> None:
        if name != "WRITEQ-LEN":
            super().configure(name, value)

    # ---- sending

    def _begin(self) -> int:
        """End the former survey here, number a new one."""
        with self.lock:
            self.serial += 1
            self.current = self.serial
            while (record := self.port.rx.take()) is not None:
                self._let_go(record)  # nobody wants it any more, and fileno() shall not tell of it
        self.port.rx.wake()  # who waits for the former one looks again
        return self.serial

    def _let_go(self, record: Record) -> None:
        if record.by_demand:
            self.demand.taken()
        if record.kind != ERROR:
            self.port.drop("canceled")
        record.release()

    def try_send(self, body: Any, header: bytes) -> bool:
        if self.port.tx.queued >= LANE:
            return False
        return self.port.tx.publish(body, b"", 0, self._begin(), 0) != 0

    def send_steps(self, body: Any, header: bytes, deadline: Deadline) -> Steps[None]:
        port = self.port
        size = memoryview(body).nbytes
        port.check_open()
        serial = self._begin()
        deadline = patient(port, LANE, deadline)
        while True:
            port.check_open()
            if port.tx.publish(body, b"", 0, serial, 0):
                return
            yield from port.await_room(size, deadline, force=False)

    # ---- receiving

    def accept(self, record: Record) -> bool:
        """Only what belongs to the survey that runs is for the user."""
        if record.serial != self.current:
            self._let_go(record)
            return False
        if record.kind != ERROR:
            return True
        name = record.take_body().decode("ascii", "replace")
        with self.lock:
            if self.current == record.serial:
                self.ended, self.current = self.current, 0
        self.port.rx.wake()  # there is one such message, and there may be several receivers
        if name != "RecvTimeoutError":
            raise from_name(name, [f"the survey failed: {name}"])
        return False

    def try_recv(self) -> Record | None:
        if not self.current:
            self._no_survey()
        record = super().try_recv()
        if record is None and not self.current:
            self._no_survey()  # it had ended before we were asked
        return record

    def _no_survey(self) -> None:
        self.port.check_open()
        raise ProtoStateError(f"no survey runs: none was sent, or its SURVEY-TIME is over: {self.port.describe()}")

    def check_survey(self, serial: int) -> None:
        """Raise what became of the survey that a receiver waits for, if it does not run any more."""
        if self.current == serial:
            return
        self.port.check_open()
        if self.ended == serial:
            raise RecvTimeoutError(f"the survey is over: {self.port.describe()}")
        raise CanceledError(f"a newer survey took the place of this one: {self.port.describe()}")

    def doze_recv(self, deadline: Deadline) -> Record | None:
        serial = self.current
        record = super().doze_recv(deadline)
        if record is None or record.serial != serial:
            if record is not None:
                self._let_go(record)
            self.check_survey(serial)
        return record

    def turn(self) -> int:
        return self.current

    def still_wanted(self, turn: int) -> None:
        self.check_survey(turn)

    # ---- moving to another process

    def export(self) -> dict[str, Any]:
        return {"serial": self.serial, "current": self.current, "ended": self.ended}

    def restore(self, facts: dict[str, Any]) -> None:
        self.serial, self.current, self.ended = facts["serial"], facts["current"], facts["ended"]
