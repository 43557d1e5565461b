"""One worker process as the parent knows it: its lanes, what it was given, what is to become of it."""

from __future__ import annotations

import os
import time
from typing import Any, Final

from spworkers.ring import Inlet, Outlet, Region, gather, make_bell
from spworkers.workers.pool.functions import Function
from spworkers.workers.pool.jobs import GIVEN, Job
from spworkers.workers.pool.kinds import DEFINE, FORGET, SETUP, STOP
from spworkers.workers.pool.ledger import BUSY, SERIAL, SINCE, STAGE

__all__ = ["WINDOW", "Worker"]

WINDOW: Final = 512
"""Records that lie in a lane at most; the dispatcher stays far below it."""

_CLAIMED: Final = 3  # what `Inlet.state` says of a record that its consumer has taken
_LEASED: Final = 4


class Worker:
    """A worker process, from the decision to start it to its burial.

    Args:
        region: the pool's memory.
        segment: which part of it is this worker's.
        row: its words in the ledger.
        number: which worker of the pool it is, from 0; a successor has the same.
        name: what to call it.
    """

    def __init__(self, region: Region, segment: int, row: memoryview, number: int, name: str) -> None:
        self.segment = segment
        self.number = number
        self.name = name
        self.row = row
        self.receive_bell = make_bell()
        self.send_bell = make_bell()
        memory = region.segment(segment)
        self.inlet = Inlet(memory, self.receive_bell)
        self.inlet.window = WINDOW
        self.outlet = Outlet(memory, self.send_bell)
        self.jobs: dict[int, Job] = {}
        """What it was given and has not answered, oldest first."""
        self.known: set[int] = set()
        """Functions that it has."""
        self.given = 0
        """Tasks that it was given in its life."""
        self.done = 0
        self.pid = 0
        self.ready = False
        self.launched = False
        self.retiring = False
        """It gets no more work, and ends when it has done what it has."""
        self.worn = False
        """It has had as many tasks as a worker may: another one follows."""
        self.stopped = False
        """It was told to end."""
        self.gone = False
        self.verdict: Any = None
        """Why we killed it."""
        self.resting = False
        """It is among the idle ones."""
        self.since = time.monotonic()
        """When it was started, or became idle."""
        self.handle: Any = None
        """What the launcher knows it by."""

    def setup(self, parts: list[Any]) -> bool:
        """Its first record. False: it is larger than the lane has room for."""
        return gather(self.inlet, parts, 0, 0, 0, SETUP) != 0

    def give(self, job: Job) -> bool:
        """Put a job into its lane. False: there is no room now.

        Raises:
            BadValueError: it is longer than any lane has room for.
        """
        function = job.function
        if function.number not in self.known and not self.define(function):
            return False
        ticket = self._publish(job)
        if not ticket:
            # Have it ring when it gives something back: with nothing in hand, it would never say another word.
            size = len(job.payload) if job.payload is not None else job.large.size
            if not self.inlet.arm(size):
                return False
            ticket = self._publish(job)
            if not ticket:
                return False
        job.ticket = ticket
        job.worker = self
        job.state = GIVEN
        self.jobs[job.serial] = job
        self.given += job.count
        return True

    def _publish(self, job: Job) -> int:
        payload = job.payload
        if payload is not None:
            return self.inlet.offer(b"", payload, 0, job.function.number, job.serial, job.kind)
        large = job.large
        return gather(self.inlet, large.parts, large.header_length, job.function.number, job.serial, job.kind)

    def define(self, function: Function) -> bool:
        """Make a function known to it. False: there is no room now."""
        while not gather(self.inlet, [function.blob], 0, function.number, 0, DEFINE):
            if not self.inlet.arm(len(function.blob)):
                return False
        self.known.add(function.number)
        return True

    def forget(self, number: int) -> None:
        """It may forget a function."""
        if number in self.known and self.inlet.offer(b"", b"", 0, number, 0, FORGET, True):
            self.known.discard(number)

    def take_back(self, job: Job) -> bool:
        """Take a job back that it has not begun. False: it has."""
        if not self.inlet.revoke(job.ticket):
            return False
        self.jobs.pop(job.serial, None)
        self.given -= job.count
        job.worker = None
        return True

    def began(self, job: Job) -> bool:
        """Whether it has begun a job that it was given."""
        state = self.inlet.state(job.ticket)
        return state in (_CLAIMED, _LEASED)

    def running_since(self, job: Job) -> int:
        """`time.monotonic_ns` when it began this job (of a batch: the item in hand); 0: it has not."""
        row = self.row
        if row[STAGE] != BUSY or row[SERIAL] != job.serial or not self.began(job):
            return 0
        return int(row[SINCE])

    def stop(self) -> None:
        """Tell it to end; what lies before that in its lane it does first."""
        if not self.stopped:
            self.stopped = True
            self.inlet.offer(b"", b"", 0, 0, 0, STOP, True)

    def close(self) -> None:
        """Give up our descriptors; nobody is at the other end any more."""
        if self.receive_bell >= 0:
            os.close(self.receive_bell)
            os.close(self.send_bell)
            self.receive_bell = self.send_bell = -1

    def __repr__(self) -> str:
        state = "gone" if self.gone else "retiring" if self.retiring else "ready" if self.ready else "starting"
        return f"<Worker {self.name}: pid {self.pid}, {state}, {len(self.jobs)} jobs>"
