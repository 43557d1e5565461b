"""Dealing: PULL or SUB on the wire, a crew of workers behind it, and no answers.

    pipe_message ──▶ backlog ──▶ with a worker ──▶ done
                       ▲             │
                       └─ worker died ┴─ too often: dropped and counted

Each message goes to one worker, and is kept until that one has said that it is done with it (a message of kind `DONE`,
or any other for its serial). It does not depend on its pipe any more: what a peer has sent is dealt, also when the
peer has left. What else differs from `dispatch.py`:

* **the backlog is full**: a PULL leaves the message in its pipe, so that the peer has to wait; a SUB drops the oldest
  that no worker has yet, as it does with its queue.
* **SUBSCRIBE**: of a SUB; what begins with no topic is dropped.
"""

from __future__ import annotations

from typing import Any, Final

from spworkers.protocol.crew import Job
from spworkers.protocol.dispatch import Dispatcher
from spworkers.protocol.machine import BUSY, DISPLACED, QUARANTINED, UNWANTED, Actions
from spworkers.protocol.peers import Peer

__all__ = ["Deal"]


class Deal(Dispatcher):
    """The machine of a PULL or SUB socket whose messages are dealt to workers.

    Args:
        out: the driver's actions.
        displaces: a full backlog loses its oldest message; False: its peers wait.
    """

    def __init__(self, out: Actions, displaces: bool) -> None:
        super().__init__(out, None)
        self._displaces: Final = displaces
        self._topics: list[bytes] | None = [] if displaces else None
        self._everyone: Final = Peer(0)  # whose the messages are: they outlive their pipes
        self.jobs[0] = {}
        self._last_number = 0

    def received(self, peer: Peer, payload: bytes) -> bool:
        if self._topics is not None and not any(payload.startswith(topic) for topic in self._topics):
            self.out.count(UNWANTED, peer.id)
            return True
        if self._deaths(payload, 0) > 0:
            self.out.count(QUARANTINED, peer.id)
            return True
        if not self._displaces and (self.draining or self.waiting > self._backlog_limit):
            return False
        if self.draining:
            self.out.count(BUSY, peer.id)
            return True
        self._last_number += 1
        job = Job(self._everyone, payload, self._last_number.to_bytes(8, "big"), 0)
        job.arrived = self.now
        self.accept(job)
        self._backlog.append(job)
        self._hand_out()
        if self._displaces and self._backlog.length > self._backlog_limit:
            oldest = self._backlog.popleft()
            if oldest is not None:
                self.finish(oldest)
                self.out.count(DISPLACED)
        return True

    def configure(self, context: int | None, name: str, value: Any) -> None:
        if name == "SUBSCRIBE":
            self._topics = [*(self._topics or []), bytes(value)]
        elif name == "UNSUBSCRIBE":
            self._topics = [topic for topic in self._topics or [] if topic != value]
        else:
            super().configure(context, name, value)
