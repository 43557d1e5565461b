"""The hub joins a protocol machine, the pipes and the rings of one socket.

    context's ring ──▶ drain ──▶ machine ──▶ transmit ──▶ pipe's writer ──▶ kernel
    context's ring ◀── deliver ◀── machine ◀── feed ◀── pipe's reader ◀── kernel

It does what the machine answers (`Actions`) and tells it what happens; what it does with the pipes is in `pipes.py`.
Nothing here waits: the watch calls `doorbell` and `ready`, the loop calls `timer`. Each of them ends in `settle`, where
what the machine asked for meanwhile (resumes, closes, writes) is done outside of the machine's own methods.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from spworkers.ioproc.conduct import conduct_of
from spworkers.ioproc.counters import IN_HAND
from spworkers.ioproc.pipes import ALL_BITS, WRITE_AT_ONCE, Pipes
from spworkers.ioproc.ports import ContextPort, PipePort
from spworkers.protocol.machine import Actions, Machine, Outgoing
from spworkers.ring import ERROR, Outlet, Region, fan_out

if TYPE_CHECKING:
    from spworkers.protocols import InExchange

_NO_OPTIONS: Mapping[str, Any] = {}

RETRY_DELIVERY = 0.02
"""Seconds until a delivery for which there was no slot is tried again."""

PUBLISHED = 2
"""State of a message in a lane that nobody has taken yet."""


class Hub(Pipes):
    """The I/O process's core.

    Args:
        loop: has asyncio's `call_soon`, `call_later` and `call_at`, by the clock `time.monotonic`.
        watch: on the bell and the pipes (`spworkers.ioproc.loop.Watch`).
        region: the socket's shared memory.
        io_bell: its bell.
        make_machine: makes the protocol's machine.
    """

    def __init__(
        self, loop: Any, watch: Any, region: Region, io_bell: int, make_machine: Callable[[Actions], Machine]
    ) -> None:
        super().__init__(loop, watch, region, make_machine)
        self.io_bell = io_bell
        self.held = 0
        """How many messages the machine kept for its pipes when that was written into shared memory."""
        self.closing: list[tuple[PipePort, str]] = []
        self.settling = False
        self.armed_at = math.inf
        self.timer_handle: Any = None
        self.on_kill: Callable[[int, str], None] = _ignore_kill
        self.on_cancel: Callable[[int, int], None] = _ignore_cancel
        self.on_report: Callable[[str, str, bytes, float, str], None] = _ignore_report

    def start(self, exchange: InExchange = "") -> None:
        """Begin to answer the bell.

        Args:
            exchange: the watch looks around accordingly before it sleeps.
        """
        self.watch.attend(self.region, self.io_bell, self.doorbell, exchange)
        conduct = conduct_of(exchange)
        if conduct is not None:
            self.watch.behave(conduct)

    def replace(self, make_machine: Callable[[Actions], Machine]) -> None:
        """Go on with another machine for the same pipes; requests that nobody had taken yet go to the new one."""
        old = self.machine
        old.now = self.clock()
        for index in list(self.contexts):
            old.context_closed(index)
        old.hand_over()
        machine = make_machine(self)
        machine.now = old.now
        self.idle_machine = machine
        for pipe in list(self.pipes.values()):
            machine.pipe_added(pipe.id)
            if pipe.congested:
                machine.pipe_congested(pipe.id)
            untaken = [payload for number, payload in old.undelivered() if number == pipe.id]
            pipe.backlog = untaken + pipe.backlog[pipe.taken :]
            pipe.taken = 0
            if pipe.backlog:
                self.read_no_more(pipe)
                self.resumed.append(pipe)
        for index in list(self.contexts):
            machine.context_opened(index)

    # ---- contexts

    def open_context(self, port: ContextPort, options: Mapping[str, Any] = _NO_OPTIONS, *, again: bool = True) -> None:
        """A context's rings are here; records that a predecessor left unfinished come first.

        Args:
            port: of the context.
            options: its own.
            again: send what the predecessor had begun to send once more; False: it fails with CanceledError.
        """
        self.contexts[port.index] = port
        self.errands.admit(port)
        unfinished = port.outlet.adopt()
        self.machine.now = self.clock()
        self.machine.context_opened(port.index)
        for name, value in options.items():
            self.machine.configure(port.index, name, value)
        for _ in range(unfinished):
            record = port.outlet.next()
            if record is None:
                break
            if record.begun and not again:
                self.fail(port.index, record.serial, "CanceledError")
                record.claim()
                record.release()
            else:
                self.machine.context_message(port.index, record)
        self.drain(port)
        self.settle()

    def close_context(self, index: int) -> None:
        """Its owner closed it, or died: what it had published still goes out."""
        port = self.contexts.get(index)
        if port is None:
            return
        self.machine.now = self.clock()
        self.drain(port)
        self.forget_context(index)
        port.inlet.close()
        self.settle()

    def forget_context(self, index: int) -> None:
        """It is no more; the machine may take back what it has not taken."""
        self.machine.context_closed(index)
        self.errands.dismiss(index)
        del self.contexts[index]
        self.last_context = None

    def doorbell(self) -> None:
        """Somebody rang: look at the contexts that did."""
        courier = self.errands.courier
        rang = self.region.collect() if courier is None else courier.collect()
        if rang:
            self.machine.now = self.clock()
            for index in rang:
                port = self.context(index)
                if port is not None:
                    self.drain(port)
        elif courier is not None and courier.stuck:
            self.errands.end()
        self.settle()

    def drain(self, port: ContextPort) -> None:
        """Everything that a context has published goes to the machine."""
        machine = self.machine
        outlet = port.outlet
        index = port.index
        while True:
            if self.batching:
                sole = machine.everything_to(index)
                if sole:
                    if self.drain_to(sole, outlet, machine.prefix()):
                        continue
                else:
                    everybody = machine.copies_to(index)
                    if everybody and self.drain_to_all(everybody, outlet, machine.prefix()):
                        continue
            record = outlet.next()
            if record is None:
                break
            machine.context_message(index, record)
            if self.hot:
                self.flush()
        if self.stranded:
            self.resumed += self.stranded
            self.stranded = []
        machine.context_wants(index)

    def drain_to(self, number: int, outlet: Outlet, prefix: bytes) -> bool:
        """Everything that a lane has goes to one pipe. False: that was it; True: the pipe is full, ask again."""
        pipe = self.pipe(number)
        if pipe is None or pipe.batches is None:
            return False
        pending = pipe.batches.take(outlet, prefix, WRITE_AT_ONCE)
        if pending:
            self.touch(pipe, pending)
        if not self.hot:
            return False
        self.flush()
        return True

    def drain_to_all(self, numbers: list[int], outlet: Outlet, prefix: bytes) -> bool:
        """As `drain_to`, for copies to these pipes."""
        if numbers is not self.everybody:
            self.everybody = numbers
            self.recipients = [self.pipes[number] for number in numbers]
            writers = [pipe.batches for pipe in self.recipients if pipe.batches is not None]
            self.writers = writers if len(writers) == len(numbers) else []
        if not self.writers:
            return False
        pending = fan_out(outlet, prefix, self.writers, WRITE_AT_ONCE)
        if pending:
            for pipe in self.recipients:
                self.touch(pipe, pending)
        if not self.hot:
            return False
        self.flush()
        return True

    # ---- what the machine asked for, done outside of it

    def settle(self) -> None:
        """Do what is left to do after an event, until nothing is."""
        if self.settling:
            return
        self.settling = True
        try:
            while self.dirty or self.resumed or self.closing:
                self.flush()
                while self.closing:
                    pipe, cause = self.closing.pop()
                    self.lose(pipe, "closed", cause)  # the machine has counted it
                while self.resumed:
                    self.go_on(self.resumed.pop(0))
        finally:
            self.settling = False
        machine = self.idle_machine
        held = machine.held()
        if held != self.held:
            self.region.add(IN_HAND, (held - self.held) & ALL_BITS)
            self.held = held
        if machine.deadline < self.armed_at:
            self.arm_timer()
        if self.errands.route == 0:
            route = machine.sole_route()
            if route:
                self.errands.begin(route)
        if self.on_settled is not None:
            self.on_settled()

    def arm_timer(self) -> None:
        if self.timer_handle is not None:
            self.timer_handle.cancel()
        self.armed_at = self.idle_machine.deadline
        self.timer_handle = self.loop.call_at(self.armed_at, self.timer)

    def timer(self) -> None:
        """The machine's deadline, as it was when the timer was set."""
        self.timer_handle = None
        self.armed_at = math.inf
        machine = self.machine
        machine.now = self.clock()
        if machine.now >= machine.deadline:
            machine.timer_due()
        self.settle()

    # ---- Actions

    def transmit(self, pipe: int, prefix: bytes, message: Outgoing, skip: int) -> None:
        port = self.pipe(pipe)
        assert port is not None, "a machine sends to the pipes that it has been told of"
        record: Any = message
        self.touch(port, port.writer.push_record(prefix, record, skip))

    def transmit_bytes(self, pipe: int, payload: bytes) -> None:
        port = self.pipe(pipe)
        assert port is not None, "a machine sends to the pipes that it has been told of"
        self.touch(port, port.writer.push_bytes(payload))

    def deliver(self, context: int, pipe: int, payload: bytes, header_length: int, serial: int, prefix: bytes) -> int:
        port = self.context(context)
        if port is None:
            return 0
        inlet = port.inlet
        ticket = inlet.offer(prefix, payload, header_length, pipe, serial)
        if ticket == 0 and inlet.arm(len(prefix) + len(payload)):
            ticket = inlet.offer(prefix, payload, header_length, pipe, serial)
            if ticket == 0:  # no slot to be had: leases hold them all
                self.loop.call_later(RETRY_DELIVERY, self.wants_again, context)
        return ticket

    def relay(self, yes: bool) -> None:
        """The socket is part of a device, or not any more."""
        self.machine.now = self.clock()
        self.machine.in_device(yes)
        self.settle()

    def wants_again(self, context: int) -> None:
        if context in self.contexts:
            self.machine.now = self.clock()
            self.machine.context_wants(context)
            self.settle()

    def revoke(self, context: int, ticket: int) -> bool:
        port = self.context(context)
        return port is not None and port.inlet.revoke(ticket)

    def waits(self, context: int, ticket: int) -> bool:
        port = self.context(context)
        return port is not None and port.inlet.state(ticket) == PUBLISHED

    def displace(self, context: int) -> bool:
        port = self.context(context)
        return port is not None and port.inlet.displace()

    def untaken(self, context: int, most: int) -> list[tuple[int, bytes]]:
        port = self.context(context)
        return [] if port is None else port.inlet.untaken(most)

    def fail(self, context: int, serial: int, error: str) -> None:
        port = self.context(context)
        if port is not None:
            port.inlet.offer(b"", error.encode(), 0, 0, serial, ERROR, True)

    def resume(self, pipe: int) -> None:
        port = self.pipe(pipe)
        if port is not None:
            self.resumed.append(port)

    def close_pipe(self, pipe: int, cause: str) -> None:
        port = self.pipe(pipe)
        if port is not None:
            self.closing.append((port, cause))

    def taken(self, pipe: int) -> int:
        port = self.pipe(pipe)
        return 0 if port is None else port.writer.sent

    def starved(self, context: int) -> bool:
        port = self.context(context)
        return port is not None and port.outlet.awaited()

    def set_ready(self, n: int) -> None:
        self.region.ready_pipes = n

    def set_window(self, context: int, n: int) -> None:
        port = self.context(context)
        if port is not None:
            port.inlet.window = n

    def report(self, cause: str, handler: str, call: bytes, seconds: float, text: str) -> None:
        self.on_report(cause, handler, call, seconds, text)

    def cancel(self, context: int, serial: int) -> None:
        self.on_cancel(context, serial)

    def kill(self, context: int, reason: str) -> None:
        self.on_kill(context, reason)

    # ---- what others ask about

    def unsent(self) -> int:
        """Messages that the kernel has not accepted whole, for each pipe that they are for."""
        return self.idle_machine.held() + sum(pipe.writer.queued for pipe in self.pipes.values())


def _ignore_cancel(context: int, serial: int) -> None:
    return None


def _ignore_report(cause: str, handler: str, call: bytes, seconds: float, text: str) -> None:
    return None


def _ignore_kill(context: int, reason: str) -> None:
    return None
