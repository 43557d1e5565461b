"""Calls that nobody waits for in person: one thread watches all of a client's submitted calls.

    submit()      a context sends the request ──▶ add() ──▶ this thread polls the contexts' descriptors
    an answer     taken, its context given back, the future resolved
    a deadline    the request given up, RecvTimeoutError
    cancel()      the request given up

The thread sleeps in poll; `add` wakes it only when it does. The order is what makes that safe: it says that it sleeps
before it looks a last time, and `add` looks whether it sleeps after it has put its call down.
"""

from __future__ import annotations

import heapq
import itertools
import math
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from spworkers.context import Context
from spworkers.errors import ClosedError, RecvTimeoutError, SPError
from spworkers.workers.caller import Reply

__all__ = ["InFlight", "Pending", "give_up"]

_LONGEST_POLL = 60.0  # seconds; poll takes a C int of milliseconds


@dataclass(eq=False)
class Pending:
    """A request on its way.

    Attributes:
        context: what sent it, and gets the answer.
        read: makes the result of the answer's bytes, or raises.
        deadline: when to give it up, of `time.monotonic`.
        what: its name, for errors.
        back: takes the context back when the call is over.
    """

    future: Future[Any]
    context: Context
    read: Callable[[Reply], Any]
    deadline: float
    what: str
    back: Callable[[Context], None]
    fd: int = -1


def give_up(context: Context) -> None:
    """End the request that is outstanding on a REQ context: its answer will go nowhere, and it is not sent again.

    A receive that does not wait does just that; that the answer may have come in this very moment is no matter.
    """
    try:
        context.recv(timeout=0)
    except SPError:
        return


def taken(context: Context) -> Reply | None:
    """The answer, if it is there. (A receive that does not wait would give the request up where there is none.)"""
    record = context._half.try_recv()
    if record is None and context._port.rx.arm():
        record = context._half.try_recv()
    return Reply(record.take_body(), record.pipe) if record is not None else None


class InFlight:
    """The thread that watches; it starts with the first call."""

    def __init__(self) -> None:
        self._new: deque[Pending] = deque()
        self._canceled: deque[Pending] = deque()
        self._by_fd: dict[int, Pending] = {}
        self._deadlines: list[tuple[float, int, Pending]] = []
        self._order = itertools.count()
        self._poll = select.poll()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._sleeping = False
        self._closed = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._by_fd) + len(self._new)

    def add(self, pending: Pending) -> None:
        """Watch a call from now on; its request is sent already."""
        with self._lock:
            if self._closed:
                raise ClosedError(f"{pending.what}(): the client was closed")
            if self._thread is None:
                self._poll.register(self._wake_read, select.POLLIN)
                self._thread = threading.Thread(target=self._run, name="spworkers-client", daemon=True)
                self._thread.start()
            self._new.append(pending)
        pending.future.add_done_callback(lambda future: self._done(pending))
        self._wake()

    def _done(self, pending: Pending) -> None:
        if pending.future.cancelled():
            self._canceled.append(pending)
            self._wake()

    def _wake(self) -> None:
        if self._sleeping:
            self._sleeping = False
            self._ring()

    def _ring(self) -> None:
        try:
            os.write(self._wake_write, b"\0")
        except BlockingIOError:
            return  # full of wake-ups already

    def close(self) -> None:
        """End the thread; every call that is still in flight fails with ClosedError."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._ring()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._abandon()
        os.close(self._wake_read)
        os.close(self._wake_write)

    # --- the thread

    def _run(self) -> None:
        try:
            self._watch()
        finally:  # whatever ended it: nobody is to wait for ever
            self._closed = True
            self._abandon()

    def _abandon(self) -> None:
        for pending in [*self._new, *self._by_fd.values()]:
            _fail(pending, ClosedError(f"{pending.what}(): the client was closed before the answer came"))
        self._new.clear()
        self._by_fd.clear()

    def _watch(self) -> None:
        while not self._closed:
            for fd, _ in self._poll.poll(self._patience()):
                if fd == self._wake_read:
                    self._drain()
                elif fd in self._by_fd:
                    self._look(self._by_fd[fd])
            self._sleeping = False
            self._take_new()
            self._drop_canceled()
            self._expire()

    def _patience(self) -> float:
        self._sleeping = True
        if self._new or self._canceled or self._closed:
            return 0.0
        until = self._deadlines[0][0] - time.monotonic() if self._deadlines else math.inf
        # Rounded up: poll rounds down, and would come back just before the time, again and again.
        return math.ceil(min(max(until, 0.0), _LONGEST_POLL) * 1000)

    def _drain(self) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            return

    def _take_new(self) -> None:
        while self._new:
            pending = self._new.popleft()
            try:
                pending.fd = pending.context.fileno()
            except SPError as error:  # its socket was closed meanwhile
                _fail(pending, error)
                continue
            self._by_fd[pending.fd] = pending
            self._poll.register(pending.fd, select.POLLIN)
            if pending.deadline < math.inf:
                heapq.heappush(self._deadlines, (pending.deadline, next(self._order), pending))

    def _look(self, pending: Pending) -> None:
        try:
            reply = taken(pending.context)
        except Exception as error:  # the request failed, or its socket is closed: the caller's to know
            self._forget(pending)
            _fail(pending, error)
            return
        if reply is None:
            return
        self._forget(pending)
        if not pending.future.set_running_or_notify_cancel():
            return
        try:
            result = pending.read(reply)
        except Exception as error:  # what the server answered, RemoteError for instance
            pending.future.set_exception(error)
        else:
            pending.future.set_result(result)

    def _drop_canceled(self) -> None:
        while self._canceled:
            pending = self._canceled.popleft()
            if self._by_fd.get(pending.fd) is pending:
                give_up(pending.context)
                self._forget(pending)

    def _expire(self) -> None:
        now = time.monotonic()
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][2].future.done()):
            _, _, pending = heapq.heappop(self._deadlines)
            if not pending.future.done():
                give_up(pending.context)
                self._forget(pending)
                _fail(pending, RecvTimeoutError(f"{pending.what}(): no answer came within its timeout"))

    def _forget(self, pending: Pending) -> None:
        """The call is over: its context is free for another."""
        del self._by_fd[pending.fd]
        self._poll.unregister(pending.fd)
        pending.back(pending.context)


def _fail(pending: Pending, error: Exception) -> None:
    if pending.future.set_running_or_notify_cancel():
        pending.future.set_exception(error)
