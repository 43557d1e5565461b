"""Workers that do not hear: a coroutine holds up their event loop, so they take nothing of what they are given.

A worker that runs requests beside each other takes those at once, and of the others the oldest one as soon as it is
that. One that does not is *deaf*. What it has not taken goes to others, and so does what comes, until it says
something about those beside each other, or is tried again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from spworkers.protocol.alarms import Alarm, Alarms
from spworkers.protocol.crew import EXCLUSIVE, Crew, Job, Worker
from spworkers.protocol.machine import NEVER

__all__ = ["Hearing"]

# Seconds after which such a worker is deaf, and after which it is tried again.
_DEAF: Final = 0.05
_DEAF_FOR: Final = 0.25


class Hearing:
    """Who of a dispatcher's workers is deaf.

    Args:
        crews: the workers.
        alarms: where `alarm` is set.
        take_back: takes a request from its worker, unless that has taken it; the list gets it then.

    `alarm` is for the next look.
    """

    def __init__(
        self, crews: tuple[Crew, Crew], alarms: Alarms, take_back: Callable[[Worker, Job, list[Job]], None]
    ) -> None:
        self.alarm: Final = Alarm(-1)
        self._crews: Final = crews
        self._alarms: Final = alarms
        self._take_back: Final = take_back
        self._deaf: dict[int, float] = {}  # the workers that are, and since when

    def given(self, job: Job, now: float) -> None:
        """A worker gets this request."""
        job.given = now
        if self.alarm.due == NEVER:
            self._alarms.set(self.alarm, now + _DEAF)

    def look_soon(self, now: float) -> None:
        """There is another worker: it may do what others have not taken."""
        self._alarms.set(self.alarm, now)

    def look(self, now: float) -> list[Job]:
        """What workers have not taken, to be dealt anew; what a deaf one gets on trial does not wait for long."""
        for context in [each for each, since in self._deaf.items() if since + _DEAF_FOR <= now]:
            self._hears(context)
        again: list[Job] = []
        waiting = False
        for crew in self._crews:
            for worker in crew.workers.values():
                waiting = waiting or _may_be_deaf_later(worker, now)
                if len(self._deaf) + (worker.id not in self._deaf) < len(crew.workers):  # somebody hears
                    self._take_back_unheard(worker, now, again)
        if waiting or len(self._deaf) > 0:
            self._alarms.set(self.alarm, now + _DEAF)
        return again

    def heard(self, context: int) -> None:
        """This worker's event loop has said something."""
        if len(self._deaf) > 0 and context in self._deaf:
            self._hears(context)

    def gone(self, context: int) -> None:
        """This worker is none any more."""
        self._deaf.pop(context, None)

    def _take_back_unheard(self, worker: Worker, now: float, again: list[Job]) -> None:
        """`again` gets what the worker should have taken for some time, and all that came after it."""
        job = worker.jobs.head
        while job is not None and (worker.deaf or _since(worker, job) + _DEAF <= now):
            following = worker.jobs.following(job)
            before = len(again)
            self._take_back(worker, job, again)
            if len(again) > before and not worker.deaf:
                self._deaf[worker.id] = now
                self._set_deaf(worker.id, True)
            job = following

    def _hears(self, context: int) -> None:
        """It has said something, or is to be tried again."""
        del self._deaf[context]
        self._set_deaf(context, False)

    def _set_deaf(self, context: int, deaf: bool) -> None:
        for crew in self._crews:
            worker = crew.workers.get(context)
            if worker is not None:
                worker.deaf = deaf
                crew.place(worker)


def _since(worker: Worker, job: Job) -> float:
    """Since when a worker that hears has this request in hand."""
    if worker.crew != EXCLUSIVE:
        return job.given
    return max(job.given, worker.began) if worker.jobs.head is job else NEVER


def _may_be_deaf_later(worker: Worker, now: float) -> bool:
    """Whether it has something that it need not have taken yet."""
    newest = worker.jobs.tail
    return newest is not None and _since(worker, newest) + _DEAF > now
