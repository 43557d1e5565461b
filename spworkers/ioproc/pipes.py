"""The pipes of one socket: what is read from them goes to the protocol's machine, what it sends is written to them.

    machine ──▶ touch ──▶ flush ──▶ pipe's writer ──▶ kernel
    machine ◀── feed ◀── read ◀── pipe's reader ◀── kernel

A pipe whose bytes the kernel does not take is *congested*. If nobody takes the messages of one, they are its *backlog*,
and it is not read from. If its peer goes meanwhile it has *hung up*: it is read to its end later.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from spworkers.errors import TooLongError
from spworkers.ioproc.counters import CAUSES, IN_HAND, RECEIVED, RECEIVED_BYTES, SENT, SENT_BYTES
from spworkers.ioproc.errands import Errands
from spworkers.ioproc.ports import ContextPort, PipePort
from spworkers.ioproc.sparing import Sparing
from spworkers.protocol.machine import CONGESTED, DISPLACED, UNWANTED, Actions, Machine
from spworkers.ring import FrameWriter, Inlet, Region, free_bells, hold_bells

if TYPE_CHECKING:
    from spworkers.ioproc.bridge import Deliveries

log = logging.getLogger(__name__)
log.addFilter(Sparing())  # of its warnings, which are what peers did

READABLE: Final = 1
WRITABLE: Final = 4
BROKEN: Final = 8 | 16
HANGUP: Final = 0x2000
"""Events, as `spworkers.ring` has them; known to the compiler here."""

OVER: Final = 2
"""`Reader.more` of a pipe of which nothing is read any more."""

READS = 8
"""Reads of one pipe in a row before the others get their turn."""

WRITE_AT_ONCE = 128 * 1024
"""Bytes queued on a pipe from which it is flushed in the midst of a drain rather than at its end."""

ALL_BITS: Final = (1 << 64) - 1
"""Of a counter's word, to which a negative number is added."""


class Pipes(Actions):
    """What a hub does with its pipes.

    Args:
        loop: has asyncio's `call_soon`, `call_later` and `call_at`, by the clock `time.monotonic`.
        watch: on the bell and the pipes (`spworkers.ioproc.loop.Watch`).
        region: the socket's shared memory.
        make_machine: makes the protocol's machine.
    """

    def __init__(self, loop: Any, watch: Any, region: Region, make_machine: Callable[[Actions], Machine]) -> None:
        self.loop = loop
        self.watch = watch
        self.clock = time.monotonic
        self.region = region
        self.idle_machine = make_machine(self)
        """It may not know of all requests that are on their way: for questions that are not about them."""
        self.errands = Errands(self)
        self.contexts: dict[int, ContextPort] = {}
        self.pipes: dict[int, PipePort] = {}
        # Those asked for last; most sockets have one of each, and looking up a number costs as much as a delivery.
        self.last_context: ContextPort | None = None
        self.last_pipe: PipePort | None = None
        self.hung_up = 0
        """How many of the pipes have lost their peers, and are only read to their ends."""
        self.under_way = 0
        """How many messages congested pipes have that were sent by one queue."""
        self.dirty: list[PipePort] = []
        self.hot = False
        self.resumed: list[PipePort] = []
        self.stranded: list[PipePort] = []
        """Pipes whose next message is in its block of the lane, and waits for room in the window."""
        self.batching = True
        """Whether messages that need no decision may go many at a time; the results are the same."""
        self.everybody: list[int] = []
        """Who got the last copies, as the machine named them; `recipients` and `writers` are the same ones."""
        self.recipients: list[PipePort] = []
        self.writers: list[FrameWriter] = []
        self.on_pipe_lost: Callable[[PipePort, str], None] = _ignore_loss
        """Told when a pipe has ended; twice of one that has hung up, then the second time when it is closed."""
        self.on_settled: Callable[[], None] | None = None

    @property
    def machine(self) -> Machine:
        """The protocol's machine, told of everything that was done without it."""
        if self.errands.route:
            self.errands.end()
        return self.idle_machine

    def context(self, index: int) -> ContextPort | None:
        """The context of that number."""
        port = self.last_context
        if port is None or port.index != index:
            port = self.last_context = self.contexts.get(index)
        return port

    def pipe(self, number: int) -> PipePort | None:
        """The pipe of that number."""
        pipe = self.last_pipe
        if pipe is None or pipe.id != number:
            pipe = self.last_pipe = self.pipes.get(number)
        return pipe

    def settle(self) -> None:
        """Do what is left to do after an event."""
        raise NotImplementedError

    # ---- from the first to the last

    def attach(self, pipe: PipePort) -> bool:
        """Tell the machine of a new pipe. False: it was refused."""
        self.machine.now = self.clock()
        self.pipes[pipe.id] = pipe
        if not self.machine.pipe_added(pipe.id):
            del self.pipes[pipe.id]
            self.last_pipe = None
            return False
        pipe.attached = True
        self.tell_pipes()
        self.read_on(pipe)
        if pipe.reader.more:  # it has bytes already, of which the kernel will not tell
            self.loop.call_soon(self.ready, pipe, READABLE)
        self.settle()
        return True

    def read_on(self, pipe: PipePort) -> None:
        if not pipe.reading and not pipe.closed:
            pipe.reading = True
            self.attend(pipe)

    def read_no_more(self, pipe: PipePort) -> None:
        if pipe.reading:
            pipe.reading = False
            self.attend(pipe)

    def attend(self, pipe: PipePort) -> None:
        """Watch for what it waits for now: of one that is not read from, for its peer's end at least."""
        if pipe.bell is not None:  # which tells of room as of bytes, and of what was lent and is read
            asked = pipe.attached and not (pipe.hung_up or pipe.left)
            events = READABLE if pipe.reading or pipe.congested or asked else 0
        else:
            events = (READABLE if pipe.reading else 0) | (WRITABLE if pipe.congested else 0)
        if pipe.attached and not (pipe.reading or pipe.hung_up or pipe.left):
            events |= HANGUP
        self.watch.watch(pipe.fd, events, self.ready, pipe)

    def ready(self, pipe: PipePort, events: int) -> None:
        """The kernel takes bytes of this pipe again, or has bytes for us, or tells of the end."""
        if events & HANGUP and pipe.attached and not pipe.reading:
            self.hang_up(pipe)
            self.settle()
            return
        if pipe.bell is not None:
            pipe.bell.hush()
            events |= READABLE | WRITABLE
        if (pipe.congested or (pipe.bell is not None and not pipe.closed)) and events != READABLE:
            self.machine.now = self.clock()
            self.flush_pipe(pipe)
        if pipe.reading and events != WRITABLE:
            self.readable(pipe, events & BROKEN != 0)
        self.settle()

    def leave(self, pipe: PipePort) -> None:
        """Watch this pipe no more; its socket stays open."""
        if self.errands.route == pipe.id:
            self.errands.end()
        pipe.left = True
        pipe.reading = False
        if pipe.congested:
            self.leave_congestion(pipe)
        else:
            self.attend(pipe)

    def hang_up(self, pipe: PipePort) -> None:
        """The peer of a pipe that nobody reads from now is gone; what it had sent is delivered when there is room.

        To everybody else the pipe is over. It is not read to its end for that: the kernel has what is left of it.
        """
        if pipe.closed or pipe.hung_up:
            return
        pipe.hung_up = True
        self.hung_up += 1
        if pipe.congested:
            self.leave_congestion(pipe)
        else:
            self.attend(pipe)
        self.count_unsent(pipe)
        self.tell_pipes()
        self.machine.now = self.clock()
        self.machine.pipe_hung_up(pipe.id)
        self.on_pipe_lost(pipe, "the peer closed the connection")

    def count_unsent(self, pipe: PipePort) -> None:
        """Nothing more is sent by this pipe."""
        unsent = pipe.writer.discard()
        if pipe.under_way:
            self.set_under_way(pipe, 0)
        if unsent:
            self.count("unsent", pipe.id, unsent)

    def tell_pipes(self) -> None:
        """Say in shared memory how many there are; one more or less."""
        number = len(self.pipes) - self.hung_up
        self.region.pipes = number
        if number <= 2:  # from one to two, or back
            for pipe in self.pipes.values():
                if pipe.congested:
                    self.set_under_way(pipe, pipe.writer.queued)
        if not number:
            for port in self.contexts.values():  # senders that may not wait without a peer (FAIL-NO-PEERS)
                port.ring()

    def lose(self, pipe: PipePort, cause: str, text: str) -> None:
        """A pipe is over: by its peer, by bad bytes, or by us."""
        if pipe.closed:
            return
        pipe.closed = True
        self.leave(pipe)
        self.region.add(SENT, pipe.writer.frames)
        self.region.add(SENT_BYTES, pipe.writer.sent)
        self.region.add(RECEIVED, pipe.reader.frames)
        self.region.add(RECEIVED_BYTES, pipe.reader.received)
        self.count_unsent(pipe)
        if pipe.backlog:
            self.count("pipe_lost", pipe.id, len(pipe.backlog) - pipe.taken)
        if cause in ("too_long", "garbled"):
            self.count(cause, pipe.id)
        self.last_pipe = None
        self.everybody, self.recipients, self.writers = [], [], []  # else its memory would stay until the next copies
        if self.pipes.pop(pipe.id, None) is not None and pipe.attached:
            if pipe.hung_up:
                self.hung_up -= 1
            self.machine.now = self.clock()
            self.machine.pipe_removed(pipe.id)
            self.tell_pipes()
        pipe.backlog = []
        self.note(pipe, 0)
        pipe.link.hang_up()
        self.on_pipe_lost(pipe, text)

    # ---- read

    def readable(self, pipe: PipePort, broken: bool) -> None:
        """Read what there is; if it is `broken`, to the very end: before the error there may be bytes."""
        for _ in range(READS):
            if not pipe.reading or not self.read(pipe, broken):
                return
        self.loop.call_soon(self.ready, pipe, READABLE | BROKEN)  # it is the others' turn

    def read(self, pipe: PipePort, broken: bool) -> bool:
        """Read once. False: there is nothing more."""
        reader = pipe.reader
        payloads: list[Any]
        try:
            payloads = self.take_in(pipe) if self.batching and pipe.straight is not None else reader.read()
        except OSError as error:
            self.lose(pipe, "connection_lost", str(error))
            return False
        if payloads:
            self.machine.now = self.clock()
            if len(payloads) == 1:
                self.feed(pipe, payloads)
            else:
                hold_bells()
                try:
                    self.feed(pipe, payloads)
                finally:
                    free_bells()
        more = reader.more
        if more >= OVER:
            if more == OVER:
                self.ended(pipe)
                return False
            self.touch(pipe, 0)  # the reader has left something for the writer
        return more != 0 or (broken and reader.got > 0)

    def take_in(self, pipe: PipePort) -> list[Any]:
        """Read once; what needs no decision goes into its lane at once. Returns the rest."""
        machine, reader = self.idle_machine, pipe.straight
        assert reader is not None
        number = pipe.id
        picky = not machine.takes_all(number)
        sole = machine.sole_subscriber() if picky else 0
        port = None if sole < 0 else self.context(sole)
        inlet = None if port is None else port.inlet
        if not isinstance(inlet, Inlet):  # nobody is there, or a device has it
            return reader.read()
        if not picky:
            if pipe.lands is not inlet:
                self.lead(pipe, inlet)
            return reader.read_to(inlet, number)
        payloads = reader.read_to(inlet, number, machine.topics())
        losses = reader.losses()
        if losses is not None:
            self.count_losses(number, *losses)
        return payloads

    def count_losses(self, pipe: int, unwanted: int, displaced: int, congested: int) -> None:
        """What a reader has left out."""
        if unwanted:
            self.count(UNWANTED, pipe, unwanted)
        if displaced:
            self.count(DISPLACED, 0, displaced)
        if congested:
            self.count(CONGESTED, pipe, congested)

    def ended(self, pipe: PipePort) -> None:
        """Nothing more can be read from this pipe."""
        wrong = pipe.reader.error
        if wrong is None:
            self.lose(pipe, "peer_closed", "the peer closed the connection")
            return
        self.refuse(pipe, "too_long" if isinstance(wrong, TooLongError) else "garbled", str(wrong))

    def refuse(self, pipe: PipePort, cause: str, wrong: str) -> None:
        """The peer has broken the rules: its pipe ends, with a word to the user."""
        log.warning("pipe %d to %s closed: %s", pipe.id, pipe.remote or "a peer of this machine", wrong)
        self.lose(pipe, cause, wrong)

    def feed(self, pipe: PipePort, payloads: list[Any], begin: int = 0) -> None:
        """Give payloads to the machine, from `begin` on; what it does not take waits, and so does the pipe."""
        machine = self.machine
        number = pipe.id
        at, end = begin, len(payloads)
        while at < end:
            if self.batching and machine.takes_all(number):  # or it does so again, after the one that it had refused
                port = self.context(0)
                if port is not None:
                    inlet = port.inlet
                    if pipe.lands is not inlet:
                        self.lead(pipe, inlet)
                    at = inlet.offer_all(payloads, at, number)
                    if at == end:
                        return
                    if not isinstance(payloads[at], bytes):
                        self.strand(pipe, payloads, at, inlet)
                        return
            if pipe.closed:
                return
            payload = payloads[at]
            if not isinstance(payload, bytes):  # it is the machine's to decide about now
                payload = payloads[at] = payload.take_back()
            if not machine.pipe_message(number, payload):
                self.hold(pipe, payloads, at)
                return
            at += 1

    def hold(self, pipe: PipePort, payloads: list[Any], taken: int) -> None:
        """There is no room for what is left of these, and so none for more."""
        pipe.backlog = payloads
        pipe.taken = taken
        self.note(pipe, len(payloads) - taken)
        self.read_no_more(pipe)
        if pipe.bell is not None:
            pipe.bell.rest()

    def note(self, pipe: PipePort, waiting: int) -> None:
        """So many messages of this pipe wait here: whoever succeeds us after a kill can tell what was lost."""
        if waiting != pipe.waiting:
            self.region.add(IN_HAND, (waiting - pipe.waiting) & ALL_BITS)
            pipe.waiting = waiting

    def lead(self, pipe: PipePort, inlet: Deliveries) -> None:
        """Large bodies of this pipe may be read into this lane from now on."""
        pipe.lands = inlet
        if pipe.direct is not None:
            pipe.direct.into = inlet if isinstance(inlet, Inlet) else None

    def strand(self, pipe: PipePort, payloads: list[Any], begin: int, inlet: Deliveries) -> None:
        """There is no room in the window for a message that is in the lane already."""
        self.hold(pipe, payloads, begin)
        if inlet.arm(len(payloads[begin])):
            self.resumed.append(pipe)
        else:
            self.stranded.append(pipe)

    def go_on(self, pipe: PipePort) -> None:
        if pipe.closed:
            return
        backlog = pipe.backlog
        pipe.backlog = []
        self.feed(pipe, backlog, pipe.taken)
        if not pipe.backlog:
            self.note(pipe, 0)
            self.read_on(pipe)
            if pipe.bell is not None:  # it may have rung for us, and been heard by who waited for room
                self.loop.call_soon(self.ready, pipe, READABLE)

    # ---- written

    def touch(self, port: PipePort, pending: int) -> None:
        """So many bytes wait to be written to it."""
        if not port.dirty:
            port.dirty = True
            self.dirty.append(port)
        if pending > WRITE_AT_ONCE:
            self.hot = True

    def flush(self) -> None:
        """Write what was queued since the last time."""
        self.hot = False
        dirty = self.dirty
        if dirty:
            self.dirty = []
            for pipe in dirty:
                pipe.dirty = False
                if not pipe.closed and not pipe.congested:
                    self.flush_pipe(pipe)

    def flush_pipe(self, pipe: PipePort) -> None:
        if pipe.hung_up:
            self.count_unsent(pipe)
            return
        try:
            done = pipe.writer.flush()
        except OSError as error:
            if error.errno == errno.EPROTO:  # it has written where only we may, in the memory that we share
                self.refuse(pipe, "garbled", str(error))
            elif pipe.attached and not pipe.reading:  # what it had sent before may still be had
                self.hang_up(pipe)
            else:
                self.lose(pipe, "connection_lost", str(error))
            return
        if not done or pipe.under_way:
            self.set_under_way(pipe, 0 if done else pipe.writer.queued)
        if done == pipe.congested:
            if done:
                self.leave_congestion(pipe)
                if pipe.attached:
                    self.machine.pipe_ready(pipe.id)
            else:
                pipe.congested = True
                self.region.set_congested(pipe.id, True)
                self.attend(pipe)
                if pipe.attached:
                    self.machine.pipe_congested(pipe.id)

    def set_under_way(self, pipe: PipePort, messages: int) -> None:
        """So many messages wait for the kernel to take this pipe's bytes again.

        They are the pipe's, not the queue's: else peers that do not read would use up WRITEQ-LEN, and who reads would
        get nothing. Where there is nobody else to send to, they stay in the queue, whose length is then what it says.
        """
        if len(self.pipes) - self.hung_up < 2:
            messages = 0
        if messages == pipe.under_way or not self.idle_machine.one_queue():
            return
        self.under_way += messages - pipe.under_way
        pipe.under_way = messages
        port = self.context(0)
        if port is not None:
            port.outlet.under_way = self.under_way

    def leave_congestion(self, pipe: PipePort) -> None:
        """The kernel takes this pipe's bytes again, or it is over."""
        pipe.congested = False
        self.attend(pipe)
        self.region.set_congested(pipe.id, False)
        for other in self.pipes.values():
            if other.congested:  # it may share the bit
                self.region.set_congested(other.id, True)

    # ---- counted

    def count(self, cause: str, pipe: int = 0, n: int = 1) -> None:
        self.region.add(CAUSES.get(cause, CAUSES["other"]), n)

    def totals(self) -> dict[str, int]:
        """Messages and bytes of this socket since it was opened, living pipes included."""
        region, pipes = self.region, list(self.pipes.values())
        return {
            "sent": region.counter(SENT) + sum(pipe.writer.frames for pipe in pipes),
            "sent_bytes": region.counter(SENT_BYTES) + sum(pipe.writer.sent for pipe in pipes),
            "received": region.counter(RECEIVED) + sum(pipe.reader.frames for pipe in pipes),
            "received_bytes": region.counter(RECEIVED_BYTES) + sum(pipe.reader.received for pipe in pipes),
        }


def _ignore_loss(pipe: PipePort, text: str) -> None:
    return None
