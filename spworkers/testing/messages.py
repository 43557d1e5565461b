"""Messages and receive lanes as a machine sees them, without shared memory.

They do what the real ones do (`spworkers.ring`): a message can be taken back until it is claimed, a lane takes what its
window or its demand allows. And they are strict: what would corrupt a ring is an AssertionError here.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from spworkers.protocol.machine import DATA, ERROR

__all__ = ["Delivery", "FakeLane", "FakeMessage"]


class FakeMessage:
    """A message from a context to the machine: the `Outgoing` of tests.

    Args:
        body: the second part of the payload.
        header: the first part.
        inherited: it was claimed by a predecessor of this I/O process, and can be claimed once more.

    `state` goes from `"waiting"` to `"claimed"` to `"freed"`, or to `"taken back"`.
    """

    def __init__(
        self,
        body: bytes = b"",
        header: bytes = b"",
        *,
        pipe: int = 0,
        serial: int = 0,
        kind: int = DATA,
        context: int = 0,
        inherited: bool = False,
    ) -> None:
        self.body = body
        self.header = header
        self.pipe = pipe
        self.serial = serial
        self.kind = kind
        self.context = context
        self.inherited = inherited
        self.state: Literal["waiting", "claimed", "freed", "taken back"] = "waiting"
        self.users = 0
        self.sent = 0
        """How often it was transmitted."""

    @property
    def size(self) -> int:
        return len(self.body)

    @property
    def payload(self) -> bytes:
        """Header and body, as they lie in memory."""
        return self.header + self.body

    @property
    def begun(self) -> bool:
        return self.inherited and self.state == "waiting"

    def beginning(self, most: int) -> bytes:
        return self.body[:most]

    def payload_bytes(self) -> bytes:
        assert self.state == "claimed", f"{self!r} is copied, but nobody has it"
        return self.payload

    def claim(self) -> bool:
        if self.state == "taken back":
            return False
        assert self.state == "waiting", f"{self!r} is claimed a second time"
        self.state = "claimed"
        self.users = 1
        return True

    def retain(self) -> None:
        assert self.state == "claimed", f"{self!r} is retained, but nobody has it"
        self.users += 1

    def release(self) -> None:
        assert self.state == "claimed", f"{self!r} is released, but nobody has it"
        self.users -= 1
        if self.users == 0:
            self.state = "freed"

    def take_back(self) -> bool:
        """Its sender gives up. False: too late, it was claimed."""
        if self.state != "waiting" or self.inherited:
            return False
        self.state = "taken back"
        return True

    def __repr__(self) -> str:
        users = f", {self.users} users" if self.users else ""
        return f"<FakeMessage {self.payload!r} of context {self.context}, serial {self.serial}: {self.state}{users}>"


class Delivery:
    """A message from the machine to a context.

    `state` goes from `"waiting"` to `"taken"` to `"released"`, or to `"revoked"`.
    """

    def __init__(self, ticket: int, kind: int, pipe: int, header: bytes, body: bytes, serial: int) -> None:
        self.ticket = ticket
        self.kind = kind
        self.pipe = pipe
        self.header = header
        self.body = body
        self.serial = serial
        self.by_demand = False
        self.state: Literal["waiting", "taken", "released", "revoked"] = "waiting"

    @property
    def error(self) -> str:
        """The error's class name; empty if it is an ordinary message."""
        return self.body.decode() if self.kind == ERROR else ""

    def __repr__(self) -> str:
        what = f"error {self.error}" if self.kind == ERROR else f"{self.header!r} {self.body!r}"
        return f"<Delivery {self.ticket}: {what} from pipe {self.pipe}, serial {self.serial}: {self.state}>"


class FakeLane:
    """The receive lane of a context.

    It takes a message while fewer than `window` wait or are in use, and beyond that one for each receiver that has
    announced itself (`demand`). `armed`: one was refused, so the machine is to be told when that would change.
    """

    def __init__(self) -> None:
        self.window = 0
        self.demand = 0
        self.armed = False
        self.deliveries: list[Delivery] = []
        """All that there ever were."""
        self._waiting: deque[Delivery] = deque()
        self._in_use = 0

    # --- the machine's end

    def offer(self, pipe: int, header: bytes, body: bytes, serial: int) -> int:
        """A delivery's ticket; 0: no room."""
        by_demand = self._live() >= self.window
        if by_demand:
            if self.demand == 0:
                self.armed = True
                return 0
            self.demand -= 1
        delivery = self._put(DATA, pipe, header, body, serial)
        delivery.by_demand = by_demand
        return delivery.ticket

    def force(self, serial: int, error: str) -> None:
        """An error, which passes over the window."""
        self._put(ERROR, 0, b"", error.encode(), serial)

    def revoke(self, ticket: int) -> bool:
        """Take a delivery back, if the user has not taken it."""
        delivery = self.deliveries[ticket - 1]
        if delivery.state != "waiting":
            return False
        delivery.state = "revoked"
        self._waiting.remove(delivery)
        if delivery.by_demand:
            self.demand += 1
        return True

    def untaken(self, ticket: int) -> bool:
        """Whether the user has not taken a delivery."""
        return self.deliveries[ticket - 1].state == "waiting"

    # --- the user's end

    def take(self) -> Delivery | None:
        """The next message, which keeps its place in the window until it is released; None: there is none."""
        return self.claim(self._waiting[0]) if self._waiting else None

    def claim(self, delivery: Delivery) -> Delivery:
        """Take this one, which waits: a user may take them in another order."""
        self._waiting.remove(delivery)
        delivery.state = "taken"
        self._in_use += 1
        return delivery

    def release(self, delivery: Delivery) -> None:
        """Give a taken message's place back."""
        assert delivery.state == "taken", f"{delivery!r} is not in use"
        delivery.state = "released"
        self._in_use -= 1

    def withdraw(self) -> bool:
        """A receiver does not wait any more. False: its announcement was answered."""
        if self.demand == 0:
            return False
        self.demand -= 1
        return True

    @property
    def waiting(self) -> list[Delivery]:
        """What the user has not taken."""
        return list(self._waiting)

    @property
    def open(self) -> bool:
        """Whether a message would be taken."""
        return self._live() < self.window or self.demand > 0

    def _live(self) -> int:
        return len(self._waiting) + self._in_use

    def _put(self, kind: int, pipe: int, header: bytes, body: bytes, serial: int) -> Delivery:
        delivery = Delivery(len(self.deliveries) + 1, kind, pipe, header, body, serial)
        self.deliveries.append(delivery)
        self._waiting.append(delivery)
        return delivery
