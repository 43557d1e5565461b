"""SUB: each context gets the messages that begin with one of its topics.

    send   nothing
    wire   body
    recv   the body; no header

A context has topics and a receive queue of its own, and no topics to begin with; the empty one is all messages. The
same topic twice is once. A full queue loses its oldest message, so a peer is never held up. With READQ-LEN 0 only a
receiver that waits gets a message. Taking a topic away takes back what lies in the queue and is of no other topic.

What is queued lies in the context's lane; what a predecessor of this I/O process put there cannot be taken back, and
is passed over by its receiver if its topic is gone.
"""

from __future__ import annotations

from typing import Any, Final

from spworkers.protocol.machine import CONGESTED, DISPLACED, UNSUBSCRIBED, UNWANTED, Actions, Machine
from spworkers.protocol.shelf import Shelf

__all__ = ["Sub", "Topics"]

# READQ-LEN's default; mangos has the same.
_READQ: Final = 128


class Topics:
    """A set of prefixes. Matching costs one look-up for each length that occurs."""

    def __init__(self) -> None:
        self._by_length: dict[int, set[bytes]] = {}

    def add(self, topic: bytes) -> None:
        """One more; the same one twice is once."""
        found = self._by_length.get(len(topic))
        if found is None:
            found = set()
            self._by_length[len(topic)] = found
        found.add(topic)

    def discard(self, topic: bytes) -> None:
        """One fewer, if it is there."""
        found = self._by_length.get(len(topic))
        if found is not None:
            found.discard(topic)
            if len(found) == 0:
                del self._by_length[len(topic)]

    def match(self, body: bytes) -> bool:
        """Whether a body begins with one of them."""
        for length, topics in self._by_length.items():  # noqa: SIM110 - no generator for every message
            if body[:length] in topics:
                return True
        return False


class _Subscriber:
    """A context."""

    def __init__(self, out: Actions, context: int, readq: int) -> None:
        self.id: Final = context
        self.readq = readq
        self.own_readq = False  # the option is its own, not the socket's
        self.topics: Final = Topics()
        self.shelf: Final = Shelf(out, context)


class Sub(Machine):
    """The machine of a SUB socket."""

    def __init__(self, out: Actions) -> None:
        super().__init__(out)
        self._readq: int = _READQ
        self._subscribers: dict[int, _Subscriber] = {}

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
        shelf = subscriber.shelf
        ticket = out.deliver(subscriber.id, pipe, payload, 0, 0, b"")
        while ticket == 0:
            queued = len(shelf)
            if subscriber.readq == 0:
                out.count(CONGESTED, pipe)  # nobody waits; what lies there from before is kept
                return
            if shelf.take_oldest():
                out.count(DISPLACED, 0)
            elif queued == 0:
                out.count(CONGESTED, pipe)  # leases hold all there is
                return
            # Else the user has taken everything since there was no room.
            ticket = out.deliver(subscriber.id, pipe, payload, 0, 0, b"")
        shelf.put(ticket, payload)

    def context_opened(self, context: int) -> None:
        self._subscribers[context] = _Subscriber(self.out, context, self._readq)
        self.out.set_window(context, self._readq)

    def context_closed(self, context: int) -> None:
        self._subscribers.pop(context, None)

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

    def _prune(self, subscriber: _Subscriber) -> None:
        """Take back what is queued and wanted no more."""
        shelf = subscriber.shelf
        taken = shelf.keep([subscriber.topics.match(payload) for payload in shelf.payloads()])
        if taken > 0:
            self.out.count(UNSUBSCRIBED, 0, taken)
