"""SUB's half: it knows its topics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spworkers.errors import BadValueError
from spworkers.halves.raw import RawHalf
from spworkers.ring import Record

if TYPE_CHECKING:
    from spworkers.port import Port

__all__ = ["SubHalf"]


class SubHalf(RawHalf):
    """Topics are kept here too: one that is unknown cannot be given up, and a new I/O process has to be told them."""

    def __init__(self, port: Port) -> None:
        super().__init__(port)
        self.keeps_header = False
        self.topics: dict[bytes, None] = {}  # in the order in which they came
        self.doubtful = False  # what lies in the lane may be of a topic that was given up

    def configure(self, name: str, value: Any) -> None:
        if name == "SUBSCRIBE":
            self.topics[value] = None
        elif name == "UNSUBSCRIBE":
            if value not in self.topics:
                raise BadValueError(f"{value!r} is no topic of {self.port.describe()}")
            del self.topics[value]
            self.doubtful = True
        else:
            super().configure(name, value)

    def look(self) -> Record | None:
        record = super().look()
        if record is None:
            self.doubtful = False  # from here on the I/O process knows
        return record

    def take_body(self) -> bytes | None:
        return None if self.doubtful else super().take_body()

    def accept(self, record: Record) -> bool:
        if self.doubtful:
            body = record.body()
            if not any(body.startswith(topic) for topic in tuple(self.topics)):
                self.port.drop("unsubscribed")
                record.release()
                return False
        return super().accept(record)

    def export(self) -> dict[str, Any]:
        return {"topics": list(self.topics)}

    def restore(self, facts: dict[str, Any]) -> None:
        self.topics = dict.fromkeys(facts["topics"])
