"""When the courier carries a socket's requests and replies, and when he gives them back.

    the machine has nothing to decide ──▶ `begin` ──▶ the courier carries, the hub is not called
    anybody asks for the machine      ──▶ `end`   ──▶ the machine has what is on its way

So what is decided, is decided by a machine that knows everything; and what is not, costs no call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spworkers.ring import Courier, FrameWriter, Inlet, Record

if TYPE_CHECKING:
    from spworkers.ioproc.pipes import Pipes
    from spworkers.ioproc.ports import ContextPort

__all__ = ["Errands"]


class Errands:
    """The hub's dealings with its courier.

    Attributes:
        courier: he; None: there was nothing for one yet.
        route: by which pipe he carries; 0: he does not.
    """

    def __init__(self, hub: Pipes) -> None:
        self._hub = hub
        self.courier: Courier | None = None
        self.route = 0

    def begin(self, number: int) -> None:
        """Have the courier carry by this pipe, if it is one for him."""
        hub = self._hub
        pipe = hub.pipe(number)
        if not hub.batching or hub.on_settled is not None or pipe is None or not pipe.attached or not pipe.reading:
            return
        reader, writer = pipe.straight, pipe.writer
        if reader is None or type(writer) is not FrameWriter or pipe.congested or pipe.backlog:
            return
        courier = self.courier
        if courier is None:
            courier = self.courier = Courier(hub.region, self.adopt, self.numbers, self.expect)
            for port in hub.contexts.values():
                self.admit(port)
            hub.watch.employ(courier)
        machine = hub.idle_machine
        courier.serve(reader, writer, number, machine.many_requests(), machine.patience())
        self.route = number

    def end(self) -> None:
        """The courier carries no more; the machine hears of what is on its way."""
        hub = self._hub
        pipe = hub.pipe(self.route)
        self.route = 0
        if pipe is not None and pipe.batches is not None and pipe.batches.pending:
            hub.touch(pipe, 0)  # what is left to be written
        if self.courier is not None:
            self.courier.give_up()

    def admit(self, port: ContextPort) -> None:
        """A context is open; in a device its deliveries go elsewhere."""
        if self.courier is not None and isinstance(port.inlet, Inlet):
            self.courier.admit(port.index, port.outlet, port.inlet)

    def dismiss(self, index: int) -> None:
        """A context is no more."""
        if self.courier is not None:
            self.courier.dismiss(index)

    # --- what the courier calls

    def numbers(self, count: int) -> int:
        """Request ids: so many, from behind this one."""
        return self._hub.idle_machine.numbers(count)

    def adopt(self, context: int, record: Record, key: bytes, pipe: int, sent: float) -> None:
        """A request that he has sent is the machine's from now on."""
        self._hub.idle_machine.adopt(context, record, key, pipe, sent)

    def expect(self, when: float) -> None:
        """Some of his requests will have been on their way for too long then."""
        self._hub.loop.call_at(when, self.expire)

    def expire(self) -> None:
        """Some may have been."""
        hub = self._hub
        if self.courier is not None and self.courier.expire(hub.clock()):
            self.end()
        hub.settle()
