"""The workers' half of a dispatcher: requests handed out, timed, stopped, and dealt again when a worker is gone.

How a request that runs is stopped, because its asker gave it up or stopped waiting, or because its time is over:

* it is CONCURRENT: its worker is told (`Actions.cancel`) and cancels it; what it answers then goes nowhere. Of a
  request whose time was over that is a death: it is tried again, or answered with an error, at once.
* it is EXCLUSIVE and its time is over: its worker is killed.
* it is EXCLUSIVE and given up: its worker is told, and raises an exception in the handler.

Who was told and has not confirmed within GRACE seconds is killed.

Workers that do not take what they get are the affair of `hearing.py`.
"""

from __future__ import annotations

from typing import Any, Final, cast

from spworkers import callhead
from spworkers.chance import random_bits
from spworkers.protocol.alarms import Alarm, Alarms
from spworkers.protocol.answers import Answering
from spworkers.protocol.crew import CONCURRENT, EXCLUSIVE, Crew, Job, OpenStream, Worker
from spworkers.protocol.errorformat import LOST, ErrorFormat, died, overdue, quarantined
from spworkers.protocol.fifo import Fifo
from spworkers.protocol.hearing import Hearing
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

__all__ = ["AUTO", "Staffing"]

# PREFETCH: how many requests a worker has ahead is up to the dispatcher.
AUTO: Final = -1

# With AUTO a worker has as many requests as it answers in this time, in seconds, and no more than so many: enough to do
# while its answers are on their way to us, and no more than another worker can take over.
_AHEAD_TIME: Final = 0.002
_AHEAD: Final = 8

# Whose request runs longer than this, in seconds, has not what stands behind that any more. The same every time
# between two looks for such workers.
_STALE: Final = 0.005

# Defaults of PREFETCH, CONCURRENT, BACKLOG and RETRIES.
_PREFETCH: Final = 1
_CONCURRENT: Final = 0
_BACKLOG: Final = 1024
_RETRIES: Final = 1

# STREAM-TIMEOUT's default, in seconds; 0: for ever. Who is slower with one part of a stream asks for smaller pieces.
_STREAM_TIMEOUT: Final = 600.0

# GRACE's default: seconds that a worker gets to stop what it was told to stop.
_GRACE: Final = 2.0


# Kinds of requests that have an id.
_WITH_ID: Final = (callhead.CALL, callhead.NEXT)


class Staffing(Answering):
    """What a dispatcher does with its workers."""

    def __init__(self, out: Actions, errors: ErrorFormat | None) -> None:
        super().__init__(out)
        self._errors: Final = errors
        self._crews: Final = (Crew(), Crew())
        self._backlog: Final[Fifo[Job]] = Fifo()
        self._beside: Final[Fifo[Job]] = Fifo()
        self._backlogs: Final = (self._backlog, self._beside)
        self._quarantine: Final = Quarantine()
        self._alarms: Final = Alarms()
        self._running: dict[int, Job] = {}  # those that a worker has, by serial
        self._calls: dict[bytes, Job] = {}  # those in progress that have an id, by it; also such as nobody waits for
        self._streams: dict[int, dict[bytes, OpenStream]] = {}  # by pipe and by the id of the call that began it
        self._summoned: dict[Worker, None] = {}  # who has pinned requests
        self._last_serial: int = random_bits(60) * 2
        self._prefetch: int = _PREFETCH
        self._concurrent: int = _CONCURRENT
        self._backlog_limit: int = _BACKLOG
        self._retries: int = _RETRIES
        self._timeout = 0.0
        self._grace: float = _GRACE
        self._stream_timeout: float = _STREAM_TIMEOUT
        self._stream_alarm: Final = Alarm(-1)
        self._stalls: Final = Stalls(out)
        self._stall_alarm: Final = Alarm(-1)
        self._hearing: Final = Hearing(self._crews, self._alarms, self._take_back)
        self._ahead = 0  # requests that workers have ahead because of it
        self._next_look = 0.0
        self._access_log = False  # requests that no worker has answered are reported

    @property
    def waiting(self) -> int:
        """Requests that no worker has yet, or has ahead of time."""
        return self._backlogs[EXCLUSIVE].length + self._backlogs[CONCURRENT].length + self._ahead

    @property
    def streams(self) -> int:
        """Streams that are open."""
        return sum(len(of_pipe) for of_pipe in self._streams.values())

    @property
    def idle(self) -> bool:
        return self._pending == 0 and len(self._streams) == 0

    # --- handing out

    def _hand_out(self) -> None:
        """Give requests to workers as long as there are both; then let in who waits, if there is room."""
        if len(self._summoned) > 0:
            self._hand_out_pinned()
        if self._ahead > 0 and self.now >= self._next_look:
            self._take_back_stale()
        self._deal(EXCLUSIVE)
        if self._ahead > 0:
            self._spread()
        if self._concurrent > 0:
            self._deal(CONCURRENT)
        if len(self.turnstile) > 0 and (
            self.waiting < self._backlog_limit or (self.waiting == 0 and self._crews[EXCLUSIVE].available > 0)
        ):
            self.turnstile.advance()

    def _deal(self, kind: int) -> None:
        backlog = self._backlogs[kind]
        crew = self._crews[kind]
        while True:
            job = backlog.head
            if job is None:
                return
            if job.expires <= self.now:
                self._expire(job)
                continue
            worker = crew.least_loaded()
            if worker is None or (worker.auto and worker.jobs.length > 0 and self._ahead >= self._backlog_limit):
                return
            self._give(worker, job)

    # --- ahead of time (AUTO)

    def _take_back_stale(self) -> None:
        """Whoever is busy with one request for long gives back what stands behind it: that is the next to be dealt."""
        self._next_look = self.now + _STALE
        again: list[Job] = []
        for worker in self._crews[EXCLUSIVE].workers.values():
            if worker.auto and worker.jobs.length > 1 and worker.began + _STALE <= self.now:
                self._set_pace(worker, self.now - worker.began)
                job = worker.jobs.tail
                while job is not None and job is not worker.jobs.head:
                    before = cast("Job | None", job.before)
                    self._take_back(worker, job, again)
                    job = before
        self._deal_first(again)

    def _spread(self) -> None:
        """Who has nothing to do gets what others have ahead, if nothing else is to be done."""
        crew = self._crews[EXCLUSIVE]
        while self._backlog.length == 0:
            idle = crew.least_loaded()
            if idle is None or not idle.auto or idle.jobs.length > 0:
                return
            job = self._spare()
            if job is None:
                return
            self._backlog.append(job)
            self._give(idle, job)

    def _spare(self) -> Job | None:
        """A request that no worker has begun, taken back from who has most of them; the oldest one of those."""
        victim: Worker | None = None
        for worker in self._crews[EXCLUSIVE].workers.values():
            if worker.auto and worker.jobs.length > 1 and (victim is None or worker.jobs.length > victim.jobs.length):
                victim = worker
        found: list[Job] = []
        if victim is not None:
            head = victim.jobs.head
            job = None if head is None else victim.jobs.following(head)
            while job is not None and not found:
                following = victim.jobs.following(job)
                self._take_back(victim, job, found)
                job = following
        return found[0] if found else None

    def _take_back(self, worker: Worker, job: Job, again: list[Job]) -> None:
        """Take from a worker what it has not begun; `again` gets it."""
        if job.stream is None and job.wanted and self.out.revoke(worker.id, job.ticket):
            self._take_from(worker, job)
            if len(job.call) > 0:
                self._calls[job.call] = job
            again.append(job)

    def _deal_first(self, again: list[Job]) -> None:
        """What was taken back is the next to be dealt, in the order in which it was dealt before."""
        again.sort(key=_serial_of)
        while again:
            job = again.pop()
            self._backlogs[job.crew].appendleft(job)

    def _set_pace(self, worker: Worker, seconds: float) -> None:
        """It has needed that long for a request. Long times are believed at once."""
        pace = worker.pace
        worker.pace = pace = seconds if seconds >= _AHEAD_TIME or pace == NEVER else pace + (seconds - pace) * 0.125
        worker.prefetch = max(min(_AHEAD, int(_AHEAD_TIME / pace)) if pace > 0.0 else _AHEAD, 1)

    def _hand_out_pinned(self) -> None:
        for worker in list(self._summoned):
            job = worker.pinned.head
            while job is not None and worker.has_room:
                if job.expires <= self.now:
                    self._expire(job)
                else:
                    self._give(worker, job)
                job = worker.pinned.head
            if job is None:
                self._summoned.pop(worker, None)

    def _give(self, worker: Worker, job: Job) -> None:
        """Put a request into a worker's lane, if that takes it."""
        # No other hand-out has this number, nor had with a predecessor of this process; the last bit is for the worker.
        self._last_serial += 2
        serial = self._last_serial | worker.crew
        ticket = self.out.deliver(worker.id, job.peer.id, job.payload, job.begin, serial, b"")
        if ticket == 0:
            worker.full = True
        else:
            self._leave_queue(job)
            job.worker = worker
            job.serial = serial
            job.ticket = ticket
            self._running[serial] = job
            worker.jobs.append(job)
            if self._concurrent > 0:
                self._hearing.given(job, self.now)
                self.deadline = self._alarms.first
            if worker.crew == CONCURRENT or worker.jobs.length == 1:
                worker.began = self.now
                self._begin(worker, job)
            elif worker.auto:
                self._ahead += 1
        self._crews[worker.crew].place(worker)

    def _leave_queue(self, job: Job) -> None:
        """Take a request out of the backlog, or from among those that only one worker can run."""
        if job.stream is not None:
            job.stream.worker.pinned.remove(job)
        else:
            self._backlogs[job.crew].remove(job)

    def _is_queued(self, job: Job) -> bool:
        return job.worker is None and job.home is not None and job.answer is None and job.error is None

    def _take_from(self, worker: Worker, job: Job) -> None:
        """A worker does not have this request any more."""
        oldest = worker.jobs.head is job
        if worker.auto and worker.jobs.length > 1:
            self._ahead -= 1
        worker.jobs.remove(job)
        del self._running[job.serial]
        job.worker = None
        self._forget(job)
        head = worker.jobs.head
        if worker.crew == CONCURRENT:
            if head is None:
                worker.alarm.cancel()
        elif oldest:
            worker.alarm.cancel()
            if worker.auto:
                self._set_pace(worker, self.now - worker.began)
            worker.began = self.now
            if head is not None:
                self._begin(worker, head)
        self._crews[worker.crew].place(worker)

    def _forget(self, job: Job) -> None:
        """It is no longer in progress: whoever asks for the same call has it run anew."""
        if len(job.call) > 0 and self._calls.get(job.call) is job:
            del self._calls[job.call]
        stream = job.stream
        if stream is not None and stream.job is job:
            stream.job = None
            stream.idle_since = self.now

    # --- time

    def _time_of(self, job: Job) -> float:
        """How long a request may run, in seconds; 0: as long as it takes."""
        return self._timeout if job.timeout < 0.0 else job.timeout

    def _begin(self, worker: Worker, job: Job) -> None:
        """It runs, or is to stop, from now on; or would if its worker had taken it already."""
        if job.stopping:
            due = job.due
        else:
            limit = self._time_of(job)
            due = min(job.expires, self.now + limit if limit > 0.0 else NEVER)
            job.due = due
        if due < worker.alarm.due and worker.overdue is None:
            self._alarms.set(worker.alarm, due)
            self.deadline = self._alarms.first

    def _watch(self, worker: Worker) -> None:
        """Set its alarm to the first moment at which something is due."""
        worker.alarm.cancel()
        job = worker.jobs.head
        while job is not None:
            if job.due < worker.alarm.due:
                self._alarms.set(worker.alarm, job.due)
            job = worker.jobs.following(job) if worker.crew == CONCURRENT else None
        self.deadline = self._alarms.first

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

    def _look_at(self, worker: Worker) -> None:
        """Something of what it runs is due."""
        job = worker.jobs.head
        while job is not None:
            following = worker.jobs.following(job) if worker.crew == CONCURRENT else None
            if job.due <= self.now:
                self._overdue(worker, job)
                if worker.overdue is not None:
                    return
            job = following
        self._watch(worker)

    def _overdue(self, worker: Worker, job: Job) -> None:
        if job.stopping:
            self._kill(worker, job, "it did not stop a request that it was told to stop")
        elif job.expires <= self.now:
            if job.wanted:
                self.out.count(EXPIRED, job.peer.id)
                self._report(EXPIRED, job)
                self.finish(job)
            self._stop(worker, job)
        elif worker.crew == EXCLUSIVE:
            self._kill(worker, job, f"its request ran longer than {self._time_of(job):g} s")
        else:
            self._cut_short(worker, job)

    def _kill(self, worker: Worker, job: Job, reason: str) -> None:
        worker.overdue = job
        worker.alarm.cancel()
        self._crews[worker.crew].place(worker)
        self.out.kill(worker.id, reason)

    def _cut_short(self, worker: Worker, job: Job) -> None:
        """The time of a concurrent request is over: it is stopped, and tried again or answered meanwhile."""
        if job.wanted:
            again = Job(job.peer, job.payload, job.header)
            again.call, again.crew, again.stream = job.call, job.crew, job.stream
            again.timeout, again.retries, again.expires = job.timeout, job.retries, job.expires
            again.deaths, again.arrived = job.deaths, job.arrived
            self.finish(job)
            self._forget(job)
            self.accept(again)
            again.deaths += 1
            if again.stream is not None or again.deaths > self._retries_of(again):
                self._fail(again, TIMEOUT, overdue(again.deaths, self._time_of(job)))
            else:
                if len(again.call) > 0:
                    self._calls[again.call] = again
                self._backlogs[again.crew].appendleft(again)
        self._stop(worker, job)

    def _stop(self, worker: Worker, job: Job) -> None:
        """Have a worker stop what nobody waits for, unless it has not taken it yet."""
        self._forget(job)
        if self.out.revoke(worker.id, job.ticket):
            worker.full = False
            self._take_from(worker, job)
        elif not job.stopping:
            job.stopping = True
            job.due = self.now + self._grace
            self.out.cancel(worker.id, job.serial)
            if worker.crew == CONCURRENT or worker.jobs.head is job:
                self._begin(worker, job)  # an alarm for what was due before is a look too many

    def _expire(self, job: Job) -> None:
        """Drop a queued request: who asked for it has stopped waiting."""
        self.out.count(EXPIRED, job.peer.id)
        self._report(EXPIRED, job)
        self.finish(job)
        self._leave_queue(job)
        self._forget(job)

    def _sweep(self) -> None:
        """Drop the queued requests that nobody waits for any more."""
        for backlog in self._backlogs:
            job = backlog.head
            while job is not None:
                following = backlog.following(job)
                if job.expires <= self.now:
                    self._expire(job)
                job = following

    def _retries_of(self, job: Job) -> int:
        return self._retries if job.retries < 0 else job.retries

    def _report(self, cause: str, job: Job) -> None:
        """No worker has answered it."""
        if self._access_log:
            self._tell(cause, job.payload, job.begin, self.now - job.arrived, "")

    def _tell(self, cause: str, payload: bytes, begin: int, seconds: float, text: str) -> None:
        handler = "" if self._errors is None else self._errors.handler_of(payload, begin)
        call = callhead.id_at(payload, begin) if callhead.kind_at(payload, begin) in _WITH_ID else b""
        self.out.report(cause, handler, call, seconds, text)

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

    def _window(self, prefetch: int) -> int:
        """The places in a worker's lane."""
        if prefetch == AUTO:
            prefetch = _AHEAD
        return prefetch if prefetch == 0 else prefetch + self._concurrent

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


def _serial_of(job: Job) -> int:
    """The order in which requests were handed out."""
    return job.serial
