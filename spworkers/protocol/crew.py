"""The workers of a dispatcher: who has how much to do, and who is to get the next request.

A worker process has a seat in each of two crews: EXCLUSIVE, for requests that it runs one after another, and
CONCURRENT, for those that it runs beside each other (coroutines). They share its lane; a request of one kind never
waits for a place of the other.
"""

from __future__ import annotations

from typing import Final

from spworkers.protocol.alarms import Alarm
from spworkers.protocol.fifo import Fifo, Node
from spworkers.protocol.machine import NEVER, Outgoing
from spworkers.protocol.peers import Peer

__all__ = ["CONCURRENT", "EXCLUSIVE", "Crew", "Held", "Job", "OpenStream", "Worker"]

EXCLUSIVE: Final = 0
CONCURRENT: Final = 1

# Workers with this many requests or more count as equally busy. Only PREFETCH values beyond it would notice.
_LEVELS: Final = 64


class Job(Node):
    """A request, from its arrival until its answer is sent.

    As a node it stands in the backlog, among those that one worker has, or among the answers that wait for their pipe.
    """

    def __init__(self, peer: Peer, payload: bytes, header: bytes, begin: int = -1) -> None:
        super().__init__()
        self.peer = peer  # these two change when its asker comes again by another way
        self.header = header  # the way back
        self.payload: Final = payload
        self.begin: Final = len(header) if begin < 0 else begin  # of the body
        self.wanted = True  # False: its peer is gone, or asks for something else by now
        self.call = b""  # the id of the call that it is; empty: it is none
        self.crew: int = EXCLUSIVE  # what runs it
        self.stream: OpenStream | None = None  # of which it asks for the next part
        self.timeout: float = -1.0  # its own limits; negative: TIMEOUT and RETRIES hold
        self.retries = -1
        self.expires: float = NEVER  # when its asker stops waiting
        self.due: float = NEVER  # when something is to be done about it, once it runs
        self.stopping = False  # its worker was told to stop running it
        self.deaths = 0  # workers that died of it
        self.arrived: float = 0.0  # when
        self.given: float = 0.0  # when a worker got it
        self.worker: Worker | None = None
        self.serial = 0  # a new one each time it is handed out
        self.ticket = 0
        self.answer: Outgoing | None = None  # not claimed yet
        self.error: bytes | None = None  # the answer that the dispatcher itself gives
        self.held: Held | None = None


class Held(Node):
    """An answer that waits for its pipe, among all those of its worker that do."""

    def __init__(self, job: Job, worker: Worker) -> None:
        super().__init__()
        self.job: Final = job
        self.worker: Final = worker


class OpenStream:
    """An answer of which more parts are to come: the worker that makes them, the pipe that asks for them."""

    def __init__(self, pipe: int, call: bytes, serial: int, worker: Worker, timeout: float) -> None:
        self.pipe: Final = pipe
        self.call: Final = call
        self.serial: Final = serial  # of the request that began it
        self.worker: Final = worker
        self.timeout: Final = timeout  # for one part
        self.job: Job | None = None  # that asks for the next part
        self.idle_since: float = 0.0


class Worker(Node):
    """A context that answers requests: its seat in one crew.

    As a node it stands among the available workers that have as many requests.
    """

    def __init__(self, context: int, prefetch: int, crew: int = EXCLUSIVE) -> None:
        super().__init__()
        self.id: Final = context
        self.crew: Final = crew
        self.prefetch = prefetch  # requests that it may have at once; 0: as many as it asks for
        self.leaving = False  # it takes no more
        self.pinned: Final[Fifo[Job]] = Fifo()  # that only it can run: the next parts of streams
        self.own_prefetch = False
        self.auto = False  # `prefetch` follows from how fast it answers
        self.pace: float = NEVER  # seconds a request, of late
        self.began: float = 0.0  # when its oldest request became that
        self.jobs: Final[Fifo[Job]] = Fifo()  # handed to it and not answered, oldest first
        self.held: Final[Fifo[Held]] = Fifo()
        self.full = False  # its lane refused a request: not before it wants one
        self.deaf = False  # it took nothing for a while: its event loop is held up
        self.refused = False  # it is one of those that its crew counts as full
        self.overdue: Job | None = None  # what it is being killed for
        self.alarm: Final = Alarm(2 * context + crew)  # for what it runs
        self.level = -1  # where it stands; -1: it is not available

    @property
    def has_room(self) -> bool:
        """Its lane takes one more request."""
        return not (self.full or self.deaf or self.overdue is not None or 0 < self.prefetch <= self.jobs.length)


class Crew:
    """All workers, and the available ones by how many requests they have. Every operation takes constant time.

    `full` is how many are that.
    """

    def __init__(self) -> None:
        self.workers: dict[int, Worker] = {}
        self.full = 0
        self.available = 0
        self._levels: list[Fifo[Worker]] = [Fifo() for _ in range(_LEVELS)]
        self._lowest = 0  # no level below this one has anybody in it

    def add(self, worker: Worker) -> None:
        """A new worker."""
        self.workers[worker.id] = worker
        self.place(worker)

    def remove(self, context: int) -> Worker | None:
        """A worker is gone; None: there was none of this number."""
        worker = self.workers.pop(context, None)
        if worker is not None:
            self._take_out(worker)
            if worker.refused:
                worker.refused = False
                self.full -= 1
        return worker

    def place(self, worker: Worker) -> None:
        """Something changed for this worker: let it stand where it belongs, behind those that stand there already."""
        self._take_out(worker)
        if worker.full != worker.refused:
            worker.refused = worker.full
            self.full += 1 if worker.full else -1
        if worker.leaving or not worker.has_room:
            return
        level = min(worker.jobs.length, _LEVELS - 1)
        worker.level = level
        self._levels[level].append(worker)
        self.available += 1
        self._lowest = min(self._lowest, level)

    def least_loaded(self) -> Worker | None:
        """The available worker with the fewest requests, of several the one that waits longest; None: nobody is."""
        if self.available == 0:
            return None
        while self._levels[self._lowest].length == 0:
            self._lowest += 1
        return self._levels[self._lowest].head

    def _take_out(self, worker: Worker) -> None:
        if worker.level >= 0:
            self._levels[worker.level].remove(worker)
            worker.level = -1
            self.available -= 1
