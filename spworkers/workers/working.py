"""A worker's loop: requests in, answers out, until it is time to stop. There are two of it.

**One after another** (`Working`), where all handlers are plain functions: the main thread takes a request, answers it
and takes the next one. Nothing else runs.

**Beside each other** (`WorkingBeside`), where some are async: an event loop on a thread of its own takes the requests.
Async handlers are tasks there. Plain ones wait for the main thread, and are taken only when it gets to them: those that
wait can be taken back, and are not to blame if the one that runs kills the worker.

    I/O process ──▶ event loop ─┬─ async: taken, a task ────────────────▶ reply
                                └─ plain: queue ─▶ main thread: taken ──▶ reply

The main thread looks into the lane itself before it sleeps. So while there is much to do, nobody has to wake it.

Both end alike: they say LEAVE, so that no more requests come, and finish what they have. Streams that are open are
finished too, unless a signal told the worker to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import queue
import select
import threading
import time
import traceback
from typing import TYPE_CHECKING, Final

from spworkers.lookaround import LookAround, several
from spworkers.workers.answer import Answer
from spworkers.workers.interrupt import Interrupter
from spworkers.workers.runner import Job, Runner
from spworkers.workers.stops import Stopped
from spworkers.workers.streams import SyncStream
from spworkers.workers.tally import Row, Stage
from spworkers.workers.timelimit import CLOSING
from spworkers.workers.workerport import Offer, Request, WorkerPort

if TYPE_CHECKING:
    from spworkers.workers.worker import StopSignal

__all__ = ["Working", "WorkingBeside", "work"]

_AROUND: Final = 100e-6  # seconds for which a worker looks around for a request before it sleeps
_LOOK: Final = 0.02  # seconds of one request after another between two looks whether it is time to stop

_CLOSE: Final = "close"  # what the main thread is told beside requests
_OVER: Final = "over"

_forked: Final[list[int]] = []
"""Not empty in a process that a handler has forked."""

os.register_at_fork(after_in_child=lambda: _forked.append(os.getpid()))

_log = logging.getLogger("spworkers.workers")


def work(port: WorkerPort, runner: Runner, row: Row, stop: StopSignal, name: str = "") -> str:
    """Answer requests until it is time to stop; returns why this worker wants to be replaced, if it does."""
    kind = WorkingBeside if runner.concurrent else Working
    working = kind(port, runner, row, stop, name)
    working.run()
    return working.retired


class Working:
    """Requests one after another.

    Attributes:
        name: the worker's.
        retired: why this worker wants to be replaced; empty: it does not.
    """

    def __init__(self, port: WorkerPort, runner: Runner, row: Row, stop: StopSignal, name: str = "") -> None:
        self._port = port
        self._runner = runner
        self._row = row
        self._stop = stop
        runner.portal.on_end = _loop_ended
        self._leaving = False
        self._begun = False
        self._given_up: list[SyncStream] = []  # streams to be closed when no handler runs
        _forked.clear()  # that we were is the supervisor's doing
        os.register_at_fork(after_in_child=runner.hooks.silence)
        self.name = name
        self.retired = ""

    def retire(self, reason: str) -> None:
        """Finish what is at hand, and be replaced."""
        self.retired = self.retired or reason

    def run(self) -> None:
        """Until it is time to stop."""
        self._interrupter = Interrupter(self._attend)
        self._interrupter.watch(self._port.control())
        try:
            self._runner.hooks.started(self)
            self._work()
            self._close_given_up()
            self._runner.hooks.stopping(self)
        finally:
            self._interrupter.close()
        self._row.stage(Stage.STOPPED)

    def _work(self) -> None:
        port, stop = self._port, self._stop
        take, arm, look, answer, clock = port.take, port.arm, port.look, self._answer, time.monotonic
        around = LookAround(several)
        told, signalled = stop.filenos()
        control = port.control()
        poll = select.poll()
        for fd in (port.fileno(), control, told, signalled):
            poll.register(fd, select.POLLIN)
        row = self._row
        row.stage(Stage.IDLE)
        busy = searched = False
        looked = 0.0
        while True:
            # A look is a system call; in between it is enough to know that a signal came.
            if stop.by_signal or self.retired or self._leaving or clock() - looked > _LOOK:
                if (stop.look() or self.retired) and self._ends():
                    return
                looked = clock()
            request = take()
            if request is not None:
                busy = True
                searched = False
                answer(request)
                if self._given_up:
                    self._close_given_up()
                continue
            if busy:  # from one request to the next it is not idle
                busy = False
                row.stage(Stage.IDLE)
            if not searched:  # what was found may have been taken back
                searched = True
                if around.search(look, _AROUND):
                    continue
            if not arm():
                for fd, _ in poll.poll():
                    if fd == signalled:
                        stop.drain()
                        looked = 0.0
                    elif fd == told:
                        looked = 0.0
                        if stop.told:
                            poll.unregister(told)  # whatever it says now, or that it is gone, is no news
                    elif fd == control:
                        if not self._attend():
                            return
                        self._close_given_up()

    def _ends(self) -> bool:
        """Whether this is the end, now that no more requests are to come."""
        if not self._leaving:
            self._leaving = True
            self._port.leave()
        return self._stop.by_signal or len(self._runner.streams) == 0

    def _attend(self) -> bool:
        return self._port.attend(self._canceled)

    def _canceled(self, serial: int) -> None:
        if serial == 0 or not self._interrupter.stop(serial):
            self._give_up(serial)

    def _give_up(self, serial: int) -> None:
        """Close the stream that this request began, or all: a plain one later, between two handlers."""
        for stream in self._runner.streams.pop(serial):
            if isinstance(stream, SyncStream):
                self._given_up.append(stream)
            else:
                self._runner.close(stream, CLOSING)

    def _close_given_up(self) -> None:
        while self._given_up:
            self._given_up.pop().close(CLOSING)
            self._interrupter.restore()

    def _answer(self, request: Request) -> None:
        if not self._begun:
            self._begun = True
            self._stop.settled()
        self._row.busy()
        try:
            job = self._runner.understand(request.body, request.pipe, request.serial)
            answer = job if isinstance(job, Answer) else self._run(request, job)
        except Stopped:
            self._port.give_back(request)
            self._give_up(request.serial)  # it may have begun a stream
        else:
            self._reply(request, answer)
        self._runner.hooks.settled(self)

    def _reply(self, request: Request, answer: Answer) -> None:
        if answer.silent:
            self._port.done(request)
        else:
            self._port.reply(request, answer.body, answer.more)
        self._row.answered(answer.ok)

    def _run(self, request: Request, job: Job) -> Answer:
        interrupter = self._interrupter
        try:
            interrupter.begin(request.serial)
            return job.run()
        finally:
            interrupter.end()
            if _forked:
                _end_fork()


def _end_fork() -> None:
    """A handler has forked, and its child came back from it: two processes must not answer for one."""
    with contextlib.suppress(OSError):
        os.write(2, b"spworkers: a child that a handler had forked returned from the handler; it ends here\n")
    os._exit(70)  # EX_SOFTWARE of sysexits.h


def _broken() -> None:
    """This process does not do as it should: it ends, as one does whose main thread raises, and its requests go on."""
    with contextlib.suppress(BaseException):
        traceback.print_exc()
    with contextlib.suppress(OSError):
        os.write(2, b"spworkers: this worker is broken, perhaps by what a handler has done to it; it ends\n")
    os._exit(70)


def _loop_ended() -> None:
    """A handler has stopped the event loop, or closed its descriptors: nothing will come of what runs there."""
    with contextlib.suppress(OSError):
        os.write(2, b"spworkers: the event loop of this worker was ended by a handler; the worker ends\n")
    os._exit(70)


class WorkingBeside(Working):
    """Requests beside each other, in an event loop; plain handlers in the main thread."""

    def run(self) -> None:
        self._interrupter = Interrupter()
        self._queue: queue.SimpleQueue[Offer | tuple[Request, Job] | str] = queue.SimpleQueue()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._all_beside = self._runner.only_concurrent  # where there is nothing else nobody says so
        self._told: set[int] = set()  # those that were told to stop
        self._popping = threading.Lock()  # which keeps plain requests in order: the first one is the one that runs
        self._lock = threading.Lock()  # of the middleware's `settled`, `_plain`, and `_over` where it follows from that
        self._plain = 0  # requests in hand that the main thread has taken
        self._beside = 0  # those that the event loop has taken, and nobody else counts
        self._over = False
        portal = self._runner.portal
        try:
            self._runner.hooks.started(self)
            self._row.stage(Stage.IDLE)
            portal.call(self._begin)
            self._work()
            self._close_given_up()
            self._runner.hooks.stopping(self)
        finally:
            self._interrupter.close()
        self._row.stage(Stage.STOPPED)

    # --- the main thread

    def _work(self) -> None:
        around = LookAround(several)
        look = self._port.look
        searched = False
        while True:
            offer = self._next()
            if offer is not None:
                searched = searched and offer.beside  # those that the event loop runs do not keep us awake
                self._take_up(offer)
            elif not searched and self._queue.empty():
                searched = True
                around.search(look, _AROUND)
            elif self._do_queued():
                searched = False
            else:
                return
            if self._given_up:
                self._close_given_up()

    def _next(self) -> Offer | None:
        """What lies in the lane, if nothing came before it: it need not take the way through the event loop."""
        with self._popping:
            return self._port.next() if self._queue.empty() else None

    def _do_queued(self) -> bool:
        """What the event loop has for us, as soon as it has. False: it is over."""
        if self._queue.empty():
            self._rest()
        found = self._queue.get()
        if isinstance(found, Offer):
            self._take_up(found)
        elif isinstance(found, tuple):
            self._do(found[0], found[1])
            self._runner.portal.call(self._settled)
        return found != _OVER

    def _take_up(self, offer: Offer) -> None:
        """It is this request's turn, unless it was taken back, or others are to have it as this worker ends."""
        if offer.beside or self._all_beside:
            self._runner.portal.call(functools.partial(self._start, offer))
            return
        ends = self._leaving or bool(self.retired)
        if self._stop.by_signal or (ends and len(self._runner.streams) == 0):
            if not self._leaving:  # it is the event loop that says so
                self._runner.portal.call(self._look)
            return
        with self._lock:
            if self._over or not offer.claim():
                return
            self._plain += 1
            self._row.busy()
        request, job = self._taken(offer)
        if not isinstance(job, Answer) and job.concurrent:
            self._runner.portal.call(functools.partial(self._take_over, request, job))
            return
        if isinstance(job, Answer):
            self._finish(request, job)
        else:
            self._do(request, job)
        with self._lock:
            self._plain -= 1
        self._tell_hooks()
        if self._leaving or self.retired:
            self._runner.portal.call(self._look)

    def _taken(self, offer: Offer) -> tuple[Request, Job | Answer]:
        """The request of an offer that is claimed, and what to do for it."""
        self._stop.settled()
        request = offer.request()
        return request, self._runner.understand(request.body, request.pipe, request.serial)

    def _do(self, request: Request, job: Job) -> None:
        answer: Answer | None = None
        try:
            answer = self._run(request, job)
        except Stopped:
            self._give_up(request.serial)
        self._finish(request, answer)

    def _rest(self) -> None:
        """Nothing waits for one of the two threads; from one request to the next it is not idle."""
        with self._lock:
            if self._plain == 0 and self._beside == 0:
                self._row.stage(Stage.IDLE)

    def _tell_hooks(self) -> None:
        """An answer was sent, by one of two threads: hooks need not be made for that."""
        hooks = self._runner.hooks
        if hooks.settles:
            with self._lock:
                hooks.settled(self)

    # --- the event loop

    def _begin(self) -> None:
        loop = self._runner.portal.loop
        self._fds = (self._port.fileno(), self._port.control(), *self._stop.filenos())
        for fd, call in zip(self._fds, (self._take, self._listen, self._look, self._look), strict=True):
            loop.add_reader(fd, call)
        self._take()
        self._look()

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        for fd in self._fds:
            self._runner.portal.loop.remove_reader(fd)
        self._queue.put(_OVER)

    def _take(self) -> None:
        if self._over:
            return
        while True:
            with self._popping:
                offer = self._port.next()
                beside = offer is not None and (offer.beside or self._all_beside)
                if offer is not None and not beside:
                    self._queue.put(offer)
            if offer is None:
                if not self._port.arm():
                    return
            elif beside:
                self._start(offer)

    def _start(self, offer: Offer) -> None:
        if self._over or not offer.claim():
            return
        self._beside += 1
        self._row.busy()
        request, job = self._taken(offer)
        if isinstance(job, Answer):
            self._finish(request, job)
            self._settled()
        elif job.concurrent:
            self._begin_task(request, job)
        else:
            self._queue.put((request, job))

    def _begin_task(self, request: Request, job: Job) -> None:
        self._tasks[request.serial] = self._runner.portal.loop.create_task(self._arun(request, job))

    def _take_over(self, request: Request, job: Job) -> None:
        """The main thread has taken what is to run here: somebody has told the dispatcher other limits than ours."""
        self._beside += 1
        with self._lock:
            self._plain -= 1
        self._begin_task(request, job)

    async def _arun(self, request: Request, job: Job) -> None:
        answer: Answer | None = None
        try:
            answer = await job.arun()
        except asyncio.CancelledError as error:
            if self._over or request.serial in self._told:
                job.stopped()
            else:
                answer = job.canceled(error)
            if self._over:
                raise
        except Exception:  # no handler's: it comes of what one has done to this process
            _broken()
        finally:
            if _forked:
                _end_fork()
            del self._tasks[request.serial]
            self._told.discard(request.serial)
            self._finish(request, answer)
            self._settled()

    def _finish(self, request: Request, answer: Answer | None) -> None:
        """Answer, or say that it was stopped."""
        if answer is None:
            self._port.give_back(request)
        else:
            self._reply(request, answer)

    def _settled(self) -> None:
        self._beside -= 1
        if self._beside == 0:
            self._rest()
        self._tell_hooks()
        if self._leaving or self.retired:
            self._look()

    def _listen(self) -> None:
        if not self._port.attend(self._canceled):
            self._end()

    def _canceled(self, serial: int) -> None:
        task = self._tasks.get(serial)
        if task is not None:
            self._told.add(serial)
            task.cancel()
        elif serial == 0 or not self._interrupter.stop(serial):
            self._give_up(serial)
            if self._given_up:
                self._queue.put(_CLOSE)
        if self._leaving:
            self._look()

    def _look(self) -> None:
        stop = self._stop
        if self._over:
            return
        if stop.signalled():
            stop.drain()
        if not (stop.look() or self.retired):
            return
        if stop.told:
            self._runner.portal.loop.remove_reader(stop.filenos()[0])
        if self._ends() and self._beside == 0:
            with self._lock:
                if self._plain == 0:
                    self._end()
