"""The workers' half of a dispatcher: how they come and go, what they say, which streams they have.

Their time is the affair of `timekeeping.py`, who gets which request that of `assigning.py`; workers that do not take
what they get are that of `hearing.py`.
"""

from __future__ import annotations

from typing import Any, Final

from spworkers.protocol.alarms import Alarm
from spworkers.protocol.assigning import AUTO
from spworkers.protocol.crew import CONCURRENT, EXCLUSIVE, Job, OpenStream, Worker
from spworkers.protocol.errorformat import LOST, ErrorFormat, died, overdue, quarantined
from spworkers.protocol.machine import (
    DATA,
    DIED,
    DONE,
    EXPIRED,
    LATE,
    LEAVE,
    MORE,
    NEVER,
    NO_PIPE,
    QUARANTINED,
    STREAM_LOST,
    TIMEOUT,
    Actions,
    Outgoing,
)
from spworkers.protocol.peers import Peer
from spworkers.protocol.quarantine import Quarantine
from spworkers.protocol.stalls import LOOK, Stalls
from spworkers.protocol.timekeeping import Timekeeping

__all__ = ["AUTO", "Staffing"]

# STREAM-TIMEOUT's default, in seconds; 0: for ever. Who is slower with one part of a stream asks for smaller pieces.
_STREAM_TIMEOUT: Final = 600.0


class Staffing(Timekeeping):
    """What a dispatcher does with its workers."""

    def __init__(self, out: Actions, errors: ErrorFormat | None) -> None:
        super().__init__(out, errors)
        self._quarantine: Final = Quarantine()
        self._streams: dict[int, dict[bytes, OpenStream]] = {}  # by pipe and by the id of the call that began it
        self._stream_timeout: float = _STREAM_TIMEOUT
        self._stream_alarm: Final = Alarm(-1)
        self._stalls: Final = Stalls(out)
        self._stall_alarm: Final = Alarm(-1)

    @property
    def streams(self) -> int:
        """Streams that are open."""
        return sum(len(of_pipe) for of_pipe in self._streams.values())

    @property
    def idle(self) -> bool:
        return self._pending == 0 and len(self._streams) == 0

    # --- time

    def timer_due(self) -> None:
        alarm = self._alarms.ring(self.now)
        while alarm is not None:
            worker = self._crews[alarm.owner & 1].workers.get(alarm.owner >> 1)
            if alarm is self._stream_alarm:
                self._look_at_streams()
            elif alarm is self._stall_alarm:
                self._look_at_stalls()
            elif alarm is self._hearing.alarm:
                self._deal_first(self._hearing.look(self.now))
            elif worker is not None and worker.alarm is alarm and worker.overdue is None:
                self._look_at(worker)
            alarm = self._alarms.ring(self.now)
        self.deadline = self._alarms.first
        self._hand_out()

    # --- workers

    def context_opened(self, context: int) -> None:
        self.out.set_window(context, self._window(self._prefetch))
        worker = Worker(context, 1 if self._prefetch == AUTO else self._prefetch)
        worker.auto = self._prefetch == AUTO
        self._crews[EXCLUSIVE].add(worker)
        if self._concurrent > 0:
            self._crews[CONCURRENT].add(Worker(context, self._concurrent, CONCURRENT))
            self._hearing.look_soon(self.now)
            self.deadline = self._alarms.first
        self._hand_out()

    def context_wants(self, context: int) -> None:
        if self._crews[EXCLUSIVE].full == 0 and self._crews[CONCURRENT].full == 0:
            return  # as it is nearly always, and this is asked after all that a worker says
        found = False
        for crew in self._crews:
            worker = crew.workers.get(context)
            if worker is not None and worker.full:
                worker.full = False
                crew.place(worker)
                found = True
        if found:
            self._hand_out()

    def context_closed(self, context: int) -> None:
        seats = [crew.remove(context) for crew in self._crews]
        self._hearing.gone(context)
        culprit = any(worker is not None and worker.overdue is not None for worker in seats)
        self._quarantine.worker_died()
        again: list[Job] = []
        condemned: list[tuple[Job, bool]] = []
        for worker in seats:
            if worker is not None:
                self._dismiss(worker, culprit, again, condemned)
        for job in reversed(again):
            self._backlogs[job.crew].appendleft(job)
            if len(job.call) > 0:
                self._calls[job.call] = job
        for job, killed in condemned:
            if job.wanted:  # its pipe may go while the others are answered
                self._give_up(job, killed)
        self._hand_out()

    def _dismiss(self, worker: Worker, culprit: bool, again: list[Job], condemned: list[tuple[Job, bool]]) -> None:
        """Take everything from a worker that is gone.

        Args:
            culprit: it was killed for one certain request, so the others are not to blame.
            again: gets what is to be handed out again.
            condemned: gets what is not, and whether the worker was killed for it.
        """
        worker.alarm.cancel()
        self._summoned.pop(worker, None)
        if worker.auto and worker.jobs.length > 1:
            self._ahead -= worker.jobs.length - 1
        job = worker.jobs.popleft()
        while job is not None:
            del self._running[job.serial]
            job.worker = None
            self._forget(job)
            to_blame = job is worker.overdue if culprit else not self.obituary.ended
            fatal = not self.out.revoke(worker.id, job.ticket) and self._died_of(job, to_blame and not job.stopping)
            if job.wanted:
                if fatal or job.stream is not None:
                    condemned.append((job, job is worker.overdue))
                else:
                    again.append(job)
            job = worker.jobs.popleft()
        job = worker.pinned.popleft()
        while job is not None:
            self._forget(job)
            condemned.append((job, False))
            job = worker.pinned.popleft()
        for stream in [each for some in self._streams.values() for each in some.values() if each.worker is worker]:
            self._end_stream(stream)

    def _died_of(self, job: Job, to_blame: bool) -> bool:
        """Whether a request is not to be tried again after the death of its worker."""
        job.deaths += 1
        if job.stream is not None:
            return True
        if to_blame and self._quarantine.died(job.payload, self._content_at(job.payload, job.begin)):
            deaths = self._deaths(job.payload, job.begin)
            text = f"a request killed {deaths} workers in a row and is not run any more, whoever asks"
            self._tell(QUARANTINED, job.payload, job.begin, self.now - job.arrived, text)
        return job.deaths > self._retries_of(job) or self._deaths(job.payload, job.begin) > 0

    def _give_up(self, job: Job, killed: bool) -> None:
        """Answer a request that its workers died of."""
        deaths = 0 if job.stream is not None else self._deaths(job.payload, job.begin)
        if deaths > 0:
            self._fail(job, QUARANTINED, quarantined(deaths))
        elif killed:
            self._fail(job, TIMEOUT, overdue(job.deaths, self._time_of(job)))
        elif job.stream is not None:
            self._fail(job, STREAM_LOST, LOST)
        else:
            self._fail(job, DIED, died(job.deaths, self.obituary))

    def _deaths(self, payload: bytes, length: int) -> int:
        """How many workers in a row this request killed, if that is enough to turn it away; else 0."""
        return 0 if self._quarantine.empty else self._quarantine.deaths(payload, self._content_at(payload, length))

    def _content_at(self, payload: bytes, length: int) -> int:
        return length if self._errors is None else self._errors.content_at(payload, length)

    def _fail(self, job: Job, kind: str, detail: dict[str, Any]) -> None:
        """Answer a request with an error."""
        self.out.count(kind, job.peer.id)
        self._report(kind, job)
        if self._errors is not None:
            job.error = self._errors.error_reply(job.payload, job.begin, kind, detail)
        if job.error is None:
            self.finish(job)
        else:
            self.answer(job, None)

    # --- what workers say

    def context_message(self, context: int, message: Outgoing) -> None:
        kind = message.kind  # once: it is a call from one compiled world into the other
        if kind == LEAVE:
            self._retire(context, message)
            return
        serial = message.serial
        if serial & CONCURRENT:  # else it was not the event loop that said it
            self._hearing.heard(context)
        job = self._running.get(serial)
        worker = None if job is None else job.worker
        if job is None or worker is None or worker.id != context:
            self.discard(message, LATE, 0)
            return
        if kind in (DATA, MORE):
            self._answered(worker, job, message, kind == MORE)
        elif kind == DONE:
            self._done(worker, job, message)
        else:
            self._give_back(worker, job, message)
        self._hand_out()

    def _answered(self, worker: Worker, job: Job, message: Outgoing, more: bool) -> None:
        stopping = job.stopping
        self._take_from(worker, job)
        if job.wanted:
            if not self._quarantine.empty:
                self._quarantine.survived(job.payload, self._content_at(job.payload, job.begin))
            if more and job.stream is None:
                self._open_stream(worker, job)
            elif not more and job.stream is not None:
                self._end_stream(job.stream)
            job.answer = message
            self.answer(job, worker)
        else:
            if more and job.stream is None:  # nobody will ask for more
                self.out.cancel(worker.id, job.serial)
            self.discard(message, LATE if stopping or job.peer.id in self.peers else NO_PIPE, job.peer.id)

    def _done(self, worker: Worker, job: Job, message: Outgoing) -> None:
        """A worker has run this request, and nobody gets an answer."""
        if message.claim():
            message.release()
            self._take_from(worker, job)
            if job.wanted:
                if not self._quarantine.empty:
                    self._quarantine.survived(job.payload, self._content_at(job.payload, job.begin))
                self.finish(job)

    def _give_back(self, worker: Worker, job: Job, message: Outgoing) -> None:
        """A worker will not run this request, or has stopped it."""
        if message.claim():
            message.release()
            self._take_from(worker, job)
            if not job.wanted:
                return
            if job.stream is not None:
                self._fail(job, STREAM_LOST, LOST)
                return
            if len(job.call) > 0:
                self._calls[job.call] = job
            self._backlogs[job.crew].appendleft(job)

    def _retire(self, context: int, message: Outgoing) -> None:
        """A worker takes no more requests; those that it has not taken go to others."""
        if message.claim():
            message.release()
        for crew in self._crews:
            worker = crew.workers.get(context)
            if worker is None:
                continue
            worker.leaving = True
            job = worker.jobs.head
            while job is not None:
                following = worker.jobs.following(job)
                if job.stream is None and self.out.revoke(context, job.ticket):
                    self._take_from(worker, job)
                    if job.wanted:
                        if len(job.call) > 0:
                            self._calls[job.call] = job
                        self._backlogs[job.crew].append(job)
                job = following
            crew.place(worker)
        self._hand_out()

    # --- streams

    def _open_stream(self, worker: Worker, job: Job) -> None:
        stream = OpenStream(job.peer.id, job.call, job.serial, worker, job.timeout)
        of_pipe = self._streams.get(job.peer.id)
        if of_pipe is None:
            of_pipe = self._streams[job.peer.id] = {}
        former = of_pipe.get(job.call)
        if former is not None:
            self._end_stream(former)
            self.out.cancel(former.worker.id, former.serial)
            self._streams[job.peer.id] = of_pipe
        of_pipe[job.call] = stream
        stream.idle_since = self.now
        if self._stream_timeout > 0.0 and self._stream_alarm.due == NEVER:
            self._alarms.set(self._stream_alarm, self.now + self._stream_timeout)
            self.deadline = self._alarms.first

    def _look_at_streams(self) -> None:
        """Close those that nobody has asked for more for too long."""
        for stream in [each for some in self._streams.values() for each in some.values() if each.job is None]:
            if stream.idle_since + self._stream_timeout <= self.now:
                self.out.count(EXPIRED, stream.pipe)
                self._close_stream(stream)
        if len(self._streams) > 0 and self._stream_timeout > 0.0:
            self._alarms.set(self._stream_alarm, self.now + max(self._stream_timeout / 2, 0.1))

    def _end_stream(self, stream: OpenStream) -> None:
        """It has no more parts."""
        of_pipe = self._streams.get(stream.pipe)
        if of_pipe is not None and of_pipe.get(stream.call) is stream:
            del of_pipe[stream.call]
            if len(of_pipe) == 0:
                del self._streams[stream.pipe]

    def _close_stream(self, stream: OpenStream) -> None:
        """Its asker wants no more of it."""
        self._end_stream(stream)
        job = stream.job
        if job is not None:
            if job.wanted:
                self.finish(job)
            if job.worker is not None:
                self._stop(job.worker, job)
            elif self._is_queued(job):
                self._leave_queue(job)
                self._forget(job)
        if stream.worker.id in self._crews[EXCLUSIVE].workers:
            self.out.cancel(stream.worker.id, stream.serial)

    # --- peers

    def peer_congested(self, peer: Peer) -> None:
        if self._stall_alarm.due == NEVER:
            self._alarms.set(self._stall_alarm, self.now + LOOK)
            self.deadline = self._alarms.first

    def _look_at_stalls(self) -> None:
        if self._stalls.look(list(self.peers.values()), self._is_stuck()):
            self._alarms.set(self._stall_alarm, self.now + LOOK)

    def _is_stuck(self) -> bool:
        """Whether a worker has waited for room for its answer for some time."""
        for crew in self._crews:
            for worker in crew.workers.values():
                if worker.jobs.length > 0 and worker.began + LOOK <= self.now and self.out.starved(worker.id):
                    return True
        return False

    def peer_lost(self, peer: Peer) -> None:
        for job in self.jobs_lost(peer):
            if self._is_queued(job):
                self._leave_queue(job)
                self._forget(job)
            elif job.worker is not None and self.out.revoke(job.worker.id, job.ticket):
                job.worker.full = False
                self._take_from(job.worker, job)
        for stream in list(self._streams.pop(peer.id, {}).values()):
            self._close_stream(stream)
        self._hand_out()
