"""One direction of a device: what a socket receives goes into the send lane of the other socket.

    our pipes ─▶ machine ─▶ deliver ─▶ Bridge ─▶ the other's lane 0 ─▶ its outlet ─▶ its machine ─▶ its pipes
        ▲                                                │                            (in its I/O process)
        └── wait, unread, when the lane is full          └─▶ its send bell: there is room again

A device has no queue of its own and nobody between the two sockets: each I/O process is the user of the other's lane,
as a process would be that had been handed a context. So a message is copied once; what was forwarded outlives both
processes, as whatever a user has sent does; and a full lane pushes back to the pipes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from spworkers.channel import close_fds
from spworkers.errors import BadValueError
from spworkers.ioproc.counters import CAUSES, FORWARDED
from spworkers.ioproc.hub import RETRY_DELIVERY, Hub
from spworkers.ring import DATA, READABLE, Receiver, Region, Segment, Sender, hush_bell

__all__ = ["Bridge", "Crossing", "Deliveries"]

TAKEN = 1
"""The ticket of what is on its way, or was dropped: nobody takes it back."""


class Deliveries(Protocol):
    """Where a context's deliveries go: by the ring's `Inlet` to its user, or over a `Bridge`."""

    window: int

    def offer(
        self,
        prefix: bytes,
        payload: bytes,
        header_length: int,
        pipe: int,
        serial: int,
        kind: int = ...,
        force: bool = ...,
    ) -> int:
        """Deliver a message, whose header is `prefix ‖ payload[:header_length]`; 0: neither room nor demand."""

    def offer_all(self, payloads: list[Any], begin: int, pipe: int) -> int:
        """Deliver messages (bytes, landings) without headers, from `begin` on, while there is room; where it ended."""

    def arm(self, size: int = ...) -> bool:
        """Ask to be told when there is. True: there is already."""

    def revoke(self, ticket: int) -> bool:
        """Take a delivery back."""

    def displace(self) -> bool:
        """Take back the oldest delivery that nobody has taken. False: there is none."""

    def untaken(self, most: int) -> list[tuple[int, bytes]]:
        """Ticket and first `most` bytes of each delivery that nobody has taken."""

    def state(self, ticket: int) -> int:
        """What became of one."""

    def close(self) -> None:
        """There will be no more."""


class Bridge:
    """Stands in for a context's inlet.

    Args:
        inlet: that one; it is idle meanwhile.
        own: our region, which counts what was forwarded.
        region: the other socket's, which counts what was dropped.
        sender: the end of its lane.
        headers: False: they mean nothing over there, and are left out.
    """

    def __init__(self, inlet: Deliveries, own: Region, region: Region, sender: Sender, *, headers: bool) -> None:
        self.inlet = inlet
        self.sender = sender
        self.best_effort = False
        self.fail_no_peers = False
        self._own = own
        self._region = region
        self._headers = headers
        self._backlog: deque[tuple[bytes, bytes]] = deque()  # header and body of what came before the device

    @property
    def window(self) -> int:
        """READQ-LEN; it will hold again when the device is over."""
        return self.inlet.window

    @window.setter
    def window(self, n: int) -> None:
        self.inlet.window = n

    def offer(
        self,
        prefix: bytes,
        payload: bytes,
        header_length: int,
        pipe: int,
        serial: int,
        kind: int = DATA,
        force: bool = False,
    ) -> int:
        """Forward a message, or drop and count it; 0: it has to wait."""
        if not self.catch_up():
            return 0
        body: bytes | memoryview = payload
        if header_length:
            prefix += payload[:header_length]
            body = memoryview(payload)[header_length:]
        return TAKEN if self._pass(prefix, body) else 0

    def offer_all(self, payloads: list[Any], begin: int, pipe: int) -> int:
        """See `Deliveries`."""
        for taken in range(begin, len(payloads)):
            if type(payloads[taken]) is not bytes:  # it was on its way to the user when the device began
                payloads[taken] = payloads[taken].take_back()
            if not self.offer(b"", payloads[taken], 0, pipe, 0):
                return taken
        return len(payloads)

    def catch_up(self) -> bool:
        """Forward what came before the device. False: some of it still waits."""
        backlog = self._backlog
        while backlog:
            if not self._pass(*backlog[0]):
                return False
            backlog.popleft()
        return True

    def _pass(self, header: bytes, body: bytes | memoryview) -> bool:
        """The message is on its way, or dropped. False: there is no room."""
        if self.fail_no_peers and self._region.pipes == 0:
            self._region.add(CAUSES["no_peers"])
            return True
        try:
            sent = self.sender.publish(body, header if self._headers else b"")
        except BadValueError:  # than any lane can hold, and MAX-RCV-SIZE lets it in
            self._region.add(CAUSES["too_long"])
            return True
        if sent:
            self._own.add(FORWARDED)
        elif self.best_effort:
            self._region.add(CAUSES["best_effort"])
            return True
        return bool(sent)

    def arm(self, size: int = 0) -> bool:
        """Have the bell rung when there is room. True: there is."""
        if self._backlog:
            size = sum(map(len, self._backlog[0]))
        if not self.sender.arm(size):
            return False
        hush_bell(self.sender.bell)  # arming rang it for sleepers that there are none of
        return True

    def revoke(self, ticket: int) -> bool:
        """What was forwarded is not taken back."""
        return False

    def displace(self) -> bool:
        """What was forwarded is not taken back."""
        return False

    def untaken(self, most: int) -> list[tuple[int, bytes]]:
        """Whatever was delivered was forwarded."""
        return []

    def state(self, ticket: int) -> int:
        """Nothing is known of it here."""
        return 0

    def close(self) -> None:
        """The context is closed."""
        self.inlet.close()

    def take(self, receiver: Receiver) -> None:
        """What was delivered before, and not taken by the user, goes over the bridge too, before all else."""
        record = receiver.take()
        while record is not None:
            self._backlog.append((record.header, record.take_body()))
            record = receiver.take()

    def give_back(self) -> int:
        """What still waits is delivered to the user. Returns for how much there was no room."""
        lost = 0
        for header, body in self._backlog:
            lost += self.inlet.offer(header, body, 0, 0, 0, DATA, True) == 0
        self._backlog.clear()
        return lost


class Crossing:
    """A bridge in use: context 0 delivers over it until `end`.

    Args:
        hub: of our socket.
        fds: region, I/O bell and send bell of the other socket, owned from now on; none: it is the same socket.
        headers: as for `Bridge`.
    """

    def __init__(self, hub: Hub, fds: Sequence[int], *, headers: bool) -> None:
        self._hub = hub
        self._over = False
        self.fds = list(fds)
        self._port = hub.contexts[0]
        segment: Segment = self._port.segment
        region, io_bell, send_bell = hub.region, hub.io_bell, self._port.bells[1]
        if fds:
            region = Region.attach(fds[0])
            io_bell, send_bell = fds[1], fds[2]
            segment = region.segment(0)
        sender = Sender(segment, send_bell, io_bell)
        self.bridge = Bridge(self._port.inlet, hub.region, region, sender, headers=headers)
        self.bridge.take(Receiver(self._port.segment, self._port.bells[0], hub.io_bell))
        self._port.inlet = self.bridge
        hub.watch.watch(send_bell, READABLE, self._room, None)
        self._room()

    def change(self, best_effort: bool, fail_no_peers: bool) -> None:
        """Options of the other socket."""
        self.bridge.best_effort = best_effort
        self.bridge.fail_no_peers = fail_no_peers
        self._room()

    def _room(self, _about: None = None, _events: int = 0) -> None:
        """There may be room for what waits."""
        if self._over:
            return
        hush_bell(self.bridge.sender.bell)
        if self.bridge.catch_up():
            self._hub.wants_again(0)
        elif self.bridge.arm():  # and yet there was no slot
            self._hub.loop.call_later(RETRY_DELIVERY, self._room)

    def end(self) -> None:
        """Deliver to the user again."""
        self._over = True
        self._hub.watch.watch(self.bridge.sender.bell, 0, self._room, None)
        lost = self.bridge.give_back()
        if lost:
            self._hub.count("closed", n=lost)
        self._port.inlet = self.bridge.inlet
        self.bridge.sender.unhook(own=True)
        close_fds(self.fds)
        self._hub.wants_again(0)
