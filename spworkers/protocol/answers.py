"""The answers of a dispatcher's workers, on their way to the pipes of those who asked.

An answer to a congested pipe is held: it stays unclaimed in the lane of the worker that gave it. So a client that does
not read its answers could fill the lanes of all workers, and stop them. Two rules keep it from that: its pipe is not
read from while answers to it are held; and before held answers fill a worker's lane the oldest of them is dropped,
which is that of the client that has been congested longest. (The RFC drops every reply that would have to wait.) What
they fill in spite of that, in bytes, is the affair of `stalls.py`.

The driver gives workers send windows of at least WRITEQ-LEN, and at least 2.
"""

from __future__ import annotations

from typing import Any, Final

from spworkers.protocol.backtrace import Backtraced
from spworkers.protocol.crew import Held, Job, Worker
from spworkers.protocol.fifo import Fifo
from spworkers.protocol.machine import CANCELED, CONGESTED, NO_PIPE, PIPE_LOST, Actions
from spworkers.protocol.peers import Peer

__all__ = ["Answering"]

# WRITEQ-LEN's default; mangos has the same for raw REP.
_WRITEQ: Final = 128


class Answering(Backtraced):
    """The half of a dispatcher that remembers who asked what, and sends the answers."""

    def __init__(self, out: Actions) -> None:
        super().__init__(out)
        self.jobs: dict[int, dict[bytes, Job]] = {}  # the wanted ones, by pipe and backtrace
        self._pending = 0  # how many that are
        self._held: dict[int, Fifo[Job]] = {}  # those whose answers are held, by pipe; no empty ones
        self._parked: set[int] = set()  # pipes of those that have something to say
        self._writeq: int = _WRITEQ

    @property
    def idle(self) -> bool:
        """Nothing is left to answer."""
        return self._pending == 0

    def pipe_added(self, pipe: int) -> bool:
        self.jobs[pipe] = {}
        return super().pipe_added(pipe)

    def pipe_message(self, pipe: int, payload: bytes) -> bool:
        if len(self._held) == 0 or pipe not in self._held:
            return super().pipe_message(pipe, payload)
        self._parked.add(pipe)
        self.turnstile.forget(self.peers[pipe].turn)
        return False

    def configure(self, context: int | None, name: str, value: Any) -> None:
        if name == "WRITEQ-LEN":
            self._writeq = int(value)
        else:
            super().configure(context, name, value)

    # --- requests that are wanted

    def accept(self, job: Job) -> None:
        """Its peer waits for its answer from now on."""
        self.jobs[job.peer.id][job.header] = job
        self._pending += 1

    def finish(self, job: Job) -> None:
        """Its peer does not wait any more, or its answer is about to be sent."""
        job.wanted = False
        self._pending -= 1
        del self.jobs[job.peer.id][job.header]

    def jobs_lost(self, peer: Peer) -> list[Job]:
        """Forget the requests of a pipe that is gone, and drop the answers held for it. Returns the others."""
        self._parked.discard(peer.id)
        jobs = self.jobs.pop(peer.id)
        self._pending -= len(jobs)
        if len(jobs) > 0:
            self.out.count(PIPE_LOST, peer.id, len(jobs))
        held = self._held.pop(peer.id, None)
        others: list[Job] = []
        for job in jobs.values():
            job.wanted = False
            if held is None or job.home is not held:
                others.append(job)
                continue
            held.remove(job)
            self._let_go(job)
            if job.answer is not None:
                self.discard(job.answer, NO_PIPE, peer.id)
        return others

    # --- answers

    def answer(self, job: Job, worker: Worker | None) -> None:
        """Send a request's answer, now or as soon as its pipe takes it; a worker gave it, or the dispatcher itself."""
        peer = job.peer
        if not peer.congested:
            self._send(job)
            return
        held = self._held.get(peer.id)
        if held is None:
            held = Fifo()
            self._held[peer.id] = held
        held.append(job)
        if worker is not None:
            job.held = Held(job, worker)
            worker.held.append(job.held)
            oldest = worker.held.head
            if oldest is not None and worker.held.length >= max(self._writeq, 2):
                self._drop(oldest.job)

    def peer_ready(self, peer: Peer) -> None:
        held = self._held.get(peer.id)
        if held is None:
            return
        while not peer.congested:
            job = held.popleft()
            if job is None:
                self._release(peer.id)
                return
            self._let_go(job)
            self._send(job)

    def _send(self, job: Job) -> None:
        pipe = job.peer.id
        self.finish(job)
        answer = job.answer
        if answer is None:
            if job.error is not None:
                self.out.transmit_bytes(pipe, job.header + job.error)
        elif answer.claim():
            self.out.transmit(pipe, job.header, answer, len(answer.header))
            answer.release()
        else:
            self.out.count(CANCELED, pipe)

    def _drop(self, job: Job) -> None:
        """Give up an answer that has been held for too long."""
        pipe = job.peer.id
        self._let_go(job)
        self.finish(job)
        if job.answer is not None:
            self.discard(job.answer, CONGESTED, pipe)
        held = self._held[pipe]
        held.remove(job)
        if held.length == 0:
            self._release(pipe)

    def _let_go(self, job: Job) -> None:
        """Its answer is not held in its worker's lane any more."""
        if job.held is not None:
            job.held.worker.held.remove(job.held)
            job.held = None

    def _release(self, pipe: int) -> None:
        """Nothing is held for this pipe any more: read from it again."""
        self._held.pop(pipe, None)
        if pipe in self._parked:
            self._parked.discard(pipe)
            self.out.resume(pipe)
