"""All calls of a client, on one pair of lanes: whoever reads takes what has come, for all who wait.

    call()     the thread reads itself ─┐
    acall()    its event loop reads ────┼──▶ drain ──▶ each answer goes to who waits for it, by its serial
    submit()   the collector reads ─────┘

Of the threads one reads at a time: it has the *role*, and sleeps on the lane's bell; the others sleep on bells of their
own. Who leaves the role has somebody else look, so there is always a reader while somebody waits. A thread that calls
while nobody else waits is the reader from its question to its answer, in one step (`ask`); whatever takes more than
that, another who begins to wait for instance, goes on as if it had not begun so. An event loop reads
beside them, when the bell tells it to. That two may sleep on one bell is no harm: whoever is woken takes everything
there is, and tells those whose it is; and who goes without sleeping again arms the bell for the loops that do.

Futures are completed in the collector's thread alone, so that callbacks neither hold up a reader nor an event loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, cast

from spworkers.errors import ClosedError, ForkedError, RecvTimeoutError, SendTimeoutError, SPError, from_name
from spworkers.halves.req import WHY
from spworkers.lookaround import LOOK, LookAround
from spworkers.ring import CANCEL, DATA, ERROR, Asker
from spworkers.waiting import Deadline, doze, let_go, run
from spworkers.workers import callformat
from spworkers.workers.answer import Reply
from spworkers.workers.callwaiting import (
    GLIMPSE,
    HELD_UP,
    FutureWaiting,
    TaskWaiting,
    ThreadWaiting,
    Waiting,
    left_until,
)
from spworkers.workers.collector import Collector
from spworkers.workers.failover import NOWHERE, Failover
from spworkers.workers.loopreader import LoopReader
from spworkers.workers.slots import NoPlace

if TYPE_CHECKING:
    from spworkers.halves.req import ReqHalf
    from spworkers.port import Port
    from spworkers.ring import Record
    from spworkers.workers.callsocket import CallSocket
    from spworkers.workers.slots import Slots

__all__ = ["CallLine"]

_HELD_UP_MOST: Final = 1.0
GONE: Final = 0
UNSENT: Final = 1
SENT: Final = 2
"""What was withdrawn."""
_FIRST: Final = 1 << 32  # of the serials; below it are contexts, for the machine


class CallLine:
    """The calls of one client.

    Args:
        socket: by which they go.
        servers: at how many addresses; what one of several is too busy for goes to another.
        slots: for the calls in flight; of a submitted one the line takes a place itself, and gives it back.
    """

    def __init__(self, socket: CallSocket, servers: int, slots: Slots) -> None:
        self.port: Port = socket._port
        self._slots = slots
        self._servers = servers
        self._failover = Failover(servers)
        self.collector = Collector(self)
        self._half: ReqHalf = cast("ReqHalf", socket._half)
        self._tx, self._rx = self.port.tx, self.port.rx
        self._waiting: dict[int, Waiting] = {}
        self._asker = Asker(
            self._tx,
            self._rx,
            self._waiting,
            self.port.sleepers,
            _FIRST,
            callformat.CALL_MARK,
            callformat.VALUE_MARK,
        )
        self._guests: dict[ThreadWaiting, None] = {}  # threads that wait; one of them reads, or will
        self._loops: dict[asyncio.AbstractEventLoop, LoopReader] = {}
        self._last_reader: LoopReader | None = None  # of the loop that called last
        self._reading: set[LoopReader] = set()  # loops that have the bell in their selectors
        self._around = LookAround()
        self._closed = False

    def __len__(self) -> int:
        """Calls on their way."""
        return len(self._waiting)

    # --- three ways to wait

    def ask(self, call_id: int, patience: int, content: bytes, deadline: float) -> bytes | Reply | Exception:
        """As `call`, for a call of the call format: in one step if nobody else waits.

        Args:
            patience: as on the wire, in milliseconds.
            content: behind the head.

        Returns:
            The bytes of the value; or an answer that is another one; or what `call` would raise. What is raised is what
            a signal's handler has raised in the middle of it.
        """
        port = self.port
        waiting = ThreadWaiting(call_id, port.sleepers.mine())
        try:
            alone = self._servers == 1 and not (self._waiting or self._reading)
            if alone and not (self._closed or port.closed or port.lent or self._half.fail_no_peers):
                answer = self._ask_alone(waiting, patience, content, deadline)
                if answer is not None:
                    return answer
            if not waiting.serial:
                try:
                    self.send(waiting, callformat.call_of(call_id, patience, content), 0, deadline)
                except SPError as error:
                    return error
            self.await_answer(waiting, deadline)
        except BaseException:
            self.forsake(waiting)
            raise
        if waiting.reply is None:
            assert waiting.error is not None
            return waiting.error
        return waiting.reply

    def _ask_alone(self, waiting: ThreadWaiting, patience: int, content: bytes, deadline: float) -> bytes | None:
        """None: it goes on as with others, wherever it is."""
        asker, around, port = self._asker, self._around, self.port
        sleeper = waiting.sleeper
        looking = LOOK if around.pays() and left_until(deadline) > LOOK else 0.0
        try:
            answer = asker.ask(waiting, sleeper.own, waiting.call_id, patience, content, deadline, looking)
        finally:
            if looking and waiting.serial:
                around.tell(asker.found)
            if port.closed:
                port.left()
            if self._guests or self._reading or self.collector.started:
                self.hand_on()
        if answer is None or isinstance(answer, bytes):
            return answer
        self._tell([(waiting, answer)])
        return None

    def call(self, payload: bytes, deadline: float, call_id: int, pipe: int) -> Reply:
        """Send a request and wait in this thread.

        Raises:
            SendTimeoutError: no server took it in time; RecvTimeoutError: none answered in time.
            CanceledError, NoPeersError, ClosedError: as of REQ.
        """
        waiting = ThreadWaiting(call_id, self.port.sleepers.mine())
        try:
            self.send(waiting, payload, pipe, deadline)
            self.await_answer(waiting, deadline)
        except BaseException:
            self.forsake(waiting)
            raise
        return waiting.answer()

    def await_answer(self, waiting: ThreadWaiting, deadline: float) -> None:
        """Have this thread wait until what it waits for is over: it has an answer, or its time is over."""
        while not waiting.over:
            self._sit(waiting, deadline)
            if not waiting.over and left_until(deadline) <= 0:
                self.too_late(waiting)
                # Another thread is about to tell us, or to send it elsewhere: compiled, only a wait lets it run.
                if not waiting.over:
                    waiting.sleeper.rest(GLIMPSE)

    def take_place(self, deadline: float) -> bool:
        """A place among the calls in flight, as soon as those who came before have one.

        Who waits for one reads: what gives one back may be an answer that is here already, and that nobody reads. But
        who is in the way of those that have one does not wait: a callback in the collector's thread, as other futures
        give theirs back behind it; and a signal's handler, or finalizer, in the midst of a call of its own thread.

        Returns:
            False: there was none in time, or all is closed.
        """
        if self._slots.take():
            return True
        if self.collector.is_here() or self._is_inside():
            self._slots.borrow()
            return True
        waiting = ThreadWaiting(0, self.port.sleepers.mine())
        return self._slots.wait(waiting, lambda: self._sit(waiting, deadline))

    def _is_inside(self) -> bool:
        """This thread is in the midst of a call already."""
        me = get_ident()
        if any(guest.thread == me for guest in list(self._guests)):
            return True
        return any(type(waiting) is ThreadWaiting and waiting.thread == me for waiting in list(self._waiting.values()))

    def _sit(self, waiting: ThreadWaiting, deadline: float) -> None:
        """Until what this thread waits for is there, or as `_read` has it."""
        self._guests[waiting] = None
        try:
            self._read(waiting, deadline)
        finally:
            del self._guests[waiting]
            self.hand_on()

    def begin_task(self, loop: asyncio.AbstractEventLoop, call_id: int) -> TaskWaiting:
        """A task of this loop is going to wait; when it does no longer, `reader.waiting` is one less."""
        reader = self._last_reader
        if reader is None or reader.loop is not loop:
            reader = self._loops.get(loop)
            if reader is None:
                self._forget_loops()
                reader = self._loops[loop] = LoopReader(self, loop)
            former, self._last_reader = self._last_reader, reader
            let_go(former)
        waiting = TaskWaiting(call_id, reader)
        reader.begin()
        return waiting

    def _forget_loops(self) -> None:
        """Let go of those that are over: a loop does not say so."""
        for loop in list(self._loops):
            if loop.is_closed():
                reader = self._loops.pop(loop, None)
                if reader is not None:
                    reader.close()

    def submit(
        self,
        name: str,
        payload: bytes,
        deadline: float,
        call_id: int,
        read: Callable[[Reply], Any],
        explain: Callable[[BaseException], BaseException],
    ) -> Future[Any]:
        """The same with a future, whose result `read` makes of the answer, and whose errors `explain` puts into words.

        Args:
            name: of the handler.

        Raises:
            NoPlace: as many calls as may be were in flight until its time was over.
            SendTimeoutError: there was no room for so many bytes in time.
            ClosedError, NoPeersError: as of REQ.
        """
        slots, collector = self._slots, self.collector
        waiting = FutureWaiting(name, call_id, collector.completed, self._done, collector.help, read, explain, deadline)
        if not self.take_place(deadline):
            raise NoPlace
        try:
            collector.begin(future=True)
        except BaseException:
            slots.give()
            raise
        try:
            collector.watch(waiting)
            self.send(waiting, payload, 0, deadline)
        except BaseException:
            waiting.over = True
            self._done(waiting, True)
            raise
        return waiting.future  # type: ignore[no-any-return]

    def _done(self, waiting: FutureWaiting, canceled: bool) -> None:
        try:
            if canceled:
                self.forsake(waiting)
        finally:  # even an error is made by Python's own code, where Ctrl-C may come
            self.collector.end(future=True)
            self._slots.give()

    # --- sending, giving up

    def publish(self, waiting: Waiting, payload: bytes, pipe: int) -> bool:
        """Send a request. False: there is no room for so many bytes now."""
        if self.port.closed or self._half.fail_no_peers:
            self.port.check_open()
            self._half.check_peers()
        if self._closed:
            raise ClosedError("the client was closed")
        serial = self._asker.number()
        waiting.serial = serial
        if pipe:
            waiting.pinned = pipe
        self._waiting[serial] = waiting
        if self._servers > 1 and not waiting.payload and not pipe:
            waiting.payload = payload
        waiting.ticket = self._tx.publish(payload, b"", pipe, serial, DATA, True)
        if waiting.ticket:
            return True
        del self._waiting[serial]
        return False

    def send(self, waiting: Waiting, payload: bytes, pipe: int, deadline: float) -> None:
        """Send a request, as soon as there is room for it.

        Raises:
            SendTimeoutError: there was none in time; ClosedError, NoPeersError: as of REQ.
        """
        while not self.publish(waiting, payload, pipe):
            run(self.port.await_room(len(payload), Deadline(left_until(deadline)), force=True), self.port.sleepers)

    def withdraw(self, waiting: Waiting) -> int:
        """Nobody waits for this answer any more; compiled, no signal's handler runs in here.

        Returns:
            UNSENT, SENT; GONE: the answer has come in this moment, or it was withdrawn before.
        """
        if self._waiting.pop(waiting.serial, None) is None:
            return GONE
        if not self.port.closed:
            if self._tx.revoke(waiting.ticket):
                if waiting.pinned and waiting.call_id:  # it was for a server that has the stream since long
                    self.give_up_stream(waiting.call_id, waiting.pinned)
                return UNSENT
            self._tx.publish(_farewell(waiting.call_id), b"", 0, waiting.serial, CANCEL, True)
        return SENT

    def forsake(self, waiting: Waiting) -> None:
        """As `withdraw`, by who does not want the answer either should it have come in this moment."""
        waiting.unwanted = True
        if self.withdraw(waiting) == GONE:
            self.refuse(waiting)

    def refuse(self, waiting: Waiting) -> None:
        """If an answer that nobody wants is here, and is a stream's beginning, the server is told."""
        reply = waiting.reply
        if reply is not None and callformat.is_part(reply.body) and not self.port.closed:
            self.give_up_stream(waiting.call_id, reply.pipe)

    def give_up_stream(self, call_id: int, pipe: int) -> None:
        """Tell a server, by this pipe, of a stream that nobody wants more of."""
        self._tx.publish(_farewell(call_id), b"", pipe, 0, CANCEL, True)

    def end_call(self, call_id: int) -> bool:
        """End a call for who waits for its answer, and for the server. False: nobody waits."""
        for waiting in list(self._waiting.values()):
            if waiting.call_id == call_id:
                error = ClosedError("it was given up")  # before: Ctrl-C may come in there
                if self.withdraw(waiting) != GONE:
                    waiting.end(None, error)
                    return True
        return False

    def too_late(self, waiting: Waiting) -> None:
        """Its time is over: end it with an error, unless its answer has come in this moment.

        Then whoever has taken that is about to say so, or to send the call elsewhere: look again a `GLIMPSE` later.
        """
        found = self.withdraw(waiting)
        if found == UNSENT:
            waiting.end(None, SendTimeoutError("no server took the call in time"))
        elif found == SENT:
            waiting.end(None, RecvTimeoutError("no answer came in time"))

    # --- reading

    def drain(self) -> None:
        """Give everything that has come to those who wait for it; a reader that is interrupted does so first."""
        taken: list[tuple[Waiting, Record]] = []
        if self.port.closed and self.port.pid != os.getpid():  # what is in the lane is our parent's
            self.abandon()
            return
        try:
            for _ in range(self._rx.take_for(self._waiting, taken)):
                self.port.drop("canceled")
            self._tell(taken)
            if self.port.closed:  # not by us, who have nobody wait then: the program ends
                self.abandon()
        except BaseException:  # Ctrl-C: most of it may be other threads'
            self._tell(taken)
            raise

    def _tell(self, taken: list[tuple[Waiting, Record]]) -> None:
        """Each is told until it has been for certain: twice is no harm."""
        while taken:
            waiting, record = taken[0]
            if not (waiting.payload and self._goes_elsewhere(waiting, record)):
                if record.kind == ERROR:
                    name = record.body().decode("ascii", "replace")
                    why = WHY.get(name, f"it failed: {name}")
                    waiting.end(None, from_name(name, [why]))
                else:
                    waiting.end(Reply(record.body(), record.pipe), None)
                    if waiting.unwanted:
                        self.refuse(waiting)
            taken.pop(0)
            record.release()

    def _goes_elsewhere(self, waiting: Waiting, record: Record) -> bool:
        """Whether the call was sent again, to another of several servers."""
        if waiting.serial != record.serial:  # it was; we were interrupted, and look once more
            return True
        pipe = self._failover.next_pipe(waiting, record, self.port.region.pipes)
        if pipe == NOWHERE:
            return False
        waiting.pinned = pipe
        try:
            return self.publish(waiting, waiting.payload, pipe)
        except SPError:  # it is closed: then that is said
            return False

    def _read(self, waiting: ThreadWaiting, deadline: float) -> None:
        """Until what it waits for is there, by reading or by another's reading; its time is over; or all is closed."""
        pause = HELD_UP
        while not waiting.over:
            if self._asker.take():
                try:
                    left = 1.0
                    while not waiting.over and left > 0:
                        left = left_until(deadline)
                        if left > 0:  # not for ever: a finalizer may have read, and heard the bell, just before
                            doze(self.port, min(left, _HELD_UP_MOST), waiting.sleeper, self._around)
                        self.drain()
                        if self.port.closed:
                            break
                finally:
                    self._asker.leave()
            elif (left := left_until(deadline)) > 0:
                waiting.sleeper.rest(min(pause, left))
                if not waiting.over:
                    pause = min(2.0 * pause, _HELD_UP_MOST)
                    self.drain()
            if self.port.closed or left_until(deadline) <= 0:
                return

    @contextmanager
    def reading(self) -> Iterator[bool]:
        """The role, if nobody has it."""
        mine = self._asker.take()
        try:
            yield mine
        finally:
            if mine:
                self._asker.leave()
                self.hand_on()

    @property
    def is_read(self) -> bool:
        """A thread has the role."""
        return self._asker.reading

    def hand_on(self) -> None:
        """Have somebody else read, who waits; a reader calls it when it has left the role."""
        if self._reading and not self.port.closed:
            self._rx.arm()  # it is rung for them again; or at once, if there is something
        if self._asker.reading:
            return
        if self._guests:
            for guest in list(self._guests):
                if not guest.over:
                    guest.sleeper.ring()
                    return
        if self.collector.started:
            self.collector.wake()

    def loop_reads(self, reader: LoopReader, on: bool) -> None:
        """This loop has the bell in its selector from now on, or not any more."""
        (self._reading.add if on else self._reading.discard)(reader)

    # --- its end

    def close(self, streams: Mapping[int, int]) -> bool:
        """All calls on their way fail with ClosedError, and nobody wants more of the streams.

        Args:
            streams: those that are open: the pipe of each, by its call's id.

        Returns:
            Whether servers are yet to be told that nobody waits for them.
        """
        self._closed = True
        told = False
        try:
            if self.port.pid == os.getpid():  # in a forked child they are its parent's
                for waiting in list(self._waiting.values()):
                    error = _closed()
                    if self.withdraw(waiting) != GONE:
                        told = True
                        waiting.end(None, error)
                if not self.port.closed:
                    for call_id, pipe in streams.items():
                        told = True
                        self.give_up_stream(call_id, pipe)
        finally:
            self.abandon()
        for reader in list(self._loops.values()):
            reader.close()
        self.collector.close()
        return told

    def abandon(self) -> None:
        """End all calls that are on their way."""
        for serial in list(self._waiting):
            error = _forked(self.port.pid) if self.port.pid != os.getpid() else _closed()
            waiting = self._waiting.pop(serial, None)
            if waiting is not None:
                waiting.end(None, error)


def _forked(pid: int) -> ForkedError:
    return ForkedError(f"the client belongs to process {pid}")


def _closed() -> ClosedError:
    return ClosedError("the client was closed before the answer came")


def _farewell(call_id: int) -> bytes:
    """What the server is told when the call is given up; empty: nothing."""
    return callformat.encode_cancel(call_id) if call_id else b""
