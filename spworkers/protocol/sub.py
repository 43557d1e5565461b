"""SUB: each context gets the messages that begin with one of its topics.

    send   nothing
    wire   body
    recv   the body; no header

A context has topics and a receive queue of its own, and no topics to begin with; the empty one is all messages. The
same topic twice is once. A full queue loses its oldest message, so a peer is never held up. With READQ-LEN 0 only a
receiver that waits gets a message. Taking a topic away takes back what lies in the queue and is of no other topic.

What is queued lies in the context's lane, and nowhere else: what a predecessor of this I/O process put there is
displaced, and taken back, like what came since.
"""

from __future__ import annotations

from typing import Any, Final

from spworkers.protocol.machine import CONGESTED, DISPLACED, UNSUBSCRIBED, UNWANTED, Actions, Machine

__all__ = ["Sub", "Topics"]

# READQ-LEN's default; mangos has the same.
_READQ: Final = 128


class Topics:
    """A set of prefixes. Matching costs one look-up for each length that occurs."""

    def __init__(self) -> None:
        self.by_length: Final[dict[int, set[bytes]]] = {}

    def add(self, topic: bytes) -> None:
        """One more; the same one twice is once."""
        found = self.by_length.get(len(topic))
        if found is None:
            found = set()
            self.by_length[len(topic)] = found
        found.add(topic)

    def discard(self, topic: bytes) -> None:
        """One fewer, if it is there."""
        found = self.by_length.get(len(topic))
        if found is not None:
            found.discard(topic)
            if len(found) == 0:
                del self.by_length[len(topic)]

    def match(self, body: bytes) -> bool:
        """Whether a body begins with one of them."""
        for length, topics in self.by_length.items():  # noqa: SIM110 - no generator for every message
            if body[:length] in topics:
                return True
        return False

    def longest(self) -> int:
        """The length of the longest one; 0 if there is none."""
        return max(self.by_length, default=0)


class _Subscriber:
    """A context."""

    def __init__(self, context: int, readq: int) -> None:
        self.id: Final = context
        self.readq = readq
        self.own_readq = False  # the option is its own, not the socket's
        self.topics: Final = Topics()


class Sub(Machine):
    """The machine of a SUB socket."""

    def __init__(self, out: Actions) -> None:
        super().__init__(out)
        self._readq: int = _READQ
        self._subscribers: dict[int, _Subscriber] = {}
        self._sole: int = -1  # the only context, if it has a queue

    def pipe_message(self, pipe: int, payload: bytes) -> bool:
        wanted = False
        for subscriber in self._subscribers.values():
            if subscriber.topics.match(payload):
                wanted = True
                self._deliver(subscriber, pipe, payload)
        if not wanted:
            self.out.count(UNWANTED, pipe)
        return True

    def _deliver(self, subscriber: _Subscriber, pipe: int, payload: bytes) -> None:
        """Queue a message, in place of the oldest ones if there is no room."""
        out = self.out
        again = False
        while out.deliver(subscriber.id, pipe, payload, 0, 0, b"") == 0:
            if subscriber.readq == 0:
                out.count(CONGESTED, pipe)  # nobody waits; what lies there from before is kept
                return
            if out.displace(subscriber.id):
                out.count(DISPLACED, 0)
            elif again:
                out.count(CONGESTED, pipe)  # leases hold all there is
                return
            else:
                again = True  # perhaps the user has taken everything since there was no room

    def sole_subscriber(self) -> int:
        return self._sole

    def topics(self) -> dict[int, set[bytes]]:
        return self._subscribers[self._sole].topics.by_length

    def _look_for_sole(self) -> None:
        """Without a queue it depends on who waits, and with several contexts a message may be of none."""
        self._sole = -1
        if len(self._subscribers) == 1:
            for subscriber in self._subscribers.values():
                if subscriber.readq > 0:
                    self._sole = subscriber.id

    def context_opened(self, context: int) -> None:
        self._subscribers[context] = _Subscriber(context, self._readq)
        self._look_for_sole()
        self.out.set_window(context, self._readq)

    def context_closed(self, context: int) -> None:
        self._subscribers.pop(context, None)
        self._look_for_sole()

    def configure(self, context: int | None, name: str, value: Any) -> None:
        if name == "READQ-LEN":
            self._set_readq(context, int(value))
        elif name in {"SUBSCRIBE", "UNSUBSCRIBE"}:
            subscriber = self._subscribers.get(0 if context is None else context)
            if subscriber is None:
                return
            if name == "SUBSCRIBE":
                subscriber.topics.add(value)
            else:
                subscriber.topics.discard(value)
                self._prune(subscriber)

    def _set_readq(self, context: int | None, length: int) -> None:
        if context is None:
            self._readq = length
        for subscriber in self._subscribers.values():
            if subscriber.id == context or (context is None and not subscriber.own_readq):
                subscriber.readq = length
                subscriber.own_readq = context is not None
                self.out.set_window(subscriber.id, length)
        self._look_for_sole()

    def _prune(self, subscriber: _Subscriber) -> None:
        """Take back what is queued and wanted no more."""
        topics = subscriber.topics
        taken = 0
        for ticket, beginning in self.out.untaken(subscriber.id, topics.longest()):
            if not topics.match(beginning) and self.out.revoke(subscriber.id, ticket):
                taken += 1
        if taken > 0:
            self.out.count(UNSUBSCRIBED, 0, taken)
